//! G5: an owner that was overtaken can't complete, renew or release the record
//! of the owner that took over.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use tokio::time::sleep;
use tower::{Layer, ServiceExt};
use tower_idempotency::options::{OnLapsedLease, OnMismatch, OnOversize};
use tower_idempotency::recording::ResponseHead;
use tower_idempotency::store::StoreErrorKind;

use crate::owners::{First, LEASE, Owners, SECOND, begin};
use crate::support::body::{Script, Step};
use crate::support::store::{Fault, Op, Steered};
use crate::support::{
    Gate, Runs, Seen, answer, created, handler, post, protected, quiet, send, with_policy,
};

#[tokio::test(start_paused = true)]
async fn an_overtaken_owner_learns_it_and_its_answer_is_discarded() {
    let store = Steered::unguarded();
    let owners = Owners::new();
    let app = protected(&store).layer(owners.service(First::Answers));

    // The owner is cut off from the store: its renewals fail.
    store.make(Op::Renew, Fault::Fails(StoreErrorKind::NotSent));
    let first = begin(&app);
    owners.gate.begun().await;
    sleep(LEASE - SECOND).await;
    assert!(store.calls(Op::Renew) >= 2);
    assert_eq!(send(&app, post("k", "{}")).await.refusal(), "409 in-flight");
    sleep(SECOND).await;
    let second = begin(&app);
    owners.gate.begun().await;

    let (one, two) = (owners.context(1), owners.context(2));
    assert_eq!((one.attempt(), two.attempt()), (1, 2));
    assert_eq!((one.is_rerun(), two.is_rerun()), (false, true));
    assert!(two.fencing_token() > one.fencing_token());
    assert!(!one.is_lost(), "it can't know yet");

    store.heal(Op::Renew);
    sleep(LEASE / 3 + SECOND * 5).await;
    assert!(one.is_lost() && !two.is_lost());

    owners.gate.open();
    let first = Seen::whole(first.await.unwrap().unwrap()).await;
    assert_eq!(first.refusal(), "409 in-flight");
    assert!(!second.is_finished());
    assert_eq!(send(&app, post("k", "{}")).await.refusal(), "409 in-flight");

    owners.gate.open();
    let second = Seen::whole(second.await.unwrap().unwrap()).await;
    second.assert_fresh("run 2");
    send(&app, post("k", "{}")).await.assert_replays(&second);
    assert_eq!(owners.count(), 2);
}

#[tokio::test(start_paused = true)]
async fn an_owner_that_was_overtaken_learns_it_by_its_completion_at_the_latest() {
    let store = Steered::unguarded();
    let owners = Owners::new();
    let app = protected(&store).layer(owners.service(First::Answers));
    store.make(Op::Renew, Fault::Stalls);
    let first = begin(&app);
    owners.gate.begun().await;
    sleep(LEASE).await;
    let second = begin(&app);
    owners.gate.begun().await;
    assert!(!owners.context(1).is_lost());
    owners.gate.open();
    let first = Seen::whole(first.await.unwrap().unwrap()).await;
    assert_eq!(first.refusal(), "409 in-flight");
    assert!(owners.context(1).is_lost());
    assert!(!owners.context(2).is_lost());
    owners.gate.open();
    let second = second.await.unwrap().unwrap();
    assert_eq!(second.status(), 201);
}

#[tokio::test(start_paused = true)]
async fn an_overtaken_owner_releases_nothing_however_it_ends() {
    for end in [First::Transient, First::Fails, First::Panics] {
        let store = Steered::unguarded();
        let owners = Owners::new();
        let app = protected(&store).layer(owners.service(end));
        store.make(Op::Renew, Fault::Fails(StoreErrorKind::NotSent));
        let first = begin(&app);
        owners.gate.begun().await;
        sleep(LEASE).await;
        let second = begin(&app);
        owners.gate.begun().await;

        owners.gate.open();
        match (end, first.await) {
            (First::Transient, Ok(Ok(answer))) => {
                let answer = Seen::whole(answer).await;
                assert_eq!(answer.refusal(), "409 in-flight");
            }
            (First::Fails, Ok(Err("as the test wants it"))) => {}
            (First::Panics, Err(error)) if error.is_panic() => {}
            (_, other) => panic!("{end:?}: {:?}", other.map(|_| ())),
        }
        quiet().await;
        let retry = send(&app, post("k", "{}")).await;
        assert_eq!(retry.refusal(), "409 in-flight", "{end:?}");

        owners.gate.open();
        let second = Seen::whole(second.await.unwrap().unwrap()).await;
        second.assert_fresh("run 2");
        send(&app, post("k", "{}")).await.assert_replays(&second);
        assert_eq!(owners.count(), 2);
    }
}

