//! This module measures what a handler with one INSERT in a transaction takes:
//! bare, behind the layer (which completes the record afterwards), with its
//! claim committed in that transaction, with its claim made there too, and with a table
//! of keys that the handler keeps by itself.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::Full;
use sqlx::mysql::MySqlPoolOptions;
use sqlx::postgres::PgPoolOptions;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use tower::{Layer, ServiceExt, service_fn};
use tower_idempotency::exactly_once::{CommitError, SqlClaim};
use tower_idempotency::options::ExactlyOnce;
use tower_idempotency::{IdempotencyLayer, MySqlStore, PostgresStore, SqliteStore, scope};

use crate::{BATCH, median, quartiles, timed};

const AT_ONCE: [usize; 2] = [1, 16];

type Call = Pin<Box<dyn Future<Output = ()> + Send>>;
type ResponseHead = Response<Full<Bytes>>;

struct Handlers {
    engine: &'static str,
    /// The calls are, in this order: the bare handler, the handler behind the
    /// layer, the handler that commits the claim, the handler that makes the claim, and the handler with
    /// keys of its own.
    calls: [Arc<dyn Fn() -> Call>; 5],
}

fn paid() -> ResponseHead {
    let mut response = Response::new(Full::new(Bytes::from(vec![b'x'; 256])));
    *response.status_mut() = StatusCode::CREATED;
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert("content-type", json);
    response
}

fn request() -> Request<Full<Bytes>> {
    let key = format!("{:032x}", rand::random::<u128>());
    let body = Full::new(Bytes::from_static(&[b'x'; 1024]));
    let request = Request::post("/payments").header("idempotency-key", key);
    request.body(body).unwrap()
}

/// The service and the request are made before the clock starts, so the clock
/// measures the call and nothing else.
macro_rules! handlers {
    ($engine:literal, $Db:ty, $pool:expr, $store:expr, $begin:literal, $insert:literal, $update:literal) => {{
        let pool = $pool;
        let store = $store;
        let inside = IdempotencyLayer::builder(store.clone(), scope::shared())
            .defaults(|options| options.exactly_once(ExactlyOnce::InTransaction))
            .build()
            .unwrap();
        let layer = IdempotencyLayer::new(store, scope::shared()).unwrap();
        let claiming = {
            let pool = pool.clone();
            move |request: Request<Full<Bytes>>| {
                let pool = pool.clone();
                async move {
                    let claim = SqlClaim::<$Db>::of(request.extensions()).unwrap();
                    let mut transaction = claim.begin(&pool).await?;
                    sqlx::query("INSERT INTO bench_ledger (entry) VALUES ('paid')")
                        .execute(&mut *transaction)
                        .await?;
                    claim.commit(transaction, paid()).await
                }
            }
        };
        let by_hand = {
            let pool = pool.clone();
            move |request: Request<Full<Bytes>>| {
                let pool = pool.clone();
                async move {
                    let key = request.headers()["idempotency-key"].as_bytes().to_vec();
                    let mut transaction = pool.begin_with($begin).await?;
                    let claimed = sqlx::query($insert).bind(key.clone());
                    let claimed = claimed.execute(&mut *transaction).await?;
                    assert_eq!(claimed.rows_affected(), 1);
                    sqlx::query("INSERT INTO bench_ledger (entry) VALUES ('paid')")
                        .execute(&mut *transaction)
                        .await?;
                    let response = paid();
                    sqlx::query($update)
                        .bind(vec![b'x'; 256])
                        .bind(key)
                        .execute(&mut *transaction)
                        .await?;
                    transaction.commit().await?;
                    Ok::<_, CommitError>(response)
                }
            }
        };
        let begins = {
            let pool = pool.clone();
            move || {
                let pool = pool.clone();
                async move {
                    let mut transaction = pool.begin_with($begin).await?;
                    sqlx::query("INSERT INTO bench_ledger (entry) VALUES ('paid')")
                        .execute(&mut *transaction)
                        .await?;
                    Ok::<_, sqlx::Error>(transaction)
                }
            }
        };
        let ends = begins.clone();
        let separate = move |_: Request<Full<Bytes>>| {
            let begun = ends();
            async move {
                begun.await?.commit().await?;
                Ok::<_, CommitError>(paid())
            }
        };
        let committed = move |request: Request<Full<Bytes>>| {
            let begun = begins();
            async move {
                let claim = SqlClaim::<$Db>::of(request.extensions()).unwrap();
                claim.commit(begun.await?, paid()).await
            }
        };
        let bare = service_fn(separate.clone());
        let behind = layer.layer(service_fn(separate));
        let committed = layer.layer(service_fn(committed));
        let claiming = inside.layer(service_fn(claiming));
        let by_hand = service_fn(by_hand);
        Handlers {
            engine: $engine,
            calls: [
                calls(move || bare.clone().oneshot(request())),
                calls(move || behind.clone().oneshot(request())),
                calls(move || committed.clone().oneshot(request())),
                calls(move || claiming.clone().oneshot(request())),
                calls(move || by_hand.clone().oneshot(request())),
            ],
        }
    }};
}

