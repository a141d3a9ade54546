//! Owning a record, and ways to end that.

use std::any::Any;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

#[cfg(feature = "memory")]
use super::guard::Guard;
use super::{Claim, RecordedStep};
use crate::record::response::RecordedResponse;
use crate::record::{Completion, FencingToken};

/// What a claim that acquired its record holds: the right to end the operation.
#[derive(Clone)]
#[non_exhaustive]
pub struct Lease {
    /// The claim that acquired the record.
    pub claim: Claim,
    /// A number above every token that this record id ever had.
    pub token: FencingToken,
    /// 1 for the first acquisition of this record, 2 for the second, and so on.
    pub attempt: u64,
    /// The steps that earlier attempts recorded, in the order in which they did.
    pub steps: Vec<RecordedStep>,
    guard: Option<SharedGuard>,
}

/// What a [`Lease`] has beside its claim. A claim is large, and stays where it is while the rest goes
/// from step to step.
pub(crate) struct Grant {
    pub(crate) token: FencingToken,
    pub(crate) attempt: u64,
    pub(crate) steps: Vec<RecordedStep>,
    pub(crate) guard: LeaseGuard,
}

/// An object whose life keeps a lease from lapsing.
type SharedGuard = Arc<dyn Any + Send + Sync>;

/// What keeps a lease from lapsing while it lives.
pub(crate) enum LeaseGuard {
    Shared(SharedGuard),
    /// That of a store of this process, which needs no allocation of its own.
    #[cfg(feature = "memory")]
    Counted(Guard),
}

impl LeaseGuard {
    fn shared(self) -> SharedGuard {
        match self {
            Self::Shared(guard) => guard,
            #[cfg(feature = "memory")]
            Self::Counted(guard) => Arc::new(guard),
        }
    }

    /// Drops the guard of an operation that the store knows to have ended.
    pub(crate) fn settle(self) {
        match self {
            Self::Shared(guard) => drop(guard),
            #[cfg(feature = "memory")]
            Self::Counted(guard) => guard.settle(),
        }
    }
}

impl Lease {
    /// The lease that `claim` acquired.
    #[must_use]
    pub fn new(claim: &Claim, token: FencingToken, attempt: u64) -> Self {
        Self {
            claim: claim.clone(),
            token,
            attempt,
            steps: Vec::new(),
            guard: None,
        }
    }

    /// The same lease with the steps that the record has.
    #[must_use]
    pub fn with_steps(mut self, steps: Vec<RecordedStep>) -> Self {
        self.steps = steps;
        self
    }

    /// Ties the lease to the life of `guard`: a store inside this process can
    /// promise that the lease does not lapse while the guard lives. The layer
    /// holds the guard for as long as the operation runs, and does not renew
    /// the lease.
    #[must_use]
    pub fn guarded_by(mut self, guard: Arc<dyn Any + Send + Sync>) -> Self {
        self.guard = Some(guard);
        self
    }

    /// The lease that a claim has acquired from a store that answers at once.
    pub(crate) fn of(claim: Claim, grant: Grant) -> Self {
        let (lease, guard) = grant.lease(claim);
        lease.guarded_by(guard.shared())
    }

    #[cfg(all(test, feature = "memory"))]
    pub(crate) fn without_guard(mut self) -> Self {
        self.guard = None;
        self
    }

    pub(crate) fn is_guarded(&self) -> bool {
        self.guard.is_some()
    }

    /// Takes the guard out. Once the guard is dropped the lease can lapse.
    pub(crate) fn take_guard(&mut self) -> Option<LeaseGuard> {
        self.guard.take().map(LeaseGuard::Shared)
    }
}

impl Grant {
    /// The lease of the claim that has acquired it, and the guard that the lease needs.
    pub(crate) fn lease(self, claim: Claim) -> (Lease, LeaseGuard) {
        let lease = Lease {
            claim,
            token: self.token,
            attempt: self.attempt,
            steps: self.steps,
            guard: None,
        };
        (lease, self.guard)
    }
}

/// Without the nonce: whoever knows the nonce can end the operation.
impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease")
            .field("id", &self.claim.id)
            .field("token", &self.token)
            .field("attempt", &self.attempt)
            .field("steps", &self.steps.len())
            .finish_non_exhaustive()
    }
}

/// How an operation ended.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Outcome {
    /// The operation is done, and its response is recorded for replays.
    Completed(Arc<Completion>),
    /// The operation is done, and its response is not kept. The operation does
    /// not run again before the retention ends.
    Sealed {
        /// For how long the record is kept.
        retention: Duration,
    },
}

impl From<RecordedResponse<'_>> for Outcome {
    fn from(response: RecordedResponse<'_>) -> Self {
        Outcome::Completed(Arc::new(response.completion()))
    }
}

impl Outcome {
    /// The same outcome without its response.
    pub(crate) fn sealed(self) -> Self {
        match self {
            Outcome::Completed(completion) => Outcome::Sealed {
                retention: completion.retention,
            },
            sealed @ Outcome::Sealed { .. } => sealed,
        }
    }
}

/// How an operation ends without an [`Outcome`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Release {
    /// A retry executes the operation again. A tombstone stays, which has the
    /// record's token and attempt.
    MayRunAgain,
    /// Nobody knows whether the operation ran: the record is as if its lease had
    /// lapsed now.
    OutcomeUnknown,
}

/// Whether a nonce owned the record when it renewed, completed or released it.
/// [`Lost`](Self::Lost) is an ordinary result, not an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ownership {
    /// The nonce owned the record, and the store did what was asked.
    Held,
    /// The nonce did not own the record, and the store changed nothing.
    Lost,
}
