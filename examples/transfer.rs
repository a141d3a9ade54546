//! Money moves between two accounts in SQLite, and never twice, however often the request comes. The
//! claim of its key, the two writes and the recorded response are one transaction with one commit
//! (`exactly_once = "in_transaction"`), so that a crash at any instant leaves all of them or nothing, and
//! a retry need not wait for a lease.
//!
//! ```text
//! cargo run --example transfer --features sqlite
//! ```

use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{Sqlite, SqlitePool};
use tokio::task::JoinSet;
use tower::util::BoxCloneSyncService;
use tower::{Layer, ServiceExt, service_fn};
use tower_idempotency::exactly_once::{CommitError, SqlClaim};
use tower_idempotency::options::{ExactlyOnce, OnInFlight, Require};
use tower_idempotency::{IdempotencyLayer, ResponseBody, SqliteStore, scope};

type BoxError = Box<dyn std::error::Error + Send + Sync>;
type Asked = Request<Full<Bytes>>;
type Bank = BoxCloneSyncService<Asked, Response<ResponseBody<Full<Bytes>>>, CommitError>;

/// The handler. Whatever ends it before the commit, a crash too, ends its transaction.
async fn transfer(pool: SqlitePool, request: Asked) -> Result<Response<Full<Bytes>>, CommitError> {
    let claim = SqlClaim::<Sqlite>::of(request.extensions()).expect("a key is required");
    let mut tx = claim.begin(&pool).await?;
    let take = "UPDATE accounts SET euros = euros - 10 WHERE name = 'alice'";
    sqlx::query(take).execute(&mut *tx).await?;
    if request.headers()["x-breaks-off"] == "true" {
        let mut sorry = Response::new(Full::from("the other account's bank is closed"));
        *sorry.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        return Ok(sorry);
    }
    let give = "UPDATE accounts SET euros = euros + 10 WHERE name = 'bob'";
    sqlx::query(give).execute(&mut *tx).await?;
    let number = sqlx::query_scalar("INSERT INTO transfers DEFAULT VALUES RETURNING number");
    let number: i64 = number.fetch_one(&mut *tx).await?;
    let done = Response::new(Full::<Bytes>::from(format!("transfer {number}")));
    claim.commit(tx, done).await
}

/// The store and the handlers have one database, and may have one pool.
async fn bank(pool: &SqlitePool) -> Result<Bank, BoxError> {
    let records = SqliteStore::builder(pool.clone());
    records.migrate().await?;
    let layer = IdempotencyLayer::builder(records.open().await?, scope::shared())
        .defaults(|options| {
            options
                .require(Require::Required)
                .exactly_once(ExactlyOnce::InTransaction)
                .on_in_flight(OnInFlight::Wait(Duration::from_secs(20)))
        })
        .build()?;
    let pool = pool.clone();
    let handler = service_fn(move |request| transfer(pool.clone(), request));
    Ok(BoxCloneSyncService::new(layer.layer(handler)))
}

/// Sends one request, and returns the status, the body, and whether the response was replayed.
async fn send(bank: &Bank, key: &str, breaks_off: bool) -> Result<(u16, String, bool), BoxError> {
    let request = Request::post("/transfers").header("idempotency-key", key);
    let request = request.header("x-breaks-off", breaks_off.to_string());
    let response = bank.clone().oneshot(request.body(Full::default())?).await?;
    let status = response.status().as_u16();
    let replayed = response.headers().contains_key("idempotency-replayed");
    let body = response.into_body().collect().await?.to_bytes();
    Ok((status, String::from_utf8(body.to_vec())?, replayed))
}

async fn balances(pool: &SqlitePool) -> Result<String, sqlx::Error> {
    let all = "SELECT group_concat(name || ' ' || euros, ', ') FROM accounts";
    let balances: String = sqlx::query_scalar(all).fetch_one(pool).await?;
    println!("  {balances}");
    Ok(balances)
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let file = std::env::temp_dir().join(format!("transfer-{}.db", std::process::id()));
    let options = SqliteConnectOptions::new()
        .filename(&file)
        .create_if_missing(true);
    let pool = SqlitePool::connect_with(options).await?;
    let tables = "CREATE TABLE accounts (name TEXT PRIMARY KEY, euros INTEGER NOT NULL);
        CREATE TABLE transfers (number INTEGER PRIMARY KEY);
        INSERT INTO accounts VALUES ('alice', 100), ('bob', 0)";
    sqlx::raw_sql(tables).execute(&pool).await?;
    let bank = bank(&pool).await?;

    println!("A handler takes the money, and breaks off before it has given it to anybody:");
    let (status, body, _) = send(&bank, "rent-june", true).await?;
    println!("  {status} {body}");
    assert_eq!(balances(&pool).await?, "alice 100, bob 0");

    println!("The client tries again, ten times at once:");
    let mut retries = JoinSet::new();
    for _ in 0..10 {
        let bank = bank.clone();
        retries.spawn(async move { send(&bank, "rent-june", false).await });
    }
    for retried in retries.join_all().await {
        let (status, body, replayed) = retried?;
        println!(
            "  {status} {body}{}",
            if replayed { ", replayed" } else { "" }
        );
        assert_eq!((status, &*body), (200, "transfer 1"));
    }
    assert_eq!(balances(&pool).await?, "alice 90, bob 10");
    pool.close().await;
    std::fs::remove_file(&file)?;
    Ok(())
}
