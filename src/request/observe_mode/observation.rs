//! One request with a key and a caller, from its claim to the end of its record.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::SystemTime;

use http::request::Parts;
use http::{Method, StatusCode};
use tracing::Instrument;

use crate::lease::{ClaimSent, LeaseOwner, Verdict};
use crate::limits::{Full, Holding};
use crate::observer::Would;
use crate::options::{OnDisconnect, OnInFlight, OnLapsedLease};
use crate::record::Fingerprint;
use crate::rejection::RejectionCode;
use crate::request::judge::if_unknown;
use crate::request::observe_mode::report::{OnObserved, report, tell};
use crate::request::observe_mode::responded::{settled, unknown};
use crate::request::operation::{Operation, Progress as Stage, ProtectedRequest};
use crate::request::stop::Stop;
use crate::runtime::{Handle, Instant, Mutex, OnceLock};
use crate::store::{Claim, Claimed, Lease, Release, StoreError};

/// One request with a key and a caller, while it is observed.
pub(super) struct Observation {
    pub(super) request: Arc<Operation>,
    method: Method,
    told: Option<OnObserved>,
    pub(super) began_at: SystemTime,
    would: OnceLock<Would>,
    progress: Mutex<Progress>,
}

/// The claim of an observation and the end of its response come in any order.
enum Progress {
    /// The claim is not yet answered.
    Undecided(Holding),
    /// The claim has acquired the record.
    Owns(Owner),
    /// The response has ended before the claim was answered.
    Ended(Holding, Verdict<'static>),
    Over,
}

struct Owner {
    lease: LeaseOwner,
    /// Whether the store answers at once.
    at_once: bool,
}

impl Observation {
    /// The claim of a request that is to be observed, without its fingerprint.
    pub(super) fn claim_of(known: &ProtectedRequest, parts: &Parts) -> Claim {
        let none_yet = Fingerprint::from_bytes([0; 32]);
        Claim {
            // What nobody resolves must not stay for ever: a lapsed record is forgotten in time.
            on_lapsed_lease: OnLapsedLease::Rerun,
            origin: known.origin(parts),
            ..known.claim_under(0, known.scope, parts, none_yet)
        }
    }

    /// The observation of a request with a key and a caller, if there is a place for it.
    pub(super) fn of(
        known: ProtectedRequest,
        parts: &Parts,
        told: Option<&OnObserved>,
    ) -> Result<Arc<Self>, Full> {
        let place = known.place().ok();
        let place = known.may_begin(place)?;
        let operation = Arc::new(Operation::new(known, None));
        Ok(Self::new(
            operation,
            parts.method.clone(),
            told.cloned(),
            place,
        ))
    }

    /// The place is one among the requests in flight, until the record has an end.
    fn new(
        request: Arc<Operation>,
        method: Method,
        told: Option<OnObserved>,
        place: Holding,
    ) -> Arc<Self> {
        Arc::new(Self {
            request,
            method,
            told,
            began_at: SystemTime::now(),
            would: OnceLock::new(),
            progress: Mutex::new(Progress::Undecided(place)),
        })
    }

    /// What the layer would have done, once that is known.
    pub(super) fn would(&self) -> Option<Would> {
        self.would.get().copied()
    }

    /// Sends the claim of a request whose body has passed. The handler runs already, and nothing need wake
    /// its request before it responds.
    pub(super) fn claim_while_running(self: &Arc<Self>, claim: Claim, fingerprint: Fingerprint) {
        self.claim(claim, fingerprint);
        self.watch();
    }

    /// Sends the claim of a request whose fingerprint is known.
    pub(super) fn claim(self: &Arc<Self>, claim: Claim, fingerprint: Fingerprint) {
        let claim = Claim {
            fingerprint,
            ..claim
        };
        let store = &self.request.core.leases.store;
        if let Some(claimed) = store.claim_at_once(&claim, &|| &claim.origin) {
            let acquired = |grant| Claimed::Acquired(Lease::of(claim.clone(), grant));
            let claimed = claimed.map_or_else(|claimed| claimed, acquired);
            self.claimed(&claim, Ok(claimed), None);
            return;
        }
        self.in_background(async move |own| {
            let sent = Instant::now();
            let claimed = own.request.core.leases.store.claim(&claim).await;
            own.claimed(&claim, claimed, Some(sent));
        });
    }

    /// Runs a task that counts for the caller. Without a runtime the observation is given up.
    pub(super) fn in_background<F>(self: &Arc<Self>, task: impl FnOnce(Arc<Self>) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let Ok(runtime) = Handle::try_current() else {
            return self.give_up();
        };
        let task = task(Arc::clone(self)).instrument(self.request.span.clone());
        self.request.account().spawn(&runtime, task);
    }

