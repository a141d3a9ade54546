//! Removing records: expired ones as time goes by, and others to make room.
//!
//! The entry of a record changes only while the record's shard is locked, and within that lock:
//! so each record that can expire has exactly one entry, and each entry a record. Nothing else is
//! locked while the queues are.

use std::time::Duration;

use crate::record::RecordId;

use super::clock::SinceStart;
use super::queues::{Expired, Expiry, Place};
use super::records::Records;
use super::slot::Slot;

impl Records {
    /// Moves the entry of a record to the end of its queue: the record ends a `retention` from now,
    /// at the latest. Also returns a few expired records, so that the store shrinks without a task
    /// of its own.
    pub(super) fn enqueue(
        &self,
        id: RecordId,
        slot: &mut Slot,
        retention: Duration,
        now: SinceStart,
    ) -> Expired {
        let at = now.saturating_add(retention);
        let line = slot.kind().line();
        let mut queues = self.queues.lock();
        if let Some(place) = slot.queued.take() {
            queues.remove(place);
        }
        slot.queued = Some(queues.push(line, retention, Expiry { id, at }));
        queues.expired(now)
    }

    /// Removes the entry of a record that can't expire, or that is removed itself.
    pub(super) fn dequeue(&self, place: Option<Place>) {
        if let Some(place) = place {
            self.queues.lock().remove(place);
        }
    }

    pub(super) fn remove_expired(&self, expired: Expired, now: SinceStart) {
        for id in expired.0.into_iter().flatten() {
            self.remove_if(&id, |slot| slot.is_over(now));
        }
    }

    /// Removes one record to make room: an expired one; if there is none, and
    /// unless `only_over`, the oldest tombstone, or else the oldest completion.
    /// Never removes a record in flight, nor `kept`.
    pub(super) fn evict_one(&self, only_over: bool, kept: Option<&RecordId>) -> bool {
        loop {
            let now = self.clock.now();
            let oldest = self.queues.lock().oldest(now, only_over, kept);
            let Some((line, Expiry { id, at })) = oldest else {
                return false;
            };
            // The record may have changed since. Then another is the oldest.
            let removed = self.remove_if(&id, |slot| {
                let is_same = slot.kind().line() == line && slot.end() == Some(at);
                slot.is_over(now) || is_same
            });
            if removed {
                return true;
            }
        }
    }

    fn remove_if(&self, id: &RecordId, goes: impl FnOnce(&Slot) -> bool) -> bool {
        let removed = self.slots.remove_if(id, |_, slot| {
            let goes = goes(slot);
            if goes {
                self.counts.remove(slot.kind(), slot.bytes);
                self.dequeue(slot.queued);
            }
            goes
        });
        if removed.is_some() {
            self.waiters.wake_all(id);
        }
        removed.is_some()
    }

    /// The number of entries, and of queues.
    #[cfg(test)]
    pub(super) fn queued(&self) -> (usize, usize) {
        self.queues.lock().len()
    }
}
