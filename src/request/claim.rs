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
use crate::options::{OnDisconnect, OnMismatch, OnStoreError};
use crate::record::Fingerprint;
use crate::rejection::Rejection;
use crate::request::operation::{Operation, Progress};
use crate::request::stop::Stop;
use crate::runtime::Instant;
use crate::store::{Claim, Claimed, Lease, RecordState, Release, StoreError, StoreErrorKind};

/// What protects a request that the handler runs for.
pub(crate) enum Protection {
    /// A lease of this layer.
    Own(LeaseOwner),
    /// The lease of a layer further out, on the same record.
    OuterLayer,
    /// Nothing: the store is down, and the route says `OnStoreError::RunUnprotected`.
    None,
}

impl Operation {
    /// Step 5: sends the claim, and decides by the store's answer.
    pub(crate) fn claim<'a>(
        self: &'a Arc<Self>,
        claim: &'a Claim,
        parts: &'a Parts,
        body: &'a [u8],
    ) -> impl Future<Output = Result<Protection, Stop>> + 'a {
        async move {
            self.check_background()?;
            self.enter(Progress::Claiming);
            let sent = Instant::now();
            let claimed = self.core.leases.store.claim(claim).await;
            let Some(lease) = self.decide(claim, claimed)? else {
                return Ok(Protection::None);
            };
            let guarded = lease.is_guarded();
            // From here on, dropping `owner` gives the claim back.
            let owner = self.own(lease, sent);
            if !self.core.rules.old_digests.is_empty() {
                Box::pin(self.look_under_old_secrets(parts, body)).await?;
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

    fn own(&self, lease: Lease, sent: Instant) -> LeaseOwner {
        let max_operation = self.options.max_operation;
        let span = self.span.clone();
        let owner = LeaseOwner::acquired(&self.core.leases, lease, sent, max_operation, span);
        self.acquired(owner.state());
        owner
    }

    /// An operation that has begun can't be stopped when its client leaves (G4),
    /// so none begins while `max_background_operations` run without a client.
    fn check_background(&self) -> Result<(), Stop> {
        let finishes = self.options.on_disconnect == OnDisconnect::Finish;
        if finishes && !self.core.leases.background.has_room() {
            return Err(Rejection::too_many_in_background().into());
        }
        Ok(())
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
                leases.release_later(claim, Release::MayRunAgain, ClaimSent::Maybe);
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
