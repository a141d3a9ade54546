//! One protected request, top to bottom: sections 4.3 to 4.8 of the contract.

#![expect(
    clippy::manual_async_fn,
    reason = "an async fn keeps its arguments twice"
)]

use std::future::Future;
use std::panic::resume_unwind;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, response};
use http_body::Body;
use http_body_util::LengthLimitError;
use tokio::time::Instant;
use tower_service::Service;
use tracing::{debug, warn};

use crate::answer::{Answer, Recording, is_media_type};
use crate::body::{BoxError, Collected, RequestTrailers, ResponseBody, Whole, collect};
use crate::context::{IdempotencyContext, Operation, Stage};
use crate::digest::Digests;
use crate::fingerprint::record_id;
use crate::lease::{Caught, Fate, Held, Recorded, Within, release_later};
use crate::policy::{KeysPer, OnMismatch, OnStoreError, Oversize, rfc3339};
use crate::record::{Completion, Fingerprint, ScopeDigest};
use crate::rejection::{Rejection, RejectionCode};
use crate::route::target;
use crate::scope::Caller;
use crate::store::{
    Claim, Claimed, Lease, OnLapsedLease, Outcome, RecordState, Release, StoreError, StoreErrorKind,
};

/// Says what protection an answer lacks.
const STATUS_HEADER: HeaderName = HeaderName::from_static("idempotency-status");

/// Why the handler does not run.
enum Stop {
    Reject(Rejection),
    Replay(Arc<Completion>),
}

/// A request that the handler runs for.
struct Admitted {
    under: Under,
    whole: Whole,
}

/// What protects it.
enum Under {
    Own(Held),
    /// The same record, claimed by a layer further out.
    Outer,
    /// Nothing: the store is down, and its route prefers to go on.
    Nothing,
}

/// What becomes of the record.
enum Ending {
    Complete(Outcome),
    Release(Release),
    /// Released at the end of the answer's body: until then the operation runs.
    ReleaseAtEnd,
}

/// The whole of it. Its future is boxed once, and kept below the kilobyte from
/// which on an allocator takes its slow path: steps that follow each other
/// share their room, and an `async fn` would keep its arguments twice.
pub(crate) fn run<S, B, R>(
    operation: Arc<Operation>,
    mut service: S,
    request: Request<B>,
) -> impl Future<Output = Result<Response<ResponseBody<R>>, S::Error>>
where
    S: Service<Request<B>, Response = Response<R>>,
    B: Body + From<Bytes>,
    B::Error: Into<BoxError>,
    R: Body,
    R::Error: Into<BoxError>,
{
    let (parts, body) = request.into_parts();
    let parts = Box::new(parts);
    async move {
        match admit(&operation, &parts, body).await {
            Ok(Admitted {
                under: Under::Own(held),
                whole,
            }) => execute(operation, &mut service, parts, whole, held).await,
            Ok(Admitted { under, whole }) => {
                let mut response = service.call(request_of(parts, whole)).await?;
                if let Under::Nothing = under {
                    let status = HeaderValue::from_static("unprotected");
                    response.headers_mut().insert(STATUS_HEADER, status);
                }
                Ok(response.map(ResponseBody::passed))
            }
            Err(stop) => Ok(operation.stop(stop, &parts)),
        }
    }
}

/// 3. to 5. Everything that can keep a request from its handler.
fn admit<'a, B>(
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
            operation.claim(claim, parts, &whole.data).await?
        };
        Ok(Admitted { under, whole })
    }
}

/// The request as the service gets it.
fn request_of<B: From<Bytes>>(mut parts: Box<Parts>, whole: Whole) -> Request<B> {
    if let Some(trailers) = whole.trailers {
        parts.extensions.insert(RequestTrailers(*trailers));
    }
    Request::from_parts(*parts, B::from(whole.data))
}

