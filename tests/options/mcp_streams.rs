//! Streams of an MCP server, on a route with the preset `mcp`: the answer leaves once it is recorded.

use std::time::Duration;

use bytes::Bytes;
use http::Response;
use http_body_util::BodyExt;
use tokio::runtime::Builder;
use tokio::time::{sleep, timeout};
use tower::{Layer, ServiceExt};
use tower_idempotency::options::EventStreams;
use tower_idempotency::store::StoreErrorKind;
use tower_idempotency::{MemoryStore, RouteOptions};

use crate::event_streams::stream;
use crate::mcp::{call, rejection};
use crate::support::body::{Script, Step};
use crate::support::store::{Fault, Op, Steered};
use crate::support::{Runs, answer, builder, handler, send, with_policy};

const SECOND: Duration = Duration::from_secs(1);
const NOTE: &str = "data: {\"method\":\"notifications/message\"}\n\n";
const RESULT: &str = "data: {\"id\":1,\"result\":{\"content\":[]}}\n\n";
const PING: &str = ": ping\n\n";

/// The preset, and the preset with the option that it sets.
const PRESETS: [fn(RouteOptions) -> RouteOptions; 2] = [RouteOptions::mcp, |options| {
    options.mcp().event_streams(EventStreams::Record)
}];

/// A body of these frames: before an empty one it pauses.
fn frames(frames: &[&str]) -> Script {
    let steps = frames.iter().map(|frame| match *frame {
        "" => Step::Wait(SECOND),
        data => Step::Data(Bytes::from(data.to_owned())),
    });
    Script::new(steps.collect::<Vec<_>>())
}

/// What the client gets, and whether the body ends properly.
async fn read(response: Response<impl http_body::Body<Data = Bytes> + Unpin>) -> (String, bool) {
    let (mut body, mut seen) = (response.into_body(), Vec::new());
    let is_whole = loop {
        match body.frame().await {
            Some(Ok(frame)) => seen.extend_from_slice(&frame.into_data().unwrap()),
            Some(Err(_)) => break false,
            None => break true,
        }
    };
    (String::from_utf8(seen).unwrap(), is_whole)
}

#[tokio::test(start_paused = true)]
async fn the_client_gets_the_bytes_in_their_order_whenever_they_come() {
    let (start, end) = RESULT.split_at(20);
    for preset in PRESETS {
        for parts in [
            &[start, "", end][..],
            &[start, "", end, "", PING],
            &["", start, end, ""],
            &[RESULT, "", PING],
            &[RESULT, "", PING, "", PING, PING],
            &[NOTE, start, "", end, PING, "", PING],
            &["", NOTE, "", RESULT, ""],
            &[": pi", "ng\n\ndata", "", &RESULT[4..], ": p", "", "ing\n\n"],
        ] {
            let runs = Runs::default();
            let own: Vec<String> = parts.iter().map(|part| (*part).to_owned()).collect();
            let app = with_policy(&MemoryStore::new(), preset);
            let app = app.layer(handler(&runs, move |_, _| {
                stream(frames(&own.iter().map(String::as_str).collect::<Vec<_>>()))
            }));
            let first = app.clone().oneshot(call(1, "k")).await.unwrap();
            assert_eq!(read(first).await, (parts.concat(), true), "{parts:?}");
            let again = send(&app, call(2, "k")).await;
            assert!(again.is_replay(), "{parts:?}: {again:?}");
            assert!(again.text().contains("\"id\":2"), "{parts:?}: {again:?}");
            assert_eq!(runs.count(), 1);
        }
    }
}

/// G3.
#[tokio::test(start_paused = true)]
async fn the_answer_leaves_when_it_is_recorded() {
    let crlf = RESULT.replace('\n', "\r\n");
    let mixed = RESULT.replace("\n\n", "\n\r\n");
    let marked = format!("\u{feff}{RESULT}");
    for preset in PRESETS {
        for parts in [
            &["", NOTE, "", RESULT, ""][..],
            &[NOTE, RESULT, "", PING],
            &["", NOTE, "", RESULT, ": pi", "", "ng\n\n", ""],
            &["", RESULT, ": pi", "", "ng\n\n", "", PING, ""],
            &[&[RESULT, ": pi"].concat(), "", "ng\n\n", "", PING],
            &["", &crlf, "", PING],
            &["", &mixed, "", PING, ""],
            &["", &marked, "", PING, ""],
        ] {
            let store = Steered::new();
            store.make(Op::Complete, Fault::Fails(StoreErrorKind::Unknown));
            let own: Vec<String> = parts.iter().map(|part| (*part).to_owned()).collect();
            let app = with_policy(&store, preset);
            let app = app.layer(handler(&Runs::default(), move |_, _| {
                stream(frames(&own.iter().map(String::as_str).collect::<Vec<_>>()))
            }));
            let (seen, is_whole) = read(app.oneshot(call(1, "k")).await.unwrap()).await;
            assert!(!is_whole, "{parts:?}: {seen}");
            assert!(!seen.contains("result"), "{parts:?}: {seen}");
        }
    }
}

