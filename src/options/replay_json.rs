//! Members of JSON responses that are set on a replay.

use http::HeaderMap;
use serde_json::Value;

use crate::message::media_type::is_event_stream;
use crate::options::fingerprint::says_json;
use crate::options::json::member::{MemberPointer, Place};
use crate::options::json::splice::{Change, edits};
use crate::options::rewrite::{Messages, Rewrite, TooLarge, is_whole, rewritten};
use crate::options::rpc;
use crate::record::Completion;

/// Where a replay takes the value of a member from, see
/// [`replay_json`](crate::RouteOptions::replay_json).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplayedMember(pub(crate) Source);

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// The JSON text of a value.
    Constant(String),
    /// A member of the retry's own body.
    Request(Result<MemberPointer, String>),
}

impl ReplayedMember {
    /// This value, in every replay. The member is added to an object that lacks it.
    ///
    /// ```
    /// use tower_idempotency::options::{ReplayedMember, RouteOptions};
    ///
    /// RouteOptions::default().replay_json("/replayed", ReplayedMember::constant(true));
    /// ```
    #[must_use]
    pub fn constant(value: impl Into<Value>) -> Self {
        Self(Source::Constant(value.into().to_string()))
    }

    /// The member that this JSON pointer names in the body of the retry. If the retry has no such
    /// member, or the response has none to be set, the response stays as it is.
    ///
    /// ```
    /// use tower_idempotency::options::{ReplayedMember, RouteOptions};
    ///
    /// RouteOptions::default().replay_json("/id", ReplayedMember::of_request("/id"));
    /// ```
    #[must_use]
    pub fn of_request(pointer: impl AsRef<str>) -> Self {
        Self(Source::Request(MemberPointer::parse(pointer.as_ref())))
    }

    /// As a file has it.
    #[cfg(feature = "contract")]
    pub(crate) fn json(&self) -> Value {
        match &self.0 {
            Source::Constant(text) => serde_json::from_str(text).unwrap_or_default(),
            Source::Request(Ok(pointer)) => format!("request:{pointer}").into(),
            Source::Request(Err(_)) => Value::Null,
        }
    }
}

/// The members that are set on a replay.
#[derive(Clone, Debug, Default)]
pub(crate) struct ReplayJson(pub(crate) Vec<(MemberPointer, ReplayedMember)>);

impl ReplayJson {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a replay needs the body of its request.
    pub(crate) fn reads_requests(&self) -> bool {
        let reads = |own: &ReplayedMember| matches!(own.0, Source::Request(_));
        self.0.iter().any(|(_, own)| reads(own))
    }

    /// The recorded response with its members set, for a retry with this head and body. `None` if
    /// nothing of the response changes.
    pub(crate) fn set(
        &self,
        recorded: &Completion,
        asked: &HeaderMap,
        body: &[u8],
        max_recorded_body: usize,
    ) -> Result<Option<Completion>, TooLarge> {
        if !is_whole(recorded) {
            return Ok(None);
        }
        let messages = if says_json(&recorded.headers) {
            Messages::Whole
        } else if is_event_stream(&recorded.headers) {
            Messages::InEvents { keeps_ids: true }
        } else {
            return Ok(None);
        };
        let asked = says_json(asked).then_some(body);
        let asked = asked.and_then(|body| std::str::from_utf8(body).ok());
        let changes = self.changes(asked);
        rewritten(recorded, messages, max_recorded_body, |message| {
            let is_question = changes.iter().any(is_id) && rpc::is_asked_by_server(message);
            let own = changes
                .iter()
                .filter(|change| !(is_question && is_id(change)));
            Rewrite::Edits(edits(message, own).unwrap_or_default())
        })
    }

    fn changes<'a>(&'a self, asked: Option<&'a str>) -> Vec<Change<'a>> {
        let changes = self.0.iter().filter_map(|(pointer, own)| {
            let (value, adds) = match &own.0 {
                Source::Constant(text) => (&**text, true),
                Source::Request(source) => match source.as_ref().ok()?.find(asked?)? {
                    Place::Value(place) => (&asked?[place], false),
                    Place::Absent { .. } | Place::Nowhere => return None,
                },
            };
            Some(Change {
                pointer,
                value,
                adds,
            })
        });
        changes.collect()
    }
}

