//! The leases of operations that take a while, kept by one task per layer.

use std::sync::{Arc, PoisonError};

use slab::Slab;
use tracing::warn;

use crate::layer::Shared;
use crate::request::operation::Operation;
use crate::runtime::deadline::Deadline;
use crate::runtime::{Handle, Id, Instant, Mutex, MutexGuard, sleep, spawn};
use crate::store::{Ownership, StoreError};

/// The operations that are watched, and the one task that renews their
/// leases. It is started by the first, and ends when it finds none.
#[derive(Default)]
pub(crate) struct Renewer(Mutex<Running>);

#[derive(Default)]
struct Running {
    operations: Slab<Renewal>,
    task: bool,
}

impl Running {
    /// `None` once the operation has ended: its place may have another by now.
    fn of(&mut self, place: usize, operation: &Arc<Operation>) -> Option<&mut Renewal> {
        let renewal = self.operations.get_mut(place)?;
        Arc::ptr_eq(&renewal.operation, operation).then_some(renewal)
    }
}

struct Renewal {
    operation: Arc<Operation>,
    /// Where it runs, in case the task has to go on there.
    runtime: Option<Handle>,
    began: Instant,
    /// When the last renewal that held was sent.
    renewed: Instant,
    /// A renewal was sent and is not answered yet.
    under_way: bool,
    /// Lost, or run for too long.
    ended: bool,
}

impl Renewer {
    fn lock(&self) -> MutexGuard<'_, Running> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Of an operation whose claim was sent then.
    pub(crate) fn add(&self, operation: &Arc<Operation>, sent: Instant) -> usize {
        let renewal = Renewal {
            operation: Arc::clone(operation),
            runtime: Handle::try_current().ok(),
            began: sent,
            renewed: sent,
            under_way: false,
            ended: false,
        };
        let (place, starts) = {
            let mut running = self.lock();
            let starts = renewal.runtime.clone().filter(|_| !running.task);
            running.task |= starts.is_some();
            (running.operations.insert(renewal), starts)
        };
        // Not under the lock: a runtime that is shutting down drops the task
        // where it is spawned, and dropping it takes the lock.
        if let Some(runtime) = starts {
            runtime.spawn(renew_all(TaskRuns {
                layer: Some(Arc::clone(&operation.layer)),
                tried: vec![runtime.id()],
            }));
        }
        place
    }

    /// Counts `max_operation` from now.
    pub(crate) fn restart(&self, place: usize, operation: &Arc<Operation>) {
        if let Some(renewal) = self.lock().of(place, operation) {
            renewal.began = Instant::now();
            renewal.ended = renewal.operation.is_lost();
        }
    }

    /// What a renewal under way is told does not count any more.
    pub(crate) fn stop(&self, place: usize, operation: &Arc<Operation>) {
        if let Some(renewal) = self.lock().of(place, operation) {
            renewal.ended = true;
        }
    }

    pub(crate) fn remove(&self, place: usize, operation: &Arc<Operation>) {
        let mut running = self.lock();
        if running.of(place, operation).is_some() {
            running.operations.remove(place);
        }
    }
}

/// For a thread that may be about to block in a handler. What a worker spawned
/// last waits for that worker, and of workers at rest one looks after timers
/// and sockets for all, until it has something to do. Of two tasks that do
/// nothing, the second makes the other one free to be taken, and that wakes
/// another worker, which looks after the timers from there on.
pub(crate) fn wake_another_worker() {
    #[cfg(not(shuttle))]
    if let Ok(runtime) = Handle::try_current()
        && runtime.runtime_flavor() == tokio::runtime::RuntimeFlavor::MultiThread
    {
        runtime.spawn(async {});
        runtime.spawn(async {});
    }
}

#[cfg(all(test, shuttle))]
impl Renewer {
    /// How many operations, and whether there is a task for them.
    pub(crate) fn watched(&self) -> (usize, bool) {
        let running = self.lock();
        (running.operations.len(), running.task)
    }
}

