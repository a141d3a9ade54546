//! The options `namespace` and `secrets`.

use std::time::Duration;

use tokio::time::sleep;
use tower::{Layer, ServiceExt};
use tower_idempotency::options::{OnLapsedLease, OnMismatch, OnStoreError};
use tower_idempotency::store::StoreErrorKind;
use tower_idempotency::{IdempotencyContext, IdempotencyLayer, MemoryStore};

use crate::support::store::{Fault, Op, Steered};
use crate::support::{
    Gate, Runs, answer, builder, by, counting, handler, held_back, post, quiet, send,
};

const OLD: &str = "the old secret, 16 bytes at least";
const NEW: &str = "the new secret, 16 bytes at least";

#[tokio::test]
async fn namespaces_keep_two_services_on_one_store_apart() {
    let (store, runs) = (MemoryStore::new(), Runs::default());
    let service = |namespace: &str| {
        let layer = builder(&store).namespace(namespace).build().unwrap();
        layer.layer(counting(&runs))
    };
    let billing = send(&service("billing"), post("k", "{}")).await;
    let shipping = send(&service("shipping"), post("k", "{}")).await;
    let nobody = send(&service(""), post("k", "{}")).await;
    for (seen, run) in [
        (&billing, "run 1"),
        (&shipping, "run 2"),
        (&nobody, "run 3"),
    ] {
        seen.assert_fresh(run);
    }
    // Two processes of one service share the records of their namespace.
    send(&service("billing"), post("k", "{}"))
        .await
        .assert_replays(&billing);
    send(&service(""), post("k", "{}"))
        .await
        .assert_replays(&nobody);
    assert_eq!(runs.count(), 3);
}

fn under(store: &Steered, secrets: &[&str]) -> IdempotencyLayer {
    builder(store)
        .namespace("billing")
        .secrets(secrets.iter().copied())
        .build()
        .unwrap()
}

#[tokio::test]
async fn a_record_belongs_to_its_secret() {
    let (store, runs) = (Steered::new(), Runs::default());
    for (number, secrets) in [&[][..], &[OLD], &[NEW]].into_iter().enumerate() {
        let app = under(&store, secrets).layer(counting(&runs));
        let first = send(&app, post("k", "{}")).await;
        first.assert_fresh(&format!("run {}", number + 1));
        send(&app, post("k", "{}")).await.assert_replays(&first);
    }
    assert_eq!(store.calls(Op::LookUp), 0);
}

#[tokio::test(start_paused = true)]
async fn while_an_old_secret_is_listed_its_completions_are_replayed() {
    let (store, runs) = (Steered::new(), Runs::default());
    let before = under(&store, &[OLD]).layer(counting(&runs));
    let first = send(&before, post("k", "{}")).await;
    let during = under(&store, &[NEW, OLD]).layer(counting(&runs));
    for _ in 0..3 {
        send(&during, post("k", "{}")).await.assert_replays(&first);
        quiet().await;
        assert_eq!(store.stats().in_flight, 0, "nothing is left claimed");
    }
    let other = send(&during, post("k", "[]")).await;
    assert_eq!(other.refusal(), "422 key-reused");
    // Other callers are not affected.
    send(&during, by("bob", post("k", "{}")))
        .await
        .assert_fresh("run 2");
    // The old secret is dropped one retention later.
    sleep(Duration::from_secs(24 * 60 * 60)).await;
    let after = under(&store, &[NEW]).layer(counting(&runs));
    send(&after, post("k", "{}")).await.assert_fresh("run 3");
}

#[tokio::test(start_paused = true)]
async fn while_an_old_secret_is_listed_its_operations_are_in_flight() {
    let store = Steered::new();
    let (runs, gate) = (Runs::default(), Gate::closed());
    let before = under(&store, &[OLD]).layer(held_back(&runs, &gate));
    let first = tokio::spawn(before.clone().oneshot(post("k", "{}")));
    gate.begun().await;
    let during = under(&store, &[NEW, OLD]).layer(held_back(&runs, &gate));
    let retry = send(&during, post("k", "{}")).await;
    assert_eq!(retry.refusal(), "409 in-flight");
    let other = send(&during, post("k", "[]")).await;
    assert_eq!(other.refusal(), "422 key-reused");
    gate.open();
    assert_eq!(first.await.unwrap().unwrap().status(), 201);
    let retry = send(&during, post("k", "{}")).await;
    assert_eq!((retry.text(), retry.is_replay()), ("run 1", true));
    assert_eq!(runs.count(), 1);
}