/// 6. to 8. The handler, its answer, and the record of it.
fn execute<S, B, R>(
    operation: Arc<Operation>,
    service: &mut S,
    mut parts: Box<Parts>,
    whole: Whole,
    held: Held,
) -> impl Future<Output = Result<Response<ResponseBody<R>>, S::Error>> + use<'_, S, B, R>
where
    S: Service<Request<B>, Response = Response<R>>,
    B: From<Bytes>,
    R: Body,
    R::Error: Into<BoxError>,
{
    operation.enter(Stage::Running);
    // Only a renderer of the application's own looks at the request again.
    let custom = operation.layer.rejections.renderer.is_some();
    let asked = custom.then(|| parts.clone());
    parts
        .extensions
        .insert(IdempotencyContext(Arc::clone(&operation)));
    let began_at = SystemTime::now();
    async move {
        let answered = Caught::call(|| service.call(request_of(parts, whole))).await;
        let (mut head, body) = match answered {
            Ok(Ok(response)) => response.into_parts(),
            Ok(Err(error)) => {
                held.release(operation.outcome_unknown()).await;
                return Err(error);
            }
            Err(panic) => {
                held.release(operation.outcome_unknown()).await;
                resume_unwind(panic)
            }
        };

        // 7. Judge, at the end of the body.
        let mut body = Box::pin(body);
        let limit = operation.policy.max_recorded_body;
        let collected = if never_ends(&head) || body.size_hint().lower() > limit as u64 {
            Collected::Stopped(Bytes::new())
        } else {
            match Caught::call(|| collect(body.as_mut(), up_to(limit))).await {
                Ok(collected) => collected,
                Err(panic) => {
                    held.release(operation.outcome_unknown()).await;
                    resume_unwind(panic)
                }
            }
        };
        let (ending, mut body) = operation.judge(&mut head, collected, body, began_at);

        // 8. Complete, then let the answer go.
        let recorded = match ending {
            Ending::Complete(outcome) => held.complete(outcome).await,
            Ending::Release(how) => held.release(how).await,
            Ending::ReleaseAtEnd => {
                body.hold(held);
                Recorded::Released
            }
        };
        match recorded {
            Recorded::Stored => {}
            Recorded::Released if !operation.is_lost() => {}
            Recorded::NotYet if !operation.is_lost() => {
                head.headers
                    .insert(STATUS_HEADER, HeaderValue::from_static("unrecorded"));
            }
            // Another owner's answer is the one that stands.
            Recorded::Lost | Recorded::Released | Recorded::NotYet => {
                return Ok(operation.layer.reject(
                    in_flight(),
                    &operation.policy,
                    asked.as_deref(),
                ));
            }
        }
        Ok(Response::from_parts(head, body))
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
            Some(Collected::Stopped(_)) if !room => Err(reject(
                RejectionCode::OverCapacity,
                "Too many request bodies are being received at once. Nothing was executed; send \
                 the same request again in a moment.",
            )),
            Some(Collected::Stopped(_)) => Err(self.too_large()),
            Some(Collected::Broken(_, error)) if is_length_limit(&*error) => Err(reject(
                RejectionCode::BodyTooLarge,
                "The request's body is larger than this API accepts. Nothing was executed.",
            )),
            Some(Collected::Broken(_, error)) => {
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
        claim: Claim,
        parts: &'a Parts,
        body: &'a [u8],
    ) -> impl Future<Output = Result<Under, Stop>> + 'a {
        self.enter(Stage::Claiming);
        let sent = Instant::now();
        async move {
            let claimed = self.layer.within(self.layer.store.claim(&claim)).await;
            let Some(lease) = self.claimed(&claim, claimed)? else {
                return Ok(Under::Nothing);
            };
            let guarded = lease.is_guarded();
            // From here on, dropping it gives the claim back.
            let held = Held::new(self, lease).release_on_drop(Release::Tombstone);
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
                    state => return Err(self.found(&old, state)),
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
            RecordState::Lapsed { .. } => reject(
                RejectionCode::OutcomeUnknown,
                "The first request with this key ended without a known outcome. It was not \
                 executed again; it will be once someone has resolved it.",
            ),
            // A tombstone would have been acquired.
            RecordState::InFlight { .. } | RecordState::Released => Stop::Reject(in_flight()),
        }
    }

    /// What becomes of a record when nobody can say how its operation ended.
    pub(crate) fn outcome_unknown(&self) -> Release {
        match self.policy.on_lapsed_lease {
            OnLapsedLease::Rerun => Release::Tombstone,
            OnLapsedLease::Refuse => Release::Unknown,
        }
    }

    /// 7. What the answer means for the record, and what the client gets of it.
    fn judge<R>(
        &self,
        head: &mut response::Parts,
        collected: Collected,
        rest: Pin<Box<R>>,
        began_at: SystemTime,
    ) -> (Ending, ResponseBody<R>) {
        let keep = self.records(head, &collected);
        let retention = self.policy.retention;
        let completed_at = SystemTime::now();
        let ended = match collected {
            Collected::Whole(Whole { data, trailers }) => {
                let ending = if keep {
                    Ending::Complete(Outcome::Completed(Arc::new(Completion {
                        status: head.status,
                        headers: self.policy.record_headers.of(&head.headers),
                        body: recorded_body(&data),
                        trailers: trailers.as_deref().cloned(),
                        began_at,
                        completed_at,
                        retention,
                    })))
                } else {
                    Ending::Release(Release::Tombstone)
                };
                (ending, ResponseBody::known(data, trailers))
            }
            Collected::Stopped(read) => {
                let ending = if keep && self.policy.oversize == Oversize::Seal {
                    Ending::Complete(Outcome::Sealed { retention })
                } else {
                    Ending::ReleaseAtEnd
                };
                (ending, ResponseBody::rest(read, rest))
            }
            Collected::Broken(read, error) => {
                // An answer worth keeping broke off: its effect has happened.
                let ending = if keep {
                    Ending::Complete(Outcome::Sealed { retention })
                } else {
                    Ending::Release(self.outcome_unknown())
                };
                (ending, ResponseBody::broken(read, error))
            }
        };
        let kept = matches!(ended.0, Ending::Complete(_));
        let kept_until = || completed_at.checked_add(retention).filter(|_| kept);
        self.mark(&mut head.headers, began_at, kept_until);
        ended
    }

    fn records(&self, head: &response::Parts, collected: &Collected) -> bool {
        let answer = Answer {
            status: head.status,
            headers: &head.headers,
            trailers: match collected {
                Collected::Whole(whole) => whole.trailers.as_deref(),
                Collected::Stopped(_) | Collected::Broken(..) => None,
            },
        };
        match head.extensions.get::<Recording>() {
            Some(Recording::Keep) => true,
            Some(Recording::Skip) => false,
            None if self.policy.skips_type(&head.headers) => false,
            // Its status is in trailers that were not reached: being large
            // is no reason to run it again.
            None if matches!(collected, Collected::Stopped(_)) && answer.awaits_grpc_status() => {
                true
            }
            None => self.policy.record.records(&answer),
        }
    }

    fn stop<R>(&self, stop: Stop, parts: &Parts) -> Response<ResponseBody<R>> {
        match stop {
            Stop::Reject(rejection) => self.layer.reject(rejection, &self.policy, Some(parts)),
            Stop::Replay(completion) => self.replay(&completion),
        }
    }

    fn replay<R>(&self, completion: &Completion) -> Response<ResponseBody<R>> {
        let trailers = completion.trailers.clone().map(Box::new);
        let body = ResponseBody::known(completion.body.clone(), trailers);
        let mut response = Response::new(body);
        *response.status_mut() = self.policy.replayed_status(completion.status);
        let mut headers = completion.headers.clone();
        if let Some(length) = headers.get_mut(CONTENT_LENGTH) {
            *length = HeaderValue::from(completion.body.len());
        }
        if let Some(name) = &self.policy.replayed_header {
            headers.insert(name, HeaderValue::from_static("true"));
        }
        self.mark(&mut headers, completion.began_at, || {
            completion.kept_until()
        });
        *response.headers_mut() = headers;
        response
    }

    /// The headers that first answers and replays have in common.
    fn mark(
        &self,
        headers: &mut HeaderMap,
        began_at: SystemTime,
        kept_until: impl FnOnce() -> Option<SystemTime>,
    ) {
        if let Some(name) = &self.policy.created_at_header
            && let Some(time) = rfc3339(began_at)
        {
            headers.insert(name, time);
        }
        if let Some(name) = &self.policy.expires_at_header
            && let Some(time) = kept_until().and_then(rfc3339)
        {
            headers.insert(name, time);
        }
        if let Some(key) = &self.echo {
            headers.insert(&self.key_header, key.clone());
        }
    }
}

