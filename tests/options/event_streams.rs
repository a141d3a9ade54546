//! The option `event_streams`.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full};
use tower::{Layer, ServiceExt};
use tower_idempotency::options::{
    EventStreams, FingerprintBody, JsonFingerprint, OnOversize, ReplayedMember,
};
use tower_idempotency::{IdempotencyLayer, MemoryStore, RouteOptions};

use crate::support::body::{Script, Step};
use crate::support::log::Log;
use crate::support::store::{Fault, Op, Steered};
use crate::support::{Runs, Seen, handler, request, send, with, with_policy};

const SECOND: Duration = Duration::from_secs(1);
const NOTE: &str =
    "event: message\ndata: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/progress\"}\n\n";
const ANSWER: &str = "data: {\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{}}\n\n";

fn recorded(options: RouteOptions) -> RouteOptions {
    let json = JsonFingerprint::new().exclude("/id");
    options
        .event_streams(EventStreams::Record)
        .fingerprint_body(FingerprintBody::Json(json))
        .replay_json("/id", ReplayedMember::of_request("/id"))
}

fn layer(change: impl FnOnce(RouteOptions) -> RouteOptions) -> IdempotencyLayer {
    with_policy(&MemoryStore::new(), |options| change(recorded(options)))
}

fn ask(id: u32) -> Request<Full<Bytes>> {
    let body = Full::new(Bytes::from(format!("{{\"id\":{id},\"n\":0}}")));
    let request = request(Method::POST, "/mcp", body);
    with(
        with(request, "content-type", "application/json"),
        "idempotency-key",
        "k",
    )
}

pub(super) fn stream(body: Script) -> Response<Script> {
    let mut response = Response::new(body);
    let kind = "text/event-stream".parse().unwrap();
    response.headers_mut().insert("content-type", kind);
    response
}

fn later(frames: &[&'static str]) -> Script {
    let steps = frames.iter().flat_map(|frame| {
        [
            Step::Wait(SECOND),
            Step::Data(Bytes::from_static(frame.as_bytes())),
        ]
    });
    Script::new(steps.collect::<Vec<_>>())
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_ends_is_replayed_whole_under_the_id_of_the_retry() {
    for frames in [
        &[NOTE, ANSWER][..],
        &["data: {\"jsonrpc\":\"2.0\",\"i", "d\":1,\"result\":{}}\n\n"],
    ] {
        for at_once in [false, true] {
            let runs = Runs::default();
            let frames: Vec<&'static str> = frames.to_vec();
            let whole = frames.concat();
            let app = layer(|options| options).layer(handler(&runs, move |_, _| {
                stream(if at_once {
                    Script::frames(frames.clone())
                } else {
                    later(&frames)
                })
            }));
            let first = send(&app, ask(1)).await;
            first.assert_fresh(&whole);
            let retry = send(&app, ask(2)).await;
            assert!(retry.is_replay());
            assert_eq!(retry.text(), whole.replace("\"id\":1", "\"id\":2"));
            assert_eq!(retry.header("content-type"), Some("text/event-stream"));
            assert_eq!(runs.count(), 1);
        }
    }
}

/// No event waits for the next one.
#[tokio::test(start_paused = true)]
async fn events_are_sent_as_they_come() {
    let app = layer(|options| options);
    let app = app.layer(handler(&Runs::default(), |_, _| {
        stream(later(&[NOTE, ANSWER]))
    }));
    let mut response = app.oneshot(ask(1)).await.unwrap();
    let asked = tokio::time::Instant::now();
    for (seconds, event) in [(1, NOTE), (2, ANSWER)] {
        let frame = response.body_mut().frame().await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), event.as_bytes());
        assert_eq!(asked.elapsed().as_secs(), seconds);
    }
    assert!(response.body_mut().frame().await.is_none());
}

