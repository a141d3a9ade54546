//! Measures what the layer costs a request, in one process, on one thread,
//! without a network.
//!
//! The same axum app responds to eight kinds of requests in turn. Each round
//! sends a batch of each kind, so that a slow moment of the machine slows all
//! kinds alike:
//!
//! - `bare`: the app without the layer;
//! - `no-op layer`: behind a layer that does nothing (axum boxes the service
//!   behind any layer);
//! - `own body type`: behind a layer that only gives responses a body type of
//!   its own, as most layers do (axum boxes that body too);
//! - `not protected`: behind `IdempotencyLayer`, with a request without a key;
//! - `first`: behind `IdempotencyLayer`, with a key that was never sent before;
//! - `replay`: behind `IdempotencyLayer`, with a key whose response is
//!   recorded;
//! - `first, told` and `replay, told`: the same behind a layer with an observer
//!   that does nothing.
//!
//! Request bodies have 1 KiB, response bodies 256 B. Each batch gives two
//! times: `app`, from the call to the end of the response's body, and
//! `exchange`, which also includes building the request. SHA-256 of 1 KiB is
//! timed in the same run, because the fingerprint of a request can't be
//! computed without it.
//!
//! `cargo bench --bench overhead` runs the benchmark; a number after `--` is
//! the number of rounds.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use axum::Router;
use axum::body::Body;
use axum::routing::post;
use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt, Either};
use sha2::{Digest, Sha256};
use tower::Service;
use tower::layer::layer_fn;
use tower::util::MapResponse;
use tower_idempotency::observer::Observer;
use tower_idempotency::store::{Claim, Claimed, Outcome, Store};
use tower_idempotency::store::{Completion, Fingerprint, RecordId, ScopeDigest};
use tower_idempotency::{IdempotencyLayer, MemoryStore, scope};

const BATCH: usize = 250;
const BODY_IN: usize = 1024;
const BODY_OUT: usize = 256;

const KINDS: [&str; 8] = [
    "bare",
    "no-op layer",
    "own body type",
    "not protected",
    "first",
    "replay",
    "first, told",
    "replay, told",
];
const BARE: usize = 0;
const NO_OP: usize = 1;
const OWN_BODY: usize = 2;
const NOT_PROTECTED: usize = 3;
const FIRST: usize = 4;
const REPLAY: usize = 5;
const FIRST_TOLD: usize = 6;
const REPLAY_TOLD: usize = 7;

/// Is told everything, and does nothing.
struct Nothing;

impl Observer for Nothing {}

fn main() {
    let rounds = std::env::args()
        .find_map(|arg| arg.parse().ok())
        .unwrap_or(400);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let small = measure(1_000, rounds).await;
        let large = measure(1_000_000, rounds).await;
        println!();
        println!("1 M records held against 1 k, the ratios to `bare`:");
        for kind in [REPLAY, FIRST] {
            println!("  {:<14} {:>8.2}", KINDS[kind], large[kind] / small[kind]);
        }
    });
}

/// The times of one batch, in nanoseconds per request.
#[derive(Clone, Copy, Default)]
struct Times {
    app: f64,
    exchange: f64,
}

/// Measures all kinds and prints their times. Returns the median `app` time of
/// each kind as a ratio to `bare`.
async fn measure(records: u64, rounds: usize) -> [f64; 8] {
    let mut all: Vec<[Times; 8]> = Vec::new();
    let mut hashing = Vec::new();
    let mut bench = Bench::new(records).await;
    let mut keys = 0_u64;
    for round in 0..rounds {
        // Each round adds records, so a store that should stay small is
        // replaced every ten rounds.
        if records < 100_000 && round % 10 == 9 {
            bench = Bench::new(records).await;
        }
        let mut times = [Times::default(); 8];
        for at in 0..8 {
            // Each round begins with another kind, so that no kind always runs
            // first.
            let kind = (at + round) % 8;
            let app = match kind {
                BARE => &mut bench.bare,
                NO_OP => &mut bench.no_op,
                OWN_BODY => &mut bench.own_body,
                FIRST_TOLD | REPLAY_TOLD => &mut bench.told,
                _ => &mut bench.layered,
            };
            times[kind] = run(app, kind, &mut keys).await;
        }
        all.push(times);
        hashing.push(hash());
    }
    println!();
    println!("{records} records held, {rounds} rounds of {BATCH}, medians:");
    println!(
        "{:16} {:>8} {:>8} {:>8} {:>8}   {:>8} {:>8}",
        "", "app ns", "/ bare", "/ no-op", "/ body", "exchange", "/ bare"
    );
    let mut medians = [0.0; 8];
    for kind in 0..8 {
        let of = |figure: &dyn Fn(&[Times; 8]) -> f64| median(all.iter().map(figure).collect());
        medians[kind] = of(&|times| times[kind].app / times[BARE].app);
        println!(
            "  {:<14} {:>8.0} {:>8.2} {:>8.2} {:>8.2}   {:>8.0} {:>8.2}",
            KINDS[kind],
            of(&|times| times[kind].app),
            medians[kind],
            of(&|times| times[kind].app / times[NO_OP].app),
            of(&|times| times[kind].app / times[OWN_BODY].app),
            of(&|times| times[kind].exchange),
            of(&|times| times[kind].exchange / times[BARE].exchange),
        );
    }
    println!("  {:<14} {:>8.0}", "SHA-256, 1 KiB", median(hashing));
    medians
}

