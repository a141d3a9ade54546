//! These tests run the store against MySQL and MariaDB.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sqlx::mysql::{MySqlConnectOptions, MySqlPoolOptions};
use sqlx::{AssertSqlSafe, MySqlPool};
use tower_idempotency::MySqlStore;
use tower_idempotency::store::{Claim, Claimed, Lease, Record, RecordState};
use tower_idempotency::store::{Completion, Fingerprint, Nonce, RecordId, ScopeDigest, Store};

use crate::servers;

mod cancelled;
mod connecting;
mod crashes;
mod faults;
mod migrating;
mod operations;
mod purging;
mod racing;
pub(crate) mod refusals;
mod round_trips;
mod settings;
mod steps;
mod transactions;
mod unreadable;
mod upgrading;

fn url() -> MySqlConnectOptions {
    let url = servers::url("TEST_MYSQL_URL");
    url.parse().expect("TEST_MYSQL_URL is a mysql:// URL")
}

/// Returns the name of a table that no other test has.
fn table() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    format!("t{}_{count}", now.as_micros())
}

struct Place {
    pool: MySqlPool,
    table: String,
    store: MySqlStore,
}

impl Place {
    /// Opens a store in a table of its own, on a pool of this many connections.
    async fn new(connections: u32) -> Self {
        let pool = MySqlPoolOptions::new().max_connections(connections);
        Self::on(pool.connect_with(url()).await.unwrap()).await
    }

    async fn on(pool: MySqlPool) -> Self {
        let table = table();
        let builder = MySqlStore::builder(pool.clone())
            .table(&table)
            .purge_every(Duration::from_secs(86_400));
        builder.migrate().await.unwrap();
        let store = builder.open().await.unwrap();
        Self { pool, table, store }
    }

    /// Runs a statement. `{t}` stands for the table's name, and `{now}` for the
    /// server's clock.
    async fn run(&self, statement: &str) {
        run(&self.pool, &self.sql(statement)).await;
    }

    fn sql(&self, statement: &str) -> String {
        let now = "TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6))";
        statement.replace("{t}", &self.table).replace("{now}", now)
    }

    /// Returns the one number that a query selects.
    async fn number(&self, query: &str) -> i64 {
        sqlx::query_scalar(AssertSqlSafe(self.sql(query)))
            .fetch_one(&self.pool)
            .await
            .unwrap()
    }

    async fn acquire(&self, claim: &Claim) -> Lease {
        acquired(self.store.claim(claim).await.unwrap())
    }

    /// Returns whether the pool's next connection has an open transaction: the
    /// server refuses this statement in the middle of a transaction.
    async fn has_open_transaction(&self) -> bool {
        let set = "SET TRANSACTION ISOLATION LEVEL READ COMMITTED";
        sqlx::raw_sql(set).execute(&self.pool).await.is_err()
    }
}

async fn run(pool: &MySqlPool, statement: &str) {
    sqlx::raw_sql(AssertSqlSafe(statement))
        .execute(pool)
        .await
        .unwrap();
}

fn claim(id: u8) -> Claim {
    let scope = ScopeDigest::from_bytes([7; 32]);
    Claim::new(
        RecordId::from_bytes([id; 32]),
        scope,
        Fingerprint::from_bytes([9; 32]),
    )
}

/// Returns the same claim by another process.
fn another(claim: &Claim) -> Claim {
    let mut another = claim.clone();
    another.nonce = Nonce::random();
    another
}

fn paid(body: impl Into<bytes::Bytes>) -> tower_idempotency::store::Outcome {
    let completion = Completion::new(http::StatusCode::CREATED, body, SystemTime::now());
    tower_idempotency::store::Outcome::Completed(completion.into())
}

#[track_caller]
fn acquired(claimed: Claimed) -> Lease {
    match claimed {
        Claimed::Acquired(lease) => lease,
        other => panic!("not acquired: {other:?}"),
    }
}

#[track_caller]
fn found(claimed: Claimed) -> Record {
    match claimed {
        Claimed::Found(record) => record,
        other => panic!("not found: {other:?}"),
    }
}

#[track_caller]
fn is_in_flight(claimed: Claimed) {
    let record = found(claimed);
    assert!(
        matches!(record.state, RecordState::InFlight { .. }),
        "{record:?}"
    );
}

#[track_caller]
fn body(claimed: Claimed) -> bytes::Bytes {
    match found(claimed).state {
        RecordState::Completed { completion, .. } => completion.body.clone(),
        other => panic!("not completed: {other:?}"),
    }
}

/// Waits until a statement on this table has run for a second, and returns the id
/// of its connection. Only waiting for a lock takes that long.
async fn until_one_waits(place: &Place) -> i64 {
    // `innodb_trx` would not do: the server does not refresh that table while it is
    // read often.
    let query = "SELECT CAST(id AS SIGNED) FROM information_schema.processlist \
                 WHERE command = 'Execute' AND time >= 1 AND info LIKE '%{t}%'";
    let looks = MySqlPoolOptions::new().connect_with(url()).await.unwrap();
    for _ in 0..1000 {
        let waiting = sqlx::query_scalar(AssertSqlSafe(place.sql(query)))
            .fetch_optional(&looks)
            .await
            .unwrap();
        if let Some(id) = waiting {
            return id;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("nobody waits for a lock");
}
