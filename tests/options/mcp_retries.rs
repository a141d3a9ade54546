//! The preset `mcp`, for the calls that clients send again: what is compared, what a replay is, and what
//! is refused.

use bytes::Bytes;
use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE};
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::Full;
use serde_json::{Value, json};
use tower::Layer;
use tower_idempotency::options::{FingerprintBody, JsonFingerprint, Require};
use tower_idempotency::{IdempotencyLayer, MemoryStore, RouteOptions};

use crate::mcp::{call, call_of, in_json, layer, message, rejection, server};
use crate::support::log::Log;
use crate::support::{Runs, Seen, answer, builder, handler, send, with, without};

/// The call whose `id` and whose arguments are these texts.
fn call_in_text(id: &str, arguments: &str) -> Request<Full<Bytes>> {
    let mut sent = message(&Value::Null);
    *sent.body_mut() = Full::from(format!(
        r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/call","params":{{"name":"pay","arguments":{{"meta":{{"idempotency-key":"k"}},{arguments}}},"_meta":{{"progressToken":{id}}}}}}}"#
    ));
    sent
}

fn with_token(id: u32, token: Value) -> Request<Full<Bytes>> {
    let mut call = call_of("pay", id, Some("k"));
    call["params"]["_meta"] = json!({ "progressToken": token });
    message(&call)
}

fn in_events(body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = answer(StatusCode::OK, body);
    let events = HeaderValue::from_static("text/event-stream");
    response.headers_mut().insert(CONTENT_TYPE, events);
    response
}

/// The replay of what the handler answered to the call 1, for this retry.
async fn replay(
    first: impl Fn() -> Response<Full<Bytes>> + Clone + Send + Sync + 'static,
    retry: Request<Full<Bytes>>,
) -> Seen {
    let runs = Runs::default();
    let handler = handler(&runs, move |_, _: Request<Bytes>| first());
    let app = layer(|options| options).layer(handler);
    send(&app, with_token(1, json!("a"))).await;
    let seen = send(&app, retry).await;
    assert_eq!(runs.count(), 1);
    seen
}

const RESULT: &str = r#"data: {"jsonrpc":"2.0","id":1,"result":{"content":[]}}"#;

#[tokio::test]
async fn a_token_can_not_make_a_replay_much_larger_than_its_record() {
    let stream = || {
        let params = r#"{"progressToken":"a","progress":1}"#;
        let progress = format!(
            "data: {{\"jsonrpc\":\"2.0\",\"method\":\"notifications/progress\",\"params\":{params}}}\n\n"
        );
        in_events(progress.repeat(5000) + RESULT + "\n\n")
    };
    let seen = replay(stream, with_token(2, json!("t".repeat(300)))).await;
    assert_eq!(rejection(&seen).1, "response-unavailable");
    // A token that is longer than any client's is as none.
    for token in [json!("t".repeat(900_000)), json!(["t"]), Value::Null] {
        let seen = replay(stream, with_token(2, token)).await;
        assert!(seen.is_replay());
        assert_eq!(seen.text(), RESULT.replace("\"id\":1", "\"id\":2") + "\n\n");
    }
}

#[tokio::test]
async fn an_id_is_a_string_or_a_number_of_a_client() {
    let runs = Runs::default();
    let app = layer(|options| options).layer(server(&runs));
    let long = format!("\"{}\"", "i".repeat(2000));
    for id in ["[1,\r2]", "{\n}", "null", "true", &long] {
        let events = with(call_in_text(id, "\"n\":1"), "accept", "text/event-stream");
        let seen = send(&app, events).await;
        let text = seen.text().strip_prefix("event: message\ndata: ");
        let text = text.unwrap_or_else(|| panic!("{seen:?}"));
        let error: Value = serde_json::from_str(text.strip_suffix("\n\n").unwrap()).unwrap();
        assert_eq!(error["error"]["data"]["code"], "key-invalid", "{id}");
    }
    assert_eq!(runs.count(), 0);
    for id in ["1", "-1.5", "\"\"", &format!("\"{}\"", "i".repeat(1000))] {
        send(&app, call_in_text(id, "\"n\":1")).await;
    }
    assert_eq!(runs.count(), 1);
}

