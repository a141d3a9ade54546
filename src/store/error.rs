//! A store that gave no answer.

use std::error::Error;
use std::fmt;

use crate::error::BoxError;

/// Why a store gave no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StoreErrorKind {
    /// The request certainly did not reach the store, and changed nothing.
    NotSent,
    /// The request may or may not have been carried out.
    Unknown,
    /// The store was too busy to carry it out, and changed nothing.
    Contention,
    /// The store does not do it as it is set up, and changed nothing: a right,
    /// a table, a setting or room is missing. The source says what, and what
    /// to do about it.
    Refused,
    /// There is a record, and it can't be read.
    Unreadable,
    /// The store has no such operation.
    Unsupported,
}

/// A store gave no answer: what is known of the request, and the cause.
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

    /// The store did not answer within the deadline.
    pub(crate) fn timed_out() -> Self {
        Self::new(StoreErrorKind::Unknown, TimedOut(()))
    }

    /// What is known of the request.
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
            StoreErrorKind::Unreadable => "the store has a record that can't be read",
            StoreErrorKind::Unsupported => "the store has no such operation",
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
