//! G4: neither a dropped connection nor an outer timeout cancels an operation
//! that has begun.

use std::time::Duration;

use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use tokio::task::yield_now;
use tokio::time::{sleep, timeout};
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_idempotency::options::{OnLapsedLease, OnStoreError};
use tower_idempotency::store::StoreErrorKind;
use tower_idempotency::{MemoryStore, ResponseBody};

use crate::support::body::{Script, Step};
use crate::support::log::Log;
use crate::support::store::{Fault, Op, Steered};
use crate::support::{
    Gate, Runs, Seen, counting, held_back, poll_times, post, post_with, protected, quiet, send,
    with_policy,
};

/// How the executions of a test end.
#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    ResponseHead,
    /// The handler responds with a status for which the record is released.
    Transient,
    Error,
    Panic,
    BodyBreaks,
    BodyPanics,
}

/// How many executions were called, and how many of them had their effect.
#[derive(Clone, Default)]
struct Seams {
    begun: Runs,
    effects: Runs,
}

/// A handler that is pending at many places, so that its client can leave at
/// each of them.
fn with_many_seams(
    seams: &Seams,
    end: End,
) -> impl Service<
    Request<Script>,
    Response = Response<Script>,
    Error = &'static str,
    Future: Send + 'static,
> + Clone
+ Send
+ 'static {
    let seams = seams.clone();
    service_fn(move |_: Request<Script>| {
        let seams = seams.clone();
        seams.begun.begin();
        async move {
            yield_now().await;
            let run = seams.effects.begin();
            yield_now().await;
            let status = match end {
                End::Error => return Err("as the test wants it"),
                End::Panic => panic!("as the test wants it"),
                End::Transient => StatusCode::SERVICE_UNAVAILABLE,
                _ => StatusCode::CREATED,
            };
            let body = Script::new([
                Step::Yield,
                Step::Data(format!("run {run}").into()),
                Step::Yield,
            ]);
            let body = match end {
                End::BodyBreaks => body.then(Step::Fail("as the test wants it")),
                End::BodyPanics => body.then(Step::Panic),
                _ => body.and_trailer("run", "whole"),
            };
            let mut response = Response::new(body);
            *response.status_mut() = status;
            Ok(response)
        }
    })
}

fn ask() -> Request<Script> {
    let body = [
        Step::Yield,
        Step::Data("{".into()),
        Step::Yield,
        Step::Data("}".into()),
    ];
    post_with("k", Script::new(body))
}

/// The response to a retry, or `None` after an error or a panic.
async fn retry<A>(app: &A) -> Option<Seen>
where
    A: Service<Request<Script>, Response = Response<ResponseBody<Script>>> + Clone + Send + 'static,
    A::Error: Send,
    A::Future: Send,
{
    match tokio::spawn(app.clone().oneshot(ask())).await {
        Ok(Ok(response)) => Some(Seen::whole(response).await),
        _ => None,
    }
}

/// Sends one request and reads the response until it ends or breaks off.
fn ask_once<A>(app: &A) -> impl Future<Output = ()> + Send + 'static
where
    A: Service<Request<Script>, Response = Response<ResponseBody<Script>>> + Clone + Send + 'static,
    A::Error: Send,
    A::Future: Send,
{
    let call = app.clone().oneshot(ask());
    async move {
        if let Ok(response) = call.await {
            let _ = response.into_body().collect().await;
        }
    }
}

/// Sends a request and drops it, or its response, after so many polls. Returns
/// whether the response had ended by then.
async fn leave_after<A>(polls: usize, app: &A, seams: &Seams, store: &Steered) -> bool
where
    A: Service<Request<Script>, Response = Response<ResponseBody<Script>>> + Clone + Send + 'static,
    A::Error: Send,
    A::Future: Send,
{
    let call = ask_once(app);
    // The request runs in a task of its own, since it may panic. After the
    // request is dropped, the operation continues in another task.
    let (over, begun) = {
        let seams = seams.clone();
        let left = tokio::spawn(async move {
            let over = poll_times(polls, call).await.is_some();
            (over, seams.begun.count())
        });
        left.await.unwrap_or((true, 1))
    };
    quiet().await;
    assert_eq!(
        seams.begun.count(),
        begun,
        "nothing begins for a client that has left, after {polls} polls"
    );
    assert_eq!(
        seams.effects.count(),
        begun,
        "what began was finished, after {polls} polls"
    );
    assert_eq!(
        store.stats().in_flight,
        0,
        "no record is left behind, after {polls} polls"
    );
    if store.calls(Op::Claim) == 0 {
        assert!(store.memory.is_empty(), "after {polls} polls");
    }
    over
}

fn store(guarded: bool) -> Steered {
    let store = if guarded {
        Steered::new()
    } else {
        Steered::unguarded()
    };
    store.let_all(Fault::Yields);
    store
}

