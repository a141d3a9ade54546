//! Records by hand: what a person does with a record whose outcome nobody knows.

use http::request::Parts;
use tracing::warn;

use crate::error::cause;
use crate::layer::audit::{Action, Audit};
use crate::options::Require;
use crate::record::{Fingerprint, RecordId, ScopeDigest};
use crate::request::core::Core;
use crate::store::{
    Claim, Claimed, ForgetMode, Forgotten, ListQuery, OnLapsedLease, Outcome, Ownership, Record,
    RecordPage, RecordState, Release, StoreError, StoreErrorKind,
};

/// What came of [resolving](Records::resolve) or [freeing](Records::free) a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Resolved {
    /// The record has the outcome that it was given.
    Recorded,
    /// The record is gone: a retry executes.
    Freed,
    /// There is no record of an operation that began: a retry executes.
    Absent,
    /// The operation is in flight: its owner is alive, or another attempt was made
    /// meanwhile. The outcome was not recorded: look the record up again.
    InFlight,
    /// The operation had an outcome already. Nothing was changed.
    Done,
    /// The record has moved on since it was [seen](Audit::seen): another attempt was made, or
    /// its late owner has recorded an outcome. Nothing was changed: look the record up again.
    Moved,
}

impl Resolved {
    /// The word of the log, and whether the record was changed.
    fn word(self) -> (&'static str, bool) {
        match self {
            Self::Recorded => ("recorded", true),
            Self::Freed => ("freed", true),
            Self::Absent => ("absent", false),
            Self::InFlight => ("in_flight", false),
            Self::Done => ("done", false),
            Self::Moved => ("moved", false),
        }
    }
}

/// As [`Resolved::word`].
fn word(forgotten: Forgotten) -> (&'static str, bool) {
    match forgotten {
        Forgotten::Gone => ("gone", true),
        Forgotten::Absent => ("absent", false),
        Forgotten::InFlight => ("in_flight", false),
        Forgotten::Moved => ("moved", false),
    }
}

/// The records of a layer's store, for an operator's own tools: made by
/// [`IdempotencyLayer::records`](crate::IdempotencyLayer::records).
///
/// A record whose owner died under
/// [`OnLapsedLease::Refuse`] is
/// `outcome-unknown` to its client until somebody has found out what happened:
///
/// - The operation happened: [`resolve`](Self::resolve) the record with the
///   response that retries are to get.
/// - The operation did not happen: [`free`](Self::free) the key, and a retry
///   executes.
///
/// Both are said with an [`Audit`], which the log gets: who decides, why, and about which version of
/// the record. A record that has moved on since that version was shown is not changed.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use std::{sync::Arc, time::SystemTime};
/// use http::{Request, StatusCode};
/// use tower_idempotency::store::{Completion, Forgotten, Outcome};
/// use tower_idempotency::{Audit, IdempotencyLayer, MemoryStore, Resolved, scope};
///
/// let layer = IdempotencyLayer::new(MemoryStore::new(), scope::header("x-api-key"))?;
/// let records = layer.records();
///
/// // The request in question: its method, path, key and caller say which record.
/// let (request, ()) = Request::post("/payments")
///     .header("idempotency-key", "K")
///     .header("x-api-key", "alice")
///     .body(())?
///     .into_parts();
/// let id = records.id_of(&request).expect("a protected request");
///
/// let paid = Completion::new(StatusCode::CREATED, "paid", SystemTime::now());
/// let outcome = Outcome::Completed(Arc::new(paid));
/// let audit = Audit::new("bob@example.com", "INC-7: the bank has booked it")?;
/// assert_eq!(records.resolve(&id, &outcome, &audit).await?, Resolved::Absent);
/// assert_eq!(records.forget(&id, &audit).await?, Forgotten::Absent);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy)]
pub struct Records<'a> {
    pub(super) core: &'a Core,
}

impl std::fmt::Debug for Records<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Records").finish_non_exhaustive()
    }
}

impl<'a> Records<'a> {
    pub(crate) fn new(core: &'a Core) -> Self {
        Self { core }
    }

