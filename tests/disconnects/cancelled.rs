//! The option `on_disconnect = cancel`: the operation ends with its client.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tower_idempotency::options::{OnDisconnect, OnLapsedLease};
use tower_idempotency::{IdempotencyLayer, scope};

use crate::app::{app, at_gate, handler, layer, settled, text};
use crate::client::{Client, WAYS, ask_for, retry};
use crate::server::Server;
use crate::support::store::Steered;
use crate::support::{Gate, Runs};
use crate::{LIMIT, within};

/// Notifies the test when it is dropped.
struct Dropped(Arc<Notify>);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

#[tokio::test]
async fn a_handler_is_dropped_with_its_client_and_the_key_is_free_or_in_doubt() {
    for (on_lapsed_lease, refused) in [
        (OnLapsedLease::Rerun, None),
        (OnLapsedLease::Refuse, Some("409 outcome-unknown")),
    ] {
        for way in WAYS {
            let (store, runs) = (Steered::new(), Runs::default());
            let layer = layer(&store, |options| {
                options
                    .on_disconnect(OnDisconnect::Cancel)
                    .on_lapsed_lease(on_lapsed_lease)
            });
            let (begun, dropped) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
            let service = {
                let (begun, dropped) = (Arc::clone(&begun), Arc::clone(&dropped));
                handler(&runs, move |run| {
                    let (begun, dropped) = (Arc::clone(&begun), Arc::clone(&dropped));
                    async move {
                        if run == 1 {
                            let _dropped = Dropped(dropped);
                            begun.notify_one();
                            pending::<()>().await;
                        }
                        text(format!("run {run}"))
                    }
                })
            };
            let server = Server::start(app(&layer, service)).await;
            let mut client = Client::connect(server.address, way).await;
            client.ask("k").await;
            within(begun.notified()).await;
            let gone = client.leave().await;
            within(dropped.notified()).await;
            server.over().await;
            settled(&layer).await;
            let second = retry(server.address, "k").await;
            match refused {
                None => second.assert_fresh("run 2"),
                Some(refusal) => {
                    assert_eq!((second.refusal().as_str(), runs.count()), (refusal, 1));
                }
            }
            drop(gone);
        }
    }
}

#[tokio::test]
async fn a_route_is_cancelled_and_another_is_finished() {
    for way in WAYS {
        let (store, runs, gate) = (Steered::new(), Runs::default(), Gate::closed());
        let layer = IdempotencyLayer::builder(store.clone(), scope::shared())
            .route("/quotes", |options| {
                options.on_disconnect(OnDisconnect::Cancel)
            })
            .build()
            .unwrap();
        let server = Server::start(app(&layer, at_gate(&runs, &gate))).await;
        for (target, left) in [("/quotes", 0), ("/payments", 1)] {
            let mut client = Client::connect(server.address, way).await;
            client.ask_for(target, target).await;
            within(gate.begun()).await;
            let gone = client.leave().await;
            server.over().await;
            // A cancelled operation may still be releasing its record.
            let limit = if left == 0 { LIMIT } else { Duration::ZERO };
            assert_eq!(layer.drain(limit).await, left, "{way:?}");
            drop(gone);
        }
        gate.open();
        settled(&layer).await;
        let payment = ask_for(server.address, "/payments", "/payments").await;
        assert_eq!(payment.unwrap().text(), "run 2");
        gate.open();
        let quote = ask_for(server.address, "/quotes", "/quotes").await;
        quote.unwrap().assert_fresh("run 3");
    }
}
