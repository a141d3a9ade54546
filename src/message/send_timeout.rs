//! How long data may wait for a client that reads nothing.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use crate::message::pipe::{Demand, Pipe};
use crate::runtime::{Instant, Sleep, sleep};

/// Lets a client go that has taken nothing for so long, though data waited for it. A server does
/// not poll the body of a client that does not read, so another task has to look.
pub(crate) struct SendTimeout {
    limit: Duration,
    /// One timer for all waits of a response: it is set again when it is due too early.
    timer: Option<Pin<Box<Sleep>>>,
}

impl SendTimeout {
    pub(crate) fn new(limit: Duration) -> Self {
        Self { limit, timer: None }
    }

    pub(crate) fn limit(&self) -> Duration {
        self.limit
    }

    /// Resolves once the client was let go.
    pub(crate) fn poll(&mut self, pipe: &Pipe, cx: &mut Context<'_>) -> Poll<()> {
        while let Some(since) = pipe.unread_since() {
            let Some(due) = since.checked_add(self.limit) else {
                break;
            };
            let left = due.saturating_duration_since(Instant::now());
            let timer = self.timer.get_or_insert_with(|| Box::pin(sleep(left)));
            ready!(timer.as_mut().poll(cx));
            self.timer = None;
            if pipe.let_go(self.limit) {
                return Poll::Ready(());
            }
        }
        Poll::Pending
    }

    /// Stays with a response that has ended, until the client has taken all but what any
    /// response may have waiting for its client, or is gone.
    pub(crate) async fn until_taken(mut self, pipe: &Pipe) {
        poll_fn(|cx| match pipe.demand(true, cx) {
            Demand::Enough => self.poll(pipe, cx),
            Demand::More | Demand::Gone => Poll::Ready(()),
        })
        .await;
    }
}
