//! Step 5: the claim, and what a record that the claim finds means.

use std::sync::Arc;

use http::request::Parts;
use tracing::{debug, warn};

use crate::error::cause;
use crate::lease::{ClaimSent, LeaseOwner};
use crate::limits::{Full, Holding, Resource};
use crate::options::{OnDisconnect, OnMismatch, OnStoreError};
use crate::record::Fingerprint;
use crate::rejection::Rejection;
use crate::request::content::Content;
use crate::request::operation::{Operation, Progress, ProtectedRequest};
use crate::request::stop::{Replay, Stop};
use crate::runtime::Instant;
use crate::store::{
    Claim, Claimed, Lease, Record, RecordState, Release, StoreError, StoreErrorKind,
};

/// What protects a request that the handler runs for.
pub(crate) enum Protection {
    /// A lease of this layer.
    Own(LeaseOwner),
    /// The claim that the handler makes in its own transaction. The operation has its place among those
    /// in flight.
    #[cfg(feature = "_sql")]
    InTransaction(Holding),
    /// Nothing: the store is down, and the route says `OnStoreError::RunUnprotected`. The
    /// operation has its place among those in flight all the same, until its response has ended.
    None,
}

impl Operation {
    /// Step 5: sends the claim, and decides by the store's answer. `place` is the request's place
    /// among those in flight, unless it has none yet.
    pub(crate) async fn claim(
        self: &Arc<Self>,
        claim: &Claim,
        parts: &Parts,
        content: &Content,
        place: Option<Holding>,
    ) -> Result<Protection, Stop> {
        let may_begin = match content {
            Content::Digested(digested) => Err(digested.1),
            Content::Whole(_) | Content::Large(_) => self.may_begin(place),
        };
        let place = match may_begin {
            Ok(place) => place,
            // Boxed, as what follows, so that the future of most requests has no room for it.
            Err(full) => return Err(Box::pin(self.look(claim, parts, content, full)).await),
        };
        #[cfg(feature = "_sql")]
        if self.claims_inside() {
            Box::pin(self.look_before(claim, parts, content)).await?;
            return Ok(Protection::InTransaction(place));
        }
        self.enter(Progress::Claiming);
        let sent = Instant::now();
        let claimed = self.core.leases.store.claim(claim).await;
        // A store without room still may have the record that an old secret made.
        if matches!(claimed, Ok(Claimed::OverCapacity | Claimed::OverShare)) {
            self.look_under_old_secrets(parts, content).await?;
        }
        // A request whose client has left does not begin unprotected.
        let Some(lease) = self.decide(claim, claimed, self.has_client())? else {
            self.keep_place(place);
            return Ok(Protection::None);
        };
        let guarded = lease.is_guarded();
        let owner = self.acquired(lease, place);
        if !guarded {
            owner.renew_from(sent);
        }
        self.look_under_old_secrets(parts, content).await?;
        // The lease counts from when the claim was sent. A guarded lease does
        // not lapse by time.
        let alive = guarded || sent.elapsed() < claim.lease;
        if !alive || !self.has_client() {
            debug!(id = ?claim.id, alive, "claim given back before the handler began");
            return Err(Rejection::store_unavailable().into());
        }
        Ok(Protection::Own(owner))
    }

    /// What is full refuses only what would begin (G11): a record that is there already is
    /// answered as a claim would answer it.
    async fn look(&self, claim: &Claim, parts: &Parts, content: &Content, full: Full) -> Stop {
        match self.look_for(claim).await {
            Ok(Some(stop)) => return stop,
            Ok(None) => {}
            Err(error) => {
                debug!(id = ?claim.id, error = cause(&error), "look-up failed");
                return self.refuse(full);
            }
        }
        match self.look_under_old_secrets(parts, content).await {
            Err(stop) => stop,
            Ok(()) => self.refuse(full),
        }
    }

    /// What the record of a claim means for this request. `None` if the claim would acquire it.
    pub(super) async fn look_for(&self, claim: &Claim) -> Result<Option<Stop>, StoreError> {
        let found = self.core.leases.store.look_up(&claim.id).await?;
        let Some(record) = found.map(Record::readable).transpose()? else {
            return Ok(None);
        };
        Ok(match &record.state {
            RecordState::Released => None,
            RecordState::Lapsed { fingerprint }
                if claim.takes_over(record.version(), fingerprint) =>
            {
                None
            }
            _ => Some(self.found(claim, record)),
        })
    }
}

