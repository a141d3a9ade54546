//! What goes on in the background after its request has ended, and when that gives up.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::StatusCode;
use tokio::time::sleep;
use tower::Layer;
use tower_idempotency::IdempotencyContext;
use tower_idempotency::options::OnLapsedLease;
use tower_idempotency::store::{Outcome, StoreErrorKind};

use crate::support::log::Log;
use crate::support::store::{Fault, Op, Steered};
use crate::support::{Runs, answer, counting, handler, post, quiet, send, with_policy};

const MILLI: Duration = Duration::from_millis(1);
const HOUR: Duration = Duration::from_secs(60 * 60);

/// For how long something is tried, and how often: after pauses that begin with 50 ms and double
/// up to 5 s. The last try is the one at the end, or the first after it.
const TRIES: [(u32, usize); 6] = [
    (350, 4),
    (351, 5),
    (750, 5),
    (10_000, 9),
    (11_350, 9),
    (11_351, 10),
];

#[tokio::test(start_paused = true)]
async fn a_completion_is_tried_again_for_max_operation_and_then_given_up() {
    for (millis, tries) in TRIES {
        let (store, runs) = (Steered::new(), Runs::default());
        let log = Log::default();
        let _listening = log.listen();
        let limit = MILLI * millis;
        let layer = with_policy(&store, |options| options.lease(limit).max_operation(limit));
        store.make(Op::Complete, Fault::Fails(StoreErrorKind::NotSent));
        let app = layer.layer(counting(&runs));
        let first = send(&app, post("k", "{}")).await;
        assert_eq!(first.lacks(), Some("unrecorded"));
        sleep(HOUR).await;
        assert_eq!(store.calls(Op::Complete), tries, "in {limit:?}");
        assert_eq!(store.calls(Op::Release), 0, "its operation has happened");
        assert!(log.text().contains("was not recorded"), "{}", log.text());
        store.heal(Op::Complete);
        send(&app, post("k", "{}")).await.assert_fresh("run 2");
    }
}

/// The store has first to be there to say that a response is too large.
#[tokio::test(start_paused = true)]
async fn a_completion_that_proves_too_large_when_it_is_tried_again_is_sealed() {
    let (store, runs) = (Steered::new(), Runs::default());
    let app = with_policy(&store, |options| options).layer(counting(&runs));
    store.make(Op::Complete, Fault::Fails(StoreErrorKind::NotSent));
    send(&app, post("k", "{}")).await;
    sleep(MILLI * 1000).await;
    store.make(Op::Complete, Fault::Fails(StoreErrorKind::TooLarge));
    sleep(MILLI * 10_000).await;
    let last = store.outcomes().pop().unwrap();
    assert!(matches!(last, Outcome::Sealed { .. }), "{last:?}");
    store.heal(Op::Complete);
    sleep(MILLI * 10_000).await;
    let retry = send(&app, post("k", "{}")).await;
    assert_eq!(retry.refusal(), "409 response-unavailable");
}

#[tokio::test(start_paused = true)]
async fn a_release_is_tried_again_for_a_lease_and_then_given_up() {
    for (millis, tries) in TRIES {
        let (store, runs) = (Steered::unguarded(), Runs::default());
        let layer = with_policy(&store, |options| options.lease(MILLI * millis));
        store.make(Op::Release, Fault::Fails(StoreErrorKind::NotSent));
        let app = layer.layer(transient(&runs));
        assert_eq!(send(&app, post("k", "{}")).await.status, 503);
        sleep(HOUR).await;
        // The request sent one, and the background began with another.
        assert_eq!(store.calls(Op::Release), 1 + tries, "in {millis} ms");
        send(&app, post("k", "{}")).await;
        assert_eq!(runs.count(), 2, "its lease has lapsed");
    }
}

#[tokio::test(start_paused = true)]
async fn a_claim_that_may_arrive_is_released_for_a_lease_and_not_longer() {
    for (millis, tries) in TRIES {
        let store = Steered::unguarded();
        let layer = with_policy(&store, |options| options.lease(MILLI * millis));
        store.make(Op::Claim, Fault::Fails(StoreErrorKind::Unknown));
        let app = layer.layer(counting(&Runs::default()));
        assert_eq!(send(&app, post("k", "{}")).await.status, 503);
        sleep(HOUR).await;
        assert_eq!(store.calls(Op::Release), tries, "in {millis} ms");
    }
}

#[tokio::test(start_paused = true)]
async fn a_release_that_held_is_not_sent_again() {
    let (store, runs) = (Steered::new(), Runs::default());
    let app = with_policy(&store, |options| options).layer(transient(&runs));
    send(&app, post("k", "{}")).await;
    sleep(HOUR).await;
    assert_eq!(store.calls(Op::Release), 1);
}

/// The handler may keep its context for as long as it likes.
#[tokio::test(start_paused = true)]
async fn a_lease_that_can_not_be_released_lapses_though_its_context_lives() {
    let (store, runs) = (Steered::new(), Runs::default());
    let contexts: Arc<Mutex<Vec<IdempotencyContext>>> = Arc::default();
    let kept = Arc::clone(&contexts);
    let layer = with_policy(&store, |options| options);
    store.make(Op::Release, Fault::Fails(StoreErrorKind::NotSent));
    let app = layer.layer(handler(&runs, move |run, request| {
        let context = request.extensions().get::<IdempotencyContext>().unwrap();
        kept.lock().unwrap().push(context.clone());
        answer(StatusCode::SERVICE_UNAVAILABLE, format!("run {run}"))
    }));
    send(&app, post("k", "{}")).await;
    sleep(HOUR).await;
    assert_eq!(send(&app, post("k", "{}")).await.text(), "run 2");
    assert_eq!(contexts.lock().unwrap().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn the_log_says_that_an_outcome_waits_for_a_person_and_only_then() {
    let unknown = "nobody knows how an operation ended";
    for (on_lapsed_lease, status, logged) in [
        (OnLapsedLease::Refuse, 503, false),
        (OnLapsedLease::Rerun, 500, false),
        (OnLapsedLease::Refuse, 0, true),
    ] {
        let (store, runs) = (Steered::new(), Runs::default());
        let log = Log::default();
        let _listening = log.listen();
        let layer = with_policy(&store, |options| options.on_lapsed_lease(on_lapsed_lease));
        let app = layer.layer(handler(&runs, move |_, _| {
            assert_ne!(status, 0, "as the test wants it");
            answer(StatusCode::from_u16(status).unwrap(), "")
        }));
        let call = tokio::spawn(async move { send(&app, post("k", "{}")).await.status });
        assert_eq!(call.await.is_err(), status == 0);
        quiet().await;
        assert_eq!(log.text().contains(unknown), logged, "{}", log.text());
    }
}

fn transient(
    runs: &Runs,
) -> impl tower::Service<
    http::Request<http_body_util::Full<bytes::Bytes>>,
    Response = http::Response<http_body_util::Full<bytes::Bytes>>,
    Error = std::convert::Infallible,
    Future: Send + 'static,
> + Clone
+ Send
+ 'static {
    handler(runs, |_, _| {
        answer(StatusCode::SERVICE_UNAVAILABLE, "later")
    })
}
