//! Section 4.5: the claim, what its answer means, and waiting for another.

#![expect(
    clippy::manual_async_fn,
    reason = "an async fn keeps its arguments twice"
)]

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use http::request::Parts;
use tracing::{debug, warn};

use crate::lease::{ClaimSent, LeaseOwner, release_later};
use crate::options::{OnDisconnect, OnInFlight, OnMismatch, OnStoreError};
use crate::record::Fingerprint;
use crate::rejection::{Rejection, RejectionCode};
use crate::request::admit::{Protection, Stop, in_flight, reject};
use crate::request::operation::{Operation, Stage};
use crate::runtime::deadline::Deadline;
use crate::runtime::{Instant, sleep};
use crate::store::{
    Claim, Claimed, Lease, OnLapsedLease, POLL, Record, RecordState, Release, StoreError,
    StoreErrorKind, Subscription,
};

/// Before a claim is sent again for a lease that may be about to lapse.
const SHORTEST_PAUSE: Duration = Duration::from_millis(20);
/// So many early wake-ups in a row may have been for others.
const FEW: u32 = 10;

impl Operation {
    /// An operation that has begun can't be stopped when its client leaves.
    fn has_room_to_go_on_alone(&self) -> Result<(), Stop> {
        if self.options.on_disconnect == OnDisconnect::Finish && !self.layer.detached.has_room() {
            return Err(reject(
                RejectionCode::OverCapacity,
                "Too many operations are still running for clients that have left. Nothing was \
                 executed; send the same request again in a moment.",
            ));
        }
        Ok(())
    }

