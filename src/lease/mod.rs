//! A lease in hand: kept alive while the operation runs, ended once, and never
//! just forgotten.

pub(crate) mod renewer;

use std::sync::Arc;
use std::time::Duration;

use tracing::{Instrument, debug, error, warn};

use crate::layer::Shared;
use crate::lease::renewer::wake_another_worker;
use crate::request::judge::Verdict;
use crate::request::operation::Operation;
use crate::runtime::deadline::Deadline;
use crate::runtime::{Handle, Instant, sleep};
use crate::store::{Claim, Lease, Outcome, Ownership, Release, StoreError};

const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// For leases that practically never lapse.
const LONGEST_RELEASE: Duration = Duration::from_secs(24 * 60 * 60);

/// The lease of an operation that has not ended.
pub(crate) struct LeaseOwner {
    operation: Arc<Operation>,
    /// What becomes of the record if this is dropped; `None` once it ended.
    on_drop: Option<Release>,
    /// Whether its end has come, though the store may not know of it yet.
    ends: bool,
}

/// What became of a completion or release.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// The store holds the completion.
    Recorded,
    /// A retry executes again.
    Released,
    /// Another owner has taken over; nothing of this one is stored.
    Overtaken,
    /// The store did not answer in time. A background task tries again.
    Pending,
}

impl LeaseOwner {
    /// Of a claim that was sent then.
    pub(crate) fn new(operation: &Arc<Operation>, lease: Lease, sent: Instant) -> Self {
        // A store elsewhere has to hear of it even if the handler blocks its
        // thread from the start.
        if operation.acquired(lease) {
            operation.watch_since(sent);
            wake_another_worker();
        }
        Self {
            operation: Arc::clone(operation),
            on_drop: Some(operation.outcome_unknown()),
            ends: false,
        }
    }

    /// 8. What was judged, done.
    pub(crate) async fn end(mut self, ending: Verdict) -> Ended {
        self.ends = true;
        let operation = Arc::clone(&self.operation);
        let counts = &operation.layer.counts;
        let is_answer = ending.recorded().is_some();
        let in_doubt = matches!(ending, Verdict::LeaveInFlight);
        let recorded = match ending {
            Verdict::Record(outcome) => self.complete(outcome).await,
            Verdict::Release(how) => self.release(how).await,
            Verdict::LeaveInFlight => self.lapse().await,
        };
        let recorded = match recorded {
            Ended::Released | Ended::Pending if operation.is_lost() => Ended::Overtaken,
            recorded => recorded,
        };
        match recorded {
            Ended::Released if in_doubt => counts.in_doubt.add(),
            recorded => counts.ended(recorded, is_answer),
        }
        recorded
    }

    /// Ends the operation with `outcome`. Unless the store answers within
    /// `store_timeout`, that goes on in the background.
    async fn complete(mut self, outcome: Outcome) -> Ended {
        // The operation has run: whatever goes wrong from here on, it is not
        // released to run again.
        self.on_drop = None;
        let asked = Instant::now();
        let error = match self.try_complete(&outcome).await {
            Ok(tenure) => return self.settle(tenure),
            Err(error) => error,
        };
        self.warn("completion failed, trying again", &error);
        let Ok(runtime) = Handle::try_current() else {
            self.give_up();
            return Ended::Pending;
        };
        let layer = Arc::clone(&self.operation.layer);
        let span = self.operation.span.clone();
        let mut background = runtime.spawn(self.keep_completing(outcome).instrument(span));
        let left = layer.store_timeout.saturating_sub(asked.elapsed());
        match Deadline::new(left, &mut background).await {
            Some(Ok(recorded)) => recorded,
            Some(Err(_)) => Ended::Pending,
            None => {
                // From here on nobody waits for it.
                layer.detached.spawn(&runtime, background);
                Ended::Pending
            }
        }
    }

    /// Ends the operation without an outcome. Unless the store answers within
    /// `store_timeout`, that goes on in the background.
    async fn release(mut self, how: Release) -> Ended {
        self.operation.stop_renewing();
        let Lease { claim, .. } = self.operation.lease();
        let layer = &self.operation.layer;
        match layer
            .within(layer.store.release(&claim.id, &claim.nonce, how))
            .await
        {
            Ok(tenure) => {
                let id = claim.id;
                match self.settle(tenure) {
                    Ended::Recorded => {
                        if how == Release::OutcomeUnknown {
                            error!(record = %id,
                                "nobody knows how an operation ended: its record waits to be \
                                 resolved");
                        }
                        Ended::Released
                    }
                    other => other,
                }
            }
            // Dropping it tries again.
            Err(error) => {
                self.warn("release failed, trying again", &error);
                self.on_drop = Some(how);
                Ended::Released
            }
        }
    }

