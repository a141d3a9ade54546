//! What the contract says of responses must be true: their marks, which responses
//! and which of their headers are recorded, and what a changed request gets.

use std::time::Duration;

use axum::body::Body;
use http::header::CONTENT_TYPE;
use http::{HeaderName, Request, StatusCode};
use serde_json::Value;
use tower_idempotency::RouteOptions;
use tower_idempotency::options::{FingerprintBody, JsonFingerprint, KeysPer, OnMismatch};
use tower_idempotency::recording::{RecordHeaders, Statuses};

use crate::client::{ANSWERED, Client, STATUS, TYPE};
use crate::layers::api_key;

/// Each function sets the options of `POST /a`.
const POLICIES: &[fn(RouteOptions) -> RouteOptions] = &[
    |options| options,
    |options| {
        options
            .created_at_header("x-created")
            .expires_at_header("x-expires")
            .echo_key(true)
            .replayed_header("x-again")
            .replay_status(StatusCode::CREATED, StatusCode::OK)
            .record(Statuses::none().with(200..300).with(404))
            .record_headers(RecordHeaders::allow(["location", "connection"]))
            .fingerprint_body(FingerprintBody::None)
    },
    |options| {
        options
            .replayed_header(None)
            .record(Statuses::all())
            .record_headers(RecordHeaders::deny(["location"]))
            .skip_types(["application/pdf", "image/*"])
            .skip_headers(["location: /a/2", "x-no-store"])
            .fingerprint_body(FingerprintBody::Json(JsonFingerprint::new()))
            .fingerprint_query(false)
            .keys_per(KeysPer::Route)
    },
    |options| {
        options
            .on_mismatch(OnMismatch::Replay)
            .fingerprint_headers(["accept"])
            .record(Statuses::none())
    },
    |options| {
        options
            .on_mismatch(OnMismatch::Replay)
            .retention(Duration::from_secs(60))
    },
];

fn client(change: fn(RouteOptions) -> RouteOptions) -> Client {
    let layer = api_key().route("POST /a", change).build().unwrap();
    Client { layer, at: 0 }
}

/// Returns whether this status is recorded, according to the words of the contract.
fn says(endpoint: &Value, status: u16) -> bool {
    let record = endpoint["record"].as_str().unwrap();
    let words = record.strip_prefix("responses with ").unwrap();
    let in_list = |list: &str| {
        list.replace(" and ", ", ").split(", ").any(|range| {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            (first.parse().unwrap()..=last.parse().unwrap()).contains(&status)
        })
    };
    match words {
        "every status" => true,
        "no status" => false,
        words => match words.strip_prefix("every status but ") {
            Some(others) => !in_list(others),
            None => in_list(words.strip_prefix("status ").unwrap()),
        },
    }
}

/// Returns whether the contract says that a replay has this header.
fn replays(endpoint: &Value, name: &str) -> bool {
    let choice = &endpoint["record_headers"];
    name != "connection"
        && match choice.get("allow") {
            Some(only) => lists(only, name),
            None => !lists(&choice["deny"], name),
        }
}

fn lists(list: &Value, text: &str) -> bool {
    list.as_array().unwrap().iter().any(|own| own == text)
}

fn told(client: &Client, name: &HeaderName, value: &str) -> Request<Body> {
    let mut request = client.request("");
    request.headers_mut().insert(name, value.parse().unwrap());
    request
}

#[tokio::test]
async fn answers_are_recorded_by_the_statuses_and_types_that_it_names() {
    for (at, options) in POLICIES.iter().enumerate() {
        for status in [
            200, 201, 302, 307, 400, 401, 404, 407, 409, 417, 421, 425, 429, 499, 500, 503, 999,
        ] {
            let client = client(*options);
            let request = || told(&client, &STATUS, &status.to_string());
            client.send(request()).await;
            client.send(request()).await;
            let recorded = client.layer.counts().executed == 1;
            assert_eq!(recorded, says(&client.endpoint(), status), "{at}: {status}");
        }
        for content_type in ["text/plain", "application/pdf", "image/png"] {
            let client = client(*options);
            let request = || told(&client, &TYPE, content_type);
            client.send(request()).await;
            client.send(request()).await;
            let family = format!("{}/*", content_type.split_once('/').unwrap().0);
            let endpoint = client.endpoint();
            let skipped = lists(&endpoint["skip_types"], content_type)
                || lists(&endpoint["skip_types"], &family);
            let recorded = client.layer.counts().executed == 1;
            assert_eq!(
                recorded,
                says(&endpoint, 201) && !skipped,
                "{at}: {content_type}"
            );
        }
    }
}

