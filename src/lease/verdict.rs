//! What becomes of an operation's record: as it is judged, and as it came out.

use crate::observer::OperationEnd;
use crate::record::Completion;
use crate::store::{Outcome, Release};

/// What the owner of a lease does with the record when the operation ends.
pub(crate) enum Verdict {
    /// Stores the completion, or seals the record.
    Record(Outcome),
    /// Ends the operation without an outcome.
    Release(Release),
    /// Leaves the record in flight until its lease lapses: the operation may
    /// still be running somewhere else.
    LeaveInFlight,
}

impl Verdict {
    /// The completion that is to be stored, if there is one.
    pub(crate) fn completion(&self) -> Option<&Completion> {
        match self {
            Verdict::Record(Outcome::Completed(completion)) => Some(completion),
            _ => None,
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
