//! Records in SQLite.

mod connection;
mod meaning;
mod records;
mod row;
mod setup;
mod statements;
mod wake_ups;

pub(super) use meaning::is_busy as gave_way;

use std::path::Path;

use sqlx::Sqlite;
use sqlx::sqlite::SqliteConnectOptions;

use super::transaction::Engine;
use super::{SqlStore, SqlStoreBuilder, failed};
use crate::store::StoreError;

use meaning::meaning;
use records::SqliteRecords;

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
/// let layer = IdempotencyLayer::new(store, scope::header("x-api-key"))?;
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
pub type SqliteStore = SqlStore<Sqlite>;

impl Engine for Sqlite {
    type Records = SqliteRecords;

    /// A transaction that begins with a read fails at its first write if another
    /// connection has written in between.
    const BEGIN: &'static str = "BEGIN IMMEDIATE";

    fn explained(error: sqlx::Error) -> StoreError {
        failed(error, meaning)
    }
}

impl SqlStore<Sqlite> {
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

    pub(crate) fn for_records_alone(
        options: SqliteConnectOptions,
        connections: Option<u32>,
    ) -> SqlStoreBuilder<Sqlite> {
        Self::builder(connection::pool_of(options, connections))
    }
}
