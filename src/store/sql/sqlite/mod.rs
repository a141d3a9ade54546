//! Records in SQLite.

mod connection;
mod meaning;
mod records;
mod reserved;
mod row;
mod setup;
mod statements;
mod wake_ups;

pub(super) use meaning::is_busy as may_succeed_again;

use std::path::Path;

use sqlx::Sqlite;
use sqlx::sqlite::SqliteConnectOptions;

use super::transaction::Engine;
use super::{SqlStore, SqlStoreBuilder, failed};
use crate::store::StoreError;

use meaning::meaning;
use records::SqliteRecords;

/// Records in a SQLite database, for the processes of one machine.
///
/// A record that was stored survives a restart and `kill -9`, and with
/// `synchronous = FULL` also a loss of power. Any number of processes can have
/// the file open; one writes at a time, and in WAL mode a replay never waits
/// for a writer.
///
/// An application without a database needs only [`connect`](SqlStore::connect):
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
/// An application with a SQLite database can keep the records there:
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
/// `docs/stores.md` has the settings, what they cost, and the columns.
pub type SqliteStore = SqlStore<Sqlite>;

impl Engine for Sqlite {
    type Records = SqliteRecords;

    /// `IMMEDIATE` takes the lock at once. Without it, a transaction that begins with a read fails
    /// at its first write if another connection has written in between.
    const BEGIN: &'static str = "BEGIN IMMEDIATE";

    fn explained(error: sqlx::Error) -> StoreError {
        failed(error, meaning)
    }
}

impl SqlStore<Sqlite> {
    /// Opens a database file, and creates the file and the tables unless they
    /// are there. The database is in WAL mode, with `synchronous = FULL`.
    ///
    /// The file may also be one that the application uses: the store then has
    /// connections of its own to it.
    ///
    /// # Errors
    /// If the file or its directory can't be opened or written, if the file is
    /// no database, or if its tables are of another version. The source of the
    /// error names the file and says what to do.
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
