//! Which responses are collected and which are streamed, how far a body is read
//! ahead of its client, and which of the read responses `max_recorded_body` and
//! `oversize` keep.

use std::time::Duration;

use http::header::{CONTENT_LENGTH, CONTENT_TYPE, TRAILER, UPGRADE};
use http::{Response, StatusCode, Version};
use http_body::Body;
use http_body_util::BodyExt;
use tokio::runtime::Handle;
use tokio::time::{Instant, sleep};
use tower::{Layer, ServiceExt};
use tower_idempotency::MemoryStore;
use tower_idempotency::options::OnOversize;
use tower_idempotency::store::StoreErrorKind;

use crate::support::body::{Script, Step};
use crate::support::store::{Fault, Op, Steered};
use crate::support::{Runs, Seen, handler, in_time, post, protected, quiet, send, with_policy};

const SECOND: Duration = Duration::from_secs(1);
/// A response up to this length is collected.
const SMALL: usize = 64 << 10;
/// How many bytes may wait for a client in addition to what is recorded.
const AHEAD: usize = 64 << 10;

fn tasks() -> usize {
    Handle::current().metrics().num_alive_tasks()
}

/// A body in two halves, the second one a second after the first.
fn in_halves(length: usize) -> Script {
    let half = |length| Step::Data(vec![b'x'; length].into());
    let (first, second) = (length / 2, length - length / 2);
    Script::new([half(first), Step::Wait(SECOND), half(second)])
}

