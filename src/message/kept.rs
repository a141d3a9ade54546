//! What a response holds of `max_read_ahead`, and the bytes that are kept to be recorded.

use std::mem;
use std::sync::Arc;

use bytes::Bytes;

use crate::limits::{Account, Holding, Resource};
use crate::message::body::shrunk;

/// How many bytes of a response may wait for its client, beside one frame, without room in
/// `max_read_ahead`. A server's own buffers for a response are as large.
pub(crate) const AHEAD: usize = 64 << 10;

/// What one response holds of `max_read_ahead`: its first [`AHEAD`] bytes do not count.
/// Boxed, because the future of a request has a place for it, and most responses are smaller.
#[derive(Default)]
pub(crate) struct Room(Option<Box<Holding>>);

impl Room {
    /// Takes as much more as `bytes` need, and returns whether there was room for them.
    pub(crate) fn reach(&mut self, account: &Arc<Account>, bytes: usize) -> bool {
        let Some(counted) = bytes.checked_sub(AHEAD).filter(|counted| *counted > 0) else {
            return true;
        };
        let nothing = || Box::new(account.nothing(Resource::ReadAheadBytes));
        let holding = self.0.get_or_insert_with(nothing);
        let more = counted.saturating_sub(holding.amount());
        more == 0 || holding.grow(more).is_ok()
    }

    /// The same bytes, which count as long as a slice of them is held. What they do not need of
    /// the room is given back.
    fn follow(self, data: Bytes) -> Bytes {
        let Self(Some(mut holding)) = self else {
            return data;
        };
        holding.shrink(holding.amount().saturating_sub(data.len()));
        counted(data, *holding)
    }

    /// The bytes of a response that is complete, which count as long as a slice of them is held.
    pub(crate) fn of_whole(self, data: Bytes, account: &Arc<Account>) -> Bytes {
        let Self(Some(ahead)) = &self else {
            return unsent(data, account);
        };
        // The frames before the last one have their room. The last one may have found none.
        let without_room = data.len().saturating_sub(AHEAD + ahead.amount());
        let data = self.follow(data);
        if without_room == 0 {
            return data;
        }
        counted(data, account.take_unsent(without_room))
    }
}

/// The same bytes, which were there as a whole. They count as long as a slice of them is held,
/// unless they are so few that any response may hold them.
pub(crate) fn unsent(data: Bytes, account: &Arc<Account>) -> Bytes {
    if data.len() <= AHEAD {
        return data;
    }
    let holding = account.take_unsent(data.len());
    counted(data, holding)
}

/// The same bytes, which count as long as a slice of them is held: a server keeps slices on which
/// the layer has no hand any more.
fn counted(data: Bytes, holding: Holding) -> Bytes {
    struct Counted {
        data: Bytes,
        _holding: Holding,
    }

    impl AsRef<[u8]> for Counted {
        fn as_ref(&self) -> &[u8] {
            &self.data
        }
    }

    Bytes::from_owner(Counted {
        data,
        _holding: holding,
    })
}

/// The body of a response so far, to be recorded. The client gets its bytes from the same
/// memory, so that they are held once.
pub(crate) struct Kept {
    memory: Memory,
    /// How many bytes the client may have, and how many it has taken.
    shown: usize,
    taken: usize,
    /// The frame of which the client takes the bytes next, if it has taken all that was shown
    /// before: a client that keeps up gets the handler's own frames.
    next: Option<Bytes>,
    room: Room,
}

enum Memory {
    Growing(Vec<u8>),
    Whole(Bytes),
}

impl Kept {
    /// Nothing yet, with the room that it may fill.
    pub(crate) fn in_room(room: Room) -> Self {
        Self {
            memory: Memory::Growing(Vec::new()),
            shown: 0,
            taken: 0,
            next: None,
            room,
        }
    }

    /// Adds data that the client is not yet shown, and returns whether there is room for them.
    /// The body will have at most `most` bytes.
    pub(crate) fn add(&mut self, data: &[u8], most: usize, account: &Arc<Account>) -> bool {
        let Memory::Growing(kept) = &mut self.memory else {
            return false;
        };
        let needed = kept.len() + data.len();
        if needed > kept.capacity() {
            let doubled = kept.capacity().saturating_mul(2).min(most).max(needed);
            let fits = |capacity: &usize| self.room.reach(account, *capacity);
            let Some(capacity) = [doubled, needed].into_iter().find(fits) else {
                return false;
            };
            kept.reserve_exact(capacity - kept.len());
        }
        kept.extend_from_slice(data);
        true
    }

    /// How many bytes are kept that the client is not yet shown.
    pub(crate) fn hidden(&self) -> usize {
        self.len() - self.shown
    }

    /// Shows the client the next data, which are kept already.
    pub(crate) fn show(&mut self, data: Bytes) {
        let kept_up = self.taken == self.shown;
        self.shown += data.len();
        self.next = match self.next.take() {
            None if kept_up && data.len() <= AHEAD => Some(data),
            next => next,
        };
    }

    /// The next bytes for the client, which a server keeps whatever becomes of the client.
    pub(crate) fn take(&mut self, copies: bool) -> Option<Bytes> {
        let up_to = self.shown.min(self.taken + AHEAD);
        let data = match (self.next.take(), &self.memory) {
            (Some(data), _) => data,
            (None, _) if up_to == self.taken => return None,
            // The memory may still move. A copy is also all that a server holds of it once
            // the client is let go.
            (None, Memory::Growing(kept)) => Bytes::copy_from_slice(&kept[self.taken..up_to]),
            (None, Memory::Whole(kept)) if copies => {
                Bytes::copy_from_slice(&kept[self.taken..up_to])
            }
            (None, Memory::Whole(kept)) => kept.slice(self.taken..up_to),
        };
        self.taken += data.len();
        Some(data)
    }

    pub(crate) fn is_taken(&self) -> bool {
        self.taken == self.len()
    }

    /// The whole body, for its record. From here on the bytes count as long as the client's
    /// side of them is held.
    pub(crate) fn whole(&mut self) -> Bytes {
        match &mut self.memory {
            Memory::Growing(kept) => {
                let whole = shrunk(mem::take(kept));
                let shared = mem::take(&mut self.room).follow(whole.clone());
                self.memory = Memory::Whole(shared);
                whole
            }
            Memory::Whole(whole) => whole.clone(),
        }
    }

    fn len(&self) -> usize {
        match &self.memory {
            Memory::Growing(kept) => kept.len(),
            Memory::Whole(whole) => whole.len(),
        }
    }
}
