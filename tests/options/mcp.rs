//! The preset for endpoints of the Model Context Protocol: `mcp` and `mcp_tools`. Servers of its SDKs are
//! behind the sidecar in `sidecar/tests/contracts/mcp.rs`, and behind the layer in `proof/src/bin/agents`.

use std::fmt::Write;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use serde_json::{Value, json};
use tower::Layer;
use tower_idempotency::options::{McpTools, OnLapsedLease, Require};
use tower_idempotency::{IdempotencyLayer, MemoryStore, RouteOptions};

use crate::support::{
    Gate, Runs, Seen, answer, builder, handler, held_back, post, request, send, with, with_policy,
    without,
};

const ACCEPTS: &str = "application/json, text/event-stream";

pub(crate) fn layer(change: impl FnOnce(RouteOptions) -> RouteOptions) -> IdempotencyLayer {
    with_policy(&MemoryStore::new(), |options| change(options.mcp()))
}

/// A message to the endpoint.
pub(crate) fn message(body: &Value) -> Request<Full<Bytes>> {
    let body = Full::from(body.to_string());
    let request = with(request(Method::POST, "/mcp", body), "accept", ACCEPTS);
    with(request, "content-type", "application/json")
}

pub(crate) fn call_of(tool: &str, id: impl Into<Value>, key: Option<&str>) -> Value {
    let mut call = json!({
        "jsonrpc": "2.0",
        "id": id.into(),
        "method": "tools/call",
        "params": { "name": tool, "arguments": { "amount": 42 }, "_meta": { "traceparent": "00-1" } },
    });
    if let Some(key) = key {
        call["params"]["arguments"]["meta"] = json!({ "idempotency-key": key });
    }
    call
}

pub(crate) fn call(id: impl Into<Value>, key: &str) -> Request<Full<Bytes>> {
    message(&call_of("pay", id, Some(key)))
}

pub(crate) fn in_json(body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = answer(StatusCode::OK, body);
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, json);
    response
}

/// A server that answers each request with its id and the number of the run.
pub(crate) fn server(
    runs: &Runs,
) -> impl tower::Service<
    Request<Full<Bytes>>,
    Response = Response<Full<Bytes>>,
    Error = std::convert::Infallible,
    Future: Send + 'static,
> + Clone
+ Send
+ 'static {
    handler(runs, |run, request| {
        let asked: Value = serde_json::from_slice(request.body()).unwrap_or_default();
        in_json(
            json!({ "jsonrpc": "2.0", "id": asked["id"], "result": { "run": run } }).to_string(),
        )
    })
}

pub(crate) fn json_of(seen: &Seen) -> Value {
    assert_eq!(seen.status, 200, "{seen:?}");
    serde_json::from_slice(&seen.body).unwrap_or_else(|_| panic!("{seen:?}"))
}

/// The id and the code of a rejection.
#[track_caller]
pub(crate) fn rejection(seen: &Seen) -> (Value, String) {
    let message = json_of(seen);
    let data = &message["error"]["data"];
    assert_eq!(data["source"], "idempotency", "{message}");
    assert_eq!(seen.header("cache-control"), Some("no-store"));
    let code = data["code"].as_str().unwrap().to_owned();
    (message["id"].clone(), code)
}

#[tokio::test]
async fn a_retry_under_a_new_id_gets_the_first_answer_under_its_own() {
    let runs = Runs::default();
    let app = layer(|options| options).layer(server(&runs));
    let first = send(&app, call(1, "k")).await;
    assert_eq!(json_of(&first)["result"]["run"], 1);
    for id in [json!(2), json!("b"), json!(1)] {
        let mut again = call_of("pay", id.clone(), Some("k"));
        again["params"]["_meta"] = json!({ "traceparent": "00-2", "progressToken": "t" });
        let replay = send(&app, message(&again)).await;
        assert!(replay.is_replay(), "{replay:?}");
        let expected = first.text().replace("\"id\":1", &format!("\"id\":{id}"));
        assert_eq!(replay.text(), expected);
        assert_eq!(
            replay.header("content-length"),
            first.header("content-length")
        );
    }
    assert_eq!(runs.count(), 1);
}