    /// The id of a request's record, by its method, path, key and caller. `None` if
    /// the request has no record: its route is not protected, or it lacks a valid
    /// key or its caller.
    ///
    /// The id is one under the current secret. A handler has it from
    /// [`IdempotencyContext::record_id`](crate::IdempotencyContext::record_id).
    #[must_use]
    pub fn id_of(self, request: &Parts) -> Option<RecordId> {
        let rules = &self.core.rules;
        let (method, extensions) = (&request.method, &request.extensions);
        let options = rules.routes.options(method, &request.uri, extensions)?;
        if options.require == Require::Ignored {
            return None;
        }
        let (key, _) = options.keys.read(&request.headers)?.ok()?;
        let caller = rules.caller(options, request)?;
        let scope = caller.digest(&rules.digests, &rules.namespace);
        let routes = &rules.routes;
        Some(routes.record_id(options, &rules.digests, &scope, &key, request))
    }

    /// The record with this id.
    ///
    /// # Errors
    /// If the store gives no answer, can't look up, or has a record that can't
    /// be read.
    pub async fn look_up(self, id: &RecordId) -> Result<Option<Record>, StoreError> {
        let found = self.core.leases.store.look_up(id).await?;
        found.map(Record::readable).transpose()
    }

    /// Returns one page of the records that a query asks for. A record of any layer on the same
    /// store is in the list, whatever its namespace.
    ///
    /// # Errors
    /// If the store gives no answer, can't list, or did not make the query's cursor
    /// ([`InvalidCursor`](StoreErrorKind::InvalidCursor)).
    pub async fn list(self, query: &ListQuery) -> Result<RecordPage, StoreError> {
        self.core.leases.store.list(query).await
    }

    /// Removes a record: a retry executes, whatever happened before. A record in
    /// flight whose owner is alive stays: see [`forget_forced`](Self::forget_forced).
    ///
    /// For an operation that did not happen [`free`](Self::free) is the better choice: it never
    /// removes an outcome.
    ///
    /// # Errors
    /// If the store gives no answer, or can't forget.
    pub async fn forget(self, id: &RecordId, audit: &Audit) -> Result<Forgotten, StoreError> {
        let mode = audit
            .seen
            .map_or(ForgetMode::UnlessAlive, ForgetMode::Unchanged);
        self.forget_in(id, mode, audit).await
    }

    /// Removes a record even if it is in flight and its owner is alive. A retry then
    /// executes **beside** the owner; the owner's response is recorded if it ends
    /// before a retry begins.
    ///
    /// # Errors
    /// If the store gives no answer, or can't forget.
    pub async fn forget_forced(
        self,
        id: &RecordId,
        audit: &Audit,
    ) -> Result<Forgotten, StoreError> {
        let mode = audit
            .seen
            .map_or(ForgetMode::Forced, ForgetMode::ForcedUnchanged);
        self.forget_in(id, mode, audit).await
    }

    async fn forget_in(
        self,
        id: &RecordId,
        mode: ForgetMode,
        audit: &Audit,
    ) -> Result<Forgotten, StoreError> {
        let mut action = Action::new("forget", id, audit);
        action.found = audit.seen;
        let forgotten = self.core.leases.store.forget(id, mode).await;
        action.end(forgotten, word)
    }

    /// Gives an operation whose outcome is unknown the outcome that it had: a
    /// response for its retries, or [`Outcome::Sealed`] where there is none. The
    /// record is claimed for that, so an owner that was only paused is fenced off
    /// (G5).
    ///
    /// # Errors
    /// If the store gives no answer, or can't look up.
    pub async fn resolve(
        self,
        id: &RecordId,
        outcome: &Outcome,
        audit: &Audit,
    ) -> Result<Resolved, StoreError> {
        let mut action = Action::new("resolve", id, audit);
        let resolved = self.record(id, outcome, &mut action, audit).await;
        action.end(resolved, Resolved::word)
    }

    /// Frees the key of an operation whose outcome is unknown, because it did not happen: a
    /// retry executes. An outcome is never removed, also not one that the operation's late
    /// owner records at the same moment.
    ///
    /// # Errors
    /// If the store gives no answer, can't look up, or can't forget.
    pub async fn free(self, id: &RecordId, audit: &Audit) -> Result<Resolved, StoreError> {
        let mut action = Action::new("free", id, audit);
        let freed = self.forget_unknown(id, &mut action, audit).await;
        action.end(freed, Resolved::word)
    }

