//! Records, as a claim or a look-up finds them.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::{RecordVersion, StoreError, StoreErrorKind};
use crate::record::{Completion, FencingToken, Fingerprint, Origin, ScopeDigest};

/// The state of a record.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum RecordState {
    /// An owner executes the operation.
    InFlight {
        /// The fingerprint of the request that the owner executes.
        fingerprint: Fingerprint,
        /// The time from now until the lease lapses, unless it is renewed.
        ///
        /// [`Duration::MAX`]: the lease does not lapse by time. Its owner lives
        /// in this process, and if the owner vanishes, that resolves the
        /// record's [subscriptions](crate::store::Store::subscribe).
        lapses_in: Duration,
    },
    /// An owner began the operation, and its lease lapsed or it
    /// [released](super::Release::OutcomeUnknown) the record as unknown.
    Lapsed {
        /// The fingerprint of the request that the owner executed.
        fingerprint: Fingerprint,
    },
    /// The operation is done, and its response is recorded.
    Completed {
        /// The fingerprint of the request.
        fingerprint: Fingerprint,
        /// The recorded response.
        completion: Arc<Completion>,
    },
    /// The operation is done, and its response was not kept.
    Sealed {
        /// The fingerprint of the request.
        fingerprint: Fingerprint,
    },
    /// The operation may run again. Only a look-up and a claim
    /// [by hand](super::Claim::by_hand) find this state: any other claim
    /// acquires the record.
    Released,
}

/// A record that a claim or a look-up found.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Record {
    /// The token of the last claim that acquired the record.
    pub token: FencingToken,
    /// The attempt of the last claim that acquired the record.
    pub attempt: u64,
    /// The state of the record.
    pub state: RecordState,
    /// The caller, if the store keeps that. `None` in a record of an earlier version.
    pub scope: Option<ScopeDigest>,
    /// Where the last attempt came from.
    pub origin: Origin,
    /// When the last claim acquired the record, by the store's clock, if the store keeps that.
    pub claimed_at: Option<SystemTime>,
}

impl Record {
    /// A record that a store found, of which nothing else is known.
    #[must_use]
    pub fn new(token: FencingToken, attempt: u64, state: RecordState) -> Self {
        Self {
            token,
            attempt,
            state,
            scope: None,
            origin: Origin::none(),
            claimed_at: None,
        }
    }

    /// The record, unless its completion is still encrypted: the ciphertext is
    /// no response that a caller could be given.
    pub(crate) fn readable(self) -> Result<Self, StoreError> {
        match &self.state {
            RecordState::Completed { completion, .. } if completion.is_encrypted() => {
                let why = "its answer is encrypted: turn on `encryption`, with the secret it was \
                           written under";
                Err(StoreError::new(StoreErrorKind::Unreadable, why))
            }
            _ => Ok(self),
        }
    }
}

/// Which records [`Store::forget`](crate::store::Store::forget) removes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForgetMode {
    /// Any record but one that is in flight and whose lease has not lapsed.
    UnlessAlive,
    /// Any record. The operation of a record in flight may still be running, and
    /// a retry then runs it a second time at the same moment.
    Forced,
    /// As [`UnlessAlive`](Self::UnlessAlive), and only a record of this version: one that
    /// has moved on since it was seen stays.
    Unchanged(RecordVersion),
    /// As [`Forced`](Self::Forced), and only a record of this version.
    ForcedUnchanged(RecordVersion),
}

/// What [`Store::forget`](crate::store::Store::forget) did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Forgotten {
    /// The store removed the record.
    Gone,
    /// The store had no such record.
    Absent,
    /// The record is in flight and its lease has not lapsed: the store changed
    /// nothing.
    InFlight,
    /// The record has another version than the one that was meant: the store changed
    /// nothing.
    Moved,
}
