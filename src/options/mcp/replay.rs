//! What changes in a recorded answer for the call that gets it again.

use std::sync::LazyLock;

use bytes::Bytes;
use http::HeaderMap;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};

use crate::message::media_type::is_media_type;
use crate::options::json::member::{MemberPointer, Place};
use crate::options::mcp::message::{ID, pointer};
use crate::rejection::json_rpc::JsonRpcRequest;

/// The token that a notification of progress belongs to.
static TOKEN: LazyLock<MemberPointer> = LazyLock::new(|| pointer("/params/progressToken"));

/// The recorded body for this call: its `id` and its progress token instead of those of the first
/// call, and every other byte as it was. `None` if the body stays as it is.
///
/// From a stream two things are left out: progress that the call did not ask for, and the ids of
/// events, by which a client of an earlier revision would ask for the rest of the first call's
/// stream.
pub(crate) fn for_retry(call: &JsonRpcRequest, headers: &HeaderMap, body: &[u8]) -> Option<Bytes> {
    if headers.contains_key(CONTENT_ENCODING) {
        return None;
    }
    let text = std::str::from_utf8(body).ok()?;
    let content_type = headers.get(CONTENT_TYPE);
    let changed = if is_media_type(content_type, "text/event-stream") {
        stream(call, text)
    } else if is_media_type(content_type, "application/json") {
        message(call, text)?
    } else {
        return None;
    };
    Some(changed.into())
}

/// A message with the id and the token of the call; `None` if it is left out.
fn message(call: &JsonRpcRequest, text: &str) -> Option<String> {
    let mut text = text.to_owned();
    for (pointer, own) in [(&*TOKEN, &call.progress_token), (&*ID, &call.id)] {
        let Some(Place::Value(place)) = pointer.find(&text) else {
            continue;
        };
        text.replace_range(place, own.as_deref()?);
    }
    Some(text)
}

fn stream(call: &JsonRpcRequest, text: &str) -> String {
    let text = text.replace("\r\n", "\n").replace('\r', "\n");
    let mut out = String::with_capacity(text.len());
    for event in text.split_inclusive("\n\n") {
        let field = |line: &'_ str, name: &str| {
            let rest = line.strip_prefix(name)?.strip_prefix(':')?;
            Some(rest.strip_prefix(' ').unwrap_or(rest).to_owned())
        };
        let data: Vec<_> = event
            .lines()
            .filter_map(|line| field(line, "data"))
            .collect();
        let data = data.join("\n");
        let Some(data) = message(call, &data) else {
            continue;
        };
        for line in event.trim_end_matches('\n').split('\n') {
            if field(line, "data").is_none() && field(line, "id").is_none() {
                out.push_str(line);
                out.push('\n');
            }
        }
        if event.lines().any(|line| field(line, "data").is_some()) {
            for line in data.split('\n') {
                out.push_str("data: ");
                out.push_str(line);
                out.push('\n');
            }
        }
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn call(id: &str, token: Option<&str>) -> JsonRpcRequest {
        JsonRpcRequest {
            id: Some(id.into()),
            progress_token: token.map(Into::into),
        }
    }

    fn again(call: &JsonRpcRequest, content_type: &'static str, body: &str) -> Option<String> {
        let value = HeaderValue::from_static(content_type);
        let headers = HeaderMap::from_iter([(CONTENT_TYPE, value)]);
        let body = for_retry(call, &headers, body.as_bytes())?;
        Some(String::from_utf8(body.to_vec()).unwrap())
    }

    #[test]
    fn a_message_changes_in_its_id_alone() {
        let recorded = r#"{ "id" : 1, "result": {"id":1, "n": 1.50}, "jsonrpc":"2.0"}"#;
        let expected = r#"{ "id" : "b-2", "result": {"id":1, "n": 1.50}, "jsonrpc":"2.0"}"#;
        let own = again(&call("\"b-2\"", None), "application/json", recorded);
        assert_eq!(own.as_deref(), Some(expected));
        assert_eq!(again(&call("2", None), "text/plain", recorded), None);
    }

    #[test]
    fn a_stream_gets_the_id_and_the_token_of_the_retry() {
        let progress =
            r#"{"method":"notifications/progress","params":{"progressToken":1,"progress":1}}"#;
        let log = r#"{"method":"notifications/message","params":{"data":"x"}}"#;
        let recorded = format!(
            ": hello\n\nid: 1/0\nretry: 3000\ndata:\n\nevent: message\ndata: {progress}\n\n\
             data: {log}\n\nevent: message\nid: 1/2\ndata: {{\"id\":1,\ndata: \"result\":{{}}}}\n\n"
        );
        let own = again(&call("7", Some("\"t\"")), "text/event-stream", &recorded);
        let expected = format!(
            ": hello\n\nretry: 3000\ndata: \n\nevent: message\ndata: {}\n\n\
             data: {log}\n\nevent: message\ndata: {{\"id\":7,\ndata: \"result\":{{}}}}\n\n",
            progress.replace("\"progressToken\":1", "\"progressToken\":\"t\"")
        );
        assert_eq!(own.unwrap(), expected);
        let own = again(&call("7", None), "text/event-stream", &recorded).unwrap();
        assert!(!own.contains("progress"), "{own}");
        assert!(own.contains("\"id\":7"), "{own}");
        let crlf = recorded.replace('\n', "\r\n");
        assert_eq!(
            again(&call("7", None), "text/event-stream", &crlf).unwrap(),
            own
        );
    }

    #[test]
    fn an_encoded_body_stays_as_it_is() {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        assert_eq!(for_retry(&call("7", None), &headers, b"{\"id\":1}"), None);
    }
}
