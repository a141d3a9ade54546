//! Completions: the step that ends an operation with its outcome.

use std::sync::Arc;
use std::time::Duration;

use crate::record::Nonce;
use crate::record::response::RecordedResponse;
use crate::store::{Claim, Lease, Outcome, Ownership, StoreError, StoreErrorKind};

use super::account::{Account, Measure};
use super::clock::{Nanos, SinceStart};
use super::counts::Kind;
use super::eviction::Full;
use super::kept::{Kept, Size};
use super::limits::{RECORD_BYTES, WhenFull};
use super::origins::KeptOrigin;
use super::queues::Expired;
use super::records::Records;
use super::slot::{Slot, State};

/// There is no room for a completion within `max_bytes`.
pub(super) struct NoRoom;

/// What `complete` found at the record, while its part of the table was locked.
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

/// What a record becomes by its completion, until it is there.
enum Ending {
    Kept(Kept),
    Sealed(KeptOrigin),
}

impl Ending {
    fn kind(&self) -> Kind {
        match self {
            Ending::Kept(_) => Kind::Completed,
            Ending::Sealed(_) => Kind::Sealed,
        }
    }

    /// The state of the record, once: a second call would find it sealed.
    fn take(&mut self, nonce: Nonce, completed: SinceStart) -> State {
        match std::mem::replace(self, Ending::Sealed(KeptOrigin::default())) {
            Ending::Kept(kept) => State::Done { nonce, kept },
            Ending::Sealed(origin) => State::Sealed {
                nonce,
                origin,
                completed,
            },
        }
    }
}

impl Records {
    pub(super) fn complete(
        &self,
        lease: &Lease,
        outcome: &Outcome,
    ) -> Result<Ownership, StoreError> {
        let completed = match outcome {
            Outcome::Completed(completion) => {
                self.complete_response(lease, &(&**completion).into())
            }
            Outcome::Sealed { retention } => {
                let origin = self.routes.keep(&lease.claim.origin);
                let sealed = Ending::Sealed(origin);
                self.complete_once_there_is_room(lease, sealed, *retention, 0)
            }
        };
        completed.map_err(|NoRoom| self.not_kept())
    }

    /// Completes the record with a response, of which nothing is copied yet.
    pub(super) fn complete_response(
        &self,
        lease: &Lease,
        response: &RecordedResponse<'_>,
    ) -> Result<Ownership, NoRoom> {
        let origin = self.routes.keep(&lease.claim.origin);
        let size = Size::of(response, &origin);
        // A completion larger than the cap would evict every other in vain.
        if size.weight() > self.limits.largest_completion() {
            return Err(NoRoom);
        }
        // The completion is packed before anything is locked, and taken once there is room for it.
        let ending = Ending::Kept(Kept::pack(response, &origin, &size));
        self.complete_once_there_is_room(lease, ending, response.retention, size.weight())
    }

    fn complete_once_there_is_room(
        &self,
        lease: &Lease,
        mut ending: Ending,
        retention: Duration,
        weight: usize,
    ) -> Result<Ownership, NoRoom> {
        let retention = retention.into();
        loop {
            match self.complete_once(lease, &mut ending, retention, weight) {
                Ended::Found(ownership) => return Ok(ownership),
                Ended::Stored { gone, now, expired } => {
                    drop(gone);
                    self.remove_expired(expired, now);
                    self.waiters.wake_all(&lease.claim.id);
                    return Ok(Ownership::Held);
                }
                // Nothing is locked here: `evict_one` locks other parts.
                Ended::NoRoom { full, account } => {
                    if self.evict_one(full, &account).is_err() {
                        return Err(NoRoom);
                    }
                }
            }
        }
    }

    fn complete_once(
        &self,
        lease: &Lease,
        ending: &mut Ending,
        retention: Nanos,
        weight: usize,
    ) -> Ended {
        let Claim {
            id,
            nonce: own,
            fingerprint,
            ..
        } = lease.claim;
        let token = lease.token.get();
        // A record of so many attempts keeps counting at the most.
        let attempt = u32::try_from(lease.attempt).unwrap_or(u32::MAX);
        let mut locked = self.slots.lock(&id);
        let now = self.clock.now();
        let until = now.saturating_add(retention);
        let Some((at, slot)) = locked.get(&id) else {
            let kind = ending.kind();
            let counts = &self.counts;
            let account = (self.accounts).join(&lease.claim, kind, RECORD_BYTES, counts);
            if let Err(full) = self.hold(&account, weight) {
                (self.accounts).leave(&account, kind, RECORD_BYTES, counts);
                return Ended::NoRoom { full, account };
            }
            // The finished outcome is worth more than the limit of records.
            counts.add(kind, RECORD_BYTES);
            let (at, slot) = locked.insert(Slot {
                id,
                fingerprint,
                account,
                token,
                until,
                attempt,
                queued: None,
                state: ending.take(own, now),
            });
            let expired = self.enqueue(at, slot, retention, now);
            let gone = None;
            return Ended::Stored { gone, now, expired };
        };
        match &slot.state {
            State::InFlight { nonce, .. } if *nonce == own => {}
            _ if slot.is_over(now) && slot.token <= token => {}
            State::Released { .. } if slot.token <= token => {}
            _ if slot.ended_by() == Some(&own) => return Ended::Found(Ownership::Held),
            _ => return Ended::Found(Ownership::Lost),
        }
        if let Err(full) = self.hold(&slot.account, weight) {
            let account = Arc::clone(&slot.account);
            return Ended::NoRoom { full, account };
        }
        self.drop_steps(slot);
        self.counts
            .shrink(&slot.account, slot.bytes() - RECORD_BYTES);
        (slot.token, slot.attempt, slot.until) = (token, attempt, until);
        slot.fingerprint = fingerprint;
        let gone = Some(slot.change(&self.counts, ending.take(own, now)));
        let expired = self.enqueue(at, slot, retention, now);
        Ended::Stored { gone, now, expired }
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
