//! Sections 4.3 to 4.5: everything that can keep a request from its handler.

#![expect(
    clippy::manual_async_fn,
    reason = "an async fn keeps its arguments twice"
)]

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use http::header::CONTENT_LENGTH;
use http::request::Parts;
use http_body::Body;
use http_body_util::LengthLimitError;
use tracing::{debug, warn};

use crate::body::{BoxError, Collected, Whole, collect, up_to};
use crate::context::{IdempotencyContext, Operation, Stage};
use crate::digest::Digests;
use crate::fingerprint::record_id;
use crate::lease::{Fate, Held, release_later};
use crate::policy::{KeysPer, OnDisconnect, OnInFlight, OnMismatch, OnStoreError};
use crate::record::{Completion, Fingerprint, ScopeDigest};
use crate::rejection::{Rejection, RejectionCode};
use crate::route::target;
use crate::rt::{Instant, sleep};
use crate::scope::Caller;
use crate::store::{
    Claim, Claimed, Lease, OnLapsedLease, POLL, RecordState, Release, StoreError, StoreErrorKind,
    Subscription,
};
use crate::within::Within;

/// Why the handler does not run.
pub(crate) enum Stop {
    Reject(Rejection),
    Replay(Arc<Completion>),
    /// The same request is in flight, under a lease that lapses then.
    InFlight(Duration),
}

/// A request that the handler runs for.
pub(crate) struct Admitted {
    pub(crate) under: Under,
    pub(crate) whole: Whole,
}

/// What protects it.
pub(crate) enum Under {
    Own(Held),
    /// The same record, claimed by a layer further out.
    Outer,
    /// Nothing: the store is down, and its route prefers to go on.
    Nothing,
}

/// Before a claim is sent again for a lease that may be about to lapse.
const SHORTEST_PAUSE: Duration = Duration::from_millis(20);

/// 3. to 5. Everything that can keep a request from its handler.
pub(crate) fn admit<'a, B>(
    operation: &'a Arc<Operation>,
    parts: &'a Parts,
    body: B,
) -> impl Future<Output = Result<Admitted, Stop>> + 'a
where
    B: Body + 'a,
    B::Error: Into<BoxError>,
{
    async move {
        // Before the body is first polled, as `Expect: 100-continue` wants it.
        let scope = operation.scope(parts)?;
        operation.check_declared_length(parts, &body)?;
        let whole = operation.read(body).await?;
        let claim = operation.claim_under(&operation.layer.digests, scope, parts, &whole.data);
        let outer = parts.extensions.get::<IdempotencyContext>();
        let under = if outer.is_some_and(|outer| outer.is_under(&claim.id)) {
            Under::Outer
        } else {
            match operation.claim(&claim, parts, &whole.data).await {
                Err(Stop::InFlight(lapses_in)) => {
                    let waited = operation.wait(&claim, parts, &whole.data, lapses_in);
                    Box::pin(waited).await?
                }
                claimed => claimed?,
            }
        };
        Ok(Admitted { under, whole })
    }
}

impl Operation {
    /// 3. Who asks.
    fn caller(&self, parts: &Parts) -> Result<Caller, Stop> {
        let scope = self.policy.scope.as_ref().unwrap_or(&self.layer.scope);
        scope.caller(parts).ok_or_else(|| {
            reject(
                RejectionCode::ScopeMissing,
                "An idempotency key belongs to a caller, and this request does not say who its \
                 caller is. Authenticate it as this API documents.",
            )
        })
    }

    fn scope(&self, parts: &Parts) -> Result<ScopeDigest, Stop> {
        let caller = self.caller(parts)?;
        Ok(caller.digest(&self.layer.digests, &self.layer.namespace))
    }

    /// 4. A body that announces too much is not asked for.
    fn check_declared_length<B: Body>(&self, parts: &Parts, body: &B) -> Result<(), Stop> {
        let hint = body.size_hint();
        let declared = hint.exact().or_else(|| {
            let header = parts.headers.get(CONTENT_LENGTH)?;
            header.to_str().ok()?.parse().ok()
        });
        if declared.unwrap_or(0).max(hint.lower()) > self.policy.max_request_body as u64 {
            return Err(self.too_large());
        }
        Ok(())
    }

    /// 4. The whole body, within its limits.
    fn read<B>(&self, body: B) -> impl Future<Output = Result<Whole, Stop>>
    where
        B: Body,
        B::Error: Into<BoxError>,
    {
        async move {
            let mut room = true;
            let collected = {
                let mut share = self.layer.buffered.share();
                let mut fits = up_to(self.policy.max_request_body);
                let admit = |bytes| {
                    room = share.take(bytes);
                    room && fits(bytes)
                };
                Within::new(self.policy.body_timeout, collect(pin!(body), admit)).await
            };
            self.read_whole(collected, room)
        }
    }

