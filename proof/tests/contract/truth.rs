//! What the contract says must be true: a client that knows nothing but the
//! contract causes every rejection, and gets what the contract promised.

use std::convert::identity;
use std::time::Duration;

use http::StatusCode;
use http::request::Parts;
use serde_json::Value;
use tower_idempotency::options::{
    FingerprintBody, KeyFormat, KeySyntax, KeysPer, OnInFlight, OnMismatch, OnOversize,
    OnStoreError, Require,
};
use tower_idempotency::rejection::{Rejection, RejectionCode};
use tower_idempotency::scope::{self, Scope};
use tower_idempotency::store::OnLapsedLease;

use crate::client::{Client, Configure};
use crate::layers::api_key;
use crate::openapi::assert_valid;
use crate::support::Seen;

/// All configurations have a route, `POST /a`, beside the defaults.
const CONFIGURATIONS: &[(&str, Configure)] = &[
    ("defaults", |layer| layer.route("POST /a", identity)),
    ("required and short", |layer| {
        layer
            .docs_url("https://developer.example.com/idempotency")
            .rejection_status(RejectionCode::KeyReused, StatusCode::CONFLICT)
            .rejection_status(RejectionCode::InFlight, StatusCode::LOCKED)
            .defaults(|options| {
                options
                    .key_length(8..=16)
                    .on_lapsed_lease(OnLapsedLease::Refuse)
                    .retry_after(Duration::from_millis(2500))
            })
            .route("POST /a", |options| {
                options.require(Require::Required).max_request_body(100)
            })
    }),
    ("bodies of its own", |layer| {
        RejectionCode::ALL.iter().fold(layer, |layer, code| {
            let (content_type, body) = match code {
                RejectionCode::InFlight => ("text/plain; charset=utf-8", "wait: {code} {request_id}\n"),
                RejectionCode::OverCapacity => ("text/html", "<p>{status}</p>"),
                _ => (
                    "application/json",
                    r#"{"error":{"code":"{code}","message":"{detail}","status":{status},"requestId":"{request_id}"}}"#,
                ),
            };
            layer.rejection_body(*code, content_type, body)
        })
        .route("POST /a", |options| options.require(Require::Required))
    }),
    ("rendered", |layer| {
        layer
            .rejection_body(RejectionCode::KeyInvalid, "application/json", "{}")
            .render_rejections(|rejection: &Rejection, request: &Parts| {
                let body = format!("{} {}\n", request.method, rejection.code());
                rejection.answer("text/plain", body)
            })
            .route("POST /a", identity)
    }),
    ("other headers", |layer| {
        layer.route("POST /a", |options| {
            options
                .headers(["X-Key", "Idempotency-Key"])
                .key_syntax(KeySyntax::Strict)
                .key_format(KeyFormat::uuid())
                .key_length(2..=36)
                .keys_per(KeysPer::Route)
                .on_in_flight(OnInFlight::Wait(Duration::from_secs(5)))
                .on_mismatch(OnMismatch::Replay)
                .oversize(OnOversize::Rerun)
        })
    }),
    ("nothing to compare", |layer| {
        layer.route("POST /a", |options| {
            options
                .keys_per(KeysPer::Route)
                .fingerprint_body(FingerprintBody::None)
                .fingerprint_query(false)
                .fingerprint_headers(Vec::<String>::new())
        })
    }),
    ("one caller", |layer| {
        layer
            .defaults(|options| options.scope(scope::header("x-api-key").or(scope::shared())))
            .route("POST /a", |options| {
                options.on_store_error(OnStoreError::RunUnprotected)
            })
    }),
];

#[tokio::test(start_paused = true)]
async fn every_rejection_is_what_the_contract_says_it_is() {
    let mut checked = 0;
    for (name, configure) in CONFIGURATIONS {
        for code in RejectionCode::ALL {
            for at in 0..2 {
                let case = format!("{name}, {code}, endpoint {at}");
                let (client, seen) = Client::provokes(*configure, at, *code).await;
                match example(&client.endpoint(), *code) {
                    Some(refusal) => {
                        is_as_claimed(&seen, refusal, &case);
                        client.is_in_openapi(&seen, *code, &case);
                        client.is_on_the_page(&seen, refusal, &case);
                        checked += 1;
                    }
                    // This endpoint never rejects a request with this code.
                    None => assert_eq!(seen.status, 201, "{case}: {seen:?}"),
                }
            }
        }
    }
    assert!(checked > 120, "{checked}");
}

