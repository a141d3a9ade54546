//! Reads a JSON body for its fingerprint: which parts of it are compared, and their canonical form.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use crate::error::ConfigError;

/// Which parts of a JSON body enter the fingerprint. They enter in the canonical form of RFC 8785.
///
/// The body must be strict JSON (I-JSON). The whole body is compared byte for byte instead
///
/// - if an object has a member twice;
/// - if a number that is compared has more than 15 significant digits: a double may not tell such a
///   number from another one, and two different amounts must never have the same fingerprint;
/// - if the pointers leave nothing but `null`, empty objects and empty arrays: two bodies of which
///   nothing is compared are not the same request.
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

    /// Returns the canonical form of the parts that are compared; `None` if the bytes of the body
    /// are compared.
    pub(crate) fn canonical(&self, body: &[u8]) -> Option<Vec<u8>> {
        let mut numbers = numbers(body);
        let mut deserializer = serde_json::Deserializer::from_slice(body);
        let reader = Reader {
            numbers_as_text: false,
            number: &mut |_| match numbers.next().flatten() {
                Some(exact) => exact.into(),
                None => inexact(),
            },
        };
        let mut document = reader.deserialize(&mut deserializer).ok()?;
        deserializer.end().ok()?;
        for pointer in &self.exclude {
            exclude(&mut document, pointer);
        }
        let has_pointers = !self.include.is_empty() || !self.exclude.is_empty();
        let compared = if self.include.is_empty() {
            document
        } else {
            let included = self.include.iter();
            let included = included
                .filter_map(|pointer| Some((pointer.clone(), document.pointer(pointer)?.clone())));
            Value::Object(included.collect())
        };
        if !is_exact(&compared) || (has_pointers && is_nothing(&compared)) {
            return None;
        }
        serde_json_canonicalizer::to_vec(&compared).ok()
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

/// Whether a value has nothing in it that two bodies could differ by.
fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(elements) => elements.iter().all(is_nothing),
        Value::Object(members) => members.values().all(is_nothing),
        Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}

/// The name under which `serde_json` gives a number as text to a visitor, if another crate turns on
/// its feature `arbitrary_precision`.
const NUMBER: &str = "$serde_json::private::Number";

/// Stands for a number that is not exact. No body has an object like this one, because the reader
/// rejects a member with this name.
fn inexact() -> Value {
    Value::Object(Map::from_iter([(NUMBER.to_owned(), Value::Null)]))
}

fn is_exact(value: &Value) -> bool {
    match value {
        Value::Array(elements) => elements.iter().all(is_exact),
        Value::Object(members) => !members.contains_key(NUMBER) && members.values().all(is_exact),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => true,
    }
}

/// Returns the numbers of a JSON text in their order; `None` for a number that is not
/// [`exact`].
///
/// The deserializer of `serde_json` shows a number only as a double, which has lost its digits.
fn numbers(mut json: &[u8]) -> impl Iterator<Item = Option<f64>> {
    std::iter::from_fn(move || {
        loop {
            let begin = |byte: &u8| matches!(byte, b'"' | b'-' | b'0'..=b'9');
            json = &json[json.iter().position(begin)?..];
            if json[0] == b'"' {
                json = behind_string(&json[1..])?;
                continue;
            }
            let goes_on =
                |byte: &u8| matches!(byte, b'0'..=b'9' | b'.' | b'e' | b'E' | b'+' | b'-');
            let end = json.iter().position(|byte| !goes_on(byte));
            let (number, rest) = json.split_at(end.unwrap_or(json.len()));
            json = rest;
            return Some(exact(number));
        }
    })
}

/// `rest` stands behind the opening quotation mark of a string.
fn behind_string(mut rest: &[u8]) -> Option<&[u8]> {
    loop {
        rest = match rest {
            [b'"', behind @ ..] => return Some(behind),
            [b'\\', _, behind @ ..] | [_, behind @ ..] => behind,
            [] => return None,
        };
    }
}

/// The double of a number that has at most 15 significant digits and is far from the limits of a
/// double. Two different numbers of this kind are two different doubles.
fn exact(number: &[u8]) -> Option<f64> {
    let number = std::str::from_utf8(number).ok()?;
    let mantissa = number.split(['e', 'E']).next()?;
    let digits: String = mantissa.chars().filter(char::is_ascii_digit).collect();
    let significant = digits.trim_matches('0').len();
    let double: f64 = number.parse().ok()?;
    let is_far_from_limits = significant == 0 || (1e-290..=1e290).contains(&double.abs());
    (significant <= 15 && is_far_from_limits).then_some(double)
}

