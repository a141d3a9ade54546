//! This module runs the tests on PostgreSQL.

use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{Pool, Postgres};
use tower_idempotency::PostgresStore;
use tower_idempotency::exactly_once::CommitErrorKind;

use crate::servers;

#[path = "shop.rs"]
mod shop;

#[path = "committing.rs"]
mod committing;
#[path = "inside.rs"]
mod inside;
#[path = "inside_records.rs"]
mod inside_records;
#[path = "inside_wire.rs"]
mod inside_wire;
#[path = "isolation.rs"]
mod isolation;
#[path = "lost_commits.rs"]
mod lost_commits;
#[path = "refusals.rs"]
mod refusals;
#[path = "routes.rs"]
mod routes;
#[path = "step_commits.rs"]
mod step_commits;
#[path = "step_in.rs"]
mod step_in;
#[path = "step_killed.rs"]
mod step_killed;
#[path = "syncs.rs"]
mod syncs;

use shop::*;

type Db = Postgres;
type Store = PostgresStore;

const BEGUN_TWICE: CommitErrorKind = CommitErrorKind::BegunTwice;
const LEDGER: &str = "CREATE TABLE {ledger} (entry text NOT NULL)";
const LAPSE: &str = "UPDATE {t} SET lapses_at = 'epoch'; DELETE FROM {t}_renewals";
/// This query returns the time of the last renewal as a number.
const RENEWED: &str =
    "SELECT coalesce(max(extract(epoch FROM lapses_at) * 1000000), 0)::bigint FROM {t}_renewals";
/// A session runs one of these statements before it begins a transaction.
const ISOLATIONS: [&str; 3] = [
    "SET default_transaction_isolation = 'read committed'",
    "SET default_transaction_isolation = 'repeatable read'",
    "SET default_transaction_isolation = 'serializable'",
];
/// A session that runs this statement has read-only transactions.
const READ_ONLY: &str = "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY";
const KILL: &str = "SELECT pg_terminate_backend({id})";
const WHO: &str = "SELECT pg_backend_pid()::bigint";
/// A message that asks to commit ends with these bytes.
const COMMIT: &[u8] = b"COMMIT\0";
/// How often a commit syncs: the log.
const SYNCS: i64 = 1;
/// Whether nothing else syncs, and each commit does.
const SYNCS_ALONE: bool = false;

fn options() -> PgConnectOptions {
    let url = servers::url("TEST_POSTGRES_URL");
    url.parse().expect("TEST_POSTGRES_URL is a URL")
}

fn address() -> String {
    format!("{}:{}", options().get_host(), options().get_port())
}

fn options_at(port: u16) -> PgConnectOptions {
    let options = options().host("127.0.0.1").port(port);
    options.ssl_mode(sqlx::postgres::PgSslMode::Disable)
}

async fn pool() -> Pool<Db> {
    pool_with(options())
}

fn pool_with(options: PgConnectOptions) -> Pool<Db> {
    PgPoolOptions::new()
        .max_connections(8)
        .connect_lazy_with(options)
}

/// What another process needs to know to open the same database: that is in its environment.
fn place_of(_: &Pool<Db>) -> String {
    String::new()
}

fn pool_at(_: &str) -> Pool<Db> {
    pool_with(options())
}

async fn store(pool: &Pool<Db>, table: &str) -> Store {
    let builder = PostgresStore::builder(pool.clone()).table(table);
    builder.migrate().await.unwrap();
    builder.open().await.unwrap()
}

/// Waiting processes are registered in a table. The transaction does not touch that
/// table at any isolation level; the store notifies the registered processes after
/// the commit.
#[tokio::test]
async fn who_waits_is_told_after_the_commit() {
    for level in ISOLATIONS {
        let shop = isolation::at(level).await;
        let layer = shop.builder().build().unwrap();
        let till = {
            let shop = Arc::clone(&shop);
            till(&layer, move |request| {
                let shop = Arc::clone(&shop);
                async move {
                    let claim = claim(&request);
                    let mut transaction = shop.begin().await;
                    shop.write(&mut transaction).await.unwrap();
                    let waits = "INSERT INTO {t}_waiters VALUES ($1, 'x', now() + interval '1 h')";
                    sqlx::query(shop.sql(waits))
                        .bind(&claim.context().record_id().as_bytes()[..])
                        .execute(&shop.pool)
                        .await
                        .unwrap();
                    claim.commit(transaction, shop.paid()).await
                }
            })
        };
        assert_eq!(ask(&till, "k").await, got(201, "paid 1"), "{level}");
        assert_eq!(layer.drain(Duration::from_secs(10)).await, 0);
        let waiting = shop.number("SELECT count(*) FROM {t}_waiters").await;
        assert_eq!(waiting, 0, "{level}");
    }
}

/// A connection to a server of the test's own, which syncs little by itself.
async fn quiet() -> (Pool<Db>, servers::Server) {
    let settings = ["wal_writer_delay = 10s", "autovacuum = off"];
    let server = tokio::task::spawn_blocking(move || servers::Server::start("postgres", &settings));
    let server = server.await.unwrap();
    let pool = PgPoolOptions::new().max_connections(1);
    (pool.connect_lazy(server.url()).unwrap(), server)
}

/// How often the server has flushed its log to the disk. The only session says first what it did.
async fn synced(shop: &Shop) -> i64 {
    shop.run("SELECT pg_stat_force_next_flush()").await;
    shop.number("SELECT wal_sync FROM pg_stat_wal").await
}