/// G3: the last event, behind which the stream ends, is given with the end.
#[tokio::test(start_paused = true)]
async fn the_last_event_leaves_when_it_is_recorded() {
    let store = Steered::new();
    store.make(
        Op::Complete,
        Fault::Fails(tower_idempotency::store::StoreErrorKind::Unknown),
    );
    let app = with_policy(&store, recorded);
    let app = app.layer(handler(&Runs::default(), |_, _| {
        stream(later(&[NOTE, ANSWER]))
    }));
    let mut response = app.oneshot(ask(1)).await.unwrap();
    let mut seen = Vec::new();
    let cut = loop {
        match response.body_mut().frame().await {
            Some(Ok(frame)) => seen.extend_from_slice(&frame.into_data().unwrap()),
            Some(Err(error)) => break error,
            None => panic!("the stream has a proper end"),
        }
    };
    assert!(cut.to_string().contains("not recorded in time"), "{cut}");
    assert_eq!(seen, NOTE.as_bytes());
}

/// G3: nor does the last event of a stream that announces its length leave before its handler has ended it.
#[tokio::test(start_paused = true)]
async fn the_last_event_of_an_announced_length_leaves_when_it_is_recorded() {
    let notes = NOTE.repeat(1000);
    let store = Steered::new();
    store.make(
        Op::Complete,
        Fault::Fails(tower_idempotency::store::StoreErrorKind::Unknown),
    );
    let app = with_policy(&store, recorded);
    let first = notes.clone();
    let app = app.layer(handler(&Runs::default(), move |_, _| {
        let length = first.len() + ANSWER.len();
        let mut response = stream(Script::new([
            Step::Data(first.clone().into()),
            Step::Wait(SECOND),
            Step::Data(ANSWER.into()),
            Step::Wait(SECOND),
        ]));
        let headers = response.headers_mut();
        headers.insert("content-length", length.into());
        response
    }));
    let mut response = app.oneshot(ask(1)).await.unwrap();
    let mut seen = Vec::new();
    while let Some(Ok(frame)) = response.body_mut().frame().await {
        seen.extend_from_slice(&frame.into_data().unwrap());
    }
    assert_eq!(seen.len(), notes.len());
}

/// G3: what was ready at once is no exception, however many frames it has.
#[tokio::test(start_paused = true)]
async fn the_last_event_waits_for_the_record_if_all_was_ready_at_once() {
    for events in [255, 256, 257, 512] {
        let store = Steered::new();
        store.make(
            Op::Complete,
            Fault::Fails(tower_idempotency::store::StoreErrorKind::Unknown),
        );
        let app = with_policy(&store, recorded);
        let app = app.layer(handler(&Runs::default(), move |_, _| {
            stream(Script::frames((1..events).map(|_| NOTE).chain([ANSWER])))
        }));
        let mut response = app.oneshot(ask(1)).await.unwrap();
        let mut seen = Vec::new();
        let unrecorded = response.headers().contains_key("idempotency-status");
        while let Some(Ok(frame)) = response.body_mut().frame().await {
            seen.extend_from_slice(&frame.into_data().unwrap());
        }
        assert!(unrecorded || !seen.ends_with(ANSWER.as_bytes()), "{events}");
    }
}

/// G4.
#[tokio::test(start_paused = true)]
async fn a_stream_goes_on_without_its_client_and_is_recorded() {
    let layer = layer(|options| options);
    let app = layer.layer(handler(&Runs::default(), |_, _| {
        stream(later(&[NOTE, NOTE, ANSWER]))
    }));
    let response = app.clone().oneshot(ask(1)).await.unwrap();
    drop(response);
    assert_eq!(send(&app, ask(2)).await.refusal(), "409 in-flight");
    tokio::time::sleep(SECOND * 4).await;
    let retry = send(&app, ask(2)).await;
    assert!(
        retry.is_replay() && retry.text().contains("\"id\":2"),
        "{retry:?}"
    );
}

