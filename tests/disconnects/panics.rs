//! Handlers that panic while clients wait on real sockets.

use http::Response;
use tower::ServiceBuilder;
use tower_http::catch_panic::CatchPanicLayer;
use tower_idempotency::options::OnLapsedLease;

use crate::app::{Sent, app, created, handler, layer, settled, text};
use crate::client::{Client, Leaves, WAYS, retry};
use crate::server::Server;
use crate::support::body::{Script, Step};
use crate::support::store::Steered;
use crate::support::{Gate, Runs};
use crate::within;

/// The first execution responds and the second one panics, after the test has
/// opened the gate.
async fn panics_once(run: usize, gate: Gate) -> Response<Sent> {
    if run == 2 {
        gate.pass().await;
        panic!("as the test wants it");
    }
    if run == 1 {
        gate.pass().await;
    }
    text(format!("run {run}"))
}

#[tokio::test]
async fn a_retry_executes_after_a_panic_and_other_connections_notice_nothing() {
    for caught in [false, true] {
        for (on_lapsed_lease, refused) in [
            (OnLapsedLease::Rerun, None),
            (OnLapsedLease::Refuse, Some("409 outcome-unknown")),
        ] {
            for way in [Leaves::Closing, Leaves::Http2Closing] {
                let (store, runs, gate) = (Steered::new(), Runs::default(), Gate::closed());
                let layer = layer(&store, |options| options.on_lapsed_lease(on_lapsed_lease));
                let service = {
                    let gate = gate.clone();
                    handler(&runs, move |run| panics_once(run, gate.clone()))
                };
                let app = app(&layer, service);
                let server = if caught {
                    let outside = ServiceBuilder::new().layer(CatchPanicLayer::new());
                    Server::start(outside.service(app)).await
                } else {
                    Server::start(app).await
                };
                // Another operation that runs during the whole test.
                let mut other = Client::connect(server.address, way).await;
                other.ask("other").await;
                within(gate.begun()).await;

                let mut client = Client::connect(server.address, way).await;
                client.ask("k").await;
                within(gate.begun()).await;
                gate.open();
                gate.open();
                let answer = client.answer().await;
                assert_eq!(answer.map(|answer| answer.status), caught.then_some(500));
                other.answer().await.unwrap().assert_fresh("run 1");
                settled(&layer).await;
                let second = retry(server.address, "k").await;
                match refused {
                    None => second.assert_fresh("run 3"),
                    Some(refusal) => assert_eq!(second.refusal(), refusal),
                }
                let other = retry(server.address, "other").await;
                assert!(other.is_replay());
            }
        }
    }
}

#[tokio::test]
async fn a_retry_executes_after_a_panic_that_no_client_saw() {
    for way in WAYS {
        let (store, runs, gate) = (Steered::new(), Runs::default(), Gate::closed());
        let layer = layer(&store, |options| options);
        let service = {
            let gate = gate.clone();
            handler(&runs, move |run| panics_once(run + 1, gate.clone()))
        };
        let server = Server::start(app(&layer, service)).await;
        let mut client = Client::connect(server.address, way).await;
        client.ask("k").await;
        within(gate.begun()).await;
        let gone = client.leave().await;
        server.over().await;
        gate.open();
        settled(&layer).await;
        assert_eq!(store.stats().in_flight, 0, "{way:?}");
        retry(server.address, "k").await.assert_fresh("run 3");
        assert_eq!(runs.count(), 2);
        drop(gone);
    }
}

/// The handler has responded, so its effect has happened.
#[tokio::test]
async fn an_answer_that_panics_in_the_middle_is_cut_and_not_run_again() {
    for way in [Leaves::Closing, Leaves::Http2Closing] {
        let (store, runs) = (Steered::new(), Runs::default());
        let layer = layer(&store, |options| options);
        let service = handler(&runs, async |_| {
            let data = Step::Data(vec![b'x'; 100_000].into());
            created(Script::new([data, Step::Yield, Step::Panic]))
        });
        let server = Server::start(app(&layer, service)).await;
        let mut client = Client::connect(server.address, way).await;
        client.ask("k").await;
        assert!(client.answer().await.is_none(), "{way:?}");
        settled(&layer).await;
        let late = retry(server.address, "k").await;
        assert_eq!(late.refusal(), "409 response-unavailable");
        assert_eq!(runs.count(), 1);
    }
}
