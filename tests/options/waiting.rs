//! The options `on_in_flight` and `max_waiting_requests`.

use std::fmt::Debug;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use tokio::runtime::Handle;
use tokio::task::{JoinHandle, yield_now};
use tokio::time::{Instant, sleep, timeout};
use tower::{Layer, Service, ServiceExt};
use tower_idempotency::options::{OnInFlight, OnMismatch, OnStoreError};
use tower_idempotency::store::{
    Claim, Claimed, Lease, Outcome, Ownership, Release, Store, StoreError, StoreErrorKind,
};
use tower_idempotency::store::{Nonce, RecordId};
use tower_idempotency::{IdempotencyLayer, MemoryStore, ResponseBody, RouteOptions};

use crate::support::store::{Fault, Op, Steered};
use crate::support::{
    Gate, Runs, Seen, builder, by_operator, held_back, poll_times, post, quiet, send, with_policy,
};

const SECOND: Duration = Duration::from_secs(1);
/// A wait that ends before a hanging test fails.
const BOUND: Duration = Duration::from_secs(20 * 60);

fn wait(bound: Duration) -> impl FnOnce(RouteOptions) -> RouteOptions {
    move |options| options.on_in_flight(OnInFlight::Wait(bound))
}

fn waiting(store: &(impl Store + Clone), bound: Duration) -> IdempotencyLayer {
    with_policy(store, wait(bound))
}

