//! The leases of operations that take a while, and the deadlines of what has not begun, watched by
//! one task per layer.

use std::mem;
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use slab::Slab;
use tracing::warn;

use crate::error::cause;
use crate::lease::{Leased, TimedStore};
use crate::observer::{LapseCause, LeaseLapse};
use crate::runtime::{Handle, Id, Instant, Mutex, sleep, spawn};
use crate::store::{Lease, Ownership};

/// Renews the leases that it watches, and wakes what waits for a deadline. Its task is started by
/// the first of them, and ends when it finds none.
pub(crate) struct Renewer {
    store: TimedStore,
    /// The longest pause between two looks at what is watched. It is short enough for a look at
    /// each deadline before that is due.
    every: Duration,
    watched: Mutex<Watched>,
}

/// The place of a lease that is never watched.
const NOWHERE: usize = usize::MAX;

/// The watched leases and deadlines, and whether there is a task for them. All are under one
/// lock: otherwise a lease could come in just as the task finds none and ends.
#[derive(Default)]
struct Watched {
    leases: Slab<Renewal>,
    deadlines: Slab<Deadline>,
    task: bool,
}

impl Watched {
    /// The renewal at `place`, unless the operation has ended: another lease may
    /// have its place by now.
    fn get(&mut self, place: usize, lease: &Arc<dyn Leased>) -> Option<&mut Renewal> {
        let renewal = self.leases.get_mut(place)?;
        Arc::ptr_eq(&renewal.lease, lease).then_some(renewal)
    }

    /// The runtime to start a task on, if there is none.
    fn starts_task(&mut self, runtime: Option<&Handle>) -> Option<Handle> {
        let starts = runtime.filter(|_| !self.task).cloned();
        self.task |= starts.is_some();
        starts
    }

    /// The runtimes of what is watched.
    fn runtimes(&self) -> impl Iterator<Item = &Handle> {
        let leases = self.leases.iter().map(|(_, renewal)| &renewal.runtime);
        let deadlines = self.deadlines.iter().map(|(_, deadline)| &deadline.runtime);
        leases.chain(deadlines).flatten()
    }
}

/// What is woken at a moment.
struct Deadline {
    due: Instant,
    waker: Waker,
    /// As of a [`Renewal`].
    runtime: Option<Handle>,
}

struct Renewal {
    lease: Arc<dyn Leased>,
    /// The runtime of the operation. The task goes on there if its own runtime is
    /// shut down.
    runtime: Option<Handle>,
    /// `max_operation` counts from here.
    began: Instant,
    /// When the last renewal that held was sent.
    renewed: Instant,
    /// A renewal was sent, and the store has not answered yet.
    under_way: bool,
    /// The lease is lost, or its operation has run for longer than
    /// `max_operation`, or is about to be released: no more renewals.
    ended: bool,
    /// What a lapse of the lease is put down to. `None` where observers are told of none: it is lost
    /// or about to be released, its operation is only observed, or they were told already.
    lapse: Option<LapseCause>,
}

impl Renewer {
    /// `shortest_deadline` is the shortest one that [`wake_at`](Self::wake_at) is asked for.
    pub(super) fn new(
        store: TimedStore,
        shortest_lease: Duration,
        shortest_deadline: Duration,
    ) -> Arc<Self> {
        let every = (shortest_lease / 6).min(shortest_deadline / 2);
        Arc::new(Self {
            store,
            every: every.max(Duration::from_millis(1)),
            watched: Mutex::default(),
        })
    }

    /// Watches a lease whose time counts from `sent`, unless it is watched already.
    pub(super) fn watch(self: &Arc<Self>, lease: &Arc<dyn Leased>, sent: Instant) {
        let mut place = lease.state().place().lock();
        place.get_or_insert_with(|| self.add(lease, sent));
    }

