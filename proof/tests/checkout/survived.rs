//! Attempts that end while their process goes on: the client leaves, the handler panics, or it answers
//! with a 503.

use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{Request, StatusCode, header::CONTENT_TYPE};
use tokio::sync::mpsc;
use tower::ServiceExt;
use tower_idempotency::options::OnDisconnect;
use tower_idempotency::store::AnyStore;
use tower_idempotency::{IdempotencyLayer, scope};

use crate::checkout::{self, Down, Receipt};
use crate::partners::Ledger;
use crate::point::{Ended, EndedStore, Ending, Held, Never, POINTS, Phase, Point};
use crate::servers::url;

/// The orders of each way to end.
const ORDERS: u64 = 28 * POINTS;

#[tokio::test(flavor = "multi_thread")]
async fn a_checkout_in_memory_goes_on_wherever_an_attempt_ends() {
    all(&AnyStore::connect("memory:").await.unwrap()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkout_on_redis_goes_on_wherever_an_attempt_ends() {
    let url = url("TEST_REDIS_URL");
    let mark = if url.contains('?') { '&' } else { '?' };
    let url = format!("{url}{mark}prefix=checkout:");
    all(&AnyStore::connect(&url).await.unwrap()).await;
}

async fn all(store: &AnyStore) {
    // Three ways, 336 orders each: 1 008 runs.
    each(store, "fails", Fails).await;
    std::panic::set_hook(Box::new(|_| {}));
    each(store, "panics", Panics).await;
    let _ = std::panic::take_hook();
    let (says, mut held) = mpsc::unbounded_channel();
    let holding = Held(move |order| {
        let says = says.clone();
        async move { says.send(order).unwrap() }
    });
    let ledger = Ledger::default();
    let first = shop(store, "leaves", &ledger, holding);
    for order in 0..ORDERS {
        let attempt = tokio::spawn(first.clone().oneshot(request(order)));
        assert_eq!(held.recv().await, Some(order));
        attempt.abort();
        attempt.await.unwrap_err();
    }
    resume(store, "leaves", &ledger).await;
}

/// Ends the first attempt of each order at its point, and makes a second one that goes on.
async fn each(store: &AnyStore, run: &str, ending: impl Ending) {
    let ledger = Ledger::default();
    let first = shop(store, run, &ledger, ending);
    for order in 0..ORDERS {
        let attempt = tokio::spawn(first.clone().oneshot(request(order)));
        match attempt.await {
            Ok(Ok(response)) => assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE),
            Ok(Err(never)) => match never {},
            Err(error) => assert!(error.is_panic()),
        }
    }
    resume(store, run, &ledger).await;
}

async fn resume(store: &AnyStore, run: &str, ledger: &Ledger) {
    let second = shop(store, run, ledger, Never);
    for order in 0..ORDERS {
        let receipt = receipt(&second, order).await;
        ledger
            .check(order, &receipt)
            .unwrap_or_else(|wrong| panic!("{run}: {wrong}"));
    }
}

/// The shop, whose attempts end so.
fn shop(store: &AnyStore, run: &str, ledger: &Ledger, ending: impl Ending) -> Router {
    let partners = Ended {
        partners: ledger.clone(),
        ending: ending.clone(),
    };
    let store = EndedStore {
        store: store.clone(),
        ending,
    };
    // A run of its own: the records of Redis outlive the test.
    let layer = IdempotencyLayer::builder(store, scope::shared())
        .namespace(format!("{run} {}", std::process::id()))
        .defaults(|options| options.steps(true).on_disconnect(OnDisconnect::Cancel))
        .store_timeout(Duration::from_secs(60))
        .build();
    checkout::shop(partners, layer.unwrap())
}

fn request(order: u64) -> Request<Body> {
    Request::post("/checkout")
        .header(CONTENT_TYPE, "application/json")
        .header("idempotency-key", format!("order-{order}"))
        .body(Body::from(format!("{{\"number\":{order}}}")))
        .unwrap()
}

/// Sends the order until it is done. The attempt that was given up may still be releasing its record.
async fn receipt(shop: &Router, order: u64) -> Receipt {
    for _ in 0..500 {
        let response = shop.clone().oneshot(request(order)).await.unwrap();
        if response.status() == StatusCode::CREATED {
            let body = to_bytes(response.into_body(), 1 << 20).await.unwrap();
            return serde_json::from_slice(&body).unwrap();
        }
        assert_eq!(response.status(), StatusCode::CONFLICT, "order {order}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("order {order} is not done");
}

/// A partner is down, or the store's answer is lost: the handler answers with a 503.
#[derive(Clone)]
struct Fails;

impl Ending for Fails {
    async fn reached(&self, order: u64, step: &str, phase: Phase) -> Result<(), Down> {
        if Point::of(order).is(step, phase) {
            return Err(Down("work"));
        }
        Ok(())
    }
}

#[derive(Clone)]
struct Panics;

impl Ending for Panics {
    async fn reached(&self, order: u64, step: &str, phase: Phase) -> Result<(), Down> {
        assert!(!Point::of(order).is(step, phase), "as the test wants it");
        Ok(())
    }
}
