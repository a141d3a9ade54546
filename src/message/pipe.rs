//! A response body that is sent while it is read: the pipe between the task that
//! reads the handler's body and the body that the server polls for the client.

use std::collections::VecDeque;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body::Frame;

use crate::message::body::BoxError;
use crate::runtime::background::{Background, BackgroundTask};
use crate::runtime::catch::Panic;
use crate::runtime::deadline::Moment;
use crate::runtime::{Mutex, MutexGuard};

/// How many bytes may wait for the client, beside one frame, once the body is too
/// large to record.
const AHEAD: usize = 64 << 10;
/// Frames of fewer bytes are joined while they wait for the client.
const SMALL: usize = 1 << 10;

/// The bytes that were read and not yet sent, and how the body ends.
#[derive(Default)]
pub(crate) struct Pipe(Mutex<State>);

#[derive(Default)]
struct State {
    frames: VecDeque<Bytes>,
    /// Small frames, joined. They come after `frames`.
    small: BytesMut,
    /// The number of bytes in `frames` and `small`.
    bytes: usize,
    end: Option<End>,
    /// Set once the client has left: the operation then counts as one without a
    /// client.
    left: Option<BackgroundTask>,
    /// Wakes the client's side when there is something to send.
    sender: Option<Waker>,
    /// Wakes the reading task when the client takes something, or leaves.
    reader: Option<Waker>,
    reader_is_held_up: bool,
}

/// How the body ends for the client.
pub(crate) enum End {
    Full(Option<HeaderMap>),
    Broken(BoxError),
    Panicked(Panic),
    /// The end has been handed to the client; later polls return `None`.
    Delivered,
}

/// Whether the reading task is to read on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Demand {
    More,
    /// As much as may wait for the client is waiting: the task is woken later.
    Enough,
    Gone,
}

impl Pipe {
    /// The lock guards short copies only. Wakers are called after the lock is
    /// released: a waker is code of the runtime's, and may poll the other side, which
    /// takes this lock.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock()
    }

    /// Adds data for the client.
    pub(crate) fn push(&self, data: Bytes) {
        let mut state = self.lock();
        state.push(data);
        // Without the wake-up a client that has read everything would wait for ever.
        let sender = state.sender.take();
        drop(state);
        wake(sender);
    }

    /// Adds the last data and the end in one step: the client never has all bytes
    /// of a body without its end.
    pub(crate) fn end(&self, last: Option<Bytes>, end: End) {
        let mut state = self.lock();
        if let Some(data) = last {
            state.push(data);
        }
        state.end = Some(end);
        // Data and end are set under one lock: a client that polls between the two would
        // have all bytes of the body, and take it for complete, before the end is known.
        let sender = state.sender.take();
        drop(state);
        wake(sender);
    }

    /// Ends the body with an error, unless the body has an end already.
    pub(crate) fn cut(&self, error: impl FnOnce() -> BoxError) {
        if self.lock().end.is_none() {
            self.end(None, End::Broken(error()));
        }
    }

    /// What the client needs. If that changes, the task of `cx` is woken.
    pub(crate) fn demand(&self, bounded: bool, cx: &mut Context<'_>) -> Demand {
        let mut state = self.lock();
        if state.left.is_some() {
            return Demand::Gone;
        }
        // The waker is stored under the lock in which the state was read: a client that
        // takes data, or leaves, right after that finds the waker and wakes the task.
        state.reader_is_held_up = bounded && state.bytes > AHEAD;
        match &mut state.reader {
            Some(reader) => reader.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        if state.reader_is_held_up {
            Demand::Enough
        } else {
            Demand::More
        }
    }
}

impl State {
    fn push(&mut self, data: Bytes) {
        if data.is_empty() || self.left.is_some() {
            return;
        }
        self.bytes += data.len();
        if data.len() < SMALL {
            self.small.extend_from_slice(&data);
            return;
        }
        if !self.small.is_empty() {
            let small = self.small.split().freeze();
            self.frames.push_back(small);
        }
        self.frames.push_back(data);
    }

    fn pop(&mut self) -> Option<Bytes> {
        let data = match self.frames.pop_front() {
            None if self.small.is_empty() => return None,
            None => self.small.split().freeze(),
            Some(data) => data,
        };
        self.bytes -= data.len();
        Some(data)
    }
}

fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}

/// The client's side of the pipe. Dropped before the end, it leaves the reading task
/// to go on without a client.
pub(crate) struct PipeBody {
    stream: Arc<Pipe>,
    /// Counts the operation once its client has left. `None` for a body that has
    /// ended already.
    detached: Option<Arc<Background>>,
    /// How many bytes of a known length are not yet sent.
    to_come: Option<u64>,
    /// When the client stops waiting, and the trailers that it gets then. Boxed, because
    /// hardly any response has a deadline.
    deadline: Option<Box<(Moment, HeaderMap)>>,
}

impl PipeBody {
    pub(crate) fn new(
        stream: Arc<Pipe>,
        detached: &Arc<Background>,
        exact_length: Option<u64>,
    ) -> Self {
        Self {
            stream,
            detached: Some(Arc::clone(detached)),
            to_come: exact_length,
            deadline: None,
        }
    }

    /// The client's side of a pipe that has ended already.
    pub(crate) fn of_ended(stream: Pipe) -> Self {
        Self {
            stream: Arc::new(stream),
            detached: None,
            to_come: None,
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
        let mut state = self.stream.lock();
        if let Some(data) = state.pop() {
            // The reading task is woken only if it waits for this: each wake-up costs a
            // poll of the handler's body.
            let goes_on = state.reader_is_held_up && state.bytes <= AHEAD;
            let reader = goes_on.then(|| state.reader.take()).flatten();
            drop(state);
            wake(reader);
            let sent = data.len() as u64;
            self.to_come = self.to_come.map(|left| left.saturating_sub(sent));
            return Poll::Ready(Some(Ok(Frame::data(data))));
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
                self.leave();
                // The end that the reading task comes to is nobody's from here on.
                self.stream = Arc::new(Pipe::default());
                self.stream.end(None, End::Delivered);
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
            Some((deadline, trailers)) => deadline.poll(cx).map(|()| std::mem::take(trailers)),
            None => Poll::Pending,
        }
    }

    /// Whether the client has everything.
    pub(crate) fn is_end(&self) -> bool {
        let state = self.stream.lock();
        state.bytes == 0 && matches!(state.end, Some(End::Full(None) | End::Delivered))
    }

    pub(crate) fn to_come(&self) -> Option<u64> {
        self.to_come
    }
}

impl PipeBody {
    /// Leaves the reading task to go on without a client.
    fn leave(&mut self) {
        let mut state = self.stream.lock();
        let Some(detached) = self.detached.as_ref().filter(|_| state.end.is_none()) else {
            return;
        };
        // The operation counts as one without a client before the lock is released:
        // `drain` must not see zero while the reading task goes on.
        state.left = Some(detached.enter());
        let unsent = (
            std::mem::take(&mut state.frames),
            std::mem::take(&mut state.small),
        );
        state.bytes = 0;
        // A task that is held up by this client would otherwise wait for it for ever.
        let reader = state.reader.take();
        drop(state);
        // The data are dropped after the lock is released: they may be the last part of
        // a large buffer.
        drop(unsent);
        wake(reader);
    }
}

impl Drop for PipeBody {
    fn drop(&mut self) {
        self.leave();
    }
}