    async fn forget_unknown(
        self,
        id: &RecordId,
        action: &mut Action<'_>,
        audit: &Audit,
    ) -> Result<Resolved, StoreError> {
        let found = match self.unknown(id, action, audit).await? {
            Ok((found, _)) => found,
            Err(unresolved) => return Ok(unresolved),
        };
        let mode = ForgetMode::Unchanged(found.version());
        Ok(match self.core.leases.store.forget(id, mode).await? {
            Forgotten::Gone => Resolved::Freed,
            Forgotten::Absent => Resolved::Absent,
            Forgotten::InFlight => Resolved::InFlight,
            Forgotten::Moved => Resolved::Moved,
        })
    }

    /// A record whose outcome is unknown, and its fingerprint; or why it is not to be resolved.
    async fn unknown(
        self,
        id: &RecordId,
        action: &mut Action<'_>,
        audit: &Audit,
    ) -> Result<Result<(Record, Fingerprint), Resolved>, StoreError> {
        let Some(found) = self.look_up(id).await? else {
            return Ok(Err(Resolved::Absent));
        };
        let version = found.version();
        action.found = Some(version);
        Ok(match found.state {
            _ if audit.seen.is_some_and(|seen| seen != version) => Err(Resolved::Moved),
            RecordState::Lapsed { fingerprint } => Ok((found, fingerprint)),
            ref state => Err(unresolved(state)),
        })
    }

    async fn record(
        self,
        id: &RecordId,
        outcome: &Outcome,
        action: &mut Action<'_>,
        audit: &Audit,
    ) -> Result<Resolved, StoreError> {
        let store = &self.core.leases.store;
        let (found, fingerprint) = match self.unknown(id, action, audit).await? {
            Ok(found) => found,
            Err(unresolved) => return Ok(unresolved),
        };
        let seen = found.version();
        // Whoever said which version they have seen is told that the record has another one now.
        let moved = match audit.seen {
            Some(_) => Resolved::Moved,
            None => Resolved::InFlight,
        };
        // The outcome is that of the attempt before, so the record keeps where that one came from.
        // A record of an earlier version does not hold its scope, so the claim has none to name;
        // the claim ends in this call and counts for no caller.
        let scope = found.scope.unwrap_or(ScopeDigest::from_bytes([0; 32]));
        let claim = Claim {
            on_lapsed_lease: OnLapsedLease::Refuse,
            by_hand: Some(seen),
            origin: found.origin,
            ..Claim::new(*id, scope, fingerprint)
        };
        let lease = match store.claim(&claim).await? {
            Claimed::Acquired(lease) => lease,
            Claimed::Found(record) if audit.seen.is_some() && record.version() != seen => {
                return Ok(Resolved::Moved);
            }
            Claimed::Found(record) => return Ok(unresolved(&record.state)),
            Claimed::OverCapacity | Claimed::OverShare => {
                let why = "it has no room for the record any more";
                return Err(StoreError::new(StoreErrorKind::Contention, why));
            }
        };
        match store.complete(&lease, outcome).await {
            Ok(Ownership::Held) => Ok(Resolved::Recorded),
            Ok(Ownership::Lost) => Ok(moved),
            Err(error) => {
                self.leave_unknown(&claim).await;
                Err(error)
            }
        }
    }

    /// Ends a claim that was made to resolve a record: the outcome is as unknown as
    /// before.
    async fn leave_unknown(self, claim: &Claim) {
        let store = &self.core.leases.store;
        let how = Release::OutcomeUnknown;
        if let Err(error) = store.release(&claim.id, &claim.nonce, how).await {
            let (id, error) = (&claim.id, cause(&error));
            warn!(
                ?id,
                error, "a record to resolve stays in flight until it lapses"
            );
        }
    }
}

fn unresolved(state: &RecordState) -> Resolved {
    match state {
        RecordState::Released => Resolved::Absent,
        RecordState::InFlight { .. } | RecordState::Lapsed { .. } => Resolved::InFlight,
        RecordState::Completed { .. } | RecordState::Sealed { .. } => Resolved::Done,
    }
}
