//! A deadline that a client sends is its own, and not that of the operation (G4).

use std::convert::Infallible;
use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full};
use tokio::time::{Instant, sleep};
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_idempotency::options::{OnDisconnect, OnInFlight};
use tower_idempotency::{IdempotencyLayer, MemoryStore};

use crate::support::body::{Script, Step};
use crate::support::store::{Fault, Op, Steered};
use crate::support::{
    Runs, Seen, counting, handler, post, post_with, quiet, send, with, with_policy, without,
};

const MILLI: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

/// A gRPC call whose client waits so long.
fn call(key: &str, timeout: &str) -> Request<Full<Bytes>> {
    let request = with(post(key, "note"), "content-type", "application/grpc");
    with(request, "grpc-timeout", timeout)
}

fn layer() -> IdempotencyLayer {
    with_policy(&MemoryStore::new(), |options| options)
}

/// A gRPC handler that takes two seconds, and sends its own deadline back.
fn slow(
    runs: &Runs,
) -> impl Service<
    Request<Full<Bytes>>,
    Response = Response<Script>,
    Error = Infallible,
    Future: Send + 'static,
> + Clone
+ Send
+ 'static {
    let runs = runs.clone();
    service_fn(move |request: Request<Full<Bytes>>| {
        let runs = runs.clone();
        async move {
            let run = runs.begin();
            let told = ["grpc-timeout", "connect-timeout-ms"]
                .iter()
                .any(|name| request.headers().contains_key(*name));
            sleep(2 * SECOND).await;
            let said = format!("run {run}, told of a deadline: {told}");
            let mut response =
                Response::new(Script::frames([said]).and_trailer("grpc-status", "0"));
            let content_type = request.headers()[CONTENT_TYPE].clone();
            response.headers_mut().insert(CONTENT_TYPE, content_type);
            Ok(response)
        }
    })
}

#[track_caller]
fn assert_exceeded(seen: &Seen) {
    assert_eq!(seen.status, 200, "{seen:?}");
    assert_eq!(seen.header("content-type"), Some("application/grpc"));
    assert_eq!(seen.header("grpc-status"), Some("4"));
    assert!(
        seen.header("grpc-message")
            .is_some_and(|own| !own.is_empty())
    );
    assert!(seen.body.is_empty() && seen.trailers.is_none(), "{seen:?}");
    assert!(!seen.is_replay());
}

#[tokio::test(start_paused = true)]
async fn a_call_past_its_deadline_is_told_so_and_its_operation_goes_on() {
    let runs = Runs::default();
    let app = layer().layer(slow(&runs));
    let asked = Instant::now();
    assert_exceeded(&send(&app, call("k", "300m")).await);
    assert_eq!(asked.elapsed(), 300 * MILLI);
    let early = send(&app, call("k", "300m")).await;
    assert_eq!(early.header("idempotency-code"), Some("in-flight"));
    sleep(2 * SECOND).await;
    let retry = send(&app, call("k", "300m")).await;
    assert_eq!(retry.text(), "run 1, told of a deadline: false");
    assert_eq!(retry.trailers.as_ref().unwrap()["grpc-status"], "0");
    assert!(retry.is_replay());
    assert_eq!(runs.count(), 1);
}

/// A server may keep the future of a call for as long as the connection is open.
#[tokio::test(start_paused = true)]
async fn an_operation_goes_on_after_the_deadline_although_its_future_is_kept() {
    let runs = Runs::default();
    let app = layer().layer(slow(&runs));
    let mut kept = pin!(app.clone().call(call("k", "300m")));
    assert_exceeded(&Seen::whole(kept.as_mut().await.unwrap()).await);
    sleep(2 * SECOND).await;
    let retry = send(&app, call("k", "300m")).await;
    assert_eq!(retry.text(), "run 1, told of a deadline: false");
    assert!(retry.is_replay());
}

#[tokio::test(start_paused = true)]
async fn an_answer_before_the_deadline_is_that_of_the_handler() {
    let runs = Runs::default();
    let app = layer().layer(slow(&runs));
    for timeout in [
        "2001m",
        "2001000u",
        "2001000000n",
        "3S",
        "1M",
        "1H",
        "99999999H",
    ] {
        let first = send(&app, call(timeout, timeout)).await;
        assert_eq!(first.trailers.unwrap()["grpc-status"], "0", "{timeout}");
    }
    for timeout in ["1999m", "1999000u", "1S", "0n", "0S"] {
        assert_exceeded(&send(&app, call(timeout, timeout)).await);
    }
}

/// A service could read what this layer can't.
#[tokio::test(start_paused = true)]
async fn a_timeout_that_cannot_be_read_is_not_passed_on() {
    let app = layer().layer(slow(&Runs::default()));
    for timeout in [
        "",
        "1",
        "S",
        "1s",
        "-1S",
        "+1S",
        "1.5S",
        "1 S",
        "99999999999999999999S",
    ] {
        let first = send(&app, call(&format!("{timeout} as a key"), timeout)).await;
        assert!(first.text().ends_with("deadline: false"), "{timeout}");
    }
}

