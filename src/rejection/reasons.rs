//! The text of every rejection that is made while a request is handled. The texts
//! of keys stand in `options/key.rs`, beside the rules that they name.
//!
//! No text holds anything of another request, of a scope or of a stored response.

use crate::rejection::{Rejection, RejectionCode};

impl Rejection {
    pub(crate) fn scope_missing() -> Self {
        Self::new(
            RejectionCode::ScopeMissing,
            "An idempotency key belongs to a caller, and this request does not say who its caller \
             is. Authenticate it as this API documents.",
        )
    }

    /// `limit` in bytes.
    pub(crate) fn body_too_large(limit: usize) -> Self {
        Self::new(
            RejectionCode::BodyTooLarge,
            format!(
                "A request with an idempotency key may have a body of at most {limit} bytes here."
            ),
        )
    }

    /// A body limit outside the layer, which is not the layer's to name.
    pub(crate) fn body_too_large_elsewhere() -> Self {
        Self::new(
            RejectionCode::BodyTooLarge,
            "The request's body is larger than this API accepts. Nothing was executed.",
        )
    }

    pub(crate) fn body_timeout() -> Self {
        Self::new(
            RejectionCode::BodyTimeout,
            "The request's body took too long to arrive. Nothing was executed.",
        )
    }

    pub(crate) fn body_unreadable() -> Self {
        Self::new(
            RejectionCode::BodyUnreadable,
            "The request's body broke off before its end. Nothing was executed.",
        )
    }

    pub(crate) fn key_reused() -> Self {
        Self::new(
            RejectionCode::KeyReused,
            "This idempotency key was used for another request: its method, target, headers or \
             body differ. Use a new key for a new operation.",
        )
    }

    pub(crate) fn in_flight() -> Self {
        Self::new(
            RejectionCode::InFlight,
            "The first request with this key is still being executed. Send the same request again \
             in a moment to get its answer.",
        )
    }

    pub(crate) fn outcome_unknown() -> Self {
        Self::new(
            RejectionCode::OutcomeUnknown,
            "The first request with this key ended without a known outcome. It was not executed \
             again; it will be once someone has resolved it.",
        )
    }

    /// A handler of an `exactly_once` route answered without a commit.
    #[cfg(feature = "_sql")]
    pub(crate) fn never_committed() -> Self {
        Self::new(
            RejectionCode::OutcomeUnknown,
            "The server made a mistake: whether the operation has happened is not recorded.",
        )
        .with_status(http::StatusCode::INTERNAL_SERVER_ERROR)
    }

    pub(crate) fn response_unavailable() -> Self {
        Self::new(
            RejectionCode::ResponseUnavailable,
            "The operation is done and was not executed again, but its answer was not kept.",
        )
    }

    pub(crate) fn store_unavailable() -> Self {
        Self::new(
            RejectionCode::StoreUnavailable,
            "Whether this operation was executed before can't be told right now. Nothing was \
             executed; send the same request again in a moment.",
        )
    }

    /// The store has no room for another record.
    pub(crate) fn over_capacity() -> Self {
        Self::new(
            RejectionCode::OverCapacity,
            "There is no room for another operation. Nothing was executed; send the same request \
             again in a moment.",
        )
    }

    /// `max_buffered_bytes` is used up.
    pub(crate) fn too_many_bodies() -> Self {
        Self::new(
            RejectionCode::OverCapacity,
            "Too many request bodies are being received at once. Nothing was executed; send the \
             same request again in a moment.",
        )
    }

    /// `max_background_operations` is used up.
    pub(crate) fn too_many_in_background() -> Self {
        Self::new(
            RejectionCode::OverCapacity,
            "Too many operations are still running for clients that have left. Nothing was \
             executed; send the same request again in a moment.",
        )
    }
}
