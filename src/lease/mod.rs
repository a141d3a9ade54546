//! Owning a record: a lease that is renewed while its operation runs, ended once,
//! and given back if its owner is dropped unfinished.
//!
//! Public items: none. May use: `counts`, `observer`, `store`, `limits`, `record`, `runtime`,
//! `error`.

mod release;
mod renewer;
mod state;
mod timed;
mod timer;
mod verdict;

pub(crate) use release::ClaimSent;
pub(crate) use renewer::Renewer;
pub(crate) use state::{LeaseState, Leased};
pub(crate) use timed::TimedStore;
pub(crate) use timer::SharedTimer;
pub(crate) use verdict::{Ended, Verdict};

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tracing::{Instrument, error, warn};

use crate::counts::Counters;
use crate::error::cause;
use crate::limits::Full;
use crate::observer::{Ending, Observers};
use crate::runtime::deadline::Deadline;
use crate::runtime::{Handle, Instant, sleep};
use crate::store::{OnLapsedLease, Outcome, Ownership, Release, StoreError, StoreErrorKind};

const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// What all leases of one layer need.
pub(crate) struct Leases {
    pub(crate) store: TimedStore,
    pub(crate) counts: Counters,
    pub(crate) observers: Observers,
    renewer: Arc<Renewer>,
}

impl Leases {
    pub(crate) fn new(
        store: TimedStore,
        shortest_lease: Duration,
        shortest_deadline: Duration,
    ) -> Self {
        Self {
            observers: store.observers().clone(),
            renewer: Renewer::new(store.clone(), shortest_lease, shortest_deadline),
            store,
            counts: Counters::default(),
        }
    }

    /// Has the renewer watch a lease, unless the renewer does so already: the
    /// lease is renewed, and the operation's length is bounded. An operation that
    /// ends in its first poll needs neither.
    pub(crate) fn watch(&self, lease: &Arc<dyn Leased>) {
        self.renewer.watch(lease, Instant::now());
    }

    /// Counts an operation that has ended, and tells observers, unless that was done before: a commit
    /// of the handler can become known after the layer has given it up.
    pub(crate) fn ended(&self, lease: &LeaseState, ended: Ended) {
        if !lease.set_ended(ended) {
            return;
        }
        let is_observed = lease.is_observed();
        // No response of an observed operation is discarded, and none runs beside its duplicate
        // that would not have run without the layer.
        if is_observed && ended == Ended::Overtaken {
            return;
        }
        let counts = &self.counts;
        let count = match ended {
            Ended::Recorded => Some(&counts.recorded),
            Ended::Sealed => Some(&counts.sealed),
            Ended::Released => Some(&counts.released),
            Ended::OutcomeUnknown => Some(&counts.outcome_unknown),
            // These are watched for, and no client of an observed operation notices them.
            Ended::LeftInFlight | Ended::Pending if is_observed => None,
            Ended::LeftInFlight => Some(&counts.in_doubt),
            Ended::Overtaken => Some(&counts.overtaken),
            Ended::Pending => Some(&counts.unrecorded),
        };
        if let Some(count) = count {
            count.add();
        }
        self.observers.tell(|observer| {
            let lease = lease.lease();
            observer.ended(&Ending {
                end: ended.into(),
                record: &lease.claim.id,
                attempt: lease.attempt,
                is_observed,
            });
        });
    }

    /// Counts a request that a limit has refused, and tells observers.
    pub(crate) fn reached_limit(&self, full: Full) {
        self.counts.full(full);
        self.observers.reached_limit(full);
    }

    #[cfg(test)]
    pub(crate) fn watched(&self) -> (usize, bool) {
        self.renewer.watched()
    }
}

/// The right and the duty to end one operation. Dropped before that, the owner
/// gives the record back.
pub(crate) struct LeaseOwner {
    leased: Arc<dyn Leased>,
    phase: Phase,
}

/// How far the operation of a [`LeaseOwner`] has come: what a drop does to the
/// record, and what a drop counts as.
#[derive(Clone, Copy)]
enum Phase {
    /// The handler has not begun: a drop gives the claim back.
    Claimed,
    /// The handler has begun: a drop ends the operation so, and counts.
    HandlerRuns(Release),
    /// The operation's end is under way, or done; [`LeaseOwner::end`] counts it. The
    /// drop sends a release that the store has not answered again.
    Ends(Option<Release>),
    /// The store has answered a completion.
    Recorded,
}

/// What is left of a [`Verdict`] once a store that answers at once was asked.
enum LastStep {
    Record(Outcome),
    Release(Release),
    LeaveInFlight,
}

/// How an operation ends: a future, for which the future of a request has little room to keep.
pub(crate) enum EndFuture {
    /// The store has answered.
    Now(Ended),
    Later(Pin<Box<dyn Future<Output = Ended> + Send>>),
}

impl Future for EndFuture {
    type Output = Ended;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Ended> {
        match self.get_mut() {
            EndFuture::Now(ended) => Poll::Ready(*ended),
            EndFuture::Later(end) => end.as_mut().poll(cx),
        }
    }
}

