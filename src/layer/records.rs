//! By hand: what a person does with a record whose outcome nobody knows.

use http::request::Parts;
use tracing::warn;

use crate::layer::IdempotencyLayer;
use crate::options::Require;
use crate::options::route::target;
use crate::record::{RecordId, ScopeDigest};
use crate::store::{
    Claim, Claimed, Forgotten, OnLapsedLease, Outcome, Ownership, Record, RecordState, Release,
    StoreError, StoreErrorKind,
};

/// What came of [resolving](IdempotencyLayer::resolve) a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Resolved {
    /// The record has the outcome that it was given.
    Recorded,
    /// There is no record of an operation that began: a retry executes.
    Absent,
    /// The operation is in flight: its owner is alive, or another has taken
    /// over meanwhile. Nothing was changed.
    InFlight,
    /// The operation had an outcome already. Nothing was changed.
    Done,
}

/// Records by hand, for an operator's own tools. A record whose owner died
/// under [`OnLapsedLease::Refuse`] is
/// `outcome-unknown` to its client until somebody has found out what happened:
///
/// - it happened: [`resolve`](Self::resolve) the record with the answer that
///   retries are to get;
/// - it did not: [`forget`](Self::forget) it, and a retry executes.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use std::{sync::Arc, time::SystemTime};
/// use http::{Request, StatusCode};
/// use tower_idempotency::store::{Forgotten, Outcome};
/// use tower_idempotency::{IdempotencyLayer, MemoryStore, Resolved, scope};
/// use tower_idempotency::store::Completion;
///
/// let layer = IdempotencyLayer::new(MemoryStore::new(), scope::header("x-api-key")?);
///
/// // The request that is in doubt: its method, path, key and caller say which record.
/// let (request, ()) = Request::post("/payments")
///     .header("idempotency-key", "K")
///     .header("x-api-key", "alice")
///     .body(())?
///     .into_parts();
/// let id = layer.record_id(&request).expect("a protected request");
///
/// let paid = Completion::new(StatusCode::CREATED, "paid", SystemTime::now());
/// let outcome = Outcome::Completed(Arc::new(paid));
/// assert_eq!(layer.resolve(&id, &outcome).await?, Resolved::Absent);
/// assert_eq!(layer.forget(&id, false).await?, Forgotten::Absent);
/// # Ok(())
/// # }
/// ```
impl IdempotencyLayer {
    /// Which record a request belongs to, by its method, path, key and caller.
    /// `None` if it has none: its route is not protected, or it lacks a valid
    /// key or its caller.
    ///
    /// A handler has it from
    /// [`IdempotencyContext::record_id`](crate::IdempotencyContext::record_id).
    /// It is an id under the current secret.
    #[must_use]
    pub fn record_id(&self, request: &Parts) -> Option<RecordId> {
        let layer = self.shared();
        let path = target(&request.uri, &request.extensions).path();
        let options = layer.routes.options(&request.method, path)?;
        if options.require == Require::Ignored {
            return None;
        }
        let (key, _) = options.keys.read(&request.headers)?.ok()?;
        let caller = layer.caller(options, request)?;
        let scope = caller.digest(&layer.digests, &layer.namespace);
        Some(options.record_id(&layer.digests, &scope, &key, request))
    }

    /// What is there.
    ///
    /// # Errors
    /// If the store gives no answer, can't look up, or has a record that can't
    /// be read.
    pub async fn look_up(&self, id: &RecordId) -> Result<Option<Record>, StoreError> {
        let layer = self.shared();
        let found = layer.within(layer.store.look_up(id)).await?;
        found.map(Record::readable).transpose()
    }

    /// Removes a record: a retry executes, whatever happened before. A live one
    /// in flight goes only by `force`; its owner's answer is recorded if it
    /// ends before a retry begins.
    ///
    /// # Errors
    /// If the store gives no answer, or can't forget.
    pub async fn forget(&self, id: &RecordId, force: bool) -> Result<Forgotten, StoreError> {
        let layer = self.shared();
        layer.within(layer.store.forget(id, force)).await
    }

    /// Gives an operation whose outcome is unknown the one that it had: an
    /// answer for its retries, or [`Outcome::Sealed`] where there is none. The
    /// record is claimed for it, so an owner that was only paused is fenced
    /// off (G5).
    ///
    /// # Errors
    /// If the store gives no answer, or can't look up.
    pub async fn resolve(&self, id: &RecordId, outcome: &Outcome) -> Result<Resolved, StoreError> {
        let layer = self.shared();
        let fingerprint = match self.look_up(id).await?.map(|record| record.state) {
            Some(RecordState::Lapsed { fingerprint }) => fingerprint,
            state => return Ok(unresolved(state)),
        };
        // Whoever asked is in no lapsed record; the claim ends in this call.
        let claim = Claim {
            on_lapsed_lease: OnLapsedLease::Refuse,
            by_hand: true,
            ..Claim::new(*id, ScopeDigest::from_bytes([0; 32]), fingerprint)
        };
        let lease = match layer.within(layer.store.claim(&claim)).await? {
            Claimed::Acquired(lease) => lease,
            Claimed::Found(record) => return Ok(unresolved(Some(record.state))),
            Claimed::OverCapacity => {
                let why = "it has no room for the record any more";
                return Err(StoreError::new(StoreErrorKind::Contention, why));
            }
        };
        match layer.within(layer.store.complete(&lease, outcome)).await {
            Ok(Ownership::Held) => Ok(Resolved::Recorded),
            Ok(Ownership::Lost) => Ok(Resolved::InFlight),
            Err(error) => {
                // As unknown as before.
                let released = layer
                    .store
                    .release(id, &claim.nonce, Release::OutcomeUnknown);
                if let Err(error) = layer.within(released).await {
                    let error: &dyn std::error::Error = &error;
                    warn!(
                        ?id,
                        error, "a record to resolve stays in flight until it lapses"
                    );
                }
                Err(error)
            }
        }
    }
}

fn unresolved(state: Option<RecordState>) -> Resolved {
    match state {
        None | Some(RecordState::Released) => Resolved::Absent,
        Some(RecordState::InFlight { .. } | RecordState::Lapsed { .. }) => Resolved::InFlight,
        Some(RecordState::Completed { .. } | RecordState::Sealed { .. }) => Resolved::Done,
    }
}
