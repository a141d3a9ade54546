//! Steps 3 and 4: the caller, and the body with its fingerprint. Then the claim.

#![expect(
    clippy::manual_async_fn,
    reason = "see request/mod.rs: an async fn keeps its arguments twice"
)]

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use http::request::Parts;
use http_body::Body;

use crate::limits::Full;
use crate::message::body::{BoxError, FullBody, RequestTrailers, announced_length};
use crate::message::own_head::own_head;
use crate::record::ScopeDigest;
use crate::rejection::Rejection;
use crate::request::claim::Protection;
use crate::request::content::Content;
use crate::request::context::IdempotencyContext;
use crate::request::operation::Operation;
use crate::request::stop::Stop;
use crate::scope::Caller;
use crate::store::Claim;

/// A request that the handler runs for: what protects it, and its body.
pub(crate) struct Admitted<B> {
    pub(crate) protection: Protection,
    pub(crate) body: B,
}

/// Steps 3 to 5: everything that can keep a request from its handler.
pub(crate) fn admit<'a, B>(
    operation: &'a Arc<Operation>,
    parts: &'a mut Parts,
    body: B,
) -> impl Future<Output = Result<Admitted<B>, Stop>> + 'a
where
    B: Body + From<Bytes> + 'a,
    B::Error: Into<BoxError>,
{
    async move {
        // Key, caller and announced length are checked before the body is first
        // polled: a server asks for the body of an `Expect: 100-continue` request
        // at the first poll.
        let scope = operation.scope(parts)?;
        operation.check_announced_length(parts, &body)?;
        if operation.is_protected_further_out(&scope, parts) {
            let protection = Protection::OuterLayer;
            return Ok(Admitted { protection, body });
        }
        // The place is taken before the body is read: a body that never comes holds a place too.
        if let Ok(place) = operation.place() {
            operation.keep_place(place);
        }
        let content = operation.read(parts, body).await?;
        let claim = operation.claim_under(0, scope, parts, &content);
        let protection = match operation.claim(&claim, parts, &content).await {
            Err(Stop::InFlight(lapses_in)) => {
                own_head(parts);
                boxed(operation.wait(&claim, parts, &content, lapses_in)).await?
            }
            claimed => claimed?,
        };
        let FullBody { data, trailers } = match content {
            Content::Whole(body) => body,
            Content::Large(large) => large.0,
            // `claim` claims nothing for a body that was not kept.
            Content::Digested(digested) => return Err(operation.refuse(digested.1)),
        };
        if let Some(trailers) = trailers {
            parts.extensions.insert(RequestTrailers(*trailers));
        }
        let body = B::from(data);
        Ok(Admitted { protection, body })
    }
}

/// A call's arguments leave no trace in the future that awaits the box.
fn boxed<F: Future>(future: F) -> Pin<Box<F>> {
    Box::pin(future)
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

    /// Step 3: from here on, what the request holds counts for its caller.
    fn scope(&self, parts: &Parts) -> Result<ScopeDigest, Stop> {
        let rules = &self.core.rules;
        let caller = self.caller(parts)?;
        let scope = caller.digest(&rules.digests, &rules.namespace);
        let own = (!caller.is_everyone()).then_some(&scope);
        self.holds_for(self.core.accounts.of(own));
        Ok(scope)
    }

    /// Whether the same layer, further out, has begun this operation. From then on nothing may
    /// refuse the request, so this layer neither reads the body nor counts the request again.
    fn is_protected_further_out(&self, scope: &ScopeDigest, parts: &Parts) -> bool {
        let outer = parts.extensions.get::<IdempotencyContext>();
        outer.is_some_and(|outer| {
            let rules = &self.core.rules;
            let (routes, digests) = (&rules.routes, &rules.digests);
            let id = routes.record_id(&self.options, digests, scope, &self.key, parts);
            outer.is_under(&id)
        })
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

    /// The claim of this request, with its record's id and its fingerprint under
    /// one of the layer's secrets: 0 is the current one, and the old ones follow.
    pub(crate) fn claim_under(
        &self,
        secret: usize,
        scope: ScopeDigest,
        parts: &Parts,
        content: &Content,
    ) -> Claim {
        let options = &self.options;
        let digests = self.core.rules.digests_under(secret);
        let routes = &self.core.rules.routes;
        let id = routes.record_id(options, digests, &scope, &self.key, parts);
        let fingerprint = match content {
            Content::Whole(body) => {
                let begun = options
                    .fingerprint
                    .begin(digests, parts, routes.sent(parts));
                options.fingerprint.end(begun, &body.data)
            }
            Content::Large(large) => large.1[secret],
            Content::Digested(digested) => digested.0[secret],
        };
        Claim {
            lease: options.lease,
            retention: options.retention,
            on_lapsed_lease: options.on_lapsed_lease,
            on_mismatch: options.on_mismatch,
            is_everyone: self.account().is_everyone(),
            ..Claim::new(id, scope, fingerprint)
        }
    }

    /// What is full refuses this request.
    pub(super) fn refuse(&self, full: Full) -> Stop {
        self.core.leases.counts.full(full);
        Rejection::full(full).into()
    }
}
