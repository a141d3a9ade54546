//! The records in the order in which they expire, and in that in which their callers lose them.

use std::sync::Arc;

use crate::limits::Whose;

use super::account::{Account, Measure};
use super::clock::{Nanos, SinceStart};
use super::ranks::Callers;
use super::slab::{Address, Link, List, Place, Slab};

/// How many expired records one operation removes.
const REMOVED_PER_CALL: usize = 2;

/// Expired records, for the caller to remove once its part of the table is unlocked.
#[derive(Default)]
#[must_use]
pub(super) struct Expired(pub(super) [Option<Due>; REMOVED_PER_CALL]);

/// The kind of a queue. To make room, records of a smaller kind are removed
/// first.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum ExpiryQueue {
    Released,
    Done,
    Abandoned,
}

/// An entry as an operation found it, which it may not be any more once the queues are unlocked.
#[derive(Clone, Copy)]
pub(super) struct Due {
    pub(super) entry: Place,
    pub(super) record: Address,
    /// When the record expires, at the latest.
    pub(super) at: SinceStart,
}

/// One queue for each kind and each retention: records of one retention expire
/// in the order in which their retention began. So an entry goes in at the end and
/// comes out at any place in constant time. The entry of a record that can be evicted is also in
/// a list of the record's caller.
#[derive(Default)]
pub(super) struct Queues {
    by_retention: Vec<Queue>,
    entries: Slab<Entry>,
    callers: Callers,
}

struct Queue {
    line: ExpiryQueue,
    retention: Nanos,
    entries: List,
}

struct Entry {
    record: Address,
    at: SinceStart,
    queue: u32,
    in_queue: Link,
    /// The seat of the record's caller; `None` if the record can't be evicted.
    seat: Option<Place>,
    of_caller: Link,
}

impl Queues {
    pub(super) fn push(
        &mut self,
        line: ExpiryQueue,
        retention: Nanos,
        record: Address,
        at: SinceStart,
        account: &Arc<Account>,
    ) -> Place {
        let queue = self.queue(line, retention);
        let evictable = line != ExpiryQueue::Abandoned;
        let seat = evictable.then(|| self.callers.seat(account));
        let place = self.entries.add(Entry {
            record,
            at,
            queue: u32::try_from(queue).expect("there are fewer queues than entries"),
            in_queue: Link::default(),
            seat,
            of_caller: Link::default(),
        });
        let queue = &mut self.by_retention[queue].entries;
        queue.push(&mut self.entries, place, |entry| &mut entry.in_queue);
        if let Some(seat) = seat {
            let own = &mut self.callers.get_mut(seat).oldest[line as usize];
            own.push(&mut self.entries, place, |entry| &mut entry.of_caller);
            self.callers.rank(seat);
        }
        place
    }

    fn queue(&mut self, line: ExpiryQueue, retention: Nanos) -> usize {
        let own = |queue: &Queue| queue.line == line && queue.retention == retention;
        let is_empty = |queue: &Queue| queue.entries.is_empty();
        // An empty queue serves another retention: there are never more queues than entries.
        let queues = &mut self.by_retention;
        let at = (queues.iter().position(own))
            .or_else(|| queues.iter().position(is_empty))
            .unwrap_or(queues.len());
        if at == queues.len() || is_empty(&queues[at]) {
            let queue = Queue {
                line,
                retention,
                entries: List::default(),
            };
            if at == queues.len() {
                queues.push(queue);
            } else {
                queues[at] = queue;
            }
        }
        at
    }

    pub(super) fn remove(&mut self, place: Place) {
        let Entry { queue, seat, .. } = *self.entries.get(place);
        let queue = &mut self.by_retention[queue as usize];
        let entries = &mut self.entries;
        queue
            .entries
            .remove(entries, place, |entry| &mut entry.in_queue);
        if let Some(seat) = seat {
            let own = &mut self.callers.get_mut(seat).oldest[queue.line as usize];
            own.remove(entries, place, |entry| &mut entry.of_caller);
            self.callers.rank(seat);
        }
        self.entries.remove(place);
    }

    /// Puts a caller where it belongs by what it holds now.
    pub(super) fn rank(&mut self, account: &Account) {
        if let Some(seat) = account.seat() {
            self.callers.rank(seat);
        }
    }

    /// A few records whose time has come.
    pub(super) fn expired(&self, now: SinceStart) -> Expired {
        let mut over = [None; REMOVED_PER_CALL];
        let due = |queue| self.entries_of(queue).take_while(|due| due.at <= now);
        let found = self.by_retention.iter().flat_map(due);
        over.iter_mut()
            .zip(found)
            .for_each(|(place, due)| *place = Some(due));
        Expired(over)
    }

    /// An expired record that counts in this caller's share, of its own if there is one: the share
    /// of a caller also grows by what others leave.
    pub(super) fn expired_in_share(
        &self,
        account: &Account,
        evicts: bool,
        now: SinceStart,
    ) -> Option<Due> {
        // In a store that evicts, a share has only records that can't be evicted, and those are in
        // no list of their callers.
        let counts = |queue: &&Queue| !evicts || queue.line == ExpiryQueue::Abandoned;
        let own = self.own_oldest(account).ok().filter(|_| !evicts);
        let queues = self.by_retention.iter().filter(counts);
        let oldest = queues.filter_map(|queue| self.entries_of(queue).next());
        let mut found = own.into_iter().chain(oldest);
        found.find(|due| due.at <= now)
    }

    /// The record that is to be removed for a caller that will then hold `held`: the oldest
    /// tombstone, or else the oldest completion, of the caller that holds the most. If none holds
    /// as much as that, the asking caller loses a record of its own.
    ///
    /// # Errors
    /// If this caller has to lose a record and has none, or if no caller has.
    pub(super) fn loser(
        &mut self,
        account: &Account,
        of: Measure,
        held: usize,
    ) -> Result<Due, Whose> {
        self.rank(account);
        match self.callers.largest(of) {
            None => Err(Whose::Service),
            Some((seat, most)) if most >= held => self.oldest_of(seat).ok_or(Whose::Service),
            Some(_) => self.own_oldest(account),
        }
    }

    /// The oldest tombstone of this caller, or else its oldest completion.
    pub(super) fn own_oldest(&self, account: &Account) -> Result<Due, Whose> {
        let own = account.seat().and_then(|seat| self.oldest_of(seat));
        own.ok_or(Whose::Caller)
    }

    fn oldest_of(&self, seat: Place) -> Option<Due> {
        let mut lists = self.callers.get(seat).oldest.iter();
        Some(self.due(lists.find_map(|list| list.first)?))
    }

    fn due(&self, entry: Place) -> Due {
        let Entry { record, at, .. } = *self.entries.get(entry);
        Due { entry, record, at }
    }

    fn entries_of(&self, queue: &Queue) -> impl Iterator<Item = Due> {
        let after = |place: &Place| self.entries.get(*place).in_queue.after;
        std::iter::successors(queue.entries.first, after).map(|place| self.due(place))
    }

    /// For how many entries there is memory.
    #[cfg(test)]
    pub(super) fn room(&self) -> usize {
        self.entries.room()
    }

    /// The number of entries, and of queues.
    #[cfg(test)]
    pub(super) fn len(&self) -> (usize, usize) {
        let entries = self
            .by_retention
            .iter()
            .map(|queue| self.entries_of(queue).count());
        (entries.sum(), self.by_retention.len())
    }
}
