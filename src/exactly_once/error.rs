//! Errors of a claim that was not committed.

use std::error::Error;
use std::fmt;

use crate::message::body::BoxError;
use crate::request::commit_state::NotOpen;
use crate::store::StoreErrorKind;
use crate::store::sql::retried::is_retried;
use crate::store::sql::transaction::SqlDatabase;

/// What became of a transaction whose claim was not committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CommitErrorKind {
    /// The transaction was rolled back: another execution of the request has taken
    /// over, because this one was paused or cut off for longer than its lease. The
    /// client is told `in-flight`, whatever the handler returns.
    Lost,
    /// The transaction was rolled back in favour of another one, or together with its
    /// connection. It may succeed if all of it is run again, as
    /// [`transact`](crate::exactly_once::SqlClaim::transact) does.
    Retry,
    /// Nobody knows whether the transaction was committed: the connection broke at the
    /// `COMMIT`, and the database could not be asked since. The client is told
    /// `in-flight`, whatever the handler returns, unless the layer finds the commit before it
    /// responds. Once the database is back, the record says what happened. If nothing was
    /// committed, a retry executes the operation: at once if the layer has found that out
    /// before it responded, otherwise when the lease has lapsed.
    Unknown,
    /// The transaction was rolled back: it can't be committed as it is. The error's
    /// source says why.
    Failed,
    /// No transaction has begun: another request executes the operation
    /// ([`ExactlyOnce::InTransaction`](crate::options::ExactlyOnce::InTransaction)). The client is
    /// told `in-flight`, whatever the handler returns.
    InFlight,
    /// No transaction has begun: there is a record of the operation already
    /// ([`ExactlyOnce::InTransaction`](crate::options::ExactlyOnce::InTransaction)). The client is
    /// given the recorded response, or what else the record means, whatever the handler returns.
    Found,
    /// The transaction was rolled back: it was not begun by
    /// [`SqlClaim::begin`](crate::exactly_once::SqlClaim::begin), as the route demands
    /// ([`ExactlyOnce::InTransaction`](crate::options::ExactlyOnce::InTransaction)).
    NotBegun,
    /// No transaction has begun: the pool gave no connection in time. A retry may succeed once the
    /// database can be reached, or others have given their connections back;
    /// [`transact`](crate::exactly_once::SqlClaim::transact) has waited already, and does not run
    /// again.
    NoConnection,
    /// No second transaction has begun: the first that
    /// [`SqlClaim::begin`](crate::exactly_once::SqlClaim::begin) has begun is still open. Commit that
    /// one, or roll it back first. SQLite has one writer and can't tell the first transaction from
    /// another writer: there `begin` fails with [`Retry`](Self::Retry) after the pool's
    /// `busy_timeout`.
    BegunTwice,
}

/// A claim was not committed: what became of its transaction, and why.
///
/// As a response (feature `axum`) the error is a 503 for
/// [`Retry`](CommitErrorKind::Retry) and [`NoConnection`](CommitErrorKind::NoConnection), and a 500 for
/// [`Failed`](CommitErrorKind::Failed), [`NotBegun`](CommitErrorKind::NotBegun) and
/// [`BegunTwice`](CommitErrorKind::BegunTwice); none is recorded. For the other kinds the
/// layer decides the response.
#[derive(Debug)]
pub struct CommitError {
    kind: CommitErrorKind,
    source: Option<BoxError>,
}

impl CommitError {
    /// What became of the transaction.
    #[must_use]
    pub fn kind(&self) -> CommitErrorKind {
        self.kind
    }

    pub(crate) fn failed(why: impl Into<BoxError>) -> Self {
        Self {
            kind: CommitErrorKind::Failed,
            source: Some(why.into()),
        }
    }

    pub(crate) fn lost() -> Self {
        Self::plain(CommitErrorKind::Lost)
    }

    pub(crate) fn unknown<DB: SqlDatabase>(error: sqlx::Error) -> Self {
        Self {
            kind: CommitErrorKind::Unknown,
            source: Some(DB::explained(error).into()),
        }
    }

    pub(crate) fn in_flight() -> Self {
        Self::plain(CommitErrorKind::InFlight)
    }

    pub(crate) fn found() -> Self {
        Self::plain(CommitErrorKind::Found)
    }

    pub(crate) fn not_begun() -> Self {
        Self::plain(CommitErrorKind::NotBegun)
    }

    pub(crate) fn begun_twice() -> Self {
        Self::plain(CommitErrorKind::BegunTwice)
    }

