//! A lease in hand: kept alive while the operation runs, ended once, and never
//! just forgotten.

use std::any::Any;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use pin_project_lite::pin_project;
use slab::Slab;
use tokio::runtime::{self, Handle};
use tokio::time::{Instant, Sleep, sleep};
use tracing::{debug, error, warn};

use crate::context::Operation;
use crate::layer::Shared;
use crate::store::{Claim, Lease, Outcome, Release, StoreError, Tenure};

const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// The lease of an operation that has not ended.
pub(crate) struct Held {
    operation: Arc<Operation>,
    /// What becomes of the record if this is dropped; `None` once it ended.
    on_drop: Option<Release>,
}

/// What became of a completion or release.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Recorded {
    Stored,
    /// A retry executes again.
    Released,
    /// Another owner has taken over; nothing of this one is stored.
    Lost,
    /// Not in time. It is being tried again in the background.
    NotYet,
}

impl Held {
    pub(crate) fn new(operation: &Arc<Operation>, lease: Lease) -> Self {
        // A store elsewhere has to hear of it even if the handler blocks its
        // thread from the start.
        if operation.acquired(lease) {
            operation.watch();
        }
        Self {
            operation: Arc::clone(operation),
            on_drop: Some(operation.outcome_unknown()),
        }
    }

    /// Ends the operation with `outcome`. Unless the store answers within
    /// `store_timeout`, that goes on in the background.
    pub(crate) async fn complete(mut self, outcome: Outcome) -> Recorded {
        // The operation has run: whatever goes wrong from here on, it is not
        // released to run again.
        self.on_drop = None;
        let error = match self.try_complete(&outcome).await {
            Ok(tenure) => return self.settle(tenure),
            Err(error) => error,
        };
        self.warn("completion failed, trying again", &error);
        let Ok(runtime) = Handle::try_current() else {
            self.give_up();
            return Recorded::NotYet;
        };
        let timeout = self.operation.layer.store_timeout;
        let background = runtime.spawn(self.keep_completing(outcome));
        if error.is_timeout() {
            return Recorded::NotYet;
        }
        match Within::new(timeout, background).await {
            Some(Ok(recorded)) => recorded,
            _ => Recorded::NotYet,
        }
    }

    /// Ends the operation without an outcome. Unless the store answers within
    /// `store_timeout`, that goes on in the background.
    pub(crate) async fn release(mut self, how: Release) -> Recorded {
        let Lease { claim, .. } = self.operation.lease();
        let layer = &self.operation.layer;
        match layer
            .within(layer.store.release(&claim.id, &claim.nonce, how))
            .await
        {
            Ok(tenure) => match self.settle(tenure) {
                Recorded::Stored => Recorded::Released,
                other => other,
            },
            // Dropping it tries again.
            Err(error) => {
                self.warn("release failed, trying again", &error);
                self.on_drop = Some(how);
                Recorded::Released
            }
        }
    }

    /// For an operation that outlives the future of its request.
    pub(crate) fn watch(&self) {
        self.operation.watch();
    }

    /// What becomes of the record if this is dropped.
    pub(crate) fn release_on_drop(mut self, how: Release) -> Self {
        self.on_drop = Some(how);
        self
    }

    async fn try_complete(&self, outcome: &Outcome) -> Result<Tenure, StoreError> {
        let layer = &self.operation.layer;
        layer
            .within(layer.store.complete(self.operation.lease(), outcome))
            .await
    }