#[tokio::test]
async fn other_arguments_are_another_call() {
    let app = layer(|options| options).layer(server(&Runs::default()));
    send(&app, call(1, "k")).await;
    let mut other = call_of("pay", 2, Some("k"));
    other["params"]["arguments"]["amount"] = json!(43);
    let seen = send(&app, message(&other)).await;
    assert_eq!(rejection(&seen), (json!(2), "key-reused".to_owned()));
    let tool = message(&call_of("refund", 3, Some("k")));
    assert_eq!(rejection(&send(&app, tool).await).1, "key-reused");
}

#[tokio::test]
async fn only_calls_of_protected_tools_need_a_key() {
    let runs = Runs::default();
    let app = layer(|options| {
        let tools = McpTools::except(["look"]);
        options.mcp_tools(tools).require(Require::Required)
    });
    let app = app.layer(server(&runs));
    let list = json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/list" });
    let accepted = json!({ "jsonrpc": "2.0", "method": "notifications/initialized" });
    for passed in [
        list,
        accepted,
        call_of("look", 1, Some("k")),
        call_of("look", 1, None),
    ] {
        for run in [1, 2] {
            let seen = send(&app, message(&passed)).await;
            assert!(!seen.is_replay(), "{passed}");
            assert!(
                json_of(&seen).get("result").is_some(),
                "{passed}, {run}: {seen:?}"
            );
        }
    }
    assert_eq!(runs.count(), 8);
    // Who sends the message is asked for only where it needs a key.
    let anybody = without(message(&json!({ "id": 1, "method": "ping" })), "x-api-key");
    assert!(json_of(&send(&app, anybody).await).get("result").is_some());
    let nobody = without(call(5, "k"), "x-api-key");
    assert_eq!(
        rejection(&send(&app, nobody).await),
        (json!(5), "scope-missing".to_owned())
    );
    let keyless = send(&app, message(&call_of("pay", "a", None))).await;
    assert_eq!(rejection(&keyless), (json!("a"), "key-required".to_owned()));
    assert_eq!(runs.count(), 9);
}

#[tokio::test]
async fn a_header_may_carry_the_key_too() {
    let runs = Runs::default();
    let app = layer(|options| options).layer(server(&runs));
    let keyed = |body: &Value| with(message(body), "idempotency-key", "k");
    let first = send(&app, keyed(&call_of("pay", 1, Some("k")))).await;
    assert_eq!(json_of(&first)["result"]["run"], 1);
    assert!(
        send(&app, keyed(&call_of("pay", 2, Some("k"))))
            .await
            .is_replay()
    );
    let differ = send(&app, keyed(&call_of("pay", 2, Some("l")))).await;
    assert_eq!(rejection(&differ).1, "key-invalid");
    let list = json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/list" });
    for run in [2, 3] {
        assert_eq!(
            json_of(&send(&app, keyed(&list)).await)["result"]["run"],
            run
        );
    }
}

#[tokio::test]
async fn what_may_hide_a_call_is_refused() {
    let runs = Runs::default();
    let twice = r#"{"id":1,"method":"ping","method":"tools/call","params":{"name":"pay"}}"#;
    let send_text = async |layer: IdempotencyLayer, text: &str| {
        let mut sent = message(&Value::Null);
        *sent.body_mut() = Full::from(text.to_owned());
        send(&layer.layer(server(&runs)), sent).await
    };
    let batch = json!([call_of("pay", 1, Some("k"))]).to_string();
    for text in [&batch, "[]"] {
        let seen = send_text(layer(|options| options), text).await;
        assert_eq!(rejection(&seen), (Value::Null, "key-invalid".to_owned()));
    }
    for text in [twice, "no JSON"] {
        let seen = send_text(layer(|options| options.require(Require::Required)), text).await;
        assert_eq!(rejection(&seen), (Value::Null, "key-invalid".to_owned()));
    }
    assert_eq!(runs.count(), 0);
    send_text(layer(|options| options), twice).await;
    assert_eq!(runs.count(), 1);
}

