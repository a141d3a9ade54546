//! Recording a step under the operation's lease.

use std::time::Duration;

use crate::lease::{LeaseState, TimedStore};
use crate::request::operation::Operation;
use crate::request::steps::error::{StepFault, StepFaultKind};
use crate::request::steps::log::{Begun, OpenStep, StepLimits, packed};
use crate::runtime::{Instant, sleep};
use crate::store::{Lease, Ownership, RecordedStep, StoreError, StoreErrorKind};

/// How long to wait before a call is repeated, and the shortest time that a call is given.
const PAUSE: Duration = Duration::from_millis(20);

impl Operation {
    pub(crate) fn step_limits(&self) -> StepLimits {
        StepLimits {
            count: self.options.max_steps,
            each: self.options.max_step_bytes,
            bytes: self.options.max_steps_bytes,
        }
    }

    /// Begins a step of this name, or returns the result that an earlier attempt recorded.
    pub(crate) fn begin_step<'a>(&'a self, name: &'a str) -> Result<Begun<'a>, StepFault> {
        let kind = if !self.options.steps {
            StepFaultKind::Off
        } else if self.is_lost() {
            StepFaultKind::Lost
        } else if self.is_committed() {
            StepFaultKind::Ended
        } else {
            match self.steps.begin(name, self.step_limits()) {
                Ok(begun) => return Ok(begun),
                Err(kind) => kind,
            }
        };
        Err(StepFault::before(kind))
    }

    /// Records the result of a step that has run.
    pub(crate) async fn record_step(
        &self,
        mut step: OpenStep<'_>,
        name: &str,
        json: Vec<u8>,
    ) -> Result<(), StepFault> {
        let lease = self.lease();
        let size = name.len() + json.len();
        let kept = step.keep(size, self.step_limits());
        kept.map_err(StepFault::after)?;
        let recorded = RecordedStep::new(name, packed(json, &lease.claim.fingerprint));
        match record(&self.core.leases.store, lease, &recorded).await {
            Ok(Ownership::Held) => Ok(()),
            Ok(Ownership::Lost) => Err(StepFault::after(self.why_lost())),
            Err(error) => Err(StepFault::store(error)),
        }
    }

    /// Whether the handler has committed its claim.
    fn is_committed(&self) -> bool {
        self.lease_state()
            .is_some_and(LeaseState::is_completed_elsewhere)
    }

    /// Why the store found that the operation's nonce does not own the record: this attempt has ended
    /// the operation itself, or another one has taken over.
    pub(crate) fn why_lost(&self) -> StepFaultKind {
        if self.steps.is_closed() || self.is_committed() {
            return StepFaultKind::Ended;
        }
        if let Some(state) = self.lease_state() {
            state.lose();
        }
        StepFaultKind::Lost
    }
}

/// Asks the store again within `store_timeout` if it may not have recorded the step: a call under the
/// same name and nonce adds nothing to one that it has recorded.
async fn record(
    store: &TimedStore,
    lease: &Lease,
    step: &RecordedStep,
) -> Result<Ownership, StoreError> {
    let asked = Instant::now();
    loop {
        let left = store.timeout().saturating_sub(asked.elapsed());
        // Half of the time, so that there is time for another call after one that is lost.
        let limit = (left / 2).max(PAUSE);
        let error = match store.record_step_within(limit, lease, step).await {
            Ok(ownership) => return Ok(ownership),
            Err(error) => error,
        };
        let may_succeed = [
            StoreErrorKind::NotSent,
            StoreErrorKind::Unknown,
            StoreErrorKind::Contention,
        ];
        let over = asked.elapsed() + PAUSE >= store.timeout();
        if over || !may_succeed.contains(&error.kind()) {
            return Err(error);
        }
        sleep(PAUSE).await;
    }
}
