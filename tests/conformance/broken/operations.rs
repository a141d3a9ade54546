//! The operations of a [`BrokenStore`].

use std::sync::Arc;

use tokio::task::yield_now;
use tokio::time::Instant;
use tower_idempotency::store::{
    Claim, Claimed, Cursor, ForgetMode, Forgotten, Lease, ListQuery, OnLapsedLease, Outcome,
    Ownership, Record, RecordPage, RecordedStep, Release, Store, StoreError, Subscription,
};
use tower_idempotency::store::{Fingerprint, Nonce, RecordId, ScopeDigest};

use super::{BrokenStore, Ends};
use crate::fault::Fault;
use crate::row::{Row, State, after, end_of_lapse, listed, place};

impl Store for BrokenStore {
    async fn claim(&self, claim: &Claim) -> Result<Claimed, StoreError> {
        self.lock(&claim.id).await?;
        let mut claim = claim.clone();
        claim.id = self.id(&claim.id);
        let step = {
            let (mut shared, now) = self.shared();
            let step = self.step(&shared, &claim, now);
            if !self.is(Fault::LooksThenClaims) {
                return Ok(self.take(&mut shared, &claim, step, now));
            }
            step
        };
        yield_now().await;
        let (mut shared, now) = self.shared();
        Ok(self.take(&mut shared, &claim, step, now))
    }

    async fn renew(&self, lease: &Lease) -> Result<Ownership, StoreError> {
        self.lock(&lease.claim.id).await?;
        let id = self.id(&lease.claim.id);
        let (mut shared, now) = self.shared();
        let Some(row) = shared.rows.get(&id) else {
            if self.is(Fault::RenewsNothingIntoSomething) {
                self.acquire(&mut shared, &lease.claim, now, 0, lease.attempt);
                return Ok(Ownership::Held);
            }
            let over = self.is(Fault::RenewsWhatIsOver) && shared.over.contains_key(&id);
            return Ok(if over {
                Ownership::Held
            } else {
                Ownership::Lost
            });
        };
        let owned = self.owns(&shared, row, &lease.claim.nonce) || self.is(Fault::RenewsForAnyone);
        let late = self.is(Fault::RenewsNothingLapsed) && row.is_lapsed(now);
        let renewed = match row.state {
            State::InFlight { .. } => !late,
            State::Completed(_) | State::Sealed => {
                return Ok(if owned && !self.is(Fault::LosesRenewalsOfCompletions) {
                    Ownership::Held
                } else {
                    Ownership::Lost
                });
            }
            State::Unknown | State::Released => self.is(Fault::RenewsWhatIsReleased),
        };
        if !owned || !renewed {
            return Ok(Ownership::Lost);
        }
        if !self.is(Fault::RenewsInWord) {
            let ends = !self.is(Fault::RenewsOnlyTheLease);
            let row = shared.rows.get_mut(&id).expect("it was found");
            let lapses_at = after(now, lease.claim.lease, self.fault);
            row.state = State::InFlight { lapses_at };
            if ends {
                row.until = end_of_lapse(&lease.claim, lapses_at, self.fault);
            }
        }
        Ok(Ownership::Held)
    }

    async fn complete(&self, lease: &Lease, outcome: &Outcome) -> Result<Ownership, StoreError> {
        self.lock(&lease.claim.id).await?;
        let held = {
            let (mut shared, now) = self.shared();
            if let Some(tenure) = self.completed_before(&mut shared, lease, outcome, now) {
                return Ok(tenure);
            }
            let held = self.completes(&shared, lease, now);
            if held && !self.is(Fault::LooksThenCompletes) {
                self.finish(&mut shared, lease, outcome, now);
                return Ok(Ownership::Held);
            }
            held
        };
        if !held {
            return Ok(Ownership::Lost);
        }
        yield_now().await;
        let (mut shared, now) = self.shared();
        self.finish(&mut shared, lease, outcome, now);
        Ok(Ownership::Held)
    }

