//! What a route can choose between: one enum for each such option.

use std::time::Duration;

/// Whether a route needs a key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Require {
    /// Without a key: `key-required`.
    Required,
    /// Without a key the request passes through.
    #[default]
    Optional,
    /// Every request passes through, with a key or without.
    Ignored,
}

/// What a key is unique in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum KeysPer {
    /// The caller: a key that was used on one route is `key-reused` on another.
    #[default]
    Scope,
    /// The caller and the endpoint (method and path): the same key on two
    /// endpoints is two independent operations.
    Route,
}

/// What becomes of an operation whose answer can't be recorded: it is larger
/// than `max_recorded_body`, a stream of events, or an upgrade.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnOversize {
    /// The operation is done and does not run again: a retry is told
    /// `response-unavailable`.
    #[default]
    Seal,
    /// A retry executes again. (Of an answer that is only too large and breaks
    /// off, the operation does not: its effect has happened.)
    Rerun,
}

/// What becomes of a request when the store can't be reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnStoreError {
    /// `store-unavailable`.
    #[default]
    Reject,
    /// It is executed unprotected, and its answer says so
    /// (`Idempotency-Status: unprotected`). Only where the claim certainly
    /// did not reach the store; any doubt stays closed.
    RunUnprotected,
}

/// What a duplicate gets while the first request runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnInFlight {
    /// `in-flight`, at once.
    #[default]
    Reject,
    /// The outcome, as soon as it is there: the answer is replayed, and if the
    /// first request was released, one of those that wait executes. After this
    /// long, and what a last claim takes: `in-flight`. Not for an operation in flight under a secret that is
    /// on its way out: `in-flight`, at once.
    Wait(Duration),
}

/// What becomes of an operation whose client leaves: its connection closes, or
/// a timeout outside the layer drops its request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnDisconnect {
    /// It runs to its end, and its answer is recorded (G4).
    #[default]
    Finish,
    /// A handler that has not answered is dropped, its outcome unknown
    /// ([`OnLapsedLease`](crate::options::OnLapsedLease)). For handlers whose effects end with them. An answer
    /// that the handler gave is recorded all the same, or sealed if the rest
    /// of its body is not to be had without a client.
    Cancel,
}

/// Which target of a request is matched with the routes' patterns and digested.
///
/// The two differ inside a nested axum router only, which strips its prefix from the request's
/// target: for `POST /v1/orders` inside `nest("/v1", ..)` the target as sent is `/v1/orders`, the
/// target as seen `/orders`.
///
/// Records are found again only by the same target: with another one, a key that was used before
/// is rejected with `key-reused`, or (with [`KeysPer::Route`]) its operation runs again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Target {
    /// The target that the client sent. Inside a nested axum router the layer finds it only with
    /// the feature `axum`; without that feature it is the same as [`AsSeen`](Self::AsSeen).
    #[default]
    AsSent,
    /// The target of the request as it reaches the layer.
    AsSeen,
}
