//! The enums of options that have a few fixed values.

use std::time::Duration;

/// What the layer does with the requests of a route.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Mode {
    /// Operations are protected: a retry is given the recorded response, and what can't be protected
    /// is rejected.
    #[default]
    Protect,
    /// Every request passes as if there were no layer, and the layer reports what it would have done:
    /// [`Would`](crate::observer::Would). To try the layer in front of live traffic.
    ///
    /// Nothing is rejected, replayed, delayed or read before the handler reads it. Handlers have no
    /// [`IdempotencyContext`](crate::IdempotencyContext). Claims are made as ever, for records of
    /// their own: what was recorded in this mode is neither replayed nor rejected in the other, and
    /// of a response only the status is kept.
    ///
    /// The layer needs to see the body of a request while it passes. It does so for axum's `Body`
    /// (feature `axum`); for another type see
    /// [`observed_body`](crate::IdempotencyLayerBuilder::observed_body).
    Observe,
}

/// Whether a route needs a key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Require {
    /// A request without a key is rejected with `key-required`.
    Required,
    /// A request without a key passes through the layer unprotected.
    #[default]
    Optional,
    /// Every request passes through the layer unprotected, with a key or without one.
    Ignored,
}

/// Within which limits a key names one operation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum KeysPer {
    /// A key names one operation of its caller: a key that was used on one route is rejected with
    /// `key-reused` on another.
    #[default]
    Scope,
    /// A key names one operation of its caller on one endpoint (method and path): the same key on
    /// two endpoints names two independent operations.
    Route,
}

/// What happens to an operation whose response can't be recorded, because the response is larger
/// than `max_recorded_body`, is a stream of events, or is an upgrade.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnOversize {
    /// The operation is done and does not run again (G2): a retry is rejected with
    /// `response-unavailable`.
    #[default]
    Seal,
    /// A retry executes again. There is one exception: if a response is only too large, and breaks
    /// off, then the operation does not run again, because its effect has happened.
    Rerun,
}

/// Whether handlers commit their claims in transactions of their own (`exactly_once::SqlClaim`, G7).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum ExactlyOnce {
    /// A handler may commit its claim, and need not.
    #[default]
    No,
    /// A handler must commit its claim. A 2xx or 3xx response of a handler that did not is replaced
    /// by a 500 (`outcome-unknown`), the mistake is logged, and the record's outcome is unknown
    /// ([`OnLapsedLease`](crate::options::OnLapsedLease)). Responses of 4xx, 5xx, 307 and 308 are
    /// judged as on other routes.
    ///
    /// The layer claims before the handler runs, and commits that claim by itself: an operation costs
    /// two commits.
    Committed,
    /// A handler must begin and commit its claim in one transaction (`SqlClaim::begin` and
    /// `SqlClaim::commit`). Before the handler the layer only looks for a record, and writes nothing:
    /// an operation costs one commit. A crash leaves nothing behind, so that a retry runs at once.
    ///
    /// What is not committed is not recorded, whatever its status: a retry runs. A 2xx or 3xx response
    /// without a commit is replaced as with [`Committed`](Self::Committed).
    InTransaction,
}

/// `true` is [`ExactlyOnce::Committed`].
impl From<bool> for ExactlyOnce {
    fn from(committed: bool) -> Self {
        if committed { Self::Committed } else { Self::No }
    }
}

/// What happens to an operation whose response is a stream of events (`text/event-stream`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum EventStreams {
    /// The response may never end, so it is not recorded: [`OnOversize`] applies to it from the
    /// beginning.
    #[default]
    Seal,
    /// A stream that ends is recorded like any other response that is sent while it is read, and is
    /// replayed whole. [`OnOversize`] applies to it once it has more than `max_recorded_body` bytes,
    /// or once its operation has taken as long as `max_operation`: the stream goes on, and is of its
    /// client alone.
    ///
    /// Events are sent as they come. The last one is sent once the stream is recorded (G3), if the
    /// stream ends without a pause behind it. With the preset [`mcp`](crate::RouteOptions::mcp), which
    /// sets this, the event with the answer always waits.
    ///
    /// A stream in which two messages of JSON-RPC answer one id is sealed, and the log says so.
    Record,
}

/// What happens to a request when the store can't be reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnStoreError {
    /// The request is rejected with `store-unavailable`.
    #[default]
    Reject,
    /// The request is executed unprotected, and its response has the header
    /// `Idempotency-Status: unprotected`. This applies only if the claim certainly did not reach
    /// the store; if the claim may have reached the store, the request is rejected with
    /// `store-unavailable`.
    RunUnprotected,
}

/// What happens to a duplicate that arrives while the first request runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnInFlight {
    /// The duplicate is rejected with `in-flight` at once.
    #[default]
    Reject,
    /// The duplicate waits until the first request ends, but not longer than this duration. If the
    /// response of the first request was recorded, the response is replayed to every duplicate; if
    /// the first request was released, one of the duplicates executes. After this duration the
    /// layer makes a last claim, and rejects the duplicate with `in-flight` if the first request
    /// still runs.
    ///
    /// If the operation is in flight under an [old
    /// secret](crate::IdempotencyLayerBuilder::secrets), the duplicate does not wait: it is
    /// rejected with `in-flight` at once.
    Wait(Duration),
}

/// What happens to an operation whose client leaves: the client's connection closes, or a timeout
/// outside the layer drops the request.
///
/// The server decides when a client has left. hyper by default takes a client for gone that has closed
/// only the sending half of its connection; with `half_close(true)` hyper goes on until a write fails.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnDisconnect {
    /// The operation runs to its end, and its response is recorded (G4).
    #[default]
    Finish,
    /// A handler that has not returned a response is dropped, and the outcome of the operation is
    /// unknown: [`OnLapsedLease`](crate::options::OnLapsedLease) says what happens to a retry.
    /// This is for handlers whose effects stop when the handler is dropped.
    ///
    /// If the handler has returned a response, the response is recorded all the same; the
    /// operation is sealed instead if the rest of the body can't be read without a client.
    Cancel,
}
