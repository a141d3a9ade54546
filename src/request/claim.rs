//! Step 5: the claim, and what a record that the claim finds means.

#![expect(
    clippy::manual_async_fn,
    reason = "see request/mod.rs: an async fn keeps its arguments twice"
)]

use std::future::Future;
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
use crate::request::operation::{Operation, Progress};
use crate::request::stop::Stop;
use crate::runtime::Instant;
use crate::store::{
    Claim, Claimed, Lease, Record, RecordState, Release, StoreError, StoreErrorKind,
};

/// What protects a request that the handler runs for.
pub(crate) enum Protection {
    /// A lease of this layer.
    Own(LeaseOwner),
    /// The lease of the same layer further out: this one has neither read the body nor claimed.
    OuterLayer,
    /// Nothing: the store is down, and the route says `OnStoreError::RunUnprotected`. The
    /// operation has its place among those in flight all the same, until its response has ended.
    None,
}

impl Operation {
    /// Step 5: sends the claim, and decides by the store's answer.
    pub(crate) fn claim<'a>(
        self: &'a Arc<Self>,
        claim: &'a Claim,
        parts: &'a Parts,
        content: &'a Content,
    ) -> impl Future<Output = Result<Protection, Stop>> + 'a {
        async move {
            let place = match self.may_begin(content) {
                Ok(place) => place,
                Err(full) => return Err(Box::pin(self.look(claim, parts, content, full)).await),
            };
            self.enter(Progress::Claiming);
            let sent = Instant::now();
            let claimed = self.core.leases.store.claim(claim).await;
            // A store without room still may have the record that an old secret made.
            if matches!(claimed, Ok(Claimed::OverCapacity | Claimed::OverShare)) {
                Box::pin(self.look_under_old_secrets(parts, content)).await?;
            }
            let Some(lease) = self.decide(claim, claimed)? else {
                self.keep_place(place);
                return Ok(Protection::None);
            };
            let guarded = lease.is_guarded();
            // From here on, dropping `owner` gives the claim back.
            let owner = self.own(lease, sent, place);
            if !self.core.rules.old_digests.is_empty() {
                Box::pin(self.look_under_old_secrets(parts, content)).await?;
            }
            // The lease counts from when the claim was sent. A guarded lease does
            // not lapse by time.
            let alive = guarded || sent.elapsed() < claim.lease;
            if !alive || !self.has_client() {
                debug!(id = ?claim.id, alive, "claim given back before the handler began");
                return Err(Rejection::store_unavailable().into());
            }
            Ok(Protection::Own(owner))
        }
    }

    fn own(&self, lease: Lease, sent: Instant, place: Holding) -> LeaseOwner {
        let max_operation = self.options.max_operation;
        let span = self.span.clone();
        let leases = &self.core.leases;
        let owner = LeaseOwner::acquired(leases, lease, sent, max_operation, span, place);
        self.acquired(owner.state());
        owner
    }

    /// Whether there is room for the operation: for its body, its place, and a place without a
    /// client. An operation that has begun can't be stopped when its client leaves (G4), so none
    /// begins while `max_background_operations` run without a client.
    fn may_begin(&self, content: &Content) -> Result<Holding, Full> {
        if let Content::Digested(digested) = content {
            return Err(digested.1);
        }
        if self.options.on_disconnect == OnDisconnect::Finish {
            self.account().has_room(Resource::Background)?;
        }
        self.place()
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
    async fn look_for(&self, claim: &Claim) -> Result<Option<Stop>, StoreError> {
        let found = self.core.leases.store.look_up(&claim.id).await?;
        let found = found.map(Record::readable).transpose()?;
        Ok(match found.map(|record| record.state) {
            None | Some(RecordState::Released) => None,
            Some(RecordState::Lapsed { fingerprint }) if claim.takes_over(&fingerprint) => None,
            Some(state) => Some(self.found(claim, state)),
        })
    }

    /// What the answer to a claim means. `None`: the claim certainly did not reach
    /// the store, and the route says `OnStoreError::RunUnprotected`.
    fn decide(
        &self,
        claim: &Claim,
        claimed: Result<Claimed, StoreError>,
    ) -> Result<Option<Lease>, Stop> {
        let error = match claimed {
            Ok(Claimed::Acquired(lease)) => return Ok(Some(lease)),
            Ok(Claimed::Found(record)) => match record.readable() {
                Ok(record) => return Err(self.found(claim, record.state)),
                Err(error) => error,
            },
            Ok(Claimed::OverCapacity) => return Err(Rejection::over_capacity().into()),
            Ok(Claimed::OverShare) => return Err(Rejection::over_share_of_records().into()),
            Err(error) => error,
        };
        warn!(id = ?claim.id, error = cause(&error), "claim failed");
        // A request whose client has left does not begin unprotected.
        let open = self.options.on_store_error == OnStoreError::RunUnprotected && self.has_client();
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
    /// while the first one runs.
    pub(crate) fn found(&self, claim: &Claim, state: RecordState) -> Stop {
        let other = |fingerprint: &Fingerprint| {
            self.options.on_mismatch == OnMismatch::Reject && *fingerprint != claim.fingerprint
        };
        match state {
            RecordState::InFlight { fingerprint, .. }
            | RecordState::Lapsed { fingerprint }
            | RecordState::Completed { fingerprint, .. }
            | RecordState::Sealed { fingerprint }
                if other(&fingerprint) =>
            {
                Rejection::key_reused().into()
            }
            RecordState::Completed { completion, .. } => Stop::Replay(completion),
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
