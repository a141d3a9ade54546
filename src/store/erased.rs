//! Stores without their types: what a layer keeps.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use crate::record::response::RecordedResponse;
use crate::record::{Nonce, Origin, RecordId};

#[cfg(feature = "_sql")]
use super::sql::transaction::TransactionalStore;
use super::{
    Claim, Claimed, ForgetMode, Forgotten, Grant, Lease, ListQuery, Outcome, Ownership, Record,
    RecordPage, RecordedStep, Release, Store, StoreError, Subscription,
};

/// [`Store`] without its type, so that neither the layer nor its services have
/// a type parameter for the store.
pub(crate) trait DynStore: Send + Sync {
    fn claim<'a>(&'a self, claim: &'a Claim) -> StoreFuture<'a, Claimed>;
    /// As [`claim`](Self::claim), by a store that never waits. `origin` has the origin of a claim that
    /// acquires its record, instead of the claim: a claim that finds a completion never asks. What else
    /// the store answers is the inner `Err`.
    fn claim_at_once<'a>(
        &self,
        _: &Claim,
        _: &dyn Fn() -> &'a Origin,
    ) -> Option<Result<Grant, Claimed>> {
        None
    }

    fn renew<'a>(&'a self, lease: &'a Lease) -> StoreFuture<'a, Ownership>;
    fn complete<'a>(&'a self, lease: &'a Lease, outcome: &'a Outcome)
    -> StoreFuture<'a, Ownership>;
    /// As [`complete`](Self::complete), by a store that never waits and keeps completions in a form
    /// of its own. `None` also where that store has no room for the completion.
    fn complete_at_once(&self, _: &Lease, _: &RecordedResponse<'_>) -> Option<Ownership> {
        None
    }

    fn release<'a>(
        &'a self,
        id: &'a RecordId,
        nonce: &'a Nonce,
        how: Release,
    ) -> StoreFuture<'a, Ownership>;
    fn record_step<'a>(
        &'a self,
        lease: &'a Lease,
        step: &'a RecordedStep,
    ) -> StoreFuture<'a, Ownership>;
    fn keeps_steps(&self) -> bool;
    fn look_up<'a>(&'a self, id: &'a RecordId) -> StoreFuture<'a, Option<Record>>;
    fn forget<'a>(&'a self, id: &'a RecordId, mode: ForgetMode) -> StoreFuture<'a, Forgotten>;
    fn list<'a>(&'a self, query: &'a ListQuery) -> StoreFuture<'a, RecordPage>;
    fn subscribe<'a>(&'a self, id: &'a RecordId) -> StoreFuture<'a, Subscription>;

    /// As [`Store::largest_completion`].
    fn largest_completion(&self) -> Option<usize> {
        None
    }

    /// The records that the store holds, and about how many bytes they take, if the store counts
    /// them.
    fn size(&self) -> Option<(usize, usize)> {
        None
    }

    /// The SQL store that this store is, or passes its operations on to.
    fn transactional(&self) -> Option<Transactional<'_>>;

    #[cfg(feature = "_sql")]
    fn in_database(&self) -> Option<&dyn TransactionalStore> {
        self.transactional().map(|found| found.0)
    }

    /// The outcome as this store would store it: with an encrypted completion,
    /// if this store encrypts. For a completion inside a handler's transaction,
    /// which does not pass through [`complete`](Self::complete).
    #[cfg(feature = "_sql")]
    fn kept(&self, _: &Lease, outcome: Outcome) -> Outcome {
        outcome
    }

    /// What [`record_step`](Self::record_step) keeps of a step.
    #[cfg(feature = "_sql")]
    fn kept_step(&self, _: &Lease, step: RecordedStep) -> RecordedStep {
        step
    }
}

/// The result of a store's operation, or its future. `Now` spares the memory
/// store, whose operations never wait, a box for each call.
pub(crate) enum StoreFuture<'a, T> {
    #[cfg(feature = "memory")]
    Now(Option<T>),
    Later(Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>),
}

