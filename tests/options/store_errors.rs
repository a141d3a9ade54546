//! The options `on_store_error` and `store_timeout`.

use std::time::Duration;

use http::Response;
use tokio::time::{Instant, sleep};
use tower::{Layer, ServiceExt};
use tower_idempotency::IdempotencyContext;
use tower_idempotency::options::OnStoreError;
use tower_idempotency::store::StoreErrorKind;

use crate::support::body::Script;
use crate::support::log::Log;
use crate::support::store::{Fault, Op, Steered};
use crate::support::{
    Runs, Seen, builder, by, counting, created, handler, post, post_with, quiet, send, with_policy,
};

const KINDS: [StoreErrorKind; 5] = [
    StoreErrorKind::NotSent,
    StoreErrorKind::Unknown,
    StoreErrorKind::Contention,
    StoreErrorKind::Unreadable,
    StoreErrorKind::Unsupported,
];

#[tokio::test(start_paused = true)]
async fn closed_is_closed_to_every_failure() {
    for kind in KINDS {
        let (store, runs) = (Steered::new(), Runs::default());
        let app = with_policy(&store, |options| options).layer(counting(&runs));
        store.make(Op::Claim, Fault::Fails(kind));
        let seen = send(&app, post("k", "{}")).await;
        assert_eq!(seen.refusal(), "503 store-unavailable", "{kind:?}");
        assert_eq!(seen.header("retry-after"), Some("1"));
        quiet().await;
        assert!(store.memory.is_empty());
        store.heal(Op::Claim);
        send(&app, post("k", "{}")).await.assert_fresh("run 1");
    }
}

#[tokio::test(start_paused = true)]
async fn open_is_open_only_to_claims_that_certainly_did_not_reach_the_store() {
    for kind in KINDS {
        let (store, runs) = (Steered::new(), Runs::default());
        let layer = with_policy(&store, |options| {
            options.on_store_error(OnStoreError::RunUnprotected)
        });
        let app = layer.layer(counting(&runs));
        store.make(Op::Claim, Fault::Fails(kind));
        let first = send(&app, post("k", "{}")).await;
        if kind == StoreErrorKind::NotSent {
            first.assert_fresh("run 1");
            assert_eq!((first.status, first.lacks()), (201, Some("unprotected")));
            // The retry runs the operation again: that is the price of
            // `RunUnprotected`.
            let retry = send(&app, post("k", "{}")).await;
            retry.assert_fresh("run 2");
            assert_eq!(retry.lacks(), Some("unprotected"));
            assert!(store.memory.is_empty());
        } else {
            assert_eq!(first.refusal(), "503 store-unavailable", "{kind:?}");
            assert_eq!(runs.count(), 0);
        }
        store.heal(Op::Claim);
        let protected = send(&app, by("bob", post("k", "{}"))).await;
        assert_eq!((protected.status, protected.lacks()), (201, None));
    }
}

#[tokio::test]
async fn what_runs_unprotected_gets_its_whole_request_and_is_answered_as_it_answers() {
    let store = Steered::new();
    store.make(Op::Claim, Fault::Fails(StoreErrorKind::NotSent));
    let layer = with_policy(&store, |options| {
        options
            .on_store_error(OnStoreError::RunUnprotected)
            .max_recorded_body(1)
    });
    let app = layer.layer(handler(&Runs::default(), |_, request: http::Request<_>| {
        let context = request.extensions().get::<IdempotencyContext>();
        assert!(context.is_none(), "there is no operation");
        Response::new(Script::frames([request.into_body()]).and_trailer("a", "b"))
    }));
    let body = Script::frames(["the ", "whole ", "body"]);
    let seen = send(&app, post_with("k", body)).await;
    assert_eq!((seen.status, seen.text()), (200, "the whole body"));
    assert_eq!(seen.trailers.as_ref().unwrap()["a"], "b");
    assert_eq!(seen.lacks(), Some("unprotected"));
}

