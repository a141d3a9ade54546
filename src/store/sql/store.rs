//! The store of every SQL engine: its options, and the code that does not depend on the engine.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use sqlx::Pool;

use super::transaction::{
    BoxFuture, ClaimedInside, CompletedInside, Reservation, SqlDatabase, SqlRecords,
    TransactionFate, TransactionalStore,
};
use super::{DEFAULT_TABLE, PURGE_INTERVAL, Purging, Table};
use crate::record::RecordId;
use crate::store::{
    Claim, Lease, Outcome, Ownership, RecordedStep, Store, StoreError, Transactional, forward_store,
};

/// A [`Store`] in an SQL database, by a pool of the application:
/// [`PostgresStore`](crate::PostgresStore), [`MySqlStore`](crate::MySqlStore) or
/// [`SqliteStore`](crate::SqliteStore), whose pages have examples.
///
/// A clone is another handle on the same store. The task that removes expired
/// records ends with the last handle.
pub struct SqlStore<DB: SqlDatabase> {
    records: Arc<DB::Records>,
    pool: Pool<DB>,
    table: Table,
    purging: Arc<Purging>,
}

/// Options of an [`SqlStore`].
#[must_use]
pub struct SqlStoreBuilder<DB: SqlDatabase> {
    pool: Pool<DB>,
    table: String,
    purge_every: Duration,
}

impl<DB: SqlDatabase> SqlStore<DB> {
    /// Opens the store on the table `idempotency_records`, which
    /// [`migrate`](SqlStoreBuilder::migrate) must have made before.
    ///
    /// # Errors
    /// The same errors as [`SqlStoreBuilder::open`].
    pub async fn open(pool: Pool<DB>) -> Result<Self, StoreError> {
        Self::builder(pool).open().await
    }

    /// Returns the options of a store on this pool, and of [`migrate`](SqlStoreBuilder::migrate).
    pub fn builder(pool: Pool<DB>) -> SqlStoreBuilder<DB> {
        SqlStoreBuilder {
            pool,
            table: DEFAULT_TABLE.to_owned(),
            purge_every: PURGE_INTERVAL,
        }
    }

    /// Removes up to 500 expired records, and returns their number. The store
    /// does this by itself every minute, or as
    /// [`purge_every`](SqlStoreBuilder::purge_every) says.
    ///
    /// # Errors
    /// If the database can't be reached, or rejects the statement.
    pub async fn purge(&self) -> Result<u64, StoreError> {
        self.records.purge().await
    }

    pub(crate) fn reserve(&self, claim: &Claim) -> Option<Reservation> {
        self.records.reserve(claim)
    }

    pub(crate) fn claim_within<'a>(
        &'a self,
        transaction: &'a mut DB::Connection,
        claim: &'a Claim,
    ) -> impl Future<Output = Result<ClaimedInside, sqlx::Error>> + Send + 'a {
        self.records.claim_within(transaction, claim)
    }

    pub(crate) fn unclaim_within<'a>(
        &'a self,
        transaction: &'a mut DB::Connection,
        lease: &'a Lease,
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send + 'a {
        self.records.unclaim_within(transaction, lease)
    }

    /// A claim that could be made says that the transaction has left nothing behind. The claim is
    /// rolled back.
    async fn claim_in_vain(&self, lease: &Lease) -> Result<ClaimedInside, sqlx::Error> {
        let Claim {
            id,
            scope,
            fingerprint,
            on_mismatch,
            ..
        } = lease.claim;
        let mut claim = Claim::new(id, scope, fingerprint);
        claim.on_mismatch = on_mismatch;
        let mut transaction = self.pool.begin_with(DB::BEGIN).await?;
        let claimed = self.records.claim_within(&mut transaction, &claim).await?;
        transaction.rollback().await?;
        Ok(claimed)
    }

    pub(crate) fn complete_within<'a>(
        &'a self,
        transaction: &'a mut DB::Connection,
        lease: &'a Lease,
        outcome: &'a Outcome,
    ) -> impl Future<Output = Result<CompletedInside, sqlx::Error>> + Send + 'a {
        self.records.complete_within(transaction, lease, outcome)
    }

    pub(crate) fn record_step_within<'a>(
        &'a self,
        transaction: &'a mut DB::Connection,
        lease: &'a Lease,
        step: &'a RecordedStep,
    ) -> impl Future<Output = Result<Ownership, sqlx::Error>> + Send + 'a {
        self.records.record_step_within(transaction, lease, step)
    }

    pub(crate) fn steps(
        &self,
        id: &RecordId,
    ) -> impl Future<Output = Result<Vec<RecordedStep>, StoreError>> + Send {
        self.records.steps(id)
    }
}