    fn add(self: &Arc<Self>, lease: &Arc<dyn Leased>, sent: Instant) -> usize {
        let runtime = Handle::try_current().ok();
        let (place, starts) = {
            let mut watched = self.watched.lock();
            let starts = watched.starts_task(runtime.as_ref());
            let place = watched.leases.insert(Renewal {
                lease: Arc::clone(lease),
                runtime,
                began: sent,
                renewed: sent,
                under_way: false,
                ended: false,
                lapse: (!lease.state().is_observed()).then_some(LapseCause::NotRenewed),
            });
            (place, starts)
        };
        self.start_task(starts);
        place
    }

    /// The task is spawned after the lock is released: a runtime that is
    /// shutting down drops the task where it is spawned, and the drop of
    /// `TaskRuns` takes the lock.
    fn start_task(self: &Arc<Self>, runtime: Option<Handle>) {
        if let Some(runtime) = runtime {
            runtime.spawn(renew_all(TaskRuns {
                renewer: Some(Arc::clone(self)),
                tried: vec![runtime.id()],
            }));
        }
    }

    /// Wakes at this moment, until [`wake_no_more`](Self::wake_no_more) is called with the place
    /// that is returned.
    pub(super) fn wake_at(self: &Arc<Self>, due: Instant, waker: &Waker) -> usize {
        let runtime = Handle::try_current().ok();
        let (place, starts) = {
            let mut watched = self.watched.lock();
            let starts = watched.starts_task(runtime.as_ref());
            let place = watched.deadlines.insert(Deadline {
                due,
                waker: waker.clone(),
                runtime,
            });
            (place, starts)
        };
        self.start_task(starts);
        place
    }

    /// Wakes this one at the moment for which another was to be woken.
    pub(super) fn wake_instead(&self, place: usize, waker: &Waker) {
        let last = {
            let mut watched = self.watched.lock();
            let deadline = watched.deadlines.get_mut(place);
            let deadline = deadline.filter(|deadline| !deadline.waker.will_wake(waker));
            deadline.map(|deadline| mem::replace(&mut deadline.waker, waker.clone()))
        };
        // The drop of a waker may run any code, so the lock is free by then.
        drop(last);
    }

    pub(super) fn wake_no_more(&self, place: usize) {
        let deadline = self.watched.lock().deadlines.try_remove(place);
        // As above, the lock is free.
        drop(deadline);
    }

    /// Counts `max_operation` from now on, while a completion is tried again. A lease that is not
    /// watched has a guard, which lives for as long as its owner tries.
    pub(super) fn watch_anew(&self, lease: &Arc<dyn Leased>) {
        self.change(lease, |renewal| {
            renewal.began = Instant::now();
            renewal.ended = renewal.lease.state().is_lost();
            if !renewal.ended && renewal.lapse.is_some() {
                renewal.lapse = Some(LapseCause::NotRenewed);
            }
        });
    }

    /// Called just before a release. A renewal already in flight will then find
    /// the record released; without this it would report a false takeover.
    pub(super) fn stop(&self, lease: &Arc<dyn Leased>) {
        self.change(lease, |renewal| {
            renewal.ended = true;
            renewal.lapse = None;
        });
    }

    fn change(&self, lease: &Arc<dyn Leased>, change: impl FnOnce(&mut Renewal)) {
        let place = *lease.state().place().lock();
        if let Some(place) = place
            && let Some(renewal) = self.watched.lock().get(place, lease)
        {
            change(renewal);
        }
    }

    /// Forgets a lease whose operation has ended, and watches it no more: a response that is still
    /// sent asks for that after its owner is gone, and nothing would forget the lease again.
    pub(super) fn unwatch(&self, lease: &Arc<dyn Leased>) {
        let place = *lease.state().place().lock().get_or_insert(NOWHERE);
        // Most operations end before they are watched, and take no lock that others take.
        if place == NOWHERE {
            return;
        }
        let mut watched = self.watched.lock();
        if watched.get(place, lease).is_some() {
            watched.leases.remove(place);
        }
    }