/// Sees to it that the task goes on elsewhere if it ends without having said
/// so: its runtime was shut down under it.
struct TaskRuns {
    layer: Option<Arc<Shared>>,
    /// The runtimes that it has been on, this one last.
    tried: Vec<Id>,
}

impl Drop for TaskRuns {
    fn drop(&mut self) {
        let Some(layer) = self.layer.take() else {
            return;
        };
        let mut tried = std::mem::take(&mut self.tried);
        let mut running = layer.renewals.lock();
        running.task = false;
        let other = running
            .operations
            .iter()
            .filter_map(|(_, renewal)| renewal.runtime.clone())
            .find(|runtime| !tried.contains(&runtime.id()));
        if let Some(runtime) = other {
            running.task = true;
            drop(running);
            tried.push(runtime.id());
            runtime.spawn(renew_all(TaskRuns {
                layer: Some(layer),
                tried,
            }));
        }
    }
}

async fn renew_all(mut task: TaskRuns) {
    while let Some(layer) = &task.layer {
        sleep(layer.renew_every).await;
        let now = Instant::now();
        let mut due = Vec::new();
        let mut overdue = Vec::new();
        {
            let mut running = layer.renewals.lock();
            if running.operations.is_empty() {
                // Under the lock, so that no operation comes in between.
                running.task = false;
                drop(running);
                task.layer = None;
                return;
            }
            for (place, renewal) in &mut running.operations {
                let operation = &renewal.operation;
                if renewal.ended {
                    continue;
                }
                if now - renewal.began >= operation.options.max_operation {
                    renewal.ended = true;
                    overdue.push(Arc::clone(operation));
                } else if !renewal.under_way
                    && !operation.is_guarded()
                    && now - renewal.renewed >= operation.options.lease / 3
                {
                    renewal.under_way = true;
                    due.push((place, Arc::clone(operation)));
                }
            }
        }
        for operation in overdue {
            drop(operation.take_guard());
            warn!(lease = ?operation.lease(),
                "an operation runs longer than max_operation, its lease is no longer renewed");
        }
        // None waits for another: a store that answers some of them late must
        // not cost the others their leases.
        for (place, operation) in due {
            spawn(renew(UnderWay { place, operation }));
        }
    }
}

/// A renewal that was sent. However it ends, answered, panicking or with its
/// runtime, the next one may be sent.
struct UnderWay {
    place: usize,
    operation: Arc<Operation>,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let mut running = self.operation.layer.renewals.lock();
        if let Some(renewal) = running.of(self.place, &self.operation) {
            renewal.under_way = false;
        }
    }
}

async fn renew(under_way: UnderWay) {
    let UnderWay { place, operation } = &under_way;
    let layer = &operation.layer;
    let sent = Instant::now();
    // One that stalls must leave time for the next.
    let limit = layer.store_timeout.min(operation.options.lease / 3);
    let answer = Deadline::new(limit, layer.store.renew(operation.lease())).await;
    let answer = answer.unwrap_or_else(|| Err(StoreError::timed_out()));
    let counts = {
        let mut running = layer.renewals.lock();
        let renewal = running.of(*place, operation);
        let renewal = renewal.filter(|renewal| !renewal.ended);
        match (renewal, &answer) {
            (None, _) => false,
            (Some(renewal), Ok(tenure)) => {
                renewal.renewed = sent;
                renewal.ended = *tenure == Ownership::Lost;
                true
            }
            (Some(_), Err(_)) => true,
        }
    };
    // Not under the lock, since a log may be slow.
    match answer {
        Ok(Ownership::Lost) if counts => {
            operation.lose();
            warn!(lease = ?operation.lease(), "another owner has taken over a running operation");
        }
        Err(error) if counts => {
            let error: &dyn std::error::Error = &error;
            warn!(lease = ?operation.lease(), error, "a lease was not renewed, trying again");
        }
        _ => {}
    }
}