impl<DB: SqlDatabase> SqlStoreBuilder<DB> {
    /// The name of the table. Default: `idempotency_records`.
    ///
    /// At most 40 letters, digits and underscores, after `schema.` (MySQL: the
    /// database, SQLite: the attached database) if the table is not in the one
    /// that connections use by default. The names of all other tables, functions
    /// and procedures of the store begin with the name of this table.
    pub fn table(mut self, name: impl Into<String>) -> Self {
        self.table = name.into();
        self
    }

    /// How often this process removes expired records. Default: 60 seconds.
    /// Each pause is between half and one and a half times as long, so that
    /// processes that began together do not purge together.
    pub fn purge_every(mut self, interval: Duration) -> Self {
        self.purge_every = interval;
        self
    }

    /// Creates the tables, and the functions or procedures, of the store:
    /// the text of `docs/sql/postgres.sql`, `mysql.sql` or `sqlite.sql`. Changes
    /// nothing if they are there. Any number of processes can call this at the
    /// same time, at each of their starts.
    ///
    /// # Errors
    /// [`NotSent`](crate::store::StoreErrorKind::NotSent) if the database can't
    /// be reached; [`Refused`](crate::store::StoreErrorKind::Refused) if the user,
    /// its password or the database is wrong, if the name
    /// can't be that of a table, if a right is missing, or if the table is of
    /// another program or of a newer version. The source of the error says what
    /// to do.
    pub async fn migrate(&self) -> Result<(), StoreError> {
        DB::Records::migrate(&self.pool, &Table::new(&self.table)?).await
    }

    /// Opens the store, and starts the task that removes expired records. So
    /// this has to be called inside a tokio runtime. Warns in the log of settings
    /// that lose records, and of functions or procedures of another version.
    ///
    /// # Errors
    /// [`NotSent`](crate::store::StoreErrorKind::NotSent) if the database can't
    /// be reached, [`Refused`](crate::store::StoreErrorKind::Refused) if the user,
    /// its password or the database is wrong, if the database is read-only, or if tables, functions, procedures or rights are missing or of
    /// another version. The source of the error says what to do.
    pub async fn open(self) -> Result<SqlStore<DB>, StoreError> {
        let table = Table::new(&self.table)?;
        let records = Arc::new(DB::Records::open(self.pool.clone(), &table).await?);
        let purged = Arc::clone(&records);
        let purging = Purging::every(self.purge_every, move || {
            let records = Arc::clone(&purged);
            async move { records.purge().await }
        });
        Ok(SqlStore {
            records,
            pool: self.pool,
            table,
            purging: Arc::new(purging),
        })
    }
}

impl<DB: SqlDatabase> Store for SqlStore<DB> {
    forward_store!(self => self.records);

    fn transactional(&self) -> Option<Transactional<'_>> {
        Some(Transactional::new(self))
    }
}

impl<DB: SqlDatabase> TransactionalStore for SqlStore<DB> {
    fn fate<'a>(&'a self, lease: &'a Lease) -> BoxFuture<'a, Result<TransactionFate, StoreError>> {
        Box::pin(self.records.fate(lease))
    }

    fn fate_of_claimed<'a>(
        &'a self,
        lease: &'a Lease,
    ) -> BoxFuture<'a, Result<TransactionFate, StoreError>> {
        Box::pin(async move {
            match self.claim_in_vain(lease).await.map_err(DB::explained)? {
                ClaimedInside::Acquired(_) => Ok(TransactionFate::RolledBack),
                ClaimedInside::InFlight => Ok(TransactionFate::UnderWay),
                ClaimedInside::Found => self.records.fate(lease).await,
            }
        })
    }

    fn claims_nothing_within(&self) -> Option<&'static str> {
        self.records.claims_nothing_within()
    }

    fn loses_commits(&self) -> Option<&'static str> {
        self.records.loses_commits()
    }

    fn wake<'a>(&'a self, id: &'a RecordId) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(self.records.wake(id))
    }
}

impl<DB: SqlDatabase> Clone for SqlStore<DB> {
    fn clone(&self) -> Self {
        Self {
            records: Arc::clone(&self.records),
            pool: self.pool.clone(),
            table: self.table.clone(),
            purging: Arc::clone(&self.purging),
        }
    }
}

impl<DB: SqlDatabase> Clone for SqlStoreBuilder<DB> {
    fn clone(&self) -> Self {
        Self {
            pool: self.pool.clone(),
            table: self.table.clone(),
            purge_every: self.purge_every,
        }
    }
}

/// Without the pool, whose address may hold a password.
impl<DB: SqlDatabase> fmt::Debug for SqlStore<DB> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqlStore")
            .field("database", &DB::NAME)
            .field("table", &self.table)
            .finish_non_exhaustive()
    }
}

/// Without the pool, whose address may hold a password.
impl<DB: SqlDatabase> fmt::Debug for SqlStoreBuilder<DB> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqlStoreBuilder")
            .field("database", &DB::NAME)
            .field("table", &self.table)
            .field("purge_every", &self.purge_every)
            .finish_non_exhaustive()
    }
}