/// G3, also for an event that is too long to be searched, and for a stream that announces its length:
/// its client may not take the answer for one whose record is not stored.
#[tokio::test(start_paused = true)]
async fn the_end_of_a_long_answer_leaves_when_it_is_recorded() {
    let answer = format!(
        "data: {{\"id\":1,\"result\":\"{}\"}}\n\n",
        "x".repeat(3 << 20)
    );
    let short = &RESULT.replace("[]", &format!("\"{}\"", "x".repeat(70 << 10)));
    for announces in [false, true] {
        for parts in [
            &[NOTE, "", &answer, "", PING][..],
            &[NOTE, "", &answer[..2 << 20], "", &answer[2 << 20..]],
            &[NOTE, "", short, "", PING],
            &[NOTE, "", &[short, ": pi"].concat(), "", "ng\n\n"],
            &[NOTE, "", short],
        ] {
            let store = Steered::new();
            store.make(Op::Complete, Fault::Fails(StoreErrorKind::Unknown));
            let own: Vec<String> = parts.iter().map(|part| (*part).to_owned()).collect();
            let length = parts.concat().len();
            let app = with_policy(&store, |options| options.mcp().max_recorded_body(8 << 20));
            let app = app.layer(handler(&Runs::default(), move |_, _| {
                let body = frames(&own.iter().map(String::as_str).collect::<Vec<_>>());
                let mut response = stream(body);
                if announces {
                    let headers = response.headers_mut();
                    headers.insert("content-length", length.into());
                }
                response
            }));
            let (seen, is_whole) = read(app.oneshot(call(1, "k")).await.unwrap()).await;
            assert!(!is_whole && seen.starts_with(NOTE), "{announces}");
            let has_answer = seen.contains("x\"}\n\n") || seen.contains("x\"}}\n\n");
            assert!(!has_answer, "{announces}, {} bytes of {length}", seen.len());
        }
    }
}

/// The end of a stream that announces its length waits too if the stream has no answer: what its client
/// takes for the whole response is sealed by then.
#[tokio::test(start_paused = true)]
async fn a_stream_that_announces_its_length_ends_when_it_is_sealed() {
    let notes = NOTE.repeat(2000);
    let store = Steered::new();
    store.make(Op::Complete, Fault::Fails(StoreErrorKind::Unknown));
    let app = with_policy(&store, RouteOptions::mcp);
    let whole = notes.clone();
    let app = app.layer(handler(&Runs::default(), move |_, _| {
        let mut response = stream(frames(&["", &notes, "", NOTE]));
        let length = notes.len() + NOTE.len();
        let headers = response.headers_mut();
        headers.insert("content-length", length.into());
        response
    }));
    let (seen, is_whole) = read(app.oneshot(call(1, "k")).await.unwrap()).await;
    assert!(!is_whole && seen == whole, "{} bytes", seen.len());
}

/// In a stream that can't be read nothing is looked for: its frames leave as they come.
#[tokio::test(start_paused = true)]
async fn a_coded_stream_is_not_searched() {
    for (coding, reaches) in [("gzip", true), ("identity", false)] {
        let app = with_policy(&MemoryStore::new(), RouteOptions::mcp);
        let app = app.layer(handler(&Runs::default(), move |_, _| {
            let mut response = stream(frames(&["", "\u{1f}coded"]).then(Step::Never));
            let coding = http::HeaderValue::from_static(coding);
            response.headers_mut().insert("content-encoding", coding);
            response
        }));
        let mut response = app.oneshot(call(1, "k")).await.unwrap();
        let frame = timeout(SECOND * 5, response.body_mut().frame()).await;
        assert_eq!(frame.is_ok(), reaches, "{coding}: {frame:?}");
    }
}

