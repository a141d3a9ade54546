//! A request in [`Mode::Observe`](crate::options::Mode::Observe): it passes as if there were no
//! layer, and what the layer would have done is found out beside it.
//!
//! [`observe`] takes steps 1 to 3. The body of the request is digested while the handler reads it
//! (`asked.rs`), and its end sends the claim, whose answer is the report. What the handler responds
//! with (`responded.rs`) ends the record, so that later duplicates are known. Records of this mode
//! have ids of their own: protection never finds one.

mod asked;
mod responded;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::SystemTime;

use http::request::Parts;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body::Body;
use tracing::{Instrument, Span, debug, info, warn};

use crate::lease::{ClaimSent, LeaseOwner, Verdict};
use crate::limits::{Full, Holding};
use crate::message::body::BoxError;
use crate::message::response_body::ResponseBody;
use crate::observer::Would;
use crate::options::{OnDisconnect, OnInFlight, OnLapsedLease, Require, RouteOptions};
use crate::record::{Fingerprint, RecordId};
use crate::rejection::RejectionCode;
use crate::request::core::Core;
use crate::request::judge::if_unknown;
use crate::request::observe_mode::asked::Asked;
use crate::request::observe_mode::responded::{settled, unknown};
use crate::request::operation::{KnownCaller, Operation, Progress as Stage, ProtectedRequest};

use crate::request::respond::STATUS_HEADER;
use crate::request::stop::Stop;
use crate::runtime::{Handle, Instant, Mutex, OnceLock};
use crate::store::{Claim, Claimed, Release, StoreError};

/// Begins to observe a request, and returns it for its handler.
pub(crate) fn observe<B>(
    core: &Arc<Core>,
    options: &Arc<RouteOptions>,
    request: Request<B>,
) -> (Request<B>, Observing)
where
    B: Body + 'static,
{
    let (mut parts, body) = request.into_parts();
    let told = parts.extensions.remove::<OnObserved>();
    let (body, kind) = match begin(core, options, &mut parts, body, told.as_ref()) {
        Ok((body, observation)) => (body, Kind::Observation(observation)),
        Err((body, None)) => {
            core.leases.counts.not_observed.add();
            tell(told.as_ref(), None);
            (body, Kind::Nothing)
        }
        Err((body, Some(would))) => {
            report(core, options, &parts.method, would);
            core.would(core.observe(options, &parts).as_deref(), would);
            tell(told.as_ref(), Some(would));
            (body, Kind::Decided(would))
        }
    };
    let marks = options.mark_observed;
    (Request::from_parts(parts, body), Observing { kind, marks })
}

/// What begins: a body that is digested, or the decision that is there already. `None` for a request
/// of which the layer can't say what it would have done.
type Begun<B> = Result<(B, Option<Arc<Observation>>), (B, Option<Would>)>;

fn begin<B>(
    core: &Arc<Core>,
    options: &Arc<RouteOptions>,
    parts: &mut Parts,
    body: B,
    told: Option<&OnObserved>,
) -> Begun<B>
where
    B: Body + 'static,
{
    let (key, header) = match options.keys.read(&parts.headers) {
        Some(Ok(read)) => read,
        None if options.require == Require::Optional => return Err((body, Some(Would::Pass))),
        refused => {
            let rejection = match refused {
                Some(Err(rejection)) => rejection,
                _ => options.keys.required(),
            };
            return Err((body, Some(Would::Reject(rejection.code()))));
        }
    };
    let caller = match KnownCaller::of(core, options, parts) {
        Ok(caller) => caller,
        Err(rejection) => return Err((body, Some(Would::Reject(rejection.code())))),
    };
    let (header, span) = (Some(header), Span::none());
    let known = ProtectedRequest::new(core, options, key, header, caller, parts, &span);
    if known.limits().check_announced(parts, &body).is_err() {
        return Err((body, Some(Would::Reject(RejectionCode::BodyTooLarge))));
    }
    let none_yet = Fingerprint::from_bytes([0; 32]);
    let claim = Claim {
        // What nobody resolves must not stay for ever: a lapsed record is forgotten in time.
        on_lapsed_lease: OnLapsedLease::Rerun,
        origin: known.origin(parts),
        ..known.claim_under(0, known.scope, parts, none_yet)
    };
    // The same layer further out observes this request already.
    let mark = Observed(claim.id);
    if parts.extensions.get() == Some(&mark) {
        return Ok((body, None));
    }
    parts.extensions.insert(mark);
    let place = known.place().ok();
    let Ok(place) = known.may_begin(place) else {
        return Err((body, None));
    };
    let observation = Arc::new(Observation {
        request: Arc::new(Operation::new(known, None)),
        method: parts.method.clone(),
        told: told.cloned(),
        began_at: SystemTime::now(),
        would: OnceLock::new(),
        progress: Mutex::new(Progress::Undecided(place)),
    });
    if body.is_end_stream() {
        let fingerprint = observation.request.fingerprint(0, parts, &[]);
        observation.claim(claim, fingerprint);
        return Ok((body, Some(observation)));
    }
    if !core.rules.observed_bodies.has::<B>() {
        if core.rules.routes.may_warn() {
            warn!(
                "requests are not observed, because the layer does not know their type of bodies: \
                 see `IdempotencyLayerBuilder::observed_body`"
            );
        }
        return Err((body, None));
    }
    match Asked::new(&observation, claim, parts, &body) {
        Ok(asked) => {
            let body = core.rules.observed_bodies.watch(body, Box::new(asked));
            Ok((body, Some(observation)))
        }
        Err(Full { .. }) => Err((body, None)),
    }
}