    async fn release(
        &self,
        id: &RecordId,
        nonce: &Nonce,
        how: Release,
    ) -> Result<Ownership, StoreError> {
        self.lock(id).await?;
        let id = self.id(id);
        let (mut shared, now) = self.shared();
        let Some(row) = shared.rows.get(&id) else {
            if self.is(Fault::MakesTombstonesOfNothing) {
                let scope = ScopeDigest::from_bytes([0; 32]);
                let print = Fingerprint::from_bytes([0; 32]);
                let claim = Claim::new(id, scope, print);
                self.acquire(&mut shared, &claim, now, 0, 1);
                shared.rows.get_mut(&id).expect("it was made").state = State::Released;
            }
            return Ok(Ownership::Lost);
        };
        let owned = self.owns(&shared, row, nonce) || self.is(Fault::ReleasesForAnyone);
        let open = match row.state {
            State::InFlight { .. } => !(self.is(Fault::LosesLateReleases) && row.is_lapsed(now)),
            State::Unknown => !self.is(Fault::LosesReleasesOfUnknown),
            State::Completed(_) | State::Sealed => self.is(Fault::ReleasesCompletions),
            State::Released => self.is(Fault::HoldsReleasesSentAgain),
        };
        if !owned || !open {
            return Ok(Ownership::Lost);
        }
        let row = shared.rows.get_mut(&id).expect("it was found");
        if how == Release::MayRunAgain {
            row.state = State::Released;
            let stays = self.is(Fault::KeepsTombstonesForGood);
            row.until = (!stays).then(|| after(now, row.claim.retention, self.fault));
            if self.is(Fault::DeletesWhatIsReleased) {
                shared.rows.remove(&id);
            }
            if self.is(Fault::WakesOneAfterARelease) {
                Self::wake_one(&shared, &id);
            } else if !self.is(Fault::WakesNobodyAfterARelease) {
                Self::wake(&shared, &id);
            }
        } else {
            if !self.is(Fault::KeepsTheLeaseOfUnknown) {
                row.state = State::Unknown;
                row.until = end_of_lapse(&row.claim, now, self.fault);
            }
            if self.is(Fault::ForgetsUnknownAtOnce)
                && row.claim.on_lapsed_lease == OnLapsedLease::Rerun
            {
                row.until = Some(now);
            }
            if !self.is(Fault::WakesNobodyAfterUnknown) {
                Self::wake(&shared, &id);
            }
        }
        Ok(Ownership::Held)
    }

    async fn record_step(
        &self,
        lease: &Lease,
        step: &RecordedStep,
    ) -> Result<Ownership, StoreError> {
        self.lock(&lease.claim.id).await?;
        let id = self.id(&lease.claim.id);
        let records = |row: &Row| match row.state {
            State::InFlight { lapses_at } => {
                lapses_at > Instant::now() || !self.is(Fault::LosesLateSteps)
            }
            State::Released | State::Unknown => self.is(Fault::RecordsForWhoReleased),
            State::Completed(_) | State::Sealed => self.is(Fault::RecordsForWhoCompleted),
        };
        let owns = |row: &Row| {
            records(row)
                && (row.claim.nonce == lease.claim.nonce || self.is(Fault::RecordsForAnyone))
        };
        let mut before = Vec::new();
        {
            let (shared, _) = self.shared();
            let Some(row) = shared.rows.get(&id) else {
                let makes = self.is(Fault::RecordsNothingIntoSomething);
                return Ok(if makes {
                    Ownership::Held
                } else {
                    Ownership::Lost
                });
            };
            if !owns(row) {
                return Ok(Ownership::Lost);
            }
            before.extend(row.steps.iter().cloned());
        }
        if self.is(Fault::RecordsOneStepAtOnce) || self.is(Fault::LooksThenRecords) {
            yield_now().await;
        }
        let (mut shared, _) = self.shared();
        let mut step = step.clone();
        if self.is(Fault::TrimsNames) {
            step.name.truncate(step.name.trim_end_matches(' ').len());
        }
        if self.is(Fault::CutsSteps) {
            step.result.truncate(60_000);
        }
        let others = self.is(Fault::MixesSteps);
        for (other, row) in &mut shared.rows {
            if !(*other == id && owns(row) || others && row.claim.nonce == lease.claim.nonce) {
                continue;
            }
            if self.is(Fault::RecordsOneStepAtOnce) {
                row.steps.clone_from(&before);
            }
            if self.is(Fault::KeepsTheStepsOfOneAttempt) && row.attempt > 1 {
                row.steps.clear();
            }
            match row.steps.iter_mut().find(|kept| kept.name == step.name) {
                Some(kept) if self.is(Fault::ReplacesResults) => *kept = step.clone(),
                Some(_) => {}
                None => row.steps.push(step.clone()),
            }
        }
        Ok(Ownership::Held)
    }

    fn keeps_steps(&self) -> bool {
        true
    }

    async fn look_up(&self, id: &RecordId) -> Result<Option<Record>, StoreError> {
        self.lock(id).await?;
        let (mut shared, now) = self.shared();
        let Some(row) = shared.rows.get_mut(&self.id(id)) else {
            return Ok(None);
        };
        if let (State::InFlight { lapses_at }, true) =
            (&mut row.state, self.is(Fault::RenewsAtALookUp))
        {
            *lapses_at = after(now, row.claim.lease, self.fault);
        }
        let hidden = self.is(Fault::LooksPastTombstones) && matches!(row.state, State::Released);
        Ok((!hidden).then(|| row.record(now, self.fault, None)))
    }

