//! What a handler may ask about its operation.

use std::fmt;
use std::sync::{Arc, PoisonError};

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::display::uuid;
use crate::layer::Shared;
use crate::message::media_type::is_grpc;
use crate::options::RouteOptions;
use crate::options::key::Key;
use crate::record::digest::{Digests, Label};
use crate::record::{FencingToken, RecordId};
#[cfg(feature = "_sql")]
use crate::request::settle::Commit;
use crate::runtime::atomic::{AtomicBool, AtomicU8, Ordering};
use crate::runtime::{Instant, Mutex, OnceLock};
use crate::store::{Lease, LeaseGuard};

/// The operation that a handler runs in, as a request extension; under the
/// feature `axum` also an extractor. `Option<IdempotencyContext>` extracts
/// where a request may be unprotected.
///
/// ```
/// use http::{Request, Response};
/// use tower_idempotency::IdempotencyContext;
///
/// fn pay(request: &Request<String>) -> Response<String> {
///     if let Some(context) = request.extensions().get::<IdempotencyContext>() {
///         if context.is_rerun() {
///             // Somebody began this before: look for what they left behind.
///         }
///     }
///     Response::new("paid".to_owned())
/// }
/// ```
#[derive(Clone)]
pub struct IdempotencyContext(pub(crate) Arc<Operation>);

impl IdempotencyContext {
    /// The client's key, decoded.
    #[must_use]
    pub fn key(&self) -> &str {
        self.0.key.as_str()
    }

    /// 1 for the first claim of this key, 2 for the second, … It begins anew
    /// once the record, or what a release left of it, is gone.
    #[must_use]
    pub fn attempt(&self) -> u64 {
        self.0.lease().attempt
    }

    /// Whether an earlier execution of this key may have begun: it failed,
    /// was released by policy, or nobody knows. Also true after a claim that
    /// was given back before its handler began.
    #[must_use]
    pub fn is_rerun(&self) -> bool {
        self.attempt() > 1
    }

    /// Grows with every execution of this key. A downstream write that
    /// remembers the highest token it saw can refuse an owner that was
    /// overtaken (G5).
    #[must_use]
    pub fn fencing_token(&self) -> FencingToken {
        self.0.lease().token
    }

    /// Whether another execution has taken over, as far as is known by now:
    /// the answer of this one will be discarded (G1).
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.0.is_lost()
    }

    /// A key for a call to another service, such as a card processor that takes
    /// idempotency keys itself: the same on every attempt of this operation,
    /// another for every label and for every operation. Written as a UUID, which
    /// any service takes.
    ///
    /// It is a digest, so nobody can tell the client's key by it, nor try keys
    /// out if the layer has [`secrets`](crate::IdempotencyLayerBuilder::secrets).
    /// While these are being changed it stays what it was, for as long as the
    /// record of the first attempt is kept.
    ///
    /// ```
    /// # use tower_idempotency::IdempotencyContext;
    /// async fn charge(context: &IdempotencyContext) {
    ///     let key = context.derive_key("charge-card");
    ///     // processor.charge(card, amount).header("idempotency-key", key).await
    /// }
    /// ```
    #[must_use]
    pub fn derive_key(&self, label: &str) -> String {
        let operation = &self.0;
        let (digests, id) = match operation.first.get() {
            Some((at, id)) => (&operation.layer.old_digests[*at], id),
            None => (&operation.layer.digests, &operation.lease().claim.id),
        };
        derived_key(digests, id, label)
    }

    /// Which record: what to [resolve](crate::IdempotencyLayer::resolve) by
    /// hand, should its outcome become unknown.
    #[must_use]
    pub fn record_id(&self) -> RecordId {
        self.0.lease().claim.id
    }

    pub(crate) fn is_under(&self, id: &RecordId) -> bool {
        self.0.lease().claim.id == *id
    }
}

