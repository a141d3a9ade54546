//! This module runs the tests on MySQL and MariaDB.

use std::sync::Arc;

use http::StatusCode;
use sqlx::mysql::{MySqlConnectOptions, MySqlPoolOptions};
use sqlx::{AssertSqlSafe, MySql, Pool};
use tokio::sync::Notify;
use tower::BoxError;
use tower_idempotency::MySqlStore;
use tower_idempotency::exactly_once::{CommitError, CommitErrorKind};
use tower_idempotency::store::{Ownership, RecordId, RecordedStep, Store as _};

use crate::servers;
use crate::steps::{lease_of, step_claim};

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

type Db = MySql;
type Store = MySqlStore;

const BEGUN_TWICE: CommitErrorKind = CommitErrorKind::BegunTwice;
const LEDGER: &str = "CREATE TABLE {ledger} (entry VARCHAR(20) NOT NULL)";
const LAPSE: &str = "UPDATE {t} SET lapses_at = 0; DELETE FROM {t}_renewals";
/// This query returns the time of the last renewal as a number.
const RENEWED: &str = "SELECT COALESCE(MAX(lapses_at), 0) FROM {t}_renewals";
/// A session runs one of these statements before it begins a transaction.
const ISOLATIONS: [&str; 3] = [
    "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED",
    "SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ",
    "SET SESSION TRANSACTION ISOLATION LEVEL SERIALIZABLE",
];
/// A session that runs this statement has read-only transactions.
const READ_ONLY: &str = "SET SESSION TRANSACTION READ ONLY";
const KILL: &str = "KILL CONNECTION {id}";
const WHO: &str = "SELECT CAST(CONNECTION_ID() AS SIGNED)";
/// A message that asks to commit ends with these bytes.
const COMMIT: &[u8] = b"COMMIT";
/// How often a commit syncs: the log of `InnoDB`, and the binary log.
const SYNCS: i64 = 2;
/// Whether nothing else syncs, and each commit does.
const SYNCS_ALONE: bool = false;

fn options() -> MySqlConnectOptions {
    let url = servers::url("TEST_MYSQL_URL");
    url.parse().expect("TEST_MYSQL_URL is a URL")
}

fn address() -> String {
    format!("{}:{}", options().get_host(), options().get_port())
}

fn options_at(port: u16) -> MySqlConnectOptions {
    let options = options().host("127.0.0.1").port(port);
    options.ssl_mode(sqlx::mysql::MySqlSslMode::Disabled)
}

async fn pool() -> Pool<Db> {
    pool_with(options())
}

fn pool_with(options: MySqlConnectOptions) -> Pool<Db> {
    MySqlPoolOptions::new()
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
    let builder = MySqlStore::builder(pool.clone()).table(table);
    builder.migrate().await.unwrap();
    builder.open().await.unwrap()
}

/// A connection to a server of the test's own, which syncs little by itself.
async fn quiet() -> (Pool<Db>, servers::Server) {
    let settings = ["--innodb-flush-log-at-timeout=2700"];
    let server = tokio::task::spawn_blocking(move || servers::Server::start("mysql", &settings));
    let server = server.await.unwrap();
    let pool = MySqlPoolOptions::new().max_connections(1);
    (pool.connect_lazy(server.url()).unwrap(), server)
}

/// How often the server has synced its files, and its binary log, which it syncs once for each group
/// of commits.
async fn synced(shop: &shop::Shop) -> i64 {
    let both = "SELECT CAST(SUM(variable_value) AS SIGNED) FROM information_schema.global_status \
                WHERE variable_name IN ('INNODB_DATA_FSYNCS', 'BINLOG_GROUP_COMMITS')";
    shop.number(both).await
}