/// Reads JSON in which no object has a member twice.
///
/// # Errors
/// If the text is not JSON of this kind.
#[cfg(feature = "config")]
pub(crate) fn read_strict(text: &str) -> serde_json::Result<Value> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let reader = Reader {
        numbers_as_text: true,
        number: &mut |number| number,
    };
    let document = reader.deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(document)
}

/// Reads a JSON value in which no object has a member twice.
struct Reader<'a> {
    /// Whether numbers are accepted as text, as `serde_json` gives them with its feature
    /// `arbitrary_precision`.
    numbers_as_text: bool,
    /// What each number becomes, in the order of the numbers in the text.
    number: &'a mut dyn FnMut(Value) -> Value,
}

impl Reader<'_> {
    /// The reader of a value inside the one that this reader reads.
    fn inner(&mut self) -> Reader<'_> {
        Reader {
            numbers_as_text: self.numbers_as_text,
            number: self.number,
        }
    }
}

impl<'de> DeserializeSeed<'de> for Reader<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Reader<'_> {
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
        Ok((self.number)(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok((self.number)(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok((self.number)(value.into()))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut seq: A) -> Result<Value, A::Error> {
        let mut elements = Vec::new();
        while let Some(element) = seq.next_element_seed(self.inner())? {
            elements.push(element);
        }
        Ok(Value::Array(elements))
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<Value, A::Error> {
        let mut members = Map::new();
        while let Some(name) = map.next_key::<String>()? {
            if name == NUMBER {
                if !self.numbers_as_text {
                    // The same number can be written as different texts, and a fingerprint needs
                    // one form.
                    return Err(A::Error::custom("a number as text"));
                }
                let number: String = map.next_value()?;
                return number.parse().map(Value::Number).map_err(A::Error::custom);
            }
            let value = map.next_value_seed(self.inner())?;
            if members.contains_key(&name) {
                return Err(A::Error::custom(format!("`{name}` stands twice")));
            }
            members.insert(name, value);
        }
        Ok(Value::Object(members))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What is compared of a body: its canonical form, or its bytes.
    fn of(json: &JsonFingerprint, body: &str) -> (bool, Vec<u8>) {
        match json.canonical(body.as_bytes()) {
            Some(canonical) => (true, canonical),
            None => (false, body.as_bytes().to_vec()),
        }
    }

    #[test]
    fn json_that_means_the_same_is_the_same() {
        let rules = JsonFingerprint::new();
        for (one, other) in [
            (
                r#"{"a":1,"b":[true,null]}"#,
                "{ \"b\" : [true, null],\n\"a\":1.0 }",
            ),
            (r#""\u0041""#, r#""A""#),
            ("1e2", "100"),
            ("1E+0000000000000000000002", "100"),
            ("-0", "0"),
            ("-0.0e999999", "0"),
            ("-1.50", "-15e-1"),
            ("1000000000000000000000000000000000000000", "1e39"),
            ("0.000000000000000000000000000000000001", "1e-36"),
            ("123456789012345.000000000000000000", "123456789012345"),
        ] {
            assert_eq!(of(&rules, one), of(&rules, other), "{one}");
            assert!(of(&rules, one).0, "{one}");
        }
        for (one, other) in [
            (r#"{"a":1}"#, r#"{"a":"1"}"#),
            ("[1,2]", "[2,1]"),
            (r#"{"a":null}"#, "{}"),
            (r#"{"amount":4200}"#, r#"{"amount":42}"#),
            (r#"{"to":"alice"}"#, r#"{"to":"bob"}"#),
            (r#"{"to":"alice"}"#, r#"{"to":null}"#),
            (r#"{"capture":true}"#, r#"{"capture":false}"#),
            (r#"{"capture":false}"#, r#"{"capture":null}"#),
            (r#"{"amount":-1}"#, r#"{"amount":-2}"#),
            (r#"{"amount":-1}"#, r#"{"amount":1}"#),
            (r#"{"amount":-1}"#, r#"{"amount":null}"#),
            (r#"{"amount":-1.5}"#, r#"{"amount":1.5}"#),
            ("[-1,2]", "[1,-2]"),
            ("[]", "{}"),
            ("0", "null"),
        ] {
            assert_ne!(of(&rules, one), of(&rules, other), "{one}");
        }
    }

    #[test]
    fn digits_inside_strings_are_no_numbers() {
        let rules = JsonFingerprint::new();
        for (one, other) in [
            (
                r#"{"card":"4242424242424242424242","amount":5}"#,
                r#"{"amount":5.0, "card":"4242424242424242424242"}"#,
            ),
            (
                r#"{"4242424242424242424242":"\"4242424242424242424242","a":-5}"#,
                r#"{"a": -5, "4242424242424242424242":"\u00224242424242424242424242"}"#,
            ),
            (
                r#"["\\","4242424242424242424242\\\"","-",7]"#,
                r#"["\\", "4242424242424242424242\\\"","-",7.0]"#,
            ),
        ] {
            assert_eq!(of(&rules, one), of(&rules, other), "{one}");
            assert!(of(&rules, one).0, "{one}");
        }
    }

    #[test]
    fn what_is_not_strict_json_counts_as_bytes() {
        let rules = JsonFingerprint::new();
        for (one, other) in [
            (r#"{"a":1,"a":2}"#, r#"{"a":2,"a":2}"#),
            (r#"{"a":1,"a":2}"#, r#"{"a":2}"#),
            ("{\"a\":1,}", "{\"a\":1, }"),
            ("9007199254740993", "9007199254740992"),
            ("0.10000000000000001", "0.1"),
            ("1e-400", "0"),
            ("1e400", "1e401"),
            ("1e300", "1.0e300"),
            ("[1.0, 1234567890123456]", "[1, 1234567890123456]"),
            (r#""\ud800""#, r#""\ud801""#),
            ("[1", "[1 "),
            ("\"a", "\"a "),
            (r#"{"$serde_json::private::Number":"1"}"#, "1"),
        ] {
            assert_ne!(of(&rules, one), of(&rules, other), "{one}");
        }
        let deep = |n| format!("{}{}", "[".repeat(n), "]".repeat(n));
        assert_ne!(
            of(&rules, &deep(200)),
            of(&rules, &format!(" {}", deep(200)))
        );
    }

    #[test]
    fn pointers_choose_what_counts() {
        let some = JsonFingerprint::new()
            .include("/amount")
            .include("/to/iban");
        assert_eq!(
            of(&some, r#"{"amount":1,"to":{"iban":"x"},"note":"a"}"#),
            of(&some, r#"{"to":{"iban":"x","name":"n"},"amount":1}"#)
        );
        assert_ne!(of(&some, r#"{"amount":1}"#), of(&some, r#"{"amount":2}"#));
        assert_ne!(of(&some, r#"{"amount":null}"#), of(&some, "{}"));

        let most = JsonFingerprint::new()
            .exclude("/sent_at")
            .exclude("/list/0")
            .exclude("/a~1b");
        assert_eq!(
            of(&most, r#"{"n":1,"sent_at":5,"list":[1,2],"a/b":1}"#),
            of(&most, r#"{"n":1,"sent_at":6,"list":[9,2]}"#)
        );
        assert_ne!(
            of(&most, r#"{"list":[1,2]}"#),
            of(&most, r#"{"list":[1,3]}"#)
        );
        assert_eq!(of(&most, "1"), of(&most, "1.0"));
        let nothing = JsonFingerprint::new().exclude("");
        assert_ne!(of(&nothing, "1"), of(&nothing, "2"));
    }

    proptest! {
        /// Numbers are found in the text in the order in which `serde_json` reads them.
        #[test]
        fn each_number_is_read_as_itself(
            numbers in prop::collection::vec(-999_999_999_i64..=999_999_999, 0..6),
            text in "[ -~]{0,6}",
        ) {
            let own: Vec<_> = numbers.iter().map(|number| serde_json::json!([text, number, { (&text): true }])).collect();
            let body = serde_json::to_string(&own).unwrap();
            let expected = serde_json_canonicalizer::to_vec(&own).unwrap();
            prop_assert_eq!(JsonFingerprint::new().canonical(body.as_bytes()), Some(expected));
        }

        #[test]
        fn no_body_panics_the_reader(body in "[\\[\\]{}\",:\\\\0-9.eE+tru -]{0,24}", pointer in "(/[a0~1-]{0,2}){0,3}") {
            let rules = JsonFingerprint::new().exclude(&pointer).include(pointer);
            let _ = rules.canonical(body.as_bytes());
            let _ = JsonFingerprint::new().canonical(body.as_bytes());
        }

        /// Decimals of 15 digits are the same if and only if their values are.
        #[test]
        fn numbers_are_compared_by_their_value(
            digits in 1_u64..=999_999_999_999_999, exponent in -250_i32..=250, zeros in 0_usize..=20, step in 0_u64..=1,
        ) {
            let rules = JsonFingerprint::new();
            let plain = format!("{digits}e{exponent}");
            let padded = format!("{digits}.{}e{exponent}", "0".repeat(zeros + 1));
            prop_assert_eq!(of(&rules, &plain), of(&rules, &padded));
            let next = format!("{}e{exponent}", (digits + step).min(999_999_999_999_999));
            let is_same = digits + step == digits || digits == 999_999_999_999_999;
            prop_assert_eq!(of(&rules, &plain) == of(&rules, &next), is_same);
        }
    }
}
