//! G1 for requests that wait (`on_in_flight = wait`): every end of an operation
//! wakes them, and exactly one of them takes over a released record.

use std::convert::Infallible;
use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use tokio::task::{JoinHandle, yield_now};
use tokio::time::{Instant, sleep};
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_idempotency::options::{OnInFlight, OnLapsedLease};
use tower_idempotency::{IdempotencyLayer, ResponseBody, RouteOptions};

use crate::owners::{First, LEASE, Owners, SECOND, begin};
use crate::support::store::{Fault, Op, Steered};
use crate::support::{
    Gate, Runs, Seen, held_back_with, poll_times, post, quiet, send, with_policy,
};

/// A wait that ends before a hanging test fails.
const BOUND: Duration = Duration::from_secs(20 * 60);

fn waiting(store: &Steered, change: impl FnOnce(RouteOptions) -> RouteOptions) -> IdempotencyLayer {
    with_policy(store, |options| {
        change(options.on_in_flight(OnInFlight::Wait(BOUND)))
    })
}

/// A handler that waits at the gate. The executions up to number `last` respond
/// with a transient status.
fn transient_until(
    last: usize,
    runs: &Runs,
    gate: &Gate,
) -> impl Service<
    Request<Full<Bytes>>,
    Response = Response<Full<Bytes>>,
    Error = Infallible,
    Future: Send + 'static,
> + Clone
+ Send
+ 'static {
    held_back_with(runs, gate, move |run| {
        if run <= last {
            StatusCode::SERVICE_UNAVAILABLE
        } else {
            StatusCode::CREATED
        }
    })
}

fn ask<A, E>(app: &A) -> JoinHandle<Seen>
where
    A: Service<Request<Full<Bytes>>, Response = Response<ResponseBody<Full<Bytes>>>, Error = E>
        + Clone
        + Send
        + Sync
        + 'static,
    A::Future: Send,
    E: std::fmt::Debug + Send,
{
    let app = app.clone();
    tokio::spawn(async move { send(&app, post("k", "{}")).await })
}

async fn ended(tasks: &[JoinHandle<Seen>]) -> usize {
    quiet().await;
    tasks.iter().filter(|task| task.is_finished()).count()
}

#[tokio::test(start_paused = true)]
async fn of_twenty_that_wait_one_takes_over_what_was_released_and_the_rest_wait_on() {
    let store = Steered::new();
    let (runs, gate) = (Runs::default(), Gate::closed());
    let app = waiting(&store, |options| options).layer(transient_until(3, &runs, &gate));
    let first = ask(&app);
    gate.begun().await;
    let waiters: Vec<_> = (0..20).map(|_| ask(&app)).collect();
    quiet().await;
    // Each waiter sent a claim, subscribed, and sent a second claim.
    assert_eq!(store.calls(Op::Claim), 1 + 2 * 20);

    gate.open();
    assert_eq!(first.await.unwrap().status, 503);
    for taken_over in 1..=3 {
        gate.begun().await;
        assert_eq!(ended(&waiters).await, taken_over - 1);
        assert_eq!(runs.count(), 1 + taken_over);
        assert_eq!(store.calls(Op::Claim), 1 + 2 * 20 + taken_over);
        sleep(LEASE * 3).await;
        assert_eq!(runs.count(), 1 + taken_over, "one at a time");
        gate.open();
    }
    let mut answers = Vec::new();
    for waiter in waiters {
        answers.push(waiter.await.unwrap());
    }
    assert_eq!(runs.count(), 4);
    let count = |want: fn(&Seen) -> bool| answers.iter().filter(|seen| want(seen)).count();
    assert_eq!(count(|seen| seen.status == 503), 2);
    assert_eq!(count(|seen| seen.text() == "run 4" && !seen.is_replay()), 1);
    assert_eq!(count(|seen| seen.text() == "run 4" && seen.is_replay()), 17);
    assert_eq!(store.calls(Op::Claim), 1 + 2 * 20 + 3 + 17);
}

/// The wake-up of the dropped waiter must reach the next waiter.
#[tokio::test(start_paused = true)]
async fn a_waiter_that_is_dropped_once_it_was_woken_passes_its_turn_on() {
    let store = Steered::new();
    let (runs, gate) = (Runs::default(), Gate::closed());
    let app = waiting(&store, |options| options).layer(transient_until(1, &runs, &gate));
    let mut first = Box::pin(app.clone().oneshot(post("k", "{}")));
    assert!(poll_once(&mut first).await);
    let waiters: Vec<_> = (0..5).map(|_| ask(&app)).collect();
    quiet().await;
    gate.open();
    // This runs in the test's own task, so the waiter that is woken does not
    // run before it is aborted.
    assert_eq!(first.await.unwrap().status(), 503);
    waiters[0].abort();
    let start = Instant::now();
    gate.open();
    for waiter in waiters.into_iter().skip(1) {
        assert_eq!(waiter.await.unwrap().text(), "run 2");
    }
    assert!(start.elapsed() < SECOND, "woken, not rescued by a timer");
    assert_eq!(runs.count(), 2);
}