/// A question of the server is over when its stream is.
#[tokio::test]
async fn a_question_of_the_server_is_not_asked_again() {
    const QUESTION: &str = r#"data: {"jsonrpc":"2.0","id":0,"method":"elicitation/create"}"#;
    let stream = || in_events(format!("{QUESTION}\n\n{RESULT}\n\n"));
    let seen = replay(stream, call(2, "k")).await;
    assert!(seen.is_replay(), "{seen:?}");
    assert_eq!(seen.text(), RESULT.replace("\"id\":1", "\"id\":2") + "\n\n");
}

#[tokio::test]
async fn a_replay_has_no_digest_of_the_first_answer() {
    const DIGESTS: [&str; 5] = [
        "etag",
        "digest",
        "content-digest",
        "repr-digest",
        "content-md5",
    ];
    let first = || {
        let mut response = in_json(r#"{"jsonrpc":"2.0","id":1,"result":{}}"#);
        for name in DIGESTS {
            let digest = HeaderValue::from_static("of the first");
            response.headers_mut().insert(name, digest);
        }
        response
    };
    let same = replay(first, call(1, "k")).await;
    assert!(DIGESTS.iter().all(|name| same.header(name).is_some()));
    let other = replay(first, call(2, "k")).await;
    assert!(other.is_replay());
    for name in DIGESTS {
        assert_eq!(other.header(name), None, "{name}");
    }
}

/// An answer in a coding can't be read, nor be given the id of a retry: the call is done, and its record
/// is sealed.
#[tokio::test]
async fn an_answer_in_a_coding_is_sealed_with_a_line_in_the_log() {
    for (status, kind, runs_again) in [
        (200, "application/json", false),
        (200, "text/event-stream", false),
        (503, "application/json", true),
    ] {
        let (log, runs) = (Log::default(), Runs::default());
        let listening = log.listen();
        let app = layer(|options| options).layer(handler(&runs, move |_, _: Request<Bytes>| {
            let mut response = answer(StatusCode::from_u16(status).unwrap(), "not plain");
            let headers = response.headers_mut();
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
            headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            response
        }));
        send(&app, call(1, "k")).await;
        let again = send(&app, call(1, "k")).await;
        drop(listening);
        assert_eq!(runs.count(), if runs_again { 2 } else { 1 });
        let is_logged = log.text().contains("has a Content-Encoding");
        assert_eq!(is_logged, !runs_again, "{}", log.text());
        if !runs_again {
            assert_eq!(rejection(&again).1, "response-unavailable");
        }
    }
}

#[tokio::test]
async fn answers_are_asked_for_without_a_coding() {
    let coded = |coding: &'static str| {
        move || {
            let mut response = in_json(r#"{"jsonrpc":"2.0","id":1,"result":{}}"#);
            let coding = HeaderValue::from_static(coding);
            response.headers_mut().insert(CONTENT_ENCODING, coding);
            response
        }
    };
    let seen = replay(coded("identity"), call(2, "k")).await;
    assert!(seen.text().contains("\"id\":2"), "{seen:?}");
    let seen = replay(coded("gzip"), call(2, "k")).await;
    assert_eq!(
        rejection(&seen),
        (json!(2), "response-unavailable".to_owned())
    );

    let runs = Runs::default();
    let app = layer(|options| options).layer(handler(&runs, |_, request: Request<Bytes>| {
        let accepted = request.headers().get(ACCEPT_ENCODING);
        let accepted = accepted.map_or("", |own| own.to_str().unwrap());
        in_json(json!({ "id": 1, "result": accepted }).to_string())
    }));
    let list = message(&json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/list" }));
    for (sent, accepted) in [(call(1, "k"), "identity"), (list, "gzip, br")] {
        let seen = send(&app, with(sent, "accept-encoding", "gzip, br")).await;
        let message: Value = serde_json::from_slice(&seen.body).unwrap();
        assert_eq!(message["result"], accepted);
    }
}

/// The canonical form of RFC 8785 has no room for these.
#[tokio::test]
async fn arguments_without_a_canonical_form_are_compared_without_the_id() {
    let deep = format!("\"n\":{}{}", "[".repeat(130), "]".repeat(130));
    for (arguments, others) in [
        ("\"n\":1234567890123456789", "\"n\":1234567890123456788"),
        ("\"n\":1,\"n\":1", "\"n\":1,\"n\":2"),
        (&*deep, "\"n\":[]"),
    ] {
        let runs = Runs::default();
        let app = layer(|options| options).layer(server(&runs));
        send(&app, call_in_text("1", arguments)).await;
        let again = send(&app, call_in_text("\"b-2\"", arguments)).await;
        assert!(again.is_replay(), "{arguments}: {again:?}");
        assert!(again.text().contains("\"id\":\"b-2\""));
        let other = send(&app, call_in_text("3", others)).await;
        assert_eq!(rejection(&other), (json!(3), "key-reused".to_owned()));
        assert_eq!(runs.count(), 1);
    }
}

/// A client has a new `id` and a new progress token for each attempt, whatever else is compared.
#[tokio::test]
async fn other_comparisons_leave_out_what_is_new_in_every_attempt_too() {
    let retried = |id: u32, change: &dyn Fn(&mut Value)| {
        let mut call = call_of("pay", id, Some("k"));
        call["params"]["arguments"]["sent_at"] = json!(id);
        call["params"]["_meta"] = json!({ "progressToken": id, "tenant": "a" });
        change(&mut call["params"]);
        message(&call)
    };
    let all = JsonFingerprint::new;
    let amount = || all().include("/params/arguments/amount");
    for (json, has_tenant) in [
        (all().exclude("/params/arguments/sent_at"), false),
        (
            all().include("").exclude("/params/arguments/sent_at"),
            false,
        ),
        (amount(), false),
        (amount().include("/id").include("/params/_meta"), false),
        // A part of `_meta` that is named is compared.
        (amount().include("/params/_meta/tenant"), true),
    ] {
        let runs = Runs::default();
        let app = layer(|options| options.fingerprint_body(FingerprintBody::Json(json.clone())));
        let app = app.layer(server(&runs));
        send(&app, retried(1, &|_| {})).await;
        let again = send(&app, retried(2, &|_| {})).await;
        assert!(again.is_replay(), "{json:?}: {again:?}");
        let other = retried(3, &|params| params["arguments"]["amount"] = json!(43));
        assert_eq!(rejection(&send(&app, other).await).1, "key-reused");
        let tenant = retried(4, &|params| params["_meta"]["tenant"] = json!("b"));
        assert_eq!(send(&app, tenant).await.is_replay(), !has_tenant);
        assert_eq!(runs.count(), 1);
    }

    // Nor is it lost where the arguments have no canonical form.
    let tenant = amount().include("/params/_meta/tenant");
    let app = layer(|options| options.fingerprint_body(FingerprintBody::Json(tenant)));
    let app = app.layer(server(&Runs::default()));
    let long =
        |params: &mut Value| params["arguments"]["amount"] = json!(1_234_567_890_123_456_789_u64);
    send(&app, retried(1, &long)).await;
    assert!(send(&app, retried(1, &long)).await.is_replay());
    let other = retried(1, &|params| {
        long(params);
        params["_meta"]["tenant"] = json!("b");
    });
    assert_eq!(rejection(&send(&app, other).await).1, "key-reused");
}

/// Neither the depth of a message nor its number of values has a bound but its length (G11).
#[tokio::test]
async fn deep_and_long_messages_are_calls_and_answers_like_others() {
    let deep = "[".repeat(100_000) + &"]".repeat(100_000);
    let long = format!("[{}0]", "0,".repeat(100_000));
    let twice = "{\"a\":1,\"a\":2}".to_owned();
    for value in [deep, long, twice] {
        for in_stream in [false, true] {
            let runs = Runs::default();
            let result = format!(r#"{{"id":1,"result":{value}}}"#);
            let events = format!("data: {{\"note\":{value}}}\n\ndata: {result}\n\n");
            let (first, own) = (result.clone(), events.clone());
            let app =
                layer(|options| options).layer(handler(&runs, move |_, _: Request<Bytes>| {
                    if in_stream {
                        in_events(own.clone())
                    } else {
                        in_json(first.clone())
                    }
                }));
            let arguments = format!("\"n\":{value}");
            send(&app, call_in_text("1", &arguments)).await;
            let again = send(&app, call_in_text("2", &arguments)).await;
            assert!(again.is_replay());
            let whole = if in_stream { events } else { result };
            assert!(again.text() == whole.replace("\"id\":1", "\"id\":2"));
            assert_eq!(runs.count(), 1);
        }
    }
}

#[tokio::test]
async fn a_key_header_that_can_not_be_read_is_refused_in_the_form_of_the_preset() {
    let runs = Runs::default();
    let app = layer(|options| options).layer(server(&runs));
    let seen = send(&app, with(call(1, "k"), "idempotency-key", "")).await;
    assert_eq!(rejection(&seen), (Value::Null, "key-invalid".to_owned()));
    assert_eq!(runs.count(), 0);
    let required = layer(|options| options.require(Require::Required)).layer(server(&runs));
    let other_type = with(
        without(call(1, "k"), "content-type"),
        "content-type",
        "text/plain",
    );
    let seen = send(&required, other_type).await;
    assert_eq!(rejection(&seen), (Value::Null, "key-required".to_owned()));
}

/// A layer that is further in renders its rejections in its own form.
#[tokio::test]
async fn a_message_that_is_passed_on_is_as_it_came() {
    let inner = |options: RouteOptions| options.header("other-key").require(Require::Required);
    let inner: IdempotencyLayer = builder(&MemoryStore::new())
        .defaults(inner)
        .build()
        .unwrap();
    let runs = Runs::default();
    let app = layer(|options| options).layer(inner.layer(server(&runs)));
    let seen = send(&app, message(&call_of("pay", 1, None))).await;
    assert_eq!(seen.refusal(), "400 key-required");
    assert_eq!(runs.count(), 0);
}

/// A long record is searched on a thread of its own (G11): while there is none, short requests go on.
#[test]
fn a_long_replay_holds_up_no_other_request() {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime
        .enable_all()
        .max_blocking_threads(1)
        .build()
        .unwrap();
    runtime.block_on(async {
        let runs = Runs::default();
        let app = layer(|options| options).layer(handler(&runs, |_, _: Request<Bytes>| {
            let long = "x".repeat(200 * 1024);
            in_json(json!({ "jsonrpc": "2.0", "id": 1, "result": long }).to_string())
        }));
        let first = send(&app, call(1, "k")).await;
        let (free, held) = std::sync::mpsc::channel::<()>();
        let holding = tokio::task::spawn_blocking(move || held.recv());
        let mut again = std::pin::pin!(send(&app, call(2, "k")));
        for _ in 0..3 {
            assert!(poll_once(again.as_mut()).await.is_none());
            tokio::task::yield_now().await;
        }
        let list = message(&json!({ "jsonrpc": "2.0", "id": 3, "method": "tools/list" }));
        assert_eq!(send(&app, list).await.status, 200);
        free.send(()).unwrap();
        holding.await.unwrap().unwrap();
        let again = again.await;
        assert!(again.is_replay());
        assert_eq!(again.text(), first.text().replace("\"id\":1", "\"id\":2"));
    });
}

async fn poll_once<F: Future>(mut future: std::pin::Pin<&mut F>) -> Option<F::Output> {
    std::future::poll_fn(|cx| match future.as_mut().poll(cx) {
        std::task::Poll::Ready(done) => std::task::Poll::Ready(Some(done)),
        std::task::Poll::Pending => std::task::Poll::Ready(None),
    })
    .await
}
