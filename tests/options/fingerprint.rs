//! The options `fingerprint_body`, `fingerprint_query`, `fingerprint_headers`
//! and `on_mismatch`.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use tower::{Layer, ServiceExt};
use tower_idempotency::options::{FingerprintBody, JsonFingerprint, OnMismatch, Require};
use tower_idempotency::{MemoryStore, RouteOptions};

use crate::support::{Gate, Runs, counting, held_back, post, send, to, with, with_policy, without};

type Ask = Request<Full<Bytes>>;

/// A POST request with a body that says that it is JSON.
fn json(body: &'static str) -> Ask {
    with(post("k", body), "content-type", "application/json")
}

/// Whether `second` counts as the same request as `first` with these options.
async fn is_same(
    change: impl FnOnce(RouteOptions) -> RouteOptions,
    first: Ask,
    second: Ask,
) -> bool {
    let layer = with_policy(&MemoryStore::new(), |options| {
        change(options.require(Require::Required))
    });
    let app = layer.layer(counting(&Runs::default()));
    assert_eq!(send(&app, first).await.status, 201);
    let seen = send(&app, second).await;
    if seen.is_replay() {
        return true;
    }
    assert_eq!(seen.refusal(), "422 key-reused");
    false
}

fn of_json(json: JsonFingerprint) -> impl Fn(RouteOptions) -> RouteOptions {
    move |options| options.fingerprint_body(FingerprintBody::Json(json.clone()))
}

