//! What observers are told of a request.

use std::time::Duration;

use http::Method;

use crate::observer::{Decision, RequestOutcome, Would};
use crate::options::RouteOptions;
use crate::record::{Completion, RecordId};
use crate::rejection::RejectionCode;
use crate::request::core::Core;
use crate::request::operation::{Operation, ProtectedRequest};
use crate::request::stop::Replay;
use crate::runtime::Instant;

/// A request that observers are told of.
pub(crate) struct Observed {
    began: Instant,
    method: Method,
}

impl Core {
    /// `None` if there is no observer.
    pub(crate) fn observe(&self, method: &Method) -> Option<Observed> {
        self.leases.observers.now().map(|began| Observed {
            began,
            method: method.clone(),
        })
    }

    /// Tells observers of a request that was rejected before its caller was known.
    pub(crate) fn rejected(
        &self,
        observed: Option<&Observed>,
        options: &RouteOptions,
        code: RejectionCode,
    ) {
        self.decided(observed, options, RequestOutcome::Rejected(code), None);
    }

    /// Tells observers what the layer would have done.
    pub(super) fn would(&self, observed: Option<&Observed>, options: &RouteOptions, would: Would) {
        self.decided(observed, options, RequestOutcome::Observed(would), None);
    }

    /// `of` is the operation that the response comes from: its record and its attempt.
    fn decided(
        &self,
        observed: Option<&Observed>,
        options: &RouteOptions,
        outcome: RequestOutcome,
        of: Option<(&RecordId, u64)>,
    ) {
        let Some(observed) = observed else {
            return;
        };
        let (record, attempt) = of.unzip();
        let decision = Decision {
            outcome,
            method: &observed.method,
            route: options.route(),
            duration: observed.began.elapsed(),
            record,
            attempt,
        };
        let observers = &self.leases.observers;
        observers.tell(|observer| observer.decided(&decision));
    }
}

impl ProtectedRequest {
    pub(super) fn decided(&self, outcome: RequestOutcome, of: Option<(&RecordId, u64)>) {
        let observed = self.observed.as_ref();
        self.core.decided(observed, &self.options, outcome, of);
    }

    pub(super) fn replayed(&self, replay: &Replay) {
        if self.observed.is_some() {
            let age = age(&replay.completion);
            let outcome = RequestOutcome::Replayed { age };
            self.decided(outcome, Some((&replay.record, replay.attempt)));
        }
    }
}

impl Operation {
    /// Tells observers of a request whose handler ran under a lease. `rejection` is what the client
    /// is given instead of the handler's response.
    pub(super) fn executed(&self, rejection: Option<RejectionCode>) {
        let Some(state) = self.lease_state().filter(|_| self.observed.is_some()) else {
            return;
        };
        let (lease, end) = (state.lease(), state.ended().map(Into::into));
        let outcome = RequestOutcome::Executed { end, rejection };
        self.decided(outcome, Some((&lease.claim.id, lease.attempt)));
    }
}

/// The time since a response was complete. Zero if the clock was set back since.
fn age(completion: &Completion) -> Duration {
    completion.completed_at.elapsed().unwrap_or_default()
}
