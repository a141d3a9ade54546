//! How many operations run without a client, and how long a server waits for
//! them when it stops.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use tokio::time::Instant;
use tower_idempotency::options::OnDisconnect;
use tower_idempotency::{IdempotencyLayer, scope};

use crate::app::{MOMENT, app, at_gate, handler, layer, settled, text};
use crate::client::{Client, WAYS, ask_for, retry};
use crate::server::Server;
use crate::support::store::Steered;
use crate::support::{Gate, Runs};
use crate::{LIMIT, within};

#[tokio::test]
async fn a_server_that_has_stopped_waits_for_what_runs_without_a_client() {
    for way in WAYS {
        let (store, runs, gate) = (Steered::new(), Runs::default(), Gate::closed());
        let layer = layer(&store, |options| options);
        let (server, stop) = Server::axum(&layer, at_gate(&runs, &gate)).await;
        let mut client = Client::connect(server.address, way).await;
        client.ask("k").await;
        within(gate.begun()).await;
        let gone = client.leave().await;
        server.over().await;
        drop(gone);
        drop(stop);
        server.stopped().await;

        let mut drain = pin!(layer.drain(LIMIT));
        poll_fn(|cx| {
            assert!(drain.as_mut().poll(cx).is_pending(), "{way:?}");
            Poll::Ready(())
        })
        .await;
        assert_eq!(store.stats().in_flight, 1);
        gate.open();
        assert_eq!(drain.await, 0);
        assert_eq!((store.stats().in_flight, store.stats().completed), (0, 1));

        // The next server finds the record.
        let server = Server::start(app(&layer, at_gate(&runs, &gate))).await;
        let late = retry(server.address, "k").await;
        assert_eq!((late.is_replay(), late.text()), (true, "run 1"));
        assert_eq!(runs.count(), 1);
    }
}

#[tokio::test]
async fn a_drain_gives_up_at_its_deadline_and_says_how_many_are_left() {
    let (store, runs, gate) = (Steered::new(), Runs::default(), Gate::closed());
    let layer = layer(&store, |options| options);
    let server = Server::start(app(&layer, at_gate(&runs, &gate))).await;
    assert_eq!(layer.drain(LIMIT).await, 0);
    for (left, key) in ["a", "b", "c"].into_iter().enumerate() {
        let mut client = Client::connect(server.address, WAYS[left]).await;
        client.ask(key).await;
        within(gate.begun()).await;
        drop(client.leave().await);
        server.over().await;
        let begun = Instant::now();
        assert_eq!(layer.drain(MOMENT).await, left + 1);
        assert!(begun.elapsed() >= MOMENT);
    }
    gate.open();
    within(async {
        while layer.drain(Duration::ZERO).await == 3 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(layer.drain(MOMENT).await, 2);
    gate.open();
    gate.open();
    settled(&layer).await;
    assert_eq!(store.stats().completed, 3);
}

#[tokio::test]
async fn a_new_key_has_to_wait_while_as_many_as_may_run_on_without_a_client() {
    for way in WAYS {
        let (store, runs, gate) = (Steered::new(), Runs::default(), Gate::closed());
        let layer = IdempotencyLayer::builder(store.clone(), scope::shared())
            .max_background_operations(1)
            .route("/quotes", |options| {
                options.on_disconnect(OnDisconnect::Cancel)
            })
            .build()
            .unwrap();
        let service = {
            let gate = gate.clone();
            handler(&runs, move |run| {
                let gate = gate.clone();
                async move {
                    if run < 3 {
                        gate.pass().await;
                    }
                    text(format!("run {run}"))
                }
            })
        };
        let server = Server::start(app(&layer, service)).await;
        let mut client = Client::connect(server.address, way).await;
        client.ask("a").await;
        within(gate.begun()).await;
        // This operation has a client, so it does not keep others from
        // beginning.
        gate.open();
        client.answer().await.unwrap().assert_fresh("run 1");

        let mut client = Client::connect(server.address, way).await;
        client.ask("b").await;
        within(gate.begun()).await;
        let gone = client.leave().await;
        // One exchange is that of the response above, the other one that of the
        // client that left.
        server.over().await;
        server.over().await;
        let other = retry(server.address, "c").await;
        assert_eq!(other.refusal(), "503 over-capacity", "{way:?}");
        assert!(other.header("retry-after").is_some());
        // An operation that is dropped with its client does not count against
        // the limit.
        let quote = ask_for(server.address, "/quotes", "q").await;
        quote.unwrap().assert_fresh("run 3");
        gate.open();
        settled(&layer).await;
        retry(server.address, "c").await.assert_fresh("run 4");
        let left = retry(server.address, "b").await;
        assert_eq!((left.is_replay(), left.text()), (true, "run 2"));
        drop(gone);
    }
}
