//! G11: a caller that takes all that it may leaves room for others, and whatever is full, replays
//! are given, what runs ends, and requests without protection pass.

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::Full;
use tower::{Layer, ServiceBuilder};
use tower_idempotency::{IdempotencyLayer, MemoryStore, scope};

use crate::filled::{ALONE, BODY, Filled, Held, SUM, slow};
use crate::support::store::Steered;
use crate::support::{Runs, Seen, builder, counting, post, request, send, to, without};

#[tokio::test(start_paused = true)]
async fn a_caller_that_takes_its_share_leaves_room_for_others() {
    for what in Held::ALL {
        let store = Steered::new();
        let mut filled = Filled::new(&what.layer(&store), &store);
        filled.take(what, "alice", ALONE).await;
        assert_eq!(filled.refusals(what), (0, 0));
        filled
            .assert_full(what, "alice", "Your share is full")
            .await;
        assert_eq!(filled.refusals(what), (1, 0), "{what:?}");

        let first = filled.fast("bob", "first", BODY).await;
        assert_eq!((first.status, first.is_replay()), (201, false), "{what:?}");
        filled.take(what, "bob", SUM - ALONE).await;
        assert_eq!(filled.refusals(what), (1, 0), "{what:?}");
        filled.assert_full(what, "bob", "The service is full").await;
        filled
            .assert_full(what, "carol", "The service is full")
            .await;
        assert_eq!(filled.refusals(what), (1, 2), "{what:?}");
        filled.finish().await;
    }
}

#[tokio::test(start_paused = true)]
async fn where_all_callers_are_one_there_are_no_shares() {
    let store = Steered::new();
    let layer = IdempotencyLayer::builder(store.clone(), scope::shared())
        .max_in_flight_operations(SUM)
        .build()
        .unwrap();
    let mut filled = Filled::new(&layer, &store);
    filled.take(Held::Operations, "alice", SUM).await;
    let full = "The service is full";
    filled.assert_full(Held::Operations, "alice", full).await;
    assert_eq!(filled.refusals(Held::Operations), (0, 1));
    filled.finish().await;
}

#[tokio::test(start_paused = true)]
async fn whatever_is_full_a_record_is_answered_with_one_call_of_the_store() {
    for what in Held::ALL {
        let store = Steered::new();
        let mut filled = Filled::new(&what.layer(&store), &store);
        let done = filled.fast("alice", "done", BODY).await;
        filled.take(what, "alice", ALONE).await;
        assert_records_are_answered(&filled, what, "alice", &done).await;
        filled.take(what, "bob", SUM - ALONE).await;
        assert_records_are_answered(&filled, what, "alice", &done).await;
        filled.finish().await;
    }
}

/// The caller's operation `done` is recorded as `done`, and its first slow operation is in flight.
async fn assert_records_are_answered(filled: &Filled, what: Held, caller: &str, done: &Seen) {
    let calls = filled.store_calls();
    let retry = filled.fast(caller, "done", BODY).await;
    assert_same(&retry, done);
    assert_eq!(filled.store_calls(), calls + 1, "{what:?}");

    let other = filled.fast(caller, "done", "9876543210").await;
    assert_eq!(other.refusal(), "422 key-reused", "{what:?}");
    assert_eq!(filled.store_calls(), calls + 2, "{what:?}");

    let mut begun = filled.begun.iter();
    let (_, key) = begun.find(|(whose, _)| *whose == caller).unwrap();
    let again = filled.send(slow(caller, key)).await;
    assert_eq!(again.refusal(), "409 in-flight", "{what:?}");
    assert_eq!(filled.store_calls(), calls + 3, "{what:?}");
}

/// A replay is the response that was recorded, with one header more.
#[track_caller]
fn assert_same(replay: &Seen, first: &Seen) {
    replay.assert_replays(first);
    let mut headers = replay.headers.clone();
    headers.remove("idempotency-replayed");
    assert_eq!(headers, first.headers);
}

#[tokio::test(start_paused = true)]
async fn whatever_is_full_requests_without_protection_pass() {
    for what in Held::ALL {
        let store = Steered::new();
        let mut filled = Filled::new(&what.layer(&store), &store);
        filled.fill(what).await;
        assert_unprotected_pass(&filled, what).await;
        filled.finish().await;
    }
}

async fn assert_unprotected_pass(filled: &Filled, what: Held) {
    let (runs, calls) = (filled.runs.count(), filled.store_calls());
    // A body that no protected request may have.
    let large = || Full::from("0".repeat(1000));
    let keyless = request(Method::POST, "/", large());
    let stranger = without(request(Method::POST, "/", large()), "x-api-key");
    let mut get = to("/", slow("alice", "k"));
    *get.method_mut() = Method::GET;
    let mut seen = Vec::new();
    for request in [keyless, stranger, get] {
        seen.push(filled.send(request).await.status);
    }
    assert_eq!(seen, [201; 3], "{what:?}");
    assert_eq!(filled.runs.count(), runs + 3, "{what:?}");
    assert_eq!(filled.store_calls(), calls, "{what:?}");
}

