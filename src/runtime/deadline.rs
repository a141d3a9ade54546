//! Futures with a limit, and futures that may panic.

use std::any::Any;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use pin_project_lite::pin_project;

use crate::layer::Shared;
use crate::runtime::{Sleep, sleep};
use crate::store::StoreError;

impl Shared {
    /// An answer of the store, or an error once `store_timeout` is over.
    pub(crate) async fn within<T>(
        &self,
        call: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let answer = Deadline::new(self.store_timeout, call).await;
        answer.unwrap_or_else(|| Err(StoreError::timed_out()))
    }
}

pin_project! {
    /// A future's output, or `None` once the limit is over. What is ready at
    /// once costs no timer.
    pub(crate) struct Deadline<F> {
        #[pin]
        future: F,
        limit: Duration,
        timer: Option<Pin<Box<Sleep>>>,
    }
}

impl<F> Deadline<F> {
    pub(crate) fn new(limit: Duration, future: F) -> Self {
        Self {
            future,
            limit,
            timer: None,
        }
    }
}

impl<F: Future> Future for Deadline<F> {
    type Output = Option<F::Output>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        if let Poll::Ready(output) = this.future.poll(cx) {
            return Poll::Ready(Some(output));
        }
        let limit = *this.limit;
        let timer = this.timer.get_or_insert_with(|| Box::pin(sleep(limit)));
        timer.as_mut().poll(cx).map(|()| None)
    }
}

/// What a panic was about.
pub(crate) type Panic = Box<dyn Any + Send>;

pin_project! {
    /// Catches panics of a call, and around every poll of its future. What
    /// panicked is not polled again.
    pub(crate) struct CatchUnwind<F> {
        #[pin]
        future: Option<F>,
        panic: Option<Panic>,
    }
}

impl<F> CatchUnwind<F> {
    pub(crate) fn call(call: impl FnOnce() -> F) -> Self {
        let (future, panic) = match catch_unwind(AssertUnwindSafe(call)) {
            Ok(future) => (Some(future), None),
            Err(panic) => (None, Some(panic)),
        };
        Self { future, panic }
    }
}

impl<F: Future> Future for CatchUnwind<F> {
    type Output = Result<F::Output, Panic>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let Some(future) = this.future.as_pin_mut() else {
            let panic = this.panic.take().expect("polled after completion");
            return Poll::Ready(Err(panic));
        };
        match catch_unwind(AssertUnwindSafe(|| future.poll(cx))) {
            Ok(poll) => poll.map(Ok),
            Err(panic) => Poll::Ready(Err(panic)),
        }
    }
}