fn derived_key(digests: &Digests, id: &RecordId, label: &str) -> String {
    let mut digest = digests.start(Label::DerivedKey);
    digest.digest(id.as_bytes()).part(label.as_bytes());
    let digest = digest.finish();
    let half = digest.first_chunk().expect("a digest has 32 bytes");
    uuid(u128::from_be_bytes(*half), 8)
}

/// The key and whoever asks for it are redacted.
impl fmt::Debug for IdempotencyContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IdempotencyContext")
            .field("attempt", &self.attempt())
            .field("fencing_token", &self.fencing_token().get())
            .field("lost", &self.is_lost())
            .finish_non_exhaustive()
    }
}

/// One protected request, as its flow, its handler, its lease and its future
/// see it: allocated once.
pub(crate) struct Operation {
    pub(crate) layer: Arc<Shared>,
    pub(crate) options: Arc<RouteOptions>,
    pub(crate) key: Key,
    /// The header that the key came in.
    pub(crate) key_header: HeaderName,
    /// What came in it, where answers carry it back.
    pub(crate) echo: Option<HeaderValue>,
    /// Whether it was asked for over gRPC, as its rejections must be told.
    pub(crate) grpc: bool,
    /// Set when its claim has acquired one, without the guard.
    lease: OnceLock<Lease>,
    /// The record of an earlier attempt under a secret that is on its way out, and
    /// which of these that is.
    pub(crate) first: OnceLock<(usize, RecordId)>,
    /// What keeps the lease, if it is not renewed; gone once the operation has
    /// ended or has run for too long.
    guard: Mutex<Option<LeaseGuard>>,
    /// Whether it has a place among those that are watched, and which.
    place: OnceLock<usize>,
    lost: AtomicBool,
    stage: AtomicU8,
    /// Whether its handler commits it in a transaction of its own.
    #[cfg(feature = "_sql")]
    pub(crate) commit: Commit,
    /// Where it came from, for when it goes on alone.
    pub(crate) span: tracing::Span,
}

/// How far an operation has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Stage {
    /// Nothing is stored.
    Reading,
    /// A claim was sent.
    Claiming,
    /// A claim was sent, and its client has left.
    Left,
    /// The handler has begun, and nothing is stored: the store is down, and
    /// its route prefers to go on.
    Unprotected,
    /// The handler has begun.
    Running,
    /// The handler has answered: its answer is being read and recorded.
    Answered,
}

impl Operation {
    pub(crate) fn new(
        layer: &Arc<Shared>,
        options: &Arc<RouteOptions>,
        key: Key,
        key_header: &HeaderName,
        headers: &HeaderMap,
    ) -> Self {
        Self {
            echo: options
                .echo_key
                .then(|| headers.get(key_header).cloned())
                .flatten(),
            grpc: is_grpc(headers),
            layer: Arc::clone(layer),
            options: Arc::clone(options),
            key,
            key_header: key_header.clone(),
            lease: OnceLock::new(),
            first: OnceLock::new(),
            guard: Mutex::new(None),
            place: OnceLock::new(),
            lost: AtomicBool::new(false),
            stage: AtomicU8::new(Stage::Reading as u8),
            #[cfg(feature = "_sql")]
            commit: Commit::default(),
            span: tracing::Span::current(),
        }
    }

    /// The lease; there is one from the moment a [`Held`](crate::lease::Held)
    /// is made, which is before the handler begins.
    pub(crate) fn lease(&self) -> &Lease {
        self.lease
            .get()
            .expect("the handler runs only with a lease")
    }

    /// Whether the lease needs renewing is the answer.
    pub(crate) fn acquired(&self, mut lease: Lease) -> bool {
        let guard = lease.take_guard();
        let renew = guard.is_none();
        *self.guard.lock().unwrap_or_else(PoisonError::into_inner) = guard;
        self.lease.set(lease).expect("an operation claims once");
        renew
    }

    /// Takes out what keeps the lease; where it is dropped it must not meet
    /// another lock.
    pub(crate) fn take_guard(&self) -> Option<LeaseGuard> {
        self.guard
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }

    pub(crate) fn is_guarded(&self) -> bool {
        self.guard
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .is_some()
    }