#[tokio::test(start_paused = true)]
async fn at_whichever_poll_a_client_leaves_its_retry_is_a_replay_or_the_first_execution() {
    for guarded in [true, false] {
        let (mut unclaimed, mut given_back, mut finished) = (0, 0, 0);
        for polls in 0.. {
            let (store, seams) = (store(guarded), Seams::default());
            let app = protected(&store).layer(with_many_seams(&seams, End::ResponseHead));
            let over = leave_after(polls, &app, &seams, &store).await;
            let ran = seams.effects.count() == 1;
            let retry = retry(&app).await.unwrap();
            assert_eq!((retry.status, retry.text()), (201, "run 1"), "{polls}");
            assert_eq!(retry.trailers.as_ref().unwrap()["run"], "whole");
            assert_eq!(retry.is_replay(), ran, "after {polls} polls");
            assert_eq!(seams.effects.count(), 1, "after {polls} polls");
            match (store.calls(Op::Claim), ran) {
                (1, _) => unclaimed += 1,
                (_, false) => given_back += 1,
                (_, true) => finished += 1,
            }
            if over {
                break;
            }
        }
        // The polls covered each of the three cases.
        assert!(unclaimed >= 2 && given_back >= 1 && finished >= 5);
    }
}

/// A handler that has not begun has no unknown outcome.
#[tokio::test(start_paused = true)]
async fn at_whichever_poll_a_client_leaves_no_outcome_is_unknown_but_that_of_a_failure() {
    for (end, expected) in [
        (End::ResponseHead, None),
        (End::Error, Some("409 outcome-unknown")),
        (End::Panic, Some("409 outcome-unknown")),
    ] {
        for polls in 0.. {
            let (store, seams) = (store(false), Seams::default());
            let layer = with_policy(&store, |options| {
                options.on_lapsed_lease(OnLapsedLease::Refuse)
            });
            let app = layer.layer(with_many_seams(&seams, end));
            let first = tokio::spawn(poll_times(polls, ask_once(&app))).await;
            quiet().await;
            let ran = seams.effects.count();
            let retry = retry(&app).await;
            match (ran, expected) {
                (1, Some(refusal)) => assert_eq!(retry.unwrap().refusal(), refusal),
                (_, Some(_)) => assert!(retry.is_none()),
                (_, None) => assert_eq!(retry.unwrap().text(), "run 1"),
            }
            assert_eq!(seams.effects.count(), 1, "{end:?} after {polls} polls");
            if !matches!(first, Ok(None)) {
                break;
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn at_whichever_poll_a_client_leaves_a_transient_answer_is_released() {
    for polls in 0.. {
        let (store, seams) = (store(true), Seams::default());
        let app = protected(&store).layer(with_many_seams(&seams, End::Transient));
        let over = leave_after(polls, &app, &seams, &store).await;
        let ran = seams.effects.count();
        let retry = retry(&app).await.unwrap();
        assert_eq!(retry.status, 503);
        retry.assert_fresh(&format!("run {}", ran + 1));
        if over {
            break;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn at_whichever_poll_a_client_leaves_an_error_or_a_panic_frees_the_key() {
    for end in [End::Error, End::Panic] {
        for polls in 0.. {
            let (store, seams) = (store(false), Seams::default());
            let app = protected(&store).layer(with_many_seams(&seams, end));
            let over = leave_after(polls, &app, &seams, &store).await;
            let ran = seams.effects.count();
            assert!(retry(&app).await.is_none(), "{end:?}");
            assert_eq!(seams.effects.count(), ran + 1, "{end:?} after {polls}");
            if over {
                break;
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn at_whichever_poll_a_client_leaves_an_answer_that_breaks_off_is_not_run_again() {
    for end in [End::BodyBreaks, End::BodyPanics] {
        for polls in 0.. {
            let (store, seams) = (store(true), Seams::default());
            let app = protected(&store).layer(with_many_seams(&seams, end));
            let over = leave_after(polls, &app, &seams, &store).await;
            if seams.effects.count() == 1 {
                let retry = retry(&app).await.unwrap();
                assert_eq!(retry.refusal(), "409 response-unavailable");
                assert_eq!(seams.effects.count(), 1);
            }
            if over {
                break;
            }
        }
    }
}

/// An operation may run unprotected only for a client that waits. A client that
/// has left gets no response, and its retry may run again.
#[tokio::test(start_paused = true)]
async fn a_client_that_left_during_a_claim_is_not_served_unprotected() {
    for polls in 0.. {
        let (store, seams) = (Steered::new(), Seams::default());
        store.make(Op::Claim, Fault::Fails(StoreErrorKind::NotSent));
        let layer = with_policy(&store, |options| {
            options.on_store_error(OnStoreError::RunUnprotected)
        });
        let app = layer.layer(with_many_seams(&seams, End::ResponseHead));
        if leave_after(polls, &app, &seams, &store).await {
            break;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_leaves_while_its_body_arrives_leaves_nothing() {
    let (store, runs) = (Steered::new(), Runs::default());
    let app = protected(&store).layer(counting::<Script>(&runs));
    let upload = Script::frames(["half"]).then(Step::Never);
    let left = timeout(
        Duration::from_secs(1),
        app.clone().oneshot(post_with("k", upload)),
    );
    assert!(left.await.is_err());
    sleep(Duration::from_secs(60)).await;
    assert_eq!(store.calls(Op::Claim), 0);
    assert!(store.memory.is_empty());
    assert_eq!(runs.count(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_claim_that_is_acknowledged_after_its_client_left_is_given_back() {
    for fault in [
        Fault::AnswerStalls,
        Fault::AnswerLost(StoreErrorKind::Unknown),
        Fault::Stalls,
    ] {
        let (store, runs) = (Steered::unguarded(), Runs::default());
        store.make(Op::Claim, fault);
        let app = protected(&store).layer(counting(&runs));
        assert!(
            poll_times(1, app.clone().oneshot(post("k", "{}")))
                .await
                .is_none_or(|answer| answer.unwrap().status() == 503)
        );
        // The layer waits for the claim for the time of `store_timeout`.
        sleep(Duration::from_secs(3)).await;
        assert_eq!(runs.count(), 0);
        assert_eq!(store.stats().in_flight, 0);
        store.heal(Op::Claim);
        send(&app, post("k", "{}")).await.assert_fresh("run 1");
    }
}

/// The store can't be reached for the release, so only the lapse of the lease
/// frees the key.
#[tokio::test(start_paused = true)]
async fn a_claim_that_cannot_be_given_back_lapses() {
    for store in [Steered::new(), Steered::unguarded()] {
        store.let_all(Fault::Yields);
        store.make(Op::Release, Fault::Fails(StoreErrorKind::NotSent));
        let runs = Runs::default();
        let app = protected(&store).layer(counting(&runs));
        // At the second poll the claim is under way.
        let left = poll_times(2, app.clone().oneshot(post("k", "{}"))).await;
        assert!(left.is_none());
        quiet().await;
        assert_eq!(
            (
                runs.count(),
                store.calls(Op::Claim),
                store.stats().in_flight
            ),
            (0, 1, 1)
        );
        sleep(Duration::from_secs(29)).await;
        let early = send(&app, post("k", "{}")).await;
        assert_eq!(early.refusal(), "409 in-flight");
        sleep(Duration::from_secs(1)).await;
        send(&app, post("k", "{}")).await.assert_fresh("run 1");
    }
}

#[tokio::test(start_paused = true)]
async fn an_outer_timeout_cancels_no_operation() {
    let store = MemoryStore::new();
    let (runs, gate) = (Runs::default(), Gate::closed());
    let app = protected(&store).layer(held_back(&runs, &gate));
    let answer = timeout(Duration::from_secs(5), send(&app, post("k", "{}"))).await;
    assert!(answer.is_err());
    let retry = send(&app, post("k", "{}")).await;
    assert_eq!(retry.refusal(), "409 in-flight");
    gate.open();
    quiet().await;
    let retry = send(&app, post("k", "{}")).await;
    assert!(retry.is_replay());
    assert_eq!((retry.text(), runs.count()), ("run 1", 1));
}

#[tokio::test(start_paused = true)]
async fn an_operation_keeps_its_span_when_its_client_leaves() {
    let log = Log::default();
    let _listening = log.listen();
    let gate = Gate::closed();
    let service = {
        let gate = gate.clone();
        service_fn(move |_: Request<Script>| {
            let gate = gate.clone();
            async move {
                gate.pass().await;
                tracing::info!("the handler goes on");
                Ok::<_, std::convert::Infallible>(Response::new(Script::frames(["done"])))
            }
        })
    };
    let mut app = protected(&MemoryStore::new()).layer(service);
    let ready = app.ready().await.unwrap();
    let call = tracing::info_span!("payment").in_scope(|| ready.call(ask()));
    assert!(timeout(Duration::from_secs(1), call).await.is_err());
    gate.open();
    quiet().await;
    let log = log.text();
    let line = log
        .lines()
        .find(|line| line.contains("the handler goes on"));
    let line = line.unwrap();
    // The request's own span is inside the one that the service was called in.
    assert!(line.contains(" payment:idempotency{"), "{line}");
}

#[test]
fn an_operation_that_is_dropped_outside_its_runtime_lapses() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    let (runs, gate) = (Runs::default(), Gate::closed());
    let (store, call, app) = runtime.block_on(async {
        let store = MemoryStore::new();
        let app = protected(&store).layer(held_back(&runs, &gate));
        let mut call = Box::pin(app.clone().oneshot(post("k", "{}")));
        let once = std::future::poll_fn(|cx| {
            assert!(call.as_mut().poll(cx).is_pending());
            std::task::Poll::Ready(())
        });
        once.await;
        (store, call, app)
    });
    assert_eq!((runs.count(), store.stats().in_flight), (1, 1));
    drop(call);
    runtime.block_on(async {
        let retry = send(&app, post("k", "{}")).await;
        assert_eq!(retry.refusal(), "409 in-flight");
        sleep(Duration::from_secs(30)).await;
        gate.open();
        send(&app, post("k", "{}")).await.assert_fresh("run 2");
    });
}
