//! G3 if the head has already left: the last byte, or the end of the body,
//! leaves after the record is stored. Without a record the body is cut.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use http::Response;
use http_body::Body;
use tokio::time::{Instant, sleep};
use tower::{Layer, ServiceExt};
use tower_idempotency::options::OnOversize;
use tower_idempotency::store::{Outcome, StoreErrorKind};

use crate::owners::{LEASE, SECOND};
use crate::support::body::{Script, Step};
use crate::support::store::{Fault, Op, Steered};
use crate::support::{Runs, Seen, builder, handler, in_time, post, protected, send, with_policy};
use crate::written::{Announced, End, Got, Part, Written};

/// Two halves of this length are more than the layer collects before the head
/// leaves.
const HALF: usize = 40_000;
const STORE_TIMEOUT: Duration = Duration::from_secs(2);
/// This is longer than the longest pause between two attempts, and one more
/// attempt.
const A_WHILE: Duration = Duration::from_secs(8);

const ANNOUNCED: [Announced; 3] = [
    Announced::Nothing,
    Announced::ByHint(0),
    Announced::ByHeader(0),
];

/// A response in two halves, the second one a second after the first.
fn in_halves(announced: Announced) -> Written {
    let parts = [Part::Data(HALF), Part::Wait(1000), Part::Data(HALF)];
    Written::new(announced, parts)
}

