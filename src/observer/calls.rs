//! Calls of the store, as observers are told of them.

use std::time::Duration;

use crate::store::{
    Claimed, Forgotten, Ownership, Record, RecordPage, StoreError, StoreErrorKind, Subscription,
};

/// One call of the store.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct StoreCall {
    /// What the store was asked to do.
    pub operation: StoreOperation,
    /// What it answered.
    pub result: StoreResult,
    /// How long the call took.
    pub duration: Duration,
}

/// The operations of a [`Store`](crate::store::Store).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StoreOperation {
    /// To make a record in flight, or to return the one that is there.
    Claim,
    /// To renew a lease.
    Renew,
    /// To renew the lease of an operation that is only observed
    /// ([`Mode::Observe`](crate::options::Mode::Observe)), which runs as it would without one.
    RenewObserved,
    /// To end an operation with an outcome.
    Complete,
    /// To end an operation without an outcome.
    Release,
    /// To add the result of a step to a record.
    RecordStep,
    /// To return a record.
    LookUp,
    /// To remove a record.
    Forget,
    /// To say when a record changes.
    Subscribe,
    /// To return one page of records.
    List,
}

impl StoreOperation {
    pub(crate) const ALL: [Self; 10] = [
        Self::Claim,
        Self::Renew,
        Self::RenewObserved,
        Self::Complete,
        Self::Release,
        Self::RecordStep,
        Self::LookUp,
        Self::Forget,
        Self::Subscribe,
        Self::List,
    ];

    /// What a store can answer to this operation.
    pub(crate) fn results(self) -> impl Iterator<Item = StoreResult> {
        use StoreResult as Is;
        let own: &[Is] = match self {
            Self::Claim => &[Is::Acquired, Is::Found, Is::OverCapacity, Is::OverShare],
            Self::Renew
            | Self::RenewObserved
            | Self::Complete
            | Self::Release
            | Self::RecordStep => &[Is::Held, Is::Lost],
            Self::LookUp => &[Is::Found, Is::Absent],
            Self::Forget => &[Is::Gone, Is::Absent, Is::InFlight, Is::Moved],
            Self::Subscribe => &[Is::Subscribed],
            Self::List => &[Is::Listed],
        };
        let failed = StoreErrorKind::ALL
            .into_iter()
            .filter(move |kind| match kind {
                StoreErrorKind::TooLarge => matches!(self, Self::Complete | Self::RecordStep),
                StoreErrorKind::InvalidCursor => self == Self::List,
                _ => true,
            });
        let own = own.iter().copied().chain([Is::TimedOut]);
        own.chain(failed.map(Is::Failed))
    }

    /// The word of this operation in metrics, such as `look_up`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Claim => "claim",
            Self::Renew => "renew",
            Self::RenewObserved => "renew_observed",
            Self::Complete => "complete",
            Self::Release => "release",
            Self::RecordStep => "record_step",
            Self::LookUp => "look_up",
            Self::Forget => "forget",
            Self::Subscribe => "subscribe",
            Self::List => "list",
        }
    }
}

/// What a store answered to a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StoreResult {
    /// The claim has acquired the record.
    Acquired,
    /// There is such a record.
    Found,
    /// There is no such record.
    Absent,
    /// The store has no room for another record.
    OverCapacity,
    /// The caller's share of the store is used up.
    OverShare,
    /// The owner still held the record.
    Held,
    /// Another owner has taken the record over.
    Lost,
    /// The record is gone.
    Gone,
    /// The record is in flight, and its owner is alive.
    InFlight,
    /// The record has moved on since an operator saw it.
    Moved,
    /// The subscription is made.
    Subscribed,
    /// There is a page of records, which may be empty.
    Listed,
    /// The store has not answered within `store_timeout`.
    TimedOut,
    /// The call has failed.
    Failed(StoreErrorKind),
}

impl StoreResult {
    /// The word of this result in metrics, such as `acquired` or `not_sent`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Acquired => "acquired",
            Self::Found => "found",
            Self::Absent => "absent",
            Self::OverCapacity => "over_capacity",
            Self::OverShare => "over_share",
            Self::Held => "held",
            Self::Lost => "lost",
            Self::Gone => "gone",
            Self::InFlight => "in_flight",
            Self::Moved => "moved",
            Self::Subscribed => "subscribed",
            Self::Listed => "listed",
            Self::TimedOut => "timed_out",
            Self::Failed(kind) => match kind {
                StoreErrorKind::NotSent => "not_sent",
                StoreErrorKind::Unknown => "unknown",
                StoreErrorKind::Contention => "contention",
                StoreErrorKind::Refused => "refused",
                StoreErrorKind::TooLarge => "too_large",
                StoreErrorKind::Unreadable => "unreadable",
                StoreErrorKind::Unsupported => "unsupported",
                StoreErrorKind::InvalidCursor => "invalid_cursor",
            },
        }
    }

    /// Whether the call has failed or timed out.
    #[must_use]
    pub const fn is_error(self) -> bool {
        matches!(self, Self::TimedOut | Self::Failed(_))
    }
}

/// The answer of a store to one of its operations.
pub(crate) trait Answer {
    fn result(&self) -> StoreResult;
}

impl<T: Answer> Answer for Result<T, StoreError> {
    fn result(&self) -> StoreResult {
        match self {
            Ok(answer) => answer.result(),
            Err(error) => StoreResult::Failed(error.kind()),
        }
    }
}

impl Answer for Claimed {
    fn result(&self) -> StoreResult {
        match self {
            Claimed::Acquired(_) => StoreResult::Acquired,
            Claimed::Found(_) => StoreResult::Found,
            Claimed::OverCapacity => StoreResult::OverCapacity,
            Claimed::OverShare => StoreResult::OverShare,
        }
    }
}

impl Answer for Ownership {
    fn result(&self) -> StoreResult {
        match self {
            Ownership::Held => StoreResult::Held,
            Ownership::Lost => StoreResult::Lost,
        }
    }
}

impl Answer for Option<Record> {
    fn result(&self) -> StoreResult {
        match self {
            Some(_) => StoreResult::Found,
            None => StoreResult::Absent,
        }
    }
}

impl Answer for Forgotten {
    fn result(&self) -> StoreResult {
        match self {
            Forgotten::Gone => StoreResult::Gone,
            Forgotten::Absent => StoreResult::Absent,
            Forgotten::InFlight => StoreResult::InFlight,
            Forgotten::Moved => StoreResult::Moved,
        }
    }
}

impl Answer for RecordPage {
    fn result(&self) -> StoreResult {
        StoreResult::Listed
    }
}

impl Answer for Subscription {
    fn result(&self) -> StoreResult {
        StoreResult::Subscribed
    }
}
