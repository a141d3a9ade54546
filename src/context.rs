//! What a handler may ask about its operation.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};

use crate::key::Key;
use crate::record::FencingToken;

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

    /// 1 for the first execution of this key, 2 for the second, …
    #[must_use]
    pub fn attempt(&self) -> u64 {
        self.0.attempt.load(Ordering::Relaxed)
    }

    /// Whether an earlier execution of this key began: it failed, was
    /// released by policy, or nobody knows.
    #[must_use]
    pub fn is_rerun(&self) -> bool {
        self.attempt() > 1
    }

    /// Grows with every execution of this key. A downstream write that
    /// remembers the highest token it saw can refuse an owner that was
    /// overtaken (G5).
    #[must_use]
    pub fn fencing_token(&self) -> FencingToken {
        FencingToken::new(self.0.token.load(Ordering::Relaxed))
            .expect("it was a token when it was put there")
    }

    /// Whether another execution has taken over, as far as is known by now:
    /// the answer of this one will be discarded (G1).
    #[must_use]
    pub fn lost(&self) -> bool {
        self.0.lost.load(Ordering::Relaxed)
    }
}

/// The key and whoever asks for it are redacted.
impl fmt::Debug for IdempotencyContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IdempotencyContext")
            .field("attempt", &self.attempt())
            .field("fencing_token", &self.0.token.load(Ordering::Relaxed))
            .field("lost", &self.lost())
            .finish_non_exhaustive()
    }
}

/// One operation, as its handler, its lease and its future see it.
pub(crate) struct Operation {
    key: Key,
    attempt: AtomicU64,
    token: AtomicU64,
    lost: AtomicBool,
    stage: AtomicU8,
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
    /// The handler has begun.
    Running,
}

impl Operation {
    pub(crate) fn new(key: Key) -> Self {
        Self {
            key,
            attempt: AtomicU64::new(0),
            token: AtomicU64::new(0),
            lost: AtomicBool::new(false),
            stage: AtomicU8::new(Stage::Reading as u8),
            span: tracing::Span::current(),
        }
    }

    pub(crate) fn key(&self) -> &Key {
        &self.key
    }

    pub(crate) fn acquired(&self, token: FencingToken, attempt: u64) {
        self.token.store(token.get(), Ordering::Relaxed);
        self.attempt.store(attempt, Ordering::Relaxed);
    }

    pub(crate) fn lose(&self) {
        self.lost.store(true, Ordering::Relaxed);
    }

    pub(crate) fn enter(&self, stage: Stage) {
        self.stage.store(stage as u8, Ordering::Relaxed);
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

    /// The request is not protected: no layer, no key where it is optional, or
    /// a route that is ignored. A 500, since the handler asked for what its
    /// route does not give.
    #[derive(Debug)]
    pub struct NotProtected(());

    impl std::fmt::Display for NotProtected {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("the request is not protected by an idempotency key")
        }
    }

    impl std::error::Error for NotProtected {}

    impl IntoResponse for NotProtected {
        fn into_response(self) -> Response {
            tracing::error!(
                "a handler extracts IdempotencyContext, but its request is not protected: require \
                 a key on the route, or extract Option<IdempotencyContext>"
            );
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }

    impl<S: Sync> FromRequestParts<S> for IdempotencyContext {
        type Rejection = NotProtected;

        async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, NotProtected> {
            parts
                .extensions
                .get::<Self>()
                .cloned()
                .ok_or(NotProtected(()))
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
pub use extract::NotProtected;
