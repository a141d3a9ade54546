//! A store that keeps the whole contract, or breaks it in one place.

mod operations;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::sync::Notify;
use tokio::task::yield_now;
use tokio::time::Instant;
use tower_idempotency::store::{
    Claim, Claimed, Lease, OnLapsedLease, Outcome, Ownership, Record, RecordedStep, StoreError,
    StoreErrorKind,
};
use tower_idempotency::store::{Nonce, RecordId};

use crate::fault::Fault;
use crate::row::{Row, State, after, done, end_of_lapse, token};

#[derive(Clone, Default)]
pub(crate) struct BrokenStore {
    fault: Option<Fault>,
    shared: Arc<Mutex<Shared>>,
}

#[derive(Default)]
struct Shared {
    rows: HashMap<RecordId, Row>,
    /// Rows whose time is over, for faults that use such rows.
    over: HashMap<RecordId, Row>,
    changes: HashMap<RecordId, Arc<Notify>>,
    locked: HashSet<RecordId>,
    last_token: u64,
}

/// What a claim will do.
enum Step {
    Again,
    Acquire { last: u64, attempt: u64 },
    Find(Record),
    FindNothing(Claimed),
}

impl BrokenStore {
    pub(crate) fn with(fault: Option<Fault>) -> Self {
        Self {
            fault,
            ..Self::default()
        }
    }

    fn is(&self, fault: Fault) -> bool {
        self.fault == Some(fault)
    }

    fn shared(&self) -> (MutexGuard<'_, Shared>, Instant) {
        let mut shared = self
            .shared
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let now = Instant::now();
        let over: Vec<_> = shared
            .rows
            .extract_if(|_, row| row.until.is_some_and(|until| until <= now))
            .collect();
        shared.over.extend(over);
        (shared, now)
    }

    fn id(&self, id: &RecordId) -> RecordId {
        let mut bytes = *id.as_bytes();
        if self.is(Fault::CutsIds) {
            bytes[31] = 0;
        }
        RecordId::from_bytes(bytes)
    }

    fn owns(&self, shared: &Shared, row: &Row, nonce: &Nonce) -> bool {
        row.claim.nonce == *nonce
            || self.is(Fault::OwnsByNonceAlone)
                && shared.rows.values().any(|row| row.claim.nonce == *nonce)
    }

    /// Holds a lock across an await, as a transaction does.
    async fn lock(&self, id: &RecordId) -> Result<(), StoreError> {
        if self.is(Fault::RefusesZeroBytes) && id.as_bytes().starts_with(&[0; 8]) {
            return Err(StoreError::new(StoreErrorKind::Refused, "no text"));
        }
        if self.is(Fault::StaysLockedByDroppedCalls) {
            if !self.shared().0.locked.insert(*id) {
                return Err(StoreError::new(StoreErrorKind::Contention, "locked"));
            }
            yield_now().await;
            self.shared().0.locked.remove(id);
        }
        Ok(())
    }

    fn wake(shared: &Shared, id: &RecordId) {
        if let Some(change) = shared.changes.get(id) {
            change.notify_waiters();
        }
    }

    fn wake_one(shared: &Shared, id: &RecordId) {
        if let Some(change) = shared.changes.get(id) {
            change.notify_one();
        }
    }

    fn step(&self, shared: &Shared, claim: &Claim, now: Instant) -> Step {
        let Some(row) = shared.rows.get(&claim.id) else {
            return match claim.found_nothing() {
                Some(found) if !self.is(Fault::MakesRecordsByHand) => Step::FindNothing(found),
                _ => Step::Acquire {
                    last: 0,
                    attempt: 1,
                },
            };
        };
        let own = self.owns(shared, row, &claim.nonce)
            || self.is(Fault::ClaimsAgainForFormerOwners) && row.formers.contains(&claim.nonce);
        let again = match row.state {
            State::InFlight { .. } => !self.is(Fault::ForgetsTheNonce),
            State::Released | State::Unknown => self.is(Fault::ReclaimsWhatIsReleased),
            _ => self.is(Fault::ReclaimsWhatIsCompleted),
        };
        if own && again {
            return Step::Again;
        }
        let mut asks = claim.clone();
        if self.is(Fault::RerunsWhatRefuses) {
            asks.on_lapsed_lease = OnLapsedLease::Rerun;
        }
        if self.is(Fault::IgnoresByHand) {
            asks.by_hand = None;
        }
        let version = row.record(now, None, None).version();
        if self.is(Fault::TakesOverWhatMovedOn) && asks.by_hand.is_some() {
            asks.by_hand = Some(version);
        }
        if self.is(Fault::TakesOverForOtherRequests) {
            asks.fingerprint = row.claim.fingerprint;
        }
        let lapsed = row.is_lapsed(now)
            && asks.takes_over(version, &row.claim.fingerprint)
            && !self.is(Fault::TakesOverNothing);
        let free = claim.by_hand.is_none() || self.is(Fault::MakesRecordsByHand);
        if lapsed || matches!(row.state, State::Released) && free {
            return Step::Acquire {
                last: row.token,
                attempt: row.attempt + 1,
            };
        }
        Step::Find(row.record(now, self.fault, Some(claim)))
    }

