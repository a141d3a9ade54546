//! How an option in a file changes the responses to some requests. The tests
//! beside the reader check that each option gets into the `RouteOptions`;
//! `tests/options` tests everything that the options do.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use tokio::time::sleep;
use tower::Layer;
use tower_idempotency::MemoryStore;

use crate::layer;
use crate::support::{Runs, Seen, by, handler, post, request, send, to, with, without};

fn json(body: &'static str) -> Request<Full<Bytes>> {
    with(post("k", body), "content-type", "application/json")
}

enum Step {
    Ask(fn() -> Request<Full<Bytes>>),
    Pass(Duration),
}
use Step::{Ask, Pass};

/// What a client sees of a response, in one line.
fn told(seen: &Seen) -> String {
    let mut told = seen.status.to_string();
    let problem: Option<serde_json::Value> = serde_json::from_slice(&seen.body).ok();
    let code = problem
        .as_ref()
        .and_then(|problem| problem["code"].as_str());
    told = format!("{told} {}", code.unwrap_or(seen.text()));
    for name in [
        "idempotency-replayed",
        "x-again",
        "idempotency-key",
        "x-run",
        "link",
    ] {
        if let Some(value) = seen.header(name) {
            told = format!("{told} {name}={value}");
        }
    }
    for name in [
        "idempotency-created-at",
        "idempotency-expires-at",
        "x-until",
    ] {
        if let Some(value) = seen.header(name) {
            assert_eq!(value.len(), "2026-01-01T00:00:00Z".len(), "{value}");
            told = format!("{told} {name}");
        }
    }
    told
}

/// The responses to these steps, from a layer with this option. `option` is a
/// line of the table `[idempotency]`, or begins a table of its own.
async fn conversation(option: &str, steps: &[Step]) -> String {
    let scope = if option.starts_with("scope") {
        ""
    } else {
        "scope = ['header:x-api-key']\n"
    };
    let text = format!("[idempotency]\n{scope}{option}");
    let runs = Runs::default();
    let app = layer(MemoryStore::new(), &text).layer(handler(&runs, |run, request| {
        let status = match request.uri().path() {
            "/missing" => StatusCode::NOT_FOUND,
            _ => StatusCode::CREATED,
        };
        let mut response = Response::new(Full::new(Bytes::from(format!("run {run}"))));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert("x-run", HeaderValue::from(run));
        headers.insert("content-type", HeaderValue::from_static("text/plain"));
        response
    }));
    let mut heard = Vec::new();
    for step in steps {
        match step {
            Ask(request) => heard.push(told(&send(&app, request()).await)),
            Pass(time) => sleep(*time).await,
        }
    }
    heard
        .join(" | ")
        .replace("idempotency-replayed=true", "again")
}

const TWICE: &[Step] = &[Ask(|| post("k", "{}")), Ask(|| post("k", "{}"))];
const USUAL: &str = "201 run 1 x-run=1 | 201 run 1 again x-run=1";
const RUNS_AGAIN: &str = "201 run 1 x-run=1 | 201 run 2 x-run=2";
const DAY: Duration = Duration::from_secs(24 * 3600 + 1);