async fn poll_once<F: Future + Unpin>(future: &mut F) -> bool {
    poll_times(1, future).await.is_none()
}

/// The first waiter leaves at each of its polls in turn: during its claim,
/// while it waits, when it is woken, and while it executes.
#[tokio::test(start_paused = true)]
async fn at_whichever_poll_a_waiter_leaves_the_next_one_has_its_turn() {
    for guarded in [true, false] {
        let (mut before, mut after) = (0, 0);
        for polls in 1.. {
            let store = if guarded {
                Steered::new()
            } else {
                Steered::unguarded()
            };
            store.let_all(Fault::Yields);
            let (runs, gate) = (Runs::default(), Gate::closed());
            let app = waiting(&store, |options| options).layer({
                let inner = transient_until(1, &runs, &gate);
                service_fn(move |request| {
                    let inner = inner.clone();
                    async move {
                        yield_now().await;
                        let answer = inner.oneshot(request).await;
                        yield_now().await;
                        answer
                    }
                })
            });
            let first = ask(&app);
            gate.begun().await;
            let leaves = tokio::spawn(poll_times(polls, app.clone().oneshot(post("k", "{}"))));
            for _ in 0..polls {
                yield_now().await;
            }
            let left_early = leaves.is_finished();
            let stays = ask(&app);
            quiet().await;
            let start = Instant::now();
            for _ in 0..5 {
                gate.open();
            }
            assert_eq!(first.await.unwrap().status, 503);
            let over = leaves.await.unwrap().is_some();
            let stays = stays.await.unwrap();
            assert_eq!((stays.status, stays.text()), (201, "run 2"), "{polls}");
            assert!(start.elapsed() < SECOND, "{:?}", start.elapsed());
            assert_eq!(runs.count(), 2, "after {polls} polls");
            quiet().await;
            assert_eq!(store.stats().in_flight, 0, "after {polls} polls");
            if left_early {
                before += 1;
            } else {
                after += 1;
            }
            if over {
                break;
            }
        }
        assert!(before >= 4 && after >= 4, "{before} {after}");
    }
}

#[tokio::test(start_paused = true)]
async fn when_the_lease_of_a_dead_owner_lapses_one_waiter_takes_over_at_that_moment() {
    let store = Steered::unguarded();
    let owners = Owners::new();
    let app = waiting(&store, |options| options).layer(owners.service(First::Answers));
    store.make(Op::Renew, Fault::Stalls);
    let start = Instant::now();
    let first = begin(&app);
    owners.gate.begun().await;
    sleep(LEASE / 3).await;
    let waiters: Vec<_> = (0..20).map(|_| ask(&app)).collect();
    owners.gate.begun().await;
    let taken_over = start.elapsed();
    assert!(
        taken_over >= LEASE && taken_over < LEASE + SECOND / 10,
        "{taken_over:?}"
    );
    quiet().await;
    assert_eq!(owners.count(), 2);
    assert!(store.calls(Op::Claim) <= 1 + 4 * 20);
    store.heal(Op::Renew);
    // An overtaken owner's client gets a rejection, whoever took over.
    owners.gate.open();
    let first = Seen::whole(first.await.unwrap().unwrap()).await;
    assert_eq!(first.refusal(), "409 in-flight");
    owners.gate.open();
    for waiter in waiters {
        assert_eq!(waiter.await.unwrap().text(), "run 2");
    }
    assert_eq!(owners.count(), 2);
}

/// While the owner's renewals arrive, a waiter sends few claims.
#[tokio::test(start_paused = true)]
async fn a_waiter_asks_again_when_the_lease_that_it_saw_would_lapse_and_no_sooner() {
    let store = Steered::unguarded();
    let owners = Owners::new();
    let app = waiting(&store, |options| options).layer(owners.service(First::Answers));
    let _first = begin(&app);
    owners.gate.begun().await;
    let waiter = ask(&app);
    sleep(LEASE * 10).await;
    let claims = store.calls(Op::Claim) - 1;
    assert!((12..=17).contains(&claims), "{claims}");
    owners.gate.open();
    assert!(waiter.await.unwrap().is_replay());
}