    /// Has the operation watched, if it is not: its lease renewed, its length
    /// bounded. One that ends in its first poll needs neither.
    pub(crate) fn watch(self: &Arc<Self>) {
        self.watch_since(Instant::now());
    }

    /// The same for a lease that counts from then.
    pub(crate) fn watch_since(self: &Arc<Self>, sent: Instant) {
        self.place
            .get_or_init(|| self.layer.renewals.add(self, sent));
    }

    /// Has it watched for another `max_operation`, while its completion is
    /// being tried again.
    pub(crate) fn watch_anew(self: &Arc<Self>) {
        self.watch();
        if let Some(place) = self.place.get() {
            self.layer.renewals.restart(*place, self);
        }
    }

    /// It is about to be released: a renewal that comes too late for that is
    /// not told of another owner.
    pub(crate) fn stop_renewing(self: &Arc<Self>) {
        if let Some(place) = self.place.get() {
            self.layer.renewals.stop(*place, self);
        }
    }

    pub(crate) fn unwatch(self: &Arc<Self>) {
        if let Some(place) = self.place.get() {
            self.layer.renewals.remove(*place, self);
        }
    }

    pub(crate) fn lose(&self) {
        self.lost.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Relaxed)
    }

    pub(crate) fn enter(&self, stage: Stage) {
        self.stage.store(stage as u8, Ordering::Relaxed);
    }

    pub(crate) fn has_begun(&self) -> bool {
        self.is_in(Stage::Running) || self.is_in(Stage::Answered)
    }

    pub(crate) fn is_in(&self, stage: Stage) -> bool {
        self.stage.load(Ordering::Relaxed) == stage as u8
    }
}

#[cfg(feature = "axum")]
mod extract {
    use axum::extract::{FromRequestParts, OptionalFromRequestParts};
    use axum::response::{IntoResponse, Response};
    use http::StatusCode;
    use http::request::Parts;
    use std::convert::Infallible;

    use super::IdempotencyContext;

    /// The request is not protected: no layer, no key where it is optional, a
    /// route that is ignored, or a store that is down with
    /// `on_store_error = open`. A 500, since the handler asked for what its
    /// route does not give; where that can be, extract
    /// `Option<IdempotencyContext>`.
    #[derive(Debug)]
    pub struct MissingContext(());

    impl std::fmt::Display for MissingContext {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("the request is not protected by an idempotency key")
        }
    }

    impl std::error::Error for MissingContext {}

    impl IntoResponse for MissingContext {
        fn into_response(self) -> Response {
            tracing::error!(
                "a handler extracts IdempotencyContext, but its request is not protected: require \
                 a key on the route, or extract Option<IdempotencyContext>"
            );
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }

    impl<S: Sync> FromRequestParts<S> for IdempotencyContext {
        type Rejection = MissingContext;

        async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, MissingContext> {
            parts
                .extensions
                .get::<Self>()
                .cloned()
                .ok_or(MissingContext(()))
        }
    }

    impl<S: Sync> OptionalFromRequestParts<S> for IdempotencyContext {
        type Rejection = Infallible;

        async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Option<Self>, Infallible> {
            Ok(parts.extensions.get::<Self>().cloned())
        }
    }
}

#[cfg(feature = "axum")]
pub use extract::MissingContext;

#[cfg(test)]
mod tests {
    use super::*;

    /// Other services know operations by these: they must never change.
    #[test]
    fn derived_keys_are_the_published_ones() {
        let id = RecordId::from_bytes([0xab; 32]);
        let keyed = Digests::keyed(b"a secret of more than 16 bytes");
        for (digests, key) in [
            (Digests::plain(), "9f84eb65-fdea-8733-a185-2e49fd75e362"),
            (keyed, "feba8af0-8561-8538-83fa-126c5ee01971"),
        ] {
            assert_eq!(derived_key(&digests, &id, "charge-card"), key);
            assert_ne!(derived_key(&digests, &id, "charge-car"), key);
        }
    }
}
