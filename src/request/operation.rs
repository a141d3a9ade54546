//! One protected request, as the steps of its path share it.

use std::mem;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;
#[cfg(feature = "_sql")]
use std::time::SystemTime;

use http::request::Parts;
use http::{HeaderName, HeaderValue};
use tracing::Span;

use crate::lease::{LeaseOwner, LeaseState, Leased, Leases};
use crate::limits::{Account, Full, Holding, Resource};
use crate::message::media_type::is_grpc;
#[cfg(feature = "_sql")]
use crate::options::ExactlyOnce;
use crate::options::key::Key;
use crate::options::{Mode, RouteOptions};
use crate::record::response::own_value;
use crate::record::{FencingToken, RecordId, ScopeDigest};
use crate::rejection::Rejection;
#[cfg(feature = "_sql")]
use crate::request::commit_state::Commit;
use crate::request::core::Core;
use crate::request::observed::Observed;
use crate::request::steps::StepLog;
use crate::runtime::atomic::{AtomicBool, AtomicU8, Ordering};
use crate::runtime::{Mutex, OnceLock};
#[cfg(feature = "_sql")]
use crate::store::encoding::micros_since_epoch;
use crate::store::{Claim, Grant, Lease};

/// A protected request whose key and caller are known. An [`Operation`] is made of it once its claim
/// has acquired a lease, or once its admission takes time.
pub(crate) struct ProtectedRequest {
    pub(crate) core: Arc<Core>,
    pub(crate) options: Arc<RouteOptions>,
    pub(crate) key: Key,
    /// The header that the key came in, where the response carries it back (`echo_key`).
    pub(crate) echo: Option<Box<(HeaderName, HeaderValue)>>,
    /// Whether the request is of gRPC: its rejections then take gRPC's form.
    pub(crate) grpc: bool,
    pub(crate) scope: ScopeDigest,
    account: Arc<Account>,
    /// The span of the request, for when its operation goes on without its client.
    pub(crate) span: Span,
    pub(super) observed: Option<Box<Observed>>,
}

/// Step 3: the caller of a request.
pub(crate) struct KnownCaller {
    scope: ScopeDigest,
    account: Arc<Account>,
}

impl KnownCaller {
    pub(crate) fn of(core: &Core, options: &RouteOptions, head: &Parts) -> Result<Self, Rejection> {
        let rules = &core.rules;
        let caller = rules.caller(options, head);
        let caller = caller.ok_or_else(|| rules.without_caller(options, head))?;
        let scope = caller.digest(&rules.digests, &rules.namespace);
        let own = (!caller.is_everyone()).then_some(&scope);
        Ok(Self {
            account: core.accounts.of(own),
            scope,
        })
    }

    /// What the caller holds of the layer.
    pub(super) fn account(&self) -> &Arc<Account> {
        &self.account
    }
}

impl ProtectedRequest {
    /// From here on, what the request holds counts for its caller. `key_header` is the header that
    /// the key came in, if it came in one.
    pub(crate) fn new(
        core: &Arc<Core>,
        options: &Arc<RouteOptions>,
        key: Key,
        key_header: Option<&HeaderName>,
        caller: KnownCaller,
        head: &Parts,
        own_span: &Span,
    ) -> Self {
        let KnownCaller { scope, account } = caller;
        let echo = || {
            let name = key_header?;
            let value = own_value(head.headers.get(name)?);
            Some(Box::new((name.clone(), value)))
        };
        Self {
            echo: options.echo_key.then(echo).flatten(),
            grpc: is_grpc(&head.headers),
            account,
            core: Arc::clone(core),
            options: Arc::clone(options),
            key,
            scope,
            span: if own_span.is_disabled() {
                Span::current()
            } else {
                own_span.clone()
            },
            observed: core.observe(options, head),
        }
    }

    /// Whether the route puts headers of the layer's own on first responses.
    pub(crate) fn marks_responses(&self) -> bool {
        let options = &self.options;
        let times = [&options.created_at_header, &options.expires_at_header];
        self.echo.is_some() || times.into_iter().any(Option::is_some)
    }

    /// What the caller holds of the layer.
    pub(crate) fn account(&self) -> &Arc<Account> {
        &self.account
    }

    /// Whether the layer only observes the request.
    fn only_observes(&self) -> bool {
        self.options.mode == Mode::Observe
    }

    /// A place for the request among those in flight.
    pub(crate) fn place(&self) -> Result<Holding, Full> {
        self.account.take(Resource::Operations, 1)
    }
}