struct Bench {
    bare: Router,
    no_op: Router,
    own_body: Router,
    layered: Router,
    /// Behind a layer with an observer.
    told: Router,
}

impl Bench {
    async fn new(records: u64) -> Self {
        let app = || {
            let answer = Bytes::from(vec![b'y'; BODY_OUT]);
            Router::new().route("/payments", post(|_body: Bytes| async move { answer }))
        };
        let store = MemoryStore::builder()
            .max_records(10_000_000)
            .max_bytes(8 << 30)
            .build()
            .unwrap();
        for record in 0..records {
            fill(&store, record).await;
        }
        let told = IdempotencyLayer::builder(store.clone(), scope::header("x-api-key"));
        let told = told.observer(Nothing).build().unwrap();
        let layer = IdempotencyLayer::new(store, scope::header("x-api-key")).unwrap();
        let mut bench = Self {
            bare: app(),
            no_op: app().layer(layer_fn(|inner| inner)),
            own_body: app().layer(layer_fn(|inner| {
                MapResponse::new(inner, |response: Response<Body>| {
                    response.map(Either::<Body, Body>::Left)
                })
            })),
            layered: app().layer(layer),
            told: app().layer(told),
        };
        // The first of these requests records the response that the others
        // replay.
        run(&mut bench.layered, REPLAY, &mut 0).await;
        bench
    }
}

async fn fill(store: &MemoryStore, record: u64) {
    let id: [u8; 32] = rand::random();
    let (scope, fingerprint) = (ScopeDigest::from_bytes(id), Fingerprint::from_bytes(id));
    let claim = Claim::new(RecordId::from_bytes(id), scope, fingerprint);
    let Ok(Claimed::Acquired(lease)) = store.claim(&claim).await else {
        panic!("record {record} was not acquired");
    };
    let completion = Completion::new(StatusCode::OK, vec![b'z'; BODY_OUT], SystemTime::now());
    store
        .complete(&lease, &Outcome::Completed(Arc::new(completion)))
        .await
        .unwrap();
}

fn request(kind: usize, key: u64) -> Request<Body> {
    let mut request = Request::post("/payments")
        .header("content-type", "application/json")
        .header("x-api-key", "sk_live_0123456789abcdef")
        .header("user-agent", "bench/1.0")
        .body(Body::from(vec![b'x'; BODY_IN]))
        .unwrap();
    // All requests have the same size: a request that is not protected has
    // another header in the place of the key.
    let (name, value) = match kind {
        NOT_PROTECTED => (
            "x-request-id",
            format!("8e03978e-40d5-43dd-bc93-{key:012x}"),
        ),
        REPLAY | REPLAY_TOLD => (
            "idempotency-key",
            "8e03978e-40d5-43dd-bc93-6894a57f9324".to_owned(),
        ),
        _ => (
            "idempotency-key",
            format!("8e03978e-40d5-43dd-bc93-{key:012x}"),
        ),
    };
    request
        .headers_mut()
        .insert(name, HeaderValue::from_str(&value).unwrap());
    request
}

async fn run(app: &mut Router, kind: usize, keys: &mut u64) -> Times {
    let begun = Instant::now();
    let requests: Vec<_> = (0..BATCH)
        .map(|_| {
            *keys += 1;
            request(kind, *keys)
        })
        .collect();
    let built = Instant::now();
    for request in requests {
        let response = app.call(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body.len(), BODY_OUT);
    }
    Times {
        app: nanos_each(built.elapsed()),
        exchange: nanos_each(begun.elapsed()),
    }
}

fn hash() -> f64 {
    let body = vec![b'x'; BODY_IN];
    let begun = Instant::now();
    for _ in 0..BATCH {
        black_box(Sha256::digest(black_box(&body)));
    }
    nanos_each(begun.elapsed())
}

#[expect(clippy::cast_precision_loss, reason = "a batch is small")]
fn nanos_each(batch: Duration) -> f64 {
    batch.as_nanos() as f64 / BATCH as f64
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
