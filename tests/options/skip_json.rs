//! The option `skip_json`.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response};
use http_body_util::Full;
use tower::Layer;
use tower_idempotency::options::EventStreams;
use tower_idempotency::recording::Recording;
use tower_idempotency::{MemoryStore, RouteOptions};

use crate::support::body::{Script, Step};
use crate::support::{Runs, handler, post, request, send, with, with_policy};

const JSON: (&str, &str) = ("content-type", "application/json");
const EVENTS: (&str, &str) = ("content-type", "text/event-stream");
const FAILED: &str = r#"{"result":{"isError":true}}"#;
const FINE: &str = r#"{"result":{"isError":false}}"#;
const RELEASED: bool = false;
const RECORDED: bool = true;

type Change = fn(RouteOptions) -> RouteOptions;

fn skips(options: RouteOptions) -> RouteOptions {
    options.skip_json(["/result/isError: true", "/errors"])
}

fn skips_and_records(options: RouteOptions) -> RouteOptions {
    skips(options).event_streams(EventStreams::Record)
}

fn mcp(options: RouteOptions) -> RouteOptions {
    skips(options.mcp())
}

fn with_headers<B>(body: B, headers: &[(&'static str, &'static str)]) -> Response<B> {
    let mut response = Response::new(body);
    for (name, value) in headers {
        let value = HeaderValue::from_static(value);
        response.headers_mut().insert(*name, value);
    }
    response
}

/// Whether a retry of this request gets the response again: a handler gives the same one each time.
async fn is_replayed<B>(
    change: Change,
    ask: impl Fn() -> Request<Full<Bytes>>,
    respond: impl Fn() -> Response<B> + Clone + Send + 'static,
) -> bool
where
    B: http_body::Body<Data: Send, Error: std::error::Error + Send + Sync> + Send + 'static,
{
    let runs = Runs::default();
    let layer = with_policy(&MemoryStore::new(), change);
    let app = layer.layer(handler(&runs, move |_, _| respond()));
    let first = send(&app, ask()).await;
    let retry = send(&app, ask()).await;
    assert_eq!(retry.text(), first.text());
    assert_eq!(runs.count(), if retry.is_replay() { 1 } else { 2 });
    retry.is_replay()
}

/// The same for a response with this body.
async fn is_recorded(
    change: Change,
    headers: &'static [(&'static str, &'static str)],
    body: impl Into<Bytes>,
) -> bool {
    let body = body.into();
    let respond = move || with_headers(Full::new(body.clone()), headers);
    is_replayed(change, || post("k", "{}"), respond).await
}

fn event(data: &str) -> String {
    format!("event: message\ndata: {data}\n\n")
}