/// A thread without a runtime can't finish the operation when its future is
/// dropped there, so the lease lapses.
#[tokio::test(start_paused = true)]
async fn when_an_owner_vanishes_in_this_process_its_waiters_learn_when_its_lease_ends() {
    for (on_lapsed_lease, expected) in [
        (OnLapsedLease::Rerun, None),
        (OnLapsedLease::Refuse, Some("409 outcome-unknown")),
    ] {
        let store = Steered::new();
        let (runs, gate) = (Runs::default(), Gate::closed());
        let app = waiting(&store, |options| options.on_lapsed_lease(on_lapsed_lease))
            .layer(transient_until(0, &runs, &gate));
        let start = Instant::now();
        let mut first = Box::pin(app.clone().oneshot(post("k", "{}")));
        assert!(poll_once(&mut first).await);
        let waiters: Vec<_> = (0..3).map(|_| ask(&app)).collect();
        sleep(SECOND).await;
        std::thread::spawn(move || drop(first)).join().unwrap();
        gate.open();
        for waiter in waiters {
            let seen = waiter.await.unwrap();
            match expected {
                None => assert_eq!(seen.text(), "run 2"),
                Some(refusal) => assert_eq!(seen.refusal(), refusal),
            }
        }
        let ended = start.elapsed();
        assert!(ended >= LEASE && ended < LEASE + SECOND / 10, "{ended:?}");
    }
}

/// An operation runs for longer than `max_operation`. If the store keeps leases
/// alive by guards, its lease ends at once.
#[tokio::test(start_paused = true)]
async fn what_runs_for_too_long_is_taken_over_by_one_that_waits() {
    let store = Steered::new();
    let owners = Owners::new();
    let app = waiting(&store, |options| options.max_operation(LEASE * 2))
        .layer(owners.service(First::Answers));
    let start = Instant::now();
    let _first = begin(&app);
    owners.gate.begun().await;
    let waiters: Vec<_> = (0..3).map(|_| ask(&app)).collect();
    owners.gate.begun().await;
    assert!(start.elapsed() < LEASE * 2 + LEASE / 6 + SECOND);
    quiet().await;
    assert_eq!(owners.count(), 2);
    owners.gate.open();
    owners.gate.open();
    for waiter in waiters {
        assert_eq!(waiter.await.unwrap().text(), "run 2");
    }
}

#[tokio::test(start_paused = true)]
async fn under_refuse_all_that_wait_are_told_at_once_that_the_outcome_is_unknown() {
    for store in [Steered::new(), Steered::unguarded()] {
        for end in [First::Fails, First::Panics] {
            let owners = Owners::new();
            let layer = with_policy(&store, |options| {
                options
                    .on_in_flight(OnInFlight::Wait(BOUND))
                    .on_lapsed_lease(OnLapsedLease::Refuse)
            });
            let app = layer.layer(owners.service(end));
            let key = format!("{end:?}");
            let first = tokio::spawn(app.clone().oneshot(post(&key, "{}")));
            owners.gate.begun().await;
            let waiters: Vec<_> = (0..5)
                .map(|_| {
                    let (app, key) = (app.clone(), key.clone());
                    tokio::spawn(async move { send(&app, post(&key, "{}")).await })
                })
                .collect();
            sleep(SECOND).await;
            let start = Instant::now();
            owners.gate.open();
            assert!(!matches!(first.await, Ok(Ok(_))));
            for waiter in waiters {
                assert_eq!(waiter.await.unwrap().refusal(), "409 outcome-unknown");
            }
            assert_eq!(start.elapsed(), Duration::ZERO, "{end:?}");
            assert_eq!(owners.count(), 1);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn under_refuse_a_waiter_is_told_of_a_lapse_when_it_happens() {
    let store = Steered::unguarded();
    let owners = Owners::new();
    let app = waiting(&store, |options| {
        options.on_lapsed_lease(OnLapsedLease::Refuse)
    })
    .layer(owners.service(First::Answers));
    store.make(Op::Renew, Fault::Stalls);
    let start = Instant::now();
    let _first = begin(&app);
    owners.gate.begun().await;
    let waiter = ask(&app);
    assert_eq!(waiter.await.unwrap().refusal(), "409 outcome-unknown");
    let told = start.elapsed();
    assert!(told >= LEASE && told < LEASE + SECOND / 10, "{told:?}");
    assert_eq!(owners.count(), 1);
}

/// After a release, another request may claim the key before the waiters have
/// their turn.
#[tokio::test(start_paused = true)]
async fn a_waiter_whose_key_went_to_another_request_meanwhile_is_told() {
    let store = Steered::new();
    let (runs, gate) = (Runs::default(), Gate::closed());
    let app = waiting(&store, |options| options).layer(transient_until(1, &runs, &gate));
    let mut first = Box::pin(app.clone().oneshot(post("k", "{}")));
    assert!(poll_once(&mut first).await);
    let waiters = [ask(&app), ask(&app)];
    quiet().await;
    gate.open();
    assert_eq!(first.await.unwrap().status(), 503);
    let mut other = Box::pin(app.clone().oneshot(post("k", "other")));
    assert!(poll_once(&mut other).await);
    gate.open();
    assert_eq!(other.await.unwrap().status(), 201);
    for waiter in waiters {
        assert_eq!(waiter.await.unwrap().refusal(), "422 key-reused");
    }
    assert_eq!(runs.count(), 2);
}