/// A server should close the stream behind the answer. If it does not, the operation ends with its time.
#[tokio::test(start_paused = true)]
async fn a_stream_without_an_end_is_sealed_before_its_lease_lapses() {
    for preset in PRESETS {
        for parts in [
            &["", NOTE, "", RESULT][..],
            &[RESULT, "", PING],
            &["", NOTE],
        ] {
            let runs = Runs::default();
            let limits = |options| {
                let options = preset(options).lease(SECOND * 2);
                options.max_operation(SECOND * 4)
            };
            let app = with_policy(&MemoryStore::new(), limits);
            let app = app.layer(handler(&runs, move |_, _| {
                stream(frames(parts).then(Step::Never))
            }));
            let mut response = app.clone().oneshot(call(1, "k")).await.unwrap();
            let seen = tokio::spawn(async move {
                let mut seen = Vec::new();
                while let Ok(frame) = timeout(SECOND * 60, response.body_mut().frame()).await {
                    seen.extend_from_slice(&frame.unwrap().unwrap().into_data().unwrap());
                }
                String::from_utf8(seen).unwrap()
            });
            sleep(SECOND * 3).await;
            assert_eq!(rejection(&send(&app, call(2, "k")).await).1, "in-flight");
            for _ in 0..20 {
                sleep(SECOND * 2).await;
                let again = rejection(&send(&app, call(2, "k")).await).1;
                assert_eq!(again, "response-unavailable", "{parts:?}");
            }
            assert_eq!(seen.await.unwrap(), parts.concat());
            assert_eq!(runs.count(), 1);
        }
    }
}

/// The answer waits in the memory of the record, and what follows beside it.
#[tokio::test(start_paused = true)]
async fn an_answer_beyond_the_limits_reaches_its_client() {
    let event = |bytes: usize| format!("data: {{\"result\":\"{}\"}}\n\n", "x".repeat(bytes));
    let pings = PING.repeat(1 << 10);
    for (answer, recorded, ahead) in [
        (event(99 << 10), 100 << 10, usize::MAX),
        (event(60 << 10), 1 << 20, 0),
        (event(200 << 10), 100 << 10, usize::MAX),
    ] {
        let runs = Runs::default();
        let layer = builder(&MemoryStore::new())
            .max_read_ahead(ahead)
            .defaults(|options| options.mcp().max_recorded_body(recorded));
        let parts = [
            String::new(),
            answer,
            String::new(),
            pings.clone(),
            String::new(),
        ];
        let whole = parts.concat();
        let app = layer.build().unwrap().layer(handler(&runs, move |_, _| {
            stream(frames(&parts.each_ref().map(String::as_str)))
        }));
        let first = app.clone().oneshot(call(1, "k")).await.unwrap();
        let (seen, is_whole) = read(first).await;
        assert!(
            is_whole && seen == whole,
            "{} of {}",
            seen.len(),
            whole.len()
        );
        let again = rejection(&send(&app, call(2, "k")).await).1;
        assert_eq!(again, "response-unavailable");
        assert_eq!(runs.count(), 1);
    }
}

/// G11: no other request waits.
#[test]
fn a_long_answer_is_judged_on_a_thread_that_serves_no_requests() {
    let runtime = Builder::new_current_thread()
        .enable_time()
        .max_blocking_threads(1)
        .build();
    runtime.unwrap().block_on(async {
        for kind in ["application/json", "text/event-stream"] {
            let app = with_policy(&MemoryStore::new(), RouteOptions::mcp);
            let app = app.layer(handler(&Runs::default(), move |run, _| {
                let bytes = if run == 1 { 10 } else { 500 << 10 };
                let text = "x".repeat(bytes);
                let text = format!("data: {{\"id\":1,\"result\":\"{text}\"}}\n\n");
                let text = if kind == "application/json" {
                    text[6..].to_owned()
                } else {
                    text
                };
                let mut response = answer(http::StatusCode::OK, text);
                let kind = http::HeaderValue::from_static(kind);
                response.headers_mut().insert("content-type", kind);
                response
            }));
            let (release, held) = std::sync::mpsc::channel::<()>();
            let busy = tokio::task::spawn_blocking(move || held.recv());
            assert_eq!(send(&app, call(1, "short")).await.status, 200);
            let long = send(&app, call(1, "long"));
            tokio::pin!(long);
            let waits = timeout(SECOND / 10, &mut long).await;
            assert!(waits.is_err(), "{kind}: it was judged on this thread");
            release.send(()).unwrap();
            busy.await.unwrap().unwrap();
            assert_eq!(long.await.status, 200);
            assert!(send(&app, call(1, "long")).await.is_replay());
        }
    });
}
