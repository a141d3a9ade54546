//! A response body that is sent while it is read: the pipe between the task that
//! reads the handler's body and the body that the server polls for the client.

use std::collections::VecDeque;
use std::error::Error;
use std::fmt;
use std::mem;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::HeaderMap;

use crate::limits::{Account, Holding, LetGo, Resource, Unsent};
use crate::message::body::BoxError;
use crate::message::kept::{AHEAD, Kept, Room};
use crate::runtime::catch::Panic;
use crate::runtime::{Instant, Mutex, MutexGuard};

/// Frames of fewer bytes are joined while they wait for the client.
const SMALL: usize = 1 << 10;

/// The bytes that were read and not yet sent, and how the body ends.
#[derive(Default)]
pub(crate) struct Pipe {
    state: Mutex<State>,
    /// For whom the body is kept, and for whom its operation counts once its client has left.
    /// `None` for a short body that has ended already.
    pub(super) account: Option<Arc<Account>>,
}

#[derive(Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is true or false whatever the others are"
)]
pub(super) struct State {
    /// The body from its beginning, while it is to be recorded and until the client has
    /// taken it.
    kept: Option<Kept>,
    /// Whether the bytes in `kept` are still to be recorded.
    is_recorded: bool,
    /// Data that are not recorded. They come after `kept`.
    frames: VecDeque<Bytes>,
    /// Small frames, joined. They come after `frames`.
    small: BytesMut,
    /// The number of bytes that the client may have and has not yet taken.
    bytes: usize,
    /// Since when data wait for the client, and it has taken none.
    unread_since: Option<Instant>,
    /// Whether the client has taken data since its caller needed room last.
    reads: bool,
    pub(super) end: Option<End>,
    /// Set once the client has left, or was let go.
    pub(super) left: bool,
    /// Counts the operation as one without a client until it ends.
    without_client: Option<Holding>,
    /// Wakes the client's side when there is something to send.
    pub(super) sender: Option<Waker>,
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
    /// A pipe for a body that is to be recorded, as far as there is room.
    pub(crate) fn new(account: &Arc<Account>, room: Room) -> Self {
        Self {
            state: Mutex::new(State {
                kept: Some(Kept::in_room(room)),
                is_recorded: true,
                ..State::default()
            }),
            account: Some(Arc::clone(account)),
        }
    }

    /// A pipe for a body that is there as a whole, or as far as it goes.
    pub(crate) fn of_whole(data: Bytes, end: End, account: &Arc<Account>) -> Self {
        let pipe = Self {
            account: Some(Arc::clone(account)),
            ..Self::default()
        };
        pipe.end(Some(data), end);
        pipe
    }

    /// The lock guards short copies only. Wakers are called after the lock is
    /// released: a waker is code of the runtime's, and may poll the other side, which
    /// takes this lock.
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// Keeps data to be recorded, and returns whether there was room for them. The body
    /// will have at most `most` bytes. The client gets the data with `push`.
    pub(crate) fn keep(&self, data: &[u8], most: usize) -> bool {
        let mut state = self.lock();
        match (&mut state.kept, &self.account) {
            (Some(kept), Some(account)) => kept.add(data, most, account),
            _ => false,
        }
    }

    /// The body is not recorded: from here on it is kept for the client alone.
    pub(crate) fn forgo_record(&self) {
        let mut state = self.lock();
        state.is_recorded = false;
        let taken = state.drop_taken();
        drop(state);
        drop(taken);
    }