impl<T: Unpin> Future for StoreFuture<'_, T> {
    type Output = Result<T, StoreError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.get_mut() {
            #[cfg(feature = "memory")]
            StoreFuture::Now(result) => {
                Poll::Ready(Ok(result.take().expect("polled after completion")))
            }
            StoreFuture::Later(future) => future.as_mut().poll(cx),
        }
    }
}

/// A store without its type.
#[expect(
    unnameable_types,
    missing_debug_implementations,
    reason = "only the stores of this crate return one"
)]
pub struct ErasedStore(pub(super) Arc<dyn DynStore>);

/// The SQL store that a [`Store`] is, or passes its operations on to: what
/// [`Store::transactional`] returns.
#[derive(Clone, Copy)]
pub struct Transactional<'a>(TransactionalInner<'a>);

#[cfg(feature = "_sql")]
type TransactionalInner<'a> = &'a dyn TransactionalStore;
/// Without an SQL store there is no value of this type.
#[cfg(not(feature = "_sql"))]
type TransactionalInner<'a> = (std::convert::Infallible, std::marker::PhantomData<&'a ()>);

#[cfg(feature = "_sql")]
impl<'a> Transactional<'a> {
    pub(crate) fn new(store: &'a dyn TransactionalStore) -> Self {
        Self(store)
    }
}

impl fmt::Debug for Transactional<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transactional").finish_non_exhaustive()
    }
}

/// Erases the type of a store, unless the store does so better itself.
pub(crate) fn erased(store: impl Store) -> Arc<dyn DynStore> {
    match store.erase() {
        Some(ErasedStore(store)) => store,
        None => Arc::new(Boxed(store)),
    }
}

/// A store whose operations are boxed futures.
struct Boxed<S>(S);

impl<S: Store> DynStore for Boxed<S> {
    fn claim<'a>(&'a self, claim: &'a Claim) -> StoreFuture<'a, Claimed> {
        StoreFuture::Later(Box::pin(self.0.claim(claim)))
    }

    fn renew<'a>(&'a self, lease: &'a Lease) -> StoreFuture<'a, Ownership> {
        StoreFuture::Later(Box::pin(self.0.renew(lease)))
    }

    fn complete<'a>(
        &'a self,
        lease: &'a Lease,
        outcome: &'a Outcome,
    ) -> StoreFuture<'a, Ownership> {
        StoreFuture::Later(Box::pin(self.0.complete(lease, outcome)))
    }

    fn release<'a>(
        &'a self,
        id: &'a RecordId,
        nonce: &'a Nonce,
        how: Release,
    ) -> StoreFuture<'a, Ownership> {
        StoreFuture::Later(Box::pin(self.0.release(id, nonce, how)))
    }

    fn record_step<'a>(
        &'a self,
        lease: &'a Lease,
        step: &'a RecordedStep,
    ) -> StoreFuture<'a, Ownership> {
        StoreFuture::Later(Box::pin(self.0.record_step(lease, step)))
    }

    fn keeps_steps(&self) -> bool {
        self.0.keeps_steps()
    }

    fn look_up<'a>(&'a self, id: &'a RecordId) -> StoreFuture<'a, Option<Record>> {
        StoreFuture::Later(Box::pin(self.0.look_up(id)))
    }

    fn forget<'a>(&'a self, id: &'a RecordId, mode: ForgetMode) -> StoreFuture<'a, Forgotten> {
        StoreFuture::Later(Box::pin(self.0.forget(id, mode)))
    }

    fn list<'a>(&'a self, query: &'a ListQuery) -> StoreFuture<'a, RecordPage> {
        StoreFuture::Later(Box::pin(self.0.list(query)))
    }

    fn subscribe<'a>(&'a self, id: &'a RecordId) -> StoreFuture<'a, Subscription> {
        StoreFuture::Later(Box::pin(self.0.subscribe(id)))
    }

    fn largest_completion(&self) -> Option<usize> {
        self.0.largest_completion()
    }

    fn transactional(&self) -> Option<Transactional<'_>> {
        self.0.transactional()
    }
}
