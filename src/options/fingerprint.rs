//! Makes the digest of a request's content (its fingerprint), and the id of the record that
//! belongs to the request's key.

use std::collections::HashSet;
use std::fmt;

use http::header::CONTENT_TYPE;
use http::request::Parts;
use http::{HeaderName, Method};
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use crate::error::ConfigError;
use crate::options::key::Key;
use crate::options::target::{MeantPath, SentTarget};
use crate::options::{KeysPer, RouteOptions};
use crate::record::digest::{Digests, Hasher, Label};
use crate::record::{Fingerprint, RecordId, ScopeDigest};

/// How the request's body enters the fingerprint.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum FingerprintBody {
    /// The body is compared byte for byte.
    #[default]
    Bytes,
    /// The body is compared as JSON: white space, the order of members and the spelling of numbers
    /// and strings don't count. A body that is not strict JSON is compared byte for byte.
    Json(JsonFingerprint),
    /// The body is not compared: a retry with another body still gets the first response.
    None,
}

/// Which parts of a JSON body enter the fingerprint. They enter in the canonical form of RFC 8785.
///
/// The body must be strict JSON (I-JSON). A body in which an object has a member twice, or a
/// number has more than 15 significant digits, is compared byte for byte instead: a double may not
/// tell such a number from another one, and two different amounts must never have the same
/// fingerprint.
///
/// ```
/// use tower_idempotency::options::{FingerprintBody, JsonFingerprint};
///
/// // A retry may be sent later, but must ask for the same.
/// FingerprintBody::Json(JsonFingerprint::new().exclude("/sent_at"));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JsonFingerprint {
    pub(crate) include: Vec<String>,
    pub(crate) exclude: Vec<String>,
}

impl JsonFingerprint {
    /// Compares the whole body.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Compares only the value that this JSON pointer (RFC 6901) names, and the values that other
    /// calls of `include` name.
    ///
    /// A pointer that does not start with `/` is an error when the layer is built.
    #[must_use]
    pub fn include(mut self, pointer: impl Into<String>) -> Self {
        self.include.push(pointer.into());
        self
    }

    /// Leaves out the value that this JSON pointer (RFC 6901) names.
    ///
    /// A pointer that does not start with `/` is an error when the layer is built.
    #[must_use]
    pub fn exclude(mut self, pointer: impl Into<String>) -> Self {
        self.exclude.push(pointer.into());
        self
    }

    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        let wrong = |pointer: &&String| !pointer.is_empty() && !pointer.starts_with('/');
        match self.include.iter().chain(&self.exclude).find(wrong) {
            None => Ok(()),
            Some(pointer) => Err(ConfigError::new(
                "fingerprint_body",
                format!("names `{pointer}`, which is not a JSON pointer: it must start with `/`"),
            )),
        }
    }

    /// Returns the canonical form of the parts that are compared, or `None` if the body is not
    /// strict JSON.
    fn canonical(&self, body: &[u8]) -> Option<Vec<u8>> {
        if !numbers_are_exact(body) {
            return None;
        }
        let Strict::<false>(mut document) = serde_json::from_slice(body).ok()?;
        for pointer in &self.exclude {
            exclude(&mut document, pointer);
        }
        if self.include.is_empty() {
            return serde_json_canonicalizer::to_vec(&document).ok();
        }
        let included: Map<_, _> = self
            .include
            .iter()
            .filter_map(|pointer| Some((pointer.clone(), document.pointer(pointer)?.clone())))
            .collect();
        serde_json_canonicalizer::to_vec(&included).ok()
    }
}

/// Removes the value that `pointer` names. In an array the value becomes `null`, so that the other
/// elements keep their places.
fn exclude(document: &mut Value, pointer: &str) {
    let Some((parent, last)) = pointer.rsplit_once('/') else {
        *document = Value::Null;
        return;
    };
    match document.pointer_mut(parent) {
        Some(Value::Object(members)) => {
            members.remove(&last.replace("~1", "/").replace("~0", "~"));
        }
        Some(Value::Array(_)) => {
            if let Some(element) = document.pointer_mut(pointer) {
                *element = Value::Null;
            }
        }
        _ => {}
    }
}

