//! A clock that stands still until a scenario moves it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::Future;
use std::ops::{Add, Sub};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use crate::runtime::deadline::Deadline;

/// The clock of one exploration, whose tasks share one thread. Reading the clock is no
/// point where another task may run: the scenario decides when the clock moves.
#[derive(Default)]
struct Clock {
    now: Duration,
    last_timer: u64,
    timers: BTreeMap<(Duration, u64), Waker>,
}

thread_local! {
    static CLOCK: RefCell<Clock> = RefCell::default();
}

fn with<T>(f: impl FnOnce(&mut Clock) -> T) -> T {
    CLOCK.with(|clock| f(&mut clock.borrow_mut()))
}

/// Begins a new exploration, with nothing left of the last.
#[cfg(test)]
pub(crate) fn begin() {
    with(|clock| *clock = Clock::default());
}

/// The time until the next timer is due, if there is a timer.
#[cfg(test)]
pub(crate) fn next_timer() -> Option<Duration> {
    with(|clock| {
        let (at, _) = *clock.timers.first_key_value()?.0;
        Some(at.saturating_sub(clock.now))
    })
}

/// Moves the clock, and wakes the tasks whose timers are due.
#[cfg(test)]
pub(crate) fn advance(time: Duration) {
    let due = with(|clock| {
        clock.now = clock.now.saturating_add(time);
        let later = clock.timers.split_off(&(clock.now, u64::MAX));
        std::mem::replace(&mut clock.timers, later)
    });
    due.into_values().for_each(Waker::wake);
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Instant(Duration);

impl Instant {
    pub(crate) fn now() -> Self {
        Self(with(|clock| clock.now))
    }

    pub(crate) fn elapsed(self) -> Duration {
        Self::now() - self
    }

    pub(crate) fn checked_add(self, time: Duration) -> Option<Self> {
        self.0.checked_add(time).map(Self)
    }

    pub(crate) fn saturating_duration_since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

impl Add<Duration> for Instant {
    type Output = Self;

    fn add(self, time: Duration) -> Self {
        Self(self.0.saturating_add(time))
    }
}

impl Sub for Instant {
    type Output = Duration;

    fn sub(self, earlier: Self) -> Duration {
        self.saturating_duration_since(earlier)
    }
}

pub(crate) struct Sleep {
    until: Duration,
    timer: u64,
}

pub(crate) fn sleep(time: Duration) -> Sleep {
    with(|clock| {
        clock.last_timer += 1;
        Sleep {
            until: clock.now.saturating_add(time),
            timer: clock.last_timer,
        }
    })
}

impl Future for Sleep {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        with(|clock| {
            if self.until <= clock.now {
                return Poll::Ready(());
            }
            let timer = (self.until, self.timer);
            clock.timers.insert(timer, cx.waker().clone());
            Poll::Pending
        })
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        let waker = with(|clock| clock.timers.remove(&(self.until, self.timer)));
        drop(waker);
    }
}

pub(crate) async fn timeout<F: Future>(time: Duration, future: F) -> Result<F::Output, ()> {
    Deadline::new(time, future).await.ok_or(())
}
