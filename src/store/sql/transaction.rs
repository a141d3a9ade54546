//! A record that is completed inside a transaction of the handler's own.

use std::any::Any;
use std::future::Future;
use std::pin::Pin;

use sqlx::Database;

use crate::record::RecordId;
use crate::store::{Lease, Outcome, StoreError};

/// A database whose store can [complete a record inside a
/// transaction](crate::exactly_once::SqlClaim): `sqlx::Postgres`, `sqlx::MySql` and
/// `sqlx::Sqlite`, each with the feature of its name.
///
/// This trait is sealed.
pub trait SqlDatabase: Engine {}

impl<DB: Engine> SqlDatabase for DB {}

/// What each of them does in its own way. The trait can't be named outside, so
/// nobody else implements it.
#[expect(unnameable_types, reason = "it seals `SqlDatabase`")]
pub trait Engine: Database {
    /// The store whose records are in it.
    type Store: 'static;

    /// What begins a transaction that will write.
    const BEGIN: &'static str;

    /// Completes the record in a transaction that its caller commits, if the
    /// record is in flight under the lease's nonce. It never makes a record, and
    /// from here on nobody takes over before the transaction has ended.
    fn complete_within<'a>(
        store: &'a Self::Store,
        transaction: &'a mut Self::Connection,
        lease: &'a Lease,
        outcome: &'a Outcome,
    ) -> impl Future<Output = Result<CompletedInside, sqlx::Error>> + Send + 'a;

    /// The error, with what to do about it.
    fn explained(error: sqlx::Error) -> StoreError;
}

/// What became of a completion inside a transaction.
#[expect(unnameable_types, reason = "of a trait that is sealed")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CompletedInside {
    /// It stands once the transaction is committed.
    Held,
    /// So it does, and somebody may wait for it, who is to be told then.
    HeldAndAwaited,
    /// The transaction sees no record in flight under this nonce.
    Lost,
}

/// What became of a transaction whose end nobody heard of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TransactionFate {
    Committed,
    /// The record is in flight under the same nonce, and no transaction has it.
    RolledBack,
    /// The record is another owner's.
    Overtaken,
    /// The transaction, or another, still has the record.
    UnderWay,
    /// There is no record.
    Absent,
}

/// An SQL store, whatever its database.
pub(crate) trait TransactionalStore: Any + Send + Sync {
    /// What became of a transaction that completed the record, without waiting
    /// for its end.
    fn fate<'a>(&'a self, lease: &'a Lease) -> BoxFuture<'a, Result<TransactionFate, StoreError>>;

    /// Tells those who wait that the record has changed.
    fn wake<'a>(&'a self, id: &'a RecordId) -> BoxFuture<'a, Result<(), StoreError>>;
}

pub(crate) type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Whether a transaction was rolled back in favour of another, and may succeed
/// if it is run again.
pub(crate) fn is_retried(error: &sqlx::Error) -> bool {
    #[cfg(feature = "postgres")]
    if super::postgres::gave_way(error) {
        return true;
    }
    #[cfg(feature = "mysql")]
    if super::mysql::gave_way(error) {
        return true;
    }
    #[cfg(feature = "sqlite")]
    if super::sqlite::gave_way(error) {
        return true;
    }
    let _ = error;
    false
}

impl TransactionFate {
    /// By a record that could be locked: its state, and whether it has the
    /// lease's nonce.
    pub(super) fn of(state: i64, is_own: bool) -> Self {
        use crate::store::row::state::{COMPLETED, IN_FLIGHT, SEALED, UNKNOWN};
        match state {
            _ if !is_own => Self::Overtaken,
            COMPLETED | SEALED => Self::Committed,
            IN_FLIGHT | UNKNOWN => Self::RolledBack,
            _ => Self::Overtaken,
        }
    }
}
