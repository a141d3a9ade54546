//! Removing records: expired ones as time goes by, and others to make room.
//!
//! The entry of a record changes only while the record's part of the table is locked, and within
//! that lock: so each record that can expire has exactly one entry, and each entry a record. Nothing else is
//! locked while the queues are.

use crate::limits::{Whose, share};

use super::account::{Account, Measure};
use super::clock::{Nanos, SinceStart};
use super::counts::Kind;
use super::limits::{RECORD_BYTES, WhenFull};
use super::queues::{Due, Expired, ExpiryQueue};
use super::records::Records;
use super::slab::{Address, Place};
use super::slot::{Slot, State};

/// How many expired records one claim removes for its caller's share. The removal of a record of
/// another caller may not be enough, and there may be as many of those as the store can hold.
pub(super) const REMOVED_FOR_SHARE: usize = 32;

/// What there is no room in, and what can make room.
#[derive(Clone, Copy, Debug)]
pub(super) enum Full {
    /// The caller's share of what can't be evicted. Only expired records are removed.
    Share,
    /// All that one caller may hold: it loses records of its own.
    Caller,
    /// The store. The caller would hold so much of what is full.
    Store(Measure, usize),
}

impl Records {
    /// Finds out whether a caller may have one more record in flight, by the sum of what can't be
    /// evicted and by the caller's share of it. The record counts in the account already, but not in
    /// the sums. `more` is what the record adds to what of the account can't be evicted, in records
    /// and in bytes.
    pub(super) fn check_share(&self, account: &Account, more: [usize; 2]) -> Result<(), Full> {
        if account.is_everyone {
            return Ok(());
        }
        let limits = &self.limits;
        let each = [1, RECORD_BYTES.max(more[1])];
        // A store that evicts has room for as much as it may hold, less what is in flight.
        let (total, own) = match limits.when_full {
            WhenFull::Evict => (
                [self.counts.in_flight(), self.counts.unevictable_bytes()],
                [
                    account.in_flight() + more[0],
                    account.unevictable_bytes() + more[1],
                ],
            ),
            WhenFull::Refuse => {
                let total = Measure::BOTH.map(|of| self.counts.held(of));
                (total, Measure::BOTH.map(|of| account.held(of)))
            }
        };
        for of in Measure::BOTH {
            let limit = limits.of(of);
            let at = of as usize;
            if total[at] + each[at] > limit.sum {
                return Err(Full::Store(of, account.held(of)));
            }
            if own[at] > share(limit, total[at]) {
                return Err(Full::Share);
            }
            if limit.per_caller.is_some_and(|most| account.held(of) > most) {
                return Err(Full::Caller);
            }
        }
        Ok(())
    }

    /// Removes one record to make room.
    ///
    /// # Errors
    /// If there is none to remove: whose part of the store is full.
    pub(super) fn evict_one(&self, full: Full, account: &Account) -> Result<(), Whose> {
        loop {
            let now = self.clock.now();
            let evicts = self.limits.when_full == WhenFull::Evict;
            let found = {
                let mut queues = self.queues.lock();
                match (full, queues.expired(now).0) {
                    (Full::Share, _) => {
                        let over = queues.expired_in_share(account, evicts, now);
                        over.ok_or(Whose::Caller)
                    }
                    (Full::Store(..), [Some(over), _]) => Ok(over),
                    (Full::Store(..), _) if !evicts => return Err(Whose::Service),
                    (Full::Caller, _) => queues.own_oldest(account),
                    (Full::Store(of, held), _) => queues.loser(account, of, held),
                }
            };
            let due = found?;
            // The record may have changed since. Then another is the oldest.
            let mut early = false;
            let removed = self.remove_if(&due, |slot| {
                let goes = slot.is_over(now);
                early = !goes && slot.kind() != Kind::InFlight && slot.end() == Some(due.at);
                goes || early
            });
            if early {
                self.counts.count_evicted();
            }
            if removed {
                return Ok(());
            }
        }
    }

    /// Moves the entry of a record to the end of its queue: the record ends a `retention` from now,
    /// at the latest. Also returns a few expired records, so that the store shrinks without a task
    /// of its own.
    pub(super) fn enqueue(
        &self,
        record: Address,
        slot: &mut Slot,
        retention: Nanos,
        now: SinceStart,
    ) -> Expired {
        let at = now.saturating_add(retention);
        // A tombstone with steps says what has happened already: it is evicted no sooner than a
        // completion is (G12).
        let line = match &slot.state {
            State::Released { steps, .. } if steps.weight() > 0 => ExpiryQueue::Done,
            state => state.kind().line(),
        };
        let mut queues = self.queues.lock();
        if let Some(place) = slot.queued.take() {
            queues.remove(place);
        }
        slot.queued = Some(queues.push(line, retention, record, at, &slot.account));
        queues.expired(now)
    }

    /// Removes the entry of a record that can't expire, or that is removed itself.
    pub(super) fn dequeue(&self, place: Option<Place>) {
        if let Some(place) = place {
            self.queues.lock().remove(place);
        }
    }

    pub(super) fn remove_expired(&self, expired: Expired, now: SinceStart) {
        for due in expired.0.into_iter().flatten() {
            self.remove_if(&due, |slot| slot.is_over(now));
        }
    }

    /// Removes the record of an entry, if it still has that entry and `goes` says so.
    fn remove_if(&self, due: &Due, goes: impl FnOnce(&Slot) -> bool) -> bool {
        let is = |slot: &Slot| slot.queued == Some(due.entry) && goes(slot);
        let Some(mut locked) = self.slots.lock_at(due.record, is) else {
            return false;
        };
        let removed = locked.remove(due.record);
        self.leave(&removed);
        drop(locked);
        self.waiters.wake_all(&removed.id);
        true
    }

    /// Takes a record, which is about to be removed, out of all that is counted and queued.
    pub(super) fn leave(&self, slot: &Slot) {
        let (kind, bytes) = (slot.kind(), slot.bytes());
        self.drop_steps(slot);
        self.counts.remove(kind, bytes);
        self.accounts
            .leave(&slot.account, kind, bytes, &self.counts);
        // After the account, because the caller is ranked here by what it still holds.
        self.dequeue(slot.queued);
    }

    /// The number of entries, and of queues.
    #[cfg(test)]
    pub(super) fn queued(&self) -> (usize, usize) {
        self.queues.lock().len()
    }
}
