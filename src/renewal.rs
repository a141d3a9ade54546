//! The leases of operations that take a while, kept by one task per layer.

use std::sync::{Arc, PoisonError};

use slab::Slab;
use tracing::warn;

use crate::context::Operation;
use crate::layer::Shared;
use crate::rt::{Handle, Id, Instant, Mutex, MutexGuard, sleep, spawn};
use crate::store::Tenure;

/// The operations that are watched, and the one task that renews their
/// leases. It is started by the first, and ends when it finds none.
#[derive(Default)]
pub(crate) struct Renewals(Mutex<Running>);

#[derive(Default)]
struct Running {
    operations: Slab<Renewal>,
    task: bool,
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

impl Renewals {
    fn lock(&self) -> MutexGuard<'_, Running> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn add(&self, operation: &Arc<Operation>) -> usize {
        let now = Instant::now();
        let renewal = Renewal {
            operation: Arc::clone(operation),
            runtime: Handle::try_current().ok(),
            began: now,
            renewed: now,
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
    pub(crate) fn restart(&self, place: usize) {
        if let Some(renewal) = self.lock().operations.get_mut(place) {
            renewal.began = Instant::now();
            renewal.ended = renewal.operation.is_lost();
        }
    }

    pub(crate) fn remove(&self, place: usize) {
        self.lock().operations.try_remove(place);
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
impl Renewals {
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
                if now - renewal.began >= operation.policy.max_operation {
                    renewal.ended = true;
                    overdue.push(Arc::clone(operation));
                } else if !renewal.under_way
                    && !operation.is_guarded()
                    && now - renewal.renewed >= operation.policy.lease / 3
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

impl UnderWay {
    /// `None` once the operation has ended: its place may have another by now.
    fn renewal<'a>(&self, running: &'a mut Running) -> Option<&'a mut Renewal> {
        let renewal = running.operations.get_mut(self.place)?;
        Arc::ptr_eq(&renewal.operation, &self.operation).then_some(renewal)
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        if let Some(renewal) = self.renewal(&mut self.operation.layer.renewals.lock()) {
            renewal.under_way = false;
        }
    }
}

async fn renew(under_way: UnderWay) {
    let operation = &under_way.operation;
    let layer = &operation.layer;
    let sent = Instant::now();
    let answer = layer.within(layer.store.renew(operation.lease())).await;
    let mut running = layer.renewals.lock();
    let Some(renewal) = under_way.renewal(&mut running) else {
        return;
    };
    match answer {
        Ok(Tenure::Held) => renewal.renewed = sent,
        Ok(Tenure::Lost) => {
            renewal.ended = true;
            operation.lose();
            warn!(lease = ?operation.lease(), "another owner has taken over a running operation");
        }
        Err(error) => {
            let error: &dyn std::error::Error = &error;
            warn!(lease = ?operation.lease(), error, "a lease was not renewed, trying again");
        }
    }
}