/// In the extensions of a request: is told what the layer would have done with it, or that nobody can
/// say.
#[derive(Clone)]
pub struct OnObserved(pub Arc<dyn Fn(Option<Would>) + Send + Sync>);

impl fmt::Debug for OnObserved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OnObserved(..)")
    }
}

fn tell(told: Option<&OnObserved>, would: Option<Would>) {
    if let Some(OnObserved(told)) = told {
        told(would);
    }
}

/// In the extensions of a request, the record of its observation.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Observed(RecordId);

/// Says what the layer would have done, in counts and in the log. Neither holds the key, the caller
/// or the path.
fn report(core: &Core, options: &RouteOptions, method: &Method, would: Would) {
    core.leases.counts.observed(would);
    let route = options.pattern.as_deref().unwrap_or("every other path");
    let method = method.as_str();
    match would {
        Would::Reject(code) => {
            info!(
                would = "reject",
                code = code.as_str(),
                method,
                route,
                "observed"
            );
        }
        Would::Replay => info!(would = "replay", method, route, "observed"),
        Would::Execute | Would::Pass => {
            debug!(would = would.as_str(), method, route, "observed");
        }
    }
}

/// One request with a key and a caller, while it is observed.
pub(super) struct Observation {
    request: Arc<Operation>,
    method: Method,
    told: Option<OnObserved>,
    began_at: SystemTime,
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
    /// Sends the claim of a request whose fingerprint is known.
    fn claim(self: &Arc<Self>, claim: Claim, fingerprint: Fingerprint) {
        let claim = Claim {
            fingerprint,
            ..claim
        };
        let store = &self.request.core.leases.store;
        if let Some(claimed) = store.claim_at_once(&claim, &|| claim.origin.clone()) {
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
    fn in_background<F>(self: &Arc<Self>, task: impl FnOnce(Arc<Self>) -> F)
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
                _ => {}
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
    fn decided(&self, would: Would) {
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
    fn give_up(&self) {
        if self.would.get().is_none() {
            self.request.core.leases.counts.not_observed.add();
            tell(self.told.as_ref(), None);
        }
        self.over();
    }

    fn over(&self) {
        let over = std::mem::replace(&mut *self.progress.lock(), Progress::Over);
        // Dropped without the lock: a place that is given back takes others.
        drop(over);
    }

    fn is_over(&self) -> bool {
        matches!(*self.progress.lock(), Progress::Over)
    }

    /// Has the lease watched of a handler that takes its time.
    fn watch(&self) {
        self.request.watch();
    }

    /// The response has ended, and so does the record. The first end stands: a response that never
    /// ends has one before its body has.
    fn ended(&self, verdict: Verdict<'_>) {
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
    fn failed(&self) {
        self.ended(Verdict::Release(if_unknown(&self.request.options)));
    }

    /// The client has left before the handler has responded. Protected, the operation would have
    /// gone on, and a retry would have found its response.
    fn left(&self) {
        match self.request.options.on_disconnect {
            OnDisconnect::Finish => self.ended(self.done(StatusCode::OK)),
            OnDisconnect::Cancel => self.failed(),
        }
    }
}

/// A request that is observed, from when its handler is called until the handler has responded.
pub(crate) struct Observing {
    kind: Kind,
    /// The option `mark_observed`.
    marks: bool,
}

enum Kind {
    Nothing,
    Decided(Would),
    Observation(Option<Arc<Observation>>),
}

impl Observing {
    /// Whether there is anything to do when the handler responds.
    pub(crate) fn has_more_to_do(&self) -> bool {
        match &self.kind {
            Kind::Decided(_) => self.marks,
            Kind::Observation(observation) => observation.is_some(),
            Kind::Nothing => false,
        }
    }

    /// The handler does not respond at once.
    pub(crate) fn waits(&self) {
        if let Kind::Observation(Some(observation)) = &self.kind {
            observation.watch();
        }
    }

    /// The service has failed.
    pub(crate) fn fail(mut self) {
        if let Kind::Observation(observation) = &mut self.kind
            && let Some(observation) = observation.take()
        {
            observation.failed();
        }
    }

    /// The handler has responded.
    pub(crate) fn respond<R>(mut self, response: Response<R>) -> Response<ResponseBody<R>>
    where
        R: Body,
        R::Error: Into<BoxError>,
    {
        let (mut head, body) = response.into_parts();
        let (would, observation) = match &mut self.kind {
            Kind::Nothing => (None, None),
            Kind::Decided(would) => (Some(*would), None),
            Kind::Observation(observation) => {
                let observation = observation.take();
                let would = observation.as_ref().and_then(|own| own.would.get());
                (would.copied(), observation)
            }
        };
        let body = match observation.filter(|own| !own.is_over()) {
            Some(observation) => ResponseBody::watched(observation.responded(&head, body)),
            None => ResponseBody::passed(body),
        };
        if self.marks
            && let Some(would) = would
        {
            head.headers.insert(STATUS_HEADER, status(would));
        }
        Response::from_parts(head, body)
    }
}

impl Drop for Observing {
    fn drop(&mut self) {
        let Kind::Observation(Some(observation)) = &self.kind else {
            return;
        };
        if std::thread::panicking() {
            observation.failed();
        } else {
            observation.left();
        }
    }
}

/// A structured field (RFC 9651): a token and its parameters.
fn status(would: Would) -> HeaderValue {
    let value = match would {
        Would::Reject(code) => format!("observed; would=reject; code={code}"),
        would => format!("observed; would={}", would.as_str()),
    };
    value.try_into().expect("words of a header's value")
}
