//! Reads a JSON body for its fingerprint: which parts of it are compared, and their canonical form.

mod document;
mod lexer;
pub(crate) mod member;
mod read;
pub(crate) mod splice;
mod write;

use std::borrow::Cow;

use crate::error::ConfigError;
use crate::options::json::document::{Document, sort_key};
use crate::options::json::member::MemberPointer;

/// Which parts of a JSON body enter the fingerprint. They enter in the canonical form of RFC 8785.
///
/// The body must be strict JSON (I-JSON). The whole body is compared byte for byte instead
///
/// - if an object has a member twice;
/// - if a number that is compared has more than 15 significant digits, or is further from 1 than
///   10<sup>290</sup> or 10<sup>-290</sup>: a double may not tell such a number from another one, and two
///   different amounts must never have the same fingerprint;
/// - if arrays and objects are nested more than 127 deep, or if there are more than 262 144 values and
///   names of members: the time for one body is bounded (G11);
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

    /// Leaves out these members too, but for those of which a part is included by its name.
    pub(crate) fn leave_out(&mut self, members: &[MemberPointer]) {
        for member in members {
            let inside = format!("{member}/");
            let is_inside = |own: &String| own.starts_with(&inside);
            if !self.include.iter().any(is_inside) && !self.leaves_out(member) {
                self.exclude.push(member.to_string());
            }
        }
    }

    pub(crate) fn leaves_out(&self, member: &MemberPointer) -> bool {
        self.exclude.contains(&member.to_string())
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
    /// are compared. The first member that `keys` names is the request's key, and is left out.
    pub(crate) fn canonical(&self, body: &[u8], keys: &[MemberPointer]) -> Option<Vec<u8>> {
        let mut document = Document::read(body)?;
        let has_key = keys.iter().any(|key| document.exclude_member(key));
        for pointer in &self.exclude {
            document.exclude(pointer);
        }
        let mut canonical = Vec::with_capacity(body.len());
        let counts = if self.include.is_empty() {
            document.write(0, &mut canonical)?
        } else {
            self.write_included(&document, &mut canonical)?
        };
        let has_pointers = has_key || !self.include.is_empty() || !self.exclude.is_empty();
        (counts || !has_pointers).then_some(canonical)
    }

    /// Writes an object whose members are named by the pointers that name a value.
    fn write_included(&self, document: &Document<'_>, out: &mut Vec<u8>) -> Option<bool> {
        let included = self.include.iter();
        let included = included.filter_map(|pointer| Some((pointer, document.find(pointer)?)));
        let mut included: Vec<_> = included.collect();
        included.sort_by_cached_key(|(pointer, _)| sort_key(Cow::Borrowed(pointer.as_bytes())));
        included.dedup();
        let mut counts = false;
        out.push(b'{');
        for (place, (pointer, node)) in included.into_iter().enumerate() {
            if place > 0 {
                out.push(b',');
            }
            write::quote(pointer.as_bytes(), out);
            out.push(b':');
            counts |= document.write(node, out)?;
        }
        out.push(b'}');
        Some(counts)
    }
}

