//! G2: an operation whose response was recorded does not run again before the
//! end of its retention.

use std::convert::Infallible;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::Full;
use tokio::time::{advance, sleep};
use tower::{Layer, ServiceExt, service_fn};
use tower_idempotency::MemoryStore;
use tower_idempotency::options::OnLapsedLease;
use tower_idempotency::store::{
    Claim, Claimed, Lease, Nonce, Outcome, Ownership, RecordId, Release, Store, StoreError,
    StoreErrorKind,
};

use crate::support::body::Script;
use crate::support::log::Log;
use crate::support::store::{Fault, Op, Steered};
use crate::support::{
    Gate, Runs, builder, counting, created, handler, held_back, post, protected, quiet, request,
    send, with, with_policy,
};

const TICK: Duration = Duration::from_millis(1);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

#[tokio::test(start_paused = true)]
async fn a_recorded_operation_runs_again_only_when_its_retention_has_ended() {
    let runs = Runs::default();
    let app = protected(&MemoryStore::new()).layer(counting(&runs));
    let first = send(&app, post("k", "{}")).await;
    advance(DAY - TICK).await;
    send(&app, post("k", "{}")).await.assert_replays(&first);
    // A replay does not extend the retention.
    advance(TICK).await;
    send(&app, post("k", "{}")).await.assert_fresh("run 2");
    assert_eq!(runs.count(), 2);
}

#[tokio::test(start_paused = true)]
async fn retention_counts_from_the_completion() {
    let (runs, gate) = (Runs::default(), Gate::closed());
    let layer = with_policy(&MemoryStore::new(), |options| {
        options.retention(Duration::from_secs(60))
    });
    let app = layer.layer(held_back(&runs, &gate));
    let first = tokio::spawn({
        let app = app.clone();
        async move { send(&app, post("k", "{}")).await }
    });
    gate.begun().await;
    sleep(Duration::from_secs(45)).await;
    gate.open();
    let first = first.await.unwrap();
    advance(Duration::from_secs(60) - TICK).await;
    send(&app, post("k", "{}")).await.assert_replays(&first);
    advance(TICK).await;
    gate.open();
    send(&app, post("k", "{}")).await.assert_fresh("run 2");
}

#[tokio::test(start_paused = true)]
async fn a_large_answer_is_no_reason_to_run_again() {
    let runs = Runs::default();
    let app = protected(&MemoryStore::new())
        .layer(handler(&runs, |_, _| created(vec![b'x'; (1 << 20) + 1])));
    let first = send(&app, post("k", "{}")).await;
    assert_eq!((first.status, first.body.len()), (201, (1 << 20) + 1));
    assert_eq!(first.lacks(), None);
    advance(DAY - TICK).await;
    let retry = send(&app, post("k", "{}")).await;
    assert_eq!(retry.refusal(), "409 response-unavailable");
    assert_eq!(runs.count(), 1);
    advance(TICK).await;
    assert_eq!(send(&app, post("k", "{}")).await.status, 201);
    assert_eq!(runs.count(), 2);
}

#[tokio::test]
async fn a_streamed_answer_is_replayed_whole_with_its_trailers() {
    let runs = Runs::default();
    let app = protected(&MemoryStore::new()).layer(handler(&runs, |_, _| {
        Response::new(Script::frames(["one ", "two ", "three"]).and_trailer("checksum", "abc"))
    }));
    let first = send(&app, post("k", "{}")).await;
    assert_eq!(first.text(), "one two three");
    assert_eq!(first.trailers.as_ref().unwrap()["checksum"], "abc");
    send(&app, post("k", "{}")).await.assert_replays(&first);
    assert_eq!(runs.count(), 1);
}

#[tokio::test]
async fn an_event_stream_is_delivered_as_it_comes_and_does_not_run_again() {
    let runs = Runs::default();
    let app = protected(&MemoryStore::new()).layer(handler(&runs, |_, _| {
        let mut response = Response::new(Script::frames(["data: 1\n\n", "data: 2\n\n"]));
        response
            .headers_mut()
            .insert("content-type", "text/event-stream".parse().unwrap());
        response
    }));
    let first = send(&app, post("k", "{}")).await;
    assert_eq!(first.text(), "data: 1\n\ndata: 2\n\n");
    let retry = send(&app, post("k", "{}")).await;
    assert_eq!(retry.refusal(), "409 response-unavailable");
    assert_eq!(runs.count(), 1);
}

