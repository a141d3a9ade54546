//! Stores without their types.

use std::any::Any;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use crate::record::{Nonce, RecordId};

#[cfg(feature = "memory")]
use super::memory;
#[cfg(feature = "_sql")]
use super::sql::transaction::{TransactionalStore, in_database};
use super::{
    AnyStore, Claim, Claimed, Forgotten, Lease, Outcome, Ownership, Record, Release, Store,
    StoreError, Subscription,
};

/// [`Store`] without its type, so that neither the layer nor its services
/// have a parameter for it.
pub(crate) trait DynStore: Send + Sync {
    fn claim<'a>(&'a self, claim: &'a Claim) -> StoreFuture<'a, Claimed>;
    fn renew<'a>(&'a self, lease: &'a Lease) -> StoreFuture<'a, Ownership>;
    fn complete<'a>(&'a self, lease: &'a Lease, outcome: &'a Outcome)
    -> StoreFuture<'a, Ownership>;
    fn release<'a>(
        &'a self,
        id: &'a RecordId,
        nonce: &'a Nonce,
        how: Release,
    ) -> StoreFuture<'a, Ownership>;
    fn look_up<'a>(&'a self, id: &'a RecordId) -> StoreFuture<'a, Option<Record>>;
    fn forget<'a>(&'a self, id: &'a RecordId, force: bool) -> StoreFuture<'a, Forgotten>;
    fn subscribe<'a>(&'a self, id: &'a RecordId) -> StoreFuture<'a, Subscription>;

    /// The SQL store that it is, or is in front of.
    #[cfg(feature = "_sql")]
    fn in_database(&self) -> Option<&dyn TransactionalStore> {
        None
    }

    /// An outcome as the store gets it.
    #[cfg(feature = "_sql")]
    fn kept(&self, _: &Lease, outcome: Outcome) -> Outcome {
        outcome
    }
}

/// An answer that is there, or one to wait for.
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
            StoreFuture::Now(answer) => {
                Poll::Ready(Ok(answer.take().expect("polled after completion")))
            }
            StoreFuture::Later(answer) => answer.as_mut().poll(cx),
        }
    }
}

/// The memory store answers at once: its calls need no box. A store that was
/// chosen by its URL is erased already.
pub(crate) fn erased(store: impl Store) -> Arc<dyn DynStore> {
    if let Some(any) = (&store as &dyn Any).downcast_ref::<AnyStore>() {
        return Arc::clone(&any.store);
    }
    #[cfg(feature = "memory")]
    if let Some(memory) = (&store as &dyn Any).downcast_ref::<memory::MemoryStore>() {
        return Arc::new(memory::AtOnce(memory.clone()));
    }
    Arc::new(Erased(store))
}

struct Erased<S>(S);

impl<S: Store> DynStore for Erased<S> {
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

    fn look_up<'a>(&'a self, id: &'a RecordId) -> StoreFuture<'a, Option<Record>> {
        StoreFuture::Later(Box::pin(self.0.look_up(id)))
    }

    fn forget<'a>(&'a self, id: &'a RecordId, force: bool) -> StoreFuture<'a, Forgotten> {
        StoreFuture::Later(Box::pin(self.0.forget(id, force)))
    }

    fn subscribe<'a>(&'a self, id: &'a RecordId) -> StoreFuture<'a, Subscription> {
        StoreFuture::Later(Box::pin(self.0.subscribe(id)))
    }

    #[cfg(feature = "_sql")]
    fn in_database(&self) -> Option<&dyn TransactionalStore> {
        in_database(&self.0)
    }
}
