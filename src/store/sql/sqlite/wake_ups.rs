//! Waking those of this process who wait for a record.

use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use crate::record::RecordId;
use crate::store::{POLL, Subscription};

/// What other processes change, nobody tells: that is looked for.
///
/// Records share a few channels, so that none has to be made, counted and
/// removed. Who is woken by another record's change looks once in vain.
pub(super) struct WakeUps(Vec<watch::Sender<()>>);

const CHANNELS: usize = 64;

impl WakeUps {
    pub(super) fn new() -> Self {
        Self((0..CHANNELS).map(|_| watch::Sender::default()).collect())
    }

    pub(super) fn wake(&self, id: &RecordId) {
        self.channel(id).send_replace(());
    }

    /// Resolves after the next change, from now on.
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
        // And what another process does is found by looking.
        other.await;
        assert_eq!(start.elapsed(), POLL);
        wake_ups.subscribe(&id(1)).await;
        assert_eq!(start.elapsed(), 2 * POLL);
    }
}
