//! Running a statement, and repeating it while the database is busy.

use std::fs::OpenOptions;
use std::path::Path;
use std::time::{Duration, SystemTime};

use sqlx::pool::PoolConnection;
use sqlx::query::Query;
use sqlx::sqlite::{
    SqliteArguments, SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqlitePool,
    SqlitePoolOptions, SqliteRow, SqliteSynchronous,
};
use sqlx::{SqlStr, Sqlite};
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::super::{failed, not_opened, not_sent};
use super::meaning::{is_busy, meaning};
use super::records::SqliteRecords;
use crate::store::StoreError;
use crate::store::encoding::micros_since_epoch;

/// For how long a statement is repeated while other processes write.
const PATIENCE: Duration = Duration::from_secs(5);
/// Each connection has a thread. At most one connection writes at a time, the
/// others read.
const CONNECTIONS: u32 = 8;
/// How long SQLite itself waits for its lock. SQLite waits longer and longer between its tries, up
/// to 100 ms, and rarely finds the lock free while another process writes all the time. So SQLite
/// gives up soon, and the store repeats the statement.
const BUSY_TIMEOUT: Duration = Duration::from_millis(5);

/// Makes a pool that is used for records only. The first use of the pool opens the file.
pub(super) fn pool_of(options: SqliteConnectOptions, connections: Option<u32>) -> SqlitePool {
    create_for_owner_alone(options.get_filename());
    let options = options
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .busy_timeout(BUSY_TIMEOUT);
    SqlitePoolOptions::new()
        .max_connections(connections.unwrap_or(CONNECTIONS))
        // A connection to a file does not break, so testing it before each use would be in vain.
        .test_before_acquire(false)
        .connect_lazy_with(options)
}

/// Creates a database file that only its owner may read, unless the file exists. SQLite would
/// create the file with all rights that the umask leaves; it gives its files `-wal` and `-shm` the
/// mode of the database. SQLite itself reports a file that can't be created.
fn create_for_owner_alone(file: &Path) {
    let name = file.as_os_str().as_encoded_bytes();
    // These are databases in memory and other names that are not simply those of a file.
    if name.is_empty() || name.starts_with(b":") || name.starts_with(b"file:") {
        return;
    }
    let mut options = OpenOptions::new();
    // The call must not open a file that exists: closing the file would end the locks that another
    // SQLite connection of this process has on it.
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    drop(options.open(file));
}

pub(super) type Statement<'q> = Query<'q, Sqlite, SqliteArguments>;

impl SqliteRecords {
    /// Runs a statement and returns its rows. Repeats it while another process
    /// writes. In WAL mode a statement that only reads never waits.
    pub(super) async fn run<'q>(
        &self,
        statement: &SqlStr,
        bind: impl Fn(Statement<'q>) -> Statement<'q> + Send + Sync,
    ) -> Result<Vec<SqliteRow>, StoreError> {
        self.run_until(&Patience::new(), statement, bind).await
    }

    async fn run_until<'q>(
        &self,
        patience: &Patience,
        statement: &SqlStr,
        bind: impl Fn(Statement<'q>) -> Statement<'q> + Send + Sync,
    ) -> Result<Vec<SqliteRow>, StoreError> {
        loop {
            let mut connection = self.acquire(patience).await?;
            let statement = bind(sqlx::query(statement.clone()).bind(clock()));
            // Fetches all rows, because the statement commits after its last row, and a full disk
            // makes only the commit fail.
            let error = match statement.fetch_all(&mut *connection).await {
                Ok(rows) => return Ok(rows),
                Err(error) => error,
            };
            drop(connection);
            if !patience.has_waited_for(&error).await {
                return Err(failed(error, meaning));
            }
        }
    }

