//! What goes on without a client: counted, so that it can be capped, and waited
//! for at shutdown.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use crate::runtime::atomic::{AtomicUsize, Ordering};
use crate::runtime::{Handle, JoinHandle, Notify, timeout};

/// A number of things that there may be only so many of.
#[derive(Debug)]
pub(crate) struct Background {
    limit: usize,
    count: AtomicUsize,
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
        self.count.load(Ordering::Relaxed) < self.limit
    }

    /// One more, whether there is room or not.
    pub(crate) fn enter(self: &Arc<Self>) -> BackgroundTask {
        self.count.fetch_add(1, Ordering::Relaxed);
        BackgroundTask(Arc::clone(self))
    }

    /// One more, if there is room.
    pub(crate) fn try_enter(self: &Arc<Self>) -> Option<BackgroundTask> {
        let counted = self.enter();
        (self.count.load(Ordering::Relaxed) <= self.limit).then_some(counted)
    }

    /// Counts a task until it ends, or is dropped with its runtime.
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

    /// Until there are none, or the time is over: how many there are.
    pub(crate) async fn drain(&self, limit: Duration) -> usize {
        let drained = async {
            loop {
                // Before the look, so that no end is missed in between.
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

/// One of them, until it is dropped.
#[derive(Debug)]
pub(crate) struct BackgroundTask(Arc<Background>);

impl Drop for BackgroundTask {
    fn drop(&mut self) {
        if self.0.count.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.none.notify_waiters();
        }
    }
}
