//! Clients that leave before their handler begins.

use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tower_idempotency::options::{OnInFlight, OnLapsedLease};
use tower_idempotency::{IdempotencyLayer, scope};

use crate::app::{app, at_gate, handler, layer, settled, text};
use crate::client::{Client, WAYS, retry};
use crate::gated::Gated;
use crate::server::Server;
use crate::support::store::{Fault, Op, Steered};
use crate::support::{Gate, Runs};
use crate::wire::Wire;
use crate::{LIMIT, within};

#[tokio::test]
async fn a_client_that_leaves_before_its_body_is_whole_leaves_nothing() {
    for way in WAYS {
        let (store, runs) = (Steered::new(), Runs::default());
        let layer = layer(&store, |options| options);
        let service = handler(&runs, async |run| text(format!("run {run}")));
        let server = Server::start(app(&layer, service)).await;
        let mut client = Client::connect(server.address, way).await;
        client.begin("k").await;
        // The server has the request before the client leaves. Otherwise a
        // reset could overtake what the client sent before it.
        within(server.begun()).await;
        let gone = client.leave().await;
        server.over().await;
        settled(&layer).await;
        assert_eq!(store.calls(Op::Claim), 0, "{way:?}");
        assert!(store.memory.is_empty(), "{way:?}");
        assert_eq!(runs.count(), 0, "{way:?}");
        drop(gone);
        let retry = retry(server.address, "k").await;
        retry.assert_fresh("run 1");
    }
}

#[tokio::test]
async fn an_upload_without_its_end_is_not_executed() {
    let head = "POST /payments HTTP/1.1\r\nhost: a\r\nidempotency-key: k\r\n";
    for part in [
        // Chunked bodies that end in the middle of a chunk, between two chunks,
        // and before the last line.
        "transfer-encoding: chunked\r\n\r\n5\r\n7 E",
        "transfer-encoding: chunked\r\n\r\n5\r\n7 EUR\r\n",
        "transfer-encoding: chunked\r\n\r\n5\r\n7 EUR\r\n0\r\n",
        // A client that is told to continue, and leaves.
        "expect: 100-continue\r\ncontent-length: 5\r\n\r\n",
    ] {
        for resets in [false, true] {
            let (store, runs) = (Steered::new(), Runs::default());
            let layer = layer(&store, |options| options);
            let service = handler(&runs, async |run| text(format!("run {run}")));
            let server = Server::start(app(&layer, service)).await;
            let mut wire = Wire::connect(server.address).await;
            wire.say(head).await;
            wire.say(part).await;
            if part.contains("expect") {
                let head = wire.head_text().await.unwrap();
                assert_eq!(head, "HTTP/1.1 100 Continue\r\n\r\n");
            }
            within(server.begun()).await;
            if resets {
                wire.stream.set_zero_linger().unwrap();
            } else {
                wire.stream.shutdown().await.unwrap();
            }
            drop(wire);
            server.over().await;
            settled(&layer).await;
            assert_eq!(store.calls(Op::Claim), 0, "{part:?}");
            retry(server.address, "k").await.assert_fresh("run 1");
        }
    }
}

/// The store carries the claim out after its client has left.
#[tokio::test]
async fn a_claim_under_way_is_given_back_when_its_client_leaves() {
    for on_lapsed_lease in [OnLapsedLease::Rerun, OnLapsedLease::Refuse] {
        for way in WAYS {
            let (store, runs) = (Gated::at(Op::Claim), Runs::default());
            let layer = layer(&store, |options| options.on_lapsed_lease(on_lapsed_lease));
            let service = handler(&runs, async |run| text(format!("run {run}")));
            let server = Server::start(app(&layer, service)).await;
            let mut client = Client::connect(server.address, way).await;
            client.ask("k").await;
            store.met().await;
            let gone = client.leave().await;
            server.over().await;
            assert_eq!(layer.drain(Duration::ZERO).await, 1, "{way:?}");
            store.open();
            settled(&layer).await;
            assert_eq!((runs.count(), store.store.stats().in_flight), (0, 0));
            drop(gone);
            retry(server.address, "k").await.assert_fresh("run 1");
        }
    }
}

#[tokio::test]
async fn a_claim_that_is_never_answered_is_given_back_when_its_client_leaves() {
    for way in WAYS {
        let (store, runs) = (Gated::at(Op::Claim), Runs::default());
        store.store.make(Op::Claim, Fault::AnswerStalls);
        let layer = IdempotencyLayer::builder(store.clone(), scope::shared())
            .store_timeout(Duration::from_millis(100))
            .build()
            .unwrap();
        let service = handler(&runs, async |run| text(format!("run {run}")));
        let server = Server::start(app(&layer, service)).await;
        let mut client = Client::connect(server.address, way).await;
        client.ask("k").await;
        store.met().await;
        store.open();
        let gone = client.leave().await;
        // The exchange ends because the client leaves, or with the response
        // that the store is not available.
        server.over().await;
        settled(&layer).await;
        assert_eq!((runs.count(), store.store.stats().in_flight), (0, 0));
        store.store.heal(Op::Claim);
        drop(gone);
        retry(server.address, "k").await.assert_fresh("run 1");
    }
}

/// A retry does not wait for the request of the client that left.
#[tokio::test]
async fn a_client_that_waits_for_another_can_leave() {
    for way in WAYS {
        let (store, runs, gate) = (Steered::new(), Runs::default(), Gate::closed());
        let layer = layer(&store, |options| {
            let wait = OnInFlight::Wait(LIMIT);
            options.on_in_flight(wait)
        });
        let server = Server::start(app(&layer, at_gate(&runs, &gate))).await;
        let mut first = Client::connect(server.address, way).await;
        first.ask("k").await;
        within(gate.begun()).await;
        let mut waits = Client::connect(server.address, way).await;
        waits.ask("k").await;
        within(async {
            while store.calls(Op::Claim) < 2 {
                tokio::task::yield_now().await;
            }
        })
        .await;
        let gone = waits.leave().await;
        server.over().await;
        gate.open();
        let first = first.answer().await.unwrap();
        first.assert_fresh("run 1");
        settled(&layer).await;
        drop(gone);
        retry(server.address, "k").await.assert_replays(&first);
        assert_eq!(runs.count(), 1, "{way:?}");
    }
}