    async fn forget(&self, id: &RecordId, mode: ForgetMode) -> Result<Forgotten, StoreError> {
        self.lock(id).await?;
        let id = self.id(id);
        let (mut shared, now) = self.shared();
        let Some(row) = shared.rows.get(&id) else {
            let wrong = self.is(Fault::ForgetsNothingAsSomething);
            return Ok(if wrong {
                Forgotten::Gone
            } else {
                Forgotten::Absent
            });
        };
        let force = mode.is_forced() || self.is(Fault::ForgetsWhoRuns);
        let found = row.record(now, None, None).version();
        let has_moved = mode.version().is_some_and(|meant| match self.fault {
            Some(Fault::ForgetsWhatMovedOn) => false,
            Some(Fault::ForgetsWhatWasCompletedSince) => {
                (meant.token, meant.attempt) != (found.token, found.attempt)
            }
            _ => meant != found,
        });
        if has_moved {
            return Ok(Forgotten::Moved);
        }
        if row.is_open() && !row.is_lapsed(now) && !force {
            return Ok(Forgotten::InFlight);
        }
        if matches!(row.state, State::Released) && self.is(Fault::ForgetsNoTombstones) {
            return Ok(Forgotten::Absent);
        }
        let removed = shared.rows.remove(&id).expect("it was found");
        shared.over.insert(id, removed);
        if !self.is(Fault::WakesNobodyAfterForgetting) {
            Self::wake(&shared, &id);
        }
        Ok(Forgotten::Gone)
    }

    async fn list(&self, query: &ListQuery) -> Result<RecordPage, StoreError> {
        let (shared, now) = self.shared();
        let age = |row: &Row| {
            let first = usize::from(self.is(Fault::ListsByTheFirstAttempt));
            now - row.claimed[first]
        };
        let over = shared.over.values();
        let over = over.filter(|_| self.is(Fault::ListsWhatIsOver));
        let fits = |row: &&Row| {
            let anyone = self.is(Fault::ListsEveryCaller);
            (query.scope.is_none_or(|scope| scope == row.claim.scope) || anyone)
                && query.older_than.is_none_or(|than| age(row) > than)
                && query
                    .state
                    .is_none_or(|state| listed(row, now, self.fault).state == state)
        };
        let mut rows: Vec<_> = shared.rows.values().chain(over).filter(fits).collect();
        rows.sort_by_key(|row| place(row));
        let after = match query.cursor.as_ref().map(Cursor::as_bytes) {
            Some(cursor) if cursor.len() == 40 => cursor,
            Some(_) if !self.is(Fault::TakesAnyCursor) => {
                return Err(StoreError::invalid_cursor());
            }
            _ => &[],
        };
        let number = after
            .first_chunk()
            .map_or(0, |chunk| usize::from_be_bytes(*chunk));
        if self.is(Fault::ListsByNumber) {
            rows.drain(..number.min(rows.len()));
        } else {
            rows.retain(|row| place(row)[..] > *after);
        }
        let all = rows.len();
        if !self.is(Fault::ListsLongPages) {
            rows.truncate(query.page_size().into());
        }
        let mut next = rows
            .last()
            .map(|row| place(row))
            .filter(|_| rows.len() < all);
        if let (Some(next), true) = (&mut next, self.is(Fault::ListsByNumber)) {
            next[..8].copy_from_slice(&(number + rows.len()).to_be_bytes());
        }
        let records = rows.into_iter().map(|row| listed(row, now, self.fault));
        Ok(RecordPage::new(
            records.collect(),
            next.and_then(Cursor::from_bytes),
        ))
    }

    async fn subscribe(&self, id: &RecordId) -> Result<Subscription, StoreError> {
        let id = self.id(id);
        let (mut shared, _) = self.shared();
        if self.is(Fault::SubscribesOnlyToRecords) && !shared.rows.contains_key(&id) {
            return Ok(Subscription::new(std::future::pending()));
        }
        let change = Arc::clone(shared.changes.entry(id).or_default());
        if self.is(Fault::SubscribesAtTheFirstPoll) {
            return Ok(Subscription::new(async move { change.notified().await }));
        }
        let ends = self
            .is(Fault::EndsEverySubscriptionAtADrop)
            .then(|| Ends(self.clone(), id));
        // The future notices all changes from now on, even before its first
        // poll.
        let changed = change.notified_owned();
        Ok(Subscription::new(async move {
            let _ends = ends;
            changed.await;
        }))
    }
}
