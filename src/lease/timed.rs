//! The store as the layer calls it: every call has a deadline, and observers are told of it.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use pin_project_lite::pin_project;
use tracing::warn;

use crate::lease::LeaseState;
use crate::observer::{Answer, Observers, StoreCall, StoreOperation, StoreResult};
use crate::record::response::RecordedResponse;
use crate::record::{Nonce, Origin, RecordId};
use crate::runtime::Instant;
use crate::runtime::deadline::Deadline;
use crate::store::{
    Claim, Claimed, DynStore, ForgetMode, Forgotten, Grant, Lease, ListQuery, Outcome, Ownership,
    Record, RecordPage, RecordedStep, Release, StoreError, StoreFuture, Subscription,
};

/// The store as the layer uses it: without its type, and with every call bounded
/// by `store_timeout`. A call that takes longer is [`StoreError::timed_out`].
#[derive(Clone)]
pub(crate) struct TimedStore {
    store: Arc<dyn DynStore>,
    timeout: Duration,
    observers: Observers,
}

impl TimedStore {
    pub(crate) fn new(store: Arc<dyn DynStore>, timeout: Duration, observers: Observers) -> Self {
        Self {
            store,
            timeout,
            observers,
        }
    }

    pub(crate) fn observers(&self) -> &Observers {
        &self.observers
    }

    pub(crate) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// The store's records and their bytes, if the store counts them.
    pub(crate) fn size(&self) -> Option<(usize, usize)> {
        self.store.size()
    }

    /// The outcome as the store can keep it: sealed if its completion may be too large.
    pub(crate) fn fitted(&self, outcome: Outcome) -> Outcome {
        let (Outcome::Completed(completion), Some(most)) =
            (&outcome, self.store.largest_completion())
        else {
            return outcome;
        };
        let bytes = completion.stored_size();
        if bytes <= most {
            return outcome;
        }
        warn!(
            bytes,
            most,
            "a response is larger than the store can keep: its operation is done, and retries are \
             rejected with `response-unavailable`"
        );
        outcome.sealed()
    }

    /// The store itself, for calls that are not operations on a record.
    #[cfg(feature = "_sql")]
    pub(crate) fn store(&self) -> &dyn DynStore {
        &*self.store
    }

    /// Bounds any other call of the store.
    #[cfg(feature = "_sql")]
    pub(crate) async fn bound<T>(
        &self,
        call: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let result = Deadline::new(self.timeout, call).await;
        result.unwrap_or_else(|| Err(StoreError::timed_out()))
    }

    pub(crate) fn claim<'a>(&'a self, claim: &'a Claim) -> TimedCall<'a, Claimed> {
        self.call(StoreOperation::Claim, self.timeout, |store| {
            store.claim(claim)
        })
    }

    /// The answer to a claim, from a store that never waits. `origin` is asked for the claim's own
    /// if the claim acquires its record.
    pub(crate) fn claim_at_once<'a>(
        &self,
        claim: &Claim,
        origin: &dyn Fn() -> &'a Origin,
    ) -> Option<Result<Grant, Claimed>> {
        let Some(began) = self.observers.now() else {
            // The answer is large, and stays where the store puts it.
            return self.store.claim_at_once(claim, origin);
        };
        let claimed = self.store.claim_at_once(claim, origin)?;
        let result = match &claimed {
            Ok(_) => StoreResult::Acquired,
            Err(claimed) => claimed.result(),
        };
        self.called(StoreOperation::Claim, result, began);
        Some(claimed)
    }

    /// A renewal that gives up after `limit`, or after `store_timeout` if that is
    /// shorter.
    pub(crate) fn renew_within<'a>(
        &'a self,
        limit: Duration,
        lease: &'a LeaseState,
    ) -> TimedCall<'a, Ownership> {
        let limit = self.timeout.min(limit);
        let operation = if lease.is_observed() {
            StoreOperation::RenewObserved
        } else {
            StoreOperation::Renew
        };
        self.call(operation, limit, |store| store.renew(lease.lease()))
    }

    pub(crate) fn complete<'a>(
        &'a self,
        lease: &'a Lease,
        outcome: &'a Outcome,
    ) -> TimedCall<'a, Ownership> {
        self.call(StoreOperation::Complete, self.timeout, |store| {
            store.complete(lease, outcome)
        })
    }

    /// The answer to the completion of a response, from a store that never waits. `None` if the
    /// store must be asked by [`complete`](Self::complete).
    pub(crate) fn complete_at_once(
        &self,
        lease: &Lease,
        response: &RecordedResponse<'_>,
    ) -> Option<Ownership> {
        let began = self.observers.now();
        let completed = self.store.complete_at_once(lease, response)?;
        if let Some(began) = began {
            self.called(StoreOperation::Complete, completed.result(), began);
        }
        Some(completed)
    }

    pub(crate) fn release<'a>(
        &'a self,
        id: &'a RecordId,
        nonce: &'a Nonce,
        how: Release,
    ) -> TimedCall<'a, Ownership> {
        self.call(StoreOperation::Release, self.timeout, |store| {
            store.release(id, nonce, how)
        })
    }

    /// A call that gives up after `limit`, or after `store_timeout` if that is shorter.
    pub(crate) fn record_step_within<'a>(
        &'a self,
        limit: Duration,
        lease: &'a Lease,
        step: &'a RecordedStep,
    ) -> TimedCall<'a, Ownership> {
        let limit = self.timeout.min(limit);
        self.call(StoreOperation::RecordStep, limit, |store| {
            store.record_step(lease, step)
        })
    }

    pub(crate) fn look_up<'a>(&'a self, id: &'a RecordId) -> TimedCall<'a, Option<Record>> {
        self.call(StoreOperation::LookUp, self.timeout, |store| {
            store.look_up(id)
        })
    }

    pub(crate) fn forget<'a>(
        &'a self,
        id: &'a RecordId,
        mode: ForgetMode,
    ) -> TimedCall<'a, Forgotten> {
        self.call(StoreOperation::Forget, self.timeout, |store| {
            store.forget(id, mode)
        })
    }

    pub(crate) fn list<'a>(&'a self, query: &'a ListQuery) -> TimedCall<'a, RecordPage> {
        self.call(StoreOperation::List, self.timeout, |store| {
            store.list(query)
        })
    }

    pub(crate) fn subscribe<'a>(&'a self, id: &'a RecordId) -> TimedCall<'a, Subscription> {
        self.call(StoreOperation::Subscribe, self.timeout, |store| {
            store.subscribe(id)
        })
    }

    fn call<'a, T>(
        &'a self,
        operation: StoreOperation,
        limit: Duration,
        call: impl FnOnce(&'a dyn DynStore) -> StoreFuture<'a, T>,
    ) -> TimedCall<'a, T> {
        // The time is taken first: a store may do its work before it returns the future.
        let observed = self.observers.now().map(|began| Observed {
            store: self,
            operation,
            began,
        });
        TimedCall {
            call: Deadline::new(limit, call(&*self.store)),
            observed,
        }
    }

    #[cold]
    fn called(&self, operation: StoreOperation, result: StoreResult, began: Instant) {
        let call = StoreCall {
            operation,
            result,
            duration: began.elapsed(),
        };
        self.observers.tell(|observer| observer.called_store(&call));
    }
}

