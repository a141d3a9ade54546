//! In real time, leases that only renewals keep alive: while a client does not
//! read, and while a handler blocks its thread.

use std::convert::Infallible;
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use tokio::runtime::Builder;
use tokio::task::yield_now;
use tokio::time::sleep;
use tower::{Layer, ServiceExt, service_fn};

use crate::app::{app, created, handler, layer, settled, text};
use crate::client::{Client, Leaves, retry};
use crate::server::Server;
use crate::support::body::Script;
use crate::support::store::{Op, Steered};
use crate::support::{Gate, Runs, post, to};
use crate::within;

const LEASE: Duration = Duration::from_millis(500);

async fn reads_nothing_for_two_leases(way: Leaves) {
    let (store, runs) = (Steered::unguarded(), Runs::default());
    let layer = layer(&store, |options| {
        options.lease(LEASE).max_recorded_body(1000)
    });
    // The response is larger than the buffers of the sockets.
    let service = handler(&runs, async |_| {
        created(Script::frames(vec![vec![b'x'; 1 << 20]; 20]))
    });
    let server = Server::start(app(&layer, service)).await;
    let mut client = Client::connect(server.address, way).await;
    client.ask("k").await;
    assert_eq!(client.head().await.unwrap().0, 201);
    for _ in 0..6 {
        sleep(LEASE / 3).await;
        let early = retry(server.address, "k").await;
        assert_eq!(early.refusal(), "409 in-flight", "{way:?}");
    }
    assert!(store.calls(Op::Renew) >= 2, "{way:?}");
    let (body, _) = client.rest().await.unwrap();
    assert_eq!(body.len(), 20 << 20);
    let late = retry(server.address, "k").await;
    assert_eq!(late.refusal(), "409 response-unavailable");
    assert_eq!(runs.count(), 1);
}

/// hyper does not poll the response while its client does not read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_client_does_not_lose_the_lease_of_a_large_answer() {
    tokio::join!(
        reads_nothing_for_two_leases(Leaves::Closing),
        reads_nothing_for_two_leases(Leaves::Http2Closing),
    );
}

/// A handler that blocks its thread for the length of three leases.
async fn blocks_its_thread(with_others: bool, leaves: bool) {
    let (store, runs, gate) = (Steered::unguarded(), Runs::default(), Gate::closed());
    let layer = layer(&store, |options| options.lease(LEASE));
    let service = {
        let gate = gate.clone();
        handler(&runs, move |run| {
            let gate = gate.clone();
            async move {
                if with_others && run == 1 {
                    gate.pass().await;
                } else {
                    thread::sleep(LEASE * 3);
                }
                text(format!("run {run}"))
            }
        })
    };
    let server = Server::start(app(&layer, service)).await;
    // This task keeps the runtime busy. In an idle runtime the thread that the
    // handler blocks may be the one that drives timers and sockets.
    tokio::spawn(async {
        loop {
            yield_now().await;
        }
    });
    let mut other = Client::connect(server.address, Leaves::Closing).await;
    if with_others {
        other.ask("other").await;
        within(gate.begun()).await;
    }
    let mut client = Client::connect(server.address, Leaves::Closing).await;
    let run = runs.count() + 1;
    client.ask("k").await;
    within(async {
        while runs.count() < run {
            yield_now().await;
        }
    })
    .await;
    let client = if leaves {
        drop(client.leave().await);
        None
    } else {
        Some(client)
    };
    sleep(LEASE * 2).await;
    let early = retry(server.address, "k").await;
    assert_eq!(early.refusal(), "409 in-flight");
    if let Some(mut client) = client {
        let first = client.answer().await.unwrap();
        first.assert_fresh(&format!("run {run}"));
    } else {
        // One exchange is that of the retry, the other one that of the first
        // request.
        server.over().await;
        server.over().await;
    }
    if with_others {
        gate.open();
        other.answer().await.unwrap().assert_fresh("run 1");
    }
    settled(&layer).await;
    let late = retry(server.address, "k").await;
    assert!(late.is_replay());
    assert_eq!((late.text(), runs.count()), (&*format!("run {run}"), run));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_handler_that_blocks_its_thread_while_others_run_does_not_lose_its_lease() {
    tokio::join!(
        blocks_its_thread(true, false),
        blocks_its_thread(true, true),
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_first_handler_of_all_can_block_its_thread_and_not_lose_its_lease() {
    tokio::join!(
        blocks_its_thread(false, false),
        blocks_its_thread(false, true),
    );
}

/// In an idle runtime one worker thread drives the timers for all. Here the
/// request probably wakes that thread, and the handler then blocks it.
#[test]
fn a_handler_that_blocks_a_runtime_at_rest_is_renewed_all_the_same() {
    let store = Steered::unguarded();
    let layer = layer(&store, |options| options.lease(LEASE));
    let service = layer.layer(service_fn(move |request: Request<Full<Bytes>>| {
        let store = store.clone();
        async move {
            if request.uri().path() == "/pending" {
                std::future::pending::<()>().await;
            }
            let before = store.calls(Op::Renew);
            thread::sleep(LEASE * 2);
            let renewals = store.calls(Op::Renew) - before;
            Ok::<_, Infallible>(Response::new(Full::<Bytes>::from(renewals.to_string())))
        }
    }));
    for others in [0, 1, 5] {
        let runtime = Builder::new_multi_thread()
            .worker_threads(3)
            .enable_all()
            .build()
            .unwrap();
        for other in 0..others {
            let request = to("/pending", post(&format!("other {other}"), "{}"));
            runtime.spawn(service.clone().oneshot(request));
        }
        // The pause lets all workers become idle.
        thread::sleep(LEASE / 10);
        let request = post(&format!("with {others}"), "{}");
        let answer = runtime.spawn(service.clone().oneshot(request));
        let answer = runtime.block_on(answer).unwrap().unwrap();
        let body = runtime.block_on(answer.into_body().collect()).unwrap();
        let renewals = String::from_utf8(body.to_bytes().to_vec()).unwrap();
        // A renewal is sent after each third of a lease.
        let least = 2 * (1 + others);
        assert!(renewals.parse::<usize>().unwrap() >= least, "{renewals}");
        runtime.shutdown_background();
    }
}