    #[cold]
    fn lapsed(&self, cause: LapseCause, lease: &Lease) {
        warn!(
            ?lease,
            cause = cause.as_str(),
            "the lease of a running operation has lapsed, and another owner may take over"
        );
        self.store.observers().tell(|observer| {
            observer.lease_lapsed(&LeaseLapse {
                cause,
                record: &lease.claim.id,
                attempt: lease.attempt,
            });
        });
    }

    /// How many leases are watched, and whether there is a task for them.
    #[cfg(test)]
    pub(super) fn watched(&self) -> (usize, bool) {
        let watched = self.watched.lock();
        (watched.leases.len(), watched.task)
    }
}

/// tokio keeps the task that a worker spawned last in that worker's LIFO slot,
/// where no other worker can steal it, and one parked worker drives the timers for
/// all. If the handler blocks this thread, the renewer could be stuck in either
/// place. Spawning two empty tasks pushes the first into the stealable queue,
/// which wakes another worker.
pub(super) fn wake_another_worker() {
    #[cfg(not(shuttle))]
    if let Ok(runtime) = Handle::try_current()
        && runtime.runtime_flavor() == tokio::runtime::RuntimeFlavor::MultiThread
    {
        runtime.spawn(async {});
        runtime.spawn(async {});
    }
}

/// Held by the renewer's task. If the task ends without having said so, because
/// its runtime was shut down, the drop starts it again on the runtime of another
/// operation.
struct TaskRuns {
    /// `None` once the task has said that it ends.
    renewer: Option<Arc<Renewer>>,
    /// The runtimes that the task has been on, the current one last.
    tried: Vec<Id>,
}

impl Drop for TaskRuns {
    fn drop(&mut self) {
        let Some(renewer) = self.renewer.take() else {
            return;
        };
        let mut tried = mem::take(&mut self.tried);
        let mut watched = renewer.watched.lock();
        watched.task = false;
        let other = watched
            .runtimes()
            .find(|runtime| !tried.contains(&runtime.id()))
            .cloned();
        if let Some(runtime) = other {
            watched.task = true;
            // The lock is released before the spawn, for the same reason as in
            // `Renewer::add`.
            drop(watched);
            tried.push(runtime.id());
            runtime.spawn(renew_all(TaskRuns {
                renewer: Some(renewer),
                tried,
            }));
        }
    }
}

async fn renew_all(mut task: TaskRuns) {
    let mut pause = task.renewer.as_ref().map(|renewer| renewer.every);
    while let (Some(renewer), Some(time)) = (&task.renewer, pause) {
        sleep(time).await;
        let now = Instant::now();
        let mut due = Vec::new();
        let mut woken = Vec::new();
        let mut overdue = Vec::new();
        let mut lapsed = Vec::new();
        {
            let mut watched = renewer.watched.lock();
            if watched.leases.is_empty() && watched.deadlines.is_empty() {
                // `task` is cleared under the lock: a lease that comes in later
                // starts another task.
                watched.task = false;
                drop(watched);
                task.renewer = None;
                return;
            }
            let mut next = renewer.every;
            for (_, deadline) in &watched.deadlines {
                let left = deadline.due.saturating_duration_since(now);
                if left.is_zero() {
                    woken.push(deadline.waker.clone());
                } else {
                    next = next.min(left);
                }
            }
            pause = Some(next);
            for (place, renewal) in &mut watched.leases {
                let lease = &renewal.lease;
                let since = now - renewal.renewed;
                if since >= lease.state().lease().claim.lease
                    && !lease.state().is_guarded()
                    && let Some(cause) = renewal.lapse.take()
                {
                    lapsed.push((cause, Arc::clone(lease)));
                }
                if renewal.ended {
                    continue;
                }
                if now - renewal.began >= lease.max_operation() {
                    renewal.ended = true;
                    renewal.lapse = renewal.lapse.map(|_| LapseCause::MaxOperation);
                    overdue.push(Arc::clone(lease));
                } else if !renewal.under_way
                    && !lease.state().is_guarded()
                    && since >= lease.state().lease().claim.lease / 3
                {
                    renewal.under_way = true;
                    due.push((place, Arc::clone(lease)));
                }
            }
        }
        // Each renewal has a task of its own: a store that answers some of them
        // late must not cost the others their leases.
        for (place, lease) in due {
            spawn(renew(UnderWay {
                renewer: Arc::clone(renewer),
                place,
                lease,
            }));
        }
        woken.into_iter().for_each(Waker::wake);
        // Observers may run any code, so they are told without the lock, and behind the renewals
        // that are due: after an outage of the store many leases lapse at once.
        if !lapsed.is_empty() {
            let renewer = Arc::clone(renewer);
            spawn(async move {
                for (cause, lease) in lapsed {
                    renewer.lapsed(cause, lease.state().lease());
                }
            });
        }
        // Guards are dropped after the lock is released: their destructor takes a
        // lock of the store.
        for lease in overdue {
            drop(lease.state().take_guard());
            if !lease.state().is_observed() {
                warn!(lease = ?lease.state().lease(),
                    "an operation runs longer than max_operation, its lease is no longer renewed");
            }
        }
    }
}

