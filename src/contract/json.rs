//! The contract as JSON, in the words of a configuration file.

use std::time::Duration;

use http::{HeaderMap, HeaderName};
use serde_json::{Map, Value, json};

use crate::contract::{Contract, Endpoint, GatewayError, HeaderChoice, RejectionExample, Terms};
use crate::message::media_type::is_json;
use crate::options::fingerprint::FingerprintBody;
use crate::options::key::KeySyntax;
use crate::options::{KeysPer, OnDisconnect, OnInFlight, OnMismatch, OnOversize, OnStoreError};
use crate::store::OnLapsedLease;

impl Contract {
    /// The contract as JSON. Members have the names of options and hold what a
    /// configuration file would; times are numbers of seconds, sizes of bytes.
    #[must_use]
    pub fn json(&self) -> Value {
        json!({
            "docs_url": self.docs_url,
            "endpoints": self.endpoints.iter().map(endpoint).collect::<Value>(),
            "gateway": self.gateway.iter().map(gateway_error).collect::<Value>(),
        })
    }
}

fn gateway_error(error: &GatewayError) -> Value {
    json!({
        "code": error.code,
        "status": error.status.as_u16(),
        "when": error.when,
        "advice": error.advice,
    })
}

fn endpoint(endpoint: &Endpoint) -> Value {
    let methods: Vec<_> = endpoint.methods.iter().map(http::Method::as_str).collect();
    let mut value = json!({ "methods": methods, "path": endpoint.path });
    match &endpoint.terms {
        None => value["require"] = json!("ignored"),
        Some(own) => {
            if let (Value::Object(all), Value::Object(own)) = (&mut value, terms(own)) {
                all.extend(own);
            }
        }
    }
    value
}

fn terms(terms: &Terms) -> Value {
    json!({
        "require": if terms.key_required { "required" } else { "optional" },
        "header": names(&terms.header),
        "key_syntax": match terms.key_syntax {
            KeySyntax::Lenient => "lenient",
            KeySyntax::Strict => "strict",
            KeySyntax::Raw => "raw",
        },
        "key_length": { "min": terms.key_length.start(), "max": terms.key_length.end() },
        "key_format": terms.key_format.as_deref().unwrap_or("any"),
        "scope": terms.scope,
        "keys_per": match terms.keys_per {
            KeysPer::Scope => "scope",
            KeysPer::Route => "route",
        },
        "fingerprint_body": match &terms.fingerprint_body {
            FingerprintBody::Bytes => json!("bytes"),
            FingerprintBody::None => json!("none"),
            FingerprintBody::Json(own) => json!({
                "json": { "include": own.include, "exclude": own.exclude },
            }),
        },
        "fingerprint_query": terms.fingerprint_query,
        "fingerprint_headers": names(&terms.fingerprint_headers),
        "on_mismatch": match terms.on_mismatch {
            OnMismatch::Reject => "reject",
            OnMismatch::Replay => "replay",
        },
        "max_request_body": terms.max_request_body,
        "body_timeout": seconds(terms.body_timeout),
        "max_recorded_body": terms.max_recorded_body,
        "oversize": match terms.oversize {
            OnOversize::Seal => "seal",
            OnOversize::Rerun => "rerun",
        },
        "record": terms.record,
        "skip_types": terms.skip_types,
        "skip_headers": terms.skip_headers,
        "record_headers": match &terms.record_headers {
            HeaderChoice::Only(own) => json!({ "allow": names(own) }),
            HeaderChoice::AllBut(own) => json!({ "deny": names(own) }),
        },
        "on_in_flight": match terms.on_in_flight {
            OnInFlight::Reject => json!("reject"),
            OnInFlight::Wait(bound) => json!({ "wait": seconds(bound) }),
        },
        "on_lapsed_lease": match terms.on_lapsed_lease {
            OnLapsedLease::Rerun => "rerun",
            OnLapsedLease::Refuse => "refuse",
        },
        "on_disconnect": match terms.on_disconnect {
            OnDisconnect::Finish => "finish",
            OnDisconnect::Cancel => "cancel",
        },
        "on_store_error": match terms.on_store_error {
            OnStoreError::Reject => "closed",
            OnStoreError::RunUnprotected => "open",
        },
        "lease": seconds(terms.lease),
        "max_operation": seconds(terms.max_operation),
        "retention": seconds(terms.retention),
        "replayed_header": name(terms.replayed_header.as_ref()),
        "created_at_header": name(terms.created_at_header.as_ref()),
        "expires_at_header": name(terms.expires_at_header.as_ref()),
        "echo_key": terms.echo_key,
        "replay_status": terms
            .replay_status
            .iter()
            .map(|(from, to)| (from.as_str().to_owned(), json!(to.as_u16())))
            .collect::<Map<_, _>>(),
        "rejections": terms.refusals.iter().map(refusal).collect::<Value>(),
    })
}

fn refusal(refusal: &RejectionExample) -> Value {
    json!({
        "code": refusal.code.as_str(),
        "status": refusal.status.as_u16(),
        "retry": refusal.code.retry().as_str(),
        "headers": fields(&refusal.headers),
        "body": refusal.body(),
        "rendered": refusal.rendered,
    })
}

impl RejectionExample {
    /// The example as JSON if that is what it is, else as a string.
    pub(super) fn body(&self) -> Option<Value> {
        let body = self.body.as_ref()?;
        let text = || String::from_utf8_lossy(body).into_owned();
        let json = self.is_json().then(|| serde_json::from_slice(body).ok());
        Some(json.flatten().unwrap_or_else(|| Value::String(text())))
    }

    pub(super) fn content_type(&self) -> Option<&str> {
        let value = self.headers.get(http::header::CONTENT_TYPE)?;
        value.to_str().ok()
    }

    /// Whether its type is JSON, by name or by suffix.
    pub(super) fn is_json(&self) -> bool {
        self.content_type().is_some_and(is_json)
    }
}

fn fields(headers: &HeaderMap) -> Map<String, Value> {
    let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    headers
        .iter()
        .map(|(name, value)| (name.to_string(), text(value).into()))
        .collect()
}

fn names(names: &[HeaderName]) -> Vec<&str> {
    names.iter().map(HeaderName::as_str).collect()
}

fn name(name: Option<&HeaderName>) -> Option<&str> {
    name.map(HeaderName::as_str)
}

/// A whole number where it is one.
fn seconds(duration: Duration) -> Value {
    match duration.subsec_nanos() {
        0 => duration.as_secs().into(),
        _ => duration.as_secs_f64().into(),
    }
}
