//! A layer that observes, in front of a server that freezes and dies: clients get what they get
//! without the layer and wait for nothing, and the report says what could not be found out.

use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::Request;
use axum::routing::post;
use http::{HeaderMap, Response, StatusCode};
use tokio::time::{sleep, timeout};
use tower::ServiceExt;
use tower_idempotency::options::Mode;
use tower_idempotency::rejection::RejectionCode;
use tower_idempotency::store::AnyStore;
use tower_idempotency::{Counts, IdempotencyLayer, LimitUsage, scope};

use crate::servers::Server;

/// Nobody waits for a store that takes that long.
const SHORT: Duration = Duration::from_secs(3);
/// On no machine does a store that works take that long.
const LONG: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_fails_changes_nothing_for_observed_requests() {
    observed("redis").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_postgres_that_fails_changes_nothing_for_observed_requests() {
    observed("postgres").await;
}

async fn observed(kind: &'static str) {
    let server = Server::start(kind, &[]);
    AnyStore::migrate(server.url()).await.unwrap();
    let store = AnyStore::connect(server.url()).await.unwrap();
    // With one a client that waited for the store would be found out, and the other gives up soon.
    let (patient, hasty) = (Pair::new(store.clone(), LONG), Pair::new(store, SHORT));
    let pair = &patient;
    pair.send("k", "paid").await;
    pair.reach(|counts| counts.recorded, 1).await;
    pair.send("k", "paid").await;
    pair.reach(|counts| counts.observed.replay, 1).await;
    pair.send("k", "other").await;
    let reused = |counts: &Counts| counts.observed.reject(RejectionCode::KeyReused);
    pair.reach(reused, 1).await;

    server.freeze();
    let before = patient.layer.counts().observed;
    for pair in [&patient, &hasty] {
        pair.send("frozen", "paid").await;
        pair.send("k", "paid").await;
    }
    assert_eq!(patient.layer.counts().observed, before, "they waited");
    hasty.reach(failed, 2).await;
    server.thaw();
    hasty.finds_replays_again().await;

    let before = failed(&hasty.layer.counts());
    server.kill();
    hasty.send("down", "paid").await;
    hasty.reach(failed, before + 1).await;
    server.restart();
    hasty.finds_replays_again().await;
    for pair in [patient, hasty] {
        let counts = pair.layer.counts();
        assert_eq!((counts.replayed, counts.unprotected), (0, 0));
        assert_eq!(counts.observed.not_observed, 0);
    }
}

/// The requests of which the store's failure is all that is known.
fn failed(counts: &Counts) -> u64 {
    counts.observed.reject(RejectionCode::StoreUnavailable)
}

/// One application with the layer, and one without.
struct Pair {
    layer: IdempotencyLayer,
    observed: Router,
    plain: Router,
}

impl Pair {
    fn new(store: AnyStore, store_timeout: Duration) -> Self {
        let layer = IdempotencyLayer::builder(store, scope::header("x-api-key"))
            .defaults(|options| options.mode(Mode::Observe))
            .store_timeout(store_timeout)
            .build()
            .unwrap();
        Self {
            observed: app().layer(layer.clone()),
            plain: app(),
            layer,
        }
    }

    /// Sends a request to both, which give the same response.
    async fn send(&self, key: &str, body: &'static str) {
        let [observed, plain] = [&self.observed, &self.plain].map(|app| exchange(app, key, body));
        assert_eq!(observed.await, plain.await);
    }

    /// Waits until at least so many are counted.
    async fn reach(&self, number: impl Fn(&Counts) -> u64, expected: u64) {
        let reached = timeout(2 * LONG, async {
            while number(&self.layer.counts()) < expected {
                sleep(Duration::from_millis(10)).await;
            }
        });
        let is_reached = reached.await.is_ok();
        let observed = self.layer.counts().observed;
        assert!(is_reached, "{expected} expected, {observed:?}");
    }

    /// The server is back, and so are its connections after a while.
    async fn finds_replays_again(&self) {
        let replays = self.layer.counts().observed.replay;
        let back = timeout(2 * LONG, async {
            while self.layer.counts().observed.replay == replays {
                self.send("k", "paid").await;
                sleep(Duration::from_millis(200)).await;
            }
            // What was sent meanwhile has an end too.
            while self.in_flight() > 0 {
                sleep(Duration::from_millis(10)).await;
            }
        });
        back.await.expect("the store is reached again");
    }

    fn in_flight(&self) -> usize {
        let limits = self.layer.usage().limits;
        let of_operations = |usage: &&LimitUsage| usage.option == "max_in_flight_operations";
        limits.iter().find(of_operations).unwrap().held
    }
}

fn app() -> Router {
    let pay = async |headers: HeaderMap, body: Bytes| {
        let paid = Response::builder().status(StatusCode::CREATED);
        let paid = paid.header("x-caller", &headers["x-api-key"]);
        paid.body(Body::from(body)).unwrap()
    };
    Router::new().route("/payments", post(pay))
}

async fn exchange(app: &Router, key: &str, body: &'static str) -> (StatusCode, HeaderMap, Bytes) {
    let request = Request::post("/payments")
        .header("x-api-key", "alice")
        .header("idempotency-key", key)
        .body(Body::from(body))
        .unwrap();
    let response = app.clone().oneshot(request).await.unwrap();
    let (head, body) = response.into_parts();
    let body = to_bytes(body, usize::MAX).await.unwrap();
    (head.status, head.headers, body)
}