/// The body of its response flows after the head, so the operation goes on as long.
#[tokio::test]
async fn what_runs_unprotected_is_in_flight_until_its_response_has_ended() {
    let store = Steered::new();
    store.make(Op::Claim, Fault::Fails(StoreErrorKind::NotSent));
    let layer = builder(&store)
        .max_in_flight_operations(1)
        .defaults(|options| options.on_store_error(OnStoreError::RunUnprotected))
        .build()
        .unwrap();
    let body = || Script::frames(["one", "two"]);
    let app = layer.layer(handler(&Runs::default(), move |_, _| Response::new(body())));
    let first = app.clone().oneshot(post("a", "{}")).await.unwrap();
    let second = send(&app, by("bob", post("b", "{}"))).await;
    assert_eq!(second.refusal(), "503 over-capacity");
    assert_eq!(Seen::whole(first).await.text(), "onetwo");
    let second = send(&app, by("bob", post("b", "{}"))).await;
    assert_eq!((second.status, second.text()), (200, "onetwo"));
}

#[tokio::test]
async fn open_lets_only_the_store_fail() {
    let store = Steered::new();
    store.make(Op::Claim, Fault::Fails(StoreErrorKind::NotSent));
    let layer = with_policy(&store, |options| {
        options
            .on_store_error(OnStoreError::RunUnprotected)
            .max_request_body(4)
    });
    let app = layer.layer(counting(&Runs::default()));
    let refused: [(Seen, _); 2] = [
        (send(&app, post("\"k", "{}")).await, "400 key-invalid"),
        (
            send(&app, post("k", "too large")).await,
            "413 body-too-large",
        ),
    ];
    for (seen, expected) in refused {
        assert_eq!(seen.refusal(), expected);
    }
}

