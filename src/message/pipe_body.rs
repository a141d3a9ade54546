//! The client's side of a pipe.

use std::mem;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::HeaderMap;
use http_body::Frame;

use crate::message::body::BoxError;
use crate::message::pipe::{End, Pipe, ReadsNothing, wake};
use crate::runtime::deadline::Moment;

/// The client's side of the pipe. Dropped before the end, it leaves the reading task
/// to go on without a client.
pub(crate) struct PipeBody {
    pipe: Arc<Pipe>,
    /// How many bytes of a known length are not yet sent.
    to_come: Option<u64>,
    /// When the client stops waiting, and the trailers that it gets then. Boxed, because
    /// hardly any response has a deadline.
    deadline: Option<Box<(Moment, HeaderMap)>>,
}

impl PipeBody {
    pub(crate) fn new(pipe: Arc<Pipe>, exact_length: Option<u64>) -> Self {
        Self {
            pipe,
            to_come: exact_length,
            deadline: None,
        }
    }

    /// Ends the body with these trailers at the deadline. The reading task goes on.
    pub(crate) fn ends_at(&mut self, deadline: Moment, trailers: HeaderMap) {
        self.deadline = Some(Box::new((deadline, trailers)));
    }

    pub(crate) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let account = self.pipe.account.as_ref();
        let copies = account.is_some_and(|account| account.gives_copies());
        let mut state = self.pipe.lock();
        if let Some(data) = state.pop(copies) {
            let reader = state.reader_to_wake();
            drop(state);
            wake(reader);
            let sent = data.len() as u64;
            self.to_come = self.to_come.map(|left| left.saturating_sub(sent));
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        if state.left && state.end.is_none() {
            drop(state);
            self.close();
            return Poll::Ready(Some(Err(ReadsNothing.into())));
        }
        let Some(end) = state.end.replace(End::Delivered) else {
            state.end = None;
            // The waker is stored under the lock in which nothing to send was found, so
            // the next `push` or `end` wakes this client.
            match &mut state.sender {
                Some(sender) => sender.clone_from(cx.waker()),
                none => *none = Some(cx.waker().clone()),
            }
            drop(state);
            return self.poll_deadline(cx).map(|trailers| {
                self.close();
                Some(Ok(Frame::trailers(trailers)))
            });
        };
        drop(state);
        Poll::Ready(match end {
            End::Full(trailers) => trailers.map(|trailers| Ok(Frame::trailers(trailers))),
            End::Broken(error) => Some(Err(error)),
            End::Panicked(panic) => resume_unwind(panic),
            End::Delivered => None,
        })
    }

    fn poll_deadline(&mut self, cx: &mut Context<'_>) -> Poll<HeaderMap> {
        match self.deadline.as_deref_mut() {
            Some((deadline, trailers)) => deadline.poll(cx).map(|()| mem::take(trailers)),
            None => Poll::Pending,
        }
    }

    /// Leaves the reading task to go on without a client. The end that the task comes to is
    /// nobody's from here on.
    fn close(&mut self) {
        self.pipe.leave();
        self.pipe = Arc::new(Pipe::default());
        self.pipe.end(None, End::Delivered);
    }

    /// Whether the client has everything.
    pub(crate) fn is_end(&self) -> bool {
        self.pipe.lock().is_end()
    }

    pub(crate) fn to_come(&self) -> Option<u64> {
        self.to_come
    }
}

impl Drop for PipeBody {
    fn drop(&mut self) {
        self.pipe.leave();
    }
}
