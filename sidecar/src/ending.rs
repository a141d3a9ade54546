//! When a connection ends: at the sidecar's shutdown, or when it has been idle for long.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;
use tokio::time::{Duration, Instant, sleep_until};

/// How long the head of a request may take, and how long an idle connection is kept. Load
/// balancers close idle connections after a minute. Since this is longer, the load balancer
/// closes first, and never sends a request on a connection that the sidecar is closing.
pub(crate) const IDLE: Duration = Duration::from_secs(75);

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

/// Tells a connection when to end: at the sidecar's shutdown, or when it has been idle for long.
#[derive(Debug)]
pub(crate) struct Ending {
    phase: watch::Receiver<Phase>,
    activity: Activity,
    closing: bool,
}

impl Ending {
    pub(crate) fn new(phase: watch::Receiver<Phase>) -> Self {
        Self {
            phase,
            activity: Activity::new(),
            closing: false,
        }
    }

    pub(crate) fn activity(&self) -> &Activity {
        &self.activity
    }

    /// Waits for the next reason to end.
    pub(crate) async fn next(&mut self) -> Close {
        loop {
            // `idle_at` is computed anew in each turn: a request that began meanwhile moves it.
            let idle_at = self.activity.idle_since().unwrap_or_else(Instant::now) + IDLE;
            tokio::select! {
                changed = self.phase.changed() => {
                    if changed.is_err() || *self.phase.borrow() == Phase::End {
                        return Close::AtOnce;
                    }
                    break;
                }
                () = sleep_until(idle_at) => {
                    let since = self.activity.idle_since();
                    if since.is_some_and(|since| since.elapsed() >= IDLE) {
                        // The client was asked to close the connection and is still there.
                        if self.closing {
                            return Close::AtOnce;
                        }
                        self.activity.touch();
                        break;
                    }
                }
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

/// How many requests run on a connection, and since when that number holds.
///
/// Both change under one lock. Apart from each other, the timer could close a connection as idle
/// whose request has just begun.
#[derive(Clone, Debug)]
pub(crate) struct Activity(Arc<Mutex<(usize, Instant)>>);

impl Activity {
    fn new() -> Self {
        Self(Arc::new(Mutex::new((0, Instant::now()))))
    }

    pub(crate) fn begin(&self) -> Running {
        self.change(|running| running + 1);
        Running(self.clone())
    }

    fn touch(&self) {
        self.change(|running| running);
    }

    /// `None` while a request runs.
    fn idle_since(&self) -> Option<Instant> {
        let (running, since) = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        (running == 0).then_some(since)
    }

    fn change(&self, to: impl FnOnce(usize) -> usize) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *state = (to(state.0), Instant::now());
    }
}

/// A request from its head to the last byte of its response.
#[derive(Debug)]
pub(crate) struct Running(Activity);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.change(|running| running - 1);
    }
}
