//! A memory store that fails or stalls on command, and remembers the calls that
//! it received.

use std::collections::HashMap;
use std::future::{Future, pending};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::task::yield_now;
use tokio::time::sleep;
use tower_idempotency::MemoryStore;
use tower_idempotency::store::{
    Claim, Claimed, ForgetMode, Forgotten, Lease, Outcome, Ownership, Record, RecordedStep,
    Release, Store, StoreError, StoreErrorKind, Subscription,
};
use tower_idempotency::store::{MemoryStats, Nonce, RecordId};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Op {
    Claim,
    Renew,
    Complete,
    Release,
    RecordStep,
    LookUp,
    Forget,
    Subscribe,
}

impl Op {
    pub(crate) const ALL: [Self; 8] = [
        Self::Claim,
        Self::Renew,
        Self::Complete,
        Self::Release,
        Self::RecordStep,
        Self::LookUp,
        Self::Forget,
        Self::Subscribe,
    ];
}

/// What goes wrong with every call of one operation.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fault {
    /// The call returns an error after other tasks had a turn, and is not
    /// carried out.
    Fails(StoreErrorKind),
    /// The call returns an error so much later, and is not carried out.
    FailsLate(Duration),
    /// The call is carried out, and its result is replaced by an error.
    AnswerLost(StoreErrorKind),
    /// The call is not carried out, and never returns.
    Stalls,
    /// The call is carried out, and never returns.
    AnswerStalls,
    /// The call is carried out at once, and returns so much later.
    Late(Duration),
    /// The call is carried out so much later, and returns then.
    ArrivesLate(Duration),
    /// The call panics.
    Panics,
    /// The next call panics, and those after it are carried out.
    PanicsOnce,
    /// The call succeeds, but other tasks get a turn before and after it.
    Yields,
}

/// Wraps a [`MemoryStore`]. A clone is another handle on the same store.
#[derive(Clone, Default)]
pub(crate) struct Steered {
    pub(crate) memory: MemoryStore,
    unguarded: bool,
    told: Arc<Mutex<Told>>,
}

#[derive(Default)]
struct Told {
    faults: HashMap<Op, Fault>,
    calls: HashMap<Op, usize>,
    claims: Vec<Claim>,
    claims_arrive_late: Option<Duration>,
    leases: Vec<Lease>,
    outcomes: Vec<Outcome>,
    steps: Vec<RecordedStep>,
}

impl Steered {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// A store whose leases lapse like those of a remote store: nothing in this
    /// process keeps them alive except renewals.
    pub(crate) fn unguarded() -> Self {
        Self {
            unguarded: true,
            ..Self::default()
        }
    }

    pub(crate) fn let_all(&self, fault: Fault) {
        for op in Op::ALL {
            self.make(op, fault);
        }
    }

    pub(crate) fn make(&self, op: Op, fault: Fault) {
        self.told.lock().unwrap().faults.insert(op, fault);
    }

    /// Claims reach the store so much later, and their calls never return.
    pub(crate) fn let_claims_arrive_late(&self, late: impl Into<Option<Duration>>) {
        self.told.lock().unwrap().claims_arrive_late = late.into();
    }

    pub(crate) fn heal(&self, op: Op) {
        self.told.lock().unwrap().faults.remove(&op);
    }

    /// How often this operation was called.
    pub(crate) fn calls(&self, op: Op) -> usize {
        let told = self.told.lock().unwrap();
        told.calls.get(&op).copied().unwrap_or_default()
    }

    pub(crate) fn stats(&self) -> MemoryStats {
        self.memory.stats()
    }

    pub(crate) fn claims(&self) -> Vec<Claim> {
        self.told.lock().unwrap().claims.clone()
    }

    /// The outcomes that the store was asked to record.
    pub(crate) fn outcomes(&self) -> Vec<Outcome> {
        self.told.lock().unwrap().outcomes.clone()
    }

    /// The steps that the store was asked to record.
    pub(crate) fn steps(&self) -> Vec<RecordedStep> {
        self.told.lock().unwrap().steps.clone()
    }