#[track_caller]
fn is_as_claimed(seen: &Seen, claimed: &Value, case: &str) {
    assert_eq!(claimed["status"], seen.status, "{case}: {seen:?}");
    let headers = seen
        .headers
        .iter()
        .map(|(name, value)| (name.to_string(), Value::from(value.to_str().unwrap())));
    let headers: serde_json::Map<_, _> = headers.collect();
    assert_eq!(headers.len(), seen.headers.len(), "{case}: one value each");
    assert_eq!(claimed["headers"], Value::Object(headers), "{case}");
    // The contract's page shows the same body, byte for byte.
    assert_eq!(claimed["body"], body_of(seen), "{case}");
}

/// Returns the endpoint's example of this rejection.
fn example(endpoint: &Value, code: RejectionCode) -> Option<&Value> {
    let mut examples = endpoint["rejections"].as_array().unwrap().iter();
    examples.find(|own| own["code"] == code.as_str())
}

/// Returns the body as JSON if that is its type, or else as a string.
fn body_of(seen: &Seen) -> Value {
    let is_json = seen.header("content-type").unwrap().contains("json");
    let json = is_json.then(|| serde_json::from_slice(&seen.body).ok());
    json.flatten().unwrap_or_else(|| seen.text().into())
}

/// The contract calls the renderer with a made-up request, which lacks the
/// extension that the renderer expects.
#[test]
fn a_renderer_that_panics_leaves_the_contract_without_examples() {
    let contract = api_key()
        .rejection_body(RejectionCode::KeyInvalid, "text/plain", "no")
        .render_rejections(|rejection: &Rejection, request: &Parts| {
            let tenant = request.extensions.get::<String>().unwrap();
            rejection.answer("text/plain", tenant.clone())
        })
        .build()
        .unwrap()
        .contract();
    let endpoint = contract.json()["endpoints"][0].take();
    let refusals: Vec<_> = RejectionCode::ALL
        .iter()
        .filter_map(|code| Some((*code, example(&endpoint, *code)?)))
        .collect();
    for (code, refusal) in &refusals {
        let has_body = *code == RejectionCode::KeyInvalid;
        assert_eq!(!refusal["body"].is_null(), has_body);
        assert_eq!(refusal["rendered"], !has_body);
        assert_eq!(refusal["status"], code.default_status().as_u16());
    }
    let said = "The application makes this response from the request, so it may differ.";
    let times = contract.markdown().matches(said).count();
    assert_eq!(times, refusals.len() - 1);
    assert_valid(&contract.openapi(), "without examples");
}

impl Client {
    /// Checks that the OpenAPI document has this response: its status, type and
    /// headers, and a schema that the body fits.
    fn is_in_openapi(&self, seen: &Seen, code: RejectionCode, case: &str) {
        let document = self.layer.contract().openapi();
        let status = seen.status;
        let response = match self.endpoint()["path"].as_str() {
            Some(path) => &document["paths"][path]["post"]["responses"][status.to_string()],
            None => &document["components"]["responses"][format!("Idempotency{status}")],
        };
        let content_type = seen.header("content-type").unwrap();
        let media = &response["content"][content_type];
        let body = body_of(seen);
        assert_eq!(media["examples"][code.as_str()]["value"], body, "{case}");
        if let Some(schema) = media.get("schema") {
            let mut schema = schema.clone();
            schema["components"] = document["components"].clone();
            assert!(jsonschema::draft202012::is_valid(&schema, &body), "{case}");
        }
        let declared = response["headers"].as_object().unwrap();
        for name in seen.headers.keys().filter(|name| *name != "content-type") {
            let known = declared
                .keys()
                .any(|own| own.eq_ignore_ascii_case(name.as_str()));
            assert!(known, "{case}: {name}");
        }
    }

    fn is_on_the_page(&self, seen: &Seen, claimed: &Value, case: &str) {
        let page = self.layer.contract().markdown();
        let code = claimed["code"].as_str().unwrap();
        let row = format!("| `{code}` | {} |", seen.status);
        assert!(page.contains(&row), "{case}: {row}");
        assert!(page.contains(seen.text().trim_end()), "{case}");
    }
}