#[tokio::test]
async fn bytes_count_one_by_one() {
    for (other, same) in [
        (r#"{"a":1}"#, true),
        (r#"{"a": 1}"#, false),
        (r#"{"a":1} "#, false),
        ("", false),
    ] {
        let first = post("k", r#"{"a":1}"#);
        let got = is_same(|options| options, first, post("k", other)).await;
        assert_eq!(got, same, "{other}");
    }
}

/// The digest of a MiB takes most of a millisecond, and other requests would wait for it.
#[tokio::test]
async fn a_large_body_is_digested_on_another_thread_and_a_small_one_at_once() {
    for (length, is_aside) in [(64 << 10, false), (1 << 20, true)] {
        let app =
            with_policy(&MemoryStore::new(), |options| options).layer(counting(&Runs::default()));
        let body = Bytes::from(vec![b'x'; length]);
        let ask = || post("k", body.clone());
        let mut first = pin!(app.clone().oneshot(ask()));
        let polled = poll_fn(|cx| Poll::Ready(first.as_mut().poll(cx))).await;
        assert_eq!(polled.is_pending(), is_aside, "{length}");
        if is_aside {
            assert_eq!(first.await.unwrap().status(), 201);
        }
        assert!(send(&app, ask()).await.is_replay());
        let mut other = body.to_vec();
        *other.last_mut().unwrap() = b'y';
        let other = send(&app, post("k", other)).await;
        assert_eq!(other.refusal(), "422 key-reused");
    }
}

#[tokio::test]
async fn json_counts_by_what_it_means() {
    let first = r#"{"a":1,"b":["x",{"c":null}]}"#;
    for (other, same) in [
        (r#" { "b": [ "x", { "c": null } ], "a": 1.0 } "#, true),
        (r#"{"a":1e0,"b":["\u0078",{"c":null}]}"#, true),
        (r#"{"a":2,"b":["x",{"c":null}]}"#, false),
        (r#"{"a":1,"b":["x",{}]}"#, false),
        (r#"{"a":1,"b":[{"c":null},"x"]}"#, false),
        (r#"{"a":"1","b":["x",{"c":null}]}"#, false),
        (r#"{"a":1,"a":1,"b":["x",{"c":null}]}"#, false),
    ] {
        let change = of_json(JsonFingerprint::new());
        let got = is_same(change, json(first), json(other)).await;
        assert_eq!(got, same, "{other}");
    }
}

#[tokio::test]
async fn what_is_not_strict_json_counts_as_bytes() {
    for (one, other, same) in [
        ("not json", "not json", true),
        ("not json", "not  json", false),
        // A 64-bit floating-point number can't tell these two amounts apart.
        (
            r#"{"a":10000000000000001}"#,
            r#"{"a":10000000000000000}"#,
            false,
        ),
        (r#"{"a":0.1}"#, r#"{"a":0.10000000000000001}"#, false),
        (r#"{"a":1,"a":2}"#, r#"{"a":2}"#, false),
        (r#"{"a":1,"a":2}"#, r#"{"a":1,"a":2}"#, true),
        ("", " ", false),
        ("{}", "{", false),
    ] {
        let change = of_json(JsonFingerprint::new());
        let got = is_same(change, json(one), json(other)).await;
        assert_eq!(got, same, "{one} and {other}");
    }
}

#[tokio::test]
async fn of_json_only_what_is_included_and_not_excluded_counts() {
    let first = r#"{"amount":1,"sent_at":"noon","meta":{"try":1,"id":7},"tags":["a","b"]}"#;
    let exclude = JsonFingerprint::new()
        .exclude("/sent_at")
        .exclude("/meta/try")
        .exclude("/tags/1");
    let include = JsonFingerprint::new()
        .include("/amount")
        .include("/meta/id");
    for (other, same_but, same_only) in [
        (
            r#"{"amount":1,"meta":{"try":2,"id":7},"tags":["a","c"]}"#,
            true,
            true,
        ),
        (
            r#"{"amount":2,"sent_at":"noon","meta":{"try":1,"id":7},"tags":["a","b"]}"#,
            false,
            false,
        ),
        (
            r#"{"amount":1,"sent_at":"noon","meta":{"try":1,"id":8},"tags":["a","b"]}"#,
            false,
            false,
        ),
        (r#"{"amount":1,"meta":{"id":7}}"#, false, true),
        (r#"{"amount":7,"meta":{"id":1}}"#, false, false),
        (
            r#"{"amount":1,"sent_at":"noon","tags":["a","b"]}"#,
            false,
            false,
        ),
    ] {
        let change = of_json(exclude.clone());
        let got = is_same(change, json(first), json(other)).await;
        assert_eq!(got, same_but, "all but some of {other}");
        let change = of_json(include.clone());
        let got = is_same(change, json(first), json(other)).await;
        assert_eq!(got, same_only, "only some of {other}");
    }
}

/// RFC 9110, 8.3: the content type says how a body is read.
#[tokio::test]
async fn json_is_what_its_content_type_calls_json() {
    for (content_type, is_json) in [
        ("application/json", true),
        ("Application/JSON ; charset=utf-8", true),
        ("application/merge-patch+json", true),
        ("application/json; charset=utf-16", true),
        ("text/plain", false),
        ("application/jsonp", false),
        ("application/x-ndjson", false),
        ("text/plain; note=application/json", false),
        ("application/x-www-form-urlencoded", false),
        ("", false),
    ] {
        for (one, other) in [("1.0", "1"), (r#"{"a":1,"b":2}"#, r#"{"b":2, "a":1}"#)] {
            let ask = |body| with(post("k", body), "content-type", content_type);
            let change = of_json(JsonFingerprint::new());
            let got = is_same(change, ask(one), ask(other)).await;
            assert_eq!(got, is_json, "{content_type}: {one} and {other}");
            let change = of_json(JsonFingerprint::new());
            assert!(is_same(change, ask(one), ask(one)).await, "{content_type}");
        }
    }
    // Without a content type, and with two, nobody knows.
    let two = |body| {
        let mut request = json(body);
        let plain = "text/plain".parse().unwrap();
        request.headers_mut().append("content-type", plain);
        request
    };
    let change = || of_json(JsonFingerprint::new());
    assert!(!is_same(change(), post("k", "1.0"), post("k", "1")).await);
    assert!(!is_same(change(), two("1.0"), two("1")).await);
    // RFC 8259, 8.1: no byte order mark.
    assert!(!is_same(change(), json("\u{feff}1.0"), json("\u{feff}1")).await);
}

#[tokio::test]
async fn what_leaves_nothing_to_compare_counts_as_bytes() {
    let include = JsonFingerprint::new()
        .include("/amount")
        .include("/to/iban");
    let exclude = JsonFingerprint::new()
        .exclude("/sent_at")
        .exclude("/list/0");
    for (pointers, one, other) in [
        (&include, r#"{"sum":1}"#, r#"{"sum":2}"#),
        (
            &include,
            r#"{"amount":null,"sum":1}"#,
            r#"{"amount":null,"sum":2}"#,
        ),
        (
            &include,
            r#"{"amount":{},"sum":1}"#,
            r#"{"amount":{},"sum":2}"#,
        ),
        (&include, "[]", "{}"),
        (&include, "1", "2"),
        (&exclude, r#"{"sent_at":1}"#, r#"{"sent_at":2}"#),
        (&exclude, r#"{"list":[1]}"#, r#"{"list":[2]}"#),
        (&JsonFingerprint::new().exclude(""), "1", "2"),
    ] {
        let got = is_same(of_json(pointers.clone()), json(one), json(other)).await;
        assert!(!got, "{one} and {other} with {pointers:?}");
        assert!(is_same(of_json(pointers.clone()), json(one), json(one)).await);
    }
    // An empty body is one, and an empty list of pointers chooses the whole body.
    assert!(is_same(of_json(include.clone()), json(""), json("")).await);
    assert!(!is_same(of_json(include), json(""), json("{}")).await);
}

/// A number that no double holds matters only where it is compared.
#[tokio::test]
async fn numbers_are_asked_to_be_exact_where_they_are_compared() {
    let sent_at = || JsonFingerprint::new().exclude("/sent_at");
    let amount = || JsonFingerprint::new().include("/amount").include("/to");
    for (pointers, one, other, same) in [
        (
            sent_at(),
            r#"{"amount":5,"sent_at":1753900000123456789}"#,
            r#"{"sent_at":1753900000123456790, "amount":5.0}"#,
            true,
        ),
        (
            sent_at(),
            r#"{"amount":10000000000000001,"sent_at":1}"#,
            r#"{"amount":10000000000000000,"sent_at":1}"#,
            false,
        ),
        (
            amount(),
            r#"{"amount":5,"id":1753900000123456789}"#,
            r#"{"id":1753900000123456790,"amount":5.0}"#,
            true,
        ),
        (
            amount(),
            r#"{"amount":5,"to":{"id":1753900000123456789}}"#,
            r#"{"amount":5,"to":{"id":1753900000123456790}}"#,
            false,
        ),
        (
            amount(),
            r#"{"amount":5,"to":["x",{"id":1753900000123456789}]}"#,
            r#"{"amount":5, "to":["x",{"id":1753900000123456789}]}"#,
            false,
        ),
        (
            JsonFingerprint::new(),
            r#"{"amount":1000000000000000000000}"#,
            r#"{"amount":1e21}"#,
            true,
        ),
        (
            JsonFingerprint::new(),
            r#"{"amount":1.25000000000000000000000000000000000000}"#,
            r#"{"amount":125e-2}"#,
            true,
        ),
        (
            JsonFingerprint::new(),
            r#"{"amount":123456789012345.00000}"#,
            r#"{"amount":123456789012345}"#,
            true,
        ),
    ] {
        let got = is_same(of_json(pointers), json(one), json(other)).await;
        assert_eq!(got, same, "{one} and {other}");
    }
}

#[tokio::test]
async fn without_its_body_a_request_is_its_head() {
    let change = |options: RouteOptions| options.fingerprint_body(FingerprintBody::None);
    assert!(is_same(change, post("k", "one"), post("k", "another")).await);
    let elsewhere = to("/refunds", post("k", "one"));
    assert!(!is_same(change, post("k", "one"), elsewhere).await);
}

#[tokio::test]
async fn the_query_counts_unless_it_does_not() {
    for (one, other, by_default) in [
        ("/a?x=1", "/a?x=1", true),
        ("/a?x=1", "/a?x=2", false),
        ("/a?x=1", "/a", false),
        ("/a?", "/a", false),
    ] {
        let ask = |target| to(target, post("k", "{}"));
        let got = is_same(|options| options, ask(one), ask(other)).await;
        assert_eq!(got, by_default, "{one} and {other}");
        let without = |options: RouteOptions| options.fingerprint_query(false);
        assert!(is_same(without, ask(one), ask(other)).await);
    }
}

#[tokio::test]
async fn of_headers_the_content_type_counts_or_those_that_are_listed() {
    let plain = || post("k", "{}");
    let json = || with(plain(), "content-type", "application/json");
    let version = |version: &str| with(json(), "api-version", version);
    let two_versions = || {
        let mut request = version("1");
        request
            .headers_mut()
            .append("api-version", "2".parse().unwrap());
        request
    };
    let default = |options: RouteOptions| options;
    assert!(!is_same(default, json(), plain()).await);
    assert!(is_same(default, json(), version("1")).await);

    let listed = |options: RouteOptions| options.fingerprint_headers(["Api-Version"]);
    assert!(is_same(listed, version("1"), without(version("1"), "content-type")).await);
    assert!(!is_same(listed, version("1"), version("2")).await);
    assert!(!is_same(listed, version("1"), json()).await);
    assert!(!is_same(listed, version("1"), two_versions()).await);
    assert!(!is_same(listed, version("12"), two_versions()).await);
    assert!(is_same(listed, two_versions(), two_versions()).await);

    let none = |options: RouteOptions| options.fingerprint_headers(Vec::<String>::new());
    assert!(is_same(none, two_versions(), plain()).await);
}

#[tokio::test]
async fn on_mismatch_a_key_is_refused_or_given_the_first_answer() {
    for on_mismatch in [OnMismatch::Reject, OnMismatch::Replay] {
        let (runs, gate) = (Runs::default(), Gate::closed());
        let layer = with_policy(&MemoryStore::new(), |options| {
            options.on_mismatch(on_mismatch)
        });
        let app = layer.layer(held_back(&runs, &gate));
        let first = tokio::spawn({
            let app = app.clone();
            async move { send(&app, post("k", "one")).await }
        });
        gate.begun().await;
        let (meanwhile, after) = match on_mismatch {
            OnMismatch::Replay => ("409 in-flight", None),
            _ => ("422 key-reused", Some("422 key-reused")),
        };
        let seen = send(&app, post("k", "two")).await;
        assert_eq!(seen.refusal(), meanwhile);
        gate.open();
        let first = first.await.unwrap();
        let seen = send(&app, to("/refunds", post("k", "two"))).await;
        match after {
            Some(refusal) => assert_eq!(seen.refusal(), refusal),
            None => seen.assert_replays(&first),
        }
        assert_eq!(runs.count(), 1);
    }
}