#[cfg(test)]
mod written;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::read::MAX_VALUES;
    use super::*;

    /// What is compared of a body: its canonical form, or its bytes.
    fn of(json: &JsonFingerprint, body: &str) -> (bool, Vec<u8>) {
        match json.canonical(body.as_bytes(), &[]) {
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
    fn depth_and_values_are_bounded() {
        let rules = JsonFingerprint::new();
        let arrays = |deep| format!("{}{}", "[".repeat(deep), "]".repeat(deep));
        assert!(of(&rules, &arrays(127)).0);
        assert!(!of(&rules, &arrays(128)).0);
        // What has ended is not deep.
        assert!(of(&rules, &format!("[{}{{}}]", "[[]],".repeat(200))).0);
        let objects = |deep| format!("{}1{}", "{\"a\":".repeat(deep), "}".repeat(deep));
        assert!(of(&rules, &objects(127)).0);
        assert!(!of(&rules, &objects(128)).0);

        // The array is a value itself.
        let zeros = |values| format!("[0{}]", ",0".repeat(values - 2));
        assert!(of(&rules, &zeros(MAX_VALUES)).0);
        assert!(!of(&rules, &zeros(MAX_VALUES + 1)).0);
        // A name and a value for each member, the object's name, and the two objects.
        let members = |count| {
            let members: Vec<_> = (0..count).map(|name| format!("\"{name}\":0")).collect();
            format!("{{\"o\":{{{}}}}}", members.join(","))
        };
        assert!(of(&rules, &members(MAX_VALUES / 2 - 2)).0);
        assert!(!of(&rules, &members(MAX_VALUES / 2)).0);
    }

    /// Numbers that are not compared are of no concern.
    #[test]
    fn only_numbers_that_are_compared_must_be_exact() {
        let amount = JsonFingerprint::new().include("/amount");
        for other in ["1e400", "1e-400", "0.1234567890123456789"] {
            let body = format!("{{\"amount\":5,\"other\":{other}}}");
            assert_eq!(of(&amount, &body).1, br#"{"/amount":5}"#, "{other}");
            assert!(!of(&JsonFingerprint::new(), &body).0, "{other}");
        }
    }

    #[test]
    fn members_are_in_the_order_of_their_code_units() {
        // The example of RFC 8785, 3.2.3, and names around U+E000.
        let names = [
            "\\u20ac",
            "\\r",
            "\u{fb33}",
            "1",
            "\u{1f600}",
            "\u{80}",
            "ö",
            "\u{ffff}",
            "\u{d7ff}",
            "\u{e000}",
            "\u{e000}1",
        ];
        let members: Vec<_> = names.iter().map(|name| format!("\"{name}\":0")).collect();
        let body = format!("{{{}}}", members.join(","));
        let value: serde_json::Value = serde_json::from_str(&body).unwrap();
        let expected = serde_json_canonicalizer::to_vec(&value).unwrap();
        assert_eq!(of(&JsonFingerprint::new(), &body), (true, expected));
        for name in names {
            let name: String = serde_json::from_str(&format!("\"{name}\"")).unwrap();
            let one = JsonFingerprint::new().include(format!("/{name}"));
            assert!(of(&one, &body).0, "{name:?}");
            let twice = body.replacen('{', &format!("{{{}:1,", serde_json::json!(name)), 1);
            assert!(!of(&JsonFingerprint::new(), &twice).0, "{name:?}");
        }
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

    /// JSON text, with a fault now and then.
    fn text() -> impl Strategy<Value = String> {
        let string = "\"([ -~öЖ\u{e001}\u{10001}]|\\\\[\"\\\\/bfnrtu]|\\\\u00[0-9a-f]{2}|\\\\ud83[dD]\\\\ude0[0-9]){0,3}\"";
        let number = "-?[0-9]{1,9}(\\.[0-9]{1,6})?([eE][+-]?[0-9]{1,2})?";
        let leaf = prop_oneof![string, number, "true|false|null|nul|", "[ -~]{0,2}"];
        leaf.prop_recursive(4, 24, 4, move |inner| {
            let space = "[ \t\r\n]{0,1}";
            let element =
                (space, inner.clone()).prop_map(|(space, value)| format!("{space}{value}"));
            let member = (string, space, inner)
                .prop_map(|(name, space, value)| format!("{name}:{space}{value}"));
            prop_oneof![
                prop::collection::vec(element, 0..4).prop_map(|own| format!("[{}]", own.join(","))),
                prop::collection::vec(member, 0..4)
                    .prop_map(|own| format!("{{{}}}", own.join(" ,"))),
            ]
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1024))]

        /// `serde_json` reads what is read here, and `serde_json_canonicalizer` writes what is
        /// written here.
        #[test]
        fn other_programs_read_and_write_the_same(text in text()) {
            let read: Result<serde_json::Value, _> = serde_json::from_str(&text);
            let (canonical, form) = of(&JsonFingerprint::new(), &text);
            match read {
                Ok(value) if canonical => prop_assert_eq!(serde_json_canonicalizer::to_vec(&value).unwrap(), form),
                // A member that stands twice, or a number that is not exact.
                Ok(_) => prop_assert!(text.contains(':') || text.contains(|digit: char| digit.is_ascii_digit())),
                Err(_) => prop_assert!(!canonical),
            }
        }
    }

    proptest! {
        #[test]
        fn each_number_is_read_as_itself(
            numbers in prop::collection::vec(-999_999_999_i64..=999_999_999, 0..6),
            text in "[ -~]{0,6}",
        ) {
            let own: Vec<_> = numbers.iter().map(|number| serde_json::json!([text, number, { (&text): true }])).collect();
            let body = serde_json::to_string(&own).unwrap();
            let expected = serde_json_canonicalizer::to_vec(&own).unwrap();
            prop_assert_eq!(JsonFingerprint::new().canonical(body.as_bytes(), &[]), Some(expected));
        }

        #[test]
        fn no_body_panics_the_reader(body in "[\\[\\]{}\",:\\\\0-9.eE+tru -]{0,24}", pointer in "(/[a0~1-]{0,2}){0,3}") {
            let rules = JsonFingerprint::new().exclude(&pointer).include(pointer);
            let _ = rules.canonical(body.as_bytes(), &[]);
            let _ = JsonFingerprint::new().canonical(body.as_bytes(), &[]);
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
            let number: f64 = plain.parse().unwrap();
            prop_assert_eq!(of(&rules, &plain).1, serde_json_canonicalizer::to_vec(&number).unwrap());
            let next = format!("{}e{exponent}", (digits + step).min(999_999_999_999_999));
            let is_same = digits + step == digits || digits == 999_999_999_999_999;
            prop_assert_eq!(of(&rules, &plain) == of(&rules, &next), is_same);
        }
    }
}