fn reject(code: RejectionCode, detail: &'static str) -> Stop {
    Stop::Reject(Rejection::new(code, detail))
}

fn in_flight() -> Rejection {
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

/// What of a body is kept: a copy of its own, unless it is large. A body can
/// be a slice of a buffer many times its size, which a record would keep too.
fn recorded_body(data: &Bytes) -> Bytes {
    const COPIED: usize = 64 << 10;
    if data.len() <= COPIED {
        Bytes::copy_from_slice(data)
    } else {
        data.clone()
    }
}

/// Whether frames of this many bytes still fit, one after the other.
fn up_to(limit: usize) -> impl FnMut(usize) -> bool {
    let mut left = Some(limit);
    move |bytes| {
        left = left.and_then(|left| left.checked_sub(bytes));
        left.is_some()
    }
}

/// Answers without an end that could be waited for.
fn never_ends(head: &response::Parts) -> bool {
    head.status == StatusCode::SWITCHING_PROTOCOLS
        || is_media_type(head.headers.get(CONTENT_TYPE), "text/event-stream")
}

fn is_length_limit(error: &(dyn std::error::Error + 'static)) -> bool {
    std::iter::successors(Some(error), |error| error.source())
        .any(<dyn std::error::Error>::is::<LengthLimitError>)
}
