//! `IdempotencyLayer::counts` and `protects`, which an application's metrics
//! and its authorisation use.

use std::time::Duration;

use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use tokio::time::sleep;
use tower::{Layer, ServiceExt};
use tower_idempotency::options::{OnDisconnect, OnLapsedLease, OnStoreError, Require};
use tower_idempotency::recording::Recording;
use tower_idempotency::rejection::RejectionCode;
use tower_idempotency::store::StoreErrorKind;
use tower_idempotency::{Counts, IdempotencyLayer, MemoryStore, RouteOptions};

use crate::support::body::{Script, Step};
use crate::support::store::{Fault, Op, Steered};
use crate::support::{
    Gate, Runs, answer, builder, counting, created, handler, held_back, post, quiet, send, to,
    with_policy,
};

/// The counters that are not zero, by name.
fn seen(layer: &IdempotencyLayer) -> Vec<(&'static str, u64)> {
    let counts = layer.counts();
    let named = [
        ("executed", counts.executed),
        ("rerun", counts.rerun),
        ("replayed", counts.replayed),
        ("recorded", counts.recorded),
        ("sealed", counts.sealed),
        ("released", counts.released),
        ("outcome_unknown", counts.outcome_unknown),
        ("in_doubt", counts.in_doubt),
        ("overtaken", counts.overtaken),
        ("unrecorded", counts.unrecorded),
        ("unprotected", counts.unprotected),
    ];
    let mut seen: Vec<_> = named.into_iter().filter(|(_, count)| *count > 0).collect();
    for code in RejectionCode::ALL {
        let count = counts.rejected(*code);
        if count > 0 {
            seen.push((code.as_str(), count));
        }
    }
    seen
}

