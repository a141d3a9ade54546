//! The waiters of each record.

use std::collections::BTreeMap;
use std::mem;
use std::task::Waker;

use crate::record::RecordId;

use super::sync::{AtomicU64, AtomicUsize, Map, Ordering, map};

/// The waiters by record, in the order in which they came.
///
/// While a guard of this map is held, no other lock is taken and no waker is
/// woken, cloned or dropped: a waker may run any code, and dropping one can
/// drop a task that locks this map, since that task waits here too.
pub(super) struct Waiters {
    waiting: Map<RecordId, BTreeMap<Ticket, Option<Waker>>>,
    /// Never less than the number of waiters: a waiter is counted before it
    /// enters, and until after it has left.
    ///
    /// Whoever changes a record reads this afterwards with `Relaxed`, which is
    /// enough: a claim that did not see the change locked the record's shard
    /// before the change did, and its waiter was counted before that claim. So
    /// the shard's lock orders the counting before this read.
    count: AtomicUsize,
    last_ticket: AtomicU64,
}

/// Few records have waiters at one time.
const SHARDS: usize = 128;

pub(super) type Ticket = u64;

impl Waiters {
    pub(super) fn new() -> Self {
        Self {
            waiting: map(SHARDS),
            count: AtomicUsize::new(0),
            last_ticket: AtomicU64::new(0),
        }
    }

    /// Wakes all waiters of a record.
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

    /// Wakes the waiter that came first: only one can claim the record.
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

    pub(super) fn enter(&self, id: RecordId) -> Ticket {
        self.count.fetch_add(1, Ordering::Relaxed);
        let ticket = self.last_ticket.fetch_add(1, Ordering::Relaxed);
        self.waiting.entry(id).or_default().insert(ticket, None);
        ticket
    }

    /// Whether the ticket was not woken yet. If so, `waker` takes the place of
    /// its waker.
    pub(super) fn waits(&self, id: &RecordId, ticket: Ticket, waker: &Waker) -> bool {
        // Holds the earlier waker at the end, which is dropped after the guard.
        let mut waker = Some(waker.clone());
        self.waiting.get_mut(id).is_some_and(|mut waiting| {
            let own = waiting.get_mut(&ticket);
            own.map(|own| mem::swap(own, &mut waker)).is_some()
        })
    }

    /// Removes a ticket. Returns whether it was not woken yet.
    pub(super) fn leave(&self, id: &RecordId, ticket: Ticket) -> bool {
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

    /// The number of waiters, of their records, and `count`.
    #[cfg(test)]
    pub(super) fn counted(&self) -> (usize, usize, usize) {
        let waiting = self.waiting.iter().map(|waiting| waiting.len()).sum();
        let count = self.count.load(Ordering::Relaxed);
        (waiting, self.waiting.len(), count)
    }
}
