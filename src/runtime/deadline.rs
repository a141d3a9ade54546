//! A future with a deadline, and a deadline alone.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use pin_project_lite::pin_project;

use crate::runtime::{Handle, Instant, Sleep, sleep};

pin_project! {
    /// Resolves to the future's output, or to `None` once the limit is over. A
    /// future that is ready at its first poll costs no timer.
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

/// A moment that a future can be held against. It costs no timer until it is first polled.
pub(crate) struct Moment {
    at: Instant,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Moment {
    /// `None` if the moment is beyond what the clock can say.
    pub(crate) fn after(time: Duration) -> Option<Self> {
        let at = Instant::now().checked_add(time)?;
        Some(Self { at, timer: None })
    }

    /// Whether the moment has come. Without a runtime, which has the timers, it never comes.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.timer.is_none() && Handle::try_current().is_err() {
            return Poll::Pending;
        }
        let at = self.at;
        let left = || at.saturating_duration_since(Instant::now());
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep(left())));
        timer.as_mut().poll(cx)
    }
}