#[tokio::test]
async fn answers_are_marked_and_repeated_as_it_says() {
    for (at, options) in POLICIES.iter().enumerate() {
        let client = client(*options);
        let endpoint = client.endpoint();
        let first = client.send(client.request("")).await;
        let again = client.send(client.request("")).await;
        assert_eq!(first.status, 201);
        if !says(&endpoint, 201) {
            continue;
        }
        let status = endpoint["replay_status"].get("201");
        let status = status.map_or(201, |status| status.as_u64().unwrap());
        assert_eq!(u64::from(again.status), status, "{at}");
        let mut expected = Vec::new();
        for (name, value) in ANSWERED {
            assert_eq!(first.header(name), Some(*value));
            if replays(&endpoint, name) {
                assert_eq!(again.header(name), Some(*value), "{at}: {name}");
                expected.push((*name).to_owned());
            }
        }
        if let Some(name) = endpoint["replayed_header"].as_str() {
            assert_eq!(again.header(name), Some("true"));
            assert_eq!(first.header(name), None);
            expected.push(name.to_owned());
        }
        for option in ["created_at_header", "expires_at_header"] {
            let Some(name) = endpoint[option].as_str() else {
                continue;
            };
            assert_eq!(first.header(name), again.header(name));
            expected.push(name.to_owned());
        }
        if endpoint["echo_key"] == true {
            let key = client.key(1);
            assert_eq!(first.header("idempotency-key"), Some(&*key));
            expected.push("idempotency-key".to_owned());
        }
        let mut names: Vec<_> = again.headers.keys().map(HeaderName::to_string).collect();
        names.sort();
        expected.sort();
        assert_eq!(names, expected, "{at}");
    }
}

#[tokio::test]
async fn a_changed_request_gets_what_it_says() {
    type Change = (&'static str, fn(&mut Request<Body>), fn(&Value) -> bool);
    let changes: [Change; 6] = [
        (
            "query",
            |request| *request.uri_mut() = "/a?b=c".parse().unwrap(),
            |endpoint| endpoint["fingerprint_query"] == true,
        ),
        (
            "content-type",
            |request| {
                request
                    .headers_mut()
                    .insert(CONTENT_TYPE, "text/csv".parse().unwrap());
            },
            |endpoint| lists(&endpoint["fingerprint_headers"], "content-type"),
        ),
        (
            "accept",
            |request| {
                request
                    .headers_mut()
                    .insert("accept", "text/csv".parse().unwrap());
            },
            |endpoint| lists(&endpoint["fingerprint_headers"], "accept"),
        ),
        (
            "white space",
            |request| *request.body_mut() = Body::from("{ }"),
            |endpoint| endpoint["fingerprint_body"] == "bytes",
        ),
        (
            "body",
            |request| *request.body_mut() = Body::from("[]"),
            |endpoint| endpoint["fingerprint_body"] != "none",
        ),
        ("nothing", |_| (), |_| false),
    ];
    for (at, options) in POLICIES.iter().enumerate() {
        for (what, change, is_compared) in changes {
            let client = client(*options);
            let endpoint = client.endpoint();
            let ask = || {
                let mut request = client.request("{}");
                let json = "application/json".parse().unwrap();
                request.headers_mut().insert(CONTENT_TYPE, json);
                request
            };
            let first = client.send(ask()).await;
            let mut request = ask();
            change(&mut request);
            let seen = client.send(request).await;
            let case = format!("{at}: {what}");
            if !says(&endpoint, 201) {
                assert_eq!(client.layer.counts().executed, 2, "{case}");
            } else if is_compared(&endpoint) && endpoint["on_mismatch"] == "reject" {
                let mut examples = endpoint["rejections"].as_array().unwrap().iter();
                let refused = examples.find(|own| own["code"] == "key-reused");
                assert_eq!(refused.unwrap()["status"], seen.status, "{case}");
            } else {
                assert_eq!(seen.body, first.body, "{case}");
                assert_eq!(client.layer.counts().replayed, 1, "{case}");
            }
        }
    }
}