#[tokio::test]
async fn a_duplicate_is_in_flight_in_the_form_that_it_accepts() {
    let (runs, gate) = (Runs::default(), Gate::closed());
    let app = layer(|options| options).layer(held_back(&runs, &gate));
    let first = tokio::spawn({
        let app = app.clone();
        async move { send(&app, call(1, "k")).await }
    });
    gate.begun().await;
    let seen = send(&app, call(2, "k")).await;
    assert_eq!(rejection(&seen), (json!(2), "in-flight".to_owned()));
    assert_eq!(seen.header("retry-after"), Some("1"));
    assert_eq!(json_of(&seen)["error"]["data"]["retry"], "same-key");
    let events = with(call("b", "k"), "accept", "text/event-stream");
    let seen = send(&app, events).await;
    assert_eq!(seen.header("content-type"), Some("text/event-stream"));
    let data = seen.text().strip_prefix("event: message\ndata: ").unwrap();
    let data: Value = serde_json::from_str(data.trim_end()).unwrap();
    assert_eq!(
        (&data["id"], &data["error"]["data"]["code"]),
        (&json!("b"), &json!("in-flight"))
    );
    gate.open();
    first.await.unwrap();
    assert_eq!(runs.count(), 1);
}

/// Answers in a stream: progress under the token of the call, and these answers.
fn streaming(
    runs: &Runs,
    answers: &'static [&'static str],
) -> impl tower::Service<
    Request<Full<Bytes>>,
    Response = Response<Full<Bytes>>,
    Error = std::convert::Infallible,
    Future: Send + 'static,
> + Clone
+ Send
+ 'static {
    handler(runs, move |run, request| {
        let asked: Value = serde_json::from_slice(request.body()).unwrap();
        let token = &asked["params"]["_meta"]["progressToken"];
        let mut text = String::new();
        if !token.is_null() {
            let params = json!({ "progressToken": token, "progress": 1 });
            let progress = json!({ "method": "notifications/progress", "params": params });
            write!(text, "id: {run}-0\nevent: message\ndata: {progress}\n\n").unwrap();
        }
        for answer in answers {
            let answer = answer.replace("ID", &asked["id"].to_string());
            write!(text, "id: {run}-1\nevent: message\ndata: {answer}\n\n").unwrap();
        }
        let mut response = answer(StatusCode::OK, text);
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
        headers.insert("mcp-session-id", HeaderValue::from_static("s-1"));
        response
    })
}

