//! Who waits for a change of which record.

use std::collections::BTreeMap;
use std::future::Future;
use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use crate::record::RecordId;
use crate::store::Subscription;

use super::records::Shared;
use super::sync::{AtomicU64, AtomicUsize, Map, Ordering, map};

/// Those that wait, by record, the one that came first in front.
///
/// While a guard of this map is held, no other lock is taken and no waker is
/// woken, cloned or dropped: a waker is somebody else's code, and dropping one
/// can drop a task that waits here too.
pub(super) struct Waiters {
    waiting: Map<BTreeMap<Ticket, Option<Waker>>>,
    /// Never less than wait: counted before they enter and after they left.
    ///
    /// A change reads it after it has changed the record, relaxed. That is
    /// enough. A claim that did not see the change had the lock of the
    /// record's shard before the change had it, and the claim came after its
    /// subscription was counted. So the lock orders the count before the read.
    count: AtomicUsize,
    last_ticket: AtomicU64,
}

type Ticket = u64;

impl Waiters {
    pub(super) fn new() -> Self {
        Self {
            waiting: map(),
            count: AtomicUsize::new(0),
            last_ticket: AtomicU64::new(0),
        }
    }

    /// For a change that is for all to see.
    pub(super) fn wake_all(&self, id: &RecordId) {
        if self.count.load(Ordering::Relaxed) == 0 {
            return;
        }
        let Some((_, woken)) = self.waiting.remove(id) else {
            return;
        };
        self.count.fetch_sub(woken.len(), Ordering::Relaxed);
        for waker in woken.into_values().flatten() {
            waker.wake();
        }
    }

    /// For a record that one of them can have.
    pub(super) fn wake_one(&self, id: &RecordId) {
        if self.count.load(Ordering::Relaxed) == 0 {
            return;
        }
        let mut first = None;
        self.waiting.remove_if_mut(id, |_, waiting| {
            first = waiting.pop_first();
            waiting.is_empty()
        });
        if let Some((_, waker)) = first {
            self.count.fetch_sub(1, Ordering::Relaxed);
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }

    fn enter(&self, id: RecordId) -> Ticket {
        self.count.fetch_add(1, Ordering::Relaxed);
        let ticket = self.last_ticket.fetch_add(1, Ordering::Relaxed);
        self.waiting.entry(id).or_default().insert(ticket, None);
        ticket
    }

    /// Whether it still waits; if so, it is woken by this waker from now on.
    fn waits(&self, id: &RecordId, ticket: Ticket, waker: &Waker) -> bool {
        // Ends as the waker before, and is dropped after the guard.
        let mut waker = Some(waker.clone());
        self.waiting.get_mut(id).is_some_and(|mut waiting| {
            let own = waiting.get_mut(&ticket);
            own.map(|own| mem::swap(own, &mut waker)).is_some()
        })
    }

    /// Whether it was still waiting.
    fn leave(&self, id: &RecordId, ticket: Ticket) -> bool {
        let mut left = None;
        self.waiting.remove_if_mut(id, |_, waiting| {
            left = waiting.remove(&ticket);
            waiting.is_empty()
        });
        if left.is_some() {
            self.count.fetch_sub(1, Ordering::Relaxed);
        }
        left.is_some()
    }

    /// How many wait, for how many records, and how many are counted.
    #[cfg(test)]
    pub(super) fn counted(&self) -> (usize, usize, usize) {
        let waiting = self.waiting.iter().map(|waiting| waiting.len()).sum();
        let count = self.count.load(Ordering::Relaxed);
        (waiting, self.waiting.len(), count)
    }
}

impl Shared {
    pub(super) fn subscribe(shared: &Arc<Self>, id: &RecordId) -> Subscription {
        Subscription::new(Waiter {
            shared: Arc::clone(shared),
            id: *id,
            ticket: shared.waiters.enter(*id),
        })
    }
}

/// One that waits. Once its ticket is gone, it was woken.
struct Waiter {
    shared: Arc<Shared>,
    id: RecordId,
    ticket: Ticket,
}

impl Future for Waiter {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let waiters = &self.shared.waiters;
        if waiters.waits(&self.id, self.ticket, cx.waker()) {
            Poll::Pending
        } else {
            Poll::Ready(())
        }
    }
}

impl Drop for Waiter {
    /// A wake-up that nobody made use of is the next one's.
    ///
    /// This ends: each wake-up uses a ticket up, and nobody takes another
    /// before a claim found the record in flight, which stops the passing on.
    /// Whoever is in flight then wakes the rest.
    fn drop(&mut self) {
        let woken = !self.shared.waiters.leave(&self.id, self.ticket);
        // The record first, then the count in `wake_one`: see there.
        if woken && self.shared.is_claimable(&self.id) {
            self.shared.waiters.wake_one(&self.id);
        }
    }
}