#[tokio::test(start_paused = true)]
async fn a_claim_whose_outcome_is_unknown_is_released_by_its_nonce_in_the_background() {
    for on_store_error in [OnStoreError::Reject, OnStoreError::RunUnprotected] {
        let (store, runs) = (Steered::unguarded(), Runs::default());
        let layer = with_policy(&store, |options| options.on_store_error(on_store_error));
        let app = layer.layer(counting(&runs));
        store.make(Op::Claim, Fault::AnswerLost(StoreErrorKind::Unknown));
        store.make(Op::Release, Fault::Fails(StoreErrorKind::Unknown));
        let lost = send(&app, post("k", "{}")).await;
        assert_eq!(lost.refusal(), "503 store-unavailable");
        assert_eq!(store.stats().in_flight, 1);

        // The layer asks the store again and again to release the record, long
        // before the lease lapses.
        store.heal(Op::Claim);
        sleep(Duration::from_secs(10)).await;
        let meanwhile = send(&app, post("k", "{}")).await;
        assert_eq!(meanwhile.refusal(), "409 in-flight");
        assert!(store.calls(Op::Release) >= 3);
        store.heal(Op::Release);
        sleep(Duration::from_secs(8)).await;
        assert_eq!((store.stats().in_flight, store.stats().released), (0, 1));
        send(&app, post("k", "{}")).await.assert_fresh("run 1");
        assert_eq!(runs.count(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_never_answers_is_given_up_on_after_store_timeout() {
    for fault in [Fault::Stalls, Fault::AnswerStalls] {
        for on_store_error in [OnStoreError::Reject, OnStoreError::RunUnprotected] {
            let (store, runs) = (Steered::unguarded(), Runs::default());
            store.make(Op::Claim, fault);
            let layer = builder(&store)
                .store_timeout(Duration::from_millis(300))
                .defaults(|options| options.on_store_error(on_store_error))
                .build()
                .unwrap();
            let app = layer.layer(counting(&runs));
            let sent = Instant::now();
            let seen = send(&app, post("k", "{}")).await;
            assert_eq!(seen.refusal(), "503 store-unavailable");
            assert_eq!(sent.elapsed(), Duration::from_millis(300));
            assert_eq!(runs.count(), 0, "it may have reached the store");
            quiet().await;
            store.heal(Op::Claim);
            send(&app, post("k", "{}")).await.assert_fresh("run 1");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_has_two_seconds_by_default() {
    let store = Steered::new();
    store.make(Op::Claim, Fault::Stalls);
    let app = with_policy(&store, |options| options).layer(counting(&Runs::default()));
    let sent = Instant::now();
    assert_eq!(send(&app, post("k", "{}")).await.status, 503);
    assert_eq!(sent.elapsed(), Duration::from_secs(2));
}

#[tokio::test(start_paused = true)]
async fn a_release_that_never_answers_holds_an_answer_up_no_longer_than_store_timeout() {
    let store = Steered::new();
    store.make(Op::Release, Fault::Stalls);
    let app = with_policy(&store, |options| options).layer(handler(&Runs::default(), |run, _| {
        let mut response = created(format!("run {run}"));
        *response.status_mut() = http::StatusCode::SERVICE_UNAVAILABLE;
        response
    }));
    let sent = Instant::now();
    let seen = send(&app, post("k", "{}")).await;
    assert_eq!((seen.status, seen.text()), (503, "run 1"));
    assert_eq!(sent.elapsed(), Duration::from_secs(2));
    store.heal(Op::Release);
    sleep(Duration::from_secs(8)).await;
    send(&app, post("k", "{}")).await.assert_fresh("run 2");
}

/// The claim was still on its way to the store when the layer gave it up.
#[tokio::test(start_paused = true)]
async fn a_claim_that_reaches_the_store_after_it_was_given_up_is_released() {
    let (store, runs) = (Steered::unguarded(), Runs::default());
    let app = with_policy(&store, |options| options).layer(counting(&runs));
    store.let_claims_arrive_late(Duration::from_secs(5));
    let lost = send(&app, post("k", "{}")).await;
    assert_eq!(lost.refusal(), "503 store-unavailable");
    store.let_claims_arrive_late(None);
    // The claim arrives after 5 s, and its lease would lapse only after 35 s.
    sleep(Duration::from_secs(12)).await;
    assert_eq!((store.stats().in_flight, store.stats().released), (0, 1));
    send(&app, post("k", "{}")).await.assert_fresh("run 1");
}

#[tokio::test(start_paused = true)]
async fn a_claim_that_never_reached_the_store_is_not_asked_for_for_ever() {
    let store = Steered::unguarded();
    store.make(Op::Claim, Fault::Stalls);
    let app = with_policy(&store, |options| options).layer(counting(&Runs::default()));
    assert_eq!(send(&app, post("k", "{}")).await.status, 503);
    // After this time the lease of such a claim would have lapsed.
    sleep(Duration::from_secs(30 + 5)).await;
    let releases = store.calls(Op::Release);
    assert!(releases > 1);
    sleep(Duration::from_secs(600)).await;
    assert_eq!(store.calls(Op::Release), releases);
}

/// This content type is reserved for responses that `encryption` encrypted.
#[tokio::test]
async fn an_answer_that_another_layer_encrypted_is_not_replayed_as_it_is() {
    let (store, runs, log) = (Steered::new(), Runs::default(), Log::default());
    let app = with_policy(&store, |options| options).layer(handler(&runs, |_, _| {
        let encrypted = "application/vnd.tower-idempotency.encrypted";
        let mut response = created("unreadable");
        let headers = response.headers_mut();
        headers.insert("content-type", encrypted.parse().unwrap());
        response
    }));
    let _listening = log.listen();
    send(&app, post("k", "{}")).await.assert_fresh("unreadable");
    let retry = send(&app, post("k", "{}")).await;
    assert_eq!(retry.refusal(), "503 store-unavailable");
    assert!(log.text().contains("turn on `encryption`"));
    assert_eq!(runs.count(), 1);
}
