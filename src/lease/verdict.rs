//! What becomes of an operation's record: as it is judged, and as it came out.

use std::time::SystemTime;

use crate::observer::OperationEnd;
use crate::record::response::RecordedResponse;
use crate::store::{Outcome, Release};

/// What the owner of a lease does with the record when the operation ends.
pub(crate) enum Verdict<'a> {
    /// Stores the completion of a response that is there as a whole.
    RecordResponse(RecordedResponse<'a>),
    /// Stores the completion, or seals the record.
    Record(Outcome),
    /// Ends the operation without an outcome.
    Release(Release),
    /// Leaves the record in flight until its lease lapses: the operation may
    /// still be running somewhere else.
    LeaveInFlight,
}

impl Verdict<'_> {
    /// Until when the completion is kept, if one is stored.
    pub(crate) fn kept_until(&self) -> Option<SystemTime> {
        match self {
            Verdict::RecordResponse(response) => response.kept_until(),
            Verdict::Record(Outcome::Completed(completion)) => completion.kept_until(),
            _ => None,
        }
    }

    /// The same verdict with a copy of what it borrows.
    pub(crate) fn into_owned(self) -> Verdict<'static> {
        match self {
            Verdict::RecordResponse(response) => Verdict::Record(response.into()),
            Verdict::Record(outcome) => Verdict::Record(outcome),
            Verdict::Release(how) => Verdict::Release(how),
            Verdict::LeaveInFlight => Verdict::LeaveInFlight,
        }
    }
}

/// What became of the record when the owner carried the verdict out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// The store holds the completion.
    Recorded,
    /// The store holds that the operation is done, without its response.
    Sealed,
    /// A retry executes the operation again.
    Released,
    /// Nobody knows how the operation ended, and its record waits to be resolved.
    OutcomeUnknown,
    /// The record stays in flight until its lease lapses.
    LeftInFlight,
    /// Another owner has taken over: nothing of this owner is stored.
    Overtaken,
    /// The store did not answer in time. A background task tries again.
    Pending,
}

impl From<&Outcome> for Ended {
    /// What an outcome comes to once the store has it.
    fn from(outcome: &Outcome) -> Self {
        match outcome {
            Outcome::Completed(_) => Ended::Recorded,
            Outcome::Sealed { .. } => Ended::Sealed,
        }
    }
}

impl From<Ended> for OperationEnd {
    fn from(ended: Ended) -> Self {
        match ended {
            Ended::Recorded => Self::Recorded,
            Ended::Sealed => Self::Sealed,
            Ended::Released => Self::Released,
            Ended::OutcomeUnknown => Self::OutcomeUnknown,
            Ended::LeftInFlight => Self::InDoubt,
            Ended::Overtaken => Self::Overtaken,
            Ended::Pending => Self::Unrecorded,
        }
    }
}
