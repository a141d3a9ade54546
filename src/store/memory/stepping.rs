//! Recording a step: what adds its result to a record in flight.

use std::sync::Arc;

use bytes::Bytes;

use crate::limits::share;
use crate::store::{Lease, Ownership, RecordedStep, StoreError, StoreErrorKind};

use super::account::{Account, Measure};
use super::eviction::{Full, REMOVED_FOR_SHARE};
use super::records::Records;
use super::slot::{Slot, State};
use super::steps::weight;

/// What `record_step` found at the record, while its part of the table was locked.
enum Recorded {
    Answered(Ownership),
    NoRoom { full: Full, account: Arc<Account> },
}

impl Records {
    pub(super) fn record_step(
        &self,
        lease: &Lease,
        step: &RecordedStep,
    ) -> Result<Ownership, StoreError> {
        let mut left = REMOVED_FOR_SHARE;
        loop {
            let (full, account) = match self.record_step_once(lease, step) {
                Recorded::Answered(ownership) => return Ok(ownership),
                Recorded::NoRoom { full, account } => (full, account),
            };
            // Nothing is locked here: `evict_one` locks other parts.
            let removed = match full {
                Full::Share if left == 0 => false,
                full => self.evict_one(full, &account).is_ok(),
            };
            left -= usize::from(matches!(full, Full::Share) && removed);
            if !removed {
                let why = "there is no room for the result of a step: raise `max_bytes`, or \
                           `max_bytes_per_caller`, or record less";
                return Err(StoreError::new(StoreErrorKind::Refused, why));
            }
        }
    }

    fn record_step_once(&self, lease: &Lease, step: &RecordedStep) -> Recorded {
        let mut locked = self.slots.lock(&lease.claim.id);
        let now = self.clock.now();
        let found = locked.get(&lease.claim.id);
        let Some((_, slot)) = found.filter(|(_, slot)| !slot.is_over(now)) else {
            return Recorded::Answered(Ownership::Lost);
        };
        let account = Arc::clone(&slot.account);
        let State::InFlight {
            nonce,
            unknown: false,
            steps,
            ..
        } = &mut slot.state
        else {
            return Recorded::Answered(Ownership::Lost);
        };
        if *nonce != lease.claim.nonce {
            return Recorded::Answered(Ownership::Lost);
        }
        if !steps.has(&step.name) {
            if let Err(full) = self.hold_step(&account, weight(step)) {
                return Recorded::NoRoom { full, account };
            }
            // Copied: the result may be a part of a larger allocation, which nothing counts.
            let result = Bytes::copy_from_slice(&step.result);
            steps.push(RecordedStep::new(step.name.as_str(), result));
        }
        Recorded::Answered(Ownership::Held)
    }

    /// Counts the bytes of a step, which can't be evicted. Unlike a completion, a step has no room
    /// beyond the limits: its operation can say so, and runs again.
    fn hold_step(&self, account: &Account, weight: usize) -> Result<(), Full> {
        // The step counts for its caller first: two steps of one caller at the same moment can't
        // both have the last of its share.
        self.counts.hold_steps(account, weight);
        let held = account.held(Measure::Bytes) + weight;
        let checked = self.check_share_of_steps(account, held);
        let checked = checked.and_then(|()| {
            let has_grown = self.counts.grow(account, weight, &self.limits);
            has_grown
                .then_some(())
                .ok_or(Full::Store(Measure::Bytes, held))
        });
        if checked.is_err() {
            self.counts.drop_steps(account, weight);
        }
        checked
    }

    /// Whether a caller that would hold so many bytes may have one more step, which is counted in
    /// the sums of steps already.
    fn check_share_of_steps(&self, account: &Account, held: usize) -> Result<(), Full> {
        if account.is_everyone {
            return Ok(());
        }
        let limit = self.limits.of(Measure::Bytes);
        let (total, own) = if self.limits.evicts() {
            let total = self.counts.unevictable_bytes();
            (total, account.unevictable_bytes())
        } else {
            (self.counts.held(Measure::Bytes), held)
        };
        if own > share(limit, total) {
            return Err(Full::Share);
        }
        if limit.per_caller.is_some_and(|most| held > most) {
            return Err(Full::Caller);
        }
        Ok(())
    }

    /// Says that the steps of a record in flight, if it is in flight, are about to be dropped, or
    /// can be evicted from here on.
    pub(super) fn drop_steps(&self, slot: &Slot) {
        if let State::InFlight { steps, .. } = &slot.state {
            self.counts.drop_steps(&slot.account, steps.weight());
        }
    }
}
