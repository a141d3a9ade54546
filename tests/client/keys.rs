//! Keys: how the client makes them, and how they reach the server.

use std::collections::HashSet;

use http::Method;
use tower_idempotency::client::{ClientLayer, ErrorKind, IdempotencyKey};
use tower_idempotency::options::KeySyntax;

use crate::scripted::{Server, Step, at_once, cut_off, post, refused, request, status};

/// Servers keep records of keys that other versions and other languages
/// derived, so derived keys must never change. The expected keys were computed
/// with Python's `hashlib`, as the documentation of `for_operation` describes.
#[test]
fn derived_keys_are_the_documented_ones() {
    for (kind, id, key) in [
        ("order", "4711", "144a3676def4a265e86bdda61913dfb8"),
        (
            "order",
            &*"x".repeat(300),
            "a0281a280eac2d31ba08e16f283f4809",
        ),
        ("", "", "7a02ac7c287d06f3ad483dedba1bd4c9"),
    ] {
        assert_eq!(IdempotencyKey::for_operation(kind, id).as_str(), key);
    }
    let number = IdempotencyKey::for_operation("order", 4711_u64);
    assert_eq!(number, IdempotencyKey::for_operation("order", "4711"));
}

#[test]
fn kinds_and_ids_are_never_taken_for_each_other() {
    let parts = [
        ("order", "1"),
        ("order1", ""),
        ("", "order1"),
        ("orde", "r1"),
        ("a", "b:c"),
        ("a:b", "c"),
        ("refund", "1"),
    ];
    let keys: HashSet<_> = parts
        .iter()
        .map(|(kind, id)| IdempotencyKey::for_operation(kind, id))
        .collect();
    assert_eq!(keys.len(), parts.len());
}

#[test]
fn new_keys_are_uuids_and_no_two_are_the_same() {
    let keys: HashSet<_> = (0..5_000)
        .flat_map(|_| [IdempotencyKey::new(), IdempotencyKey::v4()])
        .collect();
    assert_eq!(keys.len(), 10_000);
    let uuid = |key: IdempotencyKey| uuid::Uuid::parse_str(key.as_str()).unwrap();
    let v7 = uuid(IdempotencyKey::new());
    assert_eq!(v7.get_version_num(), 7);
    let (seconds, _) = v7.get_timestamp().unwrap().to_unix();
    let now = std::time::SystemTime::now();
    let now = now.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    assert!(now - seconds <= 1);
    assert_eq!(uuid(IdempotencyKey::v4()).get_version_num(), 4);
}

#[test]
fn a_given_key_is_what_every_server_can_read() {
    let longest = "k".repeat(255);
    for fine in ["a", "order 1", "\"", longest.as_str()] {
        assert_eq!(IdempotencyKey::given(fine).unwrap().as_str(), fine);
    }
    let too_long = "k".repeat(256);
    for (wrong, why) in [
        ("", "is empty"),
        (&*too_long, "is longer than 255 characters"),
        ("ключ", "has characters that are not printable ASCII"),
        ("a\nb", "has characters that are not printable ASCII"),
        (
            " a",
            "begins or ends with a space, which does not count in a header",
        ),
        (
            "a ",
            "begins or ends with a space, which does not count in a header",
        ),
    ] {
        let error = IdempotencyKey::given(wrong).unwrap_err().to_string();
        assert_eq!(error, format!("the idempotency key {why}"));
    }
    let key = IdempotencyKey::given("1").unwrap();
    assert_eq!(key.with_prefix("ord_").unwrap().as_str(), "ord_1");
    assert!(key.with_prefix(&longest).is_err());
}

#[tokio::test(start_paused = true)]
async fn every_attempt_of_an_operation_has_the_same_key_and_the_same_bytes() {
    let script = || {
        [
            Step::Fail(refused()),
            Step::Hang,
            Step::Answer(cut_off(201, "{")),
            Step::Answer(status(503)),
        ]
    };
    let mut keys = HashSet::new();
    for _ in 0..2 {
        let server = Server::that(script());
        server.ask(request(Method::POST, None)).await.unwrap();
        let seen = server.seen();
        assert_eq!(seen.len(), 5);
        assert!(seen.iter().all(|attempt| attempt.key() == seen[0].key()));
        assert!(seen.iter().all(|attempt| attempt.body == "an order"));
        keys.insert(seen[0].key().to_owned());
    }
    // Each operation has a key of its own.
    assert_eq!(keys.len(), 2);
}

