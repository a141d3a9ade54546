//! What the answer to a call of a tool means for the call's record.

use std::sync::LazyLock;

use http::HeaderMap;
use http::header::CONTENT_TYPE;

use crate::message::event_stream::{end_of_events, events};
use crate::message::media_type::is_media_type;
use crate::options::json::member::{MemberPointer, Place, string};
use crate::options::mcp::message::pointer;
use crate::options::rewrite::is_coded;

/// What the answer to a call of a tool says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ToolAnswer {
    /// How the call ended. What is no message of JSON-RPC is taken for one such answer: the status
    /// of the response decides.
    Result,
    /// The call can be sent again: the server failed, needs more input of the client, or answered with
    /// a member of `skip_json`.
    Unfinished,
    /// A stream with this number of answers, which should have one.
    Unclear(usize),
    /// The answer is in a coding: what it says is not known, and no retry could get it with its own id.
    Coded,
}

static RESULT: LazyLock<MemberPointer> = LazyLock::new(|| pointer("/result"));
static RESULT_TYPE: LazyLock<MemberPointer> = LazyLock::new(|| pointer("/result/resultType"));
static ERROR: LazyLock<MemberPointer> = LazyLock::new(|| pointer("/error"));
static ERROR_CODE: LazyLock<MemberPointer> = LazyLock::new(|| pointer("/error/code"));

impl ToolAnswer {
    /// Whether a response with these headers can be an answer that is not read.
    pub(crate) fn is_coded(headers: &HeaderMap) -> bool {
        let content_type = headers.get(CONTENT_TYPE);
        let is_message = ["application/json", "text/event-stream"]
            .iter()
            .any(|own| is_media_type(content_type, own));
        is_message && is_coded(headers)
    }

    /// What the whole body of a response says.
    pub(crate) fn of(body: &[u8], is_stream: bool) -> Self {
        if !is_stream {
            let text = std::str::from_utf8(body).ok();
            return text.and_then(Self::of_message).unwrap_or(Self::Result);
        }
        // An event that no empty line ends is none.
        let end = end_of_events(body, 0).unwrap_or(0);
        match *Self::in_events(&body[..end]) {
            [answer] => answer,
            ref answers => Self::Unclear(answers.len()),
        }
    }

    /// The answers that stand in these events.
    pub(super) fn in_events(stream: &[u8]) -> Vec<Self> {
        let answers = events(stream)
            .filter_map(|event| Self::of_message(std::str::from_utf8(&event.text()).ok()?));
        answers.collect()
    }

