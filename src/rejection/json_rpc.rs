//! The form of a rejection for clients of JSON-RPC, such as those of the Model Context Protocol.

use bytes::Bytes;
use http::header::ACCEPT;
use http::{HeaderMap, Response, StatusCode};
use serde_json::{Value, json};

use crate::rejection::Rejection;

/// A JSON-RPC request, in the extensions of its head: a rejection of that request is a JSON-RPC
/// error.
#[derive(Clone, Debug, Default)]
pub(crate) struct JsonRpcRequest {
    /// The JSON text of the id. `None` for a message that has no id of its own, such as a batch.
    pub(crate) id: Option<Box<str>>,
    /// The JSON text of the token under which the client of MCP asked for progress.
    pub(crate) progress_token: Option<Box<str>>,
}

impl Rejection {
    /// Renders the rejection as a JSON-RPC error, in one JSON document or as a stream of one event,
    /// by what the request accepts.
    ///
    /// The HTTP status is 200, because the client of the official SDK for TypeScript looks for no
    /// JSON-RPC error below any other status. The error's `code` is the HTTP status that the
    /// rejection has elsewhere: JSON-RPC reserves only -32768 to -32000, and MCP asks that errors of
    /// other layers stay outside of it. `data` has the members `code`, `retry` and `title` of the
    /// problem document, and `retry_after_ms` if waiting helps.
    pub(crate) fn json_rpc(&self, request: &JsonRpcRequest, head: &HeaderMap) -> Response<Bytes> {
        let code = self.code();
        let mut data = json!({
            "code": code.as_str(),
            "retry": code.retry().as_str(),
            "title": code.title(),
            "source": "idempotency",
        });
        if let Some(wait) = self.retry_after() {
            data["retry_after_ms"] = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX).into();
        }
        if let Some(url) = &self.docs_url {
            data["docs"] = Value::from(&**url);
        }
        let code = self.status().as_u16();
        let error = json!({ "code": code, "message": self.detail(), "data": data });
        // The id is sent back as it was written: a number may have more digits than a double.
        let id = request.id.as_ref().map(|id| format!("\"id\":{id},"));
        let id = id.unwrap_or_default();
        let message = format!("{{\"jsonrpc\":\"2.0\",{id}\"error\":{error}}}");
        let mut response = if accepts_json(head) {
            self.answer("application/json", message)
        } else {
            let event = format!("event: message\ndata: {message}\n\n");
            self.answer("text/event-stream", event)
        };
        *response.status_mut() = StatusCode::OK;
        response
    }
}

/// Whether a response may be JSON: a client of MCP accepts both forms, and other clients, such as
/// browsers, may accept events alone.
fn accepts_json(head: &HeaderMap) -> bool {
    let mut values = head.get_all(ACCEPT).iter().peekable();
    if values.peek().is_none() {
        return true;
    }
    let ranges = values.filter_map(|value| value.to_str().ok());
    ranges.flat_map(|value| value.split(',')).any(|range| {
        let mut parts = range.split(';').map(str::trim);
        let kind = parts.next().unwrap_or_default();
        let is_json = ["application/json", "application/*", "*/*"]
            .iter()
            .any(|json| kind.eq_ignore_ascii_case(json));
        // A weight of 0 says "not this one" (RFC 9110, section 12.4.2).
        is_json
            && !parts.any(|parameter| matches!(parameter, "q=0" | "q=0.0" | "q=0.00" | "q=0.000"))
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::HeaderValue;

    use super::*;
    use crate::rejection::{RejectionCode, RejectionRules};

    fn head(accept: &[&'static str]) -> HeaderMap {
        let value = |value: &&'static str| (ACCEPT, HeaderValue::from_static(value));
        accept.iter().map(value).collect()
    }

    fn request(id: Option<&str>) -> JsonRpcRequest {
        let id = id.map(Into::into);
        JsonRpcRequest {
            id,
            ..JsonRpcRequest::default()
        }
    }

    fn rejected(id: Option<&str>, accept: &[&'static str]) -> Response<Bytes> {
        Rejection::new(RejectionCode::InFlight, "Still running.")
            .settle(&RejectionRules::default(), Duration::from_millis(1500))
            .json_rpc(&request(id), &head(accept))
    }

    /// Agents act on these members, so a change of them breaks agents.
    #[test]
    fn the_error_is_exactly_this() {
        let response = rejected(Some("\"a-7\""), &["application/json, text/event-stream"]);
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "application/json");
        assert_eq!(response.headers()["cache-control"], "no-store");
        assert_eq!(response.headers()["retry-after"], "2");
        let message: Value = serde_json::from_slice(response.body()).unwrap();
        let expected = json!({
            "jsonrpc": "2.0",
            "id": "a-7",
            "error": {
                "code": 409,
                "message": "Still running.",
                "data": {
                    "code": "in-flight",
                    "retry": "same-key",
                    "title": "Request still in flight",
                    "source": "idempotency",
                    "retry_after_ms": 1500,
                },
            },
        });
        assert_eq!(message, expected);
    }

    #[test]
    fn a_message_without_an_id_gets_an_error_without_one() {
        let response = rejected(None, &[]);
        let message: Value = serde_json::from_slice(response.body()).unwrap();
        assert!(message.get("id").is_none(), "{message}");
    }

    #[test]
    fn who_accepts_no_json_gets_one_event() {
        for (accept, json) in [
            (&["text/event-stream"][..], false),
            (&["text/event-stream", "Application/JSON;q=0.5"], true),
            (&["text/event-stream, application/json;q=0"], false),
            (&["text/event-stream, */*"], true),
            (&[], true),
        ] {
            let response = rejected(Some("7"), accept);
            let kind = response.headers()["content-type"].to_str().unwrap();
            assert_eq!(kind == "application/json", json, "{accept:?}");
            if !json {
                let text = std::str::from_utf8(response.body()).unwrap();
                let data = text.strip_prefix("event: message\ndata: ").unwrap();
                let message: Value =
                    serde_json::from_str(data.strip_suffix("\n\n").unwrap()).unwrap();
                assert_eq!(message["id"], 7);
            }
        }
    }
}