fn ask<A>(app: &A, body: &'static str) -> JoinHandle<Seen>
where
    A: Service<Request<Full<Bytes>>, Response = Response<ResponseBody<Full<Bytes>>>>,
    A: Clone + Send + Sync + 'static,
    A::Error: Debug + Send,
    A::Future: Send,
{
    let app = app.clone();
    tokio::spawn(async move { send(&app, post("k", body)).await })
}

/// Fails unless so much time has passed since `start`, with the precision of
/// the timers.
#[track_caller]
fn assert_passed(start: Instant, expected: Duration) {
    let passed = start.elapsed();
    let late = Duration::from_millis(5);
    assert!(passed >= expected && passed < expected + late, "{passed:?}");
}

#[tokio::test(start_paused = true)]
async fn a_duplicate_that_waits_is_given_the_answer_when_it_is_there() {
    let store = Steered::new();
    let (runs, gate) = (Runs::default(), Gate::closed());
    let app = waiting(&store, BOUND).layer(held_back(&runs, &gate));
    let first = ask(&app, "{}");
    gate.begun().await;
    let waiters: Vec<_> = (0..5).map(|_| ask(&app, "{}")).collect();
    sleep(BOUND / 2).await;
    // Waiters send no claims while nothing changes.
    assert_eq!(store.calls(Op::Claim), 1 + 2 * 5);
    let start = Instant::now();
    gate.open();
    let first = first.await.unwrap();
    first.assert_fresh("run 1");
    for waiter in waiters {
        waiter.await.unwrap().assert_replays(&first);
    }
    assert_eq!(start.elapsed(), Duration::ZERO);
    assert_eq!(store.calls(Op::Claim), 1 + 3 * 5);
    assert_eq!(runs.count(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_duplicate_that_waited_for_its_bound_is_told_that_the_first_is_in_flight() {
    for bound in [1, 999, 5_000, 90_000].map(Duration::from_millis) {
        for store in [Steered::new(), Steered::unguarded()] {
            let (runs, gate) = (Runs::default(), Gate::closed());
            let app = waiting(&store, bound).layer(held_back(&runs, &gate));
            let first = ask(&app, "{}");
            gate.begun().await;
            let start = Instant::now();
            let seen = send(&app, post("k", "{}")).await;
            assert_eq!(seen.refusal(), "409 in-flight");
            assert_eq!(seen.header("retry-after"), Some("1"));
            assert_passed(start, bound);
            gate.open();
            first.await.unwrap().assert_fresh("run 1");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_bound_holds_on_a_store_that_does_not_answer_subscriptions() {
    let store = Steered::new();
    let (runs, gate) = (Runs::default(), Gate::closed());
    let app = waiting(&store, SECOND).layer(held_back(&runs, &gate));
    let _first = ask(&app, "{}");
    gate.begun().await;
    store.make(Op::Subscribe, Fault::Stalls);
    let start = Instant::now();
    let seen = send(&app, post("k", "{}")).await;
    assert_eq!(seen.refusal(), "409 in-flight");
    assert_passed(start, SECOND);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_leaves_while_its_wait_begins_leaves_no_task_behind() {
    let store = Steered::new();
    let (runs, gate) = (Runs::default(), Gate::closed());
    let app = waiting(&store, BOUND).layer(held_back(&runs, &gate));
    let _first = ask(&app, "{}");
    gate.begun().await;
    store.make(Op::Subscribe, Fault::Stalls);
    quiet().await;
    let tasks = || Handle::current().metrics().num_alive_tasks();
    let before = tasks();
    let waiter = ask(&app, "{}");
    quiet().await;
    waiter.abort();
    quiet().await;
    assert_eq!(tasks(), before);
}

#[tokio::test(start_paused = true)]
async fn a_bound_beyond_what_a_clock_can_say_is_as_good_as_none() {
    let (runs, gate) = (Runs::default(), Gate::closed());
    let app = waiting(&Steered::new(), Duration::MAX).layer(held_back(&runs, &gate));
    let first = ask(&app, "{}");
    gate.begun().await;
    let waiter = ask(&app, "{}");
    quiet().await;
    gate.open();
    let first = first.await.unwrap();
    waiter.await.unwrap().assert_replays(&first);
}

#[test]
fn a_wait_for_nothing_is_a_config_error() {
    let wrong = builder(&MemoryStore::new())
        .defaults(wait(Duration::ZERO))
        .build();
    assert_eq!(wrong.unwrap_err().option(), "on_in_flight");
}

#[tokio::test(start_paused = true)]
async fn another_request_under_the_key_is_refused_without_a_wait() {
    let store = Steered::new();
    let (runs, gate) = (Runs::default(), Gate::closed());
    let app = waiting(&store, BOUND).layer(held_back(&runs, &gate));
    let first = ask(&app, "{}");
    gate.begun().await;
    let start = Instant::now();
    let other = send(&app, post("k", "{ }")).await;
    assert_eq!(other.refusal(), "422 key-reused");
    assert_eq!(start.elapsed(), Duration::ZERO);
    assert_eq!(store.calls(Op::Subscribe), 0);
    gate.open();
    first.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn where_another_request_is_given_the_answer_it_waits_for_it() {
    let (runs, gate) = (Runs::default(), Gate::closed());
    let layer = with_policy(&Steered::new(), |options| {
        wait(BOUND)(options).on_mismatch(OnMismatch::Replay)
    });
    let app = layer.layer(held_back(&runs, &gate));
    let first = ask(&app, "{}");
    gate.begun().await;
    let other = ask(&app, "other");
    sleep(SECOND).await;
    gate.open();
    let first = first.await.unwrap();
    other.await.unwrap().assert_replays(&first);
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_an_answer_that_is_not_kept_is_told_so() {
    let layer = with_policy(&Steered::new(), |options| {
        wait(BOUND)(options).max_recorded_body(1)
    });
    let (runs, gate) = (Runs::default(), Gate::closed());
    let app = layer.layer(held_back(&runs, &gate));
    let first = ask(&app, "{}");
    gate.begun().await;
    let waiter = ask(&app, "{}");
    quiet().await;
    gate.open();
    first.await.unwrap().assert_fresh("run 1");
    assert_eq!(waiter.await.unwrap().refusal(), "409 response-unavailable");
}

#[tokio::test(start_paused = true)]
async fn beyond_max_waiters_a_duplicate_is_refused_at_once() {
    for max in [0, 1, 3] {
        let layer = builder(&Steered::new())
            .defaults(wait(BOUND))
            .max_waiting_requests(max)
            .build()
            .unwrap();
        let (runs, gate) = (Runs::default(), Gate::closed());
        let app = layer.layer(held_back(&runs, &gate));
        let first = ask(&app, "{}");
        gate.begun().await;
        let mut waiters: Vec<_> = (0..max).map(|_| ask(&app, "{}")).collect();
        quiet().await;
        let start = Instant::now();
        for _ in 0..3 {
            let seen = send(&app, post("k", "{}")).await;
            assert_eq!(seen.refusal(), "409 in-flight");
        }
        assert_eq!(start.elapsed(), Duration::ZERO);

        // When a waiting client leaves, another request may wait.
        if let Some(leaves) = waiters.pop() {
            leaves.abort();
            assert!(leaves.await.is_err());
            waiters.push(ask(&app, "{}"));
            quiet().await;
        }
        assert!(waiters.iter().all(|waiter| !waiter.is_finished()));
        gate.open();
        let first = first.await.unwrap();
        for waiter in waiters {
            waiter.await.unwrap().assert_replays(&first);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn who_took_over_after_a_wait_waits_no_more() {
    let layer = builder(&Steered::new())
        .defaults(wait(BOUND))
        .max_waiting_requests(1)
        .build()
        .unwrap();
    let (runs, gate) = (Runs::default(), Gate::closed());
    let app = layer.layer(held_back(&runs, &gate));
    let first = ask(&app, "{}");
    gate.begun().await;
    let waiter = ask(&app, "{}");
    quiet().await;
    let id = layer
        .records()
        .id_of(&post("k", "{}").into_parts().0)
        .unwrap();
    layer
        .records()
        .forget_forced(&id, &by_operator())
        .await
        .unwrap();
    gate.begun().await;
    let next = ask(&app, "{}");
    quiet().await;
    assert!(!next.is_finished(), "there is a place for it");
    first.abort();
    gate.open();
    gate.open();
    let answer = waiter.await.unwrap();
    assert_eq!(next.await.unwrap().body, answer.body);
}

/// A store with the four required operations and no others.
#[derive(Clone, Default)]
struct Silent(Steered);

impl Store for Silent {
    async fn claim(&self, claim: &Claim) -> Result<Claimed, StoreError> {
        self.0.claim(claim).await
    }
    async fn renew(&self, lease: &Lease) -> Result<Ownership, StoreError> {
        self.0.renew(lease).await
    }
    async fn complete(&self, lease: &Lease, outcome: &Outcome) -> Result<Ownership, StoreError> {
        self.0.complete(lease, outcome).await
    }
    async fn release(
        &self,
        id: &RecordId,
        nonce: &Nonce,
        how: Release,
    ) -> Result<Ownership, StoreError> {
        self.0.release(id, nonce, how).await
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_does_not_say_what_changes_is_asked_four_times_a_second() {
    let store = Silent::default();
    let (runs, gate) = (Runs::default(), Gate::closed());
    let app = waiting(&store, BOUND).layer(held_back(&runs, &gate));
    let first = ask(&app, "{}");
    gate.begun().await;
    let waiter = ask(&app, "{}");
    sleep(SECOND * 10).await;
    let claims = store.0.calls(Op::Claim) - 2;
    assert!((38..=42).contains(&claims), "{claims}");
    gate.open();
    let start = Instant::now();
    let first = first.await.unwrap();
    waiter.await.unwrap().assert_replays(&first);
    assert!(start.elapsed() <= SECOND / 4);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_fails_to_subscribe_is_asked_again_instead() {
    for fault in [
        Fault::Fails(StoreErrorKind::NotSent),
        Fault::Fails(StoreErrorKind::Unsupported),
        Fault::AnswerLost(StoreErrorKind::Unknown),
        Fault::Stalls,
        Fault::AnswerStalls,
        Fault::Late(SECOND),
    ] {
        let store = Steered::new();
        let (runs, gate) = (Runs::default(), Gate::closed());
        let app = waiting(&store, BOUND).layer(held_back(&runs, &gate));
        let first = ask(&app, "{}");
        gate.begun().await;
        store.make(Op::Subscribe, fault);
        let waiter = ask(&app, "{}");
        sleep(SECOND * 10).await;
        let start = Instant::now();
        gate.open();
        let first = first.await.unwrap();
        waiter.await.unwrap().assert_replays(&first);
        assert!(start.elapsed() < SECOND * 3, "{fault:?}");
        assert_eq!(runs.count(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_panics_fails_the_request_that_waits_and_nothing_else() {
    let store = Steered::new();
    let layer = builder(&store)
        .defaults(wait(BOUND))
        .max_waiting_requests(1)
        .build()
        .unwrap();
    let (runs, gate) = (Runs::default(), Gate::closed());
    let app = layer.layer(held_back(&runs, &gate));
    let first = ask(&app, "{}");
    gate.begun().await;
    store.make(Op::Subscribe, Fault::Panics);
    let panicked = ask(&app, "{}").await;
    assert!(panicked.unwrap_err().is_panic());
    store.heal(Op::Subscribe);
    let waiter = ask(&app, "{}");
    quiet().await;
    assert!(!waiter.is_finished(), "its place is free");
    gate.open();
    let first = first.await.unwrap();
    waiter.await.unwrap().assert_replays(&first);
}

/// The waiter has seen that the operation runs. A failure of the store after
/// that is no reason to run the operation a second time.
#[tokio::test(start_paused = true)]
async fn who_has_seen_the_operation_in_flight_does_not_run_it_unprotected() {
    let store = Steered::new();
    let (runs, gate) = (Runs::default(), Gate::closed());
    let layer = with_policy(&store, |options| {
        wait(SECOND * 5)(options).on_store_error(OnStoreError::RunUnprotected)
    });
    let app = layer.layer(held_back(&runs, &gate));
    let _first = ask(&app, "{}");
    gate.begun().await;
    let waiter = ask(&app, "{}");
    sleep(SECOND).await;
    store.make(Op::Claim, Fault::Fails(StoreErrorKind::NotSent));
    sleep(SECOND * 10).await;
    assert_eq!(runs.count(), 1);
    assert!(waiter.await.unwrap().status >= 409);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_fails_under_a_waiter_is_unavailable_to_it() {
    for fault in [
        Fault::Fails(StoreErrorKind::Unknown),
        Fault::Fails(StoreErrorKind::NotSent),
        Fault::Stalls,
    ] {
        let store = Steered::new();
        let (runs, gate) = (Runs::default(), Gate::closed());
        let app = waiting(&store, SECOND * 5).layer(held_back(&runs, &gate));
        let first = ask(&app, "{}");
        gate.begun().await;
        let waiter = ask(&app, "{}");
        sleep(SECOND).await;
        store.make(Op::Claim, fault);
        gate.open();
        first.await.unwrap().assert_fresh("run 1");
        assert_eq!(waiter.await.unwrap().refusal(), "503 store-unavailable");
        store.heal(Op::Claim);
        assert!(send(&app, post("k", "{}")).await.is_replay());
        assert_eq!(runs.count(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn at_whichever_poll_one_that_waits_leaves_it_leaves_nothing_behind() {
    for guarded in [true, false] {
        let mut met = 0;
        for polls in 1..=12 {
            let store = if guarded {
                Steered::new()
            } else {
                Steered::unguarded()
            };
            store.let_all(Fault::Yields);
            let layer = builder(&store)
                .defaults(wait(SECOND * 20))
                .max_waiting_requests(1)
                .max_background_operations(1)
                .build()
                .unwrap();
            let (runs, gate) = (Runs::default(), Gate::closed());
            let app = layer.layer(held_back(&runs, &gate));
            let first = ask(&app, "{}");
            gate.begun().await;
            let (tasks, stats) = (Handle::current().metrics().num_alive_tasks(), store.stats());
            let call = app.clone().oneshot(post("k", "{}"));
            let left = timeout(SECOND, poll_times(polls, call)).await;
            met += usize::from(left.is_ok());
            quiet().await;
            assert!(Handle::current().metrics().num_alive_tasks() <= tasks);
            assert_eq!(layer.drain(Duration::ZERO).await, 0);
            assert_eq!(store.stats(), stats);
            let next = ask(&app, "{}");
            sleep(SECOND).await;
            assert!(!next.is_finished(), "there is a place, after {polls} polls");
            gate.open();
            let first = first.await.unwrap();
            next.await.unwrap().assert_replays(&first);
            assert_eq!(runs.count(), 1);
        }
        assert!((4..12).contains(&met), "{met}");
    }
}

/// In an earlier version such a request waited without a client, and ran the
/// operation when its turn came.
#[tokio::test(start_paused = true)]
async fn who_left_during_its_first_claim_does_not_wait() {
    let store = Steered::new();
    let layer = waiting(&store, BOUND);
    let (runs, gate) = (Runs::default(), Gate::closed());
    let app = layer.clone().layer(held_back(&runs, &gate));
    let _first = ask(&app, "{}");
    gate.begun().await;
    store.make(Op::Claim, Fault::Late(SECOND));
    let leaves = ask(&app, "{}");
    quiet().await;
    store.heal(Op::Claim);
    assert_eq!(store.calls(Op::Claim), 2);
    leaves.abort();
    sleep(SECOND * 2).await;
    assert_eq!(layer.drain(Duration::ZERO).await, 0);
    let id = layer
        .records()
        .id_of(&post("k", "{}").into_parts().0)
        .unwrap();
    layer
        .records()
        .forget_forced(&id, &by_operator())
        .await
        .unwrap();
    sleep(SECOND * 2).await;
    assert_eq!(runs.count(), 1);
}

#[tokio::test(start_paused = true)]
async fn waiting_takes_no_place_of_an_operation_without_a_client() {
    let store = Steered::new();
    let layer = builder(&store)
        .defaults(wait(BOUND))
        .max_background_operations(1)
        .build()
        .unwrap();
    let (runs, gate) = (Runs::default(), Gate::closed());
    let app = layer.layer(held_back(&runs, &gate));
    let _first = ask(&app, "{}");
    gate.begun().await;
    let waiters: Vec<_> = (0..5).map(|_| ask(&app, "{}")).collect();
    sleep(SECOND).await;
    assert_eq!(layer.drain(Duration::ZERO).await, 0);
    for waiter in &waiters {
        waiter.abort();
    }
    yield_now().await;
    assert_eq!(layer.drain(Duration::ZERO).await, 0);
    gate.open();
    gate.open();
    let other = send(&app, post("other", "{}")).await;
    assert_eq!(other.status, 201);
}

/// The waiter's turn came while `max_background_operations` allowed no further
/// operation.
#[tokio::test(start_paused = true)]
async fn one_that_waited_does_not_begin_beyond_max_detached() {
    let store = Steered::new();
    let layer = builder(&store)
        .defaults(wait(BOUND))
        .max_background_operations(1)
        .build()
        .unwrap();
    let (runs, gate) = (Runs::default(), Gate::closed());
    let app = layer.layer(held_back(&runs, &gate));
    let _first = ask(&app, "{}");
    gate.begun().await;
    let waiter = ask(&app, "{}");
    quiet().await;
    let alone = timeout(SECOND, app.clone().oneshot(post("other", "{}"))).await;
    assert!(alone.is_err());
    let id = layer
        .records()
        .id_of(&post("k", "{}").into_parts().0)
        .unwrap();
    layer
        .records()
        .forget_forced(&id, &by_operator())
        .await
        .unwrap();
    sleep(SECOND).await;
    assert_eq!(runs.count(), 2, "nothing begins");
    assert_eq!(waiter.await.unwrap().refusal(), "503 over-capacity");
}

/// The duplicate claims the record of the new secret before it looks up the
/// record of the old secret. That claim is then released.
#[tokio::test(start_paused = true)]
async fn a_duplicate_does_not_wait_for_an_operation_under_an_old_secret() {
    const OLD: &str = "the old secret, 16 bytes at least";
    const NEW: &str = "the new secret, 16 bytes at least";
    let store = Steered::new();
    let (runs, gate) = (Runs::default(), Gate::closed());
    let under = |secrets: &[&str]| {
        let layer = builder(&store).defaults(wait(BOUND));
        let layer = layer.secrets(secrets.iter().copied()).build().unwrap();
        layer.layer(held_back(&runs, &gate))
    };
    let first = ask(&under(&[OLD]), "{}");
    gate.begun().await;
    let start = Instant::now();
    let duplicate = send(&under(&[NEW, OLD]), post("k", "{}")).await;
    assert_eq!(duplicate.refusal(), "409 in-flight");
    assert_passed(start, Duration::ZERO);
    gate.open();
    let first = first.await.unwrap();
    let retry = send(&under(&[NEW, OLD]), post("k", "{}")).await;
    retry.assert_replays(&first);
}