/// The response to the client of an owner that knew that it was overtaken
/// before its handler responded. The store never returns from the attempt to
/// record the completion.
async fn answer_of_one_that_knows(max_recorded_body: usize) -> Seen {
    let store = Steered::unguarded();
    let owners = Owners::new();
    let layer = with_policy(&store, |options| {
        options
            .oversize(OnOversize::Rerun)
            .max_recorded_body(max_recorded_body)
    });
    let app = layer.layer(owners.service(First::Answers));
    store.make(Op::Renew, Fault::Fails(StoreErrorKind::NotSent));
    let first = begin(&app);
    owners.gate.begun().await;
    sleep(LEASE).await;
    let _second = begin(&app);
    owners.gate.begun().await;
    store.heal(Op::Renew);
    sleep(LEASE / 2).await;
    assert!(owners.context(1).is_lost());
    store.make(Op::Complete, Fault::Stalls);
    owners.gate.open();
    Seen::whole(first.await.unwrap().unwrap()).await
}

#[tokio::test(start_paused = true)]
async fn an_owner_that_knows_that_it_was_overtaken_hands_out_nothing_unrecorded() {
    let seen = answer_of_one_that_knows(100).await;
    assert_eq!(seen.refusal(), "409 in-flight");
}

#[tokio::test(start_paused = true)]
async fn an_owner_that_knows_that_it_was_overtaken_hands_out_nothing_too_large_to_record() {
    let seen = answer_of_one_that_knows(3).await;
    assert_eq!(seen.refusal(), "409 in-flight");
}

#[tokio::test(start_paused = true)]
async fn a_record_that_is_being_retried_does_not_overwrite_that_of_who_took_over() {
    let store = Steered::unguarded();
    let owners = Owners::new();
    let app = protected(&store).layer(owners.service(First::Answers));
    store.make(Op::Renew, Fault::Fails(StoreErrorKind::NotSent));
    store.make(Op::Complete, Fault::Fails(StoreErrorKind::NotSent));
    owners.gate.open();
    let first = send(&app, post("k", "{}")).await;
    assert_eq!(first.lacks(), Some("unrecorded"));
    sleep(LEASE).await;
    let second = begin(&app);
    owners.gate.begun().await;
    owners.gate.begun().await;
    store.heal(Op::Complete);
    sleep(SECOND * 10).await;
    assert!(owners.context(1).is_lost());
    owners.gate.open();
    let second = Seen::whole(second.await.unwrap().unwrap()).await;
    second.assert_fresh("run 2");
    send(&app, post("k", "{}")).await.assert_replays(&second);
}

/// A key that arrives with another request is rejected, whatever happened to
/// the first request.
#[tokio::test(start_paused = true)]
async fn a_lapsed_lease_is_taken_over_by_the_same_request_only() {
    for (on_mismatch, expected) in [
        (OnMismatch::Reject, Some("422 key-reused")),
        (OnMismatch::Replay, None),
    ] {
        let store = Steered::unguarded();
        let owners = Owners::new();
        let layer = with_policy(&store, |options| options.on_mismatch(on_mismatch));
        let app = layer.layer(owners.service(First::Answers));
        store.make(Op::Renew, Fault::Stalls);
        let _first = begin(&app);
        owners.gate.begun().await;
        sleep(LEASE).await;
        let other = {
            let app = app.clone();
            tokio::spawn(async move { send(&app, post("k", "other")).await })
        };
        if let Some(refusal) = expected {
            assert_eq!(other.await.unwrap().refusal(), refusal);
            let _second = begin(&app);
        }
        owners.gate.begun().await;
        assert_eq!(owners.context(2).attempt(), 2);
    }
}

