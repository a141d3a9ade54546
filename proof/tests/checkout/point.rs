//! Where an attempt ends, and the store and the partners that end it there.

use std::future::{Future, pending};

use tower_idempotency::store::{
    AnyStore, Claim, Claimed, ForgetMode, Forgotten, Lease, ListQuery, Nonce, Outcome, Ownership,
    Record, RecordId, RecordPage, RecordedStep, Release, Store, StoreError, StoreErrorKind,
    Subscription,
};

use crate::checkout::{Down, Order, Partners, STEPS};
use crate::partners;

/// The points at which an attempt can end: three for each step.
pub(crate) const POINTS: u64 = 12;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// The step is running, and its partner has not been called.
    Before,
    /// The partner has done its part, and the result is not recorded.
    During,
    /// The result is recorded, and the handler does not know it yet.
    After,
}

/// A point in the life of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Point {
    pub(crate) step: usize,
    pub(crate) phase: Phase,
}

impl Point {
    /// The point at which the first attempt of an order ends.
    pub(crate) fn of(order: u64) -> Self {
        let at = usize::try_from(order % POINTS).unwrap();
        Self {
            step: at / 3,
            phase: [Phase::Before, Phase::During, Phase::After][at % 3],
        }
    }

    pub(crate) fn is(self, step: &str, phase: Phase) -> bool {
        STEPS[self.step] == step && self.phase == phase
    }

    /// How often a step's partner is called for the order, if two attempts are made.
    pub(crate) fn calls(self, step: usize) -> usize {
        let again = step == self.step && self.phase == Phase::During;
        1 + usize::from(again)
    }
}

/// What happens to an attempt at its point.
pub(crate) trait Ending: Clone + Send + Sync + 'static {
    fn reached(
        &self,
        order: u64,
        step: &str,
        phase: Phase,
    ) -> impl Future<Output = Result<(), Down>> + Send;
}

/// Nothing ends.
#[derive(Clone)]
pub(crate) struct Never;

impl Ending for Never {
    async fn reached(&self, _: u64, _: &str, _: Phase) -> Result<(), Down> {
        Ok(())
    }
}

/// Stands still at the point for ever, and says so first.
#[derive(Clone)]
pub(crate) struct Held<F>(pub(crate) F);

impl<F, Fut> Ending for Held<F>
where
    F: Fn(u64) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = ()> + Send,
{
    async fn reached(&self, order: u64, step: &str, phase: Phase) -> Result<(), Down> {
        if Point::of(order).is(step, phase) {
            (self.0)(order).await;
            return pending().await;
        }
        Ok(())
    }
}

/// Partners that are called between the first two points of a step.
#[derive(Clone)]
pub(crate) struct Ended<P, E> {
    pub(crate) partners: P,
    pub(crate) ending: E,
}

impl<P: Partners, E: Ending> Partners for Ended<P, E> {
    async fn call(&self, what: &'static str, order: &Order, key: &str) -> Result<u64, Down> {
        let ending = &self.ending;
        ending.reached(order.number, what, Phase::Before).await?;
        let number = self.partners.call(what, order, key).await?;
        ending.reached(order.number, what, Phase::During).await?;
        Ok(number)
    }
}

/// A store that tells of the third point of a step. The name of a step says nothing of its order,
/// so the order is the number that its partner gave: see [`crate::partners`].
#[derive(Clone)]
pub(crate) struct EndedStore<E> {
    pub(crate) store: AnyStore,
    pub(crate) ending: E,
}

/// The order that a partner's number is for. A result is JSON, and 32 bytes of a fingerprint.
fn order_of(step: &RecordedStep) -> u64 {
    let (json, _) = step.result.split_last_chunk::<32>().unwrap();
    let number = std::str::from_utf8(json).unwrap().parse().unwrap();
    partners::order_of(number)
}

impl<E: Ending> Store for EndedStore<E> {
    async fn claim(&self, claim: &Claim) -> Result<Claimed, StoreError> {
        self.store.claim(claim).await
    }
    async fn renew(&self, lease: &Lease) -> Result<Ownership, StoreError> {
        self.store.renew(lease).await
    }
    async fn complete(&self, lease: &Lease, outcome: &Outcome) -> Result<Ownership, StoreError> {
        self.store.complete(lease, outcome).await
    }
    async fn release(
        &self,
        id: &RecordId,
        nonce: &Nonce,
        how: Release,
    ) -> Result<Ownership, StoreError> {
        self.store.release(id, nonce, how).await
    }
    async fn record_step(
        &self,
        lease: &Lease,
        step: &RecordedStep,
    ) -> Result<Ownership, StoreError> {
        let recorded = self.store.record_step(lease, step).await?;
        let reached = self
            .ending
            .reached(order_of(step), &step.name, Phase::After);
        match reached.await {
            Ok(()) => Ok(recorded),
            // The store has the step, and its answer is lost.
            Err(Down(_)) => Err(StoreError::new(
                StoreErrorKind::Refused,
                "as the test wants it",
            )),
        }
    }
    fn keeps_steps(&self) -> bool {
        self.store.keeps_steps()
    }
    async fn look_up(&self, id: &RecordId) -> Result<Option<Record>, StoreError> {
        self.store.look_up(id).await
    }
    async fn forget(&self, id: &RecordId, mode: ForgetMode) -> Result<Forgotten, StoreError> {
        self.store.forget(id, mode).await
    }
    async fn list(&self, query: &ListQuery) -> Result<RecordPage, StoreError> {
        self.store.list(query).await
    }
    async fn subscribe(&self, id: &RecordId) -> Result<Subscription, StoreError> {
        self.store.subscribe(id).await
    }
}
