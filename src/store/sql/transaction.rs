//! The traits that each SQL engine implements, among others for completions inside the handler's
//! own transaction (G7).

use std::any::Any;
use std::future::Future;
use std::pin::Pin;

use sqlx::{Database, Pool};

use super::Table;
use crate::record::RecordId;
use crate::store::{Claim, Lease, Outcome, Ownership, RecordedStep, Store, StoreError};

/// A database whose store can [complete a record inside a
/// transaction](crate::exactly_once::SqlClaim): `sqlx::Postgres`, `sqlx::MySql` and
/// `sqlx::Sqlite`, each with the feature of its name.
///
/// This trait is sealed.
pub trait SqlDatabase: Engine {}

impl<DB: Engine> SqlDatabase for DB {}

/// The parts of a store that each engine implements. The trait can't be named outside this crate,
/// so no other crate can implement [`SqlDatabase`].
#[expect(unnameable_types, reason = "it seals `SqlDatabase`")]
pub trait Engine: Database {
    /// The type that keeps the records in a database of this engine.
    type Records: SqlRecords<Self>;

    /// The statement that begins a transaction in which the handler writes.
    const BEGIN: &'static str;

    /// Returns a store's error for this error, with advice for the operator.
    fn explained(error: sqlx::Error) -> StoreError;
}

/// The records in one table of a database.
#[expect(unnameable_types, reason = "of a trait that is sealed")]
pub trait SqlRecords<DB: Database>: Store + Sized {
    /// Creates what is missing: tables, functions, procedures.
    fn migrate(
        pool: &Pool<DB>,
        table: &Table,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Checks that all tables, functions and procedures exist and have this version.
    fn open(pool: Pool<DB>, table: &Table)
    -> impl Future<Output = Result<Self, StoreError>> + Send;

    /// Removes one batch of expired records, and returns their number.
    fn purge(&self) -> impl Future<Output = Result<u64, StoreError>> + Send;

    /// What keeps `claim` from being made within a transaction of this server, if anything does.
    fn claims_nothing_within(&self) -> Option<&'static str> {
        None
    }

    /// Keeps other requests of this process from claiming the record until the reservation is dropped.
    /// `None` if a request with another nonce has reserved it. The default reserves nothing: the
    /// transactions of most engines find out by themselves.
    fn reserve(&self, claim: &Claim) -> Option<Reservation> {
        let _ = claim;
        Some(Reservation::default())
    }

    /// Makes the record in flight in a transaction that has just begun and that the handler commits.
    /// Until that transaction has ended, no other one claims the record, and none of those that ask by
    /// this method waits for its end.
    fn claim_within<'a>(
        &'a self,
        transaction: &'a mut DB::Connection,
        claim: &'a Claim,
    ) -> impl Future<Output = Result<ClaimedInside, sqlx::Error>> + Send + 'a;

    /// Takes back what this transaction has claimed: a record that it made is removed, and one that it
    /// took over is released.
    fn unclaim_within<'a>(
        &'a self,
        transaction: &'a mut DB::Connection,
        lease: &'a Lease,
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send + 'a;

    /// Completes the record in a transaction that the handler commits, if the
    /// record is in flight under the lease's nonce. It never makes a record, and
    /// no claim takes the record over until the transaction has ended.
    fn complete_within<'a>(
        &'a self,
        transaction: &'a mut DB::Connection,
        lease: &'a Lease,
        outcome: &'a Outcome,
    ) -> impl Future<Output = Result<CompletedInside, sqlx::Error>> + Send + 'a;

    /// Adds a step to the record in a transaction that the handler commits, as
    /// [`Store::record_step`] does. No claim takes the record over until the transaction has
    /// ended.
    fn record_step_within<'a>(
        &'a self,
        transaction: &'a mut DB::Connection,
        lease: &'a Lease,
        step: &'a RecordedStep,
    ) -> impl Future<Output = Result<Ownership, sqlx::Error>> + Send + 'a;

    /// Returns the steps that the record has.
    fn steps(
        &self,
        id: &RecordId,
    ) -> impl Future<Output = Result<Vec<RecordedStep>, StoreError>> + Send;

    /// Does the same as [`TransactionalStore::loses_commits`].
    fn loses_commits(&self) -> Option<&'static str> {
        None
    }

    /// Does the same as [`TransactionalStore::fate`].
    fn fate(
        &self,
        lease: &Lease,
    ) -> impl Future<Output = Result<TransactionFate, StoreError>> + Send;

    /// As [`TransactionalStore::wake`]. The default wakes no waiter: waiters of
    /// an engine without notifications look at the record every so often.
    fn wake(&self, id: &RecordId) -> impl Future<Output = Result<(), StoreError>> + Send {
        let _ = id;
        async { Ok(()) }
    }
}