#[tokio::test(start_paused = true)]
async fn under_refuse_a_lapsed_lease_is_outcome_unknown_and_its_owner_is_never_overtaken() {
    let store = Steered::unguarded();
    let owners = Owners::new();
    let layer = with_policy(&store, |options| {
        options.on_lapsed_lease(OnLapsedLease::Refuse)
    });
    let app = layer.layer(owners.service(First::Answers));
    store.make(Op::Renew, Fault::Fails(StoreErrorKind::NotSent));
    let first = begin(&app);
    owners.gate.begun().await;
    sleep(LEASE - SECOND).await;
    let retry = send(&app, post("k", "{}")).await;
    assert_eq!(retry.refusal(), "409 in-flight");
    sleep(SECOND).await;
    let retry = send(&app, post("k", "{}")).await;
    assert_eq!(retry.refusal(), "409 outcome-unknown");
    assert_eq!(retry.header("retry-after"), None, "waiting is no help");
    let other = send(&app, post("k", "{ }")).await;
    assert_eq!(other.refusal(), "422 key-reused");
    // The record stays for longer than any retention, until it is resolved.
    sleep(Duration::from_secs(2 * 24 * 60 * 60)).await;
    let retry = send(&app, post("k", "{}")).await;
    assert_eq!(retry.refusal(), "409 outcome-unknown");

    // The owner was only slow. Its completion resolves the record.
    owners.gate.open();
    let first = Seen::whole(first.await.unwrap().unwrap()).await;
    first.assert_fresh("run 1");
    send(&app, post("k", "{}")).await.assert_replays(&first);
    assert_eq!(owners.count(), 1);
}