#[tokio::test]
async fn executions_and_what_they_end_in_are_counted() {
    let layer = with_policy(&MemoryStore::new(), |options| options.max_recorded_body(8));
    let app = layer.layer(handler(&Runs::default(), |run, _| match run {
        1 => created("kept"),
        2 => created("too large to be kept"),
        3 => answer(StatusCode::SERVICE_UNAVAILABLE, "later"),
        4 => created("at last"),
        _ => {
            let mut response = created("who knows");
            response.extensions_mut().insert(Recording::InDoubt);
            response
        }
    }));
    assert_eq!(layer.counts(), Counts::default());
    for key in ["a", "b", "c"] {
        send(&app, post(key, "{}")).await;
    }
    quiet().await;
    let three = [
        ("executed", 3),
        ("recorded", 1),
        ("sealed", 1),
        ("released", 1),
    ];
    assert_eq!(seen(&layer), three);
    for key in ["a", "a", "b", "c", "d"] {
        send(&app, post(key, "{}")).await;
    }
    send(&app, post("a", "{ }")).await;
    quiet().await;
    assert_eq!(
        seen(&layer),
        [
            ("executed", 5),
            ("rerun", 1),
            ("replayed", 2),
            ("recorded", 2),
            ("sealed", 1),
            ("released", 1),
            ("in_doubt", 1),
            ("key-reused", 1),
            ("response-unavailable", 1),
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn operations_that_leave_by_another_door_are_counted_too() {
    let runs = Runs::default();
    let gate = Gate::closed();
    let store = Steered::new();
    let layer = builder(&store)
        .defaults(|options| options.on_store_error(OnStoreError::RunUnprotected))
        .route("/cancelled", |options| {
            options.on_disconnect(OnDisconnect::Cancel)
        })
        .build()
        .unwrap();
    let app = layer.layer(held_back(&runs, &gate));
    // The client of this request leaves while the handler runs.
    let mut left = Box::pin(app.clone().oneshot(to("/cancelled", post("k", "{}"))));
    tokio::select! {
        _ = &mut left => panic!("nothing lets it through"),
        () = sleep(Duration::from_millis(1)) => {}
    }
    drop(left);
    quiet().await;
    assert_eq!(seen(&layer), [("executed", 1), ("released", 1)]);
    // The store can't be reached.
    gate.open();
    store.make(Op::Claim, Fault::Fails(StoreErrorKind::NotSent));
    send(&app, post("u", "{}")).await;
    let without_store = [("executed", 1), ("released", 1), ("unprotected", 1)];
    assert_eq!(seen(&layer), without_store);
    // The first attempt to release the record fails.
    let failing = Steered::new();
    let layer = with_policy(&failing, |options| options);
    failing.make(Op::Release, Fault::Fails(StoreErrorKind::NotSent));
    let app = layer.layer(handler(&Runs::default(), |_, _| {
        answer(StatusCode::SERVICE_UNAVAILABLE, "later")
    }));
    send(&app, post("k", "{}")).await;
    failing.heal(Op::Release);
    sleep(Duration::from_secs(1)).await;
    assert_eq!(failing.stats().in_flight, 0);
    assert_eq!(seen(&layer), [("executed", 1), ("released", 1)]);
    // The store can't be reached when the response is ready.
    let other = Steered::new();
    let layer = with_policy(&other, |options| options);
    other.make(Op::Complete, Fault::Fails(StoreErrorKind::NotSent));
    other.make(Op::Complete, Fault::Stalls);
    let app = layer.layer(counting(&Runs::default()));
    let late = send(&app, post("k", "{}")).await;
    assert_eq!(late.lacks(), Some("unrecorded"));
    assert_eq!(seen(&layer), [("executed", 1), ("unrecorded", 1)]);
}

#[tokio::test]
async fn a_service_that_fails_or_breaks_off_is_counted_as_it_ends() {
    let layer = with_policy(&MemoryStore::new(), |options| options);
    let app = layer.layer(handler(&Runs::default(), |run, _| {
        let mut response =
            Response::new(Script::frames(["half"]).then(Step::Fail("as the test wants it")));
        if run == 2 {
            *response.status_mut() = StatusCode::BAD_GATEWAY;
        }
        response
    }));
    for key in ["sealed", "released"] {
        let response = app.clone().oneshot(post(key, "{}")).await.unwrap();
        assert!(response.into_body().collect().await.is_err());
    }
    assert_eq!(
        seen(&layer),
        [("executed", 2), ("sealed", 1), ("released", 1)]
    );
    let failing = layer.layer(tower::service_fn(
        |_: Request<http_body_util::Full<bytes::Bytes>>| async {
            Err::<Response<http_body_util::Full<bytes::Bytes>>, _>("as the test wants it")
        },
    ));
    failing.oneshot(post("fails", "{}")).await.unwrap_err();
    assert_eq!(
        seen(&layer),
        [("executed", 3), ("sealed", 1), ("released", 2)]
    );
}

#[test]
fn whether_a_request_is_protected_can_be_asked_before_it_is_sent() {
    let layer = builder(&MemoryStore::new())
        .route("/required", |options| options.require(Require::Required))
        .route("/ignored", |options| options.require(Require::Ignored))
        .build()
        .unwrap();
    for (method, target, key, expected) in [
        ("POST", "/", Some("k"), true),
        ("POST", "/", Some("\"malformed"), true),
        ("POST", "/", None, false),
        ("GET", "/", Some("k"), false),
        ("POST", "/required", None, true),
        ("GET", "/required", None, false),
        ("POST", "/ignored", Some("k"), false),
    ] {
        let mut request = Request::builder().method(method).uri(target);
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        let (request, ()) = request.body(()).unwrap().into_parts();
        assert_eq!(
            layer.protects(&request),
            expected,
            "{method} {target} {key:?}"
        );
    }
}

/// Nobody knows how these operations ended, and a retry executes nothing, so
/// they are not counted as released.
#[tokio::test(start_paused = true)]
async fn operations_whose_outcome_is_unknown_are_counted_as_that() {
    let refuse = |options: RouteOptions| options.on_lapsed_lease(OnLapsedLease::Refuse);
    let layer = with_policy(&MemoryStore::new(), refuse);
    let failing = layer.layer(tower::service_fn(
        |_: Request<http_body_util::Full<bytes::Bytes>>| async {
            Err::<Response<http_body_util::Full<bytes::Bytes>>, _>("as the test wants it")
        },
    ));
    failing.oneshot(post("fails", "{}")).await.unwrap_err();
    assert_eq!(seen(&layer), [("executed", 1), ("outcome_unknown", 1)]);
    // The handler is dropped while it runs.
    let layer = with_policy(&MemoryStore::new(), move |options| {
        refuse(options).on_disconnect(OnDisconnect::Cancel)
    });
    let app = layer.layer(held_back(&Runs::default(), &Gate::closed()));
    let left = tokio::time::timeout(Duration::from_millis(1), app.oneshot(post("k", "{}")));
    assert!(left.await.is_err(), "nothing lets it through");
    quiet().await;
    assert_eq!(seen(&layer), [("executed", 1), ("outcome_unknown", 1)]);
}
