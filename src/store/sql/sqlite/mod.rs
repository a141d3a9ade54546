//! Records in SQLite.

mod connection;
mod meaning;
mod records;
mod row;
mod setup;
mod statements;
mod transaction;
mod wake_ups;

pub(super) use meaning::is_busy as gave_way;

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use sqlx::SqlitePool;
use sqlx::sqlite::SqliteConnectOptions;

use super::{DEFAULT_TABLE, PURGE_INTERVAL, Purging, Table};
use crate::record::{Nonce, RecordId};
use crate::store::{
    Claim, Claimed, Forgotten, Lease, Outcome, Ownership, Record, Release, Store, StoreError,
    Subscription, Transactional,
};

use records::Records;

/// Keeps records in a SQLite database, for the processes of one machine.
///
/// What it answered stays: over restarts, over `kill -9`, and with
/// `synchronous = FULL` over a loss of power. Any number of processes can have
/// the file open; one writes at a time, and in WAL mode replays wait for
/// nobody.
///
/// [`connect`](Self::connect) is all that an application without a database
/// needs:
///
/// ```
/// use tower_idempotency::{IdempotencyLayer, SqliteStore, scope};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let directory = std::env::temp_dir().join(format!("sqlite-store-{}", std::process::id()));
/// # std::fs::create_dir_all(&directory)?;
/// # let file = directory.join("records.db");
/// let store = SqliteStore::connect(&file).await?;
/// let layer = IdempotencyLayer::new(store, scope::header("x-api-key")?);
/// # drop(layer);
/// # std::fs::remove_dir_all(directory)?;
/// # Ok(())
/// # }
/// ```
///
/// One that has a database keeps its records there, through a pool of its own:
///
/// ```
/// use std::time::Duration;
///
/// use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool};
/// use tower_idempotency::SqliteStore;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let directory = std::env::temp_dir().join(format!("sqlite-pool-{}", std::process::id()));
/// # std::fs::create_dir_all(&directory)?;
/// # let file = directory.join("app.db");
/// let options = SqliteConnectOptions::new()
///     .filename(&file)
///     .create_if_missing(true)
///     .journal_mode(SqliteJournalMode::Wal);
/// let pool = SqlitePool::connect_with(options).await?;
///
/// let records = SqliteStore::builder(pool).purge_every(Duration::from_secs(10));
/// records.migrate().await?; // or run docs/sql/sqlite.sql
/// let store = records.open().await?;
/// # drop(store);
/// # std::fs::remove_dir_all(directory)?;
/// # Ok(())
/// # }
/// ```
///
/// `docs/stores.md` says which settings to use, what they cost, and what the
/// table is like.
#[derive(Clone)]
pub struct SqliteStore {
    records: Arc<Records>,
    _purging: Arc<Purging>,
}

impl SqliteStore {
    /// Opens a database file for records alone, and makes the file and its
    /// tables unless they are there: in WAL mode, with `synchronous = FULL`.
    ///
    /// The file may be the application's own too: connections of the store
    /// are then beside those of the application.
    ///
    /// # Errors
    /// If the file or its directory can't be opened or written, if the file is
    /// no database, or if its tables are of another version. The source names
    /// the file and what to do.
    pub async fn connect(file: impl AsRef<Path>) -> Result<Self, StoreError> {
        let options = SqliteConnectOptions::new()
            .filename(file)
            .create_if_missing(true);
        let builder = Self::for_records_alone(options, None);
        builder.migrate().await?;
        builder.open().await
    }

    /// Opens the records in the table `idempotency_records` of a database.
    ///
    /// # Errors
    /// As [`SqliteStoreBuilder::open`].
    pub async fn open(pool: SqlitePool) -> Result<Self, StoreError> {
        Self::builder(pool).open().await
    }

    /// A store with another table, or with other options.
    pub fn builder(pool: SqlitePool) -> SqliteStoreBuilder {
        SqliteStoreBuilder {
            pool,
            table: DEFAULT_TABLE.to_owned(),
            purge_every: PURGE_INTERVAL,
        }
    }

