//! What changes in a recorded answer for the call that gets it again.

use std::sync::LazyLock;

use http::header::CONTENT_TYPE;

use crate::message::media_type::is_media_type;
use crate::options::json::member::{MemberPointer, Place};
use crate::options::json::splice::{Change, edits};
use crate::options::mcp::message::{ID, METHOD, pointer};
use crate::options::rewrite::{Messages, Rewrite, is_whole, rewritten};
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
    let messages = if is_stream {
        Messages::InEvents { keeps_ids: false }
    } else if is_media_type(content_type, "application/json") {
        Messages::Whole
    } else {
        return Ok(None);
    };
    if !is_whole(recorded) {
        return Err(Unfit);
    }
    let set = |pointer, value| Change {
        pointer,
        value,
        adds: false,
    };
    let id = set(&ID, id);
    let token = call.progress_token.as_deref();
    let token = token.map(|token| set(&TOKEN, token));
    let own = rewritten(recorded, messages, max_recorded_body, |message| {
        let has = |member: &MemberPointer| matches!(member.find(message), Some(Place::Value(_)));
        let is_question = || has(&ID) && has(&METHOD);
        if is_stream && (token.is_none() && has(&TOKEN) || is_question()) {
            return Rewrite::LeftOut;
        }
        let token = token.iter().filter(|_| is_stream);
        Rewrite::Edits(edits(message, token.chain([&id])).unwrap_or_default())
    });
    own.map_err(|_| Unfit)
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use bytes::Bytes;
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
            ": hello\n\nretry: 3000\ndata:\n\nevent: message\ndata: {}\n\n\
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
            format!("\u{feff}{own}")
        );
        let crlf = recorded.replace('\n', "\r\n");
        assert_eq!(
            again(&call("7", None), "text/event-stream", &crlf).unwrap(),
            own.replace('\n', "\r\n")
        );
        let cr = recorded.replace('\n', "\r");
        assert_eq!(
            again(&call("7", None), "text/event-stream", &cr).unwrap(),
            own.replace('\n', "\r")
        );
    }

    /// A line that ends in `\r` and an empty one behind it stay two where the line between them goes.
    #[test]
    fn an_event_ends_where_it_ended() {
        for ids in ["id:5\n", "id:5\nid\n", "id:5\rid:6\n", "id:5\r\n"] {
            let recorded = format!("data:{{\"id\":1,\"result\":{{}}}}\r{ids}\ndata:{{}}\n\n");
            let own = again(&call("7", None), "text/event-stream", &recorded);
            let expected = "data:{\"id\":7,\"result\":{}}\r\n\ndata:{}\n\n";
            assert_eq!(own.as_deref(), Some(expected), "{ids:?}");
        }
        let asked = "data:{\"id\":2,\"method\":\"ping\"}\n\n";
        let recorded = format!("data:{{\"id\":1,\"result\":{{}}}}\r\r{asked}\ndata:{{}}\n\n");
        let own = again(&call("7", None), "text/event-stream", &recorded);
        let expected = "data:{\"id\":7,\"result\":{}}\r\r\n\ndata:{}\n\n";
        assert_eq!(own.as_deref(), Some(expected));
    }

    /// The first of two content types says how the answer was judged, and what a client makes of it.
    #[test]
    fn an_answer_of_any_content_type_that_is_judged_has_the_id_of_the_retry() {
        for parameter in ["; a=\"b,c\"", "; a=\u{e9}", ""] {
            for (kind, body) in [
                ("application/json", "{\"id\":1}"),
                ("text/event-stream", "data:{\"id\":1}\n\n"),
            ] {
                let mut recorded = recorded("", body);
                let own = format!("{kind}{parameter}");
                let own = HeaderValue::from_bytes(own.as_bytes()).unwrap();
                recorded.headers.insert(CONTENT_TYPE, own);
                let other = HeaderValue::from_static("application/json");
                recorded.headers.append(CONTENT_TYPE, other);
                let own = for_retry(&call("7", None), &recorded, 100);
                let own = own.unwrap().expect("its id changes").body;
                assert_eq!(own, body.replace('1', "7"), "{kind}{parameter}");
            }
        }
    }

    /// The limit was larger when the answer was recorded.
    #[test]
    fn what_is_recorded_is_never_too_large() {
        let body = format!("{{\"id\":1,\"result\":\"{}\"}}", "x".repeat(100 << 10));
        let recorded = recorded("application/json", &body);
        let own = for_retry(&call("\"b\"", None), &recorded, 10).unwrap();
        assert_eq!(own.unwrap().body.len(), body.len() + 2);
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