    /// The record stays in flight meanwhile: its lease is being renewed.
    async fn keep_completing(self, outcome: Outcome) -> Recorded {
        self.operation.watch_anew();
        let end = Instant::now().checked_add(self.operation.policy.max_operation);
        let mut pause = FIRST_PAUSE;
        while !is_past(end) {
            sleep(pause).await;
            match self.try_complete(&outcome).await {
                Ok(tenure) => return self.settle(tenure),
                Err(error) => self.warn("completion failed, trying again", &error),
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
        self.give_up();
        Recorded::NotYet
    }

    fn settle(mut self, tenure: Tenure) -> Recorded {
        self.on_drop = None;
        match tenure {
            Tenure::Held => Recorded::Stored,
            Tenure::Lost => {
                self.operation.lose();
                warn!(lease = ?self.operation.lease(),
                    "another owner has taken over, this answer is discarded");
                Recorded::Lost
            }
        }
    }

    /// The operation is done and its answer could not be stored: a release
    /// would run it again, a lapse leaves that to the policy.
    fn give_up(mut self) {
        self.on_drop = None;
        error!(lease = ?self.operation.lease(),
            "the answer of a finished operation was not recorded");
    }

    fn warn(&self, what: &'static str, error: &StoreError) {
        let error: &dyn std::error::Error = error;
        warn!(lease = ?self.operation.lease(), error, "{what}");
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.operation.unwatch();
        drop(self.operation.take_guard());
        if let Some(how) = self.on_drop {
            release_later(
                &self.operation.layer,
                &self.operation.lease().claim,
                how,
                Fate::Acquired,
            );
        }
    }
}

/// What is known of a claim that is given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It was acquired.
    Acquired,
    /// It may have been lost, or be on its way still.
    Unknown,
}

/// Releases a claim by its nonce, in the background, until that is settled or
/// the lease would have lapsed anyway.
pub(crate) fn release_later(layer: &Arc<Shared>, claim: &Claim, how: Release, fate: Fate) {
    let Claim {
        id, nonce, lease, ..
    } = *claim;
    let Ok(runtime) = Handle::try_current() else {
        // Nothing can run: the lease lapses.
        debug!(?id, "no runtime to release a claim on");
        return;
    };
    let layer = Arc::clone(layer);
    runtime.spawn(async move {
        let end = Instant::now().checked_add(lease);
        let mut pause = FIRST_PAUSE;
        loop {
            match layer.within(layer.store.release(&id, &nonce, how)).await {
                Ok(Tenure::Held) => return,
                // A claim that is not there yet may still arrive.
                Ok(Tenure::Lost) if fate == Fate::Acquired || is_past(end) => return,
                Err(error) if is_past(end) => {
                    let error: &dyn std::error::Error = &error;
                    warn!(?id, error, "a claim was not released, its lease lapses");
                    return;
                }
                Ok(Tenure::Lost) | Err(_) => sleep(pause).await,
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    });
}

/// `None` is a time that never comes.
fn is_past(end: Option<Instant>) -> bool {
    end.is_some_and(|end| end <= Instant::now())
}

impl Shared {
    /// An answer of the store, or an error once `store_timeout` is over.
    pub(crate) async fn within<T>(
        &self,
        call: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let answer = Within::new(self.store_timeout, call).await;
        answer.unwrap_or_else(|| Err(StoreError::timed_out()))
    }
}

pin_project! {
    /// A future's output, or `None` once the limit is over. What is ready at
    /// once costs no timer.
    pub(crate) struct Within<F> {
        #[pin]
        future: F,
        limit: Duration,
        timer: Option<Pin<Box<Sleep>>>,
    }
}

impl<F> Within<F> {
    pub(crate) fn new(limit: Duration, future: F) -> Self {
        Self {
            future,
            limit,
            timer: None,
        }
    }
}

impl<F: Future> Future for Within<F> {
    type Output = Option<F::Output>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        if let Poll::Ready(output) = this.future.poll(cx) {
            return Poll::Ready(Some(output));
        }
        let limit = *this.limit;
        let timer = this.timer.get_or_insert_with(|| Box::pin(sleep(limit)));
        timer.as_mut().poll(cx).map(|()| None)
    }
}

/// What a panic was about.
pub(crate) type Panic = Box<dyn Any + Send>;

pin_project! {
    /// Catches panics of a call, and around every poll of its future. What
    /// panicked is not polled again.
    pub(crate) struct Caught<F> {
        #[pin]
        future: Option<F>,
        panic: Option<Panic>,
    }
}

impl<F> Caught<F> {
    pub(crate) fn call(call: impl FnOnce() -> F) -> Self {
        let (future, panic) = match catch_unwind(AssertUnwindSafe(call)) {
            Ok(future) => (Some(future), None),
            Err(panic) => (None, Some(panic)),
        };
        Self { future, panic }
    }
}

impl<F: Future> Future for Caught<F> {
    type Output = Result<F::Output, Panic>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let Some(future) = this.future.as_pin_mut() else {
            let panic = this.panic.take().expect("polled after completion");
            return Poll::Ready(Err(panic));
        };
        match catch_unwind(AssertUnwindSafe(|| future.poll(cx))) {
            Ok(poll) => poll.map(Ok),
            Err(panic) => Poll::Ready(Err(panic)),
        }
    }
}

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

/// Sees to it that the task goes on elsewhere if it ends without having said
/// so: its runtime was shut down under it.
struct TaskRuns {
    layer: Option<Arc<Shared>>,
    /// The runtimes that it has been on, this one last.
    tried: Vec<runtime::Id>,
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
            tokio::spawn(renew(place, operation));
        }
    }
}

async fn renew(place: usize, operation: Arc<Operation>) {
    let layer = &operation.layer;
    let sent = Instant::now();
    let answer = layer.within(layer.store.renew(operation.lease())).await;
    let mut running = layer.renewals.lock();
    // The place may have another operation by now.
    let same = |renewal: &&mut Renewal| Arc::ptr_eq(&renewal.operation, &operation);
    let Some(renewal) = running.operations.get_mut(place).filter(same) else {
        return;
    };
    renewal.under_way = false;
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
