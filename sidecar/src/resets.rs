//! How many streams a client of HTTP/2 resets.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

const SECOND: Duration = Duration::from_secs(1);

/// Counts the streams of one connection that its client has reset. Each of them has made work for the
/// upstream, and leaves its place among the streams at once.
#[derive(Debug)]
pub(crate) struct Resets {
    most: usize,
    /// When the current second began, and how many streams were reset in it.
    counted: Mutex<(Instant, usize)>,
    too_many: Notify,
}

impl Resets {
    pub(crate) fn new(most: usize) -> Self {
        Self {
            most,
            counted: Mutex::new((Instant::now(), 0)),
            too_many: Notify::new(),
        }
    }

    pub(crate) fn add(&self) {
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        if counted.0.elapsed() >= SECOND {
            *counted = (Instant::now(), 0);
        }
        counted.1 += 1;
        if counted.1 > self.most {
            // The permit is kept if nobody waits at the moment.
            self.too_many.notify_one();
        }
    }

    /// Completes when the client has reset more streams in a second than it may.
    pub(crate) async fn too_many(&self) {
        self.too_many.notified().await;
    }
}