    /// The debug output of everything that the store received, as a log would
    /// contain it.
    pub(crate) fn debug(&self) -> String {
        let told = self.told.lock().unwrap();
        format!(
            "{:?} {:?} {:?} {:?} {:?}",
            told.claims, told.leases, told.outcomes, told.steps, self.memory
        )
    }

    async fn through<T>(
        &self,
        op: Op,
        call: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let fault = {
            let mut told = self.told.lock().unwrap();
            *told.calls.entry(op).or_default() += 1;
            told.faults.get(&op).copied()
        };
        let failed = |kind| Err(StoreError::new(kind, "as the test wants it"));
        match fault {
            None => call.await,
            Some(Fault::Fails(kind)) => {
                yield_now().await;
                failed(kind)
            }
            Some(Fault::FailsLate(after)) => {
                sleep(after).await;
                failed(StoreErrorKind::NotSent)
            }
            Some(Fault::AnswerLost(kind)) => {
                call.await?;
                failed(kind)
            }
            Some(Fault::Stalls) => pending().await,
            Some(Fault::AnswerStalls) => {
                call.await?;
                pending().await
            }
            Some(Fault::Late(after)) => {
                let answer = call.await;
                sleep(after).await;
                answer
            }
            Some(Fault::ArrivesLate(after)) => {
                sleep(after).await;
                call.await
            }
            Some(Fault::Panics) => panic!("as the test wants it"),
            Some(Fault::PanicsOnce) => {
                self.heal(op);
                panic!("as the test wants it")
            }
            Some(Fault::Yields) => {
                yield_now().await;
                let answer = call.await;
                yield_now().await;
                answer
            }
        }
    }
}

impl Store for Steered {
    async fn claim(&self, claim: &Claim) -> Result<Claimed, StoreError> {
        let arrives_late = {
            let mut told = self.told.lock().unwrap();
            told.claims.push(claim.clone());
            told.claims_arrive_late
        };
        if let Some(late) = arrives_late {
            // The caller may have given up the claim long before it arrives, so
            // a task of its own carries it out.
            let (memory, claim) = (self.memory.clone(), claim.clone());
            tokio::spawn(async move {
                sleep(late).await;
                memory.claim(&claim).await
            });
            return pending().await;
        }
        let claimed = self.through(Op::Claim, self.memory.claim(claim)).await?;
        Ok(match claimed {
            Claimed::Acquired(lease) if self.unguarded => {
                let unguarded = Lease::new(&lease.claim, lease.token, lease.attempt);
                Claimed::Acquired(unguarded.with_steps(lease.steps))
            }
            other => other,
        })
    }

    async fn renew(&self, lease: &Lease) -> Result<Ownership, StoreError> {
        self.through(Op::Renew, self.memory.renew(lease)).await
    }

    async fn complete(&self, lease: &Lease, outcome: &Outcome) -> Result<Ownership, StoreError> {
        {
            let mut told = self.told.lock().unwrap();
            told.leases.push(lease.clone());
            told.outcomes.push(outcome.clone());
        }
        self.through(Op::Complete, self.memory.complete(lease, outcome))
            .await
    }

    async fn release(
        &self,
        id: &RecordId,
        nonce: &Nonce,
        how: Release,
    ) -> Result<Ownership, StoreError> {
        self.through(Op::Release, self.memory.release(id, nonce, how))
            .await
    }

    async fn record_step(
        &self,
        lease: &Lease,
        step: &RecordedStep,
    ) -> Result<Ownership, StoreError> {
        self.told.lock().unwrap().steps.push(step.clone());
        self.through(Op::RecordStep, self.memory.record_step(lease, step))
            .await
    }

    fn keeps_steps(&self) -> bool {
        true
    }

    async fn look_up(&self, id: &RecordId) -> Result<Option<Record>, StoreError> {
        self.through(Op::LookUp, self.memory.look_up(id)).await
    }

    async fn forget(&self, id: &RecordId, mode: ForgetMode) -> Result<Forgotten, StoreError> {
        self.through(Op::Forget, self.memory.forget(id, mode)).await
    }

    async fn subscribe(&self, id: &RecordId) -> Result<Subscription, StoreError> {
        self.through(Op::Subscribe, self.memory.subscribe(id)).await
    }
}