/// In a rotation every process lists the new secret second before any process
/// lists it first.
#[tokio::test(start_paused = true)]
async fn processes_in_the_middle_of_a_rotation_see_each_others_records() {
    let (store, runs) = (Steered::new(), Runs::default());
    let late = under(&store, &[OLD, NEW]).layer(counting(&runs));
    let early = under(&store, &[NEW, OLD]).layer(counting(&runs));
    let of_late = send(&late, post("a", "{}")).await;
    send(&early, post("a", "{}")).await.assert_replays(&of_late);
    let of_early = send(&early, post("b", "{}")).await;
    send(&late, post("b", "{}")).await.assert_replays(&of_early);

    let gate = Gate::closed();
    let late = under(&store, &[OLD, NEW]).layer(held_back(&runs, &gate));
    let early = under(&store, &[NEW, OLD]).layer(held_back(&runs, &gate));
    let running = tokio::spawn(early.clone().oneshot(post("c", "{}")));
    gate.begun().await;
    assert_eq!(
        send(&late, post("c", "{}")).await.refusal(),
        "409 in-flight"
    );
    gate.open();
    running.await.unwrap().unwrap();
    assert!(send(&late, post("c", "{}")).await.is_replay());
    assert_eq!(runs.count(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_look_up_under_an_old_secret_that_fails_closes_the_request() {
    for fault in [
        Fault::Fails(StoreErrorKind::NotSent),
        Fault::Fails(StoreErrorKind::Unsupported),
        Fault::Stalls,
    ] {
        let (store, runs) = (Steered::new(), Runs::default());
        let before = under(&store, &[OLD]).layer(counting(&runs));
        let first = send(&before, post("k", "{}")).await;
        store.make(Op::LookUp, fault);
        let layer = builder(&store)
            .namespace("billing")
            .secrets([NEW, OLD])
            // The option does not apply here, because the claim reached the
            // store.
            .defaults(|options| options.on_store_error(OnStoreError::RunUnprotected))
            .build()
            .unwrap();
        let during = layer.layer(counting(&runs));
        for key in ["k", "unknown"] {
            let seen = send(&during, post(key, "{}")).await;
            assert_eq!(seen.refusal(), "503 store-unavailable", "{fault:?}");
        }
        quiet().await;
        assert_eq!(store.stats().in_flight, 0, "what was claimed is given back");
        assert_eq!(runs.count(), 1);
        store.heal(Op::LookUp);
        send(&during, post("k", "{}")).await.assert_replays(&first);
        send(&during, post("unknown", "{}"))
            .await
            .assert_fresh("run 2");
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_released_or_sealed_under_an_old_secret_is_so_under_the_new_one() {
    let (store, runs) = (Steered::new(), Runs::default());
    let before = under(&store, &[OLD]).layer(handler(&runs, |_, _| {
        answer(http::StatusCode::SERVICE_UNAVAILABLE, "later")
    }));
    send(&before, post("released", "{}")).await;
    let before = under(&store, &[OLD]).layer(handler(&runs, |_, _| {
        answer(http::StatusCode::OK, vec![b'x'; 2 << 20])
    }));
    send(&before, post("sealed", "{}")).await;
    let during = under(&store, &[NEW, OLD]).layer(counting(&runs));
    send(&during, post("released", "{}"))
        .await
        .assert_fresh("run 3");
    let sealed = send(&during, post("sealed", "{}")).await;
    assert_eq!(sealed.refusal(), "409 response-unavailable");
}

#[tokio::test(start_paused = true)]
async fn a_lapse_under_an_old_secret_is_left_to_the_lapse_policy() {
    for (on_lapsed_lease, expected) in [
        (OnLapsedLease::Rerun, None),
        (OnLapsedLease::Refuse, Some("409 outcome-unknown")),
    ] {
        let store = Steered::unguarded();
        store.make(Op::Renew, Fault::Stalls);
        let (runs, gate) = (Runs::default(), Gate::closed());
        let layer = |secrets: &[&'static str]| {
            let builder = builder(&store).secrets(secrets.iter().copied());
            builder
                .defaults(|options| options.on_lapsed_lease(on_lapsed_lease))
                .build()
                .unwrap()
        };
        let before = layer(&[OLD]).layer(held_back(&runs, &gate));
        let hanging = tokio::spawn(before.oneshot(post("k", "{}")));
        gate.begun().await;
        sleep(Duration::from_secs(30)).await;
        let during = layer(&[NEW, OLD]).layer(counting(&runs));
        let seen = send(&during, post("k", "{}")).await;
        match expected {
            None => seen.assert_fresh("run 2"),
            Some(refusal) => assert_eq!(seen.refusal(), refusal),
        }
        hanging.abort();
    }
}

#[tokio::test(start_paused = true)]
async fn another_request_is_replayed_under_an_old_secret_too_where_the_policy_says_so() {
    let (store, runs) = (Steered::new(), Runs::default());
    let before = under(&store, &[OLD]).layer(counting(&runs));
    let first = send(&before, post("k", "one")).await;
    let layer = builder(&store)
        .namespace("billing")
        .secrets([NEW, OLD])
        .defaults(|options| options.on_mismatch(OnMismatch::Replay))
        .build()
        .unwrap();
    let during = layer.layer(counting(&runs));
    send(&during, post("k", "two")).await.assert_replays(&first);
}

/// The record under the old secret is released in one case, and lapsed in the other.
#[tokio::test(start_paused = true)]
async fn a_key_derived_by_an_operation_that_began_under_an_old_secret_stays_the_same() {
    for lapses in [false, true] {
        let store = Steered::unguarded();
        if lapses {
            store.make(Op::Release, Fault::Fails(StoreErrorKind::NotSent));
        }
        let runs = Runs::default();
        let derived = async |secrets: &[&str]| {
            let app = under(&store, secrets).layer(handler(&runs, |_, request| {
                let context = request.extensions().get::<IdempotencyContext>().unwrap();
                let key = context.derive_key("charge-card");
                assert_ne!(key, context.derive_key("send-mail"));
                answer(http::StatusCode::SERVICE_UNAVAILABLE, key)
            }));
            let seen = send(&app, post("k", "{}")).await;
            sleep(Duration::from_secs(60)).await;
            seen.text().to_owned()
        };
        let first = derived(&[OLD]).await;
        assert_eq!(derived(&[NEW, OLD]).await, first, "{lapses}");
        // Also once there is a record under the new secret.
        assert_eq!(derived(&[NEW, OLD]).await, first, "{lapses}");
        assert_ne!(derived(&[NEW]).await, first, "without it another operation");
        assert_eq!(runs.count(), 4);
    }
}
