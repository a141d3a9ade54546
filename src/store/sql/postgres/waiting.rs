//! Who in this process waits for which record.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use tokio::time::Instant;

use crate::record::RecordId;

/// Those that wait, by record. What a record's waiters wait for is that its
/// sender is dropped.
#[derive(Default)]
pub(super) struct WakeUps {
    waiting: Mutex<HashMap<RecordId, Awaited>>,
}

struct Awaited {
    sender: watch::Sender<()>,
    asked: Arc<Asked>,
}

/// When the store was asked to tell of a record's changes. Whoever asks holds
/// it, so that one asks for all who wait.
pub(super) type Asked = tokio::sync::Mutex<Option<Instant>>;

impl WakeUps {
    /// Waits from now on.
    pub(super) fn enter(self: &Arc<Self>, id: RecordId) -> Waiter {
        let mut waiting = self.lock();
        let awaited = waiting.entry(id).or_insert_with(|| Awaited {
            sender: watch::Sender::new(()),
            asked: Arc::default(),
        });
        Waiter {
            changed: Some(awaited.sender.subscribe()),
            asked: Arc::clone(&awaited.asked),
            wake_ups: Arc::clone(self),
            id,
        }
    }

    /// Wakes all who wait for this record.
    pub(super) fn wake(&self, id: &RecordId) {
        // Dropped once the lock is not held any more: a waker is somebody
        // else's code.
        let woken = self.lock().remove(id);
        drop(woken);
    }

    /// Wakes all, since changes may have gone by unheard.
    pub(super) fn wake_everyone(&self) {
        let woken = std::mem::take(&mut *self.lock());
        drop(woken);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<RecordId, Awaited>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One that waits.
pub(super) struct Waiter {
    changed: Option<watch::Receiver<()>>,
    asked: Arc<Asked>,
    wake_ups: Arc<WakeUps>,
    id: RecordId,
}

impl Waiter {
    pub(super) fn asked(&self) -> &Asked {
        &self.asked
    }

    /// Resolves once it was woken.
    pub(super) fn woken(&mut self) -> impl Future<Output = ()> {
        let changed = self.changed.as_mut().expect("taken out only by its drop");
        async { while changed.changed().await.is_ok() {} }
    }
}

impl Drop for Waiter {
    /// The last one turns off the light.
    fn drop(&mut self) {
        self.changed = None;
        let mut waiting = self.wake_ups.lock();
        let unawaited = waiting
            .get(&self.id)
            .is_some_and(|awaited| awaited.sender.receiver_count() == 0);
        let gone = unawaited.then(|| waiting.remove(&self.id));
        drop(waiting);
        drop(gone);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(byte: u8) -> RecordId {
        RecordId::from_bytes([byte; 32])
    }

    async fn is_woken(waiter: &mut Waiter) -> bool {
        tokio::time::timeout(std::time::Duration::from_secs(1), waiter.woken())
            .await
            .is_ok()
    }

    #[tokio::test(start_paused = true)]
    async fn all_who_wait_for_a_record_are_woken_and_nobody_else() {
        let wake_ups = Arc::new(WakeUps::default());
        let mut first = wake_ups.enter(id(1));
        let mut second = wake_ups.enter(id(1));
        let mut other = wake_ups.enter(id(2));
        wake_ups.wake(&id(1));
        assert!(is_woken(&mut first).await && is_woken(&mut second).await);
        assert!(!is_woken(&mut other).await);
        // Who comes later waits for the next change, and who was woken leaves
        // it alone.
        let mut later = wake_ups.enter(id(1));
        drop((first, second));
        assert!(!is_woken(&mut later).await);
        wake_ups.wake_everyone();
        assert!(is_woken(&mut later).await && is_woken(&mut other).await);
    }

    #[test]
    fn nothing_is_left_of_those_that_went() {
        let wake_ups = Arc::new(WakeUps::default());
        let (first, second) = (wake_ups.enter(id(1)), wake_ups.enter(id(1)));
        drop(first);
        assert_eq!(wake_ups.lock().len(), 1);
        drop(second);
        assert!(wake_ups.lock().is_empty());
    }
}