/// The owner of a lapsed lease renews it: it has locked its renewals, and has not committed yet.
#[tokio::test]
async fn a_claim_in_a_transaction_takes_no_lease_away_that_is_being_renewed() {
    let shop = Shop::open().await;
    let (reached, goes_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let old = {
        let (shop, reached, goes_on) = (shop.clone(), reached.clone(), goes_on.clone());
        till(&shop.builder().build().unwrap(), move |request| {
            let (shop, reached, goes_on) = (shop.clone(), reached.clone(), goes_on.clone());
            async move {
                reached.notify_one();
                goes_on.notified().await;
                shop.pay(&claim(&request)).await
            }
        })
    };
    let first = {
        let old = old.clone();
        tokio::spawn(async move { ask(&old, "k").await })
    };
    reached.notified().await;
    // As it was when the claim was made, so that the record is not past its end.
    shop.run("UPDATE {t} SET lapses_at = token").await;
    let record = sqlx::query_as::<_, (Vec<u8>, Vec<u8>)>(shop.sql("SELECT id, nonce FROM {t}"));
    let (id, nonce) = record.fetch_one(&shop.pool).await.unwrap();
    let mut renewal = shop.begin().await;
    let renew = AssertSqlSafe(format!("CALL {}_extend(?, ?, 60000000, @held)", shop.table));
    let renewed = sqlx::query(renew).bind(id).bind(nonce);
    renewed.execute(&mut *renewal).await.unwrap();

    let new = shop.till_inside(&inside::layer_of(&shop));
    assert_refused(&ask(&new, "k").await, 409, "in-flight");
    renewal.commit().await.unwrap();
    assert_refused(&ask(&new, "k").await, 409, "in-flight");
    goes_on.notify_one();
    assert_eq!(first.await.unwrap(), got(201, "paid 1"));
    assert_eq!(ask(&new, "k").await, got(201, "paid 1"));
    assert_eq!(shop.entries().await, 1);
}

/// A server at `REPEATABLE READ` locks the gap beside what a statement removes.
#[tokio::test]
async fn a_claim_that_takes_over_what_is_past_its_end_is_in_no_others_way() {
    for with_step in [false, true] {
        let shop = Shop::open().await;
        let layer = step_in::with_steps(&shop).build().unwrap();
        let old = till(&layer, move |request| async move {
            if with_step {
                let context = claim(&request).context();
                let step = context.step("charge", async |_| Ok::<_, CommitError>(1));
                step.await?;
            }
            Ok::<_, BoxError>(answer(StatusCode::SERVICE_UNAVAILABLE, "later"))
        });
        assert_eq!(ask(&old, "k").await, got(503, "later"));
        shop.run("UPDATE {t} SET expires_at = 1").await;

        let (reached, goes_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let inside = {
            let (shop, reached, goes_on) = (shop.clone(), reached.clone(), goes_on.clone());
            till(&inside::layer_of(&shop.clone()), move |request| {
                let (shop, reached, goes_on) = (shop.clone(), reached.clone(), goes_on.clone());
                async move {
                    let claim = claim(&request);
                    let mut transaction = claim.begin(&shop.handlers).await?;
                    reached.notify_one();
                    goes_on.notified().await;
                    shop.write(&mut transaction).await?;
                    claim.commit(transaction, shop.paid()).await
                }
            })
        };
        let asked = tokio::spawn(async move { ask(&inside, "k").await });
        reached.notified().await;
        for first in [0, 255] {
            let mut id = [first; 32];
            id[1..].fill_with(rand::random);
            let lease = lease_of(&shop.store, &step_claim(RecordId::from_bytes(id))).await;
            let step = RecordedStep::new("reserve", "1");
            let recorded = shop.store.record_step(&lease, &step).await;
            assert_eq!(
                recorded.unwrap(),
                Ownership::Held,
                "with a step: {with_step}"
            );
        }
        goes_on.notify_one();
        assert_eq!(asked.await.unwrap(), got(201, "paid 1"));
        let steps = "SELECT count(*) FROM {t}_steps";
        assert_eq!(shop.number(steps).await, 2, "those of the others");
    }
}