    pub(crate) fn for_records_alone(
        options: SqliteConnectOptions,
        connections: Option<u32>,
    ) -> SqliteStoreBuilder {
        Self::builder(connection::pool_of(options, connections))
    }

    /// Removes up to 500 records past their end, the longest past it first,
    /// and says how many. The store does this by itself every so often.
    ///
    /// # Errors
    /// If the database gave no answer.
    pub async fn purge(&self) -> Result<u64, StoreError> {
        self.records.purge().await
    }
}

/// How to open a [`SqliteStore`].
#[derive(Clone)]
#[must_use]
pub struct SqliteStoreBuilder {
    pool: SqlitePool,
    table: String,
    purge_every: Duration,
}

impl SqliteStoreBuilder {
    /// The table of the records (`idempotency_records`); `schema.table` for
    /// one in an attached database. Letters, digits and underscores.
    pub fn table(mut self, name: impl Into<String>) -> Self {
        self.table = name.into();
        self
    }

    /// About how often records past their end are removed (60 s).
    pub fn purge_every(mut self, interval: Duration) -> Self {
        self.purge_every = interval;
        self
    }

    /// Makes the tables unless they are there. Any number of processes can do
    /// this at once.
    ///
    /// # Errors
    /// If the database can't be opened or written, or is no database, and if
    /// the name is none for a table.
    pub async fn migrate(&self) -> Result<(), StoreError> {
        let records = self.records()?;
        setup::migrate(&records).await
    }

    /// Looks whether the tables are there and of this version, and begins to
    /// remove records past their end. Warns in the log about settings that
    /// lose records or make readers wait.
    ///
    /// # Errors
    /// If the database can't be opened or written, if the tables are missing
    /// or of another version, if the name is none for a table, and if the
    /// database is in memory and the pool has more than one connection. The
    /// source names the file, the table and what to do.
    pub async fn open(self) -> Result<SqliteStore, StoreError> {
        let records = Arc::new(self.records()?);
        setup::check(&records).await?;
        let purged = Arc::clone(&records);
        let purging = Purging::every(self.purge_every, move || {
            let records = Arc::clone(&purged);
            async move { records.purge().await }
        });
        Ok(SqliteStore {
            records,
            _purging: Arc::new(purging),
        })
    }

    fn records(&self) -> Result<Records, StoreError> {
        Ok(Records::new(self.pool.clone(), Table::new(&self.table)?))
    }
}

impl Store for SqliteStore {
    async fn claim(&self, claim: &Claim) -> Result<Claimed, StoreError> {
        self.records.claim(claim).await
    }

    async fn renew(&self, lease: &Lease) -> Result<Ownership, StoreError> {
        self.records.renew(lease).await
    }

    async fn complete(&self, lease: &Lease, outcome: &Outcome) -> Result<Ownership, StoreError> {
        self.records.complete(lease, outcome).await
    }

    async fn release(
        &self,
        id: &RecordId,
        nonce: &Nonce,
        how: Release,
    ) -> Result<Ownership, StoreError> {
        self.records.release(id, nonce, how).await
    }

    async fn look_up(&self, id: &RecordId) -> Result<Option<Record>, StoreError> {
        self.records.look_up(id).await
    }

    async fn forget(&self, id: &RecordId, force: bool) -> Result<Forgotten, StoreError> {
        self.records.forget(id, force).await
    }

    async fn subscribe(&self, id: &RecordId) -> Result<Subscription, StoreError> {
        Ok(self.records.wake_ups.subscribe(id))
    }

    fn transactional(&self) -> Option<Transactional<'_>> {
        Some(Transactional::new(self))
    }
}

/// The table alone: a connection may be opened with a key.
impl fmt::Debug for SqliteStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteStore")
            .field("table", &self.records.table)
            .finish_non_exhaustive()
    }
}

/// As that of [`SqliteStore`].
impl fmt::Debug for SqliteStoreBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteStoreBuilder")
            .field("table", &self.table)
            .field("purge_every", &self.purge_every)
            .finish_non_exhaustive()
    }
}
