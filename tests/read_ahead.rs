//! What clients that read nothing cost, as the process shows it: no more than `max_read_ahead`
//! and a fifth, beside what a connection costs anyway. The test has a process of its own.

#![cfg(all(feature = "memory", target_os = "linux"))]

#[path = "support/silent.rs"]
mod silent;

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::StreamBody;
use hyper::body::Incoming;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tower::{Layer, service_fn};
use tower_idempotency::{IdempotencyLayer, MemoryStore, RequestBody, scope};

use crate::silent::{KIB, MIB, Way, ask, resident, serve};

const MAX_READ_AHEAD: usize = 16 * MIB;
const RESPONSE: usize = 10 * MIB;
const FRAME: usize = 32 * KIB;
const CLIENTS: usize = 40;

/// What a connection costs beside: 64 KiB and a frame of each response, the tasks, and the buffers
/// of hyper. Over HTTP/1, hyper takes more than 400 KiB of a response before it looks whether the
/// socket has room; over HTTP/2 it takes nothing while the window is zero.
const BY_HTTP1: usize = 768 * KIB;
const BY_HTTP2: usize = 256 * KIB;

#[tokio::test]
async fn clients_that_read_nothing_cost_no_more_memory_than_max_read_ahead() {
    let layer = IdempotencyLayer::builder(MemoryStore::new(), scope::shared())
        .max_read_ahead(MAX_READ_AHEAD)
        .defaults(|options| options.max_recorded_body(2 * RESPONSE))
        .build()
        .unwrap();
    // Each response is made while it is asked for.
    let handler = service_fn(async |_: Request<RequestBody<Incoming>>| {
        let frame = |_| Ok::<_, Infallible>(Frame::data(Bytes::from(vec![7; FRAME])));
        let frames = (0..RESPONSE / FRAME).map(frame);
        let body = StreamBody::new(tokio_stream::iter(frames));
        Ok::<_, Infallible>(Response::new(body))
    });
    let address = serve(layer.layer(handler));
    let before = resident();
    let mut open = JoinSet::new();
    for client in 0..CLIENTS {
        let way = [Way::Http2(0), Way::Http1][client % 2];
        ask(address, "alice", &client.to_string(), way, &mut open).await;
    }
    // At its highest, and when the memory has not grown for half a second.
    let (mut most, mut steady) = (0, 0);
    while steady < 10 {
        sleep(Duration::from_millis(50)).await;
        let now = resident();
        steady = if now > most { 0 } else { steady + 1 };
        most = most.max(now);
    }
    let cost = most.saturating_sub(before);
    let limit = MAX_READ_AHEAD * 6 / 5 + CLIENTS / 2 * (BY_HTTP1 + BY_HTTP2);
    println!("{} MiB of {} MiB", cost / MIB, limit / MIB);
    assert!(cost <= limit, "{} KiB, not {}", cost / KIB, limit / KIB);
    // All responses together are ten times as large.
    assert!(
        cost > MAX_READ_AHEAD / 2,
        "{} KiB: nothing was read",
        cost / KIB
    );
    open.shutdown().await;
}