    /// The whole body, for its record.
    pub(crate) fn whole(&self) -> Bytes {
        let mut state = self.lock();
        let whole = state.kept.as_mut().map(Kept::whole);
        state.is_recorded = false;
        let taken = state.drop_taken();
        drop(state);
        drop(taken);
        whole.unwrap_or_default()
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
    /// of a body without its end. Returns what counts an operation without a client.
    pub(crate) fn end(&self, last: impl IntoIterator<Item = Bytes>, end: End) -> Option<Holding> {
        let mut state = self.lock();
        for data in last {
            state.push(data);
        }
        state.is_recorded = false;
        // A client that was let go did not get all data: the body must not look complete.
        let is_cut = state.left && matches!(end, End::Full(_));
        state.end = Some(if is_cut {
            End::Broken(ReadsNothing.into())
        } else {
            end
        });
        let without_client = state.without_client.take();
        let taken = state.drop_taken();
        // Data and end are set under one lock: a client that polls between the two would
        // have all bytes of the body, and take it for complete, before the end is known.
        let sender = state.sender.take();
        drop(state);
        drop(taken);
        wake(sender);
        without_client
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
        if state.left {
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

    /// Since when data wait for a client that takes none.
    pub(crate) fn unread_since(&self) -> Option<Instant> {
        self.lock().unread_since
    }

    /// Lets the client go if it has taken nothing for so long, and returns whether it has. An
    /// operation that goes on does so without a client.
    pub(crate) fn let_go(&self, limit: Duration) -> bool {
        let mut state = self.lock();
        let due = state
            .unread_since
            .and_then(|since| since.checked_add(limit));
        // Asked again under the lock: the client may have taken data since the timer's look.
        if due.is_none_or(|due| due > Instant::now()) {
            return false;
        }
        let unsent = state.let_go(self.account.as_ref());
        drop(state);
        drop(unsent);
        true
    }

    /// The client is gone: an operation that has not ended goes on without it.
    pub(super) fn leave(&self) {
        let mut state = self.lock();
        if state.left {
            return;
        }
        let unsent = state.leave(self.account.as_ref());
        // A task that is held up by this client would otherwise wait for it for ever.
        let reader = state.reader.take();
        drop(state);
        // The data are dropped after the lock is released: they may be the last part of
        // a large buffer.
        drop(unsent);
        wake(reader);
    }
}

impl Unsent for Pipe {
    fn make_room(&self, spares: bool) -> LetGo {
        let mut state = self.lock();
        if state.left || (state.bytes == 0 && state.end.is_some()) {
            return LetGo::Gone;
        }
        if state.bytes == 0 || (mem::take(&mut state.reads) && spares) {
            return LetGo::Spared;
        }
        let unsent = state.let_go(self.account.as_ref());
        // The task that reads the handler's body goes on without a client.
        let reader = state.reader.take();
        drop(state);
        drop(unsent);
        wake(reader);
        LetGo::Gone
    }
}

/// What is dropped once the lock is released.
type Dropped = (Option<Kept>, VecDeque<Bytes>, BytesMut);

impl State {
    fn push(&mut self, mut data: Bytes) {
        if data.is_empty() || self.left {
            return;
        }
        if self.bytes == 0 {
            self.unread_since = Some(Instant::now());
        }
        self.bytes += data.len();
        if let Some(kept) = &mut self.kept
            && kept.hidden() > 0
        {
            // What was withheld may be kept in part.
            let rest = data.split_off(data.len().min(kept.hidden()));
            kept.show(data);
            data = rest;
        }
        if data.is_empty() {
            return;
        }
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

    /// The next data for the client, not much of it at a time: what a server has taken it keeps,
    /// whatever becomes of its client.
    ///
    /// A part of a large frame keeps all of it, so a server is given copies where `copies` says so.
    pub(super) fn pop(&mut self, copies: bool) -> Option<Bytes> {
        let data = if let Some(data) = self.kept.as_mut().and_then(|kept| kept.take(copies)) {
            self.drop_taken();
            data
        } else {
            let part = match self.frames.front_mut() {
                None if self.small.is_empty() => return None,
                None => self.small.split().freeze(),
                Some(frame) if frame.len() > AHEAD => frame.split_to(AHEAD),
                Some(_) => self.frames.pop_front()?,
            };
            if copies {
                Bytes::copy_from_slice(&part)
            } else {
                part
            }
        };
        self.bytes -= data.len();
        self.reads = true;
        self.unread_since = (self.bytes > 0).then(Instant::now);
        Some(data)
    }

    /// The reading task, if it waits for what the client has just taken. Each wake-up costs a
    /// poll of the handler's body.
    pub(super) fn reader_to_wake(&mut self) -> Option<Waker> {
        let goes_on = self.reader_is_held_up && self.bytes <= AHEAD;
        goes_on.then(|| self.reader.take()).flatten()
    }

    /// Whether the client has everything.
    pub(super) fn is_end(&self) -> bool {
        self.bytes == 0 && matches!(self.end, Some(End::Full(None) | End::Delivered))
    }

    /// Takes out what neither the record nor the client needs any more.
    fn drop_taken(&mut self) -> Option<Kept> {
        let is_needed = |kept: &Kept| self.is_recorded || !(self.left || kept.is_taken());
        match &self.kept {
            Some(kept) if !is_needed(kept) => self.kept.take(),
            _ => None,
        }
    }

    /// Lets the client go: a body that has ended must not look complete.
    fn let_go(&mut self, account: Option<&Arc<Account>>) -> Dropped {
        if self.end.is_some() {
            self.end = Some(End::Broken(ReadsNothing.into()));
        }
        self.leave(account)
    }

    fn leave(&mut self, account: Option<&Arc<Account>>) -> Dropped {
        self.left = true;
        if self.end.is_none() {
            // The operation counts as one without a client before the lock is released:
            // `drain` must not see zero while the reading task goes on.
            self.without_client =
                account.map(|account| account.take_anyway(Resource::Background, 1));
        }
        self.bytes = 0;
        self.unread_since = None;
        (
            self.drop_taken(),
            mem::take(&mut self.frames),
            mem::take(&mut self.small),
        )
    }
}

pub(super) fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}

/// The client has read nothing for too long, so what waited for it was dropped.
#[derive(Clone, Copy, Debug)]
pub(super) struct ReadsNothing;

impl fmt::Display for ReadsNothing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the client read nothing for too long, so the rest of the response was dropped")
    }
}

impl Error for ReadsNothing {}