impl LeaseOwner {
    /// Takes ownership of the lease that was acquired.
    pub(crate) fn acquired(leased: Arc<dyn Leased>) -> Self {
        Self {
            leased,
            phase: Phase::Claimed,
        }
    }

    /// Has the renewer renew the lease, which no guard keeps. The lease's time counts from `sent`, when
    /// the claim left this process.
    pub(crate) fn renew_from(&self, sent: Instant) {
        // The renewer is started before the handler begins, and on another
        // worker: the handler may block this thread from its first line.
        self.leased.leases().renewer.watch(&self.leased, sent);
        renewer::wake_another_worker();
    }

    pub(crate) fn state(&self) -> &LeaseState {
        self.leased.state()
    }

    /// Says that the handler begins, and what becomes of the record if the owner
    /// is dropped from here on.
    pub(crate) fn handler_begins(&mut self, if_dropped: Release) {
        self.phase = Phase::HandlerRuns(if_dropped);
    }

    /// Step 8: applies the verdict to the store. A store that answers at once has the response
    /// before this returns, and nothing of the verdict is borrowed any more.
    pub(crate) fn end(mut self, verdict: Verdict<'_>) -> EndFuture {
        self.phase = Phase::Ends(None);
        let step = match verdict {
            Verdict::RecordResponse(response) => {
                let leased = Arc::clone(&self.leased);
                let (state, leases) = (leased.state(), leased.leases());
                let answer = leases.store.complete_at_once(state.lease(), &response);
                if let Some(ownership) = answer {
                    self.phase = Phase::Recorded;
                    let ended = self.settle(ownership, Ended::Recorded);
                    leases.ended(state, ended);
                    return EndFuture::Now(ended);
                }
                LastStep::Record(response.into())
            }
            Verdict::Record(outcome) => LastStep::Record(outcome),
            Verdict::Release(how) => LastStep::Release(how),
            Verdict::LeaveInFlight => LastStep::LeaveInFlight,
        };
        EndFuture::Later(Box::pin(self.end_later(step)))
    }

    fn end_later(self, step: LastStep) -> impl Future<Output = Ended> {
        let leased = Arc::clone(&self.leased);
        async move {
            let state = leased.state();
            let ended = match step {
                LastStep::Record(outcome) => self.complete(outcome).await,
                LastStep::Release(how) => self.release(how).await,
                LastStep::LeaveInFlight => self.leave_in_flight().await,
            };
            let ended = match ended {
                Ended::Released | Ended::OutcomeUnknown | Ended::LeftInFlight | Ended::Pending
                    if state.is_lost() =>
                {
                    Ended::Overtaken
                }
                ended => ended,
            };
            leased.leases().ended(state, ended);
            ended
        }
    }

    /// Ends the operation of an owner that was overtaken: the record is another
    /// owner's, so the store is not asked.
    pub(crate) fn overtaken(self) {
        self.leased.leases().ended(self.state(), Ended::Overtaken);
        self.leave();
    }

    /// Leaves the record as it is: the handler has completed it, or it is another
    /// owner's, or nobody knows.
    pub(crate) fn leave(mut self) {
        self.phase = Phase::Ends(None);
    }

    /// Ends the operation with `outcome`. If the store does not answer within
    /// `store_timeout`, a background task goes on trying.
    async fn complete(self, outcome: Outcome) -> Ended {
        // The operation has run. Whatever goes wrong from here on, the record is
        // not released to run again: `phase` is `Ends(None)`.
        let asked = Instant::now();
        let mut outcome = self.leased.leases().store.fitted(outcome);
        let error = loop {
            let store = &self.leased.leases().store;
            match store.complete(self.state().lease(), &outcome).await {
                Ok(ownership) => return self.settle(ownership, Ended::from(&outcome)),
                Err(error) if is_too_large(&error, &outcome) => {
                    self.warn(
                        "the store can't keep a response, its record is sealed",
                        &error,
                    );
                    outcome = outcome.sealed();
                }
                Err(error) => break error,
            }
        };
        self.warn("completion failed, trying again", &error);
        let Ok(runtime) = Handle::try_current() else {
            self.give_up();
            return Ended::Pending;
        };
        let span = self.leased.span().clone();
        let leased = Arc::clone(&self.leased);
        let mut retries = runtime.spawn(self.keep_completing(outcome).instrument(span));
        let left = leased
            .leases()
            .store
            .timeout()
            .saturating_sub(asked.elapsed());
        match Deadline::new(left, &mut retries).await {
            Some(Ok(ended)) => ended,
            Some(Err(_)) => Ended::Pending,
            None => {
                // The client is answered now; `drain` waits for the retries.
                leased.account().spawn(&runtime, retries);
                Ended::Pending
            }
        }
    }