/// An option, some requests, and the responses to them without and with the
/// option.
const CASES: &[(&str, &[Step], &str, &str)] = &[
    ("header = ['X-Key']", TWICE, USUAL, RUNS_AGAIN),
    (
        "key_syntax = 'strict'",
        TWICE,
        USUAL,
        "400 key-invalid | 400 key-invalid",
    ),
    (
        "key_syntax = 'raw'",
        &[Ask(|| post("k", "{}")), Ask(|| post("\"k\"", "{}"))],
        USUAL,
        RUNS_AGAIN,
    ),
    (
        "key_length = { min = 8 }",
        TWICE,
        USUAL,
        "400 key-too-short | 400 key-too-short",
    ),
    (
        "key_length = { max = 2 }",
        &[Ask(|| post("kkk", "{}"))],
        "201 run 1 x-run=1",
        "400 key-too-long",
    ),
    (
        "key_format = 'uuid'",
        TWICE,
        USUAL,
        "400 key-invalid | 400 key-invalid",
    ),
    (
        "key_format = 'uuid7'",
        &[
            Ask(|| post("017f22e2-79b0-7cc3-98c4-dc0c0c07398f", "{}")),
            Ask(|| post("2fd4e1c6-7a2d-48fc-a1ed-99a0b5c3c2f1", "{}")),
        ],
        "201 run 1 x-run=1 | 201 run 2 x-run=2",
        "201 run 1 x-run=1 | 400 key-invalid",
    ),
    ("methods = ['PUT']", TWICE, USUAL, RUNS_AGAIN),
    ("require = 'ignored'", TWICE, USUAL, RUNS_AGAIN),
    (
        "require = 'required'",
        &[Ask(|| without(post("k", "{}"), "idempotency-key"))],
        "201 run 1 x-run=1",
        "400 key-required",
    ),
    (
        "scope = ['shared']",
        &[Ask(|| post("k", "{}")), Ask(|| by("bob", post("k", "{}")))],
        RUNS_AGAIN,
        USUAL,
    ),
    (
        // The scope knows Alice's credential and does not know Bob's.
        "scope = [{ header = 'x-api-key', known_sha256 = ['2bd806c97f0e00af1a1fc3328fa763a9269723c8db8fac4f93af71db186d6e90'] }]",
        &[Ask(|| post("k", "{}")), Ask(|| by("bob", post("k", "{}")))],
        RUNS_AGAIN,
        "201 run 1 x-run=1 | 400 scope-missing",
    ),
    (
        "scope = ['headers:x-api-key, x-team', 'header:x-api-key']",
        &[
            Ask(|| post("k", "{}")),
            Ask(|| with(post("k", "{}"), "x-team", "red")),
            Ask(|| with(post("k", "{}"), "x-team", "blue")),
        ],
        "201 run 1 x-run=1 | 201 run 1 again x-run=1 | 201 run 1 again x-run=1",
        "201 run 1 x-run=1 | 201 run 2 x-run=2 | 201 run 3 x-run=3",
    ),
    (
        "keys_per = 'route'",
        &[Ask(|| post("k", "{}")), Ask(|| to("/b", post("k", "{}")))],
        "201 run 1 x-run=1 | 422 key-reused",
        RUNS_AGAIN,
    ),
    (
        "fingerprint_body = 'none'",
        &[Ask(|| post("k", "1")), Ask(|| post("k", "2"))],
        "201 run 1 x-run=1 | 422 key-reused",
        USUAL,
    ),
    (
        "fingerprint_body = 'json'",
        &[Ask(|| json("{\"a\":1}")), Ask(|| json("{ \"a\": 1.0 }"))],
        "201 run 1 x-run=1 | 422 key-reused",
        USUAL,
    ),
    (
        "fingerprint_body = { json = { exclude = ['/at'] } }",
        &[
            Ask(|| json("{\"at\":1,\"n\":1}")),
            Ask(|| json("{\"at\":2,\"n\":1}")),
        ],
        "201 run 1 x-run=1 | 422 key-reused",
        USUAL,
    ),
    (
        "fingerprint_query = false",
        &[
            Ask(|| to("/a?1", post("k", "{}"))),
            Ask(|| to("/a?2", post("k", "{}"))),
        ],
        "201 run 1 x-run=1 | 422 key-reused",
        USUAL,
    ),
    (
        "fingerprint_headers = []",
        &[
            Ask(|| with(post("k", "{}"), "content-type", "a/b")),
            Ask(|| with(post("k", "{}"), "content-type", "a/c")),
        ],
        "201 run 1 x-run=1 | 422 key-reused",
        USUAL,
    ),
    (
        "on_mismatch = 'replay'",
        &[Ask(|| post("k", "1")), Ask(|| post("k", "2"))],
        "201 run 1 x-run=1 | 422 key-reused",
        USUAL,
    ),
    (
        "max_request_body = 1",
        TWICE,
        USUAL,
        "413 body-too-large | 413 body-too-large",
    ),
    (
        "max_recorded_body = 1",
        TWICE,
        USUAL,
        "201 run 1 x-run=1 | 409 response-unavailable",
    ),
    (
        "max_recorded_body = 1\noversize = 'rerun'",
        TWICE,
        USUAL,
        RUNS_AGAIN,
    ),
    (
        "record = ['2xx']",
        &[
            Ask(|| to("/missing", post("k", "{}"))),
            Ask(|| to("/missing", post("k", "{}"))),
        ],
        "404 run 1 x-run=1 | 404 run 1 again x-run=1",
        "404 run 1 x-run=1 | 404 run 2 x-run=2",
    ),
    ("skip_types = ['text/*']", TWICE, USUAL, RUNS_AGAIN),
    ("skip_headers = ['X-Run: 1']", TWICE, USUAL, RUNS_AGAIN),
    (
        "retention = '1h'",
        &[
            Ask(|| post("k", "{}")),
            Pass(Duration::from_secs(3601)),
            Ask(|| post("k", "{}")),
        ],
        USUAL,
        RUNS_AGAIN,
    ),
    (
        "retention = '2d'",
        &[Ask(|| post("k", "{}")), Pass(DAY), Ask(|| post("k", "{}"))],
        RUNS_AGAIN,
        USUAL,
    ),
    (
        "record_headers = { allow = ['content-type'] }",
        TWICE,
        USUAL,
        "201 run 1 x-run=1 | 201 run 1 again",
    ),
    (
        "replayed_header = false",
        TWICE,
        USUAL,
        "201 run 1 x-run=1 | 201 run 1 x-run=1",
    ),
    (
        "replayed_header = 'X-Again'",
        TWICE,
        USUAL,
        "201 run 1 x-run=1 | 201 run 1 x-again=true x-run=1",
    ),
    (
        "created_at_header = true",
        TWICE,
        USUAL,
        "201 run 1 x-run=1 idempotency-created-at | 201 run 1 again x-run=1 idempotency-created-at",
    ),
    (
        "expires_at_header = 'X-Until'",
        TWICE,
        USUAL,
        "201 run 1 x-run=1 x-until | 201 run 1 again x-run=1 x-until",
    ),
    (
        "echo_key = true",
        TWICE,
        USUAL,
        "201 run 1 idempotency-key=k x-run=1 | 201 run 1 again idempotency-key=k x-run=1",
    ),
    (
        "replay_status = { 201 = 200 }",
        TWICE,
        USUAL,
        "201 run 1 x-run=1 | 200 run 1 again x-run=1",
    ),
    (
        "docs_url = 'https://a.example/'",
        &[Ask(|| post("", "{}"))],
        "400 key-invalid",
        "400 key-invalid link=<https://a.example/>; rel=\"describedby\"",
    ),
    (
        "[idempotency.rejections.key-reused]\nstatus = 409\ncontent_type = 'application/json'\nbody = '{\"code\":\"{code}-{status}\"}'",
        &[Ask(|| post("k", "1")), Ask(|| post("k", "2"))],
        "201 run 1 x-run=1 | 422 key-reused",
        "201 run 1 x-run=1 | 409 key-reused-409",
    ),
    (
        "[[route]]\nmatch = 'DELETE /a'",
        &[
            Ask(|| {
                with(
                    request(Method::DELETE, "/a", Full::default()),
                    "idempotency-key",
                    "k",
                )
            }),
            Ask(|| {
                with(
                    request(Method::DELETE, "/a", Full::default()),
                    "idempotency-key",
                    "k",
                )
            }),
        ],
        RUNS_AGAIN,
        USUAL,
    ),
    (
        "[[route]]\nmatch = '/payments'\nrecord = ['3xx']\n[[route]]\nmatch = 'POST /payments'\nrequire = 'ignored'",
        TWICE,
        USUAL,
        RUNS_AGAIN,
    ),
];

#[tokio::test(start_paused = true)]
async fn an_option_in_a_file_does_what_it_says() {
    for (option, steps, without_it, with_it) in CASES {
        assert_eq!(
            conversation("", steps).await,
            *without_it,
            "without {option}"
        );
        assert_eq!(conversation(option, steps).await, *with_it, "with {option}");
    }
}
