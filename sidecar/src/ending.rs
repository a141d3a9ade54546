//! When a connection ends: at the sidecar's shutdown, when it has been idle for long, or when a head
//! takes too long.

use std::future::{Future as _, poll_fn};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;

use tokio::sync::watch;
use tokio::time::{Duration, Instant, sleep};

use crate::metrics::{Limit, Numbers};

/// What the tasks of all connections are to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Serve,
    /// Finish the requests that run, and take no new ones.
    Drain,
    End,
}

/// How a connection is to end.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Close {
    /// Once the requests that run are finished.
    Gracefully,
    AtOnce,
}

/// For how long a connection may go without a request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Waits {
    /// From the first byte of a head to its last, and from the beginning of a connection to the end of
    /// its first head.
    pub(crate) head: Duration,
    /// From the end of one request to the beginning of the next.
    pub(crate) keep_alive: Duration,
}

/// Tells a connection when to end.
#[derive(Debug)]
pub(crate) struct Ending {
    phase: watch::Receiver<Phase>,
    activity: Activity,
    waits: Waits,
    closing: bool,
    numbers: Arc<Numbers>,
}

impl Ending {
    pub(crate) fn new(phase: watch::Receiver<Phase>, waits: Waits, numbers: Arc<Numbers>) -> Self {
        Self {
            phase,
            activity: Activity::new(),
            waits,
            closing: false,
            numbers,
        }
    }

    pub(crate) fn activity(&self) -> &Activity {
        &self.activity
    }

    /// Waits for the next reason to end. The future that reads the connection is to be polled before
    /// this one, in the same task: what it has read moves the time of the end.
    pub(crate) async fn next(&mut self) -> Close {
        tokio::select! {
            changed = self.phase.changed() => {
                if changed.is_err() || *self.phase.borrow() == Phase::End {
                    return Close::AtOnce;
                }
            }
            awaits_head = waited_too_long(&self.activity, self.waits) => {
                if awaits_head {
                    self.numbers.refused(Limit::Head);
                    return Close::AtOnce;
                }
                // The client was asked to close the connection before, and is still there.
                if self.closing {
                    return Close::AtOnce;
                }
                self.activity.state().since = Instant::now();
            }
        }
        self.closing = true;
        Close::Gracefully
    }

    /// Waits for the end of a shutdown.
    pub(crate) async fn end(&mut self) {
        // An error says that the sidecar has ended.
        let _ = self.phase.wait_for(|phase| *phase == Phase::End).await;
    }
}

/// Waits until a connection has been idle, or a head has been awaited, for too long. Returns whether it
/// was a head.
async fn waited_too_long(activity: &Activity, waits: Waits) -> bool {
    let mut sleeping = pin!(sleep(waits.keep_alive));
    poll_fn(|cx| {
        loop {
            // Computed anew at each turn: what was read or has begun meanwhile moves the time.
            let state = *activity.state();
            let until = match state.head {
                _ if state.running > 0 && sleeping.is_elapsed() => {
                    Instant::now() + waits.keep_alive
                }
                _ if state.running > 0 => sleeping.deadline(),
                Some(begun) => begun + waits.head,
                None => state.since + waits.keep_alive,
            };
            if state.running == 0 && until <= Instant::now() {
                return Poll::Ready(state.head.is_some());
            }
            if until != sleeping.deadline() {
                sleeping.as_mut().reset(until);
            }
            if sleeping.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
        }
    })
    .await
}

/// What happens on a connection. Everything changes under one lock. Apart from each other, the
/// timer could close a connection as idle whose request has just begun.
#[derive(Clone, Debug)]
pub(crate) struct Activity(Arc<Mutex<State>>);

#[derive(Clone, Copy, Debug)]
struct State {
    /// How many requests run.
    running: usize,
    /// When the last one ended.
    since: Instant,
    /// When the head that is awaited has begun.
    head: Option<Instant>,
}

impl Activity {
    fn new() -> Self {
        let now = Instant::now();
        Self(Arc::new(Mutex::new(State {
            running: 0,
            since: now,
            head: Some(now),
        })))
    }

    pub(crate) fn begin(&self) -> Running {
        let mut state = self.state();
        state.running += 1;
        state.head = None;
        Running(self.clone())
    }

    /// A part of a request has been read.
    pub(crate) fn has_read(&self) {
        let mut state = self.state();
        if state.running == 0 {
            state.head.get_or_insert_with(Instant::now);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request from its head to the last byte of its response.
#[derive(Debug)]
pub(crate) struct Running(Activity);

impl Drop for Running {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.running -= 1;
        state.since = Instant::now();
    }
}
