//! Errors of a store.

use std::error::Error;
use std::fmt;

use crate::error::BoxError;

/// What is known of an operation that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StoreErrorKind {
    /// The operation certainly did not reach the store, and changed nothing.
    NotSent,
    /// The store may or may not have done what was asked.
    Unknown,
    /// The store was too busy for the operation, and changed nothing.
    Contention,
    /// The store can't do this operation as it is set up, and changed nothing:
    /// a right, a table, a setting or space is missing. The source of the error
    /// says what is missing and what to do.
    Refused,
    /// The completion is larger than the store can keep, and the store changed nothing. The layer
    /// seals the record instead: trying again would be in vain.
    TooLarge,
    /// There is a record that this version can't read.
    Unreadable,
    /// The store has no such operation.
    Unsupported,
    /// The cursor of a list is not one that this store made.
    InvalidCursor,
}

impl StoreErrorKind {
    pub(crate) const ALL: [Self; 8] = [
        Self::NotSent,
        Self::Unknown,
        Self::Contention,
        Self::Refused,
        Self::TooLarge,
        Self::Unreadable,
        Self::Unsupported,
        Self::InvalidCursor,
    ];
}

/// An operation of a store failed: what is known of it, and the cause.
///
/// ```
/// use tower_idempotency::store::{StoreError, StoreErrorKind};
///
/// let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
/// let error = StoreError::new(StoreErrorKind::NotSent, refused);
/// assert_eq!(error.to_string(), "the request did not reach the store");
/// assert_eq!(std::error::Error::source(&error).unwrap().to_string(), "connection refused");
/// ```
#[derive(Debug)]
pub struct StoreError {
    kind: StoreErrorKind,
    source: Option<BoxError>,
}

impl StoreError {
    /// An error of this kind with its cause.
    pub fn new(kind: StoreErrorKind, source: impl Into<BoxError>) -> Self {
        Self {
            kind,
            source: Some(source.into()),
        }
    }

    pub(super) fn unsupported(operation: &'static str) -> Self {
        Self::new(StoreErrorKind::Unsupported, operation)
    }

    /// The cursor of a list query is not one that the store made.
    #[must_use]
    pub fn invalid_cursor() -> Self {
        Self {
            kind: StoreErrorKind::InvalidCursor,
            source: None,
        }
    }

    /// The store did not return within `store_timeout`.
    pub(crate) fn timed_out() -> Self {
        Self::new(StoreErrorKind::Unknown, TimedOut(()))
    }

    /// What is known of the operation.
    #[must_use]
    pub fn kind(&self) -> StoreErrorKind {
        self.kind
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.kind {
            StoreErrorKind::NotSent => "the request did not reach the store",
            StoreErrorKind::Unknown => "the store did not say what became of the request",
            StoreErrorKind::Contention => "the store was too busy for the request",
            StoreErrorKind::Refused => "the store refused the request",
            StoreErrorKind::TooLarge => "the response is larger than the store can keep",
            StoreErrorKind::Unreadable => "the store has a record that can't be read",
            StoreErrorKind::Unsupported => "the store has no such operation",
            StoreErrorKind::InvalidCursor => "the cursor is not one of this store",
        })
    }
}

impl Error for StoreError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}

#[derive(Debug)]
struct TimedOut(());

impl fmt::Display for TimedOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no answer within store_timeout")
    }
}

impl Error for TimedOut {}
