//! Completions: the step that ends an operation with its outcome.

use std::sync::Arc;
use std::time::Duration;

use crate::record::Completion;
use crate::store::{Lease, Outcome, Ownership, StoreError, StoreErrorKind};

use super::account::{Account, Measure};
use super::clock::SinceStart;
use super::eviction::Full;
use super::guard::Guard;
use super::limits::{RECORD_BYTES, WhenFull, weight};
use super::queues::Expired;
use super::records::Records;
use super::slot::{Slot, State};
use super::sync::Entry;

/// What `complete` found at the record, while its shard was locked.
enum Ended {
    Stored {
        gone: Option<State>,
        now: SinceStart,
        expired: Expired,
    },
    Found(Ownership),
    NoRoom {
        full: Full,
        account: Arc<Account>,
    },
}

impl Records {
    pub(super) fn complete(
        &self,
        lease: &Lease,
        outcome: &Outcome,
    ) -> Result<Ownership, StoreError> {
        let (completion, retention) = match outcome {
            Outcome::Completed(completion) => (Some(completion), completion.retention),
            Outcome::Sealed { retention } => (None, *retention),
        };
        let weight = completion.map_or(0, |completion| weight(completion));
        // A completion larger than the cap would evict every other in vain.
        if weight > self.limits.largest_completion() {
            return Err(self.not_kept());
        }
        loop {
            match self.complete_once(lease, completion, retention, weight) {
                Ended::Found(ownership) => return Ok(ownership),
                Ended::Stored { gone, now, expired } => {
                    drop(gone);
                    self.remove_expired(expired, now);
                    self.waiters.wake_all(&lease.claim.id);
                    return Ok(Ownership::Held);
                }
                // No guard of the map is held here: `evict_one` locks other shards.
                Ended::NoRoom { full, account } => {
                    if self.evict_one(full, &account).is_err() {
                        return Err(self.not_kept());
                    }
                }
            }
        }
    }

    fn complete_once(
        &self,
        lease: &Lease,
        completion: Option<&Arc<Completion>>,
        retention: Duration,
        weight: usize,
    ) -> Ended {
        let id = lease.claim.id;
        let token = lease.token.get();
        let done = |now: SinceStart| State::Done {
            fingerprint: lease.claim.fingerprint,
            nonce: lease.claim.nonce,
            completion: completion.cloned(),
            expires_at: now.saturating_add(retention),
        };
        match self.slots.entry(id) {
            Entry::Occupied(mut found) => {
                let slot = found.get_mut();
                let now = self.clock.now();
                match &slot.state {
                    State::InFlight { nonce, .. } if *nonce == lease.claim.nonce => {}
                    _ if slot.is_over(now) && slot.token <= token => {}
                    State::Released { .. } if slot.token <= token => {}
                    State::Done { nonce, .. } if *nonce == lease.claim.nonce => {
                        return Ended::Found(Ownership::Held);
                    }
                    _ => return Ended::Found(Ownership::Lost),
                }
                if let Err(full) = self.hold(&slot.account, weight) {
                    let account = Arc::clone(&slot.account);
                    return Ended::NoRoom { full, account };
                }
                if let State::InFlight { guard, .. } = &slot.state {
                    Guard::settle(guard);
                }
                self.counts.shrink(&slot.account, slot.bytes - RECORD_BYTES);
                (slot.token, slot.attempt) = (token, lease.attempt);
                slot.bytes = RECORD_BYTES + weight;
                let gone = Some(slot.change(&self.counts, done(now)));
                let expired = self.enqueue(id, slot, retention, now);
                Ended::Stored { gone, now, expired }
            }
            Entry::Vacant(place) => {
                let now = self.clock.now();
                let state = done(now);
                let counts = &self.counts;
                let account =
                    (self.accounts).join(&lease.claim, state.kind(), RECORD_BYTES, counts);
                if let Err(full) = self.hold(&account, weight) {
                    self.accounts
                        .leave(&account, state.kind(), RECORD_BYTES, counts);
                    return Ended::NoRoom { full, account };
                }
                // The finished outcome is worth more than the limit of records.
                counts.add(state.kind(), RECORD_BYTES);
                let mut slot = Box::new(Slot {
                    account,
                    token,
                    attempt: lease.attempt,
                    bytes: RECORD_BYTES + weight,
                    queued: None,
                    state,
                });
                let expired = self.enqueue(id, &mut slot, retention, now);
                place.insert(slot);
                let gone = None;
                Ended::Stored { gone, now, expired }
            }
        }
    }

    /// Counts the bytes of a completion. A store that never evicts has them anyway: the
    /// operation has begun.
    fn hold(&self, account: &Account, weight: usize) -> Result<(), Full> {
        if weight == 0 || self.limits.when_full == WhenFull::Refuse {
            self.counts.grow_anyway(account, weight);
            return Ok(());
        }
        let held = account.held(Measure::Bytes) + weight;
        if self
            .limits
            .max_bytes_per_caller
            .is_some_and(|most| held > most)
            && !account.is_everyone
        {
            return Err(Full::Caller);
        }
        if self.counts.grow(account, weight, &self.limits) {
            return Ok(());
        }
        Err(Full::Store(Measure::Bytes, held))
    }

    fn not_kept(&self) -> StoreError {
        self.counts.count_not_kept();
        let why = "there is no room for it within `max_bytes`";
        StoreError::new(StoreErrorKind::TooLarge, why)
    }
}
