//! What the layer costs a request: one process, one thread, no network.
//!
//! The same axum app answers five kinds of requests in turn, a batch of each
//! per round, so that whatever slows the machine down slows all of them:
//!
//! - `bare`: the app without the layer;
//! - `no-op layer`: behind a layer that does nothing (axum boxes for any);
//! - `not protected`: behind `IdempotencyLayer`, a request without a key;
//! - `first`: with a key never seen;
//! - `replay`: with a key whose answer is recorded.
//!
//! Bodies: 1 KiB in, 256 B out. `cargo bench --bench overhead`; a number after
//! `--` is the number of rounds.

use std::time::{Duration, Instant, SystemTime};

use axum::Router;
use axum::body::Body;
use axum::routing::post;
use bytes::Bytes;
use http::{HeaderValue, Request, StatusCode};
use http_body_util::BodyExt;
use std::sync::Arc;
use tower::{Service, layer::layer_fn};
use tower_idempotency::store::{Claim, Claimed, Outcome, Store};
use tower_idempotency::{
    Completion, Fingerprint, IdempotencyLayer, MemoryStore, RecordId, ScopeDigest, scope,
};

const BATCH: usize = 250;
const BODY_IN: usize = 1024;
const BODY_OUT: usize = 256;

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
        println!("1 M records against 1 k, of what the layer adds to `bare` included:");
        for (name, at) in [("first", 3), ("replay", 4)] {
            println!("  {name:<14} {:>6.2}", large[at] / small[at]);
        }
    });
}

/// The median time of a request of each kind in ns, printed with its ratio to
/// `bare` and to `no-op layer`.
async fn measure(records: u64, rounds: u64) -> [f64; 5] {
    let mut times: [Vec<f64>; 5] = Default::default();
    let mut ratios: [Vec<[f64; 2]>; 5] = Default::default();
    let mut bench = Bench::new(records).await;
    let mut keys = 0_u64;
    for round in 0..rounds {
        // A small store stays small.
        if records < 100_000 && round % 10 == 9 {
            bench = Bench::new(records).await;
        }
        let mut nanos = [0.0; 5];
        for at in 0..5 {
            // Begin with another kind each round.
            let kind = (at + usize::try_from(round).unwrap()) % 5;
            let requests: Vec<_> = (0..BATCH)
                .map(|_| {
                    keys += 1;
                    request(kind, keys)
                })
                .collect();
            let app = match kind {
                0 => &mut bench.bare,
                1 => &mut bench.no_op,
                _ => &mut bench.layered,
            };
            nanos[kind] = run(app, requests).await;
        }
        for kind in 0..5 {
            times[kind].push(nanos[kind]);
            ratios[kind].push([nanos[kind] / nanos[0], nanos[kind] / nanos[1]]);
        }
    }
    println!();
    println!("{records} records held, {rounds} rounds of {BATCH}, medians:");
    println!("  {:<14} {:>9} {:>9} {:>12}", "", "ns", "/ bare", "/ no-op");
    let names = ["bare", "no-op layer", "not protected", "first", "replay"];
    let mut medians = [0.0; 5];
    for kind in 0..5 {
        medians[kind] = median(times[kind].clone());
        let to_bare = median(ratios[kind].iter().map(|ratio| ratio[0]).collect());
        let to_no_op = median(ratios[kind].iter().map(|ratio| ratio[1]).collect());
        println!(
            "  {:<14} {:>9.0} {to_bare:>9.3} {to_no_op:>12.3}",
            names[kind], medians[kind]
        );
    }
    medians
}

struct Bench {
    bare: Router,
    no_op: Router,
    layered: Router,
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
        let layer = IdempotencyLayer::new(store, scope::header("x-api-key").unwrap());
        let mut bench = Self {
            bare: app(),
            no_op: app().layer(layer_fn(|inner| inner)),
            layered: app().layer(layer),
        };
        // The answer that replays give.
        run(&mut bench.layered, vec![request(4, 0)]).await;
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
    let key = match kind {
        2 => return request,
        4 => "8e03978e-40d5-43dd-bc93-6894a57f9324".to_owned(),
        _ => format!("8e03978e-40d5-43dd-bc93-{key:012x}"),
    };
    request
        .headers_mut()
        .insert("idempotency-key", HeaderValue::from_str(&key).unwrap());
    request
}

/// The mean time of one of these requests, in ns.
async fn run(app: &mut Router, requests: Vec<Request<Body>>) -> f64 {
    let count = requests.len();
    let mut spent = Duration::ZERO;
    let begun = Instant::now();
    for request in requests {
        let response = app.call(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body.len(), BODY_OUT);
    }
    spent += begun.elapsed();
    #[expect(clippy::cast_precision_loss, reason = "a batch is small")]
    {
        spent.as_nanos() as f64 / count as f64
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