fn calls<F, B, E>(call: impl Fn() -> F + 'static) -> Arc<dyn Fn() -> Call>
where
    F: Future<Output = Result<Response<B>, E>> + Send + 'static,
    E: std::fmt::Debug,
{
    Arc::new(move || {
        let call = call();
        Box::pin(async move { assert_eq!(call.await.unwrap().status(), StatusCode::CREATED) })
    })
}

macro_rules! tables {
    ($pool:expr, $keys:literal) => {
        for statement in [
            "DROP TABLE IF EXISTS bench_keys",
            $keys,
            "DROP TABLE IF EXISTS bench_ledger",
            "CREATE TABLE bench_ledger (entry VARCHAR(20) NOT NULL)",
        ] {
            sqlx::raw_sql(statement).execute(&$pool).await.unwrap();
        }
    };
}

async fn all() -> Vec<Handlers> {
    let mut handlers = Vec::new();
    if let Ok(url) = std::env::var("TEST_POSTGRES_URL") {
        let pool = PgPoolOptions::new()
            .max_connections(64)
            .test_before_acquire(false);
        let pool = pool.connect(&url).await.unwrap();
        tables!(
            pool,
            "CREATE TABLE bench_keys (id bytea PRIMARY KEY, answer bytea)"
        );
        let store = PostgresStore::builder(pool.clone()).table("bench_records");
        store.migrate().await.unwrap();
        let store = store.open().await.unwrap();
        handlers.push(handlers!(
            "PostgreSQL",
            sqlx::Postgres,
            pool,
            store,
            "BEGIN",
            "INSERT INTO bench_keys (id) VALUES ($1) ON CONFLICT DO NOTHING",
            "UPDATE bench_keys SET answer = $1 WHERE id = $2"
        ));
    }
    if let Ok(url) = std::env::var("TEST_MYSQL_URL") {
        let pool = MySqlPoolOptions::new()
            .max_connections(64)
            .test_before_acquire(false);
        let pool = pool.connect(&url).await.unwrap();
        tables!(
            pool,
            "CREATE TABLE bench_keys (id VARBINARY(32) PRIMARY KEY, answer BLOB)"
        );
        let store = MySqlStore::builder(pool.clone()).table("bench_records");
        store.migrate().await.unwrap();
        let store = store.open().await.unwrap();
        handlers.push(handlers!(
            "MariaDB",
            sqlx::MySql,
            pool,
            store,
            "BEGIN",
            "INSERT IGNORE INTO bench_keys (id) VALUES (?)",
            "UPDATE bench_keys SET answer = ? WHERE id = ?"
        ));
    }
    let file = std::env::temp_dir().join(format!("bench-handlers-{}.db", std::process::id()));
    let options = SqliteConnectOptions::new()
        .filename(&file)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full);
    let pool = SqlitePoolOptions::new()
        .max_connections(8)
        .test_before_acquire(false);
    let pool = pool.connect_with(options).await.unwrap();
    tables!(
        pool,
        "CREATE TABLE bench_keys (id BLOB PRIMARY KEY, answer BLOB)"
    );
    let store = SqliteStore::builder(pool.clone());
    store.migrate().await.unwrap();
    let store = store.open().await.unwrap();
    handlers.push(handlers!(
        "SQLite",
        sqlx::Sqlite,
        pool,
        store,
        "BEGIN IMMEDIATE",
        "INSERT INTO bench_keys (id) VALUES (?) ON CONFLICT DO NOTHING",
        "UPDATE bench_keys SET answer = ? WHERE id = ?"
    ));
    handlers
}

/// Takes turns with the kinds of handlers, a few calls each, so that what slows the machine down slows
/// all of them. A ratio is taken within one turn.
pub(crate) async fn measure(rounds: usize) {
    println!("a handler with one INSERT, {rounds} rounds of {BATCH} calls each, medians:");
    println!(
        "{:<22} {:>8} {:>9} {:>10} {:>10} {:>15} {:>10}",
        "", "at once", "bare us", "separate", "committed", "in transaction", "key table"
    );
    let mut of_targets = Vec::new();
    for handlers in all().await {
        for at_once in AT_ONCE {
            let calls = 4 * at_once;
            let mut turns: Vec<[f64; 5]> = Vec::new();
            // The first turn wakes idle connections and is not counted.
            for turn in 0..=rounds * BATCH.div_ceil(calls) {
                let mut times = [0.0; 5];
                for at in 0..times.len() {
                    let kind = (at + turn) % times.len();
                    let time = timed(at_once, calls, |_| handlers.calls[kind]()).await;
                    times[kind] =
                        time.as_secs_f64() * 1e6 / f64::from(u32::try_from(calls).unwrap());
                }
                turns.push(times);
            }
            let turns = &turns[1..];
            let bare = median(turns.iter().map(|times| times[0]));
            let ratios = |of: usize| turns.iter().map(move |times| times[of] / times[0]);
            println!(
                "{:<22} {at_once:>8} {bare:>9.1} {:>10.2} {:>10.2} {:>15.2} {:>10.2}",
                handlers.engine,
                median(ratios(1)),
                median(ratios(2)),
                median(ratios(3)),
                median(ratios(4))
            );
            if at_once == 1 {
                let most = match handlers.engine {
                    "PostgreSQL" => "1.6",
                    _ => "1.8",
                };
                of_targets.push((handlers.engine, quartiles(ratios(3)), most));
            }
        }
    }
    println!();
    for (engine, [low, middle, high], most) in of_targets {
        let name = format!("{engine}: in transaction to bare, one at a time");
        println!("{name:<50} {low:>8.2} {middle:>8.2} {high:>8.2} {most:>8}");
    }
}
