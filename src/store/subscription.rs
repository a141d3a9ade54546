//! Waiting for a change of one record.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use crate::runtime::{Instant, sleep};

/// Resolves after the next change of one record: the result of
/// [`Store::subscribe`](super::Store::subscribe).
///
/// A subscription may resolve too early, so only a claim decides. A waiter
/// subscribes, *then* claims: the claim sees a change before it, and a change
/// after the claim resolves the subscription, so that no change is missed. A
/// lease that lapses does not resolve a subscription: the waiter sets a timer
/// for that.
///
/// A release may resolve just one of a record's subscriptions. Its waiter then
/// keeps that subscription until its next claim has returned: if the
/// subscription is dropped while the record can still be claimed, the next
/// subscription resolves.
///
/// ```
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> Result<(), tower_idempotency::store::StoreError> {
/// use tokio::time::timeout;
/// use tower_idempotency::store::{Claim, Claimed, RecordState, Release, Store};
/// use tower_idempotency::MemoryStore;
/// use tower_idempotency::store::{Fingerprint, RecordId, ScopeDigest};
///
/// let store = MemoryStore::new();
/// let id = RecordId::from_bytes([1; 32]);
/// let claim = || Claim::new(id, ScopeDigest::from_bytes([2; 32]), Fingerprint::from_bytes([3; 32]));
/// let Claimed::Acquired(first) = store.claim(&claim()).await? else { panic!() };
/// # let owner = store.clone();
/// tokio::spawn(async move { owner.release(&id, &first.claim.nonce, Release::MayRunAgain).await });
///
/// let mut turn = None;
/// let second = loop {
///     let mut changed = store.subscribe(&id).await?;
///     let claimed = store.claim(&claim()).await?;
///     drop(turn.take());
///     match claimed {
///         Claimed::Acquired(lease) => break lease,
///         Claimed::Found(record) => match record.state {
///             RecordState::InFlight { lapses_in, .. } => {
///                 // Changed or lapsed: the next claim says which.
///                 let _ = timeout(lapses_in, &mut changed).await;
///                 turn = Some(changed);
///             }
///             done => panic!("to be replayed: {done:?}"),
///         },
///         full => panic!("{full:?}"),
///     }
/// };
/// assert_eq!(second.attempt, 2);
/// # Ok(())
/// # }
/// ```
#[must_use = "dropping it ends it"]
pub struct Subscription {
    change: Pin<Box<dyn Future<Output = ()> + Send>>,
    resolved: bool,
}

impl Subscription {
    /// A subscription that resolves when `change` does. `change` is dropped
    /// together with the subscription, not before: `Drop` of `change` can pass
    /// a wake-up on.
    pub fn new(change: impl Future<Output = ()> + Send + 'static) -> Self {
        Self {
            change: Box::pin(change),
            resolved: false,
        }
    }

    /// A subscription that resolves after `time`, for stores without
    /// notifications. Awaiting it needs a tokio runtime with timers.
    pub fn after(time: Duration) -> Self {
        let start = Instant::now();
        Self::new(async move { sleep(time.saturating_sub(start.elapsed())).await })
    }
}

impl Future for Subscription {
    type Output = ();

    /// Ready at every poll after the first time.
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if !self.resolved {
            ready!(self.change.as_mut().poll(cx));
            self.resolved = true;
        }
        Poll::Ready(())
    }
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscription")
            .field("resolved", &self.resolved)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::task::Waker;

    use super::*;
    use crate::record::{Nonce, RecordId};
    use crate::store::{Claim, Claimed, Lease, Outcome, Ownership, Release, Store, StoreError};

    struct Unwatched;

    impl Store for Unwatched {
        async fn claim(&self, _: &Claim) -> Result<Claimed, StoreError> {
            Ok(Claimed::OverCapacity)
        }
        async fn renew(&self, _: &Lease) -> Result<Ownership, StoreError> {
            Ok(Ownership::Lost)
        }
        async fn complete(&self, _: &Lease, _: &Outcome) -> Result<Ownership, StoreError> {
            Ok(Ownership::Lost)
        }
        async fn release(
            &self,
            _: &RecordId,
            _: &Nonce,
            _: Release,
        ) -> Result<Ownership, StoreError> {
            Ok(Ownership::Lost)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_without_wake_ups_is_asked_again_every_quarter_of_a_second() {
        let start = Instant::now();
        let id = RecordId::from_bytes([1; 32]);
        let mut changed = Arc::new(Unwatched).subscribe(&id).await.unwrap();
        (&mut changed).await;
        assert_eq!(start.elapsed().as_millis(), 250);
        // Once ready it stays so.
        changed.await;
        assert_eq!(start.elapsed().as_millis(), 250);
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_counts_from_when_it_was_made() {
        let start = Instant::now();
        let changed = Subscription::after(Duration::from_millis(250));
        tokio::time::advance(Duration::from_millis(200)).await;
        changed.await;
        assert_eq!(start.elapsed().as_millis(), 250);
    }

    #[test]
    fn what_a_subscription_waits_for_lives_as_long_as_it_does() {
        let held = Arc::new(());
        let seen = Arc::downgrade(&held);
        let mut changed = Subscription::new(Holding(held));
        let mut cx = Context::from_waker(Waker::noop());
        assert!(Pin::new(&mut changed).poll(&mut cx).is_ready());
        assert!(seen.upgrade().is_some());
        drop(changed);
        assert!(seen.upgrade().is_none());
    }

    struct Holding(#[expect(dead_code, reason = "held")] Arc<()>);

    impl Future for Holding {
        type Output = ();

        fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
            Poll::Ready(())
        }
    }
}