/// The clients of these protocols are not told by the layer. They stop waiting by
/// themselves.
#[tokio::test(start_paused = true)]
async fn deadlines_of_grpc_web_and_connect_are_kept_from_the_handler() {
    let connect = with(post("k", "{}"), "content-type", "application/json");
    let connect = with(connect, "connect-timeout-ms", "300");
    let web = with(
        post("w", "{}"),
        "content-type",
        "application/grpc-web+proto",
    );
    let web = with(web, "grpc-timeout", "300m");
    for request in [connect, web] {
        let app = layer().layer(slow(&Runs::default()));
        let first = send(&app, request).await;
        assert_eq!(first.text(), "run 1, told of a deadline: false");
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_not_protected_keeps_its_deadline() {
    let app = layer().layer(slow(&Runs::default()));
    let asked = Instant::now();
    let request = without(call("", "300m"), "idempotency-key");
    let answer = send(&app, request).await;
    assert_eq!(answer.text(), "run 1, told of a deadline: true");
    assert_eq!(asked.elapsed(), 2 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_waits_for_another_is_told_at_its_own_deadline() {
    let runs = Runs::default();
    let waiting = |options: tower_idempotency::RouteOptions| {
        options.on_in_flight(OnInFlight::Wait(60 * SECOND))
    };
    let app = with_policy(&MemoryStore::new(), waiting).layer(slow(&runs));
    let first = tokio::spawn(app.clone().oneshot(call("k", "10S")));
    quiet().await;
    let asked = Instant::now();
    assert_exceeded(&send(&app, call("k", "300m")).await);
    assert_eq!(asked.elapsed(), 300 * MILLI);
    let patient = send(&app, call("k", "10S")).await;
    patient.assert_replays(&Seen::whole(first.await.unwrap().unwrap()).await);
    assert_eq!(runs.count(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_call_whose_message_is_late_is_told_so_and_nothing_is_executed() {
    let runs = Runs::default();
    let app = layer().layer(counting::<Script>(&runs));
    let late = Script::new([Step::Wait(SECOND), Step::Data("note".into())]);
    let request = with(post_with("k", late), "content-type", "application/grpc");
    assert_exceeded(&send(&app, with(request, "grpc-timeout", "300m")).await);
    sleep(2 * SECOND).await;
    assert_eq!(runs.count(), 0);
}

/// As for a client that leaves before the claim is answered.
#[tokio::test(start_paused = true)]
async fn a_claim_that_is_late_is_given_back() {
    let (runs, store) = (Runs::default(), Steered::new());
    store.make(Op::Claim, Fault::Late(SECOND));
    let app = with_policy(&store, |options| options).layer(slow(&runs));
    assert_exceeded(&send(&app, call("k", "300m")).await);
    sleep(SECOND).await;
    assert_eq!((runs.count(), store.stats().released), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn a_route_that_cancels_for_a_client_that_leaves_cancels_at_its_deadline() {
    let runs = Runs::default();
    let cancel =
        |options: tower_idempotency::RouteOptions| options.on_disconnect(OnDisconnect::Cancel);
    let app = with_policy(&MemoryStore::new(), cancel).layer(slow(&runs));
    assert_exceeded(&send(&app, call("k", "300m")).await);
    quiet().await;
    let retry = send(&app, call("k", "10S")).await;
    assert_eq!(retry.text(), "run 2, told of a deadline: false");
}

#[tokio::test(start_paused = true)]
async fn a_stream_past_its_deadline_ends_with_that_status_and_is_recorded_whole() {
    let runs = Runs::default();
    let app = layer().layer(handler(&runs, |_, _| {
        let steps = [
            Step::Data("one ".into()),
            Step::Wait(2 * SECOND),
            Step::Data("two".into()),
        ];
        let mut response = Response::new(Script::new(steps).and_trailer("grpc-status", "0"));
        let content_type = "application/grpc".parse().unwrap();
        response.headers_mut().insert(CONTENT_TYPE, content_type);
        response
    }));
    let asked = Instant::now();
    let first = app.clone().oneshot(call("k", "300m")).await.unwrap();
    let first = first.into_body().collect().await.unwrap();
    assert_eq!(asked.elapsed(), 300 * MILLI);
    assert_eq!(first.trailers().map(status), Some("4"));
    assert_eq!(first.to_bytes(), "one ");
    let early = send(&app, call("k", "300m")).await;
    assert_eq!(early.header("idempotency-code"), Some("in-flight"));
    sleep(2 * SECOND).await;
    let retry = send(&app, call("k", "300m")).await;
    assert_eq!(retry.text(), "one two");
    assert_eq!(retry.trailers.as_ref().map(status), Some("0"));
    assert!(retry.is_replay());
    assert_eq!(runs.count(), 1);
}

fn status(trailers: &HeaderMap) -> &str {
    trailers["grpc-status"].to_str().unwrap()
}