#[tokio::test(start_paused = true)]
async fn a_small_answer_of_known_length_is_recorded_before_its_head_leaves() {
    for length in [2, SMALL, SMALL + 1] {
        for by_header in [true, false] {
            let store = Steered::new();
            let app = protected(&store).layer(handler(&Runs::default(), move |_, _| {
                let body = in_halves(length);
                if by_header {
                    let mut response = Response::new(body);
                    let headers = response.headers_mut();
                    headers.insert(CONTENT_LENGTH, length.into());
                    response
                } else {
                    Response::new(body.announcing(length as u64))
                }
            }));
            let asked = Instant::now();
            let first = app.clone().oneshot(post("k", "{}")).await.unwrap();
            let collected = length <= SMALL;
            assert_eq!(asked.elapsed(), SECOND * u32::from(collected));
            assert_eq!(store.stats().completed, usize::from(collected));
            let first = Seen::whole(first).await;
            assert_eq!(first.body.len(), length);
            send(&app, post("k", "{}")).await.assert_replays(&first);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_small_answer_of_known_length_that_could_not_be_recorded_says_so_in_its_head() {
    let store = Steered::new();
    store.make(Op::Complete, Fault::Fails(StoreErrorKind::Unknown));
    let app = protected(&store).layer(handler(&Runs::default(), |_, _| {
        Response::new(in_halves(10).announcing(10))
    }));
    let first = send(&app, post("k", "{}")).await;
    first.assert_fresh("xxxxxxxxxx");
    assert_eq!(first.lacks(), Some("unrecorded"));
}

/// A body over HTTP/1.0 ends when the connection ends, and a proxy may take a
/// connection that breaks off for the end of the body. So nothing of the
/// response leaves before its record is stored.
#[tokio::test(start_paused = true)]
async fn an_answer_over_http_1_0_is_collected() {
    for version in [Version::HTTP_09, Version::HTTP_10, Version::HTTP_11] {
        let store = Steered::new();
        let app = protected(&store).layer(handler(&Runs::default(), |_, _| {
            Response::new(in_halves(SMALL * 2))
        }));
        let mut request = post("k", "{}");
        *request.version_mut() = version;
        let asked = Instant::now();
        let first = app.clone().oneshot(request).await.unwrap();
        let collected = version <= Version::HTTP_10;
        assert_eq!(
            asked.elapsed(),
            SECOND * u32::from(collected),
            "{version:?}"
        );
        assert_eq!(store.stats().completed, usize::from(collected));
        let exact = collected.then_some(SMALL as u64 * 2);
        assert_eq!(first.body().size_hint().exact(), exact);
        assert_eq!(Seen::whole(first).await.body.len(), SMALL * 2);
    }
}

#[tokio::test(start_paused = true)]
async fn a_replay_has_its_own_length_and_announces_the_trailers_that_it_has() {
    let app = protected(&Steered::new()).layer(handler(&Runs::default(), |_, _| {
        let mut response = Response::new(in_halves(SMALL * 2).and_trailer("sum", "42"));
        let headers = response.headers_mut();
        headers.insert(CONTENT_LENGTH, (SMALL * 2).into());
        headers.insert(TRAILER, "sum".parse().unwrap());
        response
    }));
    let first = send(&app, post("k", "{}")).await;
    let retry = send(&app, post("k", "{}")).await;
    retry.assert_replays(&first);
    for answer in [first, retry] {
        assert_eq!(answer.headers[CONTENT_LENGTH], (SMALL * 2).to_string());
        assert_eq!(answer.headers[TRAILER], "sum");
        assert_eq!(answer.trailers.unwrap()["sum"], "42");
    }
}

/// A server that knows of the end sends it together with the last bytes, and without a length
/// HTTP/1 has room for trailers.
#[tokio::test(start_paused = true)]
async fn an_answer_says_how_long_it_is_and_whether_its_end_is_reached() {
    for trailers in [false, true] {
        let app = protected(&Steered::new()).layer(handler(&Runs::default(), move |_, _| {
            let body = in_halves(10);
            Response::new(if trailers {
                body.and_trailer("sum", "42")
            } else {
                body
            })
        }));
        for exact in [None, (!trailers).then_some(10)] {
            let answer = app.clone().oneshot(post("k", "{}")).await.unwrap();
            let is_replay = answer.headers().contains_key("idempotency-replayed");
            let mut body = answer.into_body();
            let hint = body.size_hint();
            assert_eq!(hint.exact(), exact);
            assert_eq!(hint.lower(), if is_replay { 10 } else { 0 });
            let mut read = 0;
            while read < 10 {
                assert!(!body.is_end_stream());
                let frame = body.frame().await.unwrap().unwrap();
                read += frame.into_data().unwrap().len();
            }
            assert_eq!(body.is_end_stream(), !trailers);
            let last = body.frame().await;
            assert_eq!(
                last.is_some_and(|frame| frame.unwrap().is_trailers()),
                trailers
            );
            assert!(body.is_end_stream());
        }
    }
}

/// A response of one gibibyte for a client that first does not read and then
/// reads slowly.
#[tokio::test(start_paused = true)]
async fn a_large_answer_is_read_ahead_as_far_as_it_may_be_recorded_and_no_further() {
    const GIBIBYTE: usize = 1 << 30;
    for (frame, cap, total) in [
        (16 << 10, 1 << 20, GIBIBYTE),
        (1 << 20, 10, GIBIBYTE),
        (3 << 20, 1 << 20, GIBIBYTE / 3),
        (100, 200_000, 4_000_000),
        (1, 0, 300_000),
    ] {
        let times = total / frame;
        for exact in [true, false] {
            let (sender, receiver) = std::sync::mpsc::channel();
            let layer = with_policy(&MemoryStore::new(), |options| {
                options.max_recorded_body(cap)
            });
            let app = layer.layer(handler(&Runs::default(), move |_, _| {
                let mut body = Script::repeated(vec![b'x'; frame], times);
                if exact {
                    body = body.announcing((times * frame) as u64);
                }
                let _ = sender.send(body.given());
                Response::new(body)
            }));
            let response = app.clone().oneshot(post("k", "{}")).await.unwrap();
            let given = receiver.recv().unwrap();
            let limit = cap.max(AHEAD) + frame;
            sleep(SECOND * 60).await;
            assert!(given() <= limit, "{} of {limit}", given());
            let mut body = response.into_body();
            let mut taken = 0;
            while let Some(data) = in_time(body.frame()).await {
                taken += data.unwrap().into_data().unwrap().len();
                // The client takes a break of any length.
                if taken % 7 == 0 {
                    quiet().await;
                }
                assert!(given() - taken <= limit, "{} of {limit}", given() - taken);
            }
            assert_eq!(taken, times * frame);
            let retry = send(&app, post("k", "{}")).await;
            assert_eq!(retry.refusal(), "409 response-unavailable");
        }
    }
}

/// A response that may be recorded is read to its end, whether the client reads
/// it or not.
#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_read_holds_up_no_answer_that_may_be_recorded() {
    let store = Steered::new();
    let app = protected(&store).layer(handler(&Runs::default(), |_, _| {
        Response::new(in_halves(1 << 20))
    }));
    let first = app.clone().oneshot(post("k", "{}")).await.unwrap();
    sleep(SECOND * 2).await;
    assert_eq!(store.stats().completed, 1);
    let retry = send(&app, post("k", "{}")).await;
    retry.assert_replays(&Seen::whole(first).await);
}

fn events() -> Response<Script> {
    let mut response = Response::new(Script::frames(["data: 1\n\n"]).then(Step::Never));
    let events = "text/event-stream; charset=utf-8".parse().unwrap();
    response.headers_mut().insert(CONTENT_TYPE, events);
    response
}

fn upgrade() -> Response<Script> {
    let mut response = Response::new(Script::new([Step::Never]));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(UPGRADE, "websocket".parse().unwrap());
    response
}

const WITHOUT_END: [fn() -> Response<Script>; 2] = [events, upgrade];

#[tokio::test(start_paused = true)]
async fn an_answer_without_end_is_sealed_before_its_head_leaves_and_costs_no_task() {
    for answer in WITHOUT_END {
        let (store, runs) = (Steered::new(), Runs::default());
        let app = protected(&store).layer(handler(&runs, move |_, _| answer()));
        let first = app.clone().oneshot(post("k", "{}")).await.unwrap();
        assert_eq!(store.stats().sealed, 1);
        assert_eq!(tasks(), 0);
        assert_eq!(first.headers().get("idempotency-status"), None);
        let retry = send(&app, post("k", "{}")).await;
        assert_eq!(retry.refusal(), "409 response-unavailable");
        assert_eq!(runs.count(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_without_end_that_could_not_be_sealed_says_so_in_its_head() {
    for answer in WITHOUT_END {
        let store = Steered::new();
        store.make(Op::Complete, Fault::Stalls);
        let app = protected(&store).layer(handler(&Runs::default(), move |_, _| answer()));
        let asked = Instant::now();
        let first = app.clone().oneshot(post("k", "{}")).await.unwrap();
        assert_eq!(asked.elapsed(), SECOND * 2);
        assert_eq!(first.headers()["idempotency-status"], "unrecorded");
    }
}

/// The operation is in flight as long as its client is connected.
#[tokio::test(start_paused = true)]
async fn an_answer_without_end_runs_again_once_its_client_has_left_if_the_route_says_so() {
    for answer in WITHOUT_END {
        let (store, runs) = (Steered::unguarded(), Runs::default());
        let layer = with_policy(&store, |options| options.oversize(OnOversize::Rerun));
        let app = layer.layer(handler(&runs, move |_, _| answer()));
        let mut first = app.clone().oneshot(post("k", "{}")).await.unwrap();
        if first.status() == 200 {
            let event = in_time(first.body_mut().frame()).await.unwrap().unwrap();
            assert_eq!(event.into_data().unwrap(), "data: 1\n\n");
        }
        sleep(SECOND * 100).await;
        let retry = send(&app, post("k", "{}")).await;
        assert_eq!(retry.refusal(), "409 in-flight");
        drop(first);
        quiet().await;
        assert_eq!(layer.drain(Duration::ZERO).await, 0, "nobody listens");
        drop(app.clone().oneshot(post("k", "{}")).await.unwrap());
        assert_eq!(runs.count(), 2);
        assert_eq!(store.outcomes().len(), 0);
    }
}

/// Events without an end are read ahead only up to a limit while the client
/// does not read.
#[tokio::test(start_paused = true)]
async fn events_are_not_read_ahead_without_limit() {
    let (sender, receiver) = std::sync::mpsc::channel();
    let layer = with_policy(&MemoryStore::new(), |options| {
        options.oversize(OnOversize::Rerun)
    });
    let app = layer.layer(handler(&Runs::default(), move |_, _| {
        let body = Script::endless("data: 1\n\n");
        let _ = sender.send(body.given());
        events().map(|_| body)
    }));
    let first = app.clone().oneshot(post("k", "{}")).await.unwrap();
    let given = receiver.recv().unwrap();
    sleep(SECOND).await;
    assert!(given() <= AHEAD + 9);
    drop(first);
    quiet().await;
    assert!(given() <= AHEAD + 9);
}

/// In an earlier version events that broke off were taken for a response that
/// is only too large. The effect of such a response has happened, so the record
/// was sealed.
#[tokio::test(start_paused = true)]
async fn events_that_break_off_run_again_if_the_route_says_so() {
    for end in [|| Step::Fail("as the test wants it"), || Step::Panic] {
        let (store, runs) = (Steered::new(), Runs::default());
        let layer = with_policy(&store, |options| options.oversize(OnOversize::Rerun));
        let app = layer.layer(handler(&runs, move |_, _| {
            events().map(|_| Script::frames(["data: 1\n\n"]).then(end()))
        }));
        for run in 1..=2 {
            let app = app.clone();
            let read = tokio::spawn(async move {
                let answer = app.oneshot(post("k", "{}")).await.unwrap();
                answer.into_body().collect().await.map(|_| ())
            });
            assert!(!matches!(read.await, Ok(Ok(()))), "it breaks off");
            assert_eq!(runs.count(), run);
        }
        let stats = store.stats();
        assert_eq!((stats.released, stats.sealed), (1, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn trailers_that_were_read_before_the_answer_is_streamed_are_sent_and_recorded() {
    let app = protected(&MemoryStore::new()).layer(handler(&Runs::default(), |_, _| {
        let body = Script::frames(["body"]).and_trailer("x-sum", "1");
        Response::new(body.then(Step::Wait(SECOND)))
    }));
    let first = send(&app, post("k", "{}")).await;
    assert_eq!(first.trailers.as_ref().unwrap()["x-sum"], "1");
    let again = send(&app, post("k", "{}")).await;
    again.assert_replays(&first);
}
