//! Clients that leave while their handler runs.

use std::time::Duration;

use hyper_util::rt::TokioExecutor;
use hyper_util::server::conn::auto;
use tokio::io::AsyncWriteExt;
use tokio::task::yield_now;

use crate::app::{app, at_gate, handler, layer, settled, text};
use crate::client::{Client, Leaves, WAYS, retry};
use crate::server::Server;
use crate::support::store::{Fault, Op, Steered};
use crate::support::{Gate, Runs};
use crate::wire::Wire;
use crate::within;

#[tokio::test]
async fn a_handler_finishes_without_its_client_and_the_retry_is_a_replay() {
    for with_axum in [false, true] {
        for way in WAYS {
            let (store, runs, gate) = (Steered::new(), Runs::default(), Gate::closed());
            let layer = layer(&store, |options| options);
            let (server, _stop) = if with_axum {
                let (server, stop) = Server::axum(&layer, at_gate(&runs, &gate)).await;
                (server, Some(stop))
            } else {
                (
                    Server::start(app(&layer, at_gate(&runs, &gate))).await,
                    None,
                )
            };
            let mut client = Client::connect(server.address, way).await;
            client.ask("k").await;
            within(gate.begun()).await;
            let gone = client.leave().await;
            server.over().await;

            assert_eq!(layer.drain(Duration::ZERO).await, 1, "{way:?}");
            let early = retry(server.address, "k").await;
            assert_eq!(early.refusal(), "409 in-flight", "{way:?}");
            gate.open();
            settled(&layer).await;
            for _ in 0..2 {
                let late = retry(server.address, "k").await;
                assert!(late.is_replay(), "{way:?}");
                assert_eq!((late.status, late.text()), (201, "run 1"));
            }
            assert_eq!((runs.count(), store.calls(Op::Complete)), (1, 1));
            drop(gone);
        }
    }
}

/// Several worker threads serve clients that leave and retry at the same time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_clients_that_leave_and_retry_at_once_get_one_execution_each() {
    let (store, runs) = (Steered::new(), Runs::default());
    store.let_all(Fault::Yields);
    let layer = layer(&store, |options| options);
    let service = handler(&runs, |run| async move {
        for _ in 0..run % 7 {
            yield_now().await;
        }
        text(format!("run {run}"))
    });
    let server = Server::start(app(&layer, service)).await;
    let address = server.address;
    let clients = (0..60_usize).map(|n| {
        tokio::spawn(async move {
            let key = format!("key {n}");
            for turn in 0..3 {
                let mut client = Client::connect(address, WAYS[(n + turn) % WAYS.len()]).await;
                client.ask(&key).await;
                for _ in 0..(n * 7 + turn * 3) % 50 {
                    yield_now().await;
                }
                drop(client.leave().await);
            }
            let answer = within(async {
                loop {
                    let answer = retry(address, &key).await;
                    // A claim that is being released is still in flight.
                    if answer.status == 201 {
                        break answer;
                    }
                    assert_eq!(answer.refusal(), "409 in-flight");
                }
            });
            let answer = answer.await;
            let again = retry(address, &key).await;
            assert!(again.is_replay());
            assert_eq!(again.body, answer.body);
        })
    });
    for client in clients.collect::<Vec<_>>() {
        client.await.unwrap();
    }
    settled(&layer).await;
    assert_eq!((runs.count(), store.stats().in_flight), (60, 0));
}

/// A server can be configured for clients that close their sending side and
/// still read.
#[tokio::test]
async fn a_client_that_half_closes_gets_its_answer_from_a_server_that_allows_it() {
    let (store, runs, gate) = (Steered::new(), Runs::default(), Gate::closed());
    let layer = layer(&store, |options| options);
    let mut http = auto::Builder::new(TokioExecutor::new());
    http.http1().half_close(true);
    let server = Server::start_with(app(&layer, at_gate(&runs, &gate)), http).await;
    let mut wire = Wire::connect(server.address).await;
    wire.say(
        "POST /payments HTTP/1.1\r\nhost: a\r\nidempotency-key: k\r\n\
         content-length: 5\r\n\r\n7 EUR",
    )
    .await;
    wire.stream.shutdown().await.unwrap();
    within(gate.begun()).await;
    assert_eq!(layer.drain(Duration::ZERO).await, 0);
    gate.open();
    let first = wire.answer().await.unwrap();
    first.assert_fresh("run 1");
    retry(server.address, "k").await.assert_replays(&first);
}

/// One HTTP/2 connection carries several requests, and one of them is
/// cancelled.
#[tokio::test]
async fn other_streams_of_a_connection_go_on_when_one_is_reset() {
    let (store, runs, gate) = (Steered::new(), Runs::default(), Gate::closed());
    let layer = layer(&store, |options| options);
    let server = Server::start(app(&layer, at_gate(&runs, &gate))).await;
    let mut client = Client::connect(server.address, Leaves::Http2Resetting).await;
    client.ask("stays").await;
    within(gate.begun()).await;
    let mut other = client.another_stream();
    other.ask("leaves").await;
    within(gate.begun()).await;
    let gone = other.leave().await;
    server.over().await;
    assert_eq!(layer.drain(Duration::ZERO).await, 1);
    gate.open();
    gate.open();
    let stays = client.answer().await.unwrap();
    stays.assert_fresh("run 1");
    settled(&layer).await;
    let left = retry(server.address, "leaves").await;
    assert_eq!((left.is_replay(), left.text()), (true, "run 2"));
    assert_eq!(runs.count(), 2);
    drop(gone);
}
