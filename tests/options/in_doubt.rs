//! The option `in_doubt` and `Recording::InDoubt`: an operation that a handler
//! started elsewhere may still be running after the response.

use std::time::Duration;

use http::Response;
use http_body::Body;
use http_body_util::BodyExt;
use tokio::time::{Instant, sleep};
use tower::{Layer, ServiceExt};
use tower_idempotency::options::{OnInFlight, OnLapsedLease};
use tower_idempotency::recording::{Recording, Statuses};
use tower_idempotency::store::StoreErrorKind;

use crate::support::body::{Script, Step};
use crate::support::store::{Fault, Op, Steered};
use crate::support::{Runs, answer, created, handler, post, quiet, send, with_policy};

const LEASE: Duration = Duration::from_secs(30);
const SECOND: Duration = Duration::from_secs(1);

fn in_doubt<B: Body>(mut response: Response<B>) -> Response<B> {
    response.extensions_mut().insert(Recording::InDoubt);
    response
}

fn stores() -> [Steered; 2] {
    [Steered::new(), Steered::unguarded()]
}

/// The option `in_doubt` decides where the handler does not.
#[tokio::test(start_paused = true)]
async fn a_status_in_doubt_leaves_the_record_in_flight_unless_the_handler_decides() {
    for (word, retried) in [
        (None, Err("409 in-flight")),
        (Some(Recording::IfComplete), Err("409 in-flight")),
        (Some(Recording::Skip), Ok("run 2")),
    ] {
        let (store, runs) = (Steered::new(), Runs::default());
        let layer = with_policy(&store, |options| {
            options.in_doubt(Statuses::none().with([502, 504]))
        });
        let app = layer.layer(handler(&runs, move |run, _| match run {
            1 => {
                let mut response = answer(http::StatusCode::GATEWAY_TIMEOUT, "who knows");
                if let Some(word) = word {
                    response.extensions_mut().insert(word);
                }
                response
            }
            _ => created(format!("run {run}")),
        }));
        let first = send(&app, post("k", "{}")).await;
        assert_eq!((first.status, first.lacks()), (504, None));
        quiet().await;
        let retry = send(&app, post("k", "{}")).await;
        match retried {
            Ok(text) => retry.assert_fresh(text),
            Err(rejection) => {
                assert_eq!(retry.refusal(), rejection);
                sleep(LEASE).await;
                send(&app, post("k", "{}")).await.assert_fresh("run 2");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_operation_in_doubt_is_in_flight_for_one_lease_and_then_as_its_policy_says() {
    for (on_lapsed_lease, expected) in [
        (OnLapsedLease::Rerun, None),
        (OnLapsedLease::Refuse, Some("409 outcome-unknown")),
    ] {
        for status in [http::StatusCode::GATEWAY_TIMEOUT, http::StatusCode::CREATED] {
            for store in stores() {
                let runs = Runs::default();
                let layer = with_policy(&store, |options| options.on_lapsed_lease(on_lapsed_lease));
                let app = layer.layer(handler(&runs, move |run, _| match run {
                    1 => in_doubt(answer(status, "who knows")),
                    _ => created(format!("run {run}")),
                }));
                let first = send(&app, post("k", "{}")).await;
                first.assert_fresh("who knows");
                assert_eq!((first.status, first.lacks()), (status.as_u16(), None));
                quiet().await;
                assert_eq!(store.stats().in_flight, 1);
                sleep(LEASE - SECOND).await;
                let retry = send(&app, post("k", "{}")).await;
                assert_eq!(retry.refusal(), "409 in-flight");
                let other = send(&app, post("k", "{ }")).await;
                assert_eq!(other.refusal(), "422 key-reused");
                sleep(SECOND).await;
                let retry = send(&app, post("k", "{}")).await;
                match expected {
                    None => retry.assert_fresh("run 2"),
                    Some(refusal) => assert_eq!(retry.refusal(), refusal),
                }
            }
        }
    }
}

/// The lease counts from the response, however long the handler took to
/// respond.
#[tokio::test(start_paused = true)]
async fn the_lease_of_an_operation_in_doubt_is_counted_from_its_answer() {
    for store in stores() {
        let runs = Runs::default();
        let layer = with_policy(&store, |options| options);
        let app = layer.layer(handler(&runs, |run, _| {
            let body = Script::new([Step::Wait(LEASE * 3 + SECOND * 4), Step::Data("?".into())]);
            match run {
                1 => in_doubt(Response::new(body)),
                _ => Response::new(Script::frames([format!("run {run}")])),
            }
        }));
        let first = send(&app, post("k", "{}")).await;
        first.assert_fresh("?");
        sleep(LEASE - SECOND).await;
        let retry = send(&app, post("k", "{}")).await;
        assert_eq!(retry.refusal(), "409 in-flight");
        sleep(SECOND * 2).await;
        send(&app, post("k", "{}")).await.assert_fresh("run 2");
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_fails_to_renew_shortens_doubt_and_holds_the_answer_for_its_timeout_only() {
    for fault in [Fault::Fails(StoreErrorKind::NotSent), Fault::Stalls] {
        for store in stores() {
            let runs = Runs::default();
            let layer = with_policy(&store, |options| options);
            let app = layer.layer(handler(&runs, |run, _| match run {
                1 => in_doubt(created("?")),
                _ => created(format!("run {run}")),
            }));
            store.make(Op::Renew, fault);
            let start = Instant::now();
            send(&app, post("k", "{}")).await.assert_fresh("?");
            assert!(start.elapsed() <= SECOND * 2 + SECOND / 100);
            let retry = send(&app, post("k", "{}")).await;
            assert_eq!(retry.refusal(), "409 in-flight");
            sleep(LEASE).await;
            send(&app, post("k", "{}")).await.assert_fresh("run 2");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_in_doubt_that_breaks_off_is_in_doubt() {
    for store in stores() {
        let runs = Runs::default();
        let layer = with_policy(&store, |options| {
            options.on_lapsed_lease(OnLapsedLease::Refuse)
        });
        let app = layer.layer(handler(&runs, |_, _| {
            let body = Script::frames(["half"]);
            in_doubt(Response::new(body.then(Step::Fail("as the test wants it"))))
        }));
        let first = app.clone().oneshot(post("k", "{}")).await.unwrap();
        assert!(first.into_body().collect().await.is_err());
        let retry = send(&app, post("k", "{}")).await;
        assert_eq!(retry.refusal(), "409 in-flight");
        sleep(LEASE).await;
        let retry = send(&app, post("k", "{}")).await;
        assert_eq!(retry.refusal(), "409 outcome-unknown");
    }
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_an_operation_in_doubt_takes_over_when_its_lease_lapses() {
    for store in stores() {
        let runs = Runs::default();
        let layer = with_policy(&store, |options| {
            options.on_in_flight(OnInFlight::Wait(LEASE * 10))
        });
        let app = layer.layer(handler(&runs, |run, _| match run {
            1 => in_doubt(created("?")),
            _ => created(format!("run {run}")),
        }));
        send(&app, post("k", "{}")).await.assert_fresh("?");
        let start = Instant::now();
        send(&app, post("k", "{}")).await.assert_fresh("run 2");
        let passed = start.elapsed();
        assert!(
            passed >= LEASE && passed < LEASE + SECOND / 10,
            "{passed:?}"
        );
    }
}

/// If an upstream's response breaks off, the operation may still be running,
/// unless the status says that the operation has happened.
#[tokio::test(start_paused = true)]
async fn an_answer_that_counts_only_whole_is_in_doubt_when_it_breaks_off() {
    for (status, ends, expected) in [
        (502, true, None),
        (502, false, Some("409 in-flight")),
        (201, false, Some("409 response-unavailable")),
    ] {
        for store in stores() {
            let runs = Runs::default();
            let layer = with_policy(&store, |options| options);
            let app = layer.layer(handler(&runs, move |_, _| {
                let mut body = Script::frames(["half"]);
                if !ends {
                    body = body.then(Step::Fail("as the test wants it"));
                }
                let mut response = Response::new(body);
                *response.status_mut() = http::StatusCode::from_u16(status).unwrap();
                response.extensions_mut().insert(Recording::IfComplete);
                response
            }));
            let first = app.clone().oneshot(post("k", "{}")).await.unwrap();
            assert_eq!(first.into_body().collect().await.is_ok(), ends);
            match expected {
                None => {
                    let retry = send(&app, post("k", "{}")).await;
                    assert_eq!((retry.status, runs.count()), (status, 2));
                }
                Some(refusal) => {
                    let retry = send(&app, post("k", "{}")).await;
                    assert_eq!(retry.refusal(), refusal);
                    assert_eq!(runs.count(), 1);
                }
            }
        }
    }
}
