//! These tests run the store against PostgreSQL.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tokio::sync::{RwLock, RwLockReadGuard};
use tower_idempotency::PostgresStore;
use tower_idempotency::conformance;
use tower_idempotency::store::{Claim, Claimed, Lease, Store};
use tower_idempotency::store::{Fingerprint, RecordId, ScopeDigest};

use crate::servers;

mod faults;
mod isolation;
mod pgbouncer;
mod pooled;
mod purge;
mod replays;
mod schema;
mod steps;
mod unreadable;
mod upgrading;
mod waiting;

fn url() -> String {
    servers::url("TEST_POSTGRES_URL")
}

fn options() -> PgConnectOptions {
    url().parse().expect("TEST_POSTGRES_URL is a URL")
}

fn pool_with(options: PgConnectOptions) -> PgPool {
    PgPoolOptions::new()
        .max_connections(8)
        .connect_lazy_with(options)
}

fn pool() -> PgPool {
    pool_with(options())
}

/// Returns a name that no other test uses.
fn fresh(prefix: &str) -> String {
    static LAST: AtomicU32 = AtomicU32::new(0);
    let number = LAST.fetch_add(1, Ordering::Relaxed);
    format!(
        "{prefix}_{}_{number}_{:x}",
        std::process::id(),
        rand::random::<u32>()
    )
}

/// Every test holds this lock for reading. A test that measures the whole server
/// holds the lock for writing.
static SERVER: RwLock<()> = RwLock::const_new(());

/// `Fresh` is a table that belongs to one test.
struct Fresh {
    table: String,
    /// A test uses this pool to look at the table, and to change it in ways in
    /// which no store would.
    pool: PgPool,
    _server: Option<RwLockReadGuard<'static, ()>>,
}

impl Fresh {
    async fn new() -> Self {
        let server = SERVER.read().await;
        Self {
            _server: Some(server),
            ..Self::alone().await
        }
    }

    /// Makes a table for a test that has the server to itself.
    async fn alone() -> Self {
        let (table, pool) = (fresh("t"), pool());
        let builder = PostgresStore::builder(pool.clone()).table(&table);
        builder.migrate().await.unwrap();
        Self {
            table,
            pool,
            _server: None,
        }
    }

    async fn store(&self) -> PostgresStore {
        self.store_on(pool()).await
    }

    async fn store_on(&self, pool: PgPool) -> PostgresStore {
        PostgresStore::builder(pool)
            .table(&self.table)
            .purge_every(Duration::MAX)
            .open()
            .await
            .unwrap()
    }

    /// Returns a statement. `{t}` stands for the table's name.
    fn sql(&self, statement: &str) -> AssertSqlSafe<String> {
        AssertSqlSafe(statement.replace("{t}", &self.table))
    }

    async fn run(&self, statement: &str) -> u64 {
        sqlx::raw_sql(self.sql(statement))
            .execute(&self.pool)
            .await
            .unwrap()
            .rows_affected()
    }

    async fn count(&self, statement: &str) -> i64 {
        sqlx::query_scalar(self.sql(statement))
            .fetch_one(&self.pool)
            .await
            .unwrap()
    }
}

async fn connection() -> PgConnection {
    PgConnection::connect(&url()).await.unwrap()
}

fn id() -> RecordId {
    RecordId::from_bytes(rand::random())
}

fn claim_of(id: RecordId) -> Claim {
    let scope = ScopeDigest::from_bytes([2; 32]);
    Claim::new(id, scope, Fingerprint::from_bytes([3; 32]))
}

async fn acquire(store: &PostgresStore, claim: &Claim) -> Lease {
    match store.claim(claim).await.unwrap() {
        Claimed::Acquired(lease) => lease,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_contract_is_kept() {
    let fresh = Fresh::new().await;
    conformance::check(|| fresh.store()).await.assert_passed();
}

/// If a database or a role has another default isolation, then one snapshot serves
/// a whole call.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_contract_is_kept_whatever_the_default_isolation() {
    for level in ["repeatable read", "serializable"] {
        let fresh = Fresh::new().await;
        let options = options().options([("default_transaction_isolation", level)]);
        let report = conformance::check(|| fresh.store_on(pool_with(options.clone()))).await;
        println!("{level}");
        report.assert_passed();
    }
}
