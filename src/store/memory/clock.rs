//! The time of a memory store.

#[cfg(test)]
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};
use std::time::Duration;

use crate::runtime::Instant;

/// Time since the store was made.
pub(super) type SinceStart = Duration;

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
        match self {
            Clock::Tokio(start) => start.elapsed(),
            #[cfg(test)]
            Clock::ByHand(millis) => Duration::from_millis(millis.load(Ordering::Relaxed)),
        }
    }
}