/// One protected request whose claim has acquired a lease or whose admission takes time, as the steps
/// of its path, its handler and its future share it.
pub(crate) struct Operation {
    request: ProtectedRequest,
    holds: Mutex<Holds>,
    /// The lease of an operation that began with one.
    own_lease: Option<LeaseState>,
    /// The lease of any other operation, set once the claim has acquired it, before the handler begins.
    lease: OnceLock<Box<LeaseState>>,
    /// The record of an earlier attempt under an old secret: which of the old
    /// secrets, and the record's id under it.
    pub(crate) first_attempt: OnceLock<(usize, RecordId)>,
    /// The steps of the handler, and those of earlier attempts.
    pub(crate) steps: StepLog,
    progress: AtomicU8,
    client_left: AtomicBool,
    /// How far the handler's own commit has come.
    #[cfg(feature = "_sql")]
    pub(crate) commit: Commit,
}

/// An operation has all that its request has.
impl Deref for Operation {
    type Target = ProtectedRequest;

    fn deref(&self) -> &ProtectedRequest {
        &self.request
    }
}

impl Leased for Operation {
    fn state(&self) -> &LeaseState {
        self.lease_state().expect("there is a lease")
    }

    fn leases(&self) -> &Arc<Leases> {
        &self.core.leases
    }

    fn account(&self) -> &Arc<Account> {
        &self.request.account
    }

    fn max_operation(&self) -> Duration {
        self.options.max_operation
    }

    fn span(&self) -> &tracing::Span {
        &self.span
    }
}

/// What a request holds of the layer's limits.
struct Holds {
    /// The place among those in flight of an operation that has no lease.
    place: Option<Holding>,
    /// The room of its body, until the handler has responded.
    body: Option<Holding>,
}

/// How far an operation has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Progress {
    /// Nothing is stored: the request is being read, or waits for another.
    Reading,
    /// A claim was sent.
    Claiming,
    /// The handler has begun.
    Running,
    /// The handler has answered, and its response is being read and recorded.
    Recording,
}

impl Operation {
    /// An operation without a lease yet. `body` is the room of the request's body.
    pub(crate) fn new(request: ProtectedRequest, body: Option<Holding>) -> Self {
        Self::with(request, body, None)
    }

    /// An operation whose claim was answered at once. The owner's drop gives the claim back.
    pub(crate) fn begun(
        request: ProtectedRequest,
        body: Holding,
        claim: Claim,
        mut grant: Grant,
        place: Holding,
    ) -> (Arc<Self>, LeaseOwner) {
        let steps = mem::take(&mut grant.steps);
        let (lease, guard) = grant.lease(claim);
        let lease = LeaseState::new(lease, Some(guard), place, request.only_observes());
        let operation = Arc::new(Self::with(request, Some(body), Some(lease)));
        operation.add_steps(steps);
        let owner = LeaseOwner::acquired(Arc::clone(&operation) as Arc<dyn Leased>);
        (operation, owner)
    }

    fn with(
        request: ProtectedRequest,
        body: Option<Holding>,
        own_lease: Option<LeaseState>,
    ) -> Self {
        Self {
            request,
            holds: Mutex::new(Holds { place: None, body }),
            own_lease,
            lease: OnceLock::new(),
            first_attempt: OnceLock::new(),
            steps: StepLog::default(),
            progress: AtomicU8::new(Progress::Reading as u8),
            client_left: AtomicBool::new(false),
            #[cfg(feature = "_sql")]
            commit: Commit::default(),
        }
    }

    /// Says that the handler has responded: gives the room of the body back, and ends the steps. A
    /// handler can keep its context, and this operation with it, for longer.
    pub(crate) fn handler_responded(&self) {
        let body = self.holds.lock().body.take();
        drop(body);
        if self.options.steps {
            self.steps.close();
        }
    }

    pub(crate) fn keep_place(&self, place: Holding) {
        self.holds.lock().place = Some(place);
    }

    pub(crate) fn take_place(&self) -> Option<Holding> {
        self.holds.lock().place.take()
    }

    /// Takes ownership of the lease that the claim has acquired. The owner's drop gives the claim back.
    pub(crate) fn acquired(self: &Arc<Self>, mut lease: Lease, place: Holding) -> LeaseOwner {
        self.add_steps(mem::take(&mut lease.steps));
        let guard = lease.take_guard();
        let state = LeaseState::new(lease, guard, place, self.only_observes());
        let set = self.lease.set(Box::new(state));
        let is_first = set.is_ok() && self.own_lease.is_none();
        assert!(is_first, "an operation acquires one lease");
        LeaseOwner::acquired(Arc::clone(self) as Arc<dyn Leased>)
    }

    /// Keeps the claim that the handler makes, and what an operation says of itself before that: this
    /// is its first attempt, as far as anybody knows.
    #[cfg(feature = "_sql")]
    pub(crate) fn leaves_claim(&self, claim: &Claim) {
        let now = micros_since_epoch(SystemTime::now());
        let token = u64::try_from(now).ok().and_then(FencingToken::new);
        let token = token.or_else(|| FencingToken::new(1));
        let lease = Lease::new(claim, token.expect("1 is a token"), 1);
        let set = self.lease.set(Box::new(LeaseState::unstored(lease)));
        assert!(set.is_ok(), "an operation has one claim");
    }