/// Of 16 places one caller takes 14 and another 2: some of them without a client, and as many
/// requests wait.
#[tokio::test(start_paused = true)]
async fn while_everything_is_full_what_runs_is_recorded_and_replays_are_given() {
    let store = Steered::new();
    let layer = Held::all_at_once(&store);
    // The second time shows that the first has left nothing behind.
    for [greedy, other, third] in [["alice", "bob", "carol"], ["dora", "erik", "frieda"]] {
        let mut filled = Filled::new(&layer, &store);
        let done = filled.fast(greedy, "done", BODY).await;
        filled.take(Held::Waiters, greedy, ALONE).await;
        filled.take(Held::Operations, greedy, 6).await;
        filled.take(Held::Background, greedy, 7).await;
        let what = Held::Operations;
        filled.assert_full(what, greedy, "Your share is full").await;
        filled.take(Held::Waiters, other, SUM - ALONE).await;
        filled.take(Held::Background, other, 1).await;
        for caller in [greedy, other, third] {
            filled
                .assert_full(what, caller, "The service is full")
                .await;
        }
        assert_records_are_answered(&filled, what, greedy, &done).await;
        assert_unprotected_pass(&filled, what).await;
        filled.finish().await;
    }
}

/// Once the outer layer has begun an operation, nothing may refuse that operation any more.
#[tokio::test]
async fn the_same_layer_further_in_takes_no_room_and_refuses_nothing() {
    let layer = builder(&Steered::new())
        .max_in_flight_operations(1)
        .max_buffered_bytes(2 * BODY.len() - 1)
        .defaults(|options| options.max_request_body(BODY.len()))
        .build()
        .unwrap();
    let app = layer.layer(layer.layer(counting(&Runs::default())));
    let first = send(&app, post("k", BODY)).await;
    first.assert_fresh("run 1");
    send(&app, post("k", BODY)).await.assert_replays(&first);
    let refused = layer.counts().limits().to_vec();
    let refused = refused.iter().map(|limit| limit.by_share + limit.by_sum);
    assert_eq!(refused.sum::<u64>(), 0);
}

#[test]
fn a_share_above_its_sum_is_an_error_that_names_both() {
    let builder = || IdempotencyLayer::builder(MemoryStore::new(), scope::header("x-api-key"));
    let rows = [
        (
            builder()
                .max_in_flight_operations(8)
                .max_in_flight_per_caller(9),
            ["max_in_flight_per_caller", "max_in_flight_operations"],
        ),
        (
            builder()
                .max_buffered_bytes(8 << 20)
                .max_buffered_bytes_per_caller(9 << 20),
            ["max_buffered_bytes_per_caller", "max_buffered_bytes"],
        ),
        (
            builder().max_read_ahead(8).max_read_ahead_per_caller(9),
            ["max_read_ahead_per_caller", "max_read_ahead"],
        ),
        (
            builder().max_unsent_bytes(8).max_unsent_bytes_per_caller(9),
            ["max_unsent_bytes_per_caller", "max_unsent_bytes"],
        ),
        (
            builder().max_waiting_requests(8).max_waiting_per_caller(9),
            ["max_waiting_per_caller", "max_waiting_requests"],
        ),
        (
            builder()
                .max_background_operations(8)
                .max_background_per_caller(9),
            ["max_background_per_caller", "max_background_operations"],
        ),
        (
            builder().max_buffered_bytes_per_caller((1 << 20) - 1),
            ["max_buffered_bytes_per_caller", "max_request_body"],
        ),
        // Seven eighths of the sum are a share.
        (
            builder().max_buffered_bytes(1 << 20),
            ["max_buffered_bytes", "max_request_body"],
        ),
    ];
    for (builder, [option, other]) in rows {
        let error = builder.build().unwrap_err();
        assert_eq!(error.option(), option, "{error}");
        assert!(error.to_string().contains(&format!("`{other}`")), "{error}");
    }
    // A share that is the sum turns shares off.
    let equal = builder().max_buffered_bytes(1 << 20);
    equal
        .max_buffered_bytes_per_caller(1 << 20)
        .build()
        .unwrap();
}

/// The outer of the two has begun the operation, so the limit of the inner one's route refuses
/// nothing.
#[tokio::test]
async fn a_layer_that_stands_twice_refuses_no_body_that_it_has_begun_with() {
    let runs = Runs::default();
    let layer = builder(&MemoryStore::new())
        .route("POST /inside", |options| options.max_request_body(1))
        .build()
        .unwrap();
    let app = ServiceBuilder::new()
        .layer(layer.clone())
        .map_request(|request: Request<Full<Bytes>>| to("/inside", request))
        .layer(layer)
        .service(counting(&runs));
    send(&app, post("k", BODY)).await.assert_fresh("run 1");
    assert!(send(&app, post("k", BODY)).await.is_replay());
}