#[tokio::test]
async fn the_key_is_the_header_s_then_the_callers_then_a_new_one() {
    let given = IdempotencyKey::given("given").unwrap();
    let with = |mut request: http::Request<_>| {
        request.extensions_mut().insert(given.clone());
        request
    };
    let server = Server::default();
    server.ask(with(post("by-hand"))).await.unwrap();
    server.ask(with(request(Method::POST, None))).await.unwrap();
    server.ask(with(request(Method::PUT, None))).await.unwrap();
    server.ask(request(Method::PATCH, None)).await.unwrap();
    server.ask(request(Method::PUT, None)).await.unwrap();
    server.ask(request(Method::GET, None)).await.unwrap();
    let seen = server.seen();
    let keys: Vec<_> = seen
        .iter()
        .map(|seen| seen.headers.get("idempotency-key"))
        .collect();
    assert_eq!(keys[0].unwrap(), "by-hand");
    assert_eq!(keys[1].unwrap(), "\"given\"");
    assert_eq!(keys[2].unwrap(), "\"given\"");
    assert_eq!(seen[3].method, Method::PATCH);
    assert_eq!(keys[3].unwrap().len(), 38);
    assert_eq!(keys[4..], [None, None]);
}

#[tokio::test(start_paused = true)]
async fn the_key_goes_under_any_header_as_a_string_or_raw() {
    for (layer, value) in [
        (at_once(), r#""say \"hi\"""#),
        (at_once().key_syntax(KeySyntax::Strict), r#""say \"hi\"""#),
        (at_once().key_syntax(KeySyntax::Raw), r#"say "hi""#),
    ] {
        let layer = layer.header("X-Request-Key").build().unwrap();
        let server = Server::that([Step::Fail(refused())]);
        let mut request = request(Method::POST, None);
        let key = IdempotencyKey::given(r#"say "hi""#).unwrap();
        request.extensions_mut().insert(key.clone());
        server.ask_with(layer, request).await.unwrap();
        let seen = server.seen();
        assert_eq!(seen.len(), 2);
        for attempt in seen {
            assert_eq!(attempt.headers["x-request-key"], value);
            assert!(!attempt.headers.contains_key("idempotency-key"));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_wrong_with_an_option_is_said_when_it_is_built() {
    use std::time::Duration;
    let year = Duration::from_secs(365 * 24 * 60 * 60);
    let builder = ClientLayer::builder;
    for (option, builder) in [
        ("attempts", builder().attempts(0)),
        ("deadline", builder().deadline(Duration::ZERO)),
        ("deadline", builder().deadline(year * 2)),
        ("attempt_timeout", builder().attempt_timeout(Duration::ZERO)),
        ("max_retry_after", builder().max_retry_after(Duration::MAX)),
        ("header", builder().header("a b")),
        ("replayed_header", builder().replayed_header("a:b")),
        ("created_at_header", builder().created_at_header("")),
        ("expires_at_header", builder().expires_at_header("é")),
        ("key_in_body", builder().key_in_body("meta")),
    ] {
        assert_eq!(builder.build().unwrap_err().option(), option);
    }
    let longest = builder().max_retry_after(year).deadline(year);
    assert!(longest.replayed_header(None).build().is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_member_of_the_body_carries_the_key_of_every_attempt() {
    let layer = || {
        at_once()
            .key_in_body("/meta/idempotency-key")
            .build()
            .unwrap()
    };
    let given = IdempotencyKey::given("given").unwrap();
    for (method, sent, received, key) in [
        (
            Method::POST,
            r#"{"n":1.0}"#,
            r#"{"n":1.0,"meta":{"idempotency-key":"given"}}"#,
            "\"given\"",
        ),
        (
            Method::PUT,
            "{}",
            r#"{"meta":{"idempotency-key":"given"}}"#,
            "\"given\"",
        ),
    ] {
        let server = Server::that([Step::Fail(refused()), Step::Answer(cut_off(201, "{"))]);
        let mut request = request(method, None);
        *request.body_mut() = sent.into();
        request.extensions_mut().insert(given.clone());
        server.ask_with(layer(), request).await.unwrap();
        let seen = server.seen();
        assert_eq!(seen.len(), 3);
        for attempt in seen {
            assert_eq!((attempt.key(), &*attempt.body), (key, received.as_bytes()));
        }
    }
    // A key that is there already is the request's.
    let server = Server::default();
    let mut own = request(Method::POST, None);
    *own.body_mut() = r#"{"meta":{"idempotency-key":"mine"}}"#.into();
    server.ask_with(layer(), own).await.unwrap();
    assert_eq!(server.seen()[0].key(), "\"mine\"");
    // Without a key the body stays as it is.
    let server = Server::default();
    server
        .ask_with(layer(), request(Method::GET, None))
        .await
        .unwrap();
    assert_eq!(server.seen()[0].body, "an order");
}

#[tokio::test]
async fn a_body_without_a_place_for_the_key_is_not_sent() {
    let layer = at_once().key_in_body("/key").build().unwrap();
    let server = Server::default();
    let error = server.ask_with(layer, post("k")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoPlaceForKey);
    let text = "POST /orders with key k was not sent: its body has no place for the key";
    assert_eq!(error.to_string(), text);
    assert_eq!(server.count(), 0);
}
