//! Tasks that go on without a client: counted, so that they can be capped and
//! waited for at shutdown.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use crate::runtime::atomic::{AtomicUsize, Ordering};
use crate::runtime::{Handle, JoinHandle, Notify, timeout};

/// The number of tasks that go on without a client, and how many there may be.
#[derive(Debug)]
pub(crate) struct Background {
    limit: usize,
    count: AtomicUsize,
    /// Notified when the count comes to zero.
    none: Notify,
}

impl Background {
    pub(crate) fn up_to(limit: usize) -> Arc<Self> {
        Arc::new(Self {
            limit,
            count: AtomicUsize::new(0),
            none: Notify::new(),
        })
    }

    pub(crate) fn has_room(&self) -> bool {
        // Relaxed: requests at the same moment may overshoot the limit anyway.
        self.count.load(Ordering::Relaxed) < self.limit
    }

    /// Counts one more, whether there is room or not: what has begun goes on.
    pub(crate) fn enter(self: &Arc<Self>) -> BackgroundTask {
        self.count.fetch_add(1, Ordering::Relaxed);
        BackgroundTask(Arc::clone(self))
    }

    /// Spawns a task that counts until it ends, or is dropped with its runtime.
    pub(crate) fn spawn<T: Send + 'static>(
        self: &Arc<Self>,
        runtime: &Handle,
        task: impl Future<Output = T> + Send + 'static,
    ) -> JoinHandle<T> {
        let counted = self.enter();
        runtime.spawn(async move {
            let _counted = counted;
            task.await
        })
    }

    /// Waits until there are no tasks, or the time is over. Returns how many there
    /// still are.
    pub(crate) async fn drain(&self, limit: Duration) -> usize {
        let drained = async {
            loop {
                // Asked for before the count is read: a last task that ends between
                // the two would notify nobody otherwise.
                let none = self.none.notified();
                if self.count.load(Ordering::Acquire) == 0 {
                    return;
                }
                none.await;
            }
        };
        match timeout(limit, drained).await {
            Ok(()) => 0,
            Err(_) => self.count.load(Ordering::Acquire),
        }
    }
}

#[cfg(all(test, shuttle))]
impl Background {
    pub(crate) fn count(&self) -> usize {
        self.count.load(Ordering::Acquire)
    }
}

/// Counts as one task until it is dropped.
#[derive(Debug)]
pub(crate) struct BackgroundTask(Arc<Background>);

impl Drop for BackgroundTask {
    fn drop(&mut self) {
        // Release, with the acquire in `drain`: whoever sees zero also sees what the
        // tasks did.
        if self.0.count.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.none.notify_waiters();
        }
    }
}