impl ProtectedRequest {
    /// Whether there is room for the operation: its place, and a place without a client. An
    /// operation that has begun can't be stopped when its client leaves (G4), so none begins while
    /// `max_background_operations` run without a client.
    pub(super) fn may_begin(&self, place: Option<Holding>) -> Result<Holding, Full> {
        if self.options.on_disconnect == OnDisconnect::Finish {
            self.account().has_room(Resource::Background)?;
        }
        self.account().may_respond()?;
        place.map_or_else(|| self.place(), Ok)
    }

    /// What the answer to a claim means. `None`: the claim certainly did not reach
    /// the store, and the route says `OnStoreError::RunUnprotected`.
    pub(super) fn decide(
        &self,
        claim: &Claim,
        claimed: Result<Claimed, StoreError>,
        has_client: bool,
    ) -> Result<Option<Lease>, Stop> {
        let error = match claimed {
            Ok(Claimed::Acquired(lease)) => {
                let lease = self.check_steps(claim, lease, |lease| &lease.steps);
                return lease.map(Some);
            }
            Ok(Claimed::Found(record)) => match record.readable() {
                Ok(record) => return Err(self.found(claim, record)),
                Err(error) => error,
            },
            Ok(Claimed::OverCapacity) => return Err(Rejection::over_capacity().into()),
            Ok(Claimed::OverShare) => return Err(Rejection::over_share_of_records().into()),
            Err(error) => error,
        };
        warn!(id = ?claim.id, error = cause(&error), "claim failed");
        let open = self.options.on_store_error == OnStoreError::RunUnprotected && has_client;
        match error.kind() {
            StoreErrorKind::NotSent if open => Ok(None),
            StoreErrorKind::Unknown => {
                let leases = &self.core.leases;
                leases.release_later(
                    self.account(),
                    claim,
                    Release::MayRunAgain,
                    ClaimSent::Maybe,
                );
                Err(Rejection::store_unavailable().into())
            }
            _ => Err(Rejection::store_unavailable().into()),
        }
    }

    /// What a record that a claim or a look-up found means for this request. The
    /// fingerprint is compared before the state: another request is rejected even
    /// while the first one runs. Where an earlier attempt may have recorded steps, it is
    /// in flight for as long as one runs.
    pub(crate) fn found(&self, claim: &Claim, record: Record) -> Stop {
        let other = |fingerprint: &Fingerprint| {
            self.options.on_mismatch == OnMismatch::Reject && *fingerprint != claim.fingerprint
        };
        match record.state {
            // The claim of a request that is rejected for the steps of an earlier attempt shows for the
            // moment until it is given back: `key-reused` would be wrong for the request that recorded
            // these steps, and its client would never ask again. The earlier attempt may be under an old
            // secret. If the process dies in that moment, the lapsed record still has the fingerprint of
            // the rejected request, and is `key-reused` below.
            RecordState::InFlight {
                fingerprint,
                lapses_in,
            } if other(&fingerprint)
                && self.options.steps
                && (record.attempt > 1 || !self.core.rules.old_digests.is_empty()) =>
            {
                Stop::InFlight(lapses_in)
            }
            RecordState::InFlight { fingerprint, .. }
            | RecordState::Lapsed { fingerprint }
            | RecordState::Completed { fingerprint, .. }
            | RecordState::Sealed { fingerprint }
                if other(&fingerprint) =>
            {
                Rejection::key_reused().into()
            }
            RecordState::Completed { completion, .. } => Stop::Replay(Replay {
                completion,
                record: claim.id,
                attempt: record.attempt,
                trace: record.origin.trace,
            }),
            RecordState::Sealed { .. } => Rejection::response_unavailable().into(),
            RecordState::Lapsed { .. } => {
                warn!(record = %claim.id,
                    "nobody knows how an operation ended, and its client asks: its record waits \
                     to be resolved");
                Rejection::outcome_unknown().into()
            }
            RecordState::InFlight { lapses_in, .. } => Stop::InFlight(lapses_in),
            // A claim acquires a released record, so only a look-up finds one.
            RecordState::Released => Rejection::in_flight().into(),
        }
    }
}