/// Whether every number has at most 15 significant digits, and an exponent far from the limits of
/// a double. Two different numbers of this kind are two different doubles.
fn numbers_are_exact(json: &[u8]) -> bool {
    let mut at = 0;
    while let Some(&byte) = json.get(at) {
        at += 1;
        match byte {
            b'"' => loop {
                match json.get(at) {
                    Some(b'\\') => at += 2,
                    Some(b'"') => break at += 1,
                    Some(_) => at += 1,
                    None => return false,
                }
            },
            b'0'..=b'9' => {
                let rest = &json[at - 1..];
                let end = rest
                    .iter()
                    .position(|b| !matches!(b, b'0'..=b'9' | b'.' | b'e' | b'E' | b'+' | b'-'))
                    .unwrap_or(rest.len());
                if !is_exact(&rest[..end]) {
                    return false;
                }
                at += end - 1;
            }
            _ => {}
        }
    }
    true
}

fn is_exact(number: &[u8]) -> bool {
    let split = number.iter().position(|b| matches!(b, b'e' | b'E'));
    let (mantissa, exponent) = number.split_at(split.unwrap_or(number.len()));
    let digits: Vec<u8> = mantissa
        .iter()
        .copied()
        .filter(u8::is_ascii_digit)
        .collect();
    let significant = digits.iter().skip_while(|digit| **digit == b'0').count();
    let exponent_digits = exponent.iter().filter(|b| b.is_ascii_digit()).count();
    // A number of at most 30 digits with an exponent of at most two digits stays within 10^±130.
    significant <= 15 && digits.len() <= 30 && exponent_digits <= 2
}

/// A JSON value in which no object has a member twice.
///
/// If another crate turns on the feature `arbitrary_precision` of `serde_json`, then `serde_json`
/// gives numbers to the visitor as text. `AS_TEXT` says whether the visitor accepts such numbers.
pub(crate) struct Strict<const AS_TEXT: bool>(pub(crate) Value);

impl<'de, const AS_TEXT: bool> Deserialize<'de> for Strict<AS_TEXT> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer
            .deserialize_any(StrictVisitor::<AS_TEXT>)
            .map(Strict)
    }
}

struct StrictVisitor<const AS_TEXT: bool>;

impl<'de, const AS_TEXT: bool> Visitor<'de> for StrictVisitor<AS_TEXT> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("strict JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut elements = Vec::new();
        while let Some(Strict::<AS_TEXT>(element)) = seq.next_element()? {
            elements.push(element);
        }
        Ok(Value::Array(elements))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut members = Map::new();
        while let Some(name) = map.next_key::<String>()? {
            if name == "$serde_json::private::Number" {
                if !AS_TEXT {
                    // The same number can be written as different texts, and a fingerprint needs
                    // one form.
                    return Err(A::Error::custom("a number as text"));
                }
                let number: String = map.next_value()?;
                return number.parse().map(Value::Number).map_err(A::Error::custom);
            }
            let Strict::<AS_TEXT>(value) = map.next_value()?;
            if members.contains_key(&name) {
                return Err(A::Error::custom(format!("`{name}` stands twice")));
            }
            members.insert(name, value);
        }
        Ok(Value::Object(members))
    }
}

/// Which parts of a request enter the fingerprint, besides its method and path.
#[derive(Clone, Debug)]
pub(crate) struct FingerprintRules {
    pub(crate) body: FingerprintBody,
    pub(crate) query: bool,
    pub(crate) headers: Vec<HeaderName>,
}

impl Default for FingerprintRules {
    fn default() -> Self {
        Self {
            body: FingerprintBody::default(),
            query: true,
            headers: vec![CONTENT_TYPE],
        }
    }
}