    /// Whether the handler makes the claim in its own transaction.
    #[cfg(feature = "_sql")]
    pub(crate) fn claims_inside(&self) -> bool {
        self.options.exactly_once == ExactlyOnce::InTransaction
    }

    /// The fencing token and the attempt of the handler.
    pub(crate) fn token_and_attempt(&self) -> (FencingToken, u64) {
        #[cfg(feature = "_sql")]
        if let Some(begun) = self.commit.begun_as() {
            return begun;
        }
        let lease = self.lease();
        (lease.token, lease.attempt)
    }

    /// The state of the lease. `None` before the claim has acquired one, and where
    /// the handler runs unprotected because the store is down.
    pub(crate) fn lease_state(&self) -> Option<&LeaseState> {
        let own = self.own_lease.as_ref();
        own.or_else(|| self.lease.get().map(|lease| &**lease))
    }

    /// The lease that the handler runs under.
    pub(crate) fn lease(&self) -> &Lease {
        let state = self.lease_state();
        state.expect("the handler runs only with a lease").lease()
    }

    /// Whether another owner has taken over, as far as this process knows.
    pub(crate) fn is_lost(&self) -> bool {
        self.lease_state().is_some_and(LeaseState::is_lost)
    }

    /// Has the lease of a handler that has begun watched: renewed, and bounded by
    /// `max_operation`.
    pub(crate) fn watch(self: &Arc<Self>) {
        let is_stored = self.lease_state().is_some_and(LeaseState::is_stored);
        if self.progress() >= Progress::Running && is_stored {
            let leased: Arc<dyn Leased> = Arc::clone(self) as _;
            self.core.leases.watch(&leased);
        }
    }

    // Relaxed is enough for both atomics below: one task at a time polls or drops
    // the request's future, and handing the future to another task synchronises.

    pub(crate) fn enter(&self, progress: Progress) {
        self.progress.store(progress as u8, Ordering::Relaxed);
    }

    pub(crate) fn progress(&self) -> Progress {
        match self.progress.load(Ordering::Relaxed) {
            0 => Progress::Reading,
            1 => Progress::Claiming,
            2 => Progress::Running,
            _ => Progress::Recording,
        }
    }

    /// Says that the client has left before the handler began. The operation then
    /// neither begins nor waits.
    pub(crate) fn leave_client(&self) {
        self.client_left.store(true, Ordering::Relaxed);
    }

    pub(crate) fn has_client(&self) -> bool {
        !self.client_left.load(Ordering::Relaxed)
    }
}

#[cfg(all(test, feature = "memory", not(shuttle)))]
mod tests {
    use http::Request;

    use super::*;
    use crate::layer::IdempotencyLayer;
    use crate::record::{FencingToken, Fingerprint, RecordId};
    use crate::store::memory::MemoryStore;

    /// A response may be sent, and ask for its lease to be watched, when its owner is gone.
    #[tokio::test(start_paused = true)]
    async fn a_lease_is_not_watched_once_its_owner_is_gone() {
        let layer = IdempotencyLayer::new(MemoryStore::new(), crate::scope::shared()).unwrap();
        let request = Request::post("/").header("idempotency-key", "k");
        let (parts, ()) = request.body(()).unwrap().into_parts();
        let routes = &layer.core().rules.routes;
        let options = routes.options(&parts.method, &parts.uri, &parts.extensions);
        let (key, header) = options.unwrap().keys.read(&parts.headers).unwrap().unwrap();
        let span = Span::none();
        for is_watched in [true, false] {
            let (core, options) = (layer.core(), options.unwrap());
            let caller = KnownCaller::of(core, options, &parts).unwrap();
            let (key, header) = (key.clone(), Some(header));
            let request = ProtectedRequest::new(core, options, key, header, caller, &parts, &span);
            let operation = Arc::new(Operation::new(request, None));
            let id = RecordId::from_bytes([u8::from(is_watched); 32]);
            let claim = Claim::new(id, operation.scope, Fingerprint::from_bytes([1; 32]));
            let lease = Lease::new(&claim, FencingToken::new(1).unwrap(), 1);
            let owner = operation.acquired(lease, operation.place().unwrap());
            operation.enter(Progress::Running);
            let leases = &core.leases;
            if is_watched {
                operation.watch();
                assert_eq!(leases.watched().0, 1);
            }
            owner.leave();
            operation.watch();
            assert_eq!(leases.watched().0, 0);
        }
    }
}
