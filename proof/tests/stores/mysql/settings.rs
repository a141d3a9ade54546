//! These tests run on servers of their own, with settings that lose or refuse records.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use sqlx::mysql::{MySqlConnectOptions, MySqlPoolOptions};
use sqlx::{MySqlPool, Row};
use tower::{Layer, ServiceExt, service_fn};
use tower_idempotency::options::OnLapsedLease;
use tower_idempotency::store::Store;
use tower_idempotency::{IdempotencyLayer, MySqlStore, scope};

use super::{acquired, another, claim, paid};
use crate::log::Log;
use crate::servers::Server;

async fn open(pool: &MySqlPool) -> MySqlStore {
    MySqlStore::builder(pool.clone()).migrate().await.unwrap();
    MySqlStore::open(pool.clone()).await.unwrap()
}

/// MariaDB has no binary log unless it is told to, and then other sessions see a commit that a
/// crash takes back.
#[tokio::test]
async fn a_server_that_loses_commits_is_named_and_does_not_do_for_exactly_once() {
    let server = Server::start("mysql", &["--skip-log-bin"]);
    let pool = MySqlPool::connect(server.url()).await.unwrap();
    let log = Log::default();
    let listening = log.listen();
    let store = open(&pool).await;
    drop(listening);
    let text = log.text();
    assert_eq!(
        text.matches("a crash of this server takes back").count(),
        1,
        "{text}"
    );
    for part in [" WARN ", "log_bin=0", "sync_binlog=1", "docs/stores.md"] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    let layer = |insists: bool| {
        let builder = IdempotencyLayer::builder(store.clone(), scope::shared());
        builder
            .defaults(|options| options.exactly_once(insists))
            .build()
    };
    assert!(layer(false).is_ok());
    let error = layer(true).unwrap_err();
    assert_eq!(error.option(), "exactly_once");
    assert!(error.to_string().contains("log_bin"), "{error}");

    no_statement_stays_on_the_server(server.url()).await;
    sqlx::raw_sql("SET GLOBAL max_allowed_packet = 65536")
        .execute(&pool)
        .await
        .unwrap();
    what_no_packet_holds_is_sealed(server.url()).await;
}

/// Without a cache the driver prepares a statement for each call, and has to take it back.
async fn no_statement_stays_on_the_server(url: &str) {
    let options: MySqlConnectOptions = url.parse().unwrap();
    let pool = MySqlPoolOptions::new()
        .max_connections(1)
        .connect_lazy_with(options.statement_cache_capacity(0));
    let store = MySqlStore::open(pool.clone()).await.unwrap();
    let before = prepared(&pool).await;
    for number in 0..20 {
        let lease = acquired(store.claim(&claim(number)).await.unwrap());
        store.complete(&lease, &paid("paid")).await.unwrap();
        store.claim(&another(&claim(number))).await.unwrap();
    }
    assert_eq!(prepared(&pool).await, before);
}

/// The number of prepared statements of all sessions.
async fn prepared(pool: &MySqlPool) -> i64 {
    let count = "SELECT CAST(variable_value AS SIGNED) FROM information_schema.global_status \
                 WHERE variable_name = 'prepared_stmt_count'";
    let count = sqlx::raw_sql(count).fetch_one(pool).await.unwrap();
    count.get(0)
}

async fn what_no_packet_holds_is_sealed(url: &str) {
    let store = open(&MySqlPool::connect(url).await.unwrap()).await;
    let log = Log::default();
    let listening = log.listen();
    let builder = IdempotencyLayer::builder(store, scope::shared());
    let refuses =
        |options: tower_idempotency::RouteOptions| options.on_lapsed_lease(OnLapsedLease::Refuse);
    let layer = builder.defaults(refuses).build().unwrap();
    drop(listening);
    let text = log.text();
    assert!(text.contains("max_recorded_body=1048576"), "{text}");
    assert!(text.contains("store_keeps_at_most=65536"), "{text}");

    let ran = Arc::new(AtomicU32::new(0));
    let service = layer.layer({
        let ran = Arc::clone(&ran);
        service_fn(move |request: Request<Full<Bytes>>| {
            ran.fetch_add(1, Ordering::Relaxed);
            let (body, header) = match request.uri().path() {
                "/body" => (200_000, 1),
                "/headers" => (1, 70_000),
                _ => (60_000, 1),
            };
            let body = Full::<Bytes>::from("b".repeat(body));
            let response = Response::builder().header("x-long", "h".repeat(header));
            let response = response.body(body).unwrap();
            async move { Ok::<_, Infallible>(response) }
        })
    });
    let ask = async |path: &str| {
        let request = Request::post(path).header("idempotency-key", path);
        let request = request.body(Full::<Bytes>::default()).unwrap();
        let response = service.clone().oneshot(request).await.unwrap();
        let status = response.status();
        (
            status,
            response.into_body().collect().await.unwrap().to_bytes(),
        )
    };
    for (path, length, retried) in [
        ("/body", 200_000, StatusCode::CONFLICT),
        ("/headers", 1, StatusCode::CONFLICT),
        ("/fits", 60_000, StatusCode::OK),
    ] {
        let before = ran.load(Ordering::Relaxed);
        let (status, body) = ask(path).await;
        assert_eq!((status, body.len()), (StatusCode::OK, length), "{path}");
        let (status, body) = ask(path).await;
        assert_eq!(status, retried, "{path}");
        let is_sealed = body.windows(20).any(|part| part == b"response-unavailable");
        assert_eq!(is_sealed, retried == StatusCode::CONFLICT, "{path}");
        assert_eq!(ran.load(Ordering::Relaxed), before + 1, "{path}");
    }
}
