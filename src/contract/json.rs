//! The contract as JSON, in the words of a configuration file.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use serde_json::{Map, Value, json};

use crate::contract::{Contract, Endpoint, RejectionExample};
use crate::options::fingerprint::FingerprintBody;
use crate::options::recording::{RecordRule, SkipHeader};
use crate::options::skip_json::SkipMember;
use crate::options::{McpTools, OnInFlight};

impl Contract {
    /// The contract as JSON. The members have the names of the options, and the
    /// values that a configuration file would have; times are seconds, sizes are
    /// bytes. A share that is `null` is seven times what is free.
    #[must_use]
    pub fn json(&self) -> Value {
        json!({
            "docs_url": self.docs_url,
            "limits": self.limits.json(),
            "endpoints": self.endpoints.iter().map(Endpoint::json).collect::<Value>(),
        })
    }
}

impl Endpoint {
    fn json(&self) -> Value {
        let methods: Vec<_> = self.methods.iter().map(Method::as_str).collect();
        let options = &*self.options;
        if !options.takes_keys() {
            return json!({ "methods": methods, "path": self.path, "require": "ignored" });
        }
        let headers = &options.record_headers;
        let recorded = if headers.allow {
            json!({ "allow": names(&headers.allowed()) })
        } else {
            json!({ "deny": names(&headers.names) })
        };
        json!({
            "methods": methods,
            "path": self.path,
            "require": options.require.as_str(),
            "header": names(&options.keys.headers),
            "key_in_body": options
                .keys
                .in_body
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>(),
            "key_syntax": options.keys.syntax.as_str(),
            "key_length": {
                "min": options.keys.length.start(),
                "max": options.keys.length.end(),
            },
            "key_format": options.keys.format.name().unwrap_or("any"),
            "scope": self.scope,
            "keys_per": options.keys_per.as_str(),
            "fingerprint_body": match &options.fingerprint.body {
                FingerprintBody::Bytes => json!("bytes"),
                FingerprintBody::None => json!("none"),
                FingerprintBody::Json(own) => json!({
                    "json": { "include": own.include, "exclude": own.exclude },
                }),
            },
            "fingerprint_query": options.fingerprint.query,
            "fingerprint_headers": names(&options.fingerprint.headers),
            "on_mismatch": options.on_mismatch.as_str(),
            "max_request_body": options.max_request_body,
            "body_timeout": seconds(options.body_timeout),
            "max_recorded_body": options.max_recorded_body,
            "oversize": options.oversize.as_str(),
            "event_streams": options.event_streams.as_str(),
            "record": options.record.describe(),
            "in_doubt": options.in_doubt.describe(),
            "mcp_tools": options.mcp.as_ref().map(|tools| match tools {
                McpTools::All => json!("all"),
                McpTools::Only(names) => json!({ "only": names }),
                McpTools::Except(names) => json!({ "except": names }),
            }),
            "skip_types": options.skip_types,
            "skip_headers": options
                .skip_headers
                .iter()
                .map(SkipHeader::to_string)
                .collect::<Vec<_>>(),
            "skip_json": options
                .skip_json
                .0
                .iter()
                .map(SkipMember::to_string)
                .collect::<Vec<_>>(),
            "record_headers": recorded,
            "on_in_flight": match options.on_in_flight {
                OnInFlight::Reject => json!("reject"),
                OnInFlight::Wait(bound) => json!({ "wait": seconds(bound) }),
            },
            "on_lapsed_lease": options.on_lapsed_lease.as_str(),
            "on_disconnect": options.on_disconnect.as_str(),
            "on_store_error": options.on_store_error.as_str(),
            "lease": seconds(options.lease),
            "max_operation": seconds(options.max_operation),
            "retention": seconds(options.retention),
            "replayed_header": name(options.replayed_header.as_ref()),
            "created_at_header": name(options.created_at_header.as_ref()),
            "expires_at_header": name(options.expires_at_header.as_ref()),
            "echo_key": options.echo_key,
            "replay_status": options
                .replay_status
                .iter()
                .map(|(from, to)| (from.as_str().to_owned(), json!(to.as_u16())))
                .collect::<Map<_, _>>(),
            "replay_json": options
                .replay_json
                .0
                .iter()
                .map(|(pointer, own)| (pointer.to_string(), own.json()))
                .collect::<Map<_, _>>(),
            "rejections": self.rejections.iter().map(rejection).collect::<Value>(),
        })
    }
}

fn rejection(example: &RejectionExample) -> Value {
    json!({
        "code": example.code.as_str(),
        "status": example.status.as_u16(),
        "retry": example.code.retry().as_str(),
        "headers": fields(&example.headers),
        "body": example.json_body(),
        "rendered": example.rendered,
    })
}

fn fields(headers: &HeaderMap) -> Map<String, Value> {
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
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

/// A number of seconds, whole if the duration is whole.
pub(super) fn seconds(duration: Duration) -> Value {
    match duration.subsec_nanos() {
        0 => duration.as_secs().into(),
        _ => duration.as_secs_f64().into(),
    }
}
