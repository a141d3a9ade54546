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
use crate::lease::LeaseOwner;
use crate::message::body::{BoxError, FullBody, ReadToEnd, announced_length, collect, up_to};
use crate::options::fingerprint::record_id;
use crate::options::key::Key;
use crate::options::route::target;
use crate::options::{KeysPer, RouteOptions};
use crate::record::digest::Digests;
use crate::record::{Completion, RecordId, ScopeDigest};
use crate::rejection::{Rejection, RejectionCode};
use crate::request::operation::{IdempotencyContext, Operation};
use crate::runtime::deadline::Deadline;
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
    pub(crate) under: Protection,
    pub(crate) whole: FullBody,
}

/// What protects it.
pub(crate) enum Protection {
    Own(LeaseOwner),
    /// The same record, claimed by a layer further out.
    OuterLayer,
    /// Nothing: the store is down, and its route prefers to go on.
    None,
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
            Protection::OuterLayer
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
    pub(crate) fn caller(&self, options: &RouteOptions, parts: &Parts) -> Option<Caller> {
        options.scope.as_ref().unwrap_or(&self.scope).caller(parts)
    }
}

impl RouteOptions {
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
        let caller = self.layer.caller(&self.options, parts);
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
        if declared.unwrap_or(0).max(hint.lower()) > self.options.max_request_body as u64 {
            return Err(self.too_large());
        }
        Ok(())
    }

    /// 4. The whole body, within its limits.
    fn read<B>(&self, body: B) -> impl Future<Output = Result<FullBody, Stop>>
    where
        B: Body,
        B::Error: Into<BoxError>,
    {
        async move {
            let mut room = true;
            let collected = {
                let mut share = self.layer.buffered.share();
                let mut fits = up_to(self.options.max_request_body);
                let admit = |bytes| {
                    room = share.take(bytes);
                    room && fits(bytes)
                };
                Deadline::new(self.options.body_timeout, collect(pin!(body), admit)).await
            };
            self.read_whole(collected, room)
        }
    }

    fn read_whole(&self, collected: Option<ReadToEnd>, room: bool) -> Result<FullBody, Stop> {
        match collected {
            Some(ReadToEnd::Full(whole)) => Ok(whole),
            Some(ReadToEnd::OverLimit) if !room => Err(reject(
                RejectionCode::OverCapacity,
                "Too many request bodies are being received at once. Nothing was executed; send \
                 the same request again in a moment.",
            )),
            Some(ReadToEnd::OverLimit) => Err(self.too_large()),
            Some(ReadToEnd::Broken(error)) if is_length_limit(&*error) => Err(reject(
                RejectionCode::BodyTooLarge,
                "The request's body is larger than this API accepts. Nothing was executed.",
            )),
            Some(ReadToEnd::Broken(error)) => {
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
        Stop::Reject(body_too_large(self.options.max_request_body))
    }

    pub(crate) fn claim_under(
        &self,
        digests: &Digests,
        scope: ScopeDigest,
        parts: &Parts,
        body: &[u8],
    ) -> Claim {
        let options = &self.options;
        let target = target(&parts.uri, &parts.extensions);
        let id = options.record_id(digests, &scope, &self.key, parts);
        let fingerprint = options
            .fingerprint
            .fingerprint(digests, parts, target, body);
        Claim {
            lease: options.lease,
            retention: options.retention,
            on_lapsed_lease: options.on_lapsed_lease,
            on_mismatch: options.on_mismatch,
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
