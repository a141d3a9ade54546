//! What a message to an MCP endpoint is.

use std::sync::LazyLock;

use crate::options::json::member::{MemberPointer, Place, string};
use crate::options::mcp::McpTools;
use crate::rejection::json_rpc::JsonRpcRequest;

/// A message, as far as its protection depends on it.
#[derive(Debug)]
pub(crate) enum Message {
    /// A call of a tool that is protected.
    Call(JsonRpcRequest),
    /// Any other message.
    Other,
    /// Several messages in one. The revision 2025-03-26 has them, and one answer for all of them.
    Batch,
    /// Whether the message is a call can't be told: it is not JSON, it is a call without the name of
    /// a tool, or it has a member twice, and readers differ in which one they take. Or its id is no
    /// string and no number, which no answer could have.
    Unreadable,
}

pub(super) static METHOD: LazyLock<MemberPointer> = LazyLock::new(|| pointer("/method"));
static NAME: LazyLock<MemberPointer> = LazyLock::new(|| pointer("/params/name"));
pub(super) static ID: LazyLock<MemberPointer> = LazyLock::new(|| pointer("/id"));
static TOKEN: LazyLock<MemberPointer> = LazyLock::new(|| pointer("/params/_meta/progressToken"));

pub(super) fn pointer(text: &str) -> MemberPointer {
    MemberPointer::parse(text).expect("it is a pointer")
}

impl McpTools {
    /// What the message in this body is.
    pub(crate) fn message(&self, body: &[u8]) -> Message {
        let Ok(text) = std::str::from_utf8(body) else {
            return Message::Unreadable;
        };
        if text.trim_start().starts_with('[') {
            return Message::Batch;
        }
        match METHOD.find(text) {
            Some(Place::Value(method)) if is(&text[method.clone()], b"tools/call") => {}
            // An answer to the server has no method (revisions before 2026-07-28).
            Some(Place::Value(_) | Place::Absent { .. }) => return Message::Other,
            Some(Place::Nowhere) | None => return Message::Unreadable,
        }
        let Some(Place::Value(name)) = NAME.find(text) else {
            return Message::Unreadable;
        };
        let Some(name) = string(&text[name]) else {
            return Message::Unreadable;
        };
        if !self.protect(&name) {
            return Message::Other;
        }
        let id = match ID.find(text) {
            Some(Place::Value(id)) => match tag(&text[id]) {
                None => return Message::Unreadable,
                id => id,
            },
            Some(Place::Absent { .. }) => None,
            _ => return Message::Unreadable,
        };
        let progress_token = match TOKEN.find(text) {
            Some(Place::Value(token)) => tag(&text[token]),
            _ => None,
        };
        Message::Call(JsonRpcRequest { id, progress_token })
    }
}

impl Message {
    /// Why a batch can't be protected.
    pub(super) const BATCH: &str =
        "Calls of tools in a batch can't be protected; send each as a request of its own.";
    /// Why a message can't be protected that may be a call.
    pub(super) const UNREADABLE: &str = "The body must be one JSON-RPC request, whose `id` is a string or a number of at most 1 KiB, \
         and in which no object has a member twice.";
}

/// The text of an id or of a token: a string or a number, as JSON-RPC and MCP have them. It stands in
/// each message of a replay, so its length is bounded (G11), and in one line.
fn tag(text: &str) -> Option<Box<str>> {
    let is_one = text.starts_with(|first: char| matches!(first, '"' | '-' | '0'..='9'));
    (is_one && text.len() <= LONGEST_TAG).then(|| text.into())
}

const LONGEST_TAG: usize = 1024;

fn is(text: &str, wanted: &[u8]) -> bool {
    string(text).is_some_and(|own| own == wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The id of a call, or what else the message is.
    fn sort(tools: &McpTools, body: &str) -> Result<String, &'static str> {
        match tools.message(body.as_bytes()) {
            Message::Call(request) => Ok(request.id.unwrap_or_default().into()),
            Message::Other => Err("other"),
            Message::Batch => Err("batch"),
            Message::Unreadable => Err("unreadable"),
        }
    }

    fn call(id: &str, tool: &str) -> String {
        format!(
            r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/call","params":{{"name":"{tool}"}}}}"#
        )
    }

    #[test]
    fn tools_are_protected_by_their_names() {
        let (pay, look) = (call("1", "pay"), call("\"a\"", "look"));
        for (tools, pays, looks) in [
            (McpTools::All, true, true),
            (McpTools::only(["pay"]), true, false),
            (McpTools::except(["look"]), true, false),
            (McpTools::only(["Pay"]), false, false),
        ] {
            let expected = |is: bool, id: &str| if is { Ok(id.to_owned()) } else { Err("other") };
            assert_eq!(sort(&tools, &pay), expected(pays, "1"), "{tools:?}");
            assert_eq!(sort(&tools, &look), expected(looks, "\"a\""), "{tools:?}");
        }
    }

    #[test]
    fn escapes_hide_no_call() {
        let call =
            r#"{"m\u0065thod":"tools\/c\u0061ll","params":{"name":"p\u0061y"},"id":"\u0061"}"#;
        assert_eq!(
            sort(&McpTools::only(["pay"]), call),
            Ok("\"\\u0061\"".to_owned())
        );
    }

    #[test]
    fn what_is_no_call_is_passed_on_and_what_may_be_one_is_not() {
        for (body, is) in [
            (r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#, "other"),
            (r#"{"jsonrpc":"2.0","id":1,"result":{}}"#, "other"),
            (r#"{"jsonrpc":"2.0","method":7}"#, "other"),
            (r#" [{"method":"tools/call"}]"#, "batch"),
            ("[]", "batch"),
            ("", "unreadable"),
            ("tools/call", "unreadable"),
            (r#"{"method":"tools/call"}"#, "unreadable"),
            (
                r#"{"method":"tools/call","params":{"name":7}}"#,
                "unreadable",
            ),
            (r#"{"method":"ping","method":"tools/call"}"#, "unreadable"),
            (
                r#"{"method":"tools/call","params":{"name":"a","name":"pay"}}"#,
                "unreadable",
            ),
            (
                r#"{"id":1,"id":2,"method":"tools/call","params":{"name":"pay"}}"#,
                "unreadable",
            ),
            (
                r#"{"method":"tools/call","params":{"name":"pay"}"#,
                "unreadable",
            ),
            (&call("null", "pay"), "unreadable"),
            (&call("[1]", "pay"), "unreadable"),
            (&call(&"1".repeat(1025), "pay"), "unreadable"),
        ] {
            assert_eq!(sort(&McpTools::All, body), Err(is), "{body}");
        }
        assert_eq!(
            sort(&McpTools::All, &call("1.0", "pay")),
            Ok("1.0".to_owned())
        );
        let without = r#"{"method":"tools/call","params":{"name":"pay"}}"#;
        assert_eq!(sort(&McpTools::All, without), Ok(String::new()));
    }
}
