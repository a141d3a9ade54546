//! One protected request, as the steps of its path share it.

use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::lease::LeaseState;
use crate::limits::{Account, Full, Holding, Resource};
use crate::message::body::own_value;
use crate::message::media_type::is_grpc;
use crate::options::RouteOptions;
use crate::options::key::Key;
use crate::record::RecordId;
#[cfg(feature = "_sql")]
use crate::request::commit_state::Commit;
use crate::request::core::Core;
use crate::runtime::atomic::{AtomicBool, AtomicU8, Ordering};
use crate::runtime::{Mutex, OnceLock};
use crate::store::Lease;

/// One protected request, as the steps of its path, its handler and its future
/// share it.
pub(crate) struct Operation {
    pub(crate) core: Arc<Core>,
    pub(crate) options: Arc<RouteOptions>,
    pub(crate) key: Key,
    /// The header that the key came in.
    pub(crate) key_header: HeaderName,
    /// The header's value, where the response carries it back (`echo_key`).
    pub(crate) echo: Option<HeaderValue>,
    /// Whether the request is of gRPC: its rejections then take gRPC's form.
    pub(crate) grpc: bool,
    /// What the caller holds of the layer. Set once the caller is known.
    account: OnceLock<Arc<Account>>,
    holds: Mutex<Holds>,
    /// Set once the claim has acquired a lease, before the handler begins.
    lease: OnceLock<Arc<LeaseState>>,
    /// The record of an earlier attempt under an old secret: which of the old
    /// secrets, and the record's id under it.
    pub(crate) first_attempt: OnceLock<(usize, RecordId)>,
    progress: AtomicU8,
    client_left: AtomicBool,
    /// How far the handler's own commit has come.
    #[cfg(feature = "_sql")]
    pub(crate) commit: Commit,
    /// The span of the request, for when the operation goes on without its client.
    pub(crate) span: tracing::Span,
}

/// What a request holds of the layer's limits.
#[derive(Default)]
struct Holds {
    /// The request's place among those in flight, until a lease has it or the request waits.
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
    pub(crate) fn new(
        core: &Arc<Core>,
        options: &Arc<RouteOptions>,
        key: Key,
        key_header: &HeaderName,
        headers: &HeaderMap,
    ) -> Self {
        Self {
            echo: options
                .echo_key
                .then(|| headers.get(key_header).map(own_value))
                .flatten(),
            grpc: is_grpc(headers),
            core: Arc::clone(core),
            options: Arc::clone(options),
            key: key.alone(),
            key_header: key_header.clone(),
            account: OnceLock::new(),
            holds: Mutex::default(),
            lease: OnceLock::new(),
            first_attempt: OnceLock::new(),
            progress: AtomicU8::new(Progress::Reading as u8),
            client_left: AtomicBool::new(false),
            #[cfg(feature = "_sql")]
            commit: Commit::default(),
            span: tracing::Span::current(),
        }
    }

    /// Whether the route puts headers of the layer's own on first responses.
    pub(crate) fn marks_responses(&self) -> bool {
        let options = &self.options;
        let times = [&options.created_at_header, &options.expires_at_header];
        self.echo.is_some() || times.into_iter().any(Option::is_some)
    }

    pub(crate) fn holds_for(&self, account: Arc<Account>) {
        let set = self.account.set(account);
        assert!(set.is_ok(), "a request has one caller");
    }

    /// What the caller holds of the layer.
    pub(crate) fn account(&self) -> &Arc<Account> {
        self.account.get().expect("the caller is known")
    }

    pub(crate) fn hold_body(&self, room: Holding) {
        self.holds.lock().body = Some(room);
    }

    /// Gives the room of the body back. A handler can keep its context, and this operation with
    /// it, for longer than it keeps the body.
    pub(crate) fn drop_body(&self) {
        let body = self.holds.lock().body.take();
        drop(body);
    }

    pub(crate) fn keep_place(&self, place: Holding) {
        self.holds.lock().place = Some(place);
    }

    /// The request's place among those in flight.
    pub(crate) fn place(&self) -> Result<Holding, Full> {
        let place = self.holds.lock().place.take();
        match place {
            Some(place) => Ok(place),
            None => self.account().take(Resource::Operations, 1),
        }
    }

    pub(crate) fn acquired(&self, lease: &Arc<LeaseState>) {
        let set = self.lease.set(Arc::clone(lease));
        assert!(set.is_ok(), "an operation acquires one lease");
    }

    /// The state of the lease. `None` before the claim has acquired one, and where
    /// the handler runs unprotected because the store is down.
    pub(crate) fn lease_state(&self) -> Option<&Arc<LeaseState>> {
        self.lease.get()
    }

    /// The lease that the handler runs under.
    pub(crate) fn lease(&self) -> &Lease {
        let state = self.lease_state();
        state.expect("the handler runs only with a lease").lease()
    }

    /// Whether another owner has taken over, as far as this process knows.
    pub(crate) fn is_lost(&self) -> bool {
        self.lease_state().is_some_and(|lease| lease.is_lost())
    }

    /// Has the lease of a handler that has begun watched: renewed, and bounded by
    /// `max_operation`.
    pub(crate) fn watch(&self) {
        if self.progress() >= Progress::Running
            && let Some(lease) = self.lease_state()
        {
            self.core.leases.watch(lease);
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