pin_project! {
    /// One call of the store, with its deadline.
    pub(crate) struct TimedCall<'a, T> {
        #[pin]
        call: Deadline<StoreFuture<'a, T>>,
        observed: Option<Observed<'a>>,
    }
}

/// A call that observers are told of.
struct Observed<'a> {
    store: &'a TimedStore,
    operation: StoreOperation,
    began: Instant,
}

impl<T: Answer + Unpin> Future for TimedCall<'_, T> {
    type Output = Result<T, StoreError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let polled = this.call.poll(cx);
        if let (Poll::Ready(answer), Some(observed)) = (&polled, &*this.observed) {
            let result = answer
                .as_ref()
                .map_or(StoreResult::TimedOut, Answer::result);
            observed
                .store
                .called(observed.operation, result, observed.began);
        }
        polled.map(|result| result.unwrap_or_else(|| Err(StoreError::timed_out())))
    }
}

#[cfg(all(test, not(shuttle)))]
mod tests {
    use std::future::ready;
    use std::pin::pin;
    use std::sync::OnceLock;
    use std::task::Waker;
    use std::time::SystemTime;

    use http::StatusCode;

    use super::*;
    use crate::observer::Observer;
    use crate::record::Completion;
    use crate::store::{Store, erased};

    const TOOK: Duration = Duration::from_millis(2);

    /// A store that keeps completions of so many bytes.
    struct Keeps(usize);

    impl Store for Keeps {
        async fn claim(&self, _: &Claim) -> Result<Claimed, StoreError> {
            unreachable!()
        }
        async fn renew(&self, _: &Lease) -> Result<Ownership, StoreError> {
            unreachable!()
        }
        async fn complete(&self, _: &Lease, _: &Outcome) -> Result<Ownership, StoreError> {
            unreachable!()
        }
        /// Takes its time before it returns its future.
        fn release(
            &self,
            _: &RecordId,
            _: &Nonce,
            _: Release,
        ) -> impl Future<Output = Result<Ownership, StoreError>> + Send {
            std::thread::sleep(TOOK);
            ready(Ok(Ownership::Held))
        }
        fn largest_completion(&self) -> Option<usize> {
            Some(self.0)
        }
    }

    #[test]
    fn only_a_completion_that_is_larger_than_the_store_keeps_is_sealed() {
        let completion = Completion::new(StatusCode::OK, "paid", SystemTime::now());
        let size = completion.stored_size();
        let outcome = Outcome::Completed(Arc::new(completion));
        for (most, is_kept) in [(size - 1, false), (size, true), (size + 1, true)] {
            let store = TimedStore::new(
                erased(Keeps(most)),
                Duration::from_secs(1),
                Observers::default(),
            );
            let fitted = store.fitted(outcome.clone());
            assert_eq!(matches!(fitted, Outcome::Completed(_)), is_kept, "{most}");
        }
    }

    /// Keeps how long a call took.
    struct Took(Arc<OnceLock<Duration>>);

    impl Observer for Took {
        fn called_store(&self, call: &StoreCall) {
            self.0.set(call.duration).unwrap();
        }
    }

    #[test]
    fn a_call_takes_as_long_as_a_store_that_works_before_it_returns_its_future() {
        let told = Arc::new(OnceLock::new());
        let observers = Observers::new(vec![Arc::new(Took(Arc::clone(&told)))]);
        let store = TimedStore::new(erased(Keeps(0)), Duration::from_secs(1), observers);
        let (id, nonce) = (RecordId::from_bytes([1; 32]), Nonce::random());
        let released = pin!(store.release(&id, &nonce, Release::MayRunAgain));
        assert!(
            released
                .poll(&mut Context::from_waker(Waker::noop()))
                .is_ready()
        );
        assert!(told.get() >= Some(&TOOK), "{told:?}");
    }
}