/// Whether this is the change that is not made in a message of JSON-RPC that asks something itself:
/// its `id` is of that question.
fn is_id(change: &Change<'_>) -> bool {
    change.pointer.names() == ["id"]
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use bytes::Bytes;
    use http::header::{CONTENT_ENCODING, CONTENT_RANGE, CONTENT_TYPE};
    use http::{HeaderValue, StatusCode};

    use super::*;

    fn rules(members: &[(&str, ReplayedMember)]) -> ReplayJson {
        let parse = |(pointer, own): &(&str, ReplayedMember)| {
            (MemberPointer::parse(pointer).unwrap(), own.clone())
        };
        ReplayJson(members.iter().map(parse).collect())
    }

    fn of_type(content_type: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(content_type))])
    }

    fn recorded(content_type: &'static str, body: &str) -> Completion {
        let body = Bytes::copy_from_slice(body.as_bytes());
        let mut recorded = Completion::new(StatusCode::OK, body, SystemTime::UNIX_EPOCH);
        recorded.headers = of_type(content_type);
        recorded
    }

    fn set(rules: &ReplayJson, recorded: &Completion, asked: &str) -> Option<String> {
        let json = of_type("application/json");
        let set = rules
            .set(recorded, &json, asked.as_bytes(), 1 << 20)
            .unwrap();
        set.map(|set| String::from_utf8(set.body.to_vec()).unwrap())
    }

    #[test]
    fn each_message_of_a_stream_is_set_and_nothing_else() {
        let rules = rules(&[
            ("/id", ReplayedMember::of_request("/id")),
            (
                "/params/progressToken",
                ReplayedMember::of_request("/params/_meta/progressToken"),
            ),
        ]);
        let stream = concat!(
            ": hello\r\nid: 7\r\ndata:\r\n\r\n",
            "event: message\ndata: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/progress\",",
            "\"params\":{\"progressToken\":\"a\",\"progress\":1}}\n\n",
            "data: {\"jsonrpc\":\"2.0\",\"id\":9,\"method\":\"elicitation/create\"}\n\n",
            "data: {\"jsonrpc\":\"2.0\",\ndata:\"id\": 1\ndata: ,\"result\":{\"id\":1}}\n\n",
        );
        let retry = "{\"id\":[\n\"b\"\r\n],\"params\":{\"_meta\":{\"progressToken\":null}}}";
        let expected = stream
            .replace("\"progressToken\":\"a\"", "\"progressToken\":null")
            .replace("\"id\": 1\n", "\"id\": [ \"b\"  ]\n");
        let recorded = recorded("text/event-stream; charset=utf-8", stream);
        assert_eq!(set(&rules, &recorded, retry).unwrap(), expected);
        assert_eq!(set(&rules, &recorded, "{}"), None);
        assert_eq!(set(&rules, &recorded, "{\"id\":1}"), None);
    }

    #[test]
    fn what_is_no_whole_json_stays() {
        let rules = rules(&[("/a", ReplayedMember::constant(true))]);
        let json = recorded("application/problem+json", "{}");
        assert_eq!(set(&rules, &json, "").unwrap(), "{\"a\":true}");
        for body in ["", "no JSON", "[{}]", "{\"a\":true}", "{\"a\":1,\"a\":2}"] {
            assert_eq!(
                set(&rules, &recorded("application/json", body), ""),
                None,
                "{body}"
            );
        }
        for other in [
            "text/plain",
            "application/grpc",
            "application/json, text/plain",
        ] {
            assert_eq!(set(&rules, &recorded(other, "{}"), ""), None, "{other}");
        }
        let mut coded = json.clone();
        coded
            .headers
            .insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        let mut part = json.clone();
        part.headers
            .insert(CONTENT_RANGE, HeaderValue::from_static("bytes 0-1/9"));
        for other in [coded, part] {
            assert_eq!(set(&rules, &other, ""), None);
        }
    }

    /// Lines of other fields between those of the data stay too.
    #[test]
    fn a_value_of_several_lines_is_set_in_its_first_one() {
        let rules = rules(&[("/id", ReplayedMember::of_request("/id"))]);
        let stream = "data: {\"id\":[\nevent: x\ndata: 1\n: note\ndata: ],\"n\":1}\n\n";
        let expected = "data: {\"id\":\"b\"\nevent: x\ndata: \n: note\ndata: ,\"n\":1}\n\n";
        let recorded = recorded("text/event-stream", stream);
        let retry = "{\"id\":\"b\"}";
        assert_eq!(set(&rules, &recorded, retry).unwrap(), expected);
    }

    /// A retry can't have its own bytes put into each of many messages.
    #[test]
    fn what_is_added_is_bounded() {
        let rules = rules(&[("/id", ReplayedMember::of_request("/id"))]);
        let many = recorded("text/event-stream", &"data: {\"id\":1}\n\n".repeat(1000));
        let retry = format!("{{\"id\":\"{}\"}}", "x".repeat(1000));
        let json = of_type("application/json");
        assert!(rules.set(&many, &json, retry.as_bytes(), 100_000).is_err());
        assert!(rules.set(&many, &json, retry.as_bytes(), 1_000_000).is_ok());
    }
}