    fn read_whole(&self, collected: Option<Collected>, room: bool) -> Result<Whole, Stop> {
        match collected {
            Some(Collected::Whole(whole)) => Ok(whole),
            Some(Collected::Stopped) if !room => Err(reject(
                RejectionCode::OverCapacity,
                "Too many request bodies are being received at once. Nothing was executed; send \
                 the same request again in a moment.",
            )),
            Some(Collected::Stopped) => Err(self.too_large()),
            Some(Collected::Broken(error)) if is_length_limit(&*error) => Err(reject(
                RejectionCode::BodyTooLarge,
                "The request's body is larger than this API accepts. Nothing was executed.",
            )),
            Some(Collected::Broken(error)) => {
                debug!(
                    error = &*error as &dyn std::error::Error,
                    "a request's body broke off"
                );
                Err(reject(
                    RejectionCode::BodyUnreadable,
                    "The request's body broke off before its end. Nothing was executed.",
                ))
            }
            None => Err(reject(
                RejectionCode::BodyTimeout,
                "The request's body took too long to arrive. Nothing was executed.",
            )),
        }
    }

    fn too_large(&self) -> Stop {
        let limit = self.policy.max_request_body;
        Stop::Reject(Rejection::new(
            RejectionCode::BodyTooLarge,
            format!(
                "A request with an idempotency key may have a body of at most {limit} bytes here."
            ),
        ))
    }

    /// An operation that has begun can't be stopped when its client leaves.
    fn has_room_to_go_on_alone(&self) -> Result<(), Stop> {
        if self.policy.on_disconnect == OnDisconnect::Finish && !self.layer.detached.has_room() {
            return Err(reject(
                RejectionCode::OverCapacity,
                "Too many operations are still running for clients that have left. Nothing was \
                 executed; send the same request again in a moment.",
            ));
        }
        Ok(())
    }

    fn claim_under(
        &self,
        digests: &Digests,
        scope: ScopeDigest,
        parts: &Parts,
        body: &[u8],
    ) -> Claim {
        let policy = &self.policy;
        let target = target(&parts.uri, &parts.extensions);
        let route = match policy.keys_per {
            KeysPer::Scope => None,
            KeysPer::Route => Some((&parts.method, target.path())),
        };
        let id = record_id(digests, &scope, &self.key, route);
        let fingerprint = policy.fingerprint.fingerprint(digests, parts, target, body);
        Claim {
            lease: policy.lease,
            retention: policy.retention,
            on_lapsed_lease: policy.on_lapsed_lease,
            on_mismatch: policy.on_mismatch,
            ..Claim::new(id, scope, fingerprint)
        }
    }

