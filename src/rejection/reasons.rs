//! The text of every rejection that is made while a request is handled. The texts
//! of keys stand in `options/key.rs`, beside the rules that they name.
//!
//! No text holds anything of another request, of a scope or of a stored response.

use crate::limits::{Full, Resource, Whose};
use crate::rejection::{Rejection, RejectionCode};

impl Rejection {
    pub(crate) fn scope_missing() -> Self {
        Self::new(
            RejectionCode::ScopeMissing,
            "An idempotency key belongs to a caller, and this request does not say who its caller \
             is. Authenticate it as this API documents.",
        )
    }

    /// `limit` is the option `max_request_body`, in bytes.
    pub(crate) fn body_too_large(limit: usize) -> Self {
        Self::new(
            RejectionCode::BodyTooLarge,
            format!(
                "A request with an idempotency key may have a body of at most {limit} bytes here."
            ),
        )
    }

    /// A body limit outside the layer ended the request's body. The text does not name that limit,
    /// because the layer does not know it.
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

    /// The caller has as many records in the store as one caller may have.
    pub(crate) fn over_share_of_records() -> Self {
        Self::new(
            RejectionCode::OverCapacity,
            "Your share is full: too many operations of yours are kept. Nothing was executed; \
             send the same request again in a moment.",
        )
    }

    /// A limit of what requests hold is reached, by one caller or by all.
    pub(crate) fn full(full: Full) -> Self {
        let full = full_of(full);
        Self::new(
            RejectionCode::OverCapacity,
            format!("{full} Nothing was executed; send the same request again in a moment."),
        )
    }

    /// The operation is in flight, and no more requests may wait for its outcome.
    pub(crate) fn in_flight_without_wait(full: Full) -> Self {
        let full = full_of(full);
        Self::new(
            RejectionCode::InFlight,
            format!(
                "The first request with this key is still being executed. {full} Send the same \
                 request again in a moment to get its answer."
            ),
        )
    }
}

/// Returns the sentence that says whose limit is full, and of what.
fn full_of(Full { of, whose }: Full) -> String {
    let (full, whose) = match whose {
        Whose::Caller => ("Your share is full", " of yours"),
        Whose::Service => ("The service is full", ""),
    };
    let what = match of {
        Resource::Operations => "requests{} with idempotency keys are being handled",
        Resource::RequestBytes => "bytes of requests{} are being received or handled",
        Resource::ReadAheadBytes => "bytes of responses{} are read ahead",
        Resource::UnsentBytes => "bytes of responses{} are not yet read",
        Resource::Waiters => "requests{} wait for the outcome of others",
        Resource::Background => "operations{} still run for clients that have left",
    };
    let what = what.replace("{}", whose);
    format!("{full}: too many {what}.")
}

#[cfg(feature = "contract")]
impl Rejection {
    /// The rejection as most requests get it, for the examples of a contract. A code
    /// whose text depends on the options of the route has a constructor of its own.
    pub(crate) fn usual(code: RejectionCode) -> Self {
        match code {
            RejectionCode::ScopeMissing => Self::scope_missing(),
            RejectionCode::BodyTimeout => Self::body_timeout(),
            RejectionCode::BodyUnreadable => Self::body_unreadable(),
            RejectionCode::KeyReused => Self::key_reused(),
            RejectionCode::InFlight => Self::in_flight(),
            RejectionCode::OutcomeUnknown => Self::outcome_unknown(),
            RejectionCode::ResponseUnavailable => Self::response_unavailable(),
            RejectionCode::StoreUnavailable => Self::store_unavailable(),
            RejectionCode::OverCapacity => Self::over_capacity(),
            other => Self::new(other, other.title()),
        }
    }
}

#[cfg(feature = "contract")]
impl RejectionCode {
    /// Two sentences for the clients of an API: when the rejection is sent, and what
    /// a client can do.
    pub(crate) const fn for_clients(self) -> (&'static str, &'static str) {
        const CORRECT: &str = "Correct the key.";
        const AGAIN: &str = "Send the same request again, with the same key.";
        const WAIT: &str = "Wait, then send the same request again, with the same key.";
        match self {
            Self::KeyRequired => (
                "The request has no key, and this operation needs one.",
                "Send a key.",
            ),
            Self::KeyInvalid => (
                "The key is malformed, empty, sent more than once, or not in the required format.",
                CORRECT,
            ),
            Self::KeyTooShort => ("The key is too short.", CORRECT),
            Self::KeyTooLong => ("The key is too long.", CORRECT),
            Self::ScopeMissing => (
                "The request does not say who its caller is.",
                "Authenticate the request.",
            ),
            Self::BodyTooLarge => (
                "The body of the request is too large.",
                "Send a smaller body.",
            ),
            Self::BodyTimeout => ("The body of the request took too long to arrive.", AGAIN),
            Self::BodyUnreadable => ("The body of the request broke off.", AGAIN),
            Self::KeyReused => (
                "The key was used for another request.",
                "Find out why, then use a new key.",
            ),
            Self::InFlight => (
                "The first request with this key is still running, or may still be running.",
                WAIT,
            ),
            Self::OutcomeUnknown => (
                "It is not known how the first request with this key ended.",
                "Ask the operator of this API, then send the same request again.",
            ),
            Self::ResponseUnavailable => (
                "The operation was executed, but its response was not recorded.",
                "Read the result of the operation in another way.",
            ),
            Self::StoreUnavailable => (
                "At the moment the API can't find out whether the key was used.",
                WAIT,
            ),
            Self::OverCapacity => ("The API has no room for another operation.", WAIT),
        }
    }
}
