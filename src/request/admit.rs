//! Step 5, from the fingerprint to what protects the request. What the store answers at once is
//! decided without an operation; the rest is a future of its own.

use std::cell::OnceCell;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use http::request::Parts;
use http_body::Body;

use crate::limits::{Full, Holding};
use crate::message::body::{BodyBuffer, BoxError, FullBody};
use crate::message::own_head::own_head;
use crate::options::OnInFlight;
use crate::record::{Fingerprint, Origin, ScopeDigest};
use crate::rejection::Rejection;
use crate::request::claim::Protection;
use crate::request::content::Content;
use crate::request::context::IdempotencyContext;
use crate::request::observed::trace;
use crate::request::operation::{Operation, ProtectedRequest};
use crate::request::retry::{LONG, Retry, RetryHead, is_fitted};
use crate::request::stop::{Replay, Stop};
use crate::runtime::deadline::Deadline;
use crate::store::{Claim, Grant};

/// A request that the handler runs for: what protects it, and its body.
pub(crate) struct Admitted {
    pub(crate) protection: Protection,
    pub(crate) body: FullBody,
}

/// How a request with this body goes on.
pub(super) enum Decision {
    /// The handler runs under the lease that this claim has acquired, in this place among those in
    /// flight.
    Acquired(Claim, Grant, Holding, FullBody),
    /// More is to be done than to ask a store that answers at once. The claim is there unless the
    /// body takes long to be digested.
    TakesTime(Option<Claim>, FullBody),
}

/// The future of a request whose admission takes time. It gives the head of the request back.
pub(crate) type Admission =
    Pin<Box<dyn Future<Output = (Box<Parts>, Result<Admitted, Stop>)> + Send>>;

impl ProtectedRequest {
    /// Whether the same layer, further out, has begun this operation. From then on nothing may
    /// refuse the request, so this layer neither reads the body nor counts the request again.
    pub(crate) fn is_protected_further_out(&self, parts: &Parts) -> bool {
        let outer = parts.extensions.get::<IdempotencyContext>();
        outer.is_some_and(|outer| {
            let rules = &self.core.rules;
            let (options, digests) = (&self.options, &rules.digests);
            let id = rules
                .routes
                .record_id(options, digests, &self.scope, &self.key, parts);
            outer.is_under(&id)
        })
    }

    /// Whether the layer further out is a clone of this one, rather than another layer with limits of
    /// its own.
    pub(crate) fn has_clone_further_out(&self, parts: &Parts) -> bool {
        let outer = parts.extensions.get::<IdempotencyContext>();
        outer.is_some_and(|outer| outer.is_of(&self.core))
    }

    /// The fingerprint of this request under one of the layer's secrets.
    pub(super) fn fingerprint(&self, secret: usize, parts: &Parts, body: &[u8]) -> Fingerprint {
        let rules = &self.core.rules;
        let digests = rules.digests_under(secret);
        let fingerprint = &self.options.fingerprint;
        let begun = fingerprint.begin(digests, parts, rules.routes.sent(parts));
        fingerprint.end(begun, body)
    }

    /// The claim of this request, with its record's id under one of the layer's secrets: 0 is the
    /// current one, and the old ones follow. The claim has no [origin](Self::origin) yet: a claim that
    /// finds a completion needs none.
    pub(super) fn claim_under(
        &self,
        secret: usize,
        scope: ScopeDigest,
        parts: &Parts,
        fingerprint: Fingerprint,
    ) -> Claim {
        let (rules, options) = (&self.core.rules, &self.options);
        let digests = rules.digests_under(secret);
        let routes = &rules.routes;
        let id = routes.record_id(options, digests, &scope, &self.key, parts);
        Claim {
            lease: options.lease,
            retention: options.retention,
            on_lapsed_lease: options.on_lapsed_lease,
            on_mismatch: options.on_mismatch,
            is_everyone: self.account().is_everyone(),
            ..Claim::new(id, scope, fingerprint)
        }
    }

    /// Where the execution of this request comes from.
    pub(super) fn origin(&self, parts: &Parts) -> Origin {
        let mut origin = Origin::none();
        origin.route = self.core.rules.routes.pattern(&self.options, parts);
        origin.trace = trace(parts);
        origin
    }

