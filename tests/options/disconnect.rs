//! The options `on_disconnect` and `max_background_operations`, and waiting at
//! shutdown.

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use tokio::task::yield_now;
use tokio::time::{Instant, sleep, timeout};
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_idempotency::IdempotencyLayer;
use tower_idempotency::options::{OnDisconnect, OnLapsedLease, OnOversize, OnStoreError};
use tower_idempotency::store::StoreErrorKind;

use crate::support::body::{Script, Step};
use crate::support::store::{Fault, Op, Steered};
use crate::support::{
    Gate, Runs, builder, created, handler, held_back, poll_times, post, quiet, send, with_policy,
};

const SECOND: Duration = Duration::from_secs(1);
const LEASE: Duration = Duration::from_secs(30);

fn cancelling(store: &Steered, on_lapsed_lease: OnLapsedLease) -> IdempotencyLayer {
    with_policy(store, |options| {
        options
            .on_disconnect(OnDisconnect::Cancel)
            .on_lapsed_lease(on_lapsed_lease)
    })
}

fn store(guarded: bool) -> Steered {
    if guarded {
        Steered::new()
    } else {
        Steered::unguarded()
    }
}

/// What a test observed of the executions.
#[derive(Clone, Default)]
struct Seams {
    begun: Runs,
    answered: Runs,
    running: Arc<AtomicUsize>,
}

/// Exists while an execution runs. It fails the test if a second execution runs
/// at the same time, or if the key is free before the execution is dropped.
struct Running {
    seams: Seams,
    store: Steered,
}

impl Running {
    fn new(seams: &Seams, store: &Steered) -> Self {
        assert_eq!(seams.running.fetch_add(1, Ordering::SeqCst), 0, "two run");
        Self {
            seams: seams.clone(),
            store: store.clone(),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.seams.running.fetch_sub(1, Ordering::SeqCst);
        assert_eq!(self.store.stats().in_flight, 1, "its key is free already");
    }
}

/// A service whose client can leave at many polls, some of them in the middle
/// of the response.
fn with_seams(
    seams: &Seams,
    store: &Steered,
) -> impl Service<
    Request<Full<Bytes>>,
    Response = Response<Script>,
    Error = Infallible,
    Future: Send + 'static,
> + Clone
+ Send
+ 'static {
    let (seams, store) = (seams.clone(), store.clone());
    service_fn(move |_: Request<Full<Bytes>>| {
        let (seams, store) = (seams.clone(), store.clone());
        let run = seams.begun.begin();
        let running = Running::new(&seams, &store);
        async move {
            yield_now().await;
            yield_now().await;
            drop(running);
            seams.answered.begin();
            Ok(Response::new(Script::new([
                Step::Data(format!("run {run}").into()),
                Step::Yield,
                Step::Data("!".into()),
            ])))
        }
    })
}

/// Drops `call` after so many polls. Returns how many executions had begun, how
/// many responded, and whether `call` had ended.
async fn leave_after<F: Future>(polls: usize, seams: &Seams, call: F) -> (usize, usize, bool) {
    let over = poll_times(polls, call).await.is_some();
    let begun = seams.begun.count();
    quiet().await;
    assert_eq!(
        seams.begun.count(),
        begun,
        "nothing begins without a client"
    );
    assert_eq!(seams.running.load(Ordering::SeqCst), 0);
    (begun, seams.answered.count(), over)
}

#[tokio::test(start_paused = true)]
async fn a_handler_is_dropped_with_its_request_and_its_retry_runs_at_once() {
    for guarded in [true, false] {
        let store = store(guarded);
        let (runs, gate) = (Runs::default(), Gate::closed());
        let app = cancelling(&store, OnLapsedLease::Rerun).layer(held_back(&runs, &gate));
        let left = timeout(SECOND, app.clone().oneshot(post("k", "{}"))).await;
        assert!(left.is_err());
        quiet().await;
        assert_eq!((store.stats().in_flight, store.stats().released), (0, 1));
        gate.open();
        send(&app, post("k", "{}")).await.assert_fresh("run 2");
    }
}