#[tokio::test]
async fn any_protected_method_is_replayed_as_it_was_answered() {
    let runs = Runs::default();
    let app = protected(&MemoryStore::new()).layer(handler::<Script, _>(&runs, |_, request| {
        created(request.into_body())
    }));
    for method in [Method::POST, Method::PATCH] {
        let ask = || {
            let body = Script::frames(["a ", "body"]);
            let request = request(method.clone(), "/payments?x=1", body);
            with(request, "idempotency-key", method.as_str())
        };
        let first = send(&app, ask()).await;
        first.assert_fresh("a body");
        send(&app, ask()).await.assert_replays(&first);
    }
    assert_eq!(runs.count(), 2);
}

#[tokio::test]
async fn a_full_memory_store_forgets_the_oldest_completion_and_none_in_flight() {
    let store = MemoryStore::builder().max_records(3).build().unwrap();
    let (runs, gate) = (Runs::default(), Gate::closed());
    let app = protected(&store).layer(held_back(&runs, &gate));
    let in_flight = tokio::spawn({
        let app = app.clone();
        async move { send(&app, post("in flight", "{}")).await }
    });
    gate.begun().await;
    let quick = protected(&store).layer(counting(&runs));
    for key in ["oldest", "older", "newest"] {
        assert_eq!(send(&quick, post(key, "{}")).await.status, 201);
    }
    assert_eq!(runs.count(), 4);
    assert!(send(&quick, post("newest", "{}")).await.is_replay());
    assert!(send(&quick, post("older", "{}")).await.is_replay());
    assert_eq!(
        send(&quick, post("in flight", "{}")).await.refusal(),
        "409 in-flight"
    );
    assert!(!send(&quick, post("oldest", "{}")).await.is_replay());
    gate.open();
    assert_eq!(in_flight.await.unwrap().status, 201);
}

#[tokio::test]
async fn a_layer_that_stands_twice_claims_once() {
    let store = Steered::new();
    let runs = Runs::default();
    let layer = protected(&store);
    let app = layer.layer(layer.layer(counting(&runs)));
    let first = send(&app, post("k", "{}")).await;
    first.assert_fresh("run 1");
    send(&app, post("k", "{}")).await.assert_replays(&first);
    assert_eq!(store.calls(Op::Claim), 2);
    assert_eq!(runs.count(), 1);
}

/// A handler for batches makes such requests out of the parts of its own
/// request.
#[tokio::test]
async fn a_request_made_inside_an_operation_is_one_of_its_own() {
    let store = MemoryStore::new();
    let runs = Runs::default();
    let layer = protected(&store);
    let inner = layer.layer(counting::<Full<Bytes>>(&runs));
    let batch = layer.layer(service_fn(move |request: Request<Full<Bytes>>| {
        let mut parts = request.into_parts().0;
        parts
            .headers
            .insert("idempotency-key", "part".parse().unwrap());
        let inner = inner.clone();
        async move {
            let seen = send(&inner, Request::from_parts(parts, Full::from("{}"))).await;
            Ok::<_, Infallible>(created(format!("{} {}", seen.text(), seen.is_replay())))
        }
    }));
    let first = send(&batch, post("batch 1", "{}")).await;
    first.assert_fresh("run 1 false");
    let again = send(&batch, post("batch 2", "{}")).await;
    again.assert_fresh("run 1 true");
    assert_eq!(runs.count(), 1);
}

/// G2 names this exception: the operation ended, and its response was never
/// recorded.
#[tokio::test(start_paused = true)]
async fn what_could_not_be_recorded_until_max_operation_is_left_to_the_lapse_policy() {
    for (on_lapsed_lease, expected) in [
        (OnLapsedLease::Rerun, "run 2"),
        (OnLapsedLease::Refuse, "409 outcome-unknown"),
    ] {
        let store = Steered::new();
        store.make(Op::Complete, Fault::Fails(StoreErrorKind::Unknown));
        let runs = Runs::default();
        let layer = with_policy(&store, |options| {
            options
                .max_operation(Duration::from_secs(60))
                .on_lapsed_lease(on_lapsed_lease)
        });
        let app = layer.layer(counting(&runs));
        let first = send(&app, post("k", "{}")).await;
        assert_eq!(first.lacks(), Some("unrecorded"));
        sleep(Duration::from_secs(55)).await;
        let retry = send(&app, post("k", "{}")).await;
        assert_eq!(retry.refusal(), "409 in-flight");
        sleep(Duration::from_secs(40)).await;
        store.heal(Op::Complete);
        let retry = send(&app, post("k", "{}")).await;
        let got = match on_lapsed_lease {
            OnLapsedLease::Refuse => retry.refusal(),
            _ => retry.text().to_owned(),
        };
        assert_eq!(got, expected);
    }
}

