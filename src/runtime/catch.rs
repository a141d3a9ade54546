//! A future whose panics are caught.

use std::any::Any;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};

use pin_project_lite::pin_project;

/// What a panic carries.
pub(crate) type Panic = Box<dyn Any + Send>;

pin_project! {
    /// Catches the panics of a call, and those of every poll of the future that
    /// the call returns. A future that panicked is not polled again.
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

    /// Nothing yet, for a future that [`begin`](Self::begin) puts where it stays.
    pub(crate) const fn idle() -> Self {
        Self {
            future: None,
            panic: None,
        }
    }

    /// As [`call`](Self::call).
    pub(crate) fn begin(self: Pin<&mut Self>, call: impl FnOnce() -> F) {
        let mut this = self.project();
        match catch_unwind(AssertUnwindSafe(call)) {
            Ok(future) => this.future.set(Some(future)),
            Err(panic) => *this.panic = Some(panic),
        }
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
