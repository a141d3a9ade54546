//! G6: a caller never gets, and never learns anything of, another caller's
//! record.

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use tower::Layer;
use tower_idempotency::store::StoreErrorKind;
use tower_idempotency::{IdempotencyLayer, MemoryStore, scope};

use crate::support::body::Script;
use crate::support::store::{Fault, Op, Steered};
use crate::support::{
    API_KEY, Gate, Runs, Seen, builder, by, by_api_key, counting, created, handler, held_back,
    post, post_with, protected, send, with, with_policy, without,
};

#[tokio::test]
async fn two_callers_with_one_key_have_an_operation_each() {
    let runs = Runs::default();
    let app = protected(&MemoryStore::new()).layer(counting(&runs));
    let alice = send(&app, post("k", "{}")).await;
    alice.assert_fresh("run 1");
    // Bob never meets Alice's record, neither with the same request nor with
    // another one.
    let bob = send(&app, by("bob", post("k", "{}"))).await;
    bob.assert_fresh("run 2");
    let carol = send(&app, by("carol", post("k", r#"{"amount":2}"#))).await;
    carol.assert_fresh("run 3");
    send(&app, post("k", "{}")).await.assert_replays(&alice);
    send(&app, by("bob", post("k", "{}")))
        .await
        .assert_replays(&bob);
    assert_eq!(runs.count(), 3);
}

#[tokio::test]
async fn an_operation_in_flight_is_nothing_to_another_caller() {
    let (runs, gate) = (Runs::default(), Gate::closed());
    let app = protected(&MemoryStore::new()).layer(held_back(&runs, &gate));
    let alice = tokio::spawn({
        let app = app.clone();
        async move { send(&app, post("k", "{}")).await }
    });
    gate.begun().await;
    let bob = tokio::spawn({
        let app = app.clone();
        async move { send(&app, by("bob", post("k", "{}"))).await }
    });
    gate.begun().await;
    gate.open();
    gate.open();
    alice.await.unwrap().assert_fresh("run 1");
    bob.await.unwrap().assert_fresh("run 2");
}

#[tokio::test]
async fn callers_that_differ_in_how_they_are_told_apart_are_different_callers() {
    let store = MemoryStore::new();
    let runs = Runs::default();
    let by_user = IdempotencyLayer::new(store.clone(), scope::header("x-user")).unwrap();
    let by_tenant = IdempotencyLayer::new(store.clone(), scope::header("x-tenant")).unwrap();
    let of_all = IdempotencyLayer::new(store.clone(), scope::shared()).unwrap();
    let ask = || with(with(post("k", "{}"), "x-user", "7"), "x-tenant", "7");
    for (layer, run) in [(by_user, "run 1"), (by_tenant, "run 2"), (of_all, "run 3")] {
        let app = layer.layer(counting(&runs));
        let first = send(&app, ask()).await;
        first.assert_fresh(run);
        send(&app, ask()).await.assert_replays(&first);
    }
}

#[tokio::test]
async fn a_request_that_says_not_whose_it_is_is_refused_unread_and_nothing_is_stored() {
    let store = Steered::new();
    let runs = Runs::default();
    let known = by_api_key()
        // The digest of `alice`.
        .known_sha256(["2bd806c97f0e00af1a1fc3328fa763a9269723c8db8fac4f93af71db186d6e90"]);
    let layer = IdempotencyLayer::new(store.clone(), known).unwrap();
    let app = layer.layer(counting::<Script>(&runs));
    let mut sent_twice = post_with("k", Script::frames(["{}"]));
    sent_twice
        .headers_mut()
        .append(API_KEY, "alice".parse().unwrap());
    for request in [
        without(post_with("k", Script::frames(["{}"])), API_KEY),
        by("", post_with("k", Script::frames(["{}"]))),
        by("mallory", post_with("k", Script::frames(["{}"]))),
        sent_twice,
    ] {
        let polls = request.body().polls();
        let refused = send(&app, request).await;
        assert_eq!(refused.refusal(), "400 scope-missing");
        assert_eq!(polls(), 0);
    }
    assert_eq!((runs.count(), store.calls(Op::Claim)), (0, 0));
    assert!(store.memory.is_empty());
    let known = send(&app, post_with("k", Script::frames(["{}"]))).await;
    assert_eq!(known.status, 201);
}

/// The values that only Alice may see.
const HERS: [&str; 6] = [
    "alice-credential",
    "her-key",
    "her-amount",
    "her-answer",
    "her-header",
    "her-query",
];

fn hers(body: &'static str) -> Request<Full<Bytes>> {
    let request = post("her-key-0123", body);
    let request = by("alice-credential", request);
    crate::support::to("/payments?her-query=1", request)
}

#[track_caller]
fn assert_nothing_of_hers(seen: &Seen) {
    let whole = format!("{:?} {:?}", seen.headers, seen.body);
    for secret in HERS {
        assert!(!whole.contains(secret), "{secret} in {whole}");
    }
}

fn answering_hers(
    runs: &Runs,
) -> impl tower::Service<
    Request<Full<Bytes>>,
    Response = http::Response<Full<Bytes>>,
    Error = std::convert::Infallible,
    Future: Send + 'static,
> + Clone
+ Send
+ 'static {
    handler(runs, |_, request: Request<Bytes>| {
        if request.headers()[API_KEY] == "alice-credential" {
            let mut response = created("her-answer");
            let headers = response.headers_mut();
            headers.insert("x-her", "her-header".parse().unwrap());
            response
        } else {
            created("the answer to somebody else")
        }
    })
}

/// Bob guesses everything except the credential.
#[tokio::test(start_paused = true)]
async fn no_answer_to_another_caller_has_anything_of_hers() {
    let (store, runs) = (Steered::new(), Runs::default());
    let layer = builder(&store)
        .defaults(|options| options.replayed_header("idempotency-replayed"))
        .build()
        .unwrap();
    let app = layer.layer(answering_hers(&runs));
    let first = send(&app, hers("her-amount")).await;
    first.assert_fresh("her-answer");
    for body in ["her-amount", "another"] {
        let his = by("bob", hers(body));
        let his_first = send(&app, with(his, "idempotency-key", body)).await;
        assert_nothing_of_hers(&his_first);
        let same_key = by("bob", hers("her-amount"));
        assert_nothing_of_hers(&send(&app, same_key).await);
    }
    let reused = send(&app, by("bob", hers("another"))).await;
    assert_eq!(reused.refusal(), "422 key-reused", "his own, that is");
    assert_nothing_of_hers(&reused);
    assert_nothing_of_hers(&send(&app, without(hers("her-amount"), API_KEY)).await);
    store.make(Op::Claim, Fault::Fails(StoreErrorKind::Unknown));
    let unavailable = send(&app, by("bob", hers("her-amount"))).await;
    assert_eq!(unavailable.refusal(), "503 store-unavailable");
    assert_nothing_of_hers(&unavailable);
}

/// A rejection appears in logs and on screens, so even Alice's own rejections
/// do not repeat her values.
#[tokio::test(start_paused = true)]
async fn no_refusal_repeats_a_request_a_scope_or_a_stored_answer() {
    let (store, runs) = (Steered::new(), Runs::default());
    let layer = with_policy(&store, |options| {
        options.max_recorded_body(5).key_length(8..=20)
    });
    let app = layer.layer(answering_hers(&runs));
    let too_large = send(&app, hers("her-amount")).await;
    too_large.assert_fresh("her-answer");
    let mut refused = vec![
        (
            send(&app, hers("her-amount")).await,
            "409 response-unavailable",
        ),
        (
            send(&app, hers("her-amount, raised")).await,
            "422 key-reused",
        ),
    ];
    for (key, expected) in [
        ("her-key", "400 key-too-short"),
        ("her-key-her-key-her-key", "400 key-too-long"),
        ("\"her-key-0123", "400 key-invalid"),
    ] {
        let request = with(hers("her-amount"), "idempotency-key", key);
        refused.push((send(&app, request).await, expected));
    }
    store.make(Op::Claim, Fault::Fails(StoreErrorKind::Contention));
    let unavailable = send(&app, hers("her-amount")).await;
    refused.push((unavailable, "503 store-unavailable"));
    for (seen, expected) in refused {
        assert_eq!(seen.refusal(), expected);
        assert_nothing_of_hers(&seen);
    }
}
