//! G3: a response leaves only after its record is stored, or it says that it
//! could not be recorded in time.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, Version};
use http_body_util::{BodyExt, Full};
use tokio::time::{Instant, sleep};
use tower::{Layer, ServiceExt, service_fn};
use tower_idempotency::store::StoreErrorKind;

use crate::support::body::Script;
use crate::support::store::{Fault, Op, Steered};
use crate::support::{
    Runs, builder, counting, created, handler, post, protected, quiet, send, with_policy,
};
use crate::written::{End, Got};

const STORE_TIMEOUT: Duration = Duration::from_secs(2);
/// This is longer than the longest pause between two attempts, and one more
/// attempt.
const A_WHILE: Duration = Duration::from_secs(8);

#[tokio::test(start_paused = true)]
async fn an_answer_that_the_store_fails_to_record_is_delivered_unrecorded_and_replayed_later() {
    for kind in [
        StoreErrorKind::NotSent,
        StoreErrorKind::Unknown,
        StoreErrorKind::Contention,
    ] {
        let store = Steered::new();
        store.make(Op::Complete, Fault::Fails(kind));
        let runs = Runs::default();
        let app = protected(&store).layer(counting(&runs));

        let sent = Instant::now();
        let first = send(&app, post("k", "{}")).await;
        assert_eq!(sent.elapsed(), STORE_TIMEOUT);
        assert_eq!((first.status, first.text()), (201, "run 1"));
        assert_eq!(first.lacks(), Some("unrecorded"));

        // The operation ended and must not run again. The layer still tries to
        // record the response.
        let retry = send(&app, post("k", "{}")).await;
        assert_eq!(retry.refusal(), "409 in-flight");
        sleep(Duration::from_secs(120)).await;
        let retry = send(&app, post("k", "{}")).await;
        assert_eq!(retry.refusal(), "409 in-flight");

        store.heal(Op::Complete);
        sleep(A_WHILE).await;
        let retry = send(&app, post("k", "{}")).await;
        assert_eq!((retry.status, retry.text()), (201, "run 1"));
        assert!(retry.is_replay());
        assert_eq!(retry.lacks(), None, "the replay is of a record");
        assert_eq!(runs.count(), 1);
        assert_eq!(store.stats().in_flight, 0);
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_waits_for_a_store_that_never_answers_as_long_as_store_timeout() {
    let store = Steered::new();
    store.make(Op::Complete, Fault::Stalls);
    let runs = Runs::default();
    let layer = builder(&store)
        .store_timeout(Duration::from_millis(700))
        .build()
        .unwrap();
    let app = layer.layer(counting(&runs));

    let sent = Instant::now();
    let first = send(&app, post("k", "{}")).await;
    assert_eq!(sent.elapsed(), Duration::from_millis(700));
    assert_eq!(first.lacks(), Some("unrecorded"));
    let retry = send(&app, post("k", "{}")).await;
    assert_eq!(retry.refusal(), "409 in-flight");

    store.heal(Op::Complete);
    sleep(A_WHILE).await;
    assert!(send(&app, post("k", "{}")).await.is_replay());
    assert_eq!(runs.count(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_record_whose_acknowledgement_was_lost_is_a_record() {
    for lost in [
        Fault::AnswerLost(StoreErrorKind::Unknown),
        Fault::AnswerStalls,
    ] {
        let store = Steered::new();
        store.make(Op::Complete, lost);
        let runs = Runs::default();
        let app = protected(&store).layer(counting(&runs));
        let first = send(&app, post("k", "{}")).await;
        // The record is stored, but the layer does not know this.
        assert_eq!(first.lacks(), Some("unrecorded"));
        assert!(send(&app, post("k", "{}")).await.is_replay());
        store.heal(Op::Complete);
        sleep(A_WHILE).await;
        assert!(send(&app, post("k", "{}")).await.is_replay());
        assert_eq!(runs.count(), 1);
        assert_eq!(store.stats().completed, 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_heals_in_time_leaves_no_mark() {
    let store = Steered::new();
    store.make(Op::Complete, Fault::Fails(StoreErrorKind::Unknown));
    let runs = Runs::default();
    let app = protected(&store).layer(counting(&runs));
    let first = tokio::spawn({
        let app = app.clone();
        async move { send(&app, post("k", "{}")).await }
    });
    sleep(STORE_TIMEOUT / 2).await;
    assert!(store.calls(Op::Complete) > 1);
    assert!(!first.is_finished(), "not before it is recorded");
    store.heal(Op::Complete);
    let first = first.await.unwrap();
    assert_eq!(first.lacks(), None);
    send(&app, post("k", "{}")).await.assert_replays(&first);
}

#[tokio::test(start_paused = true)]
async fn the_lease_is_renewed_for_as_long_as_the_record_is_being_retried() {
    for fault in [Fault::Fails(StoreErrorKind::Unknown), Fault::Stalls] {
        let store = Steered::unguarded();
        store.make(Op::Complete, fault);
        let runs = Runs::default();
        let app = protected(&store).layer(counting(&runs));
        assert_eq!(
            send(&app, post("k", "{}")).await.lacks(),
            Some("unrecorded")
        );
        let mut renewals = 0;
        for _ in 0..10 {
            // The lease is 30 s long.
            sleep(Duration::from_secs(25)).await;
            let retry = send(&app, post("k", "{}")).await;
            assert_eq!(retry.refusal(), "409 in-flight");
            assert!(store.calls(Op::Renew) > renewals);
            renewals = store.calls(Op::Renew);
        }
        store.heal(Op::Complete);
        sleep(A_WHILE).await;
        assert!(send(&app, post("k", "{}")).await.is_replay());
        // After the response is recorded there is no lease to renew.
        let renewals = store.calls(Op::Renew);
        sleep(Duration::from_secs(300)).await;
        assert_eq!(store.calls(Op::Renew), renewals);
        assert_eq!(runs.count(), 1);
    }
}

/// The time that `max_operation` allows for the handler is allowed once more
/// for recording the response.
#[tokio::test(start_paused = true)]
async fn the_record_of_a_long_operation_is_retried_for_as_long_as_that_of_a_short_one() {
    let store = Steered::unguarded();
    store.make(Op::Complete, Fault::Fails(StoreErrorKind::Unknown));
    let runs = Runs::default();
    let layer = with_policy(&store, |options| {
        options.max_operation(Duration::from_secs(60))
    });
    let service = {
        let runs = runs.clone();
        service_fn(move |_: Request<Full<Bytes>>| {
            let run = runs.begin();
            async move {
                sleep(Duration::from_secs(50)).await;
                Ok::<_, Infallible>(created(format!("run {run}")))
            }
        })
    };
    let app = layer.layer(service);
    let first = send(&app, post("k", "{}")).await;
    assert_eq!(first.lacks(), Some("unrecorded"));
    for _ in 0..5 {
        sleep(Duration::from_secs(10)).await;
        let retry = send(&app, post("k", "{}")).await;
        assert_eq!(retry.refusal(), "409 in-flight");
    }
    store.heal(Op::Complete);
    sleep(A_WHILE).await;
    let retry = send(&app, post("k", "{}")).await;
    assert_eq!((retry.text(), retry.is_replay()), ("run 1", true));
    assert_eq!(runs.count(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_answer_too_large_to_record_is_cut_when_not_even_that_could_be_recorded() {
    let store = Steered::new();
    store.make(Op::Complete, Fault::Stalls);
    let runs = Runs::default();
    let app = protected(&store).layer(handler(&runs, |_, _| created(vec![b'x'; 2 << 20])));
    let first = app.clone().oneshot(post("k", "{}")).await.unwrap();
    assert_eq!(first.status(), 201);
    let cut = first.into_body().collect().await.unwrap_err();
    assert!(cut.to_string().contains("not recorded in time"), "{cut}");
    store.heal(Op::Complete);
    sleep(A_WHILE).await;
    let retry = send(&app, post("k", "{}")).await;
    assert_eq!(retry.refusal(), "409 response-unavailable");
    assert_eq!(runs.count(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_answer_is_not_delivered_before_it_is_recorded() {
    let store = Steered::new();
    store.make(Op::Complete, Fault::Stalls);
    let runs = Runs::default();
    let app = protected(&store).layer(counting(&runs));
    let first = tokio::spawn({
        let app = app.clone();
        async move { send(&app, post("k", "{}")).await }
    });
    quiet().await;
    assert_eq!((runs.count(), store.calls(Op::Complete)), (1, 1));
    sleep(STORE_TIMEOUT - 2 * Duration::from_millis(1)).await;
    assert!(!first.is_finished());
    sleep(Duration::from_millis(1)).await;
    quiet().await;
    assert_eq!(first.await.unwrap().lacks(), Some("unrecorded"));
}

/// In an earlier version the last frame left before the record was stored. The
/// body was then cut, but a client of HTTP/1.0 takes a cut for the end of the
/// body.
#[tokio::test(start_paused = true)]
async fn the_last_frame_of_a_large_answer_over_http_1_0_waits_for_the_record() {
    for (fault, expected) in [
        (Fault::Stalls, (4500, Some(End::Broken))),
        (Fault::Late(STORE_TIMEOUT / 2), (5000, Some(End::Whole))),
    ] {
        for version in [Version::HTTP_09, Version::HTTP_10] {
            let store = Steered::new();
            store.make(Op::Complete, fault);
            let layer = with_policy(&store, |options| options.max_recorded_body(1000));
            let app = layer.layer(handler(&Runs::default(), |_, _| {
                Response::new(Script::repeated(vec![b'x'; 500], 10))
            }));
            let mut request = post("k", "{}");
            *request.version_mut() = version;
            let asked = Instant::now();
            let mut before_the_record = 0;
            let got = Got::all(app.oneshot(request), |got| {
                if asked.elapsed().is_zero() {
                    before_the_record = got.data.len();
                }
            });
            let got = got.await;
            assert_eq!(before_the_record, 4500, "{fault:?}, {version:?}");
            assert_eq!((got.data.len(), got.end), expected, "{version:?}");
        }
    }
}