    /// Runs a statement that reads one record, if possible on the connection that the store keeps
    /// for that.
    pub(super) async fn read<'q>(
        &self,
        statement: &SqlStr,
        bind: impl Fn(Statement<'q>) -> Statement<'q> + Send + Sync,
    ) -> Result<Vec<SqliteRow>, StoreError> {
        let patience = Patience::new();
        // Another read has the connection: the pool has others.
        if let Ok(mut reader) = self.reader.0.try_lock()
            && let Some(mut kept) = Reader::take(&mut reader, &self.pool)
        {
            // A read that is dropped before its end drops the connection too: its thread is still
            // at work, and the next read would wait for it.
            let bound = bind(sqlx::query(statement.clone()).bind(clock()));
            match bound.fetch_all(&mut kept.connection).await {
                Ok(rows) => {
                    *reader = Some(kept);
                    return Ok(rows);
                }
                // Without WAL a read waits for writers.
                Err(error) if is_busy(&error) => {
                    *reader = Some(kept);
                    if !patience.has_waited_for(&error).await {
                        return Err(failed(error, meaning));
                    }
                }
                // If the error is not of this connection alone, the pool's connection has it too.
                Err(_) => {}
            }
        }
        self.run_until(&patience, statement, bind).await
    }

    /// Runs a statement that writes, once all statements have ended that this
    /// process began to write earlier. Without this order each statement would
    /// ask for SQLite's lock again and again, and some would ask in vain.
    pub(super) async fn run_in_turn<'q>(
        &self,
        statement: &SqlStr,
        bind: impl Fn(Statement<'q>) -> Statement<'q> + Send + Sync,
    ) -> Result<Vec<SqliteRow>, StoreError> {
        let _turn = self.writing.lock().await;
        self.run(statement, bind).await
    }

    pub(super) async fn acquire(
        &self,
        patience: &Patience,
    ) -> Result<PoolConnection<Sqlite>, StoreError> {
        loop {
            let error = match self.pool.acquire().await {
                Ok(connection) => return Ok(connection),
                Err(error) => error,
            };
            if !patience.has_waited_for(&error).await {
                let unreached = if self.is_open { not_sent } else { not_opened };
                return Err(unreached(error, meaning));
            }
        }
    }
}

/// The connection that a store keeps to read records.
///
/// The pool pings each connection that comes back, which is a second trip to the thread of the
/// connection; and the pool lends its connections in turn, so that the cache of each is older.
#[derive(Default)]
pub(super) struct Reader(Mutex<Option<Kept>>);

pub(super) struct Kept {
    connection: SqliteConnection,
    since: Instant,
}

impl Reader {
    /// Takes the connection that is kept, or an idle one out of the pool, which may make another one
    /// in its place. A pool of one connection keeps it: its database may be in memory.
    fn take(kept: &mut Option<Kept>, pool: &SqlitePool) -> Option<Kept> {
        let options = pool.options();
        let is_old = |kept: &Kept| {
            let longest = options.get_max_lifetime();
            longest.is_some_and(|longest| kept.since.elapsed() > longest)
        };
        if pool.is_closed() || kept.as_ref().is_some_and(is_old) {
            *kept = None;
        }
        if kept.is_none() && options.get_max_connections() > 1 {
            return pool.try_acquire().map(|idle| Kept {
                connection: idle.detach(),
                since: Instant::now(),
            });
        }
        kept.take()
    }
}

/// The time until an operation gives up.
pub(super) struct Patience {
    until: Instant,
}

impl Patience {
    pub(super) fn new() -> Self {
        Self {
            until: Instant::now() + PATIENCE,
        }
    }

    /// Waits about 1 ms and returns `true`, if the database was busy and there
    /// is time left.
    pub(super) async fn has_waited_for(&self, error: &sqlx::Error) -> bool {
        let waits = is_busy(error) && Instant::now() < self.until;
        if waits {
            let moment = Duration::from_millis(1).mul_f64(rand::random_range(0.5..1.5));
            tokio::time::sleep(moment).await;
        }
        waits
    }
}

/// The clock of this machine, in microseconds since 1970.
pub(super) fn clock() -> i64 {
    micros_since_epoch(SystemTime::now())
}
