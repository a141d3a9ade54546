//! A lease in hand: kept alive while the operation runs, ended once, and never
//! just forgotten.

use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use slab::Slab;
use tokio::runtime::Handle;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, error, warn};

use crate::context::Operation;
use crate::layer::Shared;
use crate::record::{Nonce, RecordId};
use crate::store::{Lease, Outcome, Release, StoreError, Tenure};

/// How many renewals are under way at once.
const RENEWALS_AT_ONCE: usize = 64;
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// The lease of an operation that has not ended.
pub(crate) struct Held {
    layer: Arc<Shared>,
    operation: Arc<Operation>,
    lease: Lease,
    max_operation: Duration,
    renewal: usize,
    /// What becomes of the record if this is dropped; `None` once it ended.
    on_drop: Option<Release>,
}

/// What became of a completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Recorded {
    Stored,
    /// Another owner has taken over; nothing of this one is stored.
    Lost,
    /// Not in time. It is being tried again in the background.
    NotYet,
}

impl Held {
    /// `unknown` is what becomes of the record when nobody can say how the
    /// operation ended.
    pub(crate) fn new(
        layer: &Arc<Shared>,
        operation: &Arc<Operation>,
        lease: Lease,
        max_operation: Duration,
        unknown: Release,
    ) -> Self {
        operation.acquired(lease.token, lease.attempt);
        // The guard, if there is one, lives in the renewal: it is gone once
        // the operation has ended or has run for too long.
        let renewal = layer
            .renewals
            .add(layer, operation, lease.clone(), max_operation);
        Self {
            layer: Arc::clone(layer),
            operation: Arc::clone(operation),
            lease: lease.without_guard(),
            max_operation,
            renewal,
            on_drop: Some(unknown),
        }
    }

    /// Ends the operation with `outcome`, within `store_timeout`.
    pub(crate) async fn complete(self, outcome: Outcome) -> Recorded {
        let begun = Instant::now();
        match self.try_complete(&outcome).await {
            Ok(tenure) => return self.settle(tenure),
            Err(error) => self.warn("completion failed, trying again", &error),
        }
        let left = self.layer.store_timeout.saturating_sub(begun.elapsed());
        let Ok(runtime) = Handle::try_current() else {
            self.give_up();
            return Recorded::NotYet;
        };
        let background = runtime.spawn(self.keep_completing(outcome));
        match timeout(left, background).await {
            Ok(Ok(recorded)) => recorded,
            _ => Recorded::NotYet,
        }
    }

    /// Ends the operation without an outcome, within `store_timeout`; if that
    /// fails, in the background.
    pub(crate) async fn release(mut self, how: Release) {
        let (id, nonce) = (self.lease.claim.id, self.lease.claim.nonce);
        match within(
            self.layer.store_timeout,
            self.layer.store.release(&id, &nonce, how),
        )
        .await
        {
            Ok(tenure) => {
                self.settle(tenure);
            }
            // Dropping it tries again.
            Err(error) => {
                self.on_drop = Some(how);
                self.warn("release failed, trying again", &error);
            }
        }
    }

    /// What becomes of the record if this is dropped.
    pub(crate) fn release_on_drop(mut self, how: Release) -> Self {
        self.on_drop = Some(how);
        self
    }

    async fn try_complete(&self, outcome: &Outcome) -> Result<Tenure, StoreError> {
        within(
            self.layer.store_timeout,
            self.layer.store.complete(&self.lease, outcome),
        )
        .await
    }

    /// The record stays in flight meanwhile: its lease is being renewed.
    async fn keep_completing(self, outcome: Outcome) -> Recorded {
        let end = Instant::now() + self.max_operation;
        let mut pause = FIRST_PAUSE;
        while Instant::now() < end {
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
                warn!(id = ?self.lease.claim.id, token = %self.lease.token,
                    "another owner has taken over, this answer is discarded");
                Recorded::Lost
            }
        }
    }

    /// The operation is done and its answer could not be stored: a release
    /// would run it again, a lapse leaves that to the policy.
    fn give_up(mut self) {
        self.on_drop = None;
        error!(id = ?self.lease.claim.id, token = %self.lease.token,
            "the answer of a finished operation was not recorded");
    }

    fn warn(&self, what: &'static str, error: &StoreError) {
        warn!(id = ?self.lease.claim.id, error = error as &dyn std::error::Error, "{what}");
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.layer.renewals.remove(self.renewal);
        if let Some(how) = self.on_drop {
            release_later(&self.layer, &self.lease, how);
        }
    }
}

/// Releases a claim in the background, until the store has answered or the
/// lease would have lapsed anyway.
pub(crate) fn release_later(layer: &Arc<Shared>, lease: &Lease, how: Release) {
    release_by_nonce(
        layer,
        lease.claim.id,
        lease.claim.nonce,
        lease.claim.lease,
        how,
    );
}