    fn plain(kind: CommitErrorKind) -> Self {
        Self { kind, source: None }
    }

    /// No attempt to commit could begin.
    pub(super) fn not_open(why: NotOpen) -> Self {
        let why = match why {
            NotOpen::NotBegun => return Self::not_begun(),
            NotOpen::Lost => return Self::lost(),
            NotOpen::Unheard => return Self::plain(CommitErrorKind::Unknown),
            NotOpen::UnderWay => "the claim is being committed already",
            NotOpen::Committed => "the claim is committed already",
            NotOpen::Over => "the request has been answered without it",
        };
        Self::failed(why)
    }

    /// An error after which certainly nothing is committed.
    pub(crate) fn rolled_back<DB: SqlDatabase>(error: sqlx::Error) -> Self {
        let again = may_succeed(&error);
        let explained = DB::explained(error);
        if explained.kind() == StoreErrorKind::NotSent {
            return Self {
                kind: CommitErrorKind::NoConnection,
                source: Some(explained.into()),
            };
        }
        let again = again || explained.kind() == StoreErrorKind::Contention;
        Self::of(again, explained)
    }

    fn of(again: bool, source: impl Into<BoxError>) -> Self {
        Self {
            kind: if again {
                CommitErrorKind::Retry
            } else {
                CommitErrorKind::Failed
            },
            source: Some(source.into()),
        }
    }
}

/// The error of a statement in a transaction that is not committed, for `work` of
/// [`transact`](crate::exactly_once::SqlClaim::transact) to end with.
impl From<sqlx::Error> for CommitError {
    fn from(error: sqlx::Error) -> Self {
        Self::of(may_succeed(&error), error)
    }
}

/// Whether a transaction that was rolled back may succeed if it is run again: it gave
/// way to another transaction, or its connection broke.
pub(crate) fn may_succeed(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Database(refused) => {
            // SQLSTATE classes of connections that were ended: by the standard, by
            // PostgreSQL, and by MySQL.
            let code = refused.code().unwrap_or_default();
            let ended = ["08", "57P", "70100"];
            is_retried(error) || ended.iter().any(|class| code.starts_with(class))
        }
        error => matches!(
            error,
            sqlx::Error::Io(_)
                | sqlx::Error::Protocol(_)
                | sqlx::Error::Tls(_)
                | sqlx::Error::WorkerCrashed
        ),
    }
}

impl fmt::Display for CommitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.kind {
            CommitErrorKind::Lost => {
                "the transaction was rolled back: another execution of the request has taken over"
            }
            CommitErrorKind::Retry => "the transaction was rolled back, and can be run again",
            CommitErrorKind::Unknown => "nobody knows whether the transaction was committed",
            CommitErrorKind::Failed => "the transaction was rolled back: it can't be committed",
            CommitErrorKind::InFlight => {
                "no transaction has begun: another request executes the operation"
            }
            CommitErrorKind::Found => {
                "no transaction has begun: there is a record of the operation already"
            }
            CommitErrorKind::NotBegun => {
                "the transaction was rolled back: it was not begun by SqlClaim::begin, as a route \
                 that is exactly once in a transaction demands"
            }
            CommitErrorKind::NoConnection => {
                "no transaction has begun: the pool gave no connection in time"
            }
            CommitErrorKind::BegunTwice => {
                "no second transaction has begun: commit the one that SqlClaim::begin has begun, or \
                 roll it back first"
            }
        })
    }
}

impl Error for CommitError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}

#[cfg(feature = "axum")]
mod response {
    use axum::response::{IntoResponse, Response};
    use http::StatusCode;

    use super::{CommitError, CommitErrorKind};
    use crate::options::recording::Recording;

    impl IntoResponse for CommitError {
        fn into_response(self) -> Response {
            let error: &dyn std::error::Error = &self;
            let status = match self.kind {
                CommitErrorKind::Failed
                | CommitErrorKind::NotBegun
                | CommitErrorKind::BegunTwice => {
                    tracing::error!(error, "a claim can't be committed");
                    StatusCode::INTERNAL_SERVER_ERROR
                }
                CommitErrorKind::Retry | CommitErrorKind::NoConnection => {
                    tracing::warn!(error, "a claim was not committed");
                    StatusCode::SERVICE_UNAVAILABLE
                }
                CommitErrorKind::Lost
                | CommitErrorKind::Unknown
                | CommitErrorKind::InFlight
                | CommitErrorKind::Found => StatusCode::CONFLICT,
            };
            let mut response = status.into_response();
            response.extensions_mut().insert(Recording::Skip);
            response
        }
    }
}