/// How many bytes of the response leave before its record is stored.
fn before_the_record(announced: Announced) -> usize {
    match announced {
        Announced::Nothing => 2 * HALF,
        Announced::ByHint(_) | Announced::ByHeader(_) => HALF,
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_there_reaches_the_client_while_the_handler_still_writes() {
    for announced in ANNOUNCED {
        let written = in_halves(announced);
        let app = protected(&Steered::new())
            .layer(handler(&Runs::default(), move |_, _| written.response()));
        let asked = Instant::now();
        let mut steps = Vec::new();
        let got = Got::all(app.oneshot(post("k", "{}")), |got| {
            steps.push((asked.elapsed().as_secs(), got.data.len()));
        });
        let got = got.await;
        assert_eq!(got.end, Some(End::Whole));
        let end = (1, 2 * HALF);
        assert_eq!(steps, [(0, 0), (0, HALF), end, end], "{announced:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_last_byte_of_a_known_length_and_the_end_of_another_wait_for_the_record() {
    for announced in ANNOUNCED {
        let store = Steered::new();
        store.make(Op::Complete, Fault::Late(SECOND));
        let written = in_halves(announced);
        let app =
            protected(&store).layer(handler(&Runs::default(), move |_, _| written.response()));
        let asked = Instant::now();
        let (mut nearly, mut whole) = (0, None);
        let got = Got::all(app.oneshot(post("k", "{}")), |got| {
            let late = asked.elapsed() >= SECOND * 2;
            if late {
                whole = Some(got.data.len());
            } else {
                nearly = got.data.len();
                assert!(got.end.is_none() && !got.said_end);
            }
        });
        let got = got.await;
        assert_eq!(got.end, Some(End::Whole));
        assert_eq!(
            (nearly, whole),
            (before_the_record(announced), Some(2 * HALF))
        );
    }
}

/// A server that knows the length sends no more than that, and uses
/// `is_end_stream` and `size_hint` to learn how much is left.
#[tokio::test(start_paused = true)]
async fn a_body_whose_last_byte_is_withheld_says_that_it_is_to_come() {
    let store = Steered::new();
    store.make(Op::Complete, Fault::Stalls);
    let written = in_halves(Announced::ByHint(0));
    let app = protected(&store).layer(handler(&Runs::default(), move |_, _| written.response()));
    let response = app.oneshot(post("k", "{}")).await.unwrap();
    let mut body = pin!(response.into_body());
    let exact = |left: usize| Some(left as u64);
    assert_eq!(body.size_hint().exact(), exact(2 * HALF));
    let mut got = Got::default();
    assert!(poll_fn(|cx| got.poll_more(body.as_mut(), cx)).await);
    assert_eq!(body.size_hint().exact(), exact(HALF));
    sleep(SECOND * 2).await;
    assert_eq!(store.calls(Op::Complete), 1);
    let more = poll_fn(|cx| Poll::Ready(got.poll_more(body.as_mut(), cx).is_pending()));
    assert!(more.await, "nothing more before it is recorded");
    assert!(!body.is_end_stream());
    assert_eq!(body.size_hint().exact(), exact(HALF));
}

#[tokio::test(start_paused = true)]
async fn trailers_wait_for_the_record_and_are_in_it() {
    for announced in ANNOUNCED {
        let store = Steered::new();
        store.let_all(Fault::Yields);
        let written = Written {
            trailers: true,
            ..in_halves(announced)
        };
        let app =
            protected(&store).layer(handler(&Runs::default(), move |_, _| written.response()));
        let got = Got::all(app.clone().oneshot(post("k", "{}")), |got| {
            assert!(got.trailers.is_none() || store.stats().completed == 1);
        });
        assert_eq!(got.await.trailers.unwrap()["sum"], "42");
        let retry = send(&app, post("k", "{}")).await;
        assert!(retry.is_replay());
        assert_eq!(retry.trailers.unwrap()["sum"], "42");
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_not_recorded_in_time_is_cut_and_replayed_once_it_is() {
    for fault in [
        Fault::Stalls,
        Fault::Fails(StoreErrorKind::NotSent),
        Fault::Fails(StoreErrorKind::Unknown),
    ] {
        for announced in ANNOUNCED {
            let (store, runs) = (Steered::new(), Runs::default());
            store.make(Op::Complete, fault);
            let written = in_halves(announced);
            let app = protected(&store).layer(handler(&runs, move |_, _| written.response()));
            let asked = Instant::now();
            let first = Got::all(app.clone().oneshot(post("k", "{}")), |_| {}).await;
            assert_eq!(asked.elapsed(), SECOND + STORE_TIMEOUT);
            assert_eq!(first.end, Some(End::Broken), "{fault:?}");
            assert!(first.error.contains("not recorded in time"));
            assert_eq!(first.data.len(), before_the_record(announced));
            assert_eq!(first.header("idempotency-status"), None);

            let retry = send(&app, post("k", "{}")).await;
            assert_eq!(retry.refusal(), "409 in-flight");
            store.heal(Op::Complete);
            sleep(A_WHILE).await;
            let retry = send(&app, post("k", "{}")).await;
            assert!(retry.is_replay());
            assert!(retry.body == in_halves(announced).data());
            assert_eq!(runs.count(), 1);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_whose_acknowledgement_was_lost_is_cut_though_it_is_recorded() {
    for fault in [
        Fault::AnswerLost(StoreErrorKind::Unknown),
        Fault::AnswerStalls,
    ] {
        let (store, runs) = (Steered::new(), Runs::default());
        store.make(Op::Complete, fault);
        let app = protected(&store).layer(handler(&runs, |_, _| {
            in_halves(Announced::ByHeader(0)).response()
        }));
        let first = Got::all(app.clone().oneshot(post("k", "{}")), |_| {}).await;
        assert_eq!(first.end, Some(End::Broken));
        assert_eq!(first.data.len(), HALF);
        let retry = send(&app, post("k", "{}")).await;
        assert!(retry.is_replay() && retry.body.len() == 2 * HALF);
        store.heal(Op::Complete);
        sleep(A_WHILE).await;
        assert!(send(&app, post("k", "{}")).await.is_replay());
        assert_eq!((runs.count(), store.stats().completed), (1, 1));
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_whose_lease_was_lost_is_cut_and_nothing_of_it_is_recorded() {
    for announced in ANNOUNCED {
        for renewals_tell in [true, false] {
            let (store, runs) = (Steered::unguarded(), Runs::default());
            let app = protected(&store).layer(handler(&runs, move |run, _| {
                let mut written = in_halves(announced);
                if run == 1 {
                    written.parts[1] = Part::Wait(100_000);
                }
                written.response()
            }));
            store.make(Op::Renew, Fault::Fails(StoreErrorKind::NotSent));
            let first = tokio::spawn(Got::all(app.clone().oneshot(post("k", "{}")), |_| {}));
            sleep(LEASE - SECOND).await;
            let early = send(&app, post("k", "{}")).await;
            assert_eq!(early.refusal(), "409 in-flight");
            sleep(SECOND).await;
            let second = send(&app, post("k", "{}")).await;
            assert!(!second.is_replay() && second.body.len() == 2 * HALF);
            if renewals_tell {
                store.heal(Op::Renew);
            }
            let first = in_time(first).await.unwrap();
            assert_eq!(first.end, Some(End::Broken));
            assert!(first.error.contains("another execution has taken over"));
            assert_eq!(first.data.len(), before_the_record(announced));
            send(&app, post("k", "{}")).await.assert_replays(&second);
            assert_eq!((runs.count(), store.stats().completed), (2, 1));
        }
    }
}

/// While its client does not read, a server does not poll the body. The client is not let go
/// before `send_timeout`.
#[tokio::test(start_paused = true)]
async fn the_lease_is_kept_while_the_client_does_not_read() {
    for cap in [1 << 20, 0] {
        let (store, runs) = (Steered::unguarded(), Runs::default());
        let layer = builder(&store)
            .send_timeout(LEASE * 20)
            .defaults(|options| options.max_recorded_body(cap));
        let app = layer.build().unwrap().layer(handler(&runs, |_, _| {
            let waits = (0..20).map(|_| Step::Wait(LEASE / 2));
            let parts = waits.flat_map(|wait| [wait, Step::Data(vec![b'x'; HALF].into())]);
            Response::new(Script::new(parts))
        }));
        let first = app.clone().oneshot(post("k", "{}")).await.unwrap();
        for _ in 0..9 {
            sleep(LEASE).await;
            let retry = send(&app, post("k", "{}")).await;
            assert_eq!(retry.refusal(), "409 in-flight");
        }
        let first = in_time(Seen::whole(first)).await;
        assert_eq!(first.body.len(), 20 * HALF);
        let retry = send(&app, post("k", "{}")).await;
        if cap == 0 {
            assert_eq!(retry.refusal(), "409 response-unavailable");
        } else {
            retry.assert_replays(&first);
        }
        assert_eq!(runs.count(), 1);
    }
}

/// Before the end of a large response leaves, its record is sealed or released,
/// as the route says.
#[tokio::test(start_paused = true)]
async fn an_answer_too_large_to_record_ends_after_it_is_sealed_or_released() {
    for (oversize, op) in [
        (OnOversize::Seal, Op::Complete),
        (OnOversize::Rerun, Op::Release),
    ] {
        for announced in ANNOUNCED {
            let (store, runs) = (Steered::new(), Runs::default());
            store.let_all(Fault::Yields);
            store.make(op, Fault::Late(SECOND));
            let layer = with_policy(&store, |options| {
                options.max_recorded_body(HALF).oversize(oversize)
            });
            let written = in_halves(announced);
            let app = layer.layer(handler(&runs, move |_, _| written.response()));
            let asked = Instant::now();
            let first = Got::all(app.clone().oneshot(post("k", "{}")), |got| {
                if asked.elapsed() < 2 * SECOND {
                    assert!(got.data.len() <= before_the_record(announced));
                    assert!(got.end.is_none());
                }
            });
            assert_eq!(first.await.end, Some(End::Whole));
            let sealed = |outcome: &Outcome| matches!(outcome, Outcome::Sealed { .. });
            assert!(store.outcomes().iter().all(sealed), "nothing of it is kept");
            let retry = Got::all(app.clone().oneshot(post("k", "{}")), |_| {}).await;
            let expected = match oversize {
                OnOversize::Seal => ("response-unavailable", 1),
                _ => ("fresh", 2),
            };
            assert_eq!((retry.kind(), runs.count()), expected);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_panic_half_way_reaches_the_client_after_what_was_written_before_it() {
    let (store, runs) = (Steered::new(), Runs::default());
    let app = protected(&store).layer(handler(&runs, |_, _| {
        let written = in_halves(Announced::Nothing);
        written.ending(End::Panicked).response()
    }));
    let first = Got::all(app.clone().oneshot(post("k", "{}")), |_| {}).await;
    assert_eq!(
        (first.end, first.data.len()),
        (Some(End::Panicked), 2 * HALF)
    );
    let retry = send(&app, post("k", "{}")).await;
    assert_eq!(retry.refusal(), "409 response-unavailable");
    assert_eq!(runs.count(), 1);
}
