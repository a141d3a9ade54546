//! G1: while the owner of an operation holds its lease, no second execution for
//! that caller's key begins.

use std::convert::Infallible;
use std::future::{Future, pending};
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use tokio::sync::Barrier;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tower::{Layer, ServiceExt, service_fn};
use tower_idempotency::options::OnDisconnect;
use tower_idempotency::{IdempotencyLayer, MemoryStore};

use crate::support::store::{Fault, Op, Steered};
use crate::support::{
    Gate, Runs, Seen, counting, held_back, post, protected, quiet, send, to, with_policy,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_fifty_first_requests_at_once_one_executes_and_the_others_are_in_flight() {
    let store = MemoryStore::new();
    let (runs, gate) = (Runs::default(), Gate::closed());
    let app = protected(&store).layer(held_back(&runs, &gate));
    for round in 1..=20 {
        let key = format!("round-{round}");
        let together = Arc::new(Barrier::new(50));
        let mut requests = JoinSet::new();
        for _ in 0..50 {
            let (app, key, together) = (app.clone(), key.clone(), Arc::clone(&together));
            requests.spawn(async move {
                together.wait().await;
                send(&app, post(&key, "{}")).await
            });
        }
        // The request that executes waits at the gate, so it is not among
        // these.
        for _ in 0..49 {
            let seen = requests.join_next().await.unwrap().unwrap();
            assert_eq!(seen.refusal(), "409 in-flight");
            assert_eq!(seen.header("retry-after"), Some("1"));
        }
        gate.open();
        let first = requests.join_next().await.unwrap().unwrap();
        assert_eq!(first.status, 201);
        first.assert_fresh(&format!("run {round}"));

        let retries: Vec<Seen> = {
            let mut retries = JoinSet::new();
            for _ in 0..50 {
                let (app, key) = (app.clone(), key.clone());
                retries.spawn(async move { send(&app, post(&key, "{}")).await });
            }
            retries.join_all().await
        };
        for retry in retries {
            retry.assert_replays(&first);
        }
        assert_eq!(runs.count(), round);
    }
    assert_eq!(store.stats().in_flight, 0);
    assert_eq!(store.stats().completed, 20);
}

#[tokio::test]
async fn another_request_with_the_key_is_key_reused_even_while_the_first_one_runs() {
    let (runs, gate) = (Runs::default(), Gate::closed());
    let app = protected(&MemoryStore::new()).layer(held_back(&runs, &gate));
    let first = tokio::spawn({
        let app = app.clone();
        async move { send(&app, post("k", r#"{"amount":1}"#)).await }
    });
    gate.begun().await;

    let other_body = send(&app, post("k", r#"{"amount":2}"#)).await;
    assert_eq!(other_body.refusal(), "422 key-reused");
    let other_target = send(&app, to("/refunds", post("k", r#"{"amount":1}"#))).await;
    assert_eq!(other_target.refusal(), "422 key-reused");
    let same = send(&app, post("k", r#"{"amount":1}"#)).await;
    assert_eq!(same.refusal(), "409 in-flight");

    gate.open();
    let first = first.await.unwrap();
    first.assert_fresh("run 1");
    let other_body = send(&app, post("k", r#"{"amount":2}"#)).await;
    assert_eq!(other_body.refusal(), "422 key-reused");
    send(&app, post("k", r#"{"amount":1}"#))
        .await
        .assert_replays(&first);
    assert_eq!(runs.count(), 1);
}

#[tokio::test]
async fn an_operation_in_flight_does_not_hold_up_other_keys() {
    let (runs, gate) = (Runs::default(), Gate::closed());
    let app = protected(&MemoryStore::new()).layer(held_back(&runs, &gate));
    let mut requests = JoinSet::new();
    for key in ["a", "b", "c"] {
        let app = app.clone();
        requests.spawn(async move { send(&app, post(key, "{}")).await.status });
        gate.begun().await;
    }
    assert_eq!(runs.count(), 3);
    (0..3).for_each(|_| gate.open());
    assert_eq!(requests.join_all().await, [201; 3]);
}

/// A lease counts from the time when its claim was sent. An owner whose claim
/// is confirmed too late may have been overtaken already.
#[tokio::test(start_paused = true)]
async fn a_claim_that_is_answered_after_its_lease_begins_nothing() {
    let lease = Duration::from_secs(1);
    for (late, executes) in [
        (lease - Duration::from_millis(1), true),
        (lease, false),
        (lease * 3 / 2, false),
    ] {
        let (store, runs) = (Steered::unguarded(), Runs::default());
        store.make(Op::Claim, Fault::Late(late));
        let app = with_policy(&store, |options| options.lease(lease)).layer(counting(&runs));
        let seen = send(&app, post("k", "{}")).await;
        assert_eq!(runs.count(), usize::from(executes), "{late:?} late");
        if executes {
            seen.assert_fresh("run 1");
        } else {
            assert_eq!(seen.refusal(), "503 store-unavailable");
            quiet().await;
            assert_eq!(store.stats().in_flight, 0, "it is given back");
        }
    }
}

/// Sends a retry when it is dropped, and keeps its status.
struct RetryAtDrop {
    layer: IdempotencyLayer,
    runs: Runs,
    status: Arc<Mutex<Option<StatusCode>>>,
}

impl Drop for RetryAtDrop {
    fn drop(&mut self) {
        let app = self.layer.layer(counting::<Full<Bytes>>(&self.runs));
        let retry = pin!(app.oneshot(post("k", "{}")));
        if let Poll::Ready(response) = retry.poll(&mut Context::from_waker(Waker::noop())) {
            *self.status.lock().unwrap() = Some(response.unwrap().status());
        }
    }
}

/// What a handler's future does when it is dropped is still of its execution. By then the operation
/// has run for longer than its lease, which only the guard of the memory store keeps.
#[tokio::test(start_paused = true)]
async fn a_handler_that_is_cancelled_is_gone_before_its_key_is_free() {
    let layer = with_policy(&MemoryStore::new(), |options| {
        options
            .on_disconnect(OnDisconnect::Cancel)
            .lease(Duration::from_secs(1))
    });
    let (runs, status) = (Runs::default(), Arc::default());
    let app = {
        let (layer, runs, status) = (layer.clone(), runs.clone(), Arc::clone(&status));
        layer
            .clone()
            .layer(service_fn(move |_: Request<Full<Bytes>>| {
                let (layer, runs, status) = (layer.clone(), runs.clone(), Arc::clone(&status));
                let retry = RetryAtDrop {
                    layer,
                    runs,
                    status,
                };
                async move {
                    let _retry = retry;
                    pending::<Result<Response<Full<Bytes>>, Infallible>>().await
                }
            }))
    };
    let call = app.oneshot(post("k", "{}"));
    assert!(timeout(Duration::from_secs(2), call).await.is_err());
    assert_eq!(*status.lock().unwrap(), Some(StatusCode::CONFLICT));
    assert_eq!(runs.count(), 0);
    quiet().await;
    let retry = layer.layer(counting(&runs));
    send(&retry, post("k", "{}")).await.assert_fresh("run 1");
}