    /// Leaves the operation in flight until its lease lapses: it may still be
    /// running somewhere.
    async fn lapse(mut self) -> Ended {
        self.on_drop = None;
        let layer = &self.operation.layer;
        let renewed = layer
            .within(layer.store.renew(self.operation.lease()))
            .await;
        match renewed {
            Ok(Ownership::Lost) => self.settle(Ownership::Lost),
            Ok(Ownership::Held) => Ended::Released,
            // It lapses a little sooner.
            Err(error) => {
                self.warn("a last renewal failed", &error);
                Ended::Released
            }
        }
    }

    /// The record stays as it is: its handler has completed it, or it is
    /// another owner's, or nobody knows.
    #[cfg(feature = "_sql")]
    pub(crate) fn let_go(mut self) {
        self.on_drop = None;
    }

    /// What becomes of the record if this is dropped.
    pub(crate) fn release_on_drop(mut self, how: Release) -> Self {
        self.on_drop = Some(how);
        self
    }

    async fn try_complete(&self, outcome: &Outcome) -> Result<Ownership, StoreError> {
        let layer = &self.operation.layer;
        layer
            .within(layer.store.complete(self.operation.lease(), outcome))
            .await
    }

    /// The record stays in flight meanwhile: its lease is being renewed.
    async fn keep_completing(self, outcome: Outcome) -> Ended {
        self.operation.watch_anew();
        let end = Instant::now().checked_add(self.operation.options.max_operation);
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
        Ended::Pending
    }

    fn settle(mut self, tenure: Ownership) -> Ended {
        self.on_drop = None;
        match tenure {
            Ownership::Held => Ended::Recorded,
            Ownership::Lost => {
                self.operation.lose();
                warn!(lease = ?self.operation.lease(),
                    "another owner has taken over, this answer is discarded");
                Ended::Overtaken
            }
        }
    }

    /// The operation is done and its answer could not be stored: a release
    /// would run it again, a lapse leaves that to the policy.
    fn give_up(self) {
        error!(lease = ?self.operation.lease(),
            "the answer of a finished operation was not recorded");
    }

    fn warn(&self, what: &'static str, error: &StoreError) {
        let error: &dyn std::error::Error = error;
        warn!(lease = ?self.operation.lease(), error, "{what}");
    }
}

impl Drop for LeaseOwner {
    fn drop(&mut self) {
        self.operation.unwatch();
        drop(self.operation.take_guard());
        #[cfg(feature = "_sql")]
        if self.operation.commit.is_committed() {
            return;
        }
        if let Some(how) = self.on_drop {
            if self.operation.has_begun() && !self.ends {
                self.operation.layer.counts.released.add();
            }
            release_later(
                &self.operation.layer,
                &self.operation.lease().claim,
                how,
                ClaimSent::Acquired,
            );
        }
    }
}

/// What is known of a claim that is given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ClaimSent {
    /// It was acquired.
    Acquired,
    /// It may have been lost, or be on its way still.
    Maybe,
}

/// Releases a claim by its nonce, in the background, until that is settled or
/// the lease would have lapsed anyway.
pub(crate) fn release_later(layer: &Arc<Shared>, claim: &Claim, how: Release, fate: ClaimSent) {
    let Claim {
        id, nonce, lease, ..
    } = *claim;
    let Ok(runtime) = Handle::try_current() else {
        // Nothing can run: the lease lapses.
        debug!(?id, "no runtime to release a claim on");
        return;
    };
    let releasing = Arc::clone(layer);
    let release = async move {
        let layer = releasing;
        let end = Instant::now() + lease.min(LONGEST_RELEASE);
        let mut pause = FIRST_PAUSE;
        loop {
            match layer.within(layer.store.release(&id, &nonce, how)).await {
                Ok(Ownership::Held) => return,
                // A claim that is not there yet may still arrive.
                Ok(Ownership::Lost) if fate == ClaimSent::Acquired || end <= Instant::now() => {
                    return;
                }
                Err(error) if end <= Instant::now() => {
                    let error: &dyn std::error::Error = &error;
                    warn!(?id, error, "a claim was not released, its lease lapses");
                    return;
                }
                Ok(Ownership::Lost) | Err(_) => sleep(pause).await,
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    };
    layer.detached.spawn(&runtime, release.in_current_span());
}

/// `None` is a time that never comes.
fn is_past(end: Option<Instant>) -> bool {
    end.is_some_and(|end| end <= Instant::now())
}
