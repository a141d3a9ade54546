//! The option `replay_json`.

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response};
use http_body_util::Full;
use tower::Layer;
use tower_idempotency::options::{EventStreams, FingerprintBody, JsonFingerprint, ReplayedMember};
use tower_idempotency::{IdempotencyLayer, MemoryStore, RouteOptions};

use crate::support::body::{Script, Step};
use crate::support::{Runs, Seen, builder, handler, request, send, with, with_policy};

const JSON: &str = "application/json";

fn ask(key: &str, body: impl Into<Bytes>) -> Request<Full<Bytes>> {
    let request = request(Method::POST, "/rpc", Full::new(body.into()));
    with(with(request, "content-type", JSON), "idempotency-key", key)
}

/// JSON-RPC: the id does not count, and a replay has that of the retry.
fn rpc(options: RouteOptions) -> RouteOptions {
    let json = JsonFingerprint::new().exclude("/id");
    options
        .fingerprint_body(FingerprintBody::Json(json))
        .replay_json("/id", ReplayedMember::of_request("/id"))
}

/// The second response to the same request under id 1 and 2.
async fn twice(
    layer: &IdempotencyLayer,
    headers: &[(&'static str, &'static str)],
    body: &str,
) -> Seen {
    let fields = headers.iter().map(|(name, value)| {
        let name = http::HeaderName::from_static(name);
        (name, http::HeaderValue::from_static(value))
    });
    let (fields, body) = (fields.collect::<HeaderMap>(), body.to_owned());
    let app = layer.layer(handler(&Runs::default(), move |_, _| {
        let mut response = Response::new(Full::new(Bytes::from(body.clone())));
        *response.headers_mut() = fields.clone();
        response
    }));
    let first = send(&app, ask("k", r#"{"id":1,"n":0}"#)).await;
    assert!(!first.is_replay());
    let retry = send(&app, ask("k", r#"{"id":"two","n":0}"#)).await;
    assert!(retry.is_replay(), "{retry:?}");
    retry
}

#[tokio::test]
async fn a_replay_has_the_id_of_its_own_request_and_every_other_byte_of_the_first_one() {
    let layer = with_policy(&MemoryStore::new(), rpc);
    let headers = [
        ("content-type", "application/json; charset=utf-8"),
        ("content-length", "42"),
        ("etag", "\"a\""),
        ("digest", "sha-256=x"),
        ("content-digest", "sha-256=:x:"),
        ("repr-digest", "sha-256=:x:"),
        ("x-other", "stays"),
    ];
    let body = "{ \"id\" : 1,\n\t\"result\": {\"id\":1, \"n\":1.0} }";
    let retry = twice(&layer, &headers, body).await;
    assert_eq!(retry.text(), body.replace("\"id\" : 1", "\"id\" : \"two\""));
    assert_eq!(retry.header("content-length"), Some("46"));
    assert_eq!(retry.header("x-other"), Some("stays"));
    for gone in ["etag", "digest", "content-digest", "repr-digest"] {
        assert_eq!(retry.header(gone), None);
    }
}

#[tokio::test]
async fn what_can_not_be_read_is_replayed_as_it_is() {
    let json = ("content-type", JSON);
    for (headers, body) in [
        (
            &[json, ("content-encoding", "gzip"), ("etag", "\"a\"")][..],
            "{\"id\":1}",
        ),
        (
            &[("content-type", "text/plain"), ("etag", "\"a\"")],
            "{\"id\":1}",
        ),
        (&[("etag", "\"a\"")], "{\"id\":1}"),
        (&[json, ("etag", "\"a\"")], "{\"id\":1"),
        (&[json, ("etag", "\"a\"")], "[{\"id\":1}]"),
        (&[json, ("etag", "\"a\"")], "{\"result\":{}}"),
        (&[json, ("etag", "\"a\"")], "{\"id\":1,\"id\":1}"),
        (
            &[json, ("etag", "\"a\"")],
            "{\"jsonrpc\":\"2.0\",\"method\":\"ping\",\"id\":1}",
        ),
        (&[json, ("etag", "\"a\"")], ""),
    ] {
        let retry = twice(&with_policy(&MemoryStore::new(), rpc), headers, body).await;
        assert_eq!(retry.text(), body);
        assert_eq!(retry.header("etag"), Some("\"a\""));
    }
}

#[tokio::test]
async fn a_constant_is_set_or_added() {
    let constants = |options: RouteOptions| {
        let options = options.replay_json("/replayed", ReplayedMember::constant(true));
        let json = JsonFingerprint::new().exclude("/id");
        options
            .replay_json("/meta/note", ReplayedMember::constant("again"))
            .fingerprint_body(FingerprintBody::Json(json))
    };
    let headers = [("content-type", JSON)];
    for (body, replayed) in [
        ("{}", "{\"replayed\":true}"),
        ("{\"replayed\": false}", "{\"replayed\": true}"),
        (
            "{\"meta\":{ },\"n\":1 }",
            "{\"meta\":{\"note\":\"again\" },\"n\":1,\"replayed\":true }",
        ),
    ] {
        let layer = with_policy(&MemoryStore::new(), constants);
        assert_eq!(twice(&layer, &headers, body).await.text(), replayed);
    }
}

#[tokio::test]
async fn a_large_response_is_set_on_another_thread_and_a_retry_that_inflates_it_is_refused() {
    let headers = [("content-type", JSON)];
    let large = format!("{{\"x\":\"{}\",\"id\":1}}", "x".repeat(300 << 10));
    let retry = twice(&with_policy(&MemoryStore::new(), rpc), &headers, &large).await;
    assert_eq!(retry.text(), large.replace("\"id\":1", "\"id\":\"two\""));

    let layer = with_policy(&MemoryStore::new(), |options| {
        rpc(options).max_recorded_body(100)
    });
    let app = layer.layer(handler(&Runs::default(), |_, _| {
        let mut response = Response::new(Full::new(Bytes::from("{\"id\":1}")));
        response
            .headers_mut()
            .insert("content-type", JSON.parse().unwrap());
        response
    }));
    send(&app, ask("k", "{\"id\":1,\"n\":0}")).await;
    let inflated = format!("{{\"id\":\"{}\",\"n\":0}}", "x".repeat(70 << 10));
    let refused = send(&app, ask("k", inflated)).await;
    assert_eq!(refused.refusal(), "409 response-unavailable");
}

/// What is searched is bounded by its length alone (G11).
#[tokio::test]
async fn deep_and_long_responses_are_set_like_others() {
    let deep = "[".repeat(200_000) + &"]".repeat(200_000);
    let long = format!("[{}0]", "0,".repeat(200_000));
    for value in [deep, long, "{\"a\":1,\"a\":2}".to_owned()] {
        let body = format!("{{\"x\":{value},\"id\":1}}");
        let layer = with_policy(&MemoryStore::new(), rpc);
        let retry = twice(&layer, &[("content-type", JSON)], &body).await;
        assert!(retry.text() == body.replace("\"id\":1", "\"id\":\"two\""));
    }
    let many = "data: {\"n\":1}\n\nid\n\n".repeat(20_000);
    let layer = with_policy(&MemoryStore::new(), |options| {
        let options = options.event_streams(EventStreams::Record);
        rpc(options).replay_json("/n", ReplayedMember::constant(2))
    });
    let retry = twice(&layer, &[("content-type", "text/event-stream")], &many).await;
    assert!(retry.text() == many.replace('1', "2"));
}

/// A replay whose id could not be set would be the answer to another request.
#[tokio::test(start_paused = true)]
async fn without_room_for_the_body_there_is_no_replay_that_needs_it() {
    let layer = builder(&MemoryStore::new())
        .defaults(|options| {
            let id = ReplayedMember::of_request("/id");
            options.replay_json("/id", id).max_request_body(100)
        })
        .max_buffered_bytes(100)
        .max_buffered_bytes_per_caller(100)
        .build()
        .unwrap();
    let app = layer.layer(handler(&Runs::default(), |_, _| {
        Response::new(Full::<Bytes>::default())
    }));
    let asked = |key, body: Script| {
        let request = with(request(Method::POST, "/", body), "content-type", JSON);
        with(request, "idempotency-key", key)
    };
    let body = || Script::frames(["{\"id\":1}"]).announcing(8);
    send(&app, asked("a", body())).await;
    let stuck = Script::new([Step::Wait(std::time::Duration::from_secs(20))]).announcing(95);
    let stuck = tokio::spawn({
        let (app, asked) = (app.clone(), asked("b", stuck));
        async move { send(&app, asked).await }
    });
    tokio::task::yield_now().await;
    let refused = send(&app, asked("a", body())).await;
    assert_eq!(refused.refusal(), "503 over-capacity");
    stuck.abort();
}

#[cfg(feature = "encryption")]
#[tokio::test]
async fn a_response_that_was_encrypted_at_rest_is_set() {
    let layer = builder(&MemoryStore::new())
        .defaults(rpc)
        .secrets(["a secret of thirty-two characters"])
        .encryption(tower_idempotency::store::Encryption::xchacha20_poly1305())
        .build()
        .unwrap();
    let retry = twice(&layer, &[("content-type", JSON)], "{\"id\":1}").await;
    assert_eq!(retry.text(), "{\"id\":\"two\"}");
}

#[test]
fn wrong_pointers_are_config_errors() {
    type Change = fn(RouteOptions) -> RouteOptions;
    let wrong: [Change; 4] = [
        |options| options.replay_json("id", ReplayedMember::constant(1)),
        |options| options.replay_json("", ReplayedMember::constant(1)),
        |options| options.replay_json("/id", ReplayedMember::of_request("id")),
        |options| {
            let options = options.replay_json("/a", ReplayedMember::constant(1));
            options.replay_json("/a/b", ReplayedMember::constant(1))
        },
    ];
    for change in wrong {
        let built = builder(&MemoryStore::new()).defaults(change).build();
        assert_eq!(built.unwrap_err().option(), "replay_json");
    }
}