    fn acquire(
        &self,
        shared: &mut Shared,
        claim: &Claim,
        now: Instant,
        last: u64,
        attempt: u64,
    ) -> Lease {
        let clock = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let clock = u64::try_from(clock.as_micros()).unwrap_or(0);
        shared.last_token = clock.max(last + 1).max(shared.last_token + 1);
        let number = match last {
            0 if self.is(Fault::StartsTokensOver) => 1,
            0 => shared.last_token,
            last if self.is(Fault::RepeatsTokens) => last,
            _ => shared.last_token,
        };
        let attempt = if self.is(Fault::CountsNoAttempts) {
            1
        } else {
            attempt
        };
        let mut length = claim.lease;
        if self.is(Fault::HalvesLeases) {
            length /= 2;
        }
        let lapses_at = after(now, length, self.fault);
        let mut kept = claim.clone();
        let mut formers = Vec::new();
        if let Some(row) = shared.rows.get(&claim.id) {
            formers.extend(row.formers.iter().copied().chain([row.claim.nonce]));
            if self.is(Fault::KeepsThePolicyAtTakeovers) {
                kept.on_lapsed_lease = row.claim.on_lapsed_lease;
                kept.retention = row.claim.retention;
            }
        }
        let steps = self.steps_for(shared, &claim.id);
        let first = shared.rows.get(&claim.id).map_or(now, |row| row.claimed[1]);
        let row = Row {
            steps: steps.clone(),
            token: number,
            attempt,
            claimed: [now, first],
            until: end_of_lapse(&kept, lapses_at, self.fault),
            claim: kept,
            formers,
            state: State::InFlight { lapses_at },
        };
        shared.rows.insert(claim.id, row);
        Lease::new(claim, token(number), attempt).with_steps(steps)
    }

    /// The steps that a claim finds which acquires this record.
    fn steps_for(&self, shared: &Shared, id: &RecordId) -> Vec<RecordedStep> {
        let past = self.is(Fault::KeepsStepsPastTheEnd) || self.is(Fault::KeepsForgottenSteps);
        let over = shared.over.get(id).filter(|_| past);
        let Some(row) = shared.rows.get(id).or(over) else {
            return Vec::new();
        };
        let drops = match row.state {
            State::InFlight { .. } => Fault::DropsStepsAtTakeovers,
            State::Unknown => Fault::DropsStepsAtUnknown,
            _ => Fault::DropsStepsAtReleases,
        };
        if self.is(drops) {
            return Vec::new();
        }
        row.steps.clone()
    }

    fn take(&self, shared: &mut Shared, claim: &Claim, step: Step, now: Instant) -> Claimed {
        match step {
            Step::Find(record) => Claimed::Found(record),
            Step::FindNothing(found) => found,
            Step::Acquire { last, attempt } => {
                Claimed::Acquired(self.acquire(shared, claim, now, last, attempt))
            }
            Step::Again => {
                let row = shared.rows.get_mut(&claim.id).expect("it was found");
                if !self.is(Fault::ClaimsAgainWithoutTheLength) {
                    let lapses_at = after(now, claim.lease, self.fault);
                    row.state = State::InFlight { lapses_at };
                    row.until = end_of_lapse(claim, lapses_at, self.fault);
                }
                let lease = Lease::new(claim, token(row.token), row.attempt);
                Claimed::Acquired(if self.is(Fault::SendsStepsOnce) {
                    lease
                } else {
                    lease.with_steps(row.steps.clone())
                })
            }
        }
    }

    /// The result for a nonce that has completed its record before.
    fn completed_before(
        &self,
        shared: &mut Shared,
        lease: &Lease,
        outcome: &Outcome,
        now: Instant,
    ) -> Option<Ownership> {
        let id = self.id(&lease.claim.id);
        let row = shared.rows.get(&id)?;
        let again = row.is_done() && self.owns(shared, row, &lease.claim.nonce);
        if !again || self.is(Fault::KeepsTheLastCompletion) {
            return None;
        }
        if self.is(Fault::PutsOffTheEndOfCompletions) {
            let (_, until) = done(&lease.claim, outcome, now, self.fault);
            shared.rows.get_mut(&id)?.until = until;
        }
        let lost = self.is(Fault::LosesCompletionsSentAgain);
        Some(if lost {
            Ownership::Lost
        } else {
            Ownership::Held
        })
    }

    fn completes(&self, shared: &Shared, lease: &Lease, now: Instant) -> bool {
        let Some(row) = shared.rows.get(&self.id(&lease.claim.id)) else {
            return !self.is(Fault::LosesCompletionsOfNothing);
        };
        let owned =
            self.owns(shared, row, &lease.claim.nonce) || self.is(Fault::CompletesForAnyone);
        match row.state {
            State::Released => {
                row.token <= lease.token.get() || self.is(Fault::CompletesOverHigherTokens)
            }
            State::Unknown => owned && !self.is(Fault::LosesCompletionsOfUnknown),
            State::InFlight { .. } => {
                owned && !(self.is(Fault::LosesLateCompletions) && row.is_lapsed(now))
            }
            _ => owned,
        }
    }

    fn finish(&self, shared: &mut Shared, lease: &Lease, outcome: &Outcome, now: Instant) {
        let id = self.id(&lease.claim.id);
        let (state, until) = done(&lease.claim, outcome, now, self.fault);
        // A fault keeps the steps, and the claim after the retention finds them.
        let kept = self.is(Fault::KeepsStepsPastTheEnd);
        let kept = shared.rows.get(&id).filter(|_| kept);
        let steps = kept.map_or_else(Vec::new, |row| row.steps.clone());
        let row = Row {
            steps,
            token: lease.token.get(),
            attempt: lease.attempt,
            claimed: shared.rows.get(&id).map_or([now; 2], |row| row.claimed),
            claim: lease.claim.clone(),
            formers: Vec::new(),
            state,
            until,
        };
        shared.rows.insert(id, row);
        if self.is(Fault::WakesOneAfterACompletion) {
            Self::wake_one(shared, &id);
        } else {
            Self::wake(shared, &id);
        }
    }
}

/// Removes the means to wake other subscribers when it is dropped.
struct Ends(BrokenStore, RecordId);

impl Drop for Ends {
    fn drop(&mut self) {
        self.0.shared().0.changes.remove(&self.1);
    }
}
