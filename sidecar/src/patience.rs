//! How long the other side may pause.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Sleep, sleep};

/// How long the other side may pause. The time runs only while something is waited for.
#[derive(Debug)]
pub(crate) struct Patience {
    timeout: Duration,
    ends: Option<Pin<Box<Sleep>>>,
}

impl Patience {
    pub(crate) fn new(timeout: Duration) -> Self {
        Self {
            timeout,
            ends: None,
        }
    }

    /// The other side has done something.
    pub(crate) fn restart(&mut self) {
        self.ends = None;
    }

    /// Nothing has come yet. Completes when the other side has paused for too long.
    pub(crate) fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let timeout = self.timeout;
        let ends = self.ends.get_or_insert_with(|| Box::pin(sleep(timeout)));
        ready!(ends.as_mut().poll(cx));
        // A `Sleep` that has completed must not be polled again.
        self.ends = None;
        Poll::Ready(())
    }
}