    /// Step 5, as far as it takes no time: a store that answers at once is asked. `place` is the
    /// request's place among those in flight.
    pub(super) fn decide_at_once(
        &self,
        parts: &Parts,
        body: BodyBuffer,
        place: &mut Option<Holding>,
    ) -> Result<Decision, Stop> {
        let data = body.as_slice();
        if self.options.fingerprint.takes_long(parts, data.len()) {
            return Ok(Decision::TakesTime(None, body.alone()));
        }
        let fingerprint = self.fingerprint(0, parts, data);
        let mut claim = self.claim_under(0, self.scope, parts, fingerprint);
        let origin = OnceCell::new();
        let of_request = || origin.get_or_init(|| self.origin(parts));
        if self.core.rules.old_digests.is_empty()
            && let Ok(taken) = self.may_begin(place.take())
        {
            match self.core.leases.store.claim_at_once(&claim, &of_request) {
                None => *place = Some(taken),
                Some(Ok(mut grant)) => {
                    // Most have none, and stay where they are.
                    if !grant.steps.is_empty() {
                        grant = self.check_steps(&claim, grant, |grant| &grant.steps)?;
                    }
                    claim.origin = origin.into_inner().unwrap_or_else(|| self.origin(parts));
                    return Ok(Decision::Acquired(claim, grant, taken, body.alone()));
                }
                Some(Err(claimed)) => match self.decide(&claim, Ok(claimed), true) {
                    Err(Stop::InFlight(_))
                        if matches!(self.options.on_in_flight, OnInFlight::Wait(_)) => {}
                    // Nothing was acquired: that is another answer.
                    Ok(_) => {}
                    Err(Stop::Replay(replay)) if is_fitted(&self.options) => {
                        if replay.completion.body.len() + data.len() <= LONG {
                            let options = &self.options;
                            return Err(RetryHead::of(parts).fit(options, replay, data));
                        }
                    }
                    Err(stop) => return Err(stop),
                },
            }
        }
        claim.origin = self.origin(parts);
        Ok(Decision::TakesTime(Some(claim), body.alone()))
    }

    /// What is full refuses this request.
    pub(super) fn refuse(&self, full: Full) -> Stop {
        self.limits().refuse(full).into()
    }
}

impl Operation {
    /// Step 5, as long as it takes. `claim` is `None` for a body that takes long to be digested.
    pub(super) fn admit(
        self: &Arc<Self>,
        parts: Parts,
        body: FullBody,
        claim: Option<Claim>,
        place: Option<Holding>,
    ) -> Admission {
        let (operation, parts) = (Arc::clone(self), Box::new(parts));
        Box::pin(async move {
            let content = match claim {
                Some(_) => Content::Whole(body),
                None => operation.digest_aside(&parts, body).await,
            };
            operation.protect(parts, content, claim, place).await
        })
    }

    /// Steps 4 and 5 of a body that there is no room for.
    pub(super) fn admit_digested<B>(
        self: &Arc<Self>,
        parts: Parts,
        body: B,
        full: Full,
        place: Option<Holding>,
    ) -> Admission
    where
        B: Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<BoxError>,
    {
        let (operation, mut parts) = (Arc::clone(self), Box::new(parts));
        Box::pin(async move {
            let digested = operation.digest(&mut parts, body, full);
            let digested = Deadline::new(operation.options.body_timeout, digested).await;
            match digested.unwrap_or_else(|| Err(Rejection::body_timeout().into())) {
                Ok(content) => operation.protect(parts, content, None, place).await,
                Err(stop) => (parts, Err(stop)),
            }
        })
    }

    async fn protect(
        self: &Arc<Self>,
        mut parts: Box<Parts>,
        content: Content,
        claim: Option<Claim>,
        place: Option<Holding>,
    ) -> (Box<Parts>, Result<Admitted, Stop>) {
        let claim = claim.unwrap_or_else(|| {
            let fingerprint = content.fingerprint(self, 0, &parts);
            let mut claim = self.claim_under(0, self.scope, &parts, fingerprint);
            claim.origin = self.origin(&parts);
            claim
        });
        let protection = match self.claim(&claim, &parts, &content, place).await {
            Err(Stop::InFlight(lapses_in)) => {
                own_head(&mut parts);
                self.wait(&claim, &parts, &content, lapses_in).await
            }
            claimed => claimed,
        };
        let protection = match protection {
            Err(Stop::Replay(replay)) if is_fitted(&self.options) => {
                let asked = Retry {
                    head: RetryHead::of(&parts),
                    body: content.kept(),
                };
                Err(Box::pin(self.fit_aside(replay, asked)).await)
            }
            protection => protection,
        };
        let admitted = protection.and_then(|protection| match content {
            Content::Whole(body) => Ok(Admitted { protection, body }),
            Content::Large(large) => Ok(Admitted {
                protection,
                body: large.0,
            }),
            // `claim` claims nothing for a body that was not kept.
            Content::Digested(digested) => Err(self.refuse(digested.1)),
        });
        (parts, admitted)
    }
}

impl Operation {
    /// Fits a replay to the retry on another thread, if there is much to search, so that no other
    /// request waits.
    pub(super) async fn fit_aside(&self, replay: Replay, asked: Retry) -> Stop {
        let Retry { head, body } = asked;
        let length = replay.completion.body.len() + body.len();
        let fit = {
            let options = Arc::clone(&self.options);
            move || head.fit(&options, replay, &body)
        };
        if length <= LONG {
            return fit();
        }
        let caller = self.account().caller();
        let done = self.core.turns.run(caller, fit.clone()).await;
        // Without a thread for it, the work holds up this one.
        done.unwrap_or_else(fit)
    }
}
