//! What changes in a recorded answer for the call that gets it again.

use std::sync::LazyLock;

use bytes::Bytes;
use http::header::CONTENT_TYPE;

use crate::message::media_type::is_media_type;
use crate::options::json::member::{MemberPointer, Place};
use crate::options::mcp::message::{ID, METHOD, pointer};
use crate::options::replay_json::{SLACK, is_whole, remove_digests};
use crate::record::Completion;
use crate::rejection::json_rpc::JsonRpcRequest;

/// The token that a notification of progress belongs to.
static TOKEN: LazyLock<MemberPointer> = LazyLock::new(|| pointer("/params/progressToken"));

/// The recorded response can't be made one to the retry: it is in a coding, or it would be too large,
/// because the retry's token stands in each of many messages.
#[derive(Debug)]
pub(crate) struct Unfit;

/// The recorded response for this call: its `id` and its progress token instead of those of the first
/// call, and every other byte as it was. `None` if the response stays as it is, as it does for a call
/// whose id is not known.
///
/// From a stream three things are left out: progress that the call did not ask for, questions of the
/// server, which were answered while the stream ran, and the ids of events, by which a client of an
/// earlier revision would ask for the rest of the first call's stream.
pub(crate) fn for_retry(
    call: &JsonRpcRequest,
    recorded: &Completion,
    max_recorded_body: usize,
) -> Result<Option<Completion>, Unfit> {
    let Some(id) = &call.id else {
        return Ok(None);
    };
    let content_type = recorded.headers.get(CONTENT_TYPE);
    let is_stream = is_media_type(content_type, "text/event-stream");
    if !is_stream && !is_media_type(content_type, "application/json") {
        return Ok(None);
    }
    if !is_whole(recorded) {
        return Err(Unfit);
    }
    let Ok(text) = std::str::from_utf8(&recorded.body) else {
        return Ok(None);
    };
    let changed = if is_stream {
        let most = max_recorded_body.saturating_add(SLACK);
        stream(call, text, most)?
    } else {
        let mut message = text.to_owned();
        set(&ID, id, &mut message);
        message
    };
    if changed == text {
        return Ok(None);
    }
    let mut own = recorded.clone();
    own.body = Bytes::from(changed);
    remove_digests(&mut own.headers);
    if let Some(trailers) = &mut own.trailers {
        remove_digests(trailers);
    }
    Ok(Some(own))
}

fn set(member: &MemberPointer, value: &str, message: &mut String) {
    if let Some(Place::Value(place)) = member.find(message) {
        message.replace_range(place, value);
    }
}

/// A message of a stream with the id and the token of the call; `None` if it is left out.
fn message(call: &JsonRpcRequest, mut text: String) -> Option<String> {
    let has = |member: &MemberPointer| matches!(member.find(&text), Some(Place::Value(_)));
    let (has_id, has_token) = (has(&ID), has(&TOKEN));
    let is_question = has_id && has(&METHOD);
    if is_question || has_token && call.progress_token.is_none() {
        return None;
    }
    if has_token {
        set(&TOKEN, call.progress_token.as_deref()?, &mut text);
    }
    if has_id {
        set(&ID, call.id.as_deref()?, &mut text);
    }
    Some(text)
}

fn stream(call: &JsonRpcRequest, text: &str, most: usize) -> Result<String, Unfit> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let text = text.replace("\r\n", "\n").replace('\r', "\n");
    let mut out = String::with_capacity(text.len());
    for event in text.split_inclusive("\n\n") {
        let data: Vec<_> = event.lines().filter_map(data).collect();
        let Some(message) = message(call, data.join("\n")) else {
            continue;
        };
        for line in event.trim_end_matches('\n').split('\n') {
            if self::data(line).is_none() && field(line, "id").is_none() {
                out.push_str(line);
                out.push('\n');
            }
        }
        if !data.is_empty() {
            for line in message.split('\n') {
                out.push_str("data: ");
                out.push_str(line);
                out.push('\n');
            }
        }
        out.push('\n');
        if out.len() > most {
            return Err(Unfit);
        }
    }
    Ok(out)
}

fn data(line: &str) -> Option<&str> {
    field(line, "data")
}

/// The value of this field, if the line is of it.
fn field<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    let rest = line.strip_prefix(name)?;
    if rest.is_empty() {
        return Some("");
    }
    let value = rest.strip_prefix(':')?;
    Some(value.strip_prefix(' ').unwrap_or(value))
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use http::header::CONTENT_ENCODING;
    use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

    use super::*;

    fn call(id: &str, token: Option<&str>) -> JsonRpcRequest {
        JsonRpcRequest {
            id: Some(id.into()),
            progress_token: token.map(Into::into),
        }
    }

    fn again(call: &JsonRpcRequest, content_type: &'static str, body: &str) -> Option<String> {
        let own = for_retry(call, &recorded(content_type, body), body.len()).unwrap()?;
        Some(String::from_utf8(own.body.to_vec()).unwrap())
    }

    fn recorded(content_type: &'static str, body: &str) -> Completion {
        let body = Bytes::from(body.to_owned());
        let mut recorded = Completion::new(StatusCode::OK, body, SystemTime::UNIX_EPOCH);
        let value = HeaderValue::from_static(content_type);
        recorded.headers = HeaderMap::from_iter([(CONTENT_TYPE, value)]);
        recorded
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
        let marked = format!("\u{feff}{recorded}");
        assert_eq!(
            again(&call("7", None), "text/event-stream", &marked).unwrap(),
            own
        );
        let crlf = recorded.replace('\n', "\r\n");
        assert_eq!(
            again(&call("7", None), "text/event-stream", &crlf).unwrap(),
            own
        );
    }

    #[test]
    fn an_encoded_body_has_no_place_for_the_id() {
        let mut recorded = recorded("application/json", "{\"id\":1}");
        for (coding, fits) in [("identity", true), ("gzip", false)] {
            let coding = HeaderValue::from_static(coding);
            recorded.headers.insert(CONTENT_ENCODING, coding);
            let own = for_retry(&call("7", None), &recorded, 100);
            assert_eq!(own.is_ok(), fits);
        }
    }

    #[test]
    fn the_digests_of_the_first_answer_go() {
        let mut recorded = recorded("application/json", "{\"id\":1}");
        let digest = || HeaderMap::from_iter([(CONTENT_MD5, HeaderValue::from_static("1"))]);
        recorded.headers.extend(digest());
        recorded.trailers = Some(digest());
        let own = for_retry(&call("7", None), &recorded, 100)
            .unwrap()
            .unwrap();
        assert!(!own.headers.contains_key(CONTENT_MD5));
        assert_eq!(own.trailers, Some(HeaderMap::new()));
        let same = for_retry(&call("1", None), &recorded, 100).unwrap();
        assert!(same.is_none(), "{same:?}");
    }

    const CONTENT_MD5: HeaderName = HeaderName::from_static("content-md5");
}