#[tokio::test(start_paused = true)]
async fn under_refuse_an_error_or_a_panic_is_outcome_unknown_at_once() {
    for store in [Steered::unguarded(), Steered::new()] {
        for end in [First::Fails, First::Panics, First::PanicsAtOnce] {
            let layer = with_policy(&store, |options| {
                options.on_lapsed_lease(OnLapsedLease::Refuse)
            });
            let owners = Owners::new();
            let app = layer.layer(owners.service(end));
            let key = format!("{end:?}");
            owners.gate.open();
            let first = tokio::spawn(app.clone().oneshot(post(&key, "{}")));
            assert!(!matches!(first.await, Ok(Ok(_))));
            let retry = send(&app, post(&key, "{}")).await;
            assert_eq!(retry.refusal(), "409 outcome-unknown", "{end:?}");
            sleep(LEASE * 10).await;
            let retry = send(&app, post(&key, "{}")).await;
            assert_eq!(retry.refusal(), "409 outcome-unknown", "{end:?}");
            assert_eq!(owners.count(), 1);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn under_refuse_a_transient_answer_is_released_all_the_same() {
    let layer = with_policy(&Steered::new(), |options| {
        options.on_lapsed_lease(OnLapsedLease::Refuse)
    });
    let owners = Owners::new();
    let app = layer.layer(owners.service(First::Transient));
    owners.gate.open();
    assert_eq!(send(&app, post("k", "{}")).await.status, 503);
    owners.gate.open();
    send(&app, post("k", "{}")).await.assert_fresh("run 2");
}

/// The status does not tell whether such an operation ran, because its body
/// never ended.
#[tokio::test(start_paused = true)]
async fn a_transient_answer_that_breaks_off_is_left_to_the_lapse_policy() {
    for (on_lapsed_lease, expected) in [
        (OnLapsedLease::Rerun, "run 2"),
        (OnLapsedLease::Refuse, "409 outcome-unknown"),
    ] {
        let runs = Runs::default();
        let layer = with_policy(&Steered::new(), |options| {
            options.on_lapsed_lease(on_lapsed_lease)
        });
        let app = layer.layer(handler(&runs, |run, _| {
            let body = Script::frames([format!("run {run}")]);
            if run > 1 {
                return Response::new(body);
            }
            let mut response = Response::new(body.then(Step::Fail("as the test wants it")));
            *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
            response
        }));
        let first = app.clone().oneshot(post("k", "{}")).await.unwrap();
        assert_eq!(first.status(), 503);
        assert!(first.into_body().collect().await.is_err());
        let retry = send(&app, post("k", "{}")).await;
        let got = match on_lapsed_lease {
            OnLapsedLease::Refuse => retry.refusal(),
            _ => retry.text().to_owned(),
        };
        assert_eq!(got, expected);
    }
}

#[tokio::test(start_paused = true)]
async fn under_rerun_an_error_or_a_panic_frees_the_key_at_once() {
    for end in [First::Fails, First::Panics, First::PanicsAtOnce] {
        let owners = Owners::new();
        let app = protected(&Steered::new()).layer(owners.service(end));
        owners.gate.open();
        assert!(!matches!(begin(&app).await, Ok(Ok(_))));
        owners.gate.open();
        send(&app, post("k", "{}")).await.assert_fresh("run 2");
        assert_eq!(owners.context(2).attempt(), 2);
        assert!(owners.context(2).is_rerun());
    }
}

/// If anything panics between the claim and the record, the record is still
/// released or left to lapse.

#[tokio::test(start_paused = true)]
async fn a_policy_that_panics_is_a_failure_of_its_operation() {
    for (on_lapsed_lease, expected) in [
        (OnLapsedLease::Rerun, None),
        (OnLapsedLease::Refuse, Some("409 outcome-unknown")),
    ] {
        let store = Steered::unguarded();
        let layer = with_policy(&store, |options| {
            options
                .on_lapsed_lease(on_lapsed_lease)
                .record(|answer: &ResponseHead<'_>| {
                    assert_ne!(answer.status(), 503, "as the test wants it");
                    true
                })
        });
        let owners = Owners::new();
        let app = layer.layer(owners.service(First::Transient));
        owners.gate.open();
        assert!(begin(&app).await.unwrap_err().is_panic());
        quiet().await;
        owners.gate.open();
        let retry = send(&app, post("k", "{}")).await;
        match expected {
            None => retry.assert_fresh("run 2"),
            Some(refusal) => assert_eq!(retry.refusal(), refusal),
        }
    }
}

/// The store may panic, or the runtime end, while a release is under way. The release is
/// then sent again, and the key does not stay blocked until its lease lapses.
#[tokio::test(start_paused = true)]
async fn a_release_that_panics_is_sent_again() {
    let store = Steered::unguarded();
    let app = protected(&store).layer(handler(&Runs::default(), |run, _| match run {
        1 => answer(StatusCode::SERVICE_UNAVAILABLE, "later"),
        _ => created("done"),
    }));
    store.make(Op::Release, Fault::PanicsOnce);
    let first = tokio::spawn(app.clone().oneshot(post("k", "{}")));
    assert!(first.await.unwrap_err().is_panic());
    sleep(SECOND).await;
    assert_eq!(store.stats().in_flight, 0);
    send(&app, post("k", "{}")).await.assert_fresh("done");
}

/// The response counts as overtaken, and the owner has no record of its own to
/// release.
#[tokio::test(start_paused = true)]
async fn a_streamed_answer_of_an_owner_that_knows_that_it_was_overtaken_counts_as_that() {
    let store = Steered::unguarded();
    let gate = Gate::closed();
    let layer = with_policy(&store, |options| options);
    let app = layer.layer(tower::service_fn({
        let gate = gate.clone();
        move |_: Request<Full<Bytes>>| {
            let gate = gate.clone();
            async move {
                gate.pass().await;
                let body = Script::frames(["begun"]).then(Step::Never);
                Ok::<_, Infallible>(Response::new(body))
            }
        }
    }));
    store.make(Op::Renew, Fault::Fails(StoreErrorKind::NotSent));
    let first = tokio::spawn(app.clone().oneshot(post("k", "{}")));
    gate.begun().await;
    sleep(LEASE).await;
    let _second = tokio::spawn(app.clone().oneshot(post("k", "{}")));
    gate.begun().await;
    store.heal(Op::Renew);
    sleep(LEASE / 2).await;
    gate.open();
    let first = Seen::whole(first.await.unwrap().unwrap()).await;
    assert_eq!(first.refusal(), "409 in-flight");
    quiet().await;
    let counts = layer.counts();
    assert_eq!((counts.overtaken, counts.released), (1, 0));
    assert_eq!(store.calls(Op::Release), 0);
}
