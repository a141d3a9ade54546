//! What a handler may ask about its operation.

use std::fmt;
use std::sync::Arc;

use crate::display::uuid;
use crate::record::digest::{Digests, Label};
use crate::record::{FencingToken, RecordId};
use crate::request::core::Core;
use crate::request::operation::Operation;

/// The operation that a handler runs in. The layer puts it into the extensions of
/// every protected request. With the feature `axum` it is also an extractor; use
/// `Option<IdempotencyContext>` where a request may be unprotected.
///
/// ```
/// use http::{Request, Response};
/// use tower_idempotency::IdempotencyContext;
///
/// fn pay(request: &Request<String>) -> Response<String> {
///     if let Some(context) = request.extensions().get::<IdempotencyContext>() {
///         if context.is_rerun() {
///             // An earlier execution began: look for what it left behind.
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

    /// The number of this attempt: 1 for the first claim of the key, 2 for the
    /// second. The number begins anew once the record, or the tombstone that a
    /// release left, is gone.
    ///
    /// On a route that is exactly once [in a
    /// transaction](crate::options::ExactlyOnce::InTransaction) attempts leave nothing behind, so that
    /// each is the first.
    #[must_use]
    pub fn attempt(&self) -> u64 {
        self.0.token_and_attempt().1
    }

    /// Whether an earlier execution of this key may have begun: it failed, its
    /// response was not recorded, or nobody knows how it ended. Also `true` after a
    /// claim that was given back before its handler began.
    #[must_use]
    pub fn is_rerun(&self) -> bool {
        self.attempt() > 1
    }

    /// A number that grows with every execution of this key. A service downstream
    /// that remembers the highest token it saw can refuse an owner that was overtaken
    /// (G5).
    ///
    /// On a route that is exactly once [in a
    /// transaction](crate::options::ExactlyOnce::InTransaction) the number grows once the transaction
    /// has begun; before that it is the time by the clock of this machine, in microseconds.
    #[must_use]
    pub fn fencing_token(&self) -> FencingToken {
        self.0.token_and_attempt().0
    }

    /// Whether another execution has taken over, as far as this process knows. The
    /// response of this execution will be discarded (G1).
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.0.is_lost()
    }

    /// A key for a call to another service that takes idempotency keys itself, such as
    /// a card processor. The key is the same on every attempt of this operation, and
    /// another one for every label and every operation. It is written as a UUID.
    ///
    /// The key is a digest: it does not give away the client's key, and if the layer
    /// has [`secrets`](crate::IdempotencyLayerBuilder::secrets) nobody can find the
    /// client's key by trying. While secrets are rotated the derived key stays the
    /// same, for as long as the record of the first attempt is kept. For this, all
    /// processes must list the secrets in one order or know one secret alone: an
    /// operation whose attempts ran under `[OLD]`, then `[NEW, OLD]` and then
    /// `[OLD, NEW]` has two derived keys.
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
        let rules = &operation.core.rules;
        let (digests, id) = match operation.first_attempt.get() {
            Some((at, id)) => (&rules.old_digests[*at], id),
            None => (&rules.digests, &operation.lease().claim.id),
        };
        derived_key(digests, id, label)
    }

    /// The id of the operation's record: what to
    /// [resolve](crate::Records::resolve) by hand, should the outcome become unknown.
    #[must_use]
    pub fn record_id(&self) -> RecordId {
        self.0.lease().claim.id
    }

    pub(crate) fn is_under(&self, id: &RecordId) -> bool {
        self.0.lease().claim.id == *id
    }

    /// Whether a layer with this core has begun the operation.
    pub(crate) fn is_of(&self, core: &Arc<Core>) -> bool {
        Arc::ptr_eq(&self.0.core, core)
    }
}

fn derived_key(digests: &Digests, id: &RecordId, label: &str) -> String {
    let mut digest = digests.start(Label::DerivedKey);
    digest.digest(id.as_bytes()).part(label.as_bytes());
    let digest = digest.finish();
    let half = digest.first_chunk().expect("a digest has 32 bytes");
    uuid(u128::from_be_bytes(*half), 8)
}

/// The key and the caller are redacted.
impl fmt::Debug for IdempotencyContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IdempotencyContext")
            .field("attempt", &self.attempt())
            .field("fencing_token", &self.fencing_token().get())
            .field("lost", &self.is_lost())
            .finish_non_exhaustive()
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

    /// The request is not protected, so it has no [`IdempotencyContext`]: there is no
    /// layer, or no key on a route where the key is optional, or the route is ignored,
    /// or the store is down on a route with
    /// [`OnStoreError::RunUnprotected`](crate::options::OnStoreError::RunUnprotected).
    ///
    /// As a response it is a 500, because the handler asks for something that its
    /// route does not give. Extract `Option<IdempotencyContext>` where a request may be
    /// unprotected.
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

    /// Other services know operations by these keys, so they must never change.
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
