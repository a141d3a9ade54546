//! What observers are told of a request, and what its span says.

use std::sync::Arc;
use std::time::Duration;

use http::request::Parts;
use http::{HeaderName, Method};
use tracing::field::{Empty, display};
use tracing::{Span, info_span};

use crate::observer::{Decision, RequestOutcome, Would};
use crate::options::RouteOptions;
use crate::record::{Completion, RecordId, TraceContext};
use crate::rejection::RejectionCode;
use crate::request::core::Core;
use crate::request::operation::{Operation, ProtectedRequest};
use crate::request::stop::Replay;
use crate::runtime::Instant;

/// A static name, since to read a name from its letters takes longer than the look-up.
static TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// A request that observers are told of.
pub(crate) struct Observed {
    began: Instant,
    method: Method,
    pattern: Option<Arc<str>>,
}

/// The operation that a response comes from.
pub(super) struct Source<'a> {
    record: &'a RecordId,
    attempt: u64,
    trace: Option<&'a TraceContext>,
}

impl Core {
    /// `None` if there is no observer.
    ///
    /// The box keeps the future of a request without an observer small.
    pub(crate) fn observe(&self, options: &RouteOptions, head: &Parts) -> Option<Box<Observed>> {
        let observed = |began| Observed {
            began,
            method: head.method.clone(),
            pattern: self.rules.routes.pattern(options, head),
        };
        self.leases.observers.now().map(observed).map(Box::new)
    }

    /// The span of a protected request. It costs one comparison where no subscriber wants it.
    pub(crate) fn span(&self, options: &RouteOptions, head: &Parts) -> Span {
        let span = info_span!(
            "idempotency",
            http.request.method = %head.method,
            http.route = Empty,
            idempotency.outcome = Empty,
            idempotency.code = Empty,
            idempotency.end = Empty,
            idempotency.attempt = Empty,
            idempotency.record = Empty,
            idempotency.replay.age = Empty,
            idempotency.execution = Empty,
        );
        if !span.is_disabled()
            && let Some(pattern) = self.rules.routes.pattern(options, head)
        {
            span.record("http.route", path_of(&pattern));
        }
        span
    }

    /// Tells observers of a request that was rejected before its caller was known.
    #[cold]
    pub(crate) fn rejected(
        &self,
        options: &RouteOptions,
        head: &Parts,
        span: &Span,
        code: RejectionCode,
    ) {
        let observed = self.observe(options, head);
        self.decided(
            observed.as_deref(),
            span,
            RequestOutcome::Rejected(code),
            None,
        );
    }

    /// Tells observers what the layer would have done.
    pub(super) fn would(&self, observed: Option<&Observed>, would: Would) {
        let outcome = RequestOutcome::Observed(would);
        self.decided(observed, &Span::none(), outcome, None);
    }

    fn decided(
        &self,
        observed: Option<&Observed>,
        span: &Span,
        outcome: RequestOutcome,
        of: Option<&Source<'_>>,
    ) {
        if !span.is_disabled() {
            record(span, outcome, of);
        }
        let Some(observed) = observed else {
            return;
        };
        let decision = Decision {
            outcome,
            method: &observed.method,
            route: observed.pattern.as_deref().map(path_of),
            duration: observed.began.elapsed(),
            record: of.map(|of| of.record),
            attempt: of.map(|of| of.attempt),
            trace: of.and_then(|of| of.trace),
        };
        let observers = &self.leases.observers;
        observers.tell(|observer| observer.decided(&decision));
    }
}

impl ProtectedRequest {
    pub(super) fn decided(&self, outcome: RequestOutcome, of: Option<&Source<'_>>) {
        let observed = self.observed.as_deref();
        self.core.decided(observed, &self.span, outcome, of);
    }

    fn is_observed(&self) -> bool {
        self.observed.is_some() || !self.span.is_disabled()
    }

    pub(super) fn replayed(&self, replay: &Replay) {
        if self.is_observed() {
            let age = age(&replay.completion);
            let source = Source {
                record: &replay.record,
                attempt: replay.attempt,
                trace: replay.trace.as_ref(),
            };
            self.decided(RequestOutcome::Replayed { age }, Some(&source));
        }
    }
}

impl Operation {
    /// Tells observers of a request whose handler ran under a lease. `rejection` is what the client
    /// is given instead of the handler's response.
    pub(super) fn executed(&self, rejection: Option<RejectionCode>) {
        let Some(state) = self.lease_state().filter(|_| self.is_observed()) else {
            return;
        };
        let (lease, end) = (state.lease(), state.ended().map(Into::into));
        let source = Source {
            record: &lease.claim.id,
            attempt: lease.attempt,
            trace: lease.claim.origin.trace.as_ref(),
        };
        let outcome = RequestOutcome::Executed { end, rejection };
        self.decided(outcome, Some(&source));
    }
}

/// Writes the outcome into the span.
#[cold]
fn record(span: &Span, outcome: RequestOutcome, of: Option<&Source<'_>>) {
    span.record("idempotency.outcome", outcome.as_str());
    if let Some(code) = outcome.rejection() {
        span.record("idempotency.code", code.as_str());
    }
    match outcome {
        RequestOutcome::Executed { end: Some(end), .. } => {
            span.record("idempotency.end", end.as_str());
        }
        RequestOutcome::Replayed { age } => {
            span.record("idempotency.replay.age", age.as_secs_f64());
        }
        _ => {}
    }
    if let Some(of) = of {
        span.record("idempotency.attempt", of.attempt);
        span.record("idempotency.record", display(of.record));
        let is_replay = matches!(outcome, RequestOutcome::Replayed { .. });
        if let Some(trace) = of.trace.filter(|_| is_replay) {
            span.record("idempotency.execution", display(trace));
        }
    }
}

/// The path of a pattern, which may name a method before it.
fn path_of(pattern: &str) -> &str {
    let path = pattern.split_once(' ').map(|(_, path)| path.trim());
    path.unwrap_or(pattern)
}

/// The span that a request runs in: the one that its client names in `traceparent` (W3C Trace
/// Context), unless the process has a span of its own.
pub(super) fn trace(head: &Parts) -> Option<TraceContext> {
    #[cfg(feature = "opentelemetry")]
    if let Some(trace) = crate::observer::active_span() {
        return Some(trace);
    }
    let mut values = head.headers.get_all(&TRACEPARENT).iter();
    let value = values.next()?;
    // A request that names two is in neither.
    if values.next().is_some() {
        return None;
    }
    value.to_str().ok()?.parse().ok()
}

/// The time since a response was complete. Zero if the clock was set back since.
fn age(completion: &Completion) -> Duration {
    completion.completed_at.elapsed().unwrap_or_default()
}