    /// What the answer to the claim means. `sent` is when the claim left this process, unless the
    /// store has answered at once.
    fn claimed(&self, claim: &Claim, claimed: Result<Claimed, StoreError>, sent: Option<Instant>) {
        let request = &self.request;
        let lease = match request.decide(claim, claimed, true) {
            Ok(Some(lease)) => lease,
            // Without a store this route runs its handlers unprotected.
            Ok(None) => return self.decided(Would::Execute),
            Err(stop) => return self.decided(self.stopped(&stop)),
        };
        let counts = &request.core.leases.counts;
        counts.executed.add();
        if lease.attempt > 1 {
            counts.rerun.add();
        }
        let is_guarded = lease.is_guarded();
        let own = |place| {
            let mut owner = request.acquired(lease, place);
            request.enter(Stage::Running);
            owner.handler_begins(Release::MayRunAgain);
            match sent {
                Some(sent) if !is_guarded => owner.renew_from(sent),
                // The request may be waiting by now, and nothing need wake it.
                Some(_) => request.watch(),
                None => {}
            }
            Owner {
                lease: owner,
                at_once: sent.is_none(),
            }
        };
        self.report(Would::Execute);
        let mut progress = self.progress.lock();
        let ended = match std::mem::replace(&mut *progress, Progress::Over) {
            Progress::Undecided(place) => {
                *progress = Progress::Owns(own(place));
                None
            }
            Progress::Ended(place, verdict) => Some((own(place), verdict)),
            other @ (Progress::Owns(_) | Progress::Over) => {
                *progress = other;
                drop(progress);
                drop(own);
                // Nothing will end what this claim has begun.
                let (leases, account) = (&request.core.leases, request.account());
                let how = Release::MayRunAgain;
                return leases.release_later(account, claim, how, ClaimSent::Acquired);
            }
        };
        drop(progress);
        if let Some((owner, verdict)) = ended {
            self.finish(owner, verdict);
        }
    }

    /// What a request would have come to whose handler would not have run.
    fn stopped(&self, stop: &Stop) -> Would {
        let options = &self.request.options;
        match stop {
            Stop::Reject(rejection) => Would::Reject(rejection.code()),
            Stop::Replay(replay) => {
                unknown(&replay.completion, options).map_or(Would::Replay, Would::Reject)
            }
            Stop::InFlight(_) => match options.on_in_flight {
                OnInFlight::Wait(_) => Would::Replay,
                OnInFlight::Reject => Would::Reject(RejectionCode::InFlight),
            },
        }
    }

    /// The request has no record to end.
    pub(super) fn decided(&self, would: Would) {
        self.report(would);
        self.over();
    }

    fn report(&self, would: Would) {
        if self.would.set(would).is_ok() {
            let request = &self.request;
            let (core, options) = (&request.core, &request.options);
            report(core, options, &self.method, would);
            core.would(request.observed.as_deref(), would);
            tell(self.told.as_ref(), Some(would));
        }
    }

    /// Nobody can say what the layer would have done.
    pub(super) fn give_up(&self) {
        if self.would.get().is_none() {
            self.request.core.leases.counts.not_observed.add();
            tell(self.told.as_ref(), None);
        }
        self.over();
    }

    pub(super) fn over(&self) {
        let over = std::mem::replace(&mut *self.progress.lock(), Progress::Over);
        // Dropped without the lock: a place that is given back takes others.
        drop(over);
    }

    pub(super) fn is_over(&self) -> bool {
        matches!(*self.progress.lock(), Progress::Over)
    }

    /// Has the lease watched of a handler that takes its time.
    pub(super) fn watch(&self) {
        self.request.watch();
    }

    /// The response has ended, and so does the record. The first end stands: a response that never
    /// ends has one before its body has.
    pub(super) fn ended(&self, verdict: Verdict<'_>) {
        let verdict = settled(verdict, &self.request.options, self.began_at);
        let mut progress = self.progress.lock();
        match std::mem::replace(&mut *progress, Progress::Over) {
            Progress::Undecided(place) => *progress = Progress::Ended(place, verdict),
            Progress::Owns(owner) => {
                drop(progress);
                self.finish(owner, verdict);
            }
            first @ (Progress::Ended(..) | Progress::Over) => *progress = first,
        }
    }

    fn finish(&self, owner: Owner, verdict: Verdict<'static>) {
        let Owner { lease, at_once } = owner;
        let mut ending = lease.end(verdict);
        // A store that answers at once does so before the client has the last byte: the client's next
        // request then finds the record.
        let is_over = at_once
            && Pin::new(&mut ending)
                .poll(&mut Context::from_waker(Waker::noop()))
                .is_ready();
        // Without a runtime the lease lapses.
        if !is_over && let Ok(runtime) = Handle::try_current() {
            let ending = ending.instrument(self.request.span.clone());
            self.request.account().spawn(&runtime, ending);
        }
    }

    /// The handler has failed: an error of the service, or a panic.
    pub(super) fn failed(&self) {
        self.ended(Verdict::Release(if_unknown(&self.request.options)));
    }

    /// The client has left before the handler has responded. Protected, the operation would have
    /// gone on, and a retry would have found its response.
    pub(super) fn left(&self) {
        match self.request.options.on_disconnect {
            OnDisconnect::Finish => self.ended(self.done(StatusCode::OK)),
            OnDisconnect::Cancel => self.failed(),
        }
    }
}