impl FingerprintRules {
    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        let mut seen = HashSet::new();
        if let Some(name) = self.headers.iter().find(|name| !seen.insert(*name)) {
            let message = format!("names `{name}` twice");
            return Err(ConfigError::new("fingerprint_headers", message));
        }
        match &self.body {
            FingerprintBody::Json(json) => json.check(),
            FingerprintBody::Bytes | FingerprintBody::None => Ok(()),
        }
    }

    pub(crate) fn fingerprint(
        &self,
        digests: &Digests,
        request: &Parts,
        SentTarget(target): SentTarget<'_>,
        body: &[u8],
    ) -> Fingerprint {
        let mut hasher = digests.start(Label::Fingerprint);
        hasher.part(request.method.as_str().as_bytes());
        hasher.part(target.path().as_bytes());
        match target.query() {
            Some(query) if self.query => hasher.number(1).part(query.as_bytes()),
            _ => hasher.number(0),
        };
        for name in &self.headers {
            let values = request.headers.get_all(name);
            hasher.number(values.iter().count());
            for value in values {
                hasher.part(value.as_bytes());
            }
        }
        self.body(&mut hasher, body);
        Fingerprint::from_bytes(hasher.finish())
    }

    fn body(&self, hasher: &mut Hasher, body: &[u8]) {
        let (kind, canonical) = match &self.body {
            FingerprintBody::None => return,
            FingerprintBody::Bytes => (0, None),
            FingerprintBody::Json(json) => match json.canonical(body) {
                Some(canonical) => (1, Some(canonical)),
                None => (0, None),
            },
        };
        hasher
            .number(kind)
            .part(canonical.as_deref().unwrap_or(body));
    }
}

/// Returns the id of the record that `key` has in this scope. If there is a `route`, the record
/// belongs to this method and path only.
pub(crate) fn record_id(
    digests: &Digests,
    scope: &ScopeDigest,
    key: &Key,
    route: Option<(&Method, &str)>,
) -> RecordId {
    let mut hasher = digests.start(Label::RecordId);
    // The namespace is not a part of its own, because the scope's digest contains it.
    hasher.digest(scope.as_bytes()).part(key.as_bytes());
    if let Some((method, path)) = route {
        hasher
            .part(method.as_str().as_bytes())
            .part(path.as_bytes());
    }
    RecordId::from_bytes(hasher.finish())
}

