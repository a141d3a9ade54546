//! Sections 4.3 to 4.5: everything that can keep a request from its handler.
//! The claim itself is in `claiming.rs`.

#![expect(
    clippy::manual_async_fn,
    reason = "an async fn keeps its arguments twice"
)]

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use http::request::Parts;
use http_body::Body;
use http_body_util::LengthLimitError;
use tracing::debug;

use crate::layer::Shared;
use crate::lease::Held;
use crate::message::body::{BoxError, Collected, Whole, announced_length, collect, up_to};
use crate::options::fingerprint::record_id;
use crate::options::key::Key;
use crate::options::route::target;
use crate::options::{KeysPer, Policy};
use crate::record::digest::Digests;
use crate::record::{Completion, RecordId, ScopeDigest};
use crate::rejection::{Rejection, RejectionCode};
use crate::request::operation::{IdempotencyContext, Operation};
use crate::runtime::deadline::Within;
use crate::scope::Caller;
use crate::store::Claim;

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

impl Shared {
    /// 3. Who asks.
    pub(crate) fn caller(&self, policy: &Policy, parts: &Parts) -> Option<Caller> {
        policy.scope.as_ref().unwrap_or(&self.scope).caller(parts)
    }
}

impl Policy {
    /// Which record this key of a scope means.
    pub(crate) fn record_id(
        &self,
        digests: &Digests,
        scope: &ScopeDigest,
        key: &Key,
        parts: &Parts,
    ) -> RecordId {
        let route = match self.keys_per {
            KeysPer::Scope => None,
            KeysPer::Route => Some((&parts.method, target(&parts.uri, &parts.extensions).path())),
        };
        record_id(digests, scope, key, route)
    }
}

impl Operation {
    /// 3. Who asks.
    pub(crate) fn caller(&self, parts: &Parts) -> Result<Caller, Stop> {
        let caller = self.layer.caller(&self.policy, parts);
        caller.ok_or_else(|| Stop::Reject(scope_missing()))
    }

    fn scope(&self, parts: &Parts) -> Result<ScopeDigest, Stop> {
        let caller = self.caller(parts)?;
        Ok(caller.digest(&self.layer.digests, &self.layer.namespace))
    }

    /// 4. A body that announces too much is not asked for.
    fn check_declared_length<B: Body>(&self, parts: &Parts, body: &B) -> Result<(), Stop> {
        let hint = body.size_hint();
        let declared = hint.exact().or_else(|| announced_length(&parts.headers));
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
                Err(Stop::Reject(body_unreadable()))
            }
            None => Err(Stop::Reject(body_timeout())),
        }
    }

    fn too_large(&self) -> Stop {
        Stop::Reject(body_too_large(self.policy.max_request_body))
    }

    pub(crate) fn claim_under(
        &self,
        digests: &Digests,
        scope: ScopeDigest,
        parts: &Parts,
        body: &[u8],
    ) -> Claim {
        let policy = &self.policy;
        let target = target(&parts.uri, &parts.extensions);
        let id = policy.record_id(digests, &scope, &self.key, parts);
        let fingerprint = policy.fingerprint.fingerprint(digests, parts, target, body);
        Claim {
            lease: policy.lease,
            retention: policy.retention,
            on_lapsed_lease: policy.on_lapsed_lease,
            on_mismatch: policy.on_mismatch,
            ..Claim::new(id, scope, fingerprint)
        }
    }
}

pub(crate) fn reject(code: RejectionCode, detail: &'static str) -> Stop {
    Stop::Reject(Rejection::new(code, detail))
}

pub(crate) fn scope_missing() -> Rejection {
    Rejection::new(
        RejectionCode::ScopeMissing,
        "An idempotency key belongs to a caller, and this request does not say who its caller \
         is. Authenticate it as this API documents.",
    )
}

pub(crate) fn body_too_large(limit: usize) -> Rejection {
    Rejection::new(
        RejectionCode::BodyTooLarge,
        format!("A request with an idempotency key may have a body of at most {limit} bytes here."),
    )
}

pub(crate) fn body_timeout() -> Rejection {
    Rejection::new(
        RejectionCode::BodyTimeout,
        "The request's body took too long to arrive. Nothing was executed.",
    )
}

pub(crate) fn body_unreadable() -> Rejection {
    Rejection::new(
        RejectionCode::BodyUnreadable,
        "The request's body broke off before its end. Nothing was executed.",
    )
}

pub(crate) fn in_flight() -> Rejection {
    Rejection::new(
        RejectionCode::InFlight,
        "The first request with this key is still being executed. Send the same request again in \
         a moment to get its answer.",
    )
}

fn is_length_limit(error: &(dyn std::error::Error + 'static)) -> bool {
    std::iter::successors(Some(error), |error| error.source())
        .any(<dyn std::error::Error>::is::<LengthLimitError>)
}
