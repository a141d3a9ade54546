//! Steps 3 and 4: the caller, and the body with its fingerprint. Then the claim.

#![expect(
    clippy::manual_async_fn,
    reason = "see request/mod.rs: an async fn keeps its arguments twice"
)]

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;

use http::request::Parts;
use http_body::Body;
use http_body_util::LengthLimitError;
use tracing::debug;

use crate::message::body::{
    BoxError, FullBody, ReadToEnd, Share, announced_length, collect, up_to,
};
use crate::record::ScopeDigest;
use crate::record::digest::Digests;
use crate::rejection::Rejection;
use crate::request::claim::Protection;
use crate::request::context::IdempotencyContext;
use crate::request::operation::Operation;
use crate::request::stop::Stop;
use crate::runtime::deadline::Deadline;
use crate::scope::Caller;
use crate::store::Claim;

/// A request that the handler runs for: what protects it, and its body.
pub(crate) struct Admitted {
    pub(crate) protection: Protection,
    pub(crate) body: FullBody,
}

/// Steps 3 to 5: everything that can keep a request from its handler.
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
        // Key, caller and announced length are checked before the body is first
        // polled: a server asks for the body of an `Expect: 100-continue` request
        // at the first poll.
        let scope = operation.scope(parts)?;
        operation.check_announced_length(parts, &body)?;
        // The share of `max_buffered_bytes` is held until the claim is decided: a
        // request that waits for another keeps its body as long.
        let mut share = operation.core.body_budget.share();
        let promised = body.size_hint().exact();
        let body = operation.read(body, &mut share).await?;
        // hyper ends a body of HTTP/2 without an error when the client resets the stream with `NO_ERROR`.
        if promised.is_some_and(|length| length > body.data.len() as u64) {
            return Err(Rejection::body_unreadable().into());
        }
        let digests = &operation.core.rules.digests;
        let claim = operation.claim_under(digests, scope, parts, &body.data);
        let outer = parts.extensions.get::<IdempotencyContext>();
        let protection = if outer.is_some_and(|outer| outer.is_under(&claim.id)) {
            Protection::OuterLayer
        } else {
            match operation.claim(&claim, parts, &body.data).await {
                Err(Stop::InFlight(lapses_in)) => {
                    let waited = operation.wait(&claim, parts, &body.data, lapses_in);
                    Box::pin(waited).await?
                }
                claimed => claimed?,
            }
        };
        Ok(Admitted { protection, body })
    }
}

impl Operation {
    /// Step 3.
    pub(crate) fn caller(&self, parts: &Parts) -> Result<Caller, Stop> {
        let rules = &self.core.rules;
        rules.caller(&self.options, parts).ok_or_else(|| {
            rules.warn_of_mistake(&self.options, parts);
            Rejection::scope_missing().into()
        })
    }

    fn scope(&self, parts: &Parts) -> Result<ScopeDigest, Stop> {
        let rules = &self.core.rules;
        let caller = self.caller(parts)?;
        let scope = caller.digest(&rules.digests, &rules.namespace);
        let shared = caller.is_everyone();
        self.holds_for(self.core.limits.account((!shared).then_some(&scope)));
        Ok(scope)
    }

    /// Step 4: a body that announces too much is not asked for.
    fn check_announced_length<B: Body>(&self, parts: &Parts, body: &B) -> Result<(), Stop> {
        let hint = body.size_hint();
        let announced = hint.exact().or_else(|| announced_length(&parts.headers));
        if announced.unwrap_or(0).max(hint.lower()) > self.options.max_request_body as u64 {
            return Err(self.body_too_large());
        }
        Ok(())
    }

    /// Step 4: the whole body, within `max_request_body`, `body_timeout` and
    /// `max_buffered_bytes`.
    fn read<B>(
        &self,
        body: B,
        share: &mut Share<'_>,
    ) -> impl Future<Output = Result<FullBody, Stop>>
    where
        B: Body,
        B::Error: Into<BoxError>,
    {
        async move {
            let mut room = true;
            let read = {
                let mut fits = up_to(self.options.max_request_body);
                let admit = |bytes| {
                    room = share.take(bytes);
                    room && fits(bytes)
                };
                Deadline::new(self.options.body_timeout, collect(pin!(body), admit)).await
            };
            self.full_body(read, room)
        }
    }

    fn full_body(&self, read: Option<ReadToEnd>, room: bool) -> Result<FullBody, Stop> {
        match read {
            Some(ReadToEnd::Full(body)) => Ok(body),
            Some(ReadToEnd::OverLimit) if !room => Err(Rejection::too_many_bodies().into()),
            Some(ReadToEnd::OverLimit) => Err(self.body_too_large()),
            Some(ReadToEnd::Broken(error)) if is_length_limit(&*error) => {
                Err(Rejection::body_too_large_elsewhere().into())
            }
            Some(ReadToEnd::Broken(error)) => {
                let error: &dyn std::error::Error = &*error;
                debug!(error, "a request's body broke off");
                Err(Rejection::body_unreadable().into())
            }
            None => Err(Rejection::body_timeout().into()),
        }
    }

    fn body_too_large(&self) -> Stop {
        Rejection::body_too_large(self.options.max_request_body).into()
    }

    /// The claim of this request, with its record's id and its fingerprint under
    /// one of the layer's secrets.
    pub(crate) fn claim_under(
        &self,
        digests: &Digests,
        scope: ScopeDigest,
        parts: &Parts,
        body: &[u8],
    ) -> Claim {
        let options = &self.options;
        let (sent, meant) = self.core.rules.routes.target(parts);
        let id = options.record_id(digests, &scope, &self.key, &parts.method, meant);
        let fingerprint = options.fingerprint.fingerprint(digests, parts, sent, body);
        Claim {
            lease: options.lease,
            retention: options.retention,
            on_lapsed_lease: options.on_lapsed_lease,
            on_mismatch: options.on_mismatch,
            ..Claim::new(id, scope, fingerprint)
        }
    }
}

/// Whether a body limit outside the layer ended the body.
fn is_length_limit(error: &(dyn std::error::Error + 'static)) -> bool {
    std::iter::successors(Some(error), |error| error.source())
        .any(<dyn std::error::Error>::is::<LengthLimitError>)
}