impl RouteOptions {
    /// Returns the id of the record that `key` has in this scope, for a request with this method
    /// that is meant for this path.
    pub(crate) fn record_id(
        &self,
        digests: &Digests,
        scope: &ScopeDigest,
        key: &Key,
        method: &Method,
        MeantPath(path): MeantPath<'_>,
    ) -> RecordId {
        let route = match self.keys_per {
            KeysPer::Scope => None,
            KeysPer::Route => Some((method, path)),
        };
        record_id(digests, scope, key, route)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(body: FingerprintBody) -> FingerprintRules {
        FingerprintRules {
            body,
            ..FingerprintRules::default()
        }
    }

    fn json(json: JsonFingerprint) -> FingerprintRules {
        rules(FingerprintBody::Json(json))
    }

    fn of(rules: &FingerprintRules, target: &str, body: &str) -> Fingerprint {
        let request = http::Request::post(target).body(()).unwrap().into_parts().0;
        let sent = SentTarget(&request.uri);
        rules.fingerprint(&Digests::plain(), &request, sent, body.as_bytes())
    }

    #[test]
    fn path_query_and_body_count_byte_for_byte() {
        let rules = rules(FingerprintBody::Bytes);
        let all = [
            of(&rules, "/a", ""),
            of(&rules, "/a", "x"),
            of(&rules, "/a?", ""),
            of(&rules, "/a?x", ""),
            of(&rules, "/ax", ""),
            of(&rules, "/A", ""),
        ];
        for (i, one) in all.iter().enumerate() {
            assert!(all[i + 1..].iter().all(|other| other != one), "{i}");
        }
    }

    #[test]
    fn queries_and_bodies_can_be_left_out() {
        let mut rules = rules(FingerprintBody::None);
        assert_eq!(of(&rules, "/a", "x"), of(&rules, "/a", "y"));
        assert_ne!(of(&rules, "/a?1", ""), of(&rules, "/a?2", ""));
        rules.query = false;
        assert_eq!(of(&rules, "/a?1", ""), of(&rules, "/a?2", ""));
    }

    #[test]
    fn json_that_means_the_same_is_the_same() {
        let rules = json(JsonFingerprint::new());
        for (one, other) in [
            (
                r#"{"a":1,"b":[true,null]}"#,
                "{ \"b\" : [true, null],\n\"a\":1.0 }",
            ),
            (r#""\u0041""#, r#""A""#),
            ("1e2", "100"),
            ("-0", "0"),
        ] {
            assert_eq!(of(&rules, "/", one), of(&rules, "/", other), "{one}");
        }
        for (one, other) in [
            (r#"{"a":1}"#, r#"{"a":"1"}"#),
            ("[1,2]", "[2,1]"),
            (r#"{"a":null}"#, "{}"),
            (r#"{"amount":4200}"#, r#"{"amount":42}"#),
        ] {
            assert_ne!(of(&rules, "/", one), of(&rules, "/", other), "{one}");
        }
    }

    #[test]
    fn what_is_not_strict_json_counts_as_bytes() {
        let rules = json(JsonFingerprint::new());
        for (one, other) in [
            (r#"{"a":1,"a":2}"#, r#"{"a":2,"a":2}"#),
            (r#"{"a":1,"a":2}"#, r#"{"a":2}"#),
            ("{\"a\":1,}", "{\"a\":1, }"),
            ("9007199254740993", "9007199254740992"),
            ("0.10000000000000001", "0.1"),
            ("1e-400", "0"),
            ("1e400", "1e401"),
            (r#""\ud800""#, r#""\ud801""#),
            ("[1", "[1 "),
            ("\"a", "\"a "),
            (r#"{"$serde_json::private::Number":"1"}"#, "1"),
        ] {
            assert_ne!(of(&rules, "/", one), of(&rules, "/", other), "{one}");
        }
        let deep = |n| format!("{}{}", "[".repeat(n), "]".repeat(n));
        assert_ne!(
            of(&rules, "/", &deep(200)),
            of(&rules, "/", &format!(" {}", deep(200)))
        );
    }

    #[test]
    fn pointers_choose_what_counts() {
        let some = json(
            JsonFingerprint::new()
                .include("/amount")
                .include("/to/iban"),
        );
        assert_eq!(
            of(&some, "/", r#"{"amount":1,"to":{"iban":"x"},"note":"a"}"#),
            of(&some, "/", r#"{"to":{"iban":"x","name":"n"},"amount":1}"#)
        );
        assert_ne!(
            of(&some, "/", r#"{"amount":1}"#),
            of(&some, "/", r#"{"amount":2}"#)
        );
        assert_ne!(of(&some, "/", r#"{"amount":null}"#), of(&some, "/", "{}"));

        let most = json(
            JsonFingerprint::new()
                .exclude("/sent_at")
                .exclude("/list/0")
                .exclude("/a~1b"),
        );
        assert_eq!(
            of(&most, "/", r#"{"n":1,"sent_at":5,"list":[1,2],"a/b":1}"#),
            of(&most, "/", r#"{"n":1,"sent_at":6,"list":[9,2]}"#)
        );
        assert_ne!(
            of(&most, "/", r#"{"list":[1,2]}"#),
            of(&most, "/", r#"{"list":[1,3]}"#)
        );
        assert_eq!(of(&most, "/", "1"), of(&most, "/", "1.0"));
        let nothing = json(JsonFingerprint::new().exclude(""));
        assert_eq!(of(&nothing, "/", "1"), of(&nothing, "/", "2"));
    }

    #[test]
    fn wrong_pointers_and_repeated_headers_are_config_errors() {
        let error = json(JsonFingerprint::new().include("amount"))
            .check()
            .unwrap_err();
        assert_eq!(error.option(), "fingerprint_body");
        let mut rules = rules(FingerprintBody::Bytes);
        rules.headers.push(CONTENT_TYPE);
        assert_eq!(rules.check().unwrap_err().option(), "fingerprint_headers");
    }
}