#[tokio::test]
async fn a_stream_is_replayed_whole_with_the_id_and_the_token_of_the_retry() {
    let runs = Runs::default();
    let answers = &[r#"{"jsonrpc":"2.0","id":ID,"result":{"content":[]}}"#];
    let app = layer(|options| options).layer(streaming(&runs, answers));
    let with_token = |id: u32, token: Value| {
        let mut call = call_of("pay", id, Some("k"));
        call["params"]["_meta"] = json!({ "progressToken": token });
        message(&call)
    };
    let first = send(&app, with_token(1, json!("a"))).await;
    assert!(first.text().contains(r#""progressToken":"a""#), "{first:?}");
    assert_eq!(first.header("mcp-session-id"), Some("s-1"));
    let replay = send(&app, with_token(2, json!(7))).await;
    assert!(replay.is_replay(), "{replay:?}");
    let expected = first
        .text()
        .replace("\"progressToken\":\"a\"", "\"progressToken\":7");
    let expected = expected
        .replace("\"id\":1", "\"id\":2")
        .replace("id: 1-0\n", "")
        .replace("id: 1-1\n", "");
    assert_eq!(replay.text(), expected);
    assert_eq!(replay.header("content-type"), Some("text/event-stream"));
    assert_eq!(replay.header("mcp-session-id"), None);
    let silent = send(&app, call(3, "k")).await;
    assert!(!silent.text().contains("progress"), "{silent:?}");
    assert!(silent.text().contains(r#""id":3"#), "{silent:?}");
    assert_eq!(runs.count(), 1);
}

#[tokio::test]
async fn a_stream_with_no_answer_or_with_two_is_sealed() {
    const RESULT: &str = r#"{"id":ID,"result":{}}"#;
    let answers: [&[&str]; 2] = [&[], &[RESULT, RESULT]];
    for answers in answers {
        let runs = Runs::default();
        let app = layer(|options| options).layer(streaming(&runs, answers));
        let first = send(&app, call(1, "k")).await;
        assert_eq!(first.text().matches("result").count(), answers.len());
        let seen = send(&app, call(2, "k")).await;
        assert_eq!(
            rejection(&seen),
            (json!(2), "response-unavailable".to_owned())
        );
        assert_eq!(runs.count(), 1);
    }
}

#[tokio::test]
async fn a_call_that_did_not_end_can_be_sent_again() {
    for (first, recorded) in [
        (
            json!({ "error": { "code": -32603, "message": "down" } }),
            false,
        ),
        (
            json!({ "error": { "code": -32000, "message": "busy" } }),
            false,
        ),
        (
            json!({ "error": { "code": -32602, "message": "wrong" } }),
            true,
        ),
        (
            json!({ "result": { "isError": true, "content": [] } }),
            true,
        ),
        (
            json!({ "result": { "resultType": "input_required" } }),
            false,
        ),
    ] {
        let runs = Runs::default();
        let text = first.to_string();
        let app = layer(|options| options.on_lapsed_lease(OnLapsedLease::Refuse));
        let app = app.layer(handler(&runs, move |_, _: Request<Bytes>| {
            in_json(text.clone())
        }));
        send(&app, call(1, "k")).await;
        // With the answers that were asked for the call is another one, and has the same key.
        let mut again = call_of("pay", 2, Some("k"));
        if !recorded {
            again["params"]["inputResponses"] = json!({ "name": {} });
        }
        let seen = send(&app, message(&again)).await;
        assert_eq!(seen.is_replay(), recorded, "{first}");
        assert_eq!(runs.count(), if recorded { 1 } else { 2 }, "{first}");
    }
}

/// Other routes of the layer are as they were.
#[tokio::test]
async fn the_form_of_rejections_is_that_of_the_route() {
    let app = builder(&MemoryStore::new()).route("POST /mcp", RouteOptions::mcp);
    let app = app.build().unwrap().layer(server(&Runs::default()));
    send(&app, post("k", "{}")).await;
    assert_eq!(
        send(&app, post("k", "[]")).await.refusal(),
        "422 key-reused"
    );
    send(&app, call(1, "j")).await;
    let mut other = call_of("pay", 2, Some("j"));
    other["params"]["arguments"]["amount"] = json!(1);
    assert_eq!(
        rejection(&send(&app, message(&other)).await).1,
        "key-reused"
    );
}

#[tokio::test]
async fn a_renderer_of_the_application_beats_the_form_of_the_preset() {
    let seen = Arc::new(Mutex::new(0));
    let count = Arc::clone(&seen);
    let layer = builder(&MemoryStore::new())
        .defaults(|options| options.mcp().require(Require::Required))
        .render_rejections(
            move |rejection: &tower_idempotency::rejection::Rejection, _: &http::request::Parts| {
                *count.lock().unwrap() += 1;
                rejection.problem()
            },
        );
    let app = layer.build().unwrap().layer(server(&Runs::default()));
    let refused = send(&app, message(&call_of("pay", 1, None))).await;
    assert_eq!(refused.refusal(), "400 key-required");
    assert_eq!(*seen.lock().unwrap(), 1);
}

/// A server of MCP takes no such message, but one that is lenient may run it.
#[tokio::test]
async fn what_does_not_say_that_it_is_json_is_compared_by_its_bytes() {
    let runs = Runs::default();
    let app = layer(|options| options).layer(server(&runs));
    let plain = |id: u32| {
        let call = message(&call_of("pay", id, None));
        with(
            with(call, "content-type", "text/plain"),
            "idempotency-key",
            "k",
        )
    };
    let first = send(&app, plain(1)).await;
    assert_eq!(json_of(&first)["result"]["run"], 1);
    assert!(send(&app, plain(1)).await.is_replay());
    let other = send(&app, plain(2)).await;
    assert!(other.text().contains("key-reused"), "{other:?}");
    assert_eq!(runs.count(), 1);
}

/// The preset sets options that a client learns of.
#[cfg(feature = "contract")]
#[test]
fn the_contract_says_that_streams_are_recorded() {
    let layer = builder(&MemoryStore::new()).route("POST /mcp", RouteOptions::mcp);
    let contract = layer.build().unwrap().contract();
    let json = contract.json();
    assert!(
        json.to_string().contains(r#""event_streams":"record""#),
        "{json:#}"
    );
    let page = contract.markdown();
    assert!(
        page.contains("a stream of events that does not end within"),
        "{page}"
    );
}

#[test]
fn what_can_not_go_with_the_preset_is_an_error() {
    let wrong = |change: fn(RouteOptions) -> RouteOptions| {
        let built = builder(&MemoryStore::new()).defaults(change).build();
        built.unwrap_err().option()
    };
    assert_eq!(
        wrong(|own| own.mcp_tools(McpTools::only(["pay"]))),
        "mcp_tools"
    );
    assert_eq!(wrong(|own| own.mcp().key_in_body([""; 0])), "key_in_body");
}
