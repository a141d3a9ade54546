//! The option `key_in_body`.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::Full;
use tower::Layer;
use tower_idempotency::options::{
    FingerprintBody, JsonFingerprint, KeyFormat, KeysPer, OnInFlight, Require,
};
use tower_idempotency::{IdempotencyContext, IdempotencyLayer, MemoryStore, RequestTrailers};
use tower_idempotency::{RouteOptions, scope};

use crate::support::body::{Script, Step};
use crate::support::{
    API_KEY, Gate, Runs, answer, builder, by, counting, handler, held_back, request, send, with,
    with_policy, without,
};

const JSON: &str = "application/json";

/// A JSON request without a header for the key.
fn ask(body: impl Into<Bytes>) -> Request<Full<Bytes>> {
    let body = Full::new(body.into());
    with(
        request(Method::POST, "/payments", body),
        "content-type",
        JSON,
    )
}

fn in_header<B>(key: &str, request: Request<B>) -> Request<B> {
    with(request, "idempotency-key", key)
}

fn layer(change: impl FnOnce(RouteOptions) -> RouteOptions) -> IdempotencyLayer {
    with_policy(&MemoryStore::new(), |options| {
        change(options.key_in_body(["/key", "/meta/idempotency-key"]))
    })
}

#[tokio::test]
async fn a_member_of_the_body_is_the_key() {
    let runs = Runs::default();
    let app = layer(|options| options).layer(counting(&runs));
    let first = send(&app, ask(r#"{"key":"a","n":1}"#)).await;
    first.assert_fresh("run 1");
    send(&app, ask(r#"{"key":"a","n":1}"#))
        .await
        .assert_replays(&first);
    let reused = send(&app, ask(r#"{"key":"a","n":2}"#)).await;
    assert_eq!(reused.refusal(), "422 key-reused");
    let deeper = ask(r#"{"meta":{"idempotency-key":"b"}}"#);
    send(&app, deeper).await.assert_fresh("run 2");
    let another = by("bob", ask(r#"{"key":"a","n":1}"#));
    send(&app, another).await.assert_fresh("run 3");
    assert_eq!(runs.count(), 3);
}

/// The same key by a header is the same operation, wherever it stands.
#[tokio::test]
async fn the_key_of_a_header_and_that_of_a_body_are_one() {
    let json = FingerprintBody::Json(JsonFingerprint::new());
    let app = layer(|options| options.fingerprint_body(json)).layer(counting(&Runs::default()));
    let first = send(&app, in_header("a", ask(r#"{"n":1}"#))).await;
    first.assert_fresh("run 1");
    for same in [
        ask(r#"{"n":1,"key":"a"}"#),
        ask(r#"{"n":1,"key":"\u0061"}"#),
        ask(r#"{"meta":{"idempotency-key":"a"},"n":1}"#),
        in_header("\"a\"", ask(r#"{"key":"a","n":1.0}"#)),
    ] {
        let seen = send(&app, same).await;
        if seen.status == 422 {
            // The object around the member counts.
            assert_eq!(seen.refusal(), "422 key-reused");
            continue;
        }
        seen.assert_replays(&first);
    }
    let differ = send(&app, in_header("a", ask(r#"{"key":"b","n":1}"#))).await;
    assert_eq!(differ.refusal(), "400 key-invalid");
    assert!(
        differ
            .text()
            .contains("Idempotency-Key and the body's member /key differ")
    );
}

#[tokio::test]
async fn with_bytes_the_member_counts_as_it_is_written() {
    let app = layer(|options| options).layer(counting(&Runs::default()));
    let first = send(&app, ask(r#"{"key":"a"}"#)).await;
    send(&app, in_header("a", ask(r#"{"key":"a"}"#)))
        .await
        .assert_replays(&first);
    for other in [ask(r#"{"key":"\u0061"}"#), in_header("a", ask("{}"))] {
        assert_eq!(send(&app, other).await.refusal(), "422 key-reused");
    }
}

#[tokio::test]
async fn the_member_does_not_count_where_bodies_are_compared_as_json() {
    let json = JsonFingerprint::new().include("/key").include("/n");
    let json = FingerprintBody::Json(json);
    let app = layer(|options| options.fingerprint_body(json)).layer(counting(&Runs::default()));
    let first = send(&app, in_header("a", ask(r#"{"n":1}"#))).await;
    send(&app, ask(r#"{"key":"a","n":1,"x":2}"#))
        .await
        .assert_replays(&first);
    let other = send(&app, ask(r#"{"key":"a","n":2}"#)).await;
    assert_eq!(other.refusal(), "422 key-reused");
}

/// A pointer finds no key in an array, and what stands there counts.
#[tokio::test]
async fn what_is_not_the_key_is_not_left_out() {
    let json = FingerprintBody::Json(JsonFingerprint::new());
    let layer = with_policy(&MemoryStore::new(), |options| {
        options.key_in_body(["/0"]).fingerprint_body(json)
    });
    let app = layer.layer(counting(&Runs::default()));
    send(&app, in_header("a", ask("[1,2]")))
        .await
        .assert_fresh("run 1");
    let other = send(&app, in_header("a", ask("[3,2]"))).await;
    assert_eq!(other.refusal(), "422 key-reused");
}

#[tokio::test]
async fn the_first_pointer_that_finds_something_decides() {
    let app = layer(|options| options).layer(counting(&Runs::default()));
    let both = |key: &str| {
        ask(format!(
            r#"{{"meta":{{"idempotency-key":"b"}},"key":{key}}}"#
        ))
    };
    let first = send(&app, both("\"a\"")).await;
    send(&app, both("\"a\"")).await.assert_replays(&first);
    send(&app, both("\"c\"")).await.assert_fresh("run 2");
    assert_eq!(send(&app, both("7")).await.refusal(), "400 key-invalid");
}

#[tokio::test]
async fn a_member_that_is_no_key_is_rejected() {
    let runs = Runs::default();
    let app = layer(|options| options.key_length(2..=36)).layer(counting(&runs));
    for (member, refusal) in [
        ("null", "400 key-invalid"),
        ("7", "400 key-invalid"),
        ("true", "400 key-invalid"),
        ("[\"ab\"]", "400 key-invalid"),
        ("{\"a\":\"b\"}", "400 key-invalid"),
        (r#""""#, "400 key-invalid"),
        (r#""a\nb""#, "400 key-invalid"),
        ("\"a\u{e9}\"", "400 key-invalid"),
        (r#""a""#, "400 key-too-short"),
        (
            r#""aaaaaaaaaabbbbbbbbbbccccccccccddddddddddeeeeeeeeee""#,
            "400 key-too-long",
        ),
    ] {
        let seen = send(&app, ask(format!("{{\"key\":{member}}}"))).await;
        assert_eq!(seen.refusal(), refusal, "{member}");
        assert!(
            seen.text().contains("The body's member /key "),
            "{}",
            seen.text()
        );
    }
    assert_eq!(runs.count(), 0);
    let uuid = layer(|options| options.key_format(KeyFormat::uuid()));
    let app = uuid.layer(counting(&runs));
    assert_eq!(
        send(&app, ask(r#"{"key":"ab"}"#)).await.refusal(),
        "400 key-invalid"
    );
    let quoted = send(
        &app,
        ask(r#"{"key":"\"2fd4e1c6-7a2d-48fc-a1ed-99a0b5c3c2f1\""}"#),
    )
    .await;
    assert_eq!(quoted.refusal(), "400 key-invalid");
    let key = ask(r#"{"key":"2fd4e1c6-7a2d-48fc-a1ed-99a0b5c3c2f1"}"#);
    send(&app, key).await.assert_fresh("run 1");
}

/// What a handler saw of a request.
type Asked = Arc<Mutex<Vec<(Bytes, bool, Option<RequestTrailers>)>>>;

fn watching<B>(
    runs: &Runs,
    seen: &Asked,
) -> impl tower::Service<
    Request<B>,
    Response = http::Response<Full<Bytes>>,
    Error = std::convert::Infallible,
    Future: Send + 'static,
> + Clone
+ Send
+ 'static
where
    B: http_body::Body<Data: Send, Error: std::fmt::Debug> + Send + 'static,
{
    let seen = Arc::clone(seen);
    handler(runs, move |_, request| {
        let extensions = request.extensions();
        let context = extensions.get::<IdempotencyContext>().is_some();
        let trailers = extensions.get::<RequestTrailers>().cloned();
        let body = request.body().clone();
        seen.lock().unwrap().push((body, context, trailers));
        answer(StatusCode::OK, "seen")
    })
}

#[tokio::test]
async fn a_body_without_a_key_is_passed_on_byte_for_byte() {
    let (runs, seen) = (Runs::default(), Asked::default());
    let app = layer(|options| options).layer(watching(&runs, &seen));
    let no_keys = [
        "{ \"n\" : 1 }",
        "",
        "{\"key\":\"a\"",
        "{\"key\":\"a\"} {}",
        "{\"key\":\"a\",\"key\":\"a\"}",
        "[{\"key\":\"a\"}]",
        "{\"meta\":\"idempotency-key\"}",
        "\"key\"",
        "{\"meta\":[{\"idempotency-key\":\"a\"}]}",
        "{\"Key\":\"a\",\"ke\":\"y\",\"x\":{\"key\":\"a\"}}",
        "\u{feff}{\"key\":\"a\"}",
    ];
    for body in no_keys {
        let response = send(&app, ask(body)).await;
        assert_eq!(
            (response.status, response.is_replay()),
            (200, false),
            "{body}"
        );
        let (own, context, _) = seen.lock().unwrap().pop().unwrap();
        assert_eq!((&*own, context), (body.as_bytes(), false));
    }
    let bytes = &b"{\"key\":\"a\",\"x\":\"\xff\"}"[..];
    send(&app, ask(bytes)).await;
    assert_eq!(&*seen.lock().unwrap().pop().unwrap().0, bytes);
}

#[tokio::test]
async fn a_required_key_can_be_in_the_body() {
    let app = layer(|options| options.require(Require::Required)).layer(counting(&Runs::default()));
    send(&app, ask(r#"{"key":"a"}"#))
        .await
        .assert_fresh("run 1");
    for none in [
        ask("{}"),
        ask("no JSON"),
        with(ask(r#"{"key":"b"}"#), "content-type", "text/plain"),
    ] {
        let refused = send(&app, none).await;
        assert_eq!(refused.refusal(), "400 key-required");
        let text = "the header Idempotency-Key, or in its JSON body the member /key or \
                    /meta/idempotency-key: 1 to 255";
        assert!(refused.text().contains(text), "{}", refused.text());
    }
}

#[tokio::test]
async fn trailers_go_along_with_a_body_that_was_read_for_a_key() {
    for body in ["{}", "{\"key\":\"a\"}"] {
        let (runs, seen) = (Runs::default(), Asked::default());
        let app = layer(|options| options).layer(watching(&runs, &seen));
        let script = Script::frames([body]).and_trailer("x-sum", "7");
        let asked = with(request(Method::POST, "/", script), "content-type", JSON);
        send(&app, asked).await;
        let (_, _, trailers) = seen.lock().unwrap().pop().unwrap();
        assert_eq!(trailers.unwrap().0["x-sum"], "7");
    }
}

/// G8: what is not JSON can have no key, and is not even polled.
#[tokio::test]
async fn what_is_not_json_is_passed_on_unread() {
    let app = layer(|options| options.max_request_body(3));
    for content_type in [Some("text/plain"), Some("application/octet-stream"), None] {
        let body = Script::frames(["{\"key\":\"a\"}"]);
        let polls = Arc::new(body.polls());
        let asked = match content_type {
            Some(own) => with(request(Method::POST, "/", body), "content-type", own),
            None => request(Method::POST, "/", body),
        };
        let app = app.layer(tower::service_fn(move |request: Request<Script>| {
            assert_eq!(polls(), 0);
            async { Ok::<_, std::convert::Infallible>(http::Response::new(request.into_body())) }
        }));
        assert_eq!(send(&app, asked).await.text(), "{\"key\":\"a\"}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_json_body_is_bounded_with_and_without_a_key() {
    let app = layer(|options| {
        options
            .max_request_body(20)
            .body_timeout(Duration::from_secs(5))
    });
    let runs = Runs::default();
    let app = app.layer(counting::<Script>(&runs));
    let asked = |body| with(request(Method::POST, "/", body), "content-type", JSON);
    for large in [
        Script::frames(["{\"key\":\"a\"}          "]).announcing(21),
        Script::frames(["{\"key\":", "\"a\"}", "            "]),
        Script::frames(["{\"x\":\"", "0123456789012345\"}"]),
    ] {
        assert_eq!(
            send(&app, asked(large)).await.refusal(),
            "413 body-too-large"
        );
    }
    let slow = Script::new([Step::Wait(Duration::from_secs(6))]);
    assert_eq!(send(&app, asked(slow)).await.refusal(), "408 body-timeout");
    let cut = Script::frames(["{}"]).announcing(10);
    assert_eq!(
        send(&app, asked(cut)).await.refusal(),
        "400 body-unreadable"
    );
    assert_eq!(runs.count(), 0);
}

/// G11: what is read for a key counts for its caller.
#[tokio::test(start_paused = true)]
async fn a_caller_whose_bodies_do_not_come_fills_its_own_share_alone() {
    let layer = builder(&MemoryStore::new())
        .defaults(|options| options.key_in_body(["/key"]).max_request_body(100))
        .max_buffered_bytes(1000)
        .max_buffered_bytes_per_caller(100)
        .build()
        .unwrap();
    let app = layer.layer(counting::<Script>(&Runs::default()));
    let asked = |caller, body| {
        let asked = with(request(Method::POST, "/", body), "content-type", JSON);
        by(caller, asked)
    };
    let stuck = Script::new([Step::Wait(Duration::from_secs(20))]).announcing(90);
    let stuck = tokio::spawn({
        let (app, asked) = (app.clone(), asked("alice", stuck));
        async move { send(&app, asked).await }
    });
    tokio::task::yield_now().await;
    let body = || Script::frames(["{\"key\":\"a\",\"n\":1}"]);
    let own = send(&app, asked("alice", body())).await;
    assert_eq!(own.refusal(), "503 over-capacity");
    let other = send(&app, asked("bob", body())).await;
    other.assert_fresh("run 1");
    stuck.abort();
    let _ = stuck.await;
    send(&app, asked("alice", body()))
        .await
        .assert_fresh("run 2");
}

/// A replay is given to a key in a header although there is no room for the body.
#[tokio::test(start_paused = true)]
async fn without_room_the_key_of_a_header_finds_its_record() {
    let layer = builder(&MemoryStore::new())
        .defaults(|options| options.key_in_body(["/key"]).max_request_body(100))
        .max_buffered_bytes(100)
        .max_buffered_bytes_per_caller(100)
        .build()
        .unwrap();
    let app = layer.layer(counting::<Script>(&Runs::default()));
    let asked = |body: Script| with(request(Method::POST, "/", body), "content-type", JSON);
    let body = || Script::frames(["{\"key\":\"a\",\"n\":1}"]).announcing(17);
    let first = send(&app, in_header("a", asked(body()))).await;
    first.assert_fresh("run 1");
    let stuck = Script::new([Step::Wait(Duration::from_secs(20))]).announcing(90);
    let stuck = tokio::spawn({
        let (app, asked) = (app.clone(), asked(stuck));
        async move { send(&app, asked).await }
    });
    tokio::task::yield_now().await;
    send(&app, in_header("a", asked(body())))
        .await
        .assert_replays(&first);
    assert_eq!(
        send(&app, asked(body())).await.refusal(),
        "503 over-capacity"
    );
    stuck.abort();
}

#[tokio::test]
async fn a_request_without_a_key_needs_no_caller() {
    let runs = Runs::default();
    let app = layer(|options| options).layer(counting(&runs));
    let nobody = |body: &'static str| without(ask(body), API_KEY);
    send(&app, nobody("{}")).await.assert_fresh("run 1");
    for keyed in [nobody("{\"key\":\"a\"}"), in_header("a", nobody("{}"))] {
        assert_eq!(send(&app, keyed).await.refusal(), "400 scope-missing");
    }
    assert_eq!(runs.count(), 1);
}

#[tokio::test]
async fn duplicates_wait_for_the_first_one_and_are_given_its_response() {
    let (runs, gate) = (Runs::default(), Gate::closed());
    let wait = OnInFlight::Wait(Duration::from_secs(60));
    let app = layer(|options| options.on_in_flight(wait)).layer(held_back(&runs, &gate));
    let twice: Vec<_> = (0..5)
        .map(|_| {
            let app = app.clone();
            tokio::spawn(async move { send(&app, ask("{\"key\":\"a\"}")).await })
        })
        .collect();
    gate.begun().await;
    gate.open();
    let mut fresh = 0;
    for seen in twice {
        let seen = seen.await.unwrap();
        assert_eq!(seen.text(), "run 1");
        fresh += usize::from(!seen.is_replay());
    }
    assert_eq!((fresh, runs.count()), (1, 1));
}

/// G4: the client leaves while the handler runs.
#[tokio::test]
async fn an_operation_goes_on_without_its_client() {
    let (runs, gate) = (Runs::default(), Gate::closed());
    let layer = layer(|options| options);
    let app = layer.layer(held_back(&runs, &gate));
    let asked = tokio::spawn({
        let app = app.clone();
        async move { send(&app, ask("{\"key\":\"a\"}")).await }
    });
    gate.begun().await;
    asked.abort();
    let _ = asked.await;
    let early = send(&app, ask("{\"key\":\"a\"}")).await;
    assert_eq!(early.refusal(), "409 in-flight");
    gate.open();
    assert_eq!(layer.drain(Duration::from_secs(10)).await, 0);
    let retry = send(&app, ask("{\"key\":\"a\"}")).await;
    assert_eq!(
        (retry.text(), retry.is_replay(), runs.count()),
        ("run 1", true, 1)
    );
}

#[tokio::test]
async fn a_large_body_is_searched_and_compared_whole() {
    let app = layer(|options| options).layer(counting(&Runs::default()));
    let large = |n| {
        format!(
            "{{\"x\":\"{}\",\"n\":{n},\"key\":\"a\"}}",
            "x".repeat(300 << 10)
        )
    };
    let first = send(&app, ask(large(1))).await;
    first.assert_fresh("run 1");
    send(&app, ask(large(1))).await.assert_replays(&first);
    assert_eq!(send(&app, ask(large(2))).await.refusal(), "422 key-reused");
}

#[tokio::test]
async fn keys_of_routes_are_apart_and_the_key_is_not_echoed() {
    let app = layer(|options| options.keys_per(KeysPer::Route).echo_key(true));
    let app = app.layer(counting(&Runs::default()));
    let first = send(&app, ask("{\"key\":\"a\"}")).await;
    assert_eq!(first.header("idempotency-key"), None);
    let elsewhere = crate::support::to("/refunds", ask("{\"key\":\"a\"}"));
    send(&app, elsewhere).await.assert_fresh("run 2");
    let header = send(&app, in_header("a", ask("{\"key\":\"a\"}"))).await;
    header.assert_replays(&first);
    assert_eq!(header.header("idempotency-key"), Some("a"));
}

/// Two clones of one layer: the inner one finds the operation of the outer one, even with a body that
/// it would not have read.
#[tokio::test]
async fn a_clone_further_in_passes_what_the_outer_one_protects() {
    let layer = builder(&MemoryStore::new())
        .defaults(|options| options.key_in_body(["/key"]).max_request_body(30))
        .max_buffered_bytes(30)
        .max_buffered_bytes_per_caller(30)
        .build()
        .unwrap();
    let runs = Runs::default();
    let app = layer.layer(layer.layer(counting_twice(&runs)));
    let first = send(&app, ask("{\"key\":\"a\",\"n\":12345678}")).await;
    first.assert_fresh("run 1");
    send(&app, ask("{\"key\":\"a\",\"n\":12345678}"))
        .await
        .assert_replays(&first);
    assert_eq!(runs.count(), 1);
}

fn counting_twice(
    runs: &Runs,
) -> impl tower::Service<
    Request<Full<Bytes>>,
    Response = http::Response<Full<Bytes>>,
    Error = std::convert::Infallible,
    Future: Send + 'static,
> + Clone
+ Send
+ 'static {
    counting(runs)
}

#[test]
fn wrong_pointers_are_config_errors() {
    for (wrong, message) in [
        (
            &["key"][..],
            "names `key`, which is not a JSON pointer: it must start with `/`",
        ),
        (
            &[""],
            "names ``, which is not a JSON pointer: it must start with `/`",
        ),
        (
            &["/a~2"],
            "names `/a~2`, in which a `~` must be followed by `0` or `1`",
        ),
        (
            &["/a", "/b", "/a"],
            "names `/a` beside `/a`: one contains the other",
        ),
        (
            &["/a/b", "/a"],
            "names `/a` beside `/a/b`: one contains the other",
        ),
    ] {
        let store = MemoryStore::new();
        let built = IdempotencyLayer::builder(store, scope::shared())
            .defaults(|options| options.key_in_body(wrong))
            .build();
        let error = built.unwrap_err();
        assert_eq!(error.option(), "key_in_body");
        assert!(error.to_string().contains(message), "{error}");
    }
}

#[test]
fn a_json_request_may_be_protected() {
    let layer = layer(|options| options);
    let protects = |request: Request<Full<Bytes>>| layer.protects(&request.into_parts().0);
    assert!(protects(ask("{}")));
    assert!(!protects(with(ask("{}"), "content-type", "text/plain")));
}
