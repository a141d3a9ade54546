//! One protected request, top to bottom.

use std::pin::pin;
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

use crate::body::{BoxError, Collected, RequestTrailers, ResponseBody, Whole, collect};
use crate::context::{IdempotencyContext, Operation, Stage};
use crate::digest::Digests;
use crate::fingerprint::record_id;
use crate::layer::Shared;
use crate::lease::{
    Held, Recorded, at_once_or_within, caught, release_by_nonce, release_later, within,
};
use crate::policy::{
    Answer, KeysPer, OnMismatch, OnStoreError, Oversize, Policy, Recording, media_type, rfc3339,
};
use crate::record::{Completion, Fingerprint};
use crate::rejection::{Rejection, RejectionCode};
use crate::route::target;
use crate::scope::Caller;
use crate::store::{
    Claim, Claimed, Lease, OnLapsedLease, Outcome, RecordState, Release, StoreErrorKind,
};

/// Says what protection an answer lacks.
pub(crate) const STATUS_HEADER: HeaderName = HeaderName::from_static("idempotency-status");

/// What one request goes through the layer with.
pub(crate) struct Flow {
    pub(crate) layer: Arc<Shared>,
    pub(crate) policy: Arc<Policy>,
    pub(crate) operation: Arc<Operation>,
    /// The header that the key came in.
    pub(crate) key_header: HeaderName,
}

/// Why the handler does not run.
enum Stop {
    Reject(Rejection),
    Replay(Arc<Completion>),
}

impl From<Rejection> for Stop {
    fn from(rejection: Rejection) -> Self {
        Stop::Reject(rejection)
    }
}

fn reject(code: RejectionCode, detail: &'static str) -> Stop {
    Stop::Reject(Rejection::new(code, detail))
}

impl Flow {
    /// Sections 4.3 to 4.8 of the contract.
    pub(crate) async fn run<S, B, R>(
        self,
        mut service: S,
        request: Request<B>,
    ) -> Result<Response<ResponseBody<R>>, S::Error>
    where
        S: Service<Request<B>, Response = Response<R>>,
        B: Body + From<Bytes>,
        B::Error: Into<BoxError>,
        R: Body,
        R::Error: Into<BoxError>,
    {
        let (mut parts, body) = request.into_parts();
        let echo = self.echo(&parts);

        let admitted = match self.caller(&parts).and_then(|caller| {
            self.declared_length(&parts, &body)?;
            Ok(caller)
        }) {
            Ok(caller) => match self.read(body).await {
                Ok(whole) => self
                    .claim(&caller, &parts, &whole.data)
                    .await
                    .map(|held| (held, whole)),
                Err(stop) => Err(stop),
            },
            Err(stop) => Err(stop),
        };
        let (held, whole) = match admitted {
            Ok(admitted) => admitted,
            Err(stop) => return Ok(self.stop(stop, &parts, echo)),
        };

        if let Some(trailers) = whole.trailers {
            parts.extensions.insert(RequestTrailers(trailers));
        }
        let Some(held) = held else {
            let request = Request::from_parts(parts, B::from(whole.data));
            let mut response = service.call(request).await?.map(ResponseBody::passed);
            let status = HeaderValue::from_static("unprotected");
            response.headers_mut().insert(STATUS_HEADER, status);
            return Ok(response);
        };
        // Only a renderer of the application's own looks at the request again.
        let asked = self
            .layer
            .rejections
            .renderer
            .as_ref()
            .map(|_| parts.clone());
        parts
            .extensions
            .insert(IdempotencyContext(Arc::clone(&self.operation)));
        let request = Request::from_parts(parts, B::from(whole.data));

        self.operation.enter(Stage::Running);
        let began_at = SystemTime::now();
        let answer = caught(async {
            let (head, body) = service.call(request).await?.into_parts();
            Ok(self.collect(head, Box::pin(body)).await)
        });
        match answer.await {
            Ok(Ok(answer)) => Ok(self
                .finish(answer, held, began_at, asked.as_ref(), echo)
                .await),
            Ok(Err(error)) => {
                held.release(self.unknown()).await;
                Err(error)
            }
            Err(panic) => {
                held.release(self.unknown()).await;
                std::panic::resume_unwind(panic)
            }
        }
    }

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