#[tokio::test]
async fn a_json_response_can_say_by_a_member_that_it_is_not_to_be_recorded() {
    for (body, expected) in [
        (FAILED, RELEASED),
        (FINE, RECORDED),
        (r#"{"result":{"isError":"true"}}"#, RECORDED),
        (r#"{"isError":true}"#, RECORDED),
        (r#"[{"result":{"isError":true}}]"#, RECORDED),
        (r#"{"result":{"isError":true}"#, RECORDED),
        (r#"{"result":{"isError":true,"isError":true}}"#, RECORDED),
        (r#"{"data":null,"errors":[{"message":"no"}]}"#, RELEASED),
        (r#"{"data":{},"errors":null}"#, RECORDED),
        ("", RECORDED),
    ] {
        assert_eq!(is_recorded(skips, &[JSON], body).await, expected, "{body}");
        let none = is_recorded(|options| options, &[JSON], body).await;
        assert!(none, "without the option: {body}");
    }
    let problem = &[("content-type", "application/problem+json")];
    assert!(!is_recorded(skips, problem, FAILED).await);
}

#[tokio::test]
async fn what_cannot_be_read_has_no_member() {
    let coded = &[JSON, ("content-encoding", "gzip")];
    let part = &[JSON, ("content-range", "bytes 0-26/99")];
    let text = &[("content-type", "text/plain")];
    for headers in [coded, part, &text[..]] {
        assert!(is_recorded(skips, headers, FAILED).await, "{headers:?}");
    }
    let identity = &[JSON, ("content-encoding", "identity")];
    assert!(!is_recorded(skips, identity, FAILED).await);
}

/// The operation has happened, and nobody knows whether it is to run again.
#[tokio::test]
async fn a_response_beyond_the_limit_is_sealed() {
    let layer = with_policy(&MemoryStore::new(), |options| {
        skips(options).max_recorded_body(FAILED.len() - 1)
    });
    let app = layer.layer(handler(&Runs::default(), |_, _| {
        with_headers(Full::new(Bytes::from(FAILED)), &[JSON])
    }));
    assert_eq!(send(&app, post("k", "{}")).await.text(), FAILED);
    let retry = send(&app, post("k", "{}")).await;
    assert_eq!(retry.refusal(), "409 response-unavailable");
}

#[tokio::test(start_paused = true)]
async fn a_long_body_and_one_in_pieces_are_searched_too() {
    for (end, expected) in [(FAILED, RELEASED), (FINE, RECORDED)] {
        let long = format!("{{\"x\":\"{}\",{}", "x".repeat(300 << 10), &end[1..]);
        assert_eq!(is_recorded(skips, &[JSON], long).await, expected, "{end}");
        let respond = move || {
            let (head, tail) = end.split_at(9);
            let pieces = [head, tail].map(|piece| {
                let data = Step::Data(Bytes::from_static(piece.as_bytes()));
                [Step::Wait(Duration::from_secs(1)), data]
            });
            with_headers(
                Script::new(pieces.into_iter().flatten().collect::<Vec<_>>()),
                &[JSON],
            )
        };
        let replayed = is_replayed(skips, || post("k", "{}"), respond).await;
        assert_eq!(replayed, expected, "{end}");
    }
}

#[tokio::test]
async fn one_event_of_a_recorded_stream_is_enough() {
    for (stream, expected) in [
        (event("{\"n\":1}") + &event(FAILED), RELEASED),
        (event(FAILED) + &event(FINE), RELEASED),
        (event("{\"n\":1}") + &event(FINE), RECORDED),
        (FAILED.to_owned(), RECORDED),
    ] {
        let recorded = is_recorded(skips_and_records, &[EVENTS], stream.clone()).await;
        assert_eq!(recorded, expected, "{stream}");
    }
}

#[tokio::test]
async fn the_word_of_the_handler_overrides_the_member() {
    let respond = || {
        let mut response = with_headers(Full::new(Bytes::from(FAILED)), &[JSON]);
        response.extensions_mut().insert(Recording::Keep);
        response
    };
    assert!(is_replayed(skips, || post("k", "{}"), respond).await);
}

#[tokio::test]
async fn a_tool_that_failed_runs_again_only_if_the_route_says_so() {
    fn call() -> Request<Full<Bytes>> {
        let call = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"pay",
            "arguments":{"meta":{"idempotency-key":"k"}}}}"#;
        let request = request(Method::POST, "/mcp", Full::new(Bytes::from(call)));
        with(request, JSON.0, JSON.1)
    }
    fn answer(is_error: bool) -> String {
        format!(r#"{{"jsonrpc":"2.0","id":1,"result":{{"content":[],"isError":{is_error}}}}}"#)
    }
    let respond = |is_error: bool, is_stream: bool| {
        move || {
            let answer = answer(is_error);
            if is_stream {
                with_headers(Full::new(Bytes::from(event(&answer))), &[EVENTS])
            } else {
                with_headers(Full::new(Bytes::from(answer)), &[JSON])
            }
        }
    };
    for is_stream in [false, true] {
        for (change, is_error, expected) in [
            (mcp as Change, true, RELEASED),
            (mcp, false, RECORDED),
            (|options| options.mcp(), true, RECORDED),
        ] {
            let replayed = is_replayed(change, call, respond(is_error, is_stream)).await;
            assert_eq!(replayed, expected, "{is_error}, as a stream: {is_stream}");
        }
    }
    // Two answers to one call stay sealed, whatever they say.
    let layer = with_policy(&MemoryStore::new(), mcp);
    let app = layer.layer(handler(&Runs::default(), |_, _| {
        let twice = event(&answer(true)).repeat(2);
        with_headers(Full::new(Bytes::from(twice)), &[EVENTS])
    }));
    send(&app, call()).await;
    let retry: serde_json::Value = serde_json::from_str(send(&app, call()).await.text()).unwrap();
    assert_eq!(retry["error"]["data"]["code"], "response-unavailable");
}
