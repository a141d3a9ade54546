//! Deadlines that need no timer of their own.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use crate::lease::{Leases, Renewer};
use crate::runtime::Instant;

/// A deadline that the task of the [`Renewer`] watches, beside the leases. It is exact, since the
/// task looks at it at least once before it is due.
pub(crate) struct SharedTimer {
    renewer: Arc<Renewer>,
    /// `None` is a time that never comes.
    due: Option<Instant>,
    place: Option<usize>,
}

impl SharedTimer {
    /// A deadline so long from now, which is no shorter than the shortest of the layer's options.
    pub(crate) fn new(leases: &Leases, limit: Duration) -> Self {
        Self {
            renewer: Arc::clone(&leases.renewer),
            due: Instant::now().checked_add(limit),
            place: None,
        }
    }

    /// Whether the time is over.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(due) = self.due else {
            return Poll::Pending;
        };
        if due <= Instant::now() {
            return Poll::Ready(());
        }
        match self.place {
            Some(place) => self.renewer.wake_instead(place, cx.waker()),
            None => self.place = Some(self.renewer.wake_at(due, cx.waker())),
        }
        Poll::Pending
    }
}

impl Drop for SharedTimer {
    fn drop(&mut self) {
        if let Some(place) = self.place {
            self.renewer.wake_no_more(place);
        }
    }
}

#[cfg(all(test, feature = "memory", not(shuttle)))]
mod tests {
    use std::future::poll_fn;

    use super::*;
    use crate::lease::TimedStore;
    use crate::observer::Observers;
    use crate::runtime::{sleep, spawn};
    use crate::store::erased;
    use crate::store::memory::MemoryStore;

    const fn seconds(number: u64) -> Duration {
        Duration::from_secs(number)
    }

    #[tokio::test(start_paused = true)]
    async fn timers_that_share_a_task_are_due_when_they_say() {
        let store = TimedStore::new(erased(MemoryStore::new()), seconds(5), Observers::default());
        let leases = Arc::new(Leases::new(store, seconds(30), seconds(2)));
        let waits: Vec<_> = [2, 3, 7, 60, 2, 11]
            .into_iter()
            .zip([0, 1, 1, 2, 5, 9])
            .map(|(limit, begins)| {
                let leases = Arc::clone(&leases);
                spawn(async move {
                    sleep(seconds(begins)).await;
                    let mut dropped = SharedTimer::new(&leases, seconds(4));
                    let _ = poll_fn(|cx| Poll::Ready(dropped.poll(cx))).await;
                    drop(dropped);
                    let begun = Instant::now();
                    let mut timer = SharedTimer::new(&leases, seconds(limit));
                    poll_fn(|cx| timer.poll(cx)).await;
                    assert_eq!(begun.elapsed(), seconds(limit), "begun after {begins}");
                })
            })
            .collect();
        for wait in waits {
            wait.await.unwrap();
        }
    }
}
