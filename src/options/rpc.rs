//! Messages of JSON-RPC 2.0, as far as replays and records look at them.

use std::collections::HashSet;

use serde_json::Value;

use crate::message::event_stream::events;
use crate::options::json::member::{MemberPointer, Place};

/// Whether this message is a request or a notification of the server.
pub(super) fn is_asked_by_server(text: &str) -> bool {
    member(text, "/jsonrpc").is_some() && member(text, "/method").is_some()
}

/// Whether a stream of events has two responses to one request: it then is not the answer to one
/// operation.
pub(crate) fn answers_twice(stream: &[u8]) -> bool {
    let mut answered = HashSet::new();
    events(stream).any(|event| {
        let data = event.text();
        let text = std::str::from_utf8(&data).ok();
        let id = text.filter(|text| is_response(text));
        let id = id.and_then(|text| member(text, "/id"));
        // Two spellings of one string are one id.
        let id = id.and_then(|id| serde_json::from_str::<Value>(id).ok());
        id.is_some_and(|id| !answered.insert(id.to_string()))
    })
}

fn is_response(text: &str) -> bool {
    let has = |pointer| member(text, pointer).is_some();
    has("/jsonrpc") && !has("/method") && (has("/result") || has("/error"))
}

fn member<'a>(text: &'a str, pointer: &str) -> Option<&'a str> {
    match MemberPointer::parse(pointer).ok()?.find(text)? {
        Place::Value(place) => Some(&text[place]),
        Place::Absent { .. } | Place::Nowhere => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_responses_to_one_request_are_found() {
        let answer =
            |id: &str| format!("data: {{\"jsonrpc\":\"2.0\",\"id\":{id},\"result\":{{}}}}\n\n");
        let question = "data: {\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"ping\"}\n\n";
        let other = "data: {\"id\":1,\"result\":{}}\n\n";
        let error = "data: {\"jsonrpc\":\"2.0\",\"id\":1,\"error\":{\"code\":1}}\n\n";
        for (stream, twice) in [
            (answer("1") + &answer("2") + &answer("\"1\""), false),
            (question.repeat(2) + &answer("1"), false),
            (other.repeat(2) + &answer("1"), false),
            (answer("1") + question + &answer("1"), true),
            (answer("1") + error, true),
            (answer("\"a\"") + &answer("\"\\u0061\""), true),
            (String::new(), false),
        ] {
            assert_eq!(answers_twice(stream.as_bytes()), twice, "{stream}");
        }
    }
}