    /// 5. The claim, and what its answer means.
    fn claim<'a>(
        self: &'a Arc<Self>,
        claim: &'a Claim,
        parts: &'a Parts,
        body: &'a [u8],
    ) -> impl Future<Output = Result<Under, Stop>> + 'a {
        async move {
            self.has_room_to_go_on_alone()?;
            self.enter(Stage::Claiming);
            let sent = Instant::now();
            let claimed = self.layer.within(self.layer.store.claim(claim)).await;
            let Some(lease) = self.claimed(claim, claimed)? else {
                return Ok(Under::Nothing);
            };
            let guarded = lease.is_guarded();
            // From here on, dropping it gives the claim back.
            let held = Held::new(self, lease, sent).release_on_drop(Release::Tombstone);
            if !self.layer.old_digests.is_empty() {
                Box::pin(self.look_under_old_secrets(parts, body)).await?;
            }
            let alive = guarded || sent.elapsed() < claim.lease;
            if !alive || self.is_in(Stage::Left) {
                debug!(id = ?claim.id, alive, "claim given back before the handler began");
                return Err(store_unavailable());
            }
            Ok(Under::Own(held.release_on_drop(self.outcome_unknown())))
        }
    }

    /// Where the route says so, waits for the outcome of the operation in
    /// flight: subscribes, then claims. Only a claim decides; a change, or the
    /// lapse of the lease, says when it is worth another.
    async fn wait(
        self: &Arc<Self>,
        claim: &Claim,
        parts: &Parts,
        body: &[u8],
        mut lapses_in: Duration,
    ) -> Result<Under, Stop> {
        let layer = &self.layer;
        let OnInFlight::Wait(bound) = self.policy.on_in_flight else {
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
        let mut claimed_at;
        loop {
            // Nothing is claimed: a client that leaves leaves nothing behind.
            self.enter(Stage::Reading);
            let left = bound.saturating_sub(asked.elapsed());
            let subscribed = layer.within(layer.store.subscribe(&claim.id));
            let mut changed = match Within::new(left, subscribed).await {
                Some(Ok(changed)) => changed,
                Some(Err(error)) => {
                    let error: &dyn std::error::Error = &error;
                    warn!(id = ?claim.id, error, "no word of changes, asking again instead");
                    Subscription::after(POLL)
                }
                None => return Err(Stop::InFlight(lapses_in)),
            };
            claimed_at = Instant::now();
            let claimed = self.claim(claim, parts, body).await;
            // A store that wakes its subscribers for nothing is not asked again
            // and again without a pause.
            let in_vain = woken.is_some();
            // Kept until here, since it passes its wake-up on if nothing came of it.
            drop(woken.take());
            lapses_in = match claimed {
                Err(Stop::InFlight(lapses_in)) => lapses_in,
                // It was seen in flight: that the store has failed since is no
                // reason to run it beside that.
                Ok(Under::Nothing) => return Err(store_unavailable()),
                decided => return decided,
            };
            let left = bound.saturating_sub(asked.elapsed());
            if left.is_zero() || self.is_in(Stage::Left) {
                return Err(Stop::InFlight(lapses_in));
            }
            self.enter(Stage::Reading);
            let pause = lapses_in.max(SHORTEST_PAUSE).min(left);
            Within::new(pause, &mut changed).await;
            if in_vain && claimed_at.elapsed() < SHORTEST_PAUSE {
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
            Ok(Claimed::Found(state)) => return Err(self.found(claim, state)),
            Ok(Claimed::OverCapacity) => {
                return Err(reject(
                    RejectionCode::OverCapacity,
                    "There is no room for another operation. Nothing was executed; send the same \
                     request again in a moment.",
                ));
            }
            Err(error) => error,
        };
        warn!(id = ?claim.id, error = &error as &dyn std::error::Error, "claim failed");
        // Nobody waits for what a client that left did not begin.
        let open = self.policy.on_store_error == OnStoreError::Open && !self.is_in(Stage::Left);
        match error.kind() {
            StoreErrorKind::NotSent if open => Ok(None),
            StoreErrorKind::Unknown => {
                release_later(&self.layer, claim, Release::Tombstone, Fate::Unknown);
                Err(store_unavailable())
            }
            _ => Err(store_unavailable()),
        }
    }

    /// A record made under a secret that is on its way out still counts. The
    /// claim is made first: of two processes with the secrets in either order,
    /// each sees what the other claimed.
    async fn look_under_old_secrets(&self, parts: &Parts, body: &[u8]) -> Result<(), Stop> {
        let caller = self.caller(parts)?;
        for digests in &self.layer.old_digests {
            let scope = caller.digest(digests, &self.layer.namespace);
            let old = self.claim_under(digests, scope, parts, body);
            match self.layer.within(self.layer.store.look_up(&old.id)).await {
                Ok(None) => {}
                Ok(Some(record)) => match record.state {
                    RecordState::Released => {}
                    RecordState::Lapsed { fingerprint } if old.takes_over(&fingerprint) => {}
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
                    return Err(store_unavailable());
                }
            }
        }
        Ok(())
    }

    /// The fingerprint is compared before the state: another request is
    /// refused even while the first one runs.
    fn found(&self, claim: &Claim, state: RecordState) -> Stop {
        let other = |fingerprint: &Fingerprint| {
            self.policy.on_mismatch == OnMismatch::Reject && *fingerprint != claim.fingerprint
        };
        match state {
            RecordState::InFlight { fingerprint, .. }
            | RecordState::Lapsed { fingerprint }
            | RecordState::Completed { fingerprint, .. }
            | RecordState::Sealed { fingerprint }
                if other(&fingerprint) =>
            {
                reject(
                    RejectionCode::KeyReused,
                    "This idempotency key was used for another request: its method, target, \
                     headers or body differ. Use a new key for a new operation.",
                )
            }
            RecordState::Completed { completion, .. } => Stop::Replay(completion),
            RecordState::Sealed { .. } => reject(
                RejectionCode::ResponseUnavailable,
                "The operation is done and was not executed again, but its answer was not kept.",
            ),
            RecordState::Lapsed { .. } => {
                warn!(record = %claim.id,
                    "nobody knows how an operation ended, and its client asks: its record waits \
                     to be resolved");
                reject(
                    RejectionCode::OutcomeUnknown,
                    "The first request with this key ended without a known outcome. It was not \
                     executed again; it will be once someone has resolved it.",
                )
            }
            RecordState::InFlight { lapses_in, .. } => Stop::InFlight(lapses_in),
            // A tombstone would have been acquired.
            RecordState::Released => Stop::Reject(in_flight()),
        }
    }

    /// What becomes of a record when nobody can say how its operation ended.
    pub(crate) fn outcome_unknown(&self) -> Release {
        match self.policy.on_lapsed_lease {
            OnLapsedLease::Rerun => Release::Tombstone,
            OnLapsedLease::Refuse => Release::Unknown,
        }
    }
}

fn reject(code: RejectionCode, detail: &'static str) -> Stop {
    Stop::Reject(Rejection::new(code, detail))
}

pub(crate) fn in_flight() -> Rejection {
    Rejection::new(
        RejectionCode::InFlight,
        "The first request with this key is still being executed. Send the same request again in \
         a moment to get its answer.",
    )
}

fn store_unavailable() -> Stop {
    reject(
        RejectionCode::StoreUnavailable,
        "Whether this operation was executed before can't be told right now. Nothing was \
         executed; send the same request again in a moment.",
    )
}

fn is_length_limit(error: &(dyn std::error::Error + 'static)) -> bool {
    std::iter::successors(Some(error), |error| error.source())
        .any(<dyn std::error::Error>::is::<LengthLimitError>)
}