    /// 4. What a body announces is believed before it is asked for, as
    ///    `Expect: 100-continue` wants it.
    fn declared_length<B: Body>(&self, parts: &Parts, body: &B) -> Result<(), Stop> {
        let header = parts
            .headers
            .get(CONTENT_LENGTH)
            .and_then(|value| value.to_str().ok());
        let declared = header
            .and_then(|value| value.parse::<u64>().ok())
            .unwrap_or(0);
        let at_least = declared.max(body.size_hint().lower());
        if at_least > self.policy.max_request_body as u64 {
            return Err(self.too_large());
        }
        Ok(())
    }

    /// 4. The whole body, within its limits.
    async fn read<B>(&self, body: B) -> Result<Whole, Stop>
    where
        B: Body,
        B::Error: Into<BoxError>,
    {
        let limit = self.policy.max_request_body;
        let mut body = pin!(body);
        let mut share = self.layer.buffered.share();
        let (mut length, mut room) = (0_usize, true);
        let reading = collect(body.as_mut(), |bytes| {
            length = length.saturating_add(bytes);
            room = share.take(bytes);
            room && length <= limit
        });
        match at_once_or_within(self.policy.body_timeout, reading).await {
            Some(Collected::Whole(whole)) => Ok(whole),
            Some(Collected::Stopped(_)) if !room => Err(reject(
                RejectionCode::OverCapacity,
                "Too many request bodies are being received at once. Send the same request again \
                 in a moment.",
            )),
            Some(Collected::Stopped(_)) => Err(self.too_large()),
            Some(Collected::Broken(_, error)) if is_length_limit(&*error) => Err(self.too_large()),
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
        Rejection::new(
            RejectionCode::BodyTooLarge,
            format!(
                "A request with an idempotency key may have a body of at most {limit} bytes here."
            ),
        )
        .into()
    }

    /// 5. The claim, and what its answer means. `None`: the store is down, and
    ///    this route prefers to go on unprotected.
    async fn claim(
        &self,
        caller: &Caller,
        parts: &Parts,
        body: &[u8],
    ) -> Result<Option<Held>, Stop> {
        let claim = self.claim_under(&self.layer.digests, caller, parts, body);
        self.operation.enter(Stage::Claiming);
        let sent = Instant::now();
        let claimed = within(self.layer.store_timeout, self.layer.store.claim(&claim)).await;
        let lease = match claimed {
            Ok(Claimed::Acquired(lease)) => lease,
            Ok(Claimed::Found(state)) => return Err(self.found(&claim, state)),
            Ok(Claimed::OverCapacity) => {
                return Err(reject(
                    RejectionCode::OverCapacity,
                    "There is no room for another operation right now. Nothing was executed.",
                ));
            }
            Err(error) => {
                warn!(id = ?claim.id, error = &error as &dyn std::error::Error, "claim failed");
                let kind = error.kind();
                if kind == StoreErrorKind::NotSent
                    && self.policy.on_store_error == OnStoreError::Open
                {
                    return Ok(None);
                }
                if kind == StoreErrorKind::Unknown {
                    let Claim {
                        id, nonce, lease, ..
                    } = claim;
                    release_by_nonce(&self.layer, id, nonce, lease, Release::Tombstone);
                }
                return Err(store_unavailable());
            }
        };
        if let Err(stop) = self.look_under_old_secrets(caller, parts, body).await {
            release_later(&self.layer, &lease, Release::Tombstone);
            return Err(stop);
        }
        let alive = lease.is_guarded() || sent.elapsed() < claim.lease;
        if !alive || self.operation.is_in(Stage::Left) {
            // Nothing ran: the next attempt may.
            debug!(id = ?claim.id, alive, "claim given back before the handler began");
            release_later(&self.layer, &lease, Release::Tombstone);
            return Err(store_unavailable());
        }
        Ok(Some(self.hold(lease)))
    }

    fn claim_under(&self, digests: &Digests, caller: &Caller, parts: &Parts, body: &[u8]) -> Claim {
        let policy = &self.policy;
        let target = target(&parts.uri, &parts.extensions);
        let scope = caller.digest(digests, &self.layer.namespace);
        let route = match policy.keys_per {
            KeysPer::Scope => None,
            KeysPer::Route => Some((&parts.method, target.path())),
        };
        let id = record_id(digests, &scope, self.operation.key(), route);
        let fingerprint = policy.fingerprint.fingerprint(digests, parts, target, body);
        Claim {
            lease: policy.lease,
            retention: policy.retention,
            on_lapsed_lease: policy.on_lapsed_lease,
            on_mismatch: policy.on_mismatch,
            ..Claim::new(id, scope, fingerprint)
        }
    }

    /// A record made under a secret that is on its way out still counts. The
    /// claim is made first: of two processes with the secrets in either order,
    /// each sees what the other claimed.
    async fn look_under_old_secrets(
        &self,
        caller: &Caller,
        parts: &Parts,
        body: &[u8],
    ) -> Result<(), Stop> {
        for digests in &self.layer.old_digests {
            let old = self.claim_under(digests, caller, parts, body);
            let looked_up =
                within(self.layer.store_timeout, self.layer.store.look_up(&old.id)).await;
            match looked_up {
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
            // Only an acquisition could follow a tombstone: somebody else was quicker.
            RecordState::InFlight { .. } | RecordState::Released => in_flight().into(),
        }
    }

    fn hold(&self, lease: Lease) -> Held {
        let max_operation = self.policy.max_operation;
        Held::new(
            &self.layer,
            &self.operation,
            lease,
            max_operation,
            self.unknown(),
        )
    }

    /// What becomes of a record when nobody can say how its operation ended.
    fn unknown(&self) -> Release {
        match self.policy.on_lapsed_lease {
            OnLapsedLease::Rerun => Release::Tombstone,
            OnLapsedLease::Refuse => Release::Unknown,
        }
    }

    /// 7. The answer, as far as it is recorded.
    async fn collect<R>(
        &self,
        head: response::Parts,
        mut body: std::pin::Pin<Box<R>>,
    ) -> Answered<R>
    where
        R: Body,
        R::Error: Into<BoxError>,
    {
        let limit = self.policy.max_recorded_body;
        let lower = body.size_hint().lower();
        let collected = if never_ends(&head) || lower > limit as u64 {
            Collected::Stopped(Bytes::new())
        } else {
            let mut length = 0_usize;
            collect(body.as_mut(), |bytes| {
                length = length.saturating_add(bytes);
                length <= limit
            })
            .await
        };
        Answered {
            head,
            collected,
            body,
        }
    }

    /// 7. What the answer means for the record.
    fn records(&self, head: &response::Parts, trailers: Option<&HeaderMap>) -> bool {
        match head.extensions.get::<Recording>() {
            Some(Recording::Keep) => true,
            Some(Recording::Skip) => false,
            None => {
                !self.policy.skips_type(&head.headers)
                    && self.policy.record.records(&Answer {
                        status: head.status,
                        headers: &head.headers,
                        trailers,
                    })
            }
        }
    }

    /// 8. The record, then the answer.
    async fn finish<R>(
        &self,
        answered: Answered<R>,
        held: Held,
        began_at: SystemTime,
        asked: Option<&Parts>,
        echo: Option<HeaderValue>,
    ) -> Response<ResponseBody<R>> {
        let Answered {
            mut head,
            collected,
            body,
        } = answered;
        let trailers = match &collected {
            Collected::Whole(whole) => whole.trailers.as_ref(),
            _ => None,
        };
        let keep = self.records(&head, trailers);
        let retention = self.policy.retention;
        let times = (began_at, SystemTime::now());
        let (recorded, body) = match collected {
            Collected::Whole(whole) if keep => {
                let completion = Arc::new(Completion {
                    status: head.status,
                    headers: self.policy.record_headers.of(&head.headers),
                    body: whole.data.clone(),
                    trailers: whole.trailers.clone(),
                    began_at,
                    completed_at: times.1,
                    retention,
                });
                let recorded = held.complete(Outcome::Completed(completion)).await;
                (recorded, ResponseBody::known(whole.data, whole.trailers))
            }
            Collected::Whole(whole) => {
                held.release(Release::Tombstone).await;
                (
                    Recorded::Stored,
                    ResponseBody::known(whole.data, whole.trailers),
                )
            }
            Collected::Stopped(read) if keep && self.policy.oversize == Oversize::Seal => {
                let recorded = held.complete(Outcome::Sealed { retention }).await;
                (recorded, ResponseBody::rest(read, body, None))
            }
            Collected::Stopped(read) => {
                // The operation runs until its body ends: released only then.
                let held = held.release_on_drop(Release::Tombstone);
                (Recorded::Stored, ResponseBody::rest(read, body, Some(held)))
            }
            Collected::Broken(read, error) => {
                // An answer worth keeping broke off: its effect has happened.
                let recorded = if keep {
                    held.complete(Outcome::Sealed { retention }).await
                } else {
                    held.release(self.unknown()).await;
                    Recorded::Stored
                };
                (recorded, ResponseBody::broken(read, error))
            }
        };
        match recorded {
            Recorded::Lost => return self.layer.reject(in_flight(), &self.policy, asked),
            Recorded::NotYet => {
                head.headers
                    .insert(STATUS_HEADER, HeaderValue::from_static("unrecorded"));
            }
            Recorded::Stored => {}
        }
        let kept_until = keep.then(|| times.1.checked_add(retention)).flatten();
        self.mark(&mut head.headers, Some(began_at), kept_until, echo);
        Response::from_parts(head, body)
    }

    fn stop<R>(
        &self,
        stop: Stop,
        parts: &Parts,
        echo: Option<HeaderValue>,
    ) -> Response<ResponseBody<R>> {
        match stop {
            Stop::Reject(rejection) => self.layer.reject(rejection, &self.policy, Some(parts)),
            Stop::Replay(completion) => self.replay(&completion, echo),
        }
    }

    fn replay<R>(
        &self,
        completion: &Completion,
        echo: Option<HeaderValue>,
    ) -> Response<ResponseBody<R>> {
        let body = ResponseBody::known(completion.body.clone(), completion.trailers.clone());
        let mut response = Response::new(body);
        *response.status_mut() = self.policy.replayed_status(completion.status);
        let headers = response.headers_mut();
        headers.clone_from(&completion.headers);
        if let Some(length) = headers.get_mut(CONTENT_LENGTH) {
            *length = HeaderValue::from(completion.body.len());
        }
        if let Some(name) = &self.policy.replayed_header {
            headers.insert(name, HeaderValue::from_static("true"));
        }
        let kept_until = Some(completion.kept_until());
        self.mark(headers, Some(completion.began_at), kept_until, echo);
        response
    }

    /// The headers that first answers and replays have in common.
    fn mark(
        &self,
        headers: &mut HeaderMap,
        began_at: Option<SystemTime>,
        kept_until: Option<SystemTime>,
        echo: Option<HeaderValue>,
    ) {
        let policy = &self.policy;
        for (name, time) in [
            (&policy.created_at_header, began_at),
            (&policy.expires_at_header, kept_until),
        ] {
            if let (Some(name), Some(value)) = (name, time.and_then(rfc3339)) {
                headers.insert(name, value);
            }
        }
        if let Some(key) = echo {
            headers.insert(&self.key_header, key);
        }
    }

    fn echo(&self, parts: &Parts) -> Option<HeaderValue> {
        let wanted = self.policy.echo_key;
        wanted
            .then(|| parts.headers.get(&self.key_header).cloned())
            .flatten()
    }
}

/// A handler's answer.
struct Answered<R> {
    head: response::Parts,
    collected: Collected,
    /// What was not read of it.
    body: std::pin::Pin<Box<R>>,
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

/// Answers without an end that could be waited for.
fn never_ends(head: &response::Parts) -> bool {
    head.status == StatusCode::SWITCHING_PROTOCOLS
        || head.headers.contains_key(CONTENT_TYPE)
            && media_type(&head.headers).as_deref() == Some("text/event-stream")
}

fn is_length_limit(error: &(dyn std::error::Error + 'static)) -> bool {
    std::iter::successors(Some(error), |error| error.source())
        .any(<dyn std::error::Error>::is::<LengthLimitError>)
}
