//! What the contract says is so: a client that knows nothing else provokes
//! every rejection, and gets what it was promised.

use std::convert::identity;
use std::time::Duration;

use http::StatusCode;
use http::request::Parts;
use serde_json::Value;
use tower_idempotency::contract::RejectionExample;
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

/// All have a route, `POST /a`, beside the defaults.
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
            .defaults(|options| {
                options.scope(scope::header("x-api-key").unwrap().or(scope::shared()))
            })
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
                match client.terms().refusals.iter().find(|own| own.code == *code) {
                    Some(refusal) => {
                        is_as_claimed(&seen, refusal, &case);
                        client.is_in_openapi(&seen, *code, &case);
                        client.is_on_the_page(&seen, refusal, &case);
                        checked += 1;
                    }
                    // It isn't refused for that.
                    None => assert_eq!(seen.status, 201, "{case}: {seen:?}"),
                }
            }
        }
    }
    assert!(checked > 120, "{checked}");
}

#[track_caller]
fn is_as_claimed(seen: &Seen, claimed: &RejectionExample, case: &str) {
    assert_eq!(seen.status, claimed.status.as_u16(), "{case}: {seen:?}");
    assert_eq!(seen.headers, claimed.headers, "{case}");
    assert_eq!(Some(&seen.body), claimed.body.as_ref(), "{case}");
}

/// What it is asked about is made up: it may count on more than there is.
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
    let terms = contract.endpoints[0].terms.clone().unwrap();
    for refusal in &terms.refusals {
        let has_body = refusal.code == RejectionCode::KeyInvalid;
        assert_eq!(refusal.body.is_some(), has_body);
        assert_eq!(refusal.rendered, !has_body);
        assert_eq!(refusal.status, refusal.code.default_status());
    }
    let said = "The application makes this answer from the request, so it may differ.";
    let times = contract.markdown().matches(said).count();
    assert_eq!(times, terms.refusals.len() - 1);
    assert_valid(&contract.openapi(), "without examples");
}

impl Client {
    /// The document has this answer: its status, type and headers, and the
    /// body fits the schema.
    fn is_in_openapi(&self, seen: &Seen, code: RejectionCode, case: &str) {
        let document = self.layer.contract().openapi();
        let status = seen.status;
        let response = match self.endpoint().path {
            Some(path) => &document["paths"][&path]["post"]["responses"][status.to_string()],
            None => &document["components"]["responses"][format!("Idempotency{status}")],
        };
        let content_type = seen.header("content-type").unwrap();
        let media = &response["content"][content_type];
        let text = || Value::String(seen.text().to_owned());
        let body = if content_type.contains("json") {
            serde_json::from_slice(&seen.body).unwrap_or_else(|_| text())
        } else {
            text()
        };
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

    fn is_on_the_page(&self, seen: &Seen, claimed: &RejectionExample, case: &str) {
        let page = self.layer.contract().markdown();
        let row = format!("| `{}` | {} |", claimed.code, seen.status);
        assert!(page.contains(&row), "{case}: {row}");
        assert!(page.contains(seen.text().trim_end()), "{case}");
    }
}