/// A stream that reaches a limit goes on for its client, and its operation is done: a retry does not
/// run it again.
#[tokio::test(start_paused = true)]
async fn a_stream_beyond_the_limits_is_sealed_at_once() {
    for (bytes, seconds) in [(200, 600), (1 << 20, 3)] {
        let limits = |options: RouteOptions| {
            let lease = Duration::from_secs(2);
            let options = options.max_recorded_body(bytes).lease(lease);
            options.max_operation(Duration::from_secs(seconds))
        };
        let app = layer(limits).layer(handler(&Runs::default(), |_, _| {
            let events = later(&[NOTE; 10]);
            stream(events.then(Step::Never))
        }));
        let mut response = app.clone().oneshot(ask(1)).await.unwrap();
        for event in 1..=10 {
            let frame = response.body_mut().frame().await.unwrap().unwrap();
            assert_eq!(frame.into_data().unwrap(), NOTE.as_bytes());
            let retry = send(&app, ask(2)).await.refusal();
            // The next poll of the body follows the event.
            match event {
                1 => assert_eq!(retry, "409 in-flight"),
                5.. => assert_eq!(retry, "409 response-unavailable", "{event}"),
                _ => {}
            }
        }
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(
            send(&app, ask(2)).await.refusal(),
            "409 response-unavailable"
        );
    }
}

/// Also if its client takes nothing: its lease must not lapse while it is held up.
#[tokio::test(start_paused = true)]
async fn a_stream_beyond_the_limits_is_sealed_whatever_its_client_takes() {
    let runs = Runs::default();
    let limits = |options: RouteOptions| {
        let options = options.max_recorded_body(200 << 10).lease(SECOND * 2);
        options.max_operation(SECOND * 3)
    };
    let app = layer(limits).layer(handler(&runs, |_, _| {
        let steps = (0..10).flat_map(|_| {
            let event = format!("data: {}\n\n", "x".repeat(40 << 10));
            [Step::Wait(SECOND / 10), Step::Data(event.into())]
        });
        stream(Script::new(steps.collect::<Vec<_>>()).then(Step::Never))
    }));
    let response = app.clone().oneshot(ask(1)).await.unwrap();
    for _ in 0..10 {
        tokio::time::sleep(SECOND).await;
        assert_eq!(
            send(&app, ask(2)).await.refusal(),
            "409 response-unavailable"
        );
    }
    assert_eq!(runs.count(), 1);
    drop(response);
}

#[tokio::test(start_paused = true)]
async fn a_stream_beyond_the_limits_may_run_again_where_its_route_says_so() {
    let runs = Runs::default();
    let app = layer(|options| options.max_recorded_body(60).oversize(OnOversize::Rerun));
    let app = app.layer(handler(&runs, |_, _| stream(later(&[NOTE, ANSWER]))));
    for run in 1..3 {
        let seen = send(&app, ask(1)).await;
        assert!(!seen.is_replay());
        assert_eq!(runs.count(), run);
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_with_two_answers_for_one_id_is_sealed_with_a_line_in_the_log() {
    for at_once in [true, false] {
        let log = Log::default();
        let listening = log.listen();
        let app = layer(|options| options.oversize(OnOversize::Rerun));
        let app = app.layer(handler(&Runs::default(), move |_, _| {
            let frames = [ANSWER, NOTE, ANSWER];
            stream(if at_once {
                Script::frames(frames)
            } else {
                later(&frames)
            })
        }));
        send(&app, ask(1))
            .await
            .assert_fresh(&[ANSWER, NOTE, ANSWER].concat());
        assert_eq!(
            send(&app, ask(1)).await.refusal(),
            "409 response-unavailable"
        );
        drop(listening);
        assert!(
            log.text().contains("answers one JSON-RPC id twice"),
            "{}",
            log.text()
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_breaks_off_is_sealed() {
    let app = layer(|options| options).layer(handler(&Runs::default(), |_, _| {
        stream(later(&[NOTE]).then(Step::Fail("cut")))
    }));
    let mut response = app.clone().oneshot(ask(1)).await.unwrap();
    while let Some(Ok(_)) = response.body_mut().frame().await {}
    assert_eq!(
        send(&app, ask(1)).await.refusal(),
        "409 response-unavailable"
    );
}

#[tokio::test(start_paused = true)]
async fn by_default_streams_are_sealed_from_the_beginning() {
    let app = with_policy(&MemoryStore::new(), |options| options);
    let app = app.layer(handler(&Runs::default(), |_, _| stream(later(&[NOTE]))));
    let response = app.clone().oneshot(ask(1)).await.unwrap();
    assert_eq!(
        send(&app, ask(1)).await.refusal(),
        "409 response-unavailable"
    );
    assert_eq!(Seen::whole(response).await.text(), NOTE);
}