#[tokio::test(start_paused = true)]
async fn under_refuse_the_outcome_of_a_handler_that_was_dropped_is_unknown() {
    for guarded in [true, false] {
        let store = store(guarded);
        let (runs, gate) = (Runs::default(), Gate::closed());
        let app = cancelling(&store, OnLapsedLease::Refuse).layer(held_back(&runs, &gate));
        let left = timeout(SECOND, app.clone().oneshot(post("k", "{}"))).await;
        assert!(left.is_err());
        quiet().await;
        for later in [Duration::ZERO, LEASE * 10_000] {
            sleep(later).await;
            let retry = send(&app, post("k", "{}")).await;
            assert_eq!(retry.refusal(), "409 outcome-unknown");
        }
        assert_eq!(runs.count(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn at_whichever_poll_its_client_leaves_a_key_is_free_or_its_answer_recorded() {
    for guarded in [true, false] {
        let (mut before, mut dropped, mut recorded, mut sealed) = (0, 0, 0, 0);
        for polls in 0.. {
            let (store, seams) = (store(guarded), Seams::default());
            store.let_all(Fault::Yields);
            let app = cancelling(&store, OnLapsedLease::Rerun).layer(with_seams(&seams, &store));
            let call = {
                let app = app.clone();
                async move {
                    let answer = app.oneshot(post("k", "{}")).await.unwrap();
                    answer.into_body().collect().await
                }
            };
            let (begun, answered, over) = leave_after(polls, &seams, call).await;
            assert_eq!(store.stats().in_flight, 0, "after {polls} polls");
            let retry = send(&app, post("k", "{}")).await;
            match (begun, answered) {
                (0, _) => {
                    retry.assert_fresh("run 1!");
                    before += 1;
                }
                (_, 0) => {
                    retry.assert_fresh("run 2!");
                    dropped += 1;
                }
                _ if retry.is_replay() => {
                    assert_eq!(retry.text(), "run 1!");
                    recorded += 1;
                }
                // The client left while the body was sent, so nobody read the
                // rest of the body.
                _ => {
                    assert_eq!(retry.refusal(), "409 response-unavailable");
                    sealed += 1;
                }
            }
            assert_eq!(seams.answered.count(), 1, "after {polls} polls");
            if over {
                break;
            }
        }
        assert!(before >= 2 && dropped >= 2 && recorded >= 1 && sealed >= 1);
    }
}

#[tokio::test(start_paused = true)]
async fn under_refuse_nothing_that_began_begins_again_at_whichever_poll_its_client_left() {
    for guarded in [true, false] {
        for polls in 0.. {
            let (store, seams) = (store(guarded), Seams::default());
            store.let_all(Fault::Yields);
            let app = cancelling(&store, OnLapsedLease::Refuse).layer(with_seams(&seams, &store));
            let call = app.clone().oneshot(post("k", "{}"));
            let (begun, answered, over) = leave_after(polls, &seams, call).await;
            let retry = send(&app, post("k", "{}")).await;
            match (begun, answered) {
                (0, _) => retry.assert_fresh("run 1!"),
                (_, 0) => assert_eq!(retry.refusal(), "409 outcome-unknown"),
                _ if retry.is_replay() => assert_eq!(retry.text(), "run 1!"),
                _ => assert_eq!(retry.refusal(), "409 response-unavailable"),
            }
            assert_eq!(seams.begun.count(), 1, "after {polls} polls");
            if over {
                break;
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_was_given_is_recorded_after_its_client_has_left() {
    for fault in [
        Fault::Late(SECOND),
        Fault::Fails(StoreErrorKind::NotSent),
        Fault::Stalls,
    ] {
        let (store, runs) = (Steered::unguarded(), Runs::default());
        store.make(Op::Complete, fault);
        let app = cancelling(&store, OnLapsedLease::Rerun)
            .layer(handler(&runs, |run, _| created(format!("run {run}"))));
        let left = poll_times(1, app.clone().oneshot(post("k", "{}"))).await;
        assert!(left.is_none());
        sleep(LEASE * 2).await;
        if !matches!(fault, Fault::Late(_)) {
            let retry = send(&app, post("k", "{}")).await;
            assert_eq!(retry.refusal(), "409 in-flight", "its lease is kept");
            store.heal(Op::Complete);
            sleep(SECOND * 10).await;
        }
        let retry = send(&app, post("k", "{}")).await;
        assert_eq!((retry.is_replay(), retry.text()), (true, "run 1"));
    }
}

/// The status is not transient, but the response can't be recorded, because its
/// body has no end.
#[tokio::test(start_paused = true)]
async fn an_answer_without_an_end_ends_with_its_client_and_is_not_run_again() {
    let (store, runs) = (Steered::new(), Runs::default());
    let app = cancelling(&store, OnLapsedLease::Rerun).layer(handler(&runs, |_, _| {
        Response::new(Script::frames(["begun"]).then(Step::Never))
    }));
    let answer = app.clone().oneshot(post("k", "{}")).await.unwrap();
    quiet().await;
    assert_eq!(store.stats().in_flight, 1);
    drop(answer);
    quiet().await;
    let retry = send(&app, post("k", "{}")).await;
    assert_eq!(retry.refusal(), "409 response-unavailable");
    assert_eq!(runs.count(), 1);
}

#[tokio::test(start_paused = true)]
async fn dropped_where_nothing_can_go_on_its_lease_lapses() {
    for (on_lapsed_lease, expected) in [
        (OnLapsedLease::Rerun, None),
        (OnLapsedLease::Refuse, Some("409 outcome-unknown")),
    ] {
        for guarded in [true, false] {
            let store = store(guarded);
            let (runs, gate) = (Runs::default(), Gate::closed());
            let app = cancelling(&store, on_lapsed_lease).layer(held_back(&runs, &gate));
            let mut call = Box::pin(app.clone().oneshot(post("k", "{}")));
            assert!(poll_times(1, &mut call).await.is_none());
            std::thread::spawn(move || drop(call)).join().unwrap();
            let retry = send(&app, post("k", "{}")).await;
            assert_eq!(retry.refusal(), "409 in-flight");
            sleep(LEASE).await;
            gate.open();
            let retry = send(&app, post("k", "{}")).await;
            match expected {
                None => retry.assert_fresh("run 2"),
                Some(refusal) => assert_eq!(retry.refusal(), refusal),
            }
        }
    }
}

/// Begins an operation whose client leaves while the handler runs.
async fn leave_alone<S, R>(app: &S, key: &str)
where
    S: Service<Request<Full<Bytes>>, Response = Response<R>> + Clone,
{
    let left = timeout(SECOND, app.clone().oneshot(post(key, "{}"))).await;
    assert!(left.is_err(), "it has not ended");
}

#[tokio::test(start_paused = true)]
async fn while_max_detached_run_without_a_client_no_other_begins() {
    let store = Steered::new();
    let layer = builder(&store)
        .max_background_operations(2)
        .route("/cancelled", |options| {
            options.on_disconnect(OnDisconnect::Cancel)
        })
        .build()
        .unwrap();
    let (runs, gate) = (Runs::default(), Gate::closed());
    let app = layer.layer(held_back(&runs, &gate));
    leave_alone(&app, "a").await;
    leave_alone(&app, "b").await;
    let claims = store.calls(Op::Claim);
    let refused = send(&app, post("c", "{}")).await;
    assert_eq!(refused.refusal(), "503 over-capacity");
    assert_eq!(refused.header("retry-after"), Some("1"));
    assert_eq!((store.calls(Op::Claim), runs.count()), (claims, 2));

    // An operation that is dropped with its client does not count against the
    // limit.
    let cancelled = crate::support::to("/cancelled", post("d", "{}"));
    let left = timeout(SECOND, app.clone().oneshot(cancelled)).await;
    assert!(left.is_err());
    assert_eq!(runs.count(), 3);
    quiet().await;
    assert_eq!(layer.drain(Duration::ZERO).await, 2);

    gate.open();
    quiet().await;
    assert_eq!(layer.drain(Duration::ZERO).await, 1);
    gate.open();
    gate.open();
    assert_eq!(send(&app, post("c", "{}")).await.status, 201);
}

#[tokio::test(start_paused = true)]
async fn operations_whose_clients_are_there_are_not_counted() {
    let store = Steered::new();
    let layer = builder(&store)
        .max_background_operations(1)
        .build()
        .unwrap();
    let (runs, gate) = (Runs::default(), Gate::closed());
    let app = layer.layer(held_back(&runs, &gate));
    let attached: Vec<_> = ["a", "b", "c"]
        .map(|key| tokio::spawn(app.clone().oneshot(post(key, "{}"))))
        .into();
    for _ in &attached {
        gate.begun().await;
    }
    assert_eq!(layer.drain(Duration::ZERO).await, 0);
    for task in attached {
        task.abort();
        assert!(task.await.is_err());
    }
    // These operations had begun, so they continue.
    assert_eq!(layer.drain(Duration::ZERO).await, 3);
    for _ in 0..3 {
        gate.open();
    }
    assert_eq!(layer.drain(SECOND).await, 0);
    assert_eq!(store.stats().completed, 3);
}

#[tokio::test(start_paused = true)]
async fn drain_returns_when_nothing_is_left_and_not_before() {
    for fault in [None, Some(Fault::Late(SECOND)), Some(Fault::Yields)] {
        let store = Steered::unguarded();
        let layer = builder(&store).build().unwrap();
        let (runs, gate) = (Runs::default(), Gate::closed());
        let app = layer.layer(held_back(&runs, &gate));
        let start = Instant::now();
        assert_eq!(layer.drain(LEASE).await, 0);
        assert_eq!(start.elapsed(), Duration::ZERO);
        for key in ["a", "b", "c"] {
            leave_alone(&app, key).await;
        }
        if let Some(fault) = fault {
            store.make(Op::Complete, fault);
        }
        let drained = {
            let layer = layer.clone();
            tokio::spawn(async move { layer.drain(LEASE).await })
        };
        for recorded in 0..3 {
            sleep(SECOND * 2).await;
            assert!(!drained.is_finished());
            assert_eq!(store.stats().completed, recorded);
            gate.open();
        }
        assert_eq!(drained.await.unwrap(), 0);
        assert_eq!(store.stats().completed, 3);
        assert!(start.elapsed() < LEASE);
    }
}

#[tokio::test(start_paused = true)]
async fn drain_ends_at_its_limit_and_says_how_many_are_left() {
    for limit in [Duration::ZERO, SECOND, LEASE * 4] {
        let layer = builder(&Steered::unguarded()).build().unwrap();
        let (runs, gate) = (Runs::default(), Gate::closed());
        let app = layer.layer(held_back(&runs, &gate));
        for key in ["a", "b", "c"] {
            leave_alone(&app, key).await;
        }
        gate.open();
        let start = Instant::now();
        assert_eq!(
            layer.drain(limit).await,
            if limit.is_zero() { 3 } else { 2 }
        );
        let passed = start.elapsed();
        assert!(
            passed >= limit && passed < limit + SECOND / 100,
            "{passed:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn drain_waits_for_what_the_store_has_still_to_be_told() {
    for op in [Op::Complete, Op::Release, Op::Claim] {
        let store = Steered::unguarded();
        let layer = builder(&store).build().unwrap();
        let app = layer.layer(handler(&Runs::default(), move |_, _| {
            let mut answer = created("done");
            if op == Op::Release {
                *answer.status_mut() = http::StatusCode::SERVICE_UNAVAILABLE;
            }
            answer
        }));
        if op == Op::Claim {
            store.make(Op::Claim, Fault::AnswerLost(StoreErrorKind::Unknown));
            store.make(Op::Release, Fault::Fails(StoreErrorKind::NotSent));
        }
        store.make(op, Fault::Fails(StoreErrorKind::Unknown));
        send(&app, post("k", "{}")).await;
        assert_eq!(layer.drain(SECOND).await, 1, "{op:?}");
        store.heal(op);
        store.heal(Op::Release);
        // If the result of a claim is unknown, the claim may still reach the
        // store until the length of its lease has passed.
        assert_eq!(layer.drain(LEASE + SECOND * 10).await, 0, "{op:?}");
        assert_eq!(store.stats().in_flight, 0);
    }
}

#[tokio::test(start_paused = true)]
async fn drain_waits_for_an_answer_whose_client_left_in_the_middle() {
    for max_recorded_body in [100, 1] {
        let store = Steered::new();
        let layer = with_policy(&store, |options| {
            options
                .max_recorded_body(max_recorded_body)
                .oversize(OnOversize::Seal)
        });
        let app = layer.layer(handler(&Runs::default(), |_, _| {
            let body = Script::frames(["begun"]).then(Step::Wait(SECOND * 5));
            Response::new(body.then(Step::Data("ended".into())))
        }));
        let answer = app.clone().oneshot(post("k", "{}")).await.unwrap();
        assert_eq!(layer.drain(Duration::ZERO).await, 0, "its client is there");
        drop(answer);
        assert_eq!(layer.drain(SECOND).await, 1);
        assert_eq!(layer.drain(SECOND * 10).await, 0);
        let stats = store.stats();
        assert_eq!((stats.in_flight, stats.completed + stats.sealed), (0, 1));
    }
}

#[tokio::test(start_paused = true)]
async fn what_panics_without_a_client_is_not_waited_for_for_ever() {
    let store = Steered::new();
    let layer = builder(&store).build().unwrap();
    let (runs, gate) = (Runs::default(), Gate::closed());
    let service = {
        let gate = gate.clone();
        service_fn(move |_: Request<Full<Bytes>>| {
            let (runs, gate) = (runs.clone(), gate.clone());
            async move {
                gate.pass().await;
                match runs.begin() {
                    1 => panic!("as the test wants it"),
                    run => Ok::<_, Infallible>(created(format!("run {run}"))),
                }
            }
        })
    };
    let app = layer.layer(service);
    leave_alone(&app, "k").await;
    gate.open();
    assert_eq!(layer.drain(SECOND).await, 0);
    assert_eq!(store.stats().in_flight, 0);
}

/// If the first attempt to record the response fails late, the next attempts
/// have only the rest of `store_timeout`.
#[tokio::test(start_paused = true)]
async fn an_answer_is_held_for_its_record_no_longer_than_store_timeout() {
    for late in [SECOND / 2, SECOND, SECOND * 2 - SECOND / 100] {
        let store = Steered::unguarded();
        let layer = builder(&store).store_timeout(SECOND * 2).build().unwrap();
        let app = layer.layer(handler(&Runs::default(), |_, _| created("done")));
        store.make(Op::Complete, Fault::FailsLate(late));
        let start = Instant::now();
        let seen = send(&app, post("k", "{}")).await;
        assert_eq!(seen.lacks(), Some("unrecorded"));
        let passed = start.elapsed();
        let limit = SECOND * 2;
        assert!(
            passed >= limit && passed < limit + SECOND / 100,
            "{passed:?}"
        );
        store.heal(Op::Complete);
        sleep(SECOND * 10).await;
        assert!(send(&app, post("k", "{}")).await.is_replay());
    }
}

/// If an attempt succeeds within `store_timeout`, the response is recorded.
#[tokio::test(start_paused = true)]
async fn an_answer_recorded_at_the_second_attempt_lacks_nothing() {
    let store = Steered::unguarded();
    let layer = builder(&store).store_timeout(SECOND * 2).build().unwrap();
    let app = layer.layer(handler(&Runs::default(), |_, _| created("done")));
    store.make(Op::Complete, Fault::FailsLate(SECOND));
    let start = Instant::now();
    let call = tokio::spawn({
        let app = app.clone();
        async move { send(&app, post("k", "{}")).await }
    });
    sleep(SECOND / 2).await;
    store.heal(Op::Complete);
    let first = call.await.unwrap();
    assert_eq!(first.lacks(), None);
    assert!(start.elapsed() < SECOND * 2);
    send(&app, post("k", "{}")).await.assert_replays(&first);
}

/// The operation began without a record, and with `OnDisconnect::Cancel` it
/// still ends with its client.
#[tokio::test(start_paused = true)]
async fn a_handler_that_runs_unprotected_is_dropped_with_its_request_too() {
    let store = Steered::new();
    store.make(Op::Claim, Fault::Fails(StoreErrorKind::NotSent));
    let layer = with_policy(&store, |options| {
        options
            .on_disconnect(OnDisconnect::Cancel)
            .on_store_error(OnStoreError::RunUnprotected)
    });
    let (gate, ended) = (Gate::closed(), Runs::default());
    let service = {
        let (gate, ended) = (gate.clone(), ended.clone());
        service_fn(move |_: Request<Full<Bytes>>| {
            let (gate, ended) = (gate.clone(), ended.clone());
            async move {
                gate.pass().await;
                ended.begin();
                Ok::<_, Infallible>(created("done"))
            }
        })
    };
    let app = layer.layer(service);
    leave_alone(&app, "k").await;
    gate.open();
    quiet().await;
    assert_eq!(ended.count(), 0);
}

/// The operation and the task that tries again to record its completion count
/// as one operation.
#[tokio::test(start_paused = true)]
async fn an_operation_whose_completion_is_tried_again_is_counted_once() {
    let store = Steered::unguarded();
    let layer = builder(&store).build().unwrap();
    let (runs, gate) = (Runs::default(), Gate::closed());
    let app = layer.layer(held_back(&runs, &gate));
    leave_alone(&app, "k").await;
    store.make(Op::Complete, Fault::Fails(StoreErrorKind::NotSent));
    gate.open();
    assert_eq!(layer.drain(SECOND).await, 1);
}
