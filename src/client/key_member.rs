//! Puts the key of a request into a member of its JSON body.

use std::any::Any;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::Request;
use http::header::CONTENT_LENGTH;
use http_body::Body;
use http_body_util::Full;

use super::key::IdempotencyKey;
use crate::options::json::member::{MemberPointer, Place, string};

/// The member that carries the key.
#[derive(Clone, Debug)]
pub(super) struct KeyMember {
    /// The pointers to the objects on the way, from the outermost, and at last the pointer to the
    /// member itself.
    steps: Vec<MemberPointer>,
}

impl KeyMember {
    /// An error is the rest of a sentence.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        MemberPointer::parse(text)?;
        let ends = text.match_indices('/').map(|(at, _)| at).skip(1);
        let steps = ends.chain([text.len()]);
        let steps = steps.map(|end| MemberPointer::parse(&text[..end]));
        Ok(Self {
            steps: steps.collect::<Result<_, _>>()?,
        })
    }

    /// The key that the body of this request has already.
    pub(super) fn key<B: 'static>(&self, request: &Request<B>) -> Option<IdempotencyKey> {
        let body = bytes(request.body())?;
        let text = std::str::from_utf8(&body).ok()?;
        let Some(Place::Value(place)) = self.steps.last()?.find(text) else {
            return None;
        };
        let key = String::from_utf8(string(&text[place])?).ok()?;
        IdempotencyKey::given(key).ok()
    }

    /// Puts a key into the body. Returns whether the body has a place for the key.
    pub(super) fn put<B: 'static>(&self, request: &mut Request<B>, key: &str) -> bool {
        let body = bytes(request.body());
        let text = body
            .as_deref()
            .and_then(|body| std::str::from_utf8(body).ok());
        let Some(changed) = text.and_then(|text| self.put_into(text, key)) else {
            return false;
        };
        request.headers_mut().remove(CONTENT_LENGTH);
        replace(request.body_mut(), changed.into());
        true
    }

    /// `None` if a step leads to no object, or another key is there.
    fn put_into(&self, text: &str, key: &str) -> Option<String> {
        let key = serde_json::Value::from(key).to_string();
        for (passed, step) in self.steps.iter().enumerate() {
            match step.find(text)? {
                Place::Value(place) if passed + 1 == self.steps.len() => {
                    let is_it = string(&text[place]) == string(&key);
                    return is_it.then(|| text.to_owned());
                }
                Place::Value(_) => {}
                Place::Absent { at, is_first } => {
                    let missing = &self.steps.last()?.names()[passed..];
                    let comma = if is_first { "" } else { "," };
                    let member = format!("{comma}{}", nested(missing, &key));
                    let mut text = text.to_owned();
                    text.insert_str(at, &member);
                    return Some(text);
                }
                Place::Nowhere => return None,
            }
        }
        None
    }
}

/// A member that has this value below these names.
fn nested(names: &[String], value: &str) -> String {
    let member = |name: &str, value: &str| format!("{}:{value}", serde_json::Value::from(name));
    match names {
        [] => value.to_owned(),
        [name] => member(name, value),
        [name, rest @ ..] => member(name, &format!("{{{}}}", nested(rest, value))),
    }
}

/// The bytes of a body that is there as a whole, of a type whose bytes can be replaced.
fn bytes<B: 'static>(body: &B) -> Option<Bytes> {
    let body: &dyn Any = body;
    if let Some(bytes) = body.downcast_ref::<Bytes>() {
        return Some(bytes.clone());
    }
    let mut full = body.downcast_ref::<Full<Bytes>>()?.clone();
    match Pin::new(&mut full).poll_frame(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(Some(Ok(frame))) => frame.into_data().ok(),
        _ => None,
    }
}

fn replace<B: 'static>(body: &mut B, bytes: Bytes) {
    let body: &mut dyn Any = body;
    if let Some(own) = body.downcast_mut::<Full<Bytes>>() {
        *own = Full::new(bytes);
    } else if let Some(own) = body.downcast_mut::<Bytes>() {
        *own = bytes;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn put(pointer: &str, text: &str) -> Option<String> {
        KeyMember::parse(pointer).unwrap().put_into(text, "k\"1")
    }

    #[test]
    fn the_key_stands_where_the_pointer_leads() {
        for (pointer, text, expected) in [
            ("/key", "{}", Some(r#"{"key":"k\"1"}"#)),
            (
                "/key",
                r#"{ "n": 1.50 }"#,
                Some(r#"{ "n": 1.50,"key":"k\"1" }"#),
            ),
            ("/a/b", "{}", Some(r#"{"a":{"b":"k\"1"}}"#)),
            ("/a/b", r#"{"a":{}}"#, Some(r#"{"a":{"b":"k\"1"}}"#)),
            (
                "/a/b/c~1d",
                r#"{"a":{"x":1}}"#,
                Some(r#"{"a":{"x":1,"b":{"c/d":"k\"1"}}}"#),
            ),
            (
                "/key",
                r#"{"key":"k\u00221"}"#,
                Some(r#"{"key":"k\u00221"}"#),
            ),
            ("/key", r#"{"key":"another"}"#, None),
            ("/a/b", r#"{"a":7}"#, None),
            ("/a/b", r#"{"a":[]}"#, None),
            ("/key", "[]", None),
            ("/key", "", None),
            ("/key", "{", None),
        ] {
            assert_eq!(
                put(pointer, text).as_deref(),
                expected,
                "{pointer} in {text}"
            );
        }
    }

    proptest! {
        #[test]
        fn nothing_else_changes(
            names in proptest::collection::vec("[a-c/~\"é]{0,2}", 1..4),
            others in proptest::collection::btree_map("[d-f]{1,2}", any::<i64>(), 0..4),
        ) {
            let tokens = names.iter().map(|name| name.replace('~', "~0").replace('/', "~1"));
            let pointer: String = tokens.flat_map(|token| ["/".to_owned(), token]).collect();
            let before = json!(others);
            let after = put(&pointer, &before.to_string()).unwrap();
            let mut after: Value = serde_json::from_str(&after).unwrap();
            let key = after.pointer(&pointer).cloned();
            prop_assert_eq!(key, Some(json!("k\"1")));
            after.as_object_mut().unwrap().remove(&names[0]);
            prop_assert_eq!(after, before);
        }
    }
}
