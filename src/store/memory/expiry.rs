//! Removing records: expired ones as time goes by, and others to make room.

use std::time::Duration;

use super::clock::SinceStart;
use super::queues::{Expired, Expiry, ExpiryQueue};
use super::records::Records;

impl Records {
    /// Puts a record into the queue of its kind, and removes a few expired records, so that the
    /// store shrinks without a task of its own.
    pub(super) fn enqueue(&self, entry: Option<(ExpiryQueue, Duration, Expiry)>, now: SinceStart) {
        let taken = {
            let mut queues = self.queues.lock();
            if let Some((line, retention, due)) = entry {
                queues.push(line, retention, due);
            }
            queues.take_expired(now)
        };
        for taken in taken.into_iter().flatten() {
            self.remove_expired(taken, now, false);
        }
    }

    /// Removes one record to make room: an expired one; if there is none, and
    /// unless `only_over`, the oldest tombstone, or else the oldest completion.
    /// Never removes a record in flight.
    pub(super) fn evict_one(&self, only_over: bool) -> bool {
        loop {
            let now = self.clock.now();
            let Some(taken) = self.queues.lock().take_oldest(now, only_over) else {
                return false;
            };
            if self.remove_expired(taken, now, !only_over) {
                return true;
            }
        }
    }

    /// Removes the record of this entry if the record has expired, or if it is to
    /// go `early`. If the record ends later than the entry says, the entry goes
    /// back into the queue; if the record is of another kind by now, the entry is
    /// dropped.
    fn remove_expired(&self, taken: Expired, now: SinceStart, early: bool) -> bool {
        let Expired {
            line,
            retention,
            due,
        } = taken;
        let mut waits = None;
        let removed = self.slots.remove_if_mut(&due.id, |_, slot| {
            let end = slot.end().filter(|_| slot.kind().line() == line);
            match end {
                None => {
                    slot.queued &= !line.bit();
                    false
                }
                Some(end) if end <= now || early && end <= due.at => {
                    self.counts.remove(slot.kind(), slot.bytes);
                    true
                }
                Some(end) => {
                    waits = Some(end);
                    false
                }
            }
        });
        if let Some(at) = waits {
            self.queues
                .lock()
                .push(line, retention, Expiry { id: due.id, at });
        }
        if removed.is_some() {
            self.waiters.wake_all(&due.id);
        }
        removed.is_some()
    }

    #[cfg(test)]
    pub(super) fn queued(&self) -> usize {
        self.queues.lock().len()
    }
}