/// What keeps other requests of a process from claiming a record.
#[expect(unnameable_types, reason = "of a trait that is sealed")]
#[expect(missing_debug_implementations, reason = "of a trait that is sealed")]
#[derive(Default)]
pub struct Reservation(
    #[expect(dead_code, reason = "it is kept for its drop")] Option<Box<dyn Any + Send + Sync>>,
);

impl Reservation {
    #[cfg(feature = "sqlite")]
    pub(super) fn new(guard: impl Any + Send + Sync) -> Self {
        Self(Some(Box::new(guard)))
    }
}

/// What a claim inside a transaction did.
#[expect(unnameable_types, reason = "of a trait that is sealed")]
#[expect(missing_debug_implementations, reason = "of a trait that is sealed")]
pub enum ClaimedInside {
    /// The transaction has the record in flight.
    Acquired(Box<Lease>),
    /// Another transaction, or the owner of a lease, is executing the operation.
    InFlight,
    /// There is a record that the claim does not take over: a look-up finds it.
    Found,
}

/// What a completion inside a transaction did.
#[expect(unnameable_types, reason = "of a trait that is sealed")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CompletedInside {
    /// The record is completed once the transaction is committed.
    Held,
    /// The record is completed once the transaction is committed, and waiters
    /// have to be woken then.
    HeldAndAwaited,
    /// The transaction sees no record in flight under this nonce.
    Lost,
}

/// What became of a transaction whose `COMMIT` was not acknowledged.
#[expect(unnameable_types, reason = "of a trait that is sealed")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransactionFate {
    /// The record is completed.
    Committed,
    /// The record is in flight under the lease's nonce, and no transaction has
    /// locked it.
    RolledBack,
    /// Another claim owns the record.
    Overtaken,
    /// The transaction, or another one, still has the record locked.
    UnderWay,
    /// There is no record.
    Absent,
}

impl TransactionFate {
    /// Returns the fate of the transaction. `state` is the state of a record that no transaction
    /// has locked, and `is_own` says whether its nonce is that of the lease.
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

/// An SQL store, without the type of its database.
pub(crate) trait TransactionalStore: Any + Send + Sync {
    /// Finds out what became of a transaction that completed the record. Does
    /// not wait for the end of the transaction.
    fn fate<'a>(&'a self, lease: &'a Lease) -> BoxFuture<'a, Result<TransactionFate, StoreError>>;

    /// The same of a transaction that has claimed the record too, so that nothing is to be seen of
    /// it before its end.
    fn fate_of_claimed<'a>(
        &'a self,
        lease: &'a Lease,
    ) -> BoxFuture<'a, Result<TransactionFate, StoreError>>;

    /// Does the same as [`SqlRecords::claims_nothing_within`].
    fn claims_nothing_within(&self) -> Option<&'static str>;

    /// What to change if the database, as nobody chose it, loses commits that others have read.
    fn loses_commits(&self) -> Option<&'static str>;

    /// Wakes the waiters of a record that a transaction has changed.
    fn wake<'a>(&'a self, id: &'a RecordId) -> BoxFuture<'a, Result<(), StoreError>>;
}

pub(crate) type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;