/// As [`release_later`], for a claim of which nobody knows whether it reached
/// the store.
pub(crate) fn release_by_nonce(
    layer: &Arc<Shared>,
    id: RecordId,
    nonce: Nonce,
    lease: Duration,
    how: Release,
) {
    let Ok(runtime) = Handle::try_current() else {
        // Nothing can run: the lease lapses.
        debug!(?id, "no runtime to release a claim on");
        return;
    };
    let layer = Arc::clone(layer);
    runtime.spawn(async move {
        let end = Instant::now() + lease;
        let mut pause = FIRST_PAUSE;
        loop {
            match within(layer.store_timeout, layer.store.release(&id, &nonce, how)).await {
                Ok(_) => return,
                Err(error) if Instant::now() >= end => {
                    let error: &dyn std::error::Error = &error;
                    warn!(?id, error, "a claim was not released, its lease lapses");
                    return;
                }
                Err(_) => sleep(pause).await,
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    });
}

/// `call`, or an error once `limit` is over. A call that is ready at once
/// costs no timer.
pub(crate) async fn within<T>(
    limit: Duration,
    call: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    at_once_or_within(limit, call)
        .await
        .unwrap_or_else(|| Err(StoreError::timed_out()))
}

/// `None` once `limit` is over.
pub(crate) async fn at_once_or_within<T>(
    limit: Duration,
    call: impl Future<Output = T>,
) -> Option<T> {
    let mut call = pin!(call);
    match poll_fn(|cx| Poll::Ready(call.as_mut().poll(cx))).await {
        Poll::Ready(answer) => Some(answer),
        Poll::Pending => timeout(limit, call).await.ok(),
    }
}

/// What a panic was about.
pub(crate) type Panic = Box<dyn std::any::Any + Send>;

/// Catches panics around every poll. What panicked is not polled again.
pub(crate) async fn caught<F: Future>(future: F) -> Result<F::Output, Panic> {
    let mut future = pin!(future);
    poll_fn(
        |cx| match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx))) {
            Ok(poll) => poll.map(Ok),
            Err(panic) => Poll::Ready(Err(panic)),
        },
    )
    .await
}

/// The operations that run, and the one task that renews their leases. It is
/// started by the first, and ends when it finds none.
#[derive(Default)]
pub(crate) struct Renewals(Mutex<Running>);

#[derive(Default)]
struct Running {
    operations: Slab<Renewal>,
    task: bool,
}

struct Renewal {
    operation: Arc<Operation>,
    /// `None` once it is no longer renewed.
    lease: Option<Lease>,
    began: Instant,
    /// When the last renewal that held was sent.
    renewed: Instant,
    max_operation: Duration,
}

impl Renewals {
    fn lock(&self) -> MutexGuard<'_, Running> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(
        &self,
        layer: &Arc<Shared>,
        operation: &Arc<Operation>,
        lease: Lease,
        max_operation: Duration,
    ) -> usize {
        let now = Instant::now();
        let mut running = self.lock();
        if !running.task
            && let Ok(runtime) = Handle::try_current()
        {
            running.task = true;
            runtime.spawn(renew_all(TaskRuns(Some(Arc::clone(layer)))));
        }
        running.operations.insert(Renewal {
            operation: Arc::clone(operation),
            lease: Some(lease),
            began: now,
            renewed: now,
            max_operation,
        })
    }

    fn remove(&self, at: usize) {
        let removed = self.lock().operations.try_remove(at);
        // Its guard may lock the store: not under our lock.
        drop(removed);
    }
}

/// Lets another task start when this one ends without having said so: its
/// runtime was shut down under it.
struct TaskRuns(Option<Arc<Shared>>);

impl Drop for TaskRuns {
    fn drop(&mut self) {
        if let Some(layer) = &self.0 {
            layer.renewals.lock().task = false;
        }
    }
}

async fn renew_all(mut task: TaskRuns) {
    while let Some(layer) = &task.0 {
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
                task.0 = None;
                return;
            }
            for (at, renewal) in &mut running.operations {
                let Some(lease) = &renewal.lease else {
                    continue;
                };
                if now - renewal.began >= renewal.max_operation {
                    overdue.extend(renewal.lease.take());
                } else if !lease.is_guarded() && now - renewal.renewed >= lease.claim.lease / 3 {
                    due.push((at, lease.clone()));
                }
            }
        }
        for lease in overdue {
            warn!(id = ?lease.claim.id, token = %lease.token,
                "an operation runs longer than max_operation, its lease is no longer renewed");
        }
        let mut under_way = JoinSet::new();
        for (at, lease) in due {
            while under_way.len() >= RENEWALS_AT_ONCE {
                under_way.join_next().await;
            }
            under_way.spawn(renew(Arc::clone(layer), at, lease));
        }
        while under_way.join_next().await.is_some() {}
    }
}

async fn renew(layer: Arc<Shared>, at: usize, lease: Lease) {
    let sent = Instant::now();
    let answer = within(layer.store_timeout, layer.store.renew(&lease)).await;
    let mut running = layer.renewals.lock();
    let own = |renewal: &&mut Renewal| {
        // The place may have another operation by now.
        let nonce = renewal.lease.as_ref().map(|own| own.claim.nonce);
        nonce == Some(lease.claim.nonce)
    };
    let Some(renewal) = running.operations.get_mut(at).filter(own) else {
        return;
    };
    match answer {
        Ok(Tenure::Held) => renewal.renewed = sent,
        Ok(Tenure::Lost) => {
            renewal.operation.lose();
            renewal.lease = None;
            warn!(id = ?lease.claim.id, token = %lease.token,
                "another owner has taken over a running operation");
        }
        Err(error) => {
            let error: &dyn std::error::Error = &error;
            warn!(id = ?lease.claim.id, error, "a lease was not renewed, trying again");
        }
    }
}