/// Whatever fails while a response is recorded, the record of an operation that
/// ran is not released.
#[tokio::test(start_paused = true)]
async fn a_store_that_panics_when_it_should_record_does_not_free_the_key() {
    for (on_lapsed_lease, expected) in [
        (OnLapsedLease::Rerun, "run 2"),
        (OnLapsedLease::Refuse, "409 outcome-unknown"),
    ] {
        let store = Steered::unguarded();
        store.make(Op::Complete, Fault::Panics);
        let runs = Runs::default();
        let layer = with_policy(&store, |options| options.on_lapsed_lease(on_lapsed_lease));
        let app = layer.layer(counting(&runs));
        let first = tokio::spawn(app.clone().oneshot(post("k", "{}")));
        assert!(first.await.unwrap_err().is_panic());
        store.heal(Op::Complete);
        sleep(Duration::from_secs(29)).await;
        let retry = send(&app, post("k", "{}")).await;
        assert_eq!(retry.refusal(), "409 in-flight");
        sleep(Duration::from_secs(1)).await;
        let retry = send(&app, post("k", "{}")).await;
        let got = match on_lapsed_lease {
            OnLapsedLease::Refuse => retry.refusal(),
            _ => retry.text().to_owned(),
        };
        assert_eq!(got, expected);
    }
}

/// Applications set `max_operation(Duration::MAX)` for "no limit".
#[tokio::test(start_paused = true)]
async fn an_operation_without_a_limit_survives_a_store_that_fails_for_a_moment() {
    let store = Steered::new();
    store.make(Op::Complete, Fault::Fails(StoreErrorKind::Unknown));
    let runs = Runs::default();
    let layer = with_policy(&store, |options| options.max_operation(Duration::MAX));
    let app = layer.layer(counting(&runs));
    let first = send(&app, post("k", "{}")).await;
    assert_eq!(first.lacks(), Some("unrecorded"));
    store.heal(Op::Complete);
    sleep(Duration::from_secs(10)).await;
    let retry = send(&app, post("k", "{}")).await;
    assert_eq!((retry.text(), retry.is_replay()), ("run 1", true));
    assert_eq!(runs.count(), 1);
}

/// A claim whose result was lost is released again and again for the length of
/// its lease. That must also work if the lease has no end.
#[tokio::test(start_paused = true)]
async fn a_lease_without_an_end_is_given_back_all_the_same() {
    let store = Steered::new();
    store.make(Op::Claim, Fault::AnswerLost(StoreErrorKind::Unknown));
    let runs = Runs::default();
    let layer = with_policy(&store, |options| {
        options.max_operation(Duration::MAX).lease(Duration::MAX)
    });
    let app = layer.layer(counting(&runs));
    let lost = send(&app, post("k", "{}")).await;
    assert_eq!(lost.refusal(), "503 store-unavailable");
    quiet().await;
    store.heal(Op::Claim);
    send(&app, post("k", "{}")).await.assert_fresh("run 1");
}

#[tokio::test(start_paused = true)]
async fn a_retention_without_an_end_keeps_the_answer() {
    let store = Steered::new();
    let runs = Runs::default();
    let app =
        with_policy(&store, |options| options.retention(Duration::MAX)).layer(counting(&runs));
    let first = send(&app, post("k", "{}")).await;
    advance(100 * 365 * DAY).await;
    send(&app, post("k", "{}")).await.assert_replays(&first);
    assert!(matches!(&*store.outcomes(), [Outcome::Completed(_)]));
}

/// A store that takes no completion, and may say so beforehand.
#[derive(Clone, Default)]
struct Small {
    memory: MemoryStore,
    says: Option<usize>,
    /// Takes no outcome at all, and fails so.
    fails: Option<StoreErrorKind>,
    asked: Runs,
}

