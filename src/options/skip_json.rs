//! Members of JSON responses by which a response says that it is not to be recorded.

use std::fmt;

use http::HeaderMap;
use http::header::CONTENT_RANGE;
use serde_json::Value;

use crate::message::event_stream::{end_of_events, events};
use crate::message::media_type::is_event_stream;
use crate::options::fingerprint::says_json;
use crate::options::json::member::{MemberPointer, Place};
use crate::options::rewrite::is_coded;

/// The members by which responses of a route say so.
#[derive(Clone, Debug, Default)]
pub(crate) struct SkipJson(pub(crate) Vec<SkipMember>);

impl SkipJson {
    /// Whether a response with these headers has to be searched for the members.
    pub(crate) fn may_be_in(&self, headers: &HeaderMap) -> bool {
        !self.0.is_empty()
            && (says_json(headers) || is_event_stream(headers))
            && !is_coded(headers)
            && !headers.contains_key(CONTENT_RANGE)
    }

    /// Whether this body, or an event of this stream, has one of the members.
    pub(crate) fn are_in(&self, body: &[u8], is_stream: bool) -> bool {
        let is_in = |text: &[u8]| {
            let text = std::str::from_utf8(text).ok();
            text.is_some_and(|text| self.0.iter().any(|skip| skip.is_in(text)))
        };
        if !is_stream {
            return is_in(body);
        }
        // An event that no empty line ends is none.
        let end = end_of_events(body, 0).unwrap_or(0);
        events(&body[..end]).any(|event| is_in(&event.text()))
    }
}

/// A member by which a JSON response says that it is not to be recorded.
#[derive(Clone, Debug)]
pub(crate) struct SkipMember {
    pointer: MemberPointer,
    /// `None` stands for any value but `null`.
    value: Option<Value>,
}

impl SkipMember {
    /// Reads `pointer` or `pointer: value`. An error is the rest of a sentence.
    pub(crate) fn read(text: &str) -> Result<Self, String> {
        let Some((pointer, value)) = text.split_once(':') else {
            let pointer = MemberPointer::parse(text)?;
            return Ok(Self {
                pointer,
                value: None,
            });
        };
        let pointer = MemberPointer::parse(pointer.trim_end())?;
        let value = serde_json::from_str(value).ok();
        let value = value.filter(|value| !matches!(value, Value::Array(_) | Value::Object(_)));
        let value = value.ok_or_else(|| {
            format!(
                "names `{text}`: behind the colon must be `true`, `false`, `null`, a number, or a \
                 string in quotation marks such as `{pointer}: \"failed\"`"
            )
        })?;
        Ok(Self {
            pointer,
            value: Some(value),
        })
    }

    fn is_in(&self, text: &str) -> bool {
        let Some(Place::Value(place)) = self.pointer.find(text) else {
            return false;
        };
        let own = &text[place];
        match &self.value {
            None => own != "null",
            // An array or an object can be large, and is never the value.
            Some(_) if own.starts_with(['[', '{']) => false,
            Some(value) => serde_json::from_str::<Value>(own).is_ok_and(|own| own == *value),
        }
    }
}

impl fmt::Display for SkipMember {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.pointer, f)?;
        match &self.value {
            Some(value) => write!(f, ": {value}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_is_found_by_its_value_or_by_any() {
        for (member, text, found) in [
            ("/a", r#"{"a":0}"#, true),
            ("/a", r#"{"a":[]}"#, true),
            ("/a", r#"{"a":null}"#, false),
            ("/a", "{}", false),
            ("/a: null", r#"{"a":null}"#, true),
            ("/a: null", "{}", false),
            ("/a/b : true", r#"{"a":{"b":true}}"#, true),
            ("/a/b:true", r#"{"a":{"b":"true"}}"#, false),
            ("/a/b: true", r#"{"a":{"b":false}}"#, false),
            ("/a: \"failed\"", r#"{"a":"f\u0061iled"}"#, true),
            ("/a: \"failed\"", r#"{"a":"failed "}"#, false),
            ("/a: \"x: y\"", r#"{"a":"x: y"}"#, true),
            ("/a: -3", r#"{"a":-3}"#, true),
            ("/a: 1", r#"{"a":[1]}"#, false),
            ("/a: 1", r#"[{"a":1}]"#, false),
            ("/a: 1", r#"{"a":1,"a":1}"#, false),
            ("/a: 1", r#"{"a":1"#, false),
            ("/a~1b: 1", r#"{"a/b":1}"#, true),
        ] {
            let skip = SkipMember::read(member).unwrap();
            assert_eq!(skip.is_in(text), found, "{member} in {text}");
        }
    }

    #[test]
    fn a_member_is_written_as_it_is_read() {
        for text in ["/result/isError: true", "/errors", "/a: \"b\"", "/a: null"] {
            assert_eq!(SkipMember::read(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_is_no_member_or_no_value_is_wrong() {
        for text in [
            "",
            "a",
            "a: 1",
            "/a:",
            "/a: failed",
            "/a: [1]",
            "/a: {}",
            "/~2: 1",
        ] {
            let message = SkipMember::read(text).unwrap_err();
            assert!(message.starts_with("names `"), "{text}: {message}");
        }
    }

    #[test]
    fn one_event_of_a_stream_is_enough() {
        let skip = SkipJson(
            ["/e: true", "/f"]
                .map(|own| SkipMember::read(own).unwrap())
                .into(),
        );
        for (stream, skips) in [
            ("data: {\"n\":1}\n\ndata: {\"e\":true}\n\n", true),
            ("data: {\"e\":\ndata: true}\n\n", true),
            ("data: \u{1}\n\ndata: {\"f\":1}\r\n\r\n", true),
            ("data: {\"n\":1}\n\n", false),
            ("data: {\"e\":true}\n", false),
            ("event: {\"e\":true}\n\n", false),
            ("{\"e\":true}", false),
        ] {
            assert_eq!(skip.are_in(stream.as_bytes(), true), skips, "{stream}");
        }
        assert!(skip.are_in(b"{\"e\":true}", false));
    }
}
