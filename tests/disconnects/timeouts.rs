//! Timeouts outside and inside of the layer.

use std::convert::Infallible;
use std::future::pending;

use http::{Request, Response, StatusCode};
use tower::timeout::TimeoutLayer as Timeout;
use tower::{Service, ServiceBuilder};
use tower_http::timeout::TimeoutLayer;
use tower_idempotency::options::OnLapsedLease;

use crate::app::{MOMENT, Sent, app, at_gate, handler, layer, settled, text};
use crate::client::{ask, retry};
use crate::server::Server;
use crate::support::store::{Op, Steered};
use crate::support::{Gate, Runs};

#[tokio::test]
async fn an_operation_outlives_a_timeout_outside_and_the_retry_is_a_replay() {
    for of_tower in [true, false] {
        let (store, runs, gate) = (Steered::new(), Runs::default(), Gate::closed());
        let layer = layer(&store, |options| options);
        let inner = app(&layer, at_gate(&runs, &gate));
        let server = if of_tower {
            let outside = ServiceBuilder::new().layer(Timeout::new(MOMENT));
            Server::start(outside.service(inner)).await
        } else {
            let status = StatusCode::GATEWAY_TIMEOUT;
            let outside = TimeoutLayer::with_status_code(status, MOMENT);
            Server::start(ServiceBuilder::new().layer(outside).service(inner)).await
        };
        // On a slow machine the timeout may expire before the handler begins.
        while runs.count() == 0 {
            let late = ask(server.address, "k").await;
            assert_eq!(late.map(|late| late.status), (!of_tower).then_some(504));
        }
        let early = retry(server.address, "k").await;
        assert_eq!(early.refusal(), "409 in-flight");
        gate.open();
        settled(&layer).await;
        let late = retry(server.address, "k").await;
        assert_eq!((late.is_replay(), late.text()), (true, "run 1"));
        assert_eq!((runs.count(), store.calls(Op::Complete)), (1, 1));
    }
}

/// A handler whose first execution never ends. Later executions respond.
fn hangs_once<B: Send + 'static>(
    runs: &Runs,
) -> impl Service<Request<B>, Response = Response<Sent>, Error = Infallible, Future: Send + 'static>
+ Clone
+ Send
+ Sync
+ 'static {
    handler(runs, async |run| {
        if run == 1 {
            pending::<()>().await;
        }
        text(format!("run {run}"))
    })
}

#[tokio::test]
async fn an_answer_of_a_timeout_inside_frees_the_key() {
    for on_lapsed_lease in [OnLapsedLease::Rerun, OnLapsedLease::Refuse] {
        for status in [StatusCode::REQUEST_TIMEOUT, StatusCode::GATEWAY_TIMEOUT] {
            let (store, runs) = (Steered::new(), Runs::default());
            let layer = layer(&store, |options| options.on_lapsed_lease(on_lapsed_lease));
            let inside = ServiceBuilder::new()
                .layer(TimeoutLayer::with_status_code(status, MOMENT))
                .service(hangs_once(&runs));
            let server = Server::start(app(&layer, inside)).await;
            let first = retry(server.address, "k").await;
            assert_eq!((first.status, first.is_replay()), (status.as_u16(), false));
            let second = retry(server.address, "k").await;
            second.assert_fresh("run 2");
            assert_eq!(runs.count(), 2);
        }
    }
}

#[tokio::test]
async fn an_error_of_a_timeout_inside_frees_the_key_or_leaves_it_in_doubt() {
    for (on_lapsed_lease, refused) in [
        (OnLapsedLease::Rerun, None),
        (OnLapsedLease::Refuse, Some("409 outcome-unknown")),
    ] {
        let (store, runs) = (Steered::new(), Runs::default());
        let layer = layer(&store, |options| options.on_lapsed_lease(on_lapsed_lease));
        let inside = ServiceBuilder::new()
            .layer(Timeout::new(MOMENT))
            .service(hangs_once(&runs));
        let server = Server::start(app(&layer, inside)).await;
        // hyper closes the connection if the service returns an error.
        assert!(ask(server.address, "k").await.is_none());
        let second = retry(server.address, "k").await;
        match refused {
            None => second.assert_fresh("run 2"),
            Some(refusal) => assert_eq!((second.refusal().as_str(), runs.count()), (refusal, 1)),
        }
    }
}