    /// 5. The claim, and what its answer means.
    pub(crate) fn claim<'a>(
        self: &'a Arc<Self>,
        claim: &'a Claim,
        parts: &'a Parts,
        body: &'a [u8],
    ) -> impl Future<Output = Result<Protection, Stop>> + 'a {
        async move {
            self.has_room_to_go_on_alone()?;
            self.enter(Stage::Claiming);
            let sent = Instant::now();
            let claimed = self.layer.within(self.layer.store.claim(claim)).await;
            let Some(lease) = self.claimed(claim, claimed)? else {
                return Ok(Protection::None);
            };
            let guarded = lease.is_guarded();
            // From here on, dropping it gives the claim back.
            let held = LeaseOwner::new(self, lease, sent).release_on_drop(Release::MayRunAgain);
            if !self.layer.old_digests.is_empty() {
                Box::pin(self.look_under_old_secrets(parts, body)).await?;
            }
            let alive = guarded || sent.elapsed() < claim.lease;
            if !alive || self.is_in(Stage::Left) {
                debug!(id = ?claim.id, alive, "claim given back before the handler began");
                return Err(Stop::Reject(store_unavailable()));
            }
            Ok(Protection::Own(
                held.release_on_drop(self.outcome_unknown()),
            ))
        }
    }

    /// Where the route says so, waits for the outcome of the operation in
    /// flight: subscribes, then claims. Only a claim decides; a change, or the
    /// lapse of the lease, says when it is worth another.
    pub(crate) async fn wait(
        self: &Arc<Self>,
        claim: &Claim,
        parts: &Parts,
        body: &[u8],
        mut lapses_in: Duration,
    ) -> Result<Protection, Stop> {
        let layer = &self.layer;
        let OnInFlight::Wait(bound) = self.options.on_in_flight else {
            return Err(Stop::InFlight(lapses_in));
        };
        // Whose client left during the first claim waits for nobody.
        if self.is_in(Stage::Left) {
            return Err(Stop::InFlight(lapses_in));
        }
        let Some(_place) = layer.waiters.try_enter() else {
            return Err(Stop::InFlight(lapses_in));
        };
        let asked = Instant::now();
        let mut woken = None;
        let mut in_vain = 0;
        loop {
            // Nothing is claimed: a client that leaves leaves nothing behind.
            self.enter(Stage::Reading);
            let left = bound.saturating_sub(asked.elapsed());
            let subscribed = layer.within(layer.store.subscribe(&claim.id));
            let mut changed = match Deadline::new(left, subscribed).await {
                Some(Ok(changed)) => changed,
                Some(Err(error)) => {
                    let error: &dyn std::error::Error = &error;
                    warn!(id = ?claim.id, error, "no word of changes, asking again instead");
                    Subscription::after(POLL)
                }
                None => return Err(Stop::InFlight(lapses_in)),
            };
            let claimed_at = Instant::now();
            let claimed = self.claim(claim, parts, body).await;
            // Kept until here, since it passes its wake-up on if nothing came of it.
            drop(woken.take());
            lapses_in = match claimed {
                Err(Stop::InFlight(lapses_in)) => lapses_in,
                // It was seen in flight: that the store has failed since is no
                // reason to run it beside that.
                Ok(Protection::None) => return Err(Stop::Reject(store_unavailable())),
                decided => return decided,
            };
            let left = bound.saturating_sub(asked.elapsed());
            if left.is_zero() || self.is_in(Stage::Left) {
                return Err(Stop::InFlight(lapses_in));
            }
            self.enter(Stage::Reading);
            let pause = lapses_in.max(SHORTEST_PAUSE).min(left);
            Deadline::new(pause, &mut changed).await;
            // A store that wakes its subscribers for nothing is not asked again
            // and again without a pause.
            let early = claimed_at.elapsed() < SHORTEST_PAUSE;
            in_vain = if early { in_vain + 1 } else { 0 };
            if in_vain > FEW {
                let left = bound.saturating_sub(asked.elapsed());
                sleep(SHORTEST_PAUSE.min(left)).await;
            }
            woken = Some(changed);
        }
    }

    /// `None`: the claim certainly did not reach the store, and this route
    /// prefers to go on.
    fn claimed(
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
            Ok(Claimed::OverCapacity) => {
                return Err(Stop::Reject(over_capacity()));
            }
            Err(error) => error,
        };
        warn!(id = ?claim.id, error = &error as &dyn std::error::Error, "claim failed");
        // Nobody waits for what a client that left did not begin.
        let open =
            self.options.on_store_error == OnStoreError::RunUnprotected && !self.is_in(Stage::Left);
        match error.kind() {
            StoreErrorKind::NotSent if open => Ok(None),
            StoreErrorKind::Unknown => {
                release_later(&self.layer, claim, Release::MayRunAgain, ClaimSent::Maybe);
                Err(Stop::Reject(store_unavailable()))
            }
            _ => Err(Stop::Reject(store_unavailable())),
        }
    }

    /// A record made under a secret that is on its way out still counts. The
    /// claim is made first: of two processes with the secrets in either order,
    /// each sees what the other claimed.
    async fn look_under_old_secrets(&self, parts: &Parts, body: &[u8]) -> Result<(), Stop> {
        let caller = self.caller(parts)?;
        for (at, digests) in self.layer.old_digests.iter().enumerate() {
            let scope = caller.digest(digests, &self.layer.namespace);
            let old = self.claim_under(digests, scope, parts, body);
            let found = self.layer.within(self.layer.store.look_up(&old.id)).await;
            match found.and_then(|record| record.map(Record::readable).transpose()) {
                Ok(None) => {}
                Ok(Some(record)) => match record.state {
                    RecordState::Released => self.found_under_old_secret(at, &old),
                    RecordState::Lapsed { fingerprint } if old.takes_over(&fingerprint) => {
                        self.found_under_old_secret(at, &old);
                    }
                    state => {
                        return Err(match self.found(&old, state) {
                            // It can't be waited for: the claim that was made
                            // first is given back, and would wake its own waiters.
                            Stop::InFlight(_) => Stop::Reject(in_flight()),
                            stop => stop,
                        });
                    }
                },
                Err(error) => {
                    let error: &dyn std::error::Error = &error;
                    warn!(id = ?old.id, error, "look-up under an old secret failed");
                    return Err(Stop::Reject(store_unavailable()));
                }
            }
        }
        Ok(())
    }

    /// An earlier attempt was made under this secret. The first one that is found
    /// counts: the most recent of them.
    fn found_under_old_secret(&self, at: usize, old: &Claim) {
        self.first.get_or_init(|| (at, old.id));
    }

    /// The fingerprint is compared before the state: another request is
    /// refused even while the first one runs.
    fn found(&self, claim: &Claim, state: RecordState) -> Stop {
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
                Stop::Reject(key_reused())
            }
            RecordState::Completed { completion, .. } => Stop::Replay(completion),
            RecordState::Sealed { .. } => Stop::Reject(response_unavailable()),
            RecordState::Lapsed { .. } => {
                warn!(record = %claim.id,
                    "nobody knows how an operation ended, and its client asks: its record waits \
                     to be resolved");
                Stop::Reject(outcome_unknown())
            }
            RecordState::InFlight { lapses_in, .. } => Stop::InFlight(lapses_in),
            // A tombstone would have been acquired.
            RecordState::Released => Stop::Reject(in_flight()),
        }
    }

    /// What becomes of a record when nobody can say how its operation ended.
    pub(crate) fn outcome_unknown(&self) -> Release {
        match self.options.on_lapsed_lease {
            OnLapsedLease::Rerun => Release::MayRunAgain,
            OnLapsedLease::Refuse => Release::OutcomeUnknown,
        }
    }
}

pub(crate) fn over_capacity() -> Rejection {
    Rejection::new(
        RejectionCode::OverCapacity,
        "There is no room for another operation. Nothing was executed; send the same request \
         again in a moment.",
    )
}

pub(crate) fn key_reused() -> Rejection {
    Rejection::new(
        RejectionCode::KeyReused,
        "This idempotency key was used for another request: its method, target, headers or body \
         differ. Use a new key for a new operation.",
    )
}

pub(crate) fn response_unavailable() -> Rejection {
    Rejection::new(
        RejectionCode::ResponseUnavailable,
        "The operation is done and was not executed again, but its answer was not kept.",
    )
}

pub(crate) fn outcome_unknown() -> Rejection {
    Rejection::new(
        RejectionCode::OutcomeUnknown,
        "The first request with this key ended without a known outcome. It was not executed \
         again; it will be once someone has resolved it.",
    )
}

pub(crate) fn store_unavailable() -> Rejection {
    Rejection::new(
        RejectionCode::StoreUnavailable,
        "Whether this operation was executed before can't be told right now. Nothing was \
         executed; send the same request again in a moment.",
    )
}
