//! Every store: what was encrypted at rest is replayed with the members of the retry in it, from JSON
//! and from streams of events.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody};
use tower::{Layer, ServiceExt, service_fn};
use tower_idempotency::options::{
    EventStreams, FingerprintBody, JsonFingerprint, ReplayedMember, RouteOptions,
};
use tower_idempotency::store::{AnyStore, Encryption};
use tower_idempotency::{IdempotencyLayer, scope};

use super::any::all;

const RESULT: &str = r#"{"jsonrpc":"2.0","id":1,"result":{"n":1.50}}"#;

fn by_id(options: RouteOptions) -> RouteOptions {
    let json = JsonFingerprint::new().exclude("/id");
    options
        .event_streams(EventStreams::Record)
        .fingerprint_body(FingerprintBody::Json(json))
        .replay_json("/id", ReplayedMember::of_request("/id"))
        .replay_json("/replayed", ReplayedMember::constant(true))
}

fn ask(key: &str, id: &str) -> Request<Full<Bytes>> {
    let call = format!(
        r#"{{"id":{id},"method":"tools/call","params":{{"name":"pay","arguments":{{"meta":{{"idempotency-key":"{key}"}}}}}}}}"#
    );
    let request = Request::post("/").header("content-type", "application/json");
    let request = request.header("idempotency-key", key);
    request.body(call.into()).unwrap()
}

/// What the first request gets, and a retry in another process.
async fn twice(
    url: &str,
    options: fn(RouteOptions) -> RouteOptions,
    kind: &'static str,
    frames: &[String],
) -> [String; 2] {
    let key = format!("{:x}", rand::random::<u128>());
    let mut seen = Vec::new();
    for id in ["1", "\"b-2\""] {
        let layer =
            IdempotencyLayer::builder(AnyStore::connect(url).await.unwrap(), scope::shared())
                .secrets(["a secret of more than 16 bytes"])
                .encryption(Encryption::xchacha20_poly1305())
                // The first call of a store makes its connections.
                .store_timeout(Duration::from_secs(20))
                .defaults(options)
                .build()
                .unwrap();
        let frames = frames.to_vec();
        let app = layer.layer(service_fn(move |_: Request<Full<Bytes>>| {
            let frames = frames.clone().into_iter();
            let frames = frames.map(|own| Ok::<_, std::io::Error>(Frame::data(Bytes::from(own))));
            let body = StreamBody::new(tokio_stream::iter(frames));
            let response = Response::builder().header("content-type", kind);
            async move { Ok::<_, std::convert::Infallible>(response.body(body).unwrap()) }
        }));
        let response = app.oneshot(ask(&key, id)).await.unwrap();
        let is_replay = response.headers().contains_key("idempotency-replayed");
        assert_eq!(is_replay, id != "1", "{url}");
        let body = response.into_body().collect().await.unwrap().to_bytes();
        seen.push(String::from_utf8(body.to_vec()).unwrap());
    }
    seen.try_into().unwrap()
}

#[tokio::test]
async fn a_retry_gets_its_own_members_in_an_encrypted_record() {
    let note = format!("data: {{\"note\":\"{}\"}}\r\n\r\n", "x".repeat(100_000));
    let events = [note, format!("id: 7\r\ndata: {RESULT}\r\n\r\n")];
    for url in all() {
        AnyStore::migrate(&url).await.unwrap();
        let [first, again] = twice(&url, by_id, "application/json", &[RESULT.to_owned()]).await;
        assert_eq!(first, RESULT);
        let own = RESULT.replace("\"id\":1", "\"id\":\"b-2\"");
        let marked = own.replace("}}", "},\"replayed\":true}");
        assert_eq!(again, marked);

        let [first, again] = twice(&url, by_id, "text/event-stream", &events).await;
        assert_eq!(first, events.concat());
        let expected = events.concat().replace(RESULT, &marked);
        assert_eq!(again, expected.replace("x\"}", "x\",\"replayed\":true}"));

        let mcp = RouteOptions::mcp;
        let [first, again] = twice(&url, mcp, "text/event-stream", &events).await;
        assert_eq!(first, events.concat());
        let expected = events.concat().replace(RESULT, &own);
        assert_eq!(again, expected.replace("id: 7\r\n", ""));
    }
}
