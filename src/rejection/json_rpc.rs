//! The form of a rejection for clients of JSON-RPC, such as those of the Model Context Protocol.

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use serde_json::{Map, Value, json};

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
    /// Renders the rejection as a JSON-RPC error.
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
        let members = Map::from_iter([("error".to_owned(), error)]);
        let mut response = self.answer("", Bytes::new());
        *response.status_mut() = StatusCode::OK;
        answer(members, request, head, response)
    }
}

/// Whether a text is an answer of JSON-RPC, which an application has as the body of a rejection.
pub(super) fn is_answer(text: &str) -> bool {
    let members: Option<Map<String, Value>> = serde_json::from_str(text).ok();
    members.is_some_and(|members| {
        let has = |name| members.contains_key(name);
        let version = members.get("jsonrpc");
        version.is_some_and(|version| version == "2.0") && (has("result") || has("error"))
    })
}

/// Makes the application's own answer, which is the body of `response`, the one to this request.
pub(super) fn own_answer(
    request: &JsonRpcRequest,
    head: &HeaderMap,
    response: Response<Bytes>,
) -> Response<Bytes> {
    let members = serde_json::from_slice(response.body());
    let members = members.expect("the template is JSON whatever its placeholders stand for");
    answer(members, request, head, response)
}

/// Puts an answer with these members into `response`, in one JSON document or as a stream of one
/// event, by what the request accepts.
fn answer(
    mut members: Map<String, Value>,
    request: &JsonRpcRequest,
    head: &HeaderMap,
    mut response: Response<Bytes>,
) -> Response<Bytes> {
    members.remove("jsonrpc");
    members.remove("id");
    // The id is sent back as it was written: a number may have more digits than a double.
    let id = request.id.as_ref().map(|id| format!("\"id\":{id},"));
    let id = id.unwrap_or_default();
    // An answer has a result or an error, so a member follows the id.
    let members = Value::Object(members).to_string();
    let mut message = format!("{{\"jsonrpc\":\"2.0\",{id}{}", &members[1..]);
    let content_type = if accepts_json(head) {
        "application/json"
    } else {
        message = format!("event: message\ndata: {message}\n\n");
        "text/event-stream"
    };
    *response.body_mut() = message.into();
    let content_type = HeaderValue::from_static(content_type);
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
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

    use super::*;
    use crate::rejection::template::Template;
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
    fn an_own_body_that_is_a_message_answers_the_call() {
        let template = |body| Template::new("application/json", body).unwrap();
        let message = r#"{"jsonrpc":"2.0","id":null,"result":{"isError":true,"code":"{code}"}}"#;
        let rules = RejectionRules {
            statuses: vec![("in-flight", StatusCode::SERVICE_UNAVAILABLE)],
            bodies: vec![("key-reused", template(r#"{"error":"{code}"}"#))],
            default_body: Some(template(message)),
            ..RejectionRules::default()
        };
        let answered = |code, accept| {
            let (mut parts, ()) = http::Request::new(()).into_parts();
            parts.headers = head(accept);
            parts
                .extensions
                .insert(request(Some("12345678901234567890")));
            let rejection = Rejection::new(code, "Why.").settle(&rules, Duration::from_secs(1));
            let response = rules.render(&rejection, Some(&parts), false);
            let body = String::from_utf8(response.body().to_vec()).unwrap();
            (response.status().as_u16(), body)
        };
        let expected = |code| {
            let id = "\"id\":12345678901234567890";
            format!(r#"{{"jsonrpc":"2.0",{id},"result":{{"code":"{code}","isError":true}}}}"#)
        };
        let invalid = answered(RejectionCode::KeyInvalid, &[]);
        assert_eq!(invalid, (200, expected("key-invalid")));
        let in_flight = answered(RejectionCode::InFlight, &["text/event-stream"]);
        let event = format!("event: message\ndata: {}\n\n", expected("in-flight"));
        assert_eq!(in_flight, (503, event));
        // A client of JSON-RPC would look for an answer in this body, and find none.
        let (status, reused) = answered(RejectionCode::KeyReused, &[]);
        assert!(
            status == 200 && reused.contains(r#""error":{"code":422"#),
            "{reused}"
        );
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