/// A renewal that was sent. However the renewal ends, answered, panicking or with
/// its runtime, the drop lets the next one be sent.
struct UnderWay {
    renewer: Arc<Renewer>,
    place: usize,
    lease: Arc<dyn Leased>,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        if let Some(renewal) = self.renewer.watched.lock().get(self.place, &self.lease) {
            renewal.under_way = false;
        }
    }
}

async fn renew(under_way: UnderWay) {
    let UnderWay {
        renewer,
        place,
        lease,
    } = &under_way;
    let sent = Instant::now();
    // A renewal that stalls must leave time for the next.
    let limit = lease.state().lease().claim.lease / 3;
    let answer = renewer.store.renew_within(limit, lease.state()).await;
    // An answer that arrives after the operation has ended says nothing.
    let counts = {
        let mut watched = renewer.watched.lock();
        let mut renewal = watched.get(*place, lease);
        if let (Some(renewal), Ok(Ownership::Held)) = (&mut renewal, &answer) {
            // Also of an operation that has reached `max_operation` meanwhile: the lease goes on.
            renewal.renewed = sent;
        }
        match renewal.filter(|renewal| !renewal.ended) {
            None => false,
            Some(renewal) => {
                if let Ok(ownership) = answer {
                    renewal.ended = ownership == Ownership::Lost;
                    let tells = !renewal.ended && !lease.state().is_observed();
                    renewal.lapse = tells.then_some(LapseCause::NotRenewed);
                }
                true
            }
        }
    };
    // The log is written after the lock is released: a log may be slow.
    match answer {
        Ok(Ownership::Lost) if counts => {
            lease.state().lose();
            if !lease.state().is_observed() {
                warn!(lease = ?lease.state().lease(), "another owner has taken over a running operation");
            }
        }
        Err(error) if counts && !lease.state().is_observed() => {
            let error = cause(&error);
            warn!(lease = ?lease.state().lease(), error, "a lease was not renewed, trying again");
        }
        _ => {}
    }
}

#[cfg(all(test, not(shuttle)))]
mod tests {
    use std::time::Duration;

    use super::*;

    /// `wake_another_worker` rests on how tokio's workers hand tasks and timers to
    /// each other. If tokio changes, the timer below fires only once the worker
    /// that set it is free again, and this test fails.
    #[test]
    fn a_timer_set_by_a_worker_that_then_blocks_fires_on_another_worker() {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_time()
            .build()
            .unwrap();
        for _ in 0..50 {
            let (fired, fires) = std::sync::mpsc::channel();
            let (done, ends) = std::sync::mpsc::channel();
            runtime.spawn(async move {
                spawn(async move {
                    sleep(Duration::from_millis(1)).await;
                    let _ = fired.send(());
                });
                wake_another_worker();
                // A handler that blocks its worker.
                let fired = fires.recv_timeout(Duration::from_secs(30));
                done.send(fired.is_ok()).unwrap();
            });
            assert!(
                ends.recv().unwrap(),
                "the timer waited for the blocked worker"
            );
        }
    }
}
