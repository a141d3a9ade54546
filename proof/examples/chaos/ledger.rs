//! Operations take effect in the ledger. Each effect is one line, and the ledger
//! does not refuse a second line.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlx::mysql::{MySqlPool, MySqlPoolOptions};
use sqlx::postgres::{PgPool, PgPoolOptions};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions};

use super::BoxError;
use super::history::Entry;
use super::plan::Body;

/// The ledger is in the database of the records if the records are in a database,
/// and in a file otherwise.
#[derive(Clone, Debug)]
pub(crate) enum Ledger {
    Postgres(PgPool),
    MySql(MySqlPool),
    Sqlite(SqlitePool),
    File(PathBuf),
}

const CREATE: [&str; 3] = [
    "CREATE TABLE IF NOT EXISTS chaos_ledger (number BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY, \
     run TEXT NOT NULL, operation BIGINT NOT NULL, body TEXT NOT NULL, execution TEXT NOT NULL)",
    "CREATE TABLE IF NOT EXISTS chaos_ledger (number BIGINT AUTO_INCREMENT PRIMARY KEY, \
     run VARCHAR(40) NOT NULL, operation BIGINT NOT NULL, body VARCHAR(10) NOT NULL, \
     execution VARCHAR(80) NOT NULL)",
    "CREATE TABLE IF NOT EXISTS chaos_ledger (number INTEGER PRIMARY KEY, \
     run TEXT NOT NULL, operation INTEGER NOT NULL, body TEXT NOT NULL, execution TEXT NOT NULL)",
];
pub(crate) const INSERT_DOLLAR: &str =
    "INSERT INTO chaos_ledger (run, operation, body, execution) VALUES ($1, $2, $3, $4)";
pub(crate) const INSERT: &str =
    "INSERT INTO chaos_ledger (run, operation, body, execution) VALUES (?, ?, ?, ?)";
const ALL_DOLLAR: &str =
    "SELECT operation, body, execution FROM chaos_ledger WHERE run = $1 ORDER BY number";
const ALL: &str =
    "SELECT operation, body, execution FROM chaos_ledger WHERE run = ? ORDER BY number";

/// Each server has this many connections to the ledger, and as many to the records.
pub(crate) const CONNECTIONS: u32 = 4;

type Row = (i64, String, String);

impl Ledger {
    pub(crate) async fn open(store: &str, file: &Path) -> Result<Self, BoxError> {
        // A slow connection attempt must not fail the run.
        const WAIT: Duration = Duration::from_secs(20);
        Ok(match store.split(':').next() {
            Some("postgres" | "postgresql") => {
                let pool = PgPoolOptions::new().acquire_timeout(WAIT);
                Self::Postgres(pool.max_connections(CONNECTIONS).connect_lazy(store)?)
            }
            Some("mysql" | "mariadb") => {
                let pool = MySqlPoolOptions::new().acquire_timeout(WAIT);
                Self::MySql(pool.max_connections(CONNECTIONS).connect_lazy(store)?)
            }
            Some("sqlite") => {
                let options: SqliteConnectOptions = store.parse()?;
                let options = options
                    .create_if_missing(true)
                    .journal_mode(SqliteJournalMode::Wal)
                    .busy_timeout(Duration::from_secs(3));
                let pool = SqlitePoolOptions::new().acquire_timeout(WAIT);
                Self::Sqlite(pool.connect_with(options).await?)
            }
            _ => Self::File(file.to_owned()),
        })
    }

    pub(crate) fn is_in_a_database(&self) -> bool {
        !matches!(self, Self::File(_))
    }

    pub(crate) async fn create(&self) -> Result<(), BoxError> {
        let [postgres, mysql, sqlite] = CREATE;
        match self {
            Self::Postgres(pool) => sqlx::query(postgres).execute(pool).await.map(drop)?,
            Self::MySql(pool) => sqlx::query(mysql).execute(pool).await.map(drop)?,
            Self::Sqlite(pool) => sqlx::query(sqlite).execute(pool).await.map(drop)?,
            Self::File(path) => drop(OpenOptions::new().create(true).append(true).open(path)?),
        }
        Ok(())
    }

    /// Opens the ledger's connections in advance, because opening is slow, above
    /// all in a debug build.
    pub(crate) async fn warm_up(&self) -> Result<(), BoxError> {
        macro_rules! hold {
            ($pool:ident) => {{
                let mut held = Vec::new();
                for _ in 0..CONNECTIONS {
                    held.push($pool.acquire().await?);
                }
            }};
        }
        match self {
            Self::Postgres(pool) => hold!(pool),
            Self::MySql(pool) => hold!(pool),
            Self::Sqlite(_) | Self::File(_) => {}
        }
        Ok(())
    }

    /// Writes an entry and commits the entry in a transaction of its own.
    pub(crate) async fn write(&self, run: &str, entry: &Entry) -> Result<(), BoxError> {
        let operation = i64::from(entry.operation);
        let (body, execution) = (entry.body.name(), &entry.execution);
        macro_rules! insert {
            ($pool:ident, $statement:ident) => {
                sqlx::query($statement)
                    .bind(run)
                    .bind(operation)
                    .bind(body)
                    .bind(execution)
                    .execute($pool)
                    .await
                    .map(drop)?
            };
        }
        match self {
            Self::Postgres(pool) => insert!(pool, INSERT_DOLLAR),
            Self::MySql(pool) => insert!(pool, INSERT),
            Self::Sqlite(pool) => insert!(pool, INSERT),
            Self::File(path) => {
                let mut file = OpenOptions::new().append(true).open(path)?;
                file.write_all(format!("{run} {operation} {body} {execution}\n").as_bytes())?;
            }
        }
        Ok(())
    }

    pub(crate) async fn entries(&self, run: &str) -> Result<Vec<Entry>, BoxError> {
        let rows: Vec<Row> = match self {
            Self::Postgres(pool) => sqlx::query_as(ALL_DOLLAR).bind(run).fetch_all(pool).await?,
            Self::MySql(pool) => sqlx::query_as(ALL).bind(run).fetch_all(pool).await?,
            Self::Sqlite(pool) => sqlx::query_as(ALL).bind(run).fetch_all(pool).await?,
            Self::File(path) => {
                let text = std::fs::read_to_string(path)?;
                text.lines().filter_map(|line| parse(line, run)).collect()
            }
        };
        let entries = rows.into_iter().map(|(operation, body, execution)| {
            Ok(Entry {
                operation: u32::try_from(operation)?,
                body: Body::named(&body).ok_or("a body that nobody sends")?,
                execution,
            })
        });
        entries.collect()
    }
}

fn parse(line: &str, of: &str) -> Option<Row> {
    let mut words = line.split(' ');
    if words.next() != Some(of) {
        return None;
    }
    let operation = words.next()?.parse().ok()?;
    Some((
        operation,
        words.next()?.to_owned(),
        words.next()?.to_owned(),
    ))
}
