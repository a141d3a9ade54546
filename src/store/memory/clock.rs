//! The time of a memory store.

#[cfg(test)]
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};
use std::time::Duration;

use crate::runtime::Instant;

/// A length of time in nanoseconds, in half of the bytes of a [`Duration`]: each record has two.
/// What is longer than 584 years counts as so long.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Nanos(u64);

/// Time since the store was made.
pub(super) type SinceStart = Nanos;

impl Nanos {
    pub(super) fn saturating_add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    pub(super) fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

impl From<Duration> for Nanos {
    fn from(length: Duration) -> Self {
        let seconds = length.as_secs().saturating_mul(1_000_000_000);
        Self(seconds.saturating_add(length.subsec_nanos().into()))
    }
}

impl From<Nanos> for Duration {
    fn from(length: Nanos) -> Self {
        Duration::from_nanos(length.0)
    }
}

pub(super) enum Clock {
    Tokio(Instant),
    #[cfg(test)]
    ByHand(Arc<AtomicU64>),
}

impl Clock {
    pub(super) fn tokio() -> Self {
        Clock::Tokio(Instant::now())
    }

    pub(super) fn now(&self) -> SinceStart {
        let since = match self {
            Clock::Tokio(start) => start.elapsed(),
            #[cfg(test)]
            Clock::ByHand(millis) => Duration::from_millis(millis.load(Ordering::Relaxed)),
        };
        since.into()
    }
}
