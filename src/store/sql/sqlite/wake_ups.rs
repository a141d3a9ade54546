//! Waking the requests of this process that wait for a record.
//!
//! `store/notify.rs` is not used here: SQLite can't notify other processes, so
//! there is no connection to ask, and no lock that would be held while a waiter
//! is woken.

use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use crate::record::RecordId;
use crate::store::{POLL, Subscription};

/// Changes by this process. A change by another process is found after [`POLL`].
///
/// Many records share one channel, so that no channel has to be made, counted
/// and removed. A waiter that is woken by the change of another record looks at
/// its own record once in vain.
pub(super) struct WakeUps(Vec<watch::Sender<()>>);

const CHANNELS: usize = 64;

impl WakeUps {
    pub(super) fn new() -> Self {
        Self((0..CHANNELS).map(|_| watch::Sender::default()).collect())
    }

    pub(super) fn wake(&self, id: &RecordId) {
        self.channel(id).send_replace(());
    }

    /// Resolves after the next change that this process makes from now on.
    pub(super) fn subscribe(&self, id: &RecordId) -> Subscription {
        let mut changes = self.channel(id).subscribe();
        let end = Instant::now() + POLL;
        Subscription::new(async move {
            let _ = timeout_at(end, changes.changed()).await;
        })
    }

    fn channel(&self, id: &RecordId) -> &watch::Sender<()> {
        let [first, ..] = id.as_bytes();
        &self.0[usize::from(*first) % CHANNELS]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(byte: u8) -> RecordId {
        RecordId::from_bytes([byte; 32])
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_after_the_subscription_resolves_it_at_once() {
        let start = Instant::now();
        let wake_ups = WakeUps::new();
        wake_ups.wake(&id(1));
        let (first, second) = (wake_ups.subscribe(&id(1)), wake_ups.subscribe(&id(1)));
        let other = wake_ups.subscribe(&id(2));
        wake_ups.wake(&id(1));
        tokio::join!(first, second);
        assert_eq!(start.elapsed().as_millis(), 0);
        // `other` resolves only after `POLL`, as it does for a change by another process.
        other.await;
        assert_eq!(start.elapsed(), POLL);
        wake_ups.subscribe(&id(1)).await;
        assert_eq!(start.elapsed(), 2 * POLL);
    }
}