impl Store for Small {
    async fn claim(&self, claim: &Claim) -> Result<Claimed, StoreError> {
        self.memory.claim(claim).await
    }
    async fn renew(&self, lease: &Lease) -> Result<Ownership, StoreError> {
        self.memory.renew(lease).await
    }
    async fn complete(&self, lease: &Lease, outcome: &Outcome) -> Result<Ownership, StoreError> {
        self.asked.begin();
        if let Some(kind) = self.fails {
            return Err(StoreError::new(kind, "as the test wants it"));
        }
        match outcome {
            Outcome::Completed(_) => Err(StoreError::new(StoreErrorKind::TooLarge, "400 kB")),
            outcome => self.memory.complete(lease, outcome).await,
        }
    }
    async fn release(
        &self,
        id: &RecordId,
        nonce: &Nonce,
        how: Release,
    ) -> Result<Ownership, StoreError> {
        self.memory.release(id, nonce, how).await
    }
    fn largest_completion(&self) -> Option<usize> {
        self.says
    }
}

/// Trying again would be in vain, and the lapse of the lease would run the operation again.
#[tokio::test(start_paused = true)]
async fn an_answer_that_the_store_can_never_take_is_sealed_at_once() {
    for (says, calls) in [(None, 2), (Some(2_000), 1), (Some(0), 1), (Some(9_000), 2)] {
        let store = Small {
            says,
            ..Small::default()
        };
        let runs = Runs::default();
        let app = protected(&store).layer(handler(&runs, |_, _| created(vec![b'x'; 1_500])));
        let first = send(&app, post("k", "{}")).await;
        assert_eq!((first.status, first.body.len()), (201, 1_500));
        assert_eq!(first.lacks(), None);
        let retry = send(&app, post("k", "{}")).await;
        assert_eq!(retry.refusal(), "409 response-unavailable");
        assert_eq!((runs.count(), store.asked.count()), (1, calls), "{says:?}");
    }
    let store = Small::default();
    let runs = Runs::default();
    let app = protected(&store).layer(handler(&runs, |_, _| {
        Response::new(Script::frames(["one", "two"]).and_trailer("x-sum", "6"))
    }));
    assert_eq!(send(&app, post("k", "{}")).await.body, "onetwo");
    let retry = send(&app, post("k", "{}")).await;
    assert_eq!(retry.refusal(), "409 response-unavailable");
    assert_eq!(runs.count(), 1);
}

/// Nothing can try again there. Retries are rejected for as long as the lease lasts.
#[test]
fn without_a_runtime_a_response_that_the_store_does_not_take_is_given_up() {
    let log = Log::default();
    let _listening = log.listen();
    let store = Small {
        fails: Some(StoreErrorKind::Unknown),
        ..Small::default()
    };
    let runs = Runs::default();
    let app = protected(&store).layer(counting(&runs));
    let mut asked = pin!(app.oneshot(post("k", "{}")));
    let Poll::Ready(response) = asked.as_mut().poll(&mut Context::from_waker(Waker::noop())) else {
        panic!("nothing is there to wait for");
    };
    let response = response.unwrap();
    assert_eq!(response.status(), 201);
    assert_eq!(response.headers()["idempotency-status"], "unrecorded");
    let text = log.text();
    assert!(text.contains("was not recorded"), "{text}");
    assert_eq!((runs.count(), store.asked.count()), (1, 1));
}

/// The sealed records would surprise whoever reads the metrics.
#[test]
fn a_store_that_keeps_less_than_the_options_record_is_told_when_the_layer_is_built() {
    for (says, warned) in [(None, false), (Some(1_500), false), (Some(1_499), true)] {
        let log = Log::default();
        let listening = log.listen();
        let store = Small {
            says,
            ..Small::default()
        };
        let layer = builder(&store)
            .defaults(|options| options.max_recorded_body(1_000))
            .route("/a", |options| options.max_recorded_body(1_500))
            .route("/b", |options| options.max_recorded_body(10))
            .build()
            .unwrap();
        drop((layer, listening));
        let text = log.text();
        assert_eq!(text.contains("store_keeps_at_most=1499"), warned, "{text}");
        assert_eq!(text.contains("WARN"), warned, "{text}");
    }
}