    /// Ends the operation without an outcome. If the store does not answer within
    /// `store_timeout`, a background task goes on trying.
    async fn release(mut self, how: Release) -> Ended {
        // A renewal that is under way will find the record released; without this
        // it would report a false takeover.
        self.leased.leases().renewer.stop(&self.leased);
        // Until the store has answered, a drop sends the release again: the store may
        // panic, or the runtime end, at the await below.
        self.phase = Phase::Ends(Some(how));
        let claim = &self.state().lease().claim;
        let released = self
            .leased
            .leases()
            .store
            .release(&claim.id, &claim.nonce, how)
            .await;
        match released {
            Ok(ownership) => {
                let id = claim.id;
                let ended = self.ended_by(how);
                self.phase = Phase::Ends(None);
                let ended = self.settle(ownership, ended);
                if ended == Ended::OutcomeUnknown {
                    error!(record = %id,
                        "nobody knows how an operation ended: its record waits to be resolved");
                }
                ended
            }
            Err(error) => {
                self.warn("release failed, trying again", &error);
                self.ended_by(how)
            }
        }
    }

    /// What a release comes to once the store has it. An outcome that nobody knows waits
    /// for a person only where the route says `refuse`: under `rerun` a retry executes.
    fn ended_by(&self, how: Release) -> Ended {
        match (how, self.state().lease().claim.on_lapsed_lease) {
            (Release::OutcomeUnknown, OnLapsedLease::Refuse) => Ended::OutcomeUnknown,
            (Release::OutcomeUnknown, OnLapsedLease::Rerun) | (Release::MayRunAgain, _) => {
                Ended::Released
            }
        }
    }

    /// Leaves the operation in flight until its lease lapses. One last renewal
    /// gives whatever still runs a full lease.
    async fn leave_in_flight(self) -> Ended {
        match self
            .leased
            .leases()
            .store
            .renew_within(Duration::MAX, self.state())
            .await
        {
            Ok(ownership) => self.settle(ownership, Ended::LeftInFlight),
            Err(error) => {
                // The lease lapses a little sooner.
                self.warn("a last renewal failed", &error);
                Ended::LeftInFlight
            }
        }
    }

    /// Tries again until the store has answered, for `max_operation` at most. The
    /// record stays in flight meanwhile: its lease is renewed.
    async fn keep_completing(self, mut outcome: Outcome) -> Ended {
        self.leased.leases().renewer.watch_anew(&self.leased);
        let end = Instant::now().checked_add(self.leased.max_operation());
        // `None` is a time that never comes.
        let is_over = || end.is_some_and(|end| end <= Instant::now());
        let mut pause = FIRST_PAUSE;
        while !is_over() {
            sleep(pause).await;
            let completed = self
                .leased
                .leases()
                .store
                .complete(self.state().lease(), &outcome);
            match completed.await {
                Ok(ownership) => return self.settle(ownership, Ended::from(&outcome)),
                Err(error) => {
                    self.warn("completion failed, trying again", &error);
                    if is_too_large(&error, &outcome) {
                        outcome = outcome.sealed();
                    }
                }
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
        self.give_up();
        Ended::Pending
    }

    /// What the store's answer means: `held` if this owner still held the record.
    fn settle(self, ownership: Ownership, held: Ended) -> Ended {
        match ownership {
            Ownership::Held => held,
            Ownership::Lost => {
                self.state().lose();
                if !self.state().is_observed() {
                    warn!(lease = ?self.state().lease(),
                        "another owner has taken over, this response is discarded");
                }
                Ended::Overtaken
            }
        }
    }

    /// The operation is done and its response could not be stored. A release would
    /// run the operation again; the lapse of the lease leaves that to the route's
    /// `on_lapsed_lease`.
    fn give_up(self) {
        error!(lease = ?self.state().lease(),
            "the response of a finished operation was not recorded");
    }

    fn warn(&self, what: &'static str, error: &StoreError) {
        warn!(lease = ?self.state().lease(), error = cause(error), "{what}");
    }
}

/// Whether the store will never take this completion.
fn is_too_large(error: &StoreError, outcome: &Outcome) -> bool {
    error.kind() == StoreErrorKind::TooLarge && matches!(outcome, Outcome::Completed(_))
}

impl Drop for LeaseOwner {
    fn drop(&mut self) {
        self.leased.leases().renewer.unwatch(&self.leased);
        // The guard goes before the release: a lease of the memory store can't be
        // taken over while its guard lives.
        self.state()
            .leave_owner(matches!(self.phase, Phase::Recorded));
        if self.state().is_completed_elsewhere() {
            return;
        }
        let how = match self.phase {
            Phase::Claimed => Release::MayRunAgain,
            Phase::HandlerRuns(if_dropped) => {
                let ended = self.ended_by(if_dropped);
                self.leased.leases().ended(self.state(), ended);
                if_dropped
            }
            Phase::Ends(Some(how)) => how,
            Phase::Ends(None) | Phase::Recorded => return,
        };
        let claim = &self.state().lease().claim;
        self.leased
            .leases()
            .release_later(self.leased.account(), claim, how, ClaimSent::Acquired);
    }
}