    /// What a message says; `None` if the message is no answer.
    fn of_message(text: &str) -> Option<Self> {
        let member = |pointer: &MemberPointer| match pointer.find(text) {
            Some(Place::Value(place)) => Some(&text[place]),
            _ => None,
        };
        if member(&ERROR).is_some() {
            let code: Option<i64> = member(&ERROR_CODE).and_then(|code| code.parse().ok());
            // "Internal error", and what JSON-RPC leaves to servers for their own failures.
            let failed = matches!(code, Some(-32603 | -32099..=-32000));
            return Some(if failed {
                Self::Unfinished
            } else {
                Self::Result
            });
        }
        member(&RESULT)?;
        let kind = member(&RESULT_TYPE).and_then(string);
        // "Multi Round-Trip Requests": the client sends the call again, with what was asked for.
        let asks = kind.is_some_and(|kind| kind == b"input_required");
        Some(if asks { Self::Unfinished } else { Self::Result })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROGRESS: &str =
        r#"{"jsonrpc":"2.0","method":"notifications/progress","params":{"progress":1}}"#;
    const RESULT: &str = r#"{"jsonrpc":"2.0","id":1,"result":{"content":[]}}"#;

    fn of(content_type: &'static str, body: &str) -> ToolAnswer {
        ToolAnswer::of(body.as_bytes(), content_type == "text/event-stream")
    }

    #[test]
    fn a_call_may_be_sent_again_after_a_failure_of_the_server() {
        let error = |code: &str| format!(r#"{{"id":1,"error":{{"code":{code},"message":""}}}}"#);
        for (code, expected) in [
            ("-32603", ToolAnswer::Unfinished),
            ("-32000", ToolAnswer::Unfinished),
            ("-32099", ToolAnswer::Unfinished),
            ("-32100", ToolAnswer::Result),
            ("-32602", ToolAnswer::Result),
            ("-32601", ToolAnswer::Result),
            ("402", ToolAnswer::Result),
            ("\"-32603\"", ToolAnswer::Result),
        ] {
            assert_eq!(of("application/json", &error(code)), expected, "{code}");
        }
    }

    #[test]
    fn a_result_that_asks_for_input_is_not_the_last() {
        for (kind, expected) in [
            ("input_required", ToolAnswer::Unfinished),
            ("input\\u005frequired", ToolAnswer::Unfinished),
            ("complete", ToolAnswer::Result),
            ("task", ToolAnswer::Result),
        ] {
            let body = format!(r#"{{"id":1,"result":{{"resultType":"{kind}"}}}}"#);
            assert_eq!(of("application/json", &body), expected, "{kind}");
        }
        assert_eq!(of("application/json", RESULT), ToolAnswer::Result);
        let failed = r#"{"id":1,"result":{"isError":true,"content":[]}}"#;
        assert_eq!(of("application/json", failed), ToolAnswer::Result);
    }

    #[test]
    fn a_stream_has_one_answer() {
        let event = |data: &str| format!("event: message\ndata: {data}\n\n");
        let stream = |all: &[&str]| all.iter().map(|data| event(data)).collect::<String>();
        for (body, expected) in [
            (stream(&[PROGRESS, RESULT]), ToolAnswer::Result),
            (stream(&["", PROGRESS, RESULT]), ToolAnswer::Result),
            (stream(&[PROGRESS]), ToolAnswer::Unclear(0)),
            (stream(&[RESULT, PROGRESS, RESULT]), ToolAnswer::Unclear(2)),
            (stream(&[RESULT]).replace('\n', "\r\n"), ToolAnswer::Result),
            (stream(&[RESULT]).replace('\n', "\r"), ToolAnswer::Result),
            (String::new(), ToolAnswer::Unclear(0)),
            (format!("\u{feff}{}", stream(&[RESULT])), ToolAnswer::Result),
            (
                stream(&[RESULT]).replace("\n\n", "\n\r\n"),
                ToolAnswer::Result,
            ),
            // An event that the stream broke off in.
            (format!("data: {RESULT}\n"), ToolAnswer::Unclear(0)),
            (
                RESULT
                    .split_inclusive(',')
                    .fold(String::new(), |all, part| all + "data:" + part + "\r\n")
                    + "\r\n",
                ToolAnswer::Result,
            ),
            (
                event(r#"{"error":{"code":-32603,"message":""}}"#),
                ToolAnswer::Unfinished,
            ),
        ] {
            assert_eq!(of("text/event-stream", &body), expected, "{body}");
        }
    }

    /// A log that is not UTF-8 does not hide the answers, nor that there is none.
    #[test]
    fn each_event_is_read_by_itself() {
        let mut stream = b"data: \xff\n\n".to_vec();
        assert_eq!(ToolAnswer::of(&stream, true), ToolAnswer::Unclear(0));
        stream.extend_from_slice(format!("data: {RESULT}\n\n").as_bytes());
        assert_eq!(ToolAnswer::of(&stream, true), ToolAnswer::Result);
        assert_eq!(ToolAnswer::of(b"\xff", false), ToolAnswer::Result);
    }

    #[test]
    fn what_is_no_message_is_left_to_its_status() {
        for body in ["", "accepted", "[]", r#"{"id":1}"#] {
            assert_eq!(of("application/json", body), ToolAnswer::Result, "{body}");
        }
    }
}
