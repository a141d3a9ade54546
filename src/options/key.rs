//! Reads the client's key from a header of the request or from a member of its JSON body, and rejects
//! a key that breaks the route's rules.

use std::fmt;
use std::ops::RangeInclusive;
use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::display::{header_name, join_with};
use crate::options::fingerprint::says_json;
use crate::options::json::member::{MemberPointer, Place, string};
use crate::options::structured::string_content;
use crate::rejection::{Rejection, RejectionCode};

/// How the value of the key's header becomes a key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum KeySyntax {
    /// The value is an RFC 8941 string or the bare characters: `"k"` and `k` are the same key.
    ///
    /// Parameters behind a string are ignored, as with [`Strict`](Self::Strict). Bare characters
    /// with a comma are two keys, which a proxy has joined (RFC 9110, 5.3), and are rejected; a key
    /// that has a comma is sent as a string. A bare key has no parameters: a `;` is its own.
    #[default]
    Lenient,
    /// The value must be an RFC 8941 string such as `"k"`, as the IETF draft requires. Parameters
    /// behind the string (`"k";v=1`) are ignored.
    Strict,
    /// Every character of the value belongs to the key, quotation marks and commas included.
    Raw,
}

/// The words for the format [`KeyFormat::uuid`] in rejections and contracts.
pub(crate) const UUID: &str = "a UUID such as 2fd4e1c6-7a2d-48fc-a1ed-99a0b5c3c2f1";

/// The words for the format [`KeyFormat::uuid7`].
pub(crate) const UUID7: &str = "a UUID of version 7 such as 017f22e2-79b0-7cc3-98c4-dc0c0c07398f";

/// The format that a key must have, besides its length.
#[derive(Clone, Default)]
pub struct KeyFormat(Option<Named>);

#[derive(Clone)]
struct Named {
    name: Arc<str>,
    accepts: Arc<dyn Fn(&str) -> bool + Send + Sync>,
}

impl KeyFormat {
    /// Accepts any printable ASCII. This is the default.
    #[must_use]
    pub fn any() -> Self {
        Self::default()
    }

    /// Accepts a UUID of any version in its hyphenated form, in upper or lower case.
    #[must_use]
    pub fn uuid() -> Self {
        Self::custom(UUID, is_uuid)
    }

    /// Accepts a UUID of version 7 (RFC 9562, 5.7), which begins with the time at which it was made, in
    /// its hyphenated form, in upper or lower case. That time is not compared with a clock.
    ///
    /// ```
    /// use tower_idempotency::options::{KeyFormat, RouteOptions};
    ///
    /// RouteOptions::default().key_format(KeyFormat::uuid7());
    /// ```
    #[must_use]
    pub fn uuid7() -> Self {
        Self::custom(UUID7, is_uuid7)
    }

    /// Accepts the keys for which `accepts` returns `true`. The rejection of any other key says
    /// that the key must be `name`.
    ///
    /// ```
    /// use tower_idempotency::options::KeyFormat;
    ///
    /// KeyFormat::custom("an order number such as ord_1234", |key| {
    ///     key.strip_prefix("ord_").is_some_and(|n| n.parse::<u64>().is_ok())
    /// });
    /// ```
    pub fn custom(
        name: impl Into<Arc<str>>,
        accepts: impl Fn(&str) -> bool + Send + Sync + 'static,
    ) -> Self {
        Self(Some(Named {
            name: name.into(),
            accepts: Arc::new(accepts),
        }))
    }

    /// The words for this format in rejections and contracts; `None` if every key has the format.
    pub(crate) fn name(&self) -> Option<&str> {
        self.0.as_ref().map(|named| &*named.name)
    }
}

impl fmt::Debug for KeyFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.name().unwrap_or("any");
        f.debug_tuple("KeyFormat").field(&name).finish()
    }
}

fn is_uuid(key: &str) -> bool {
    key.len() == 36
        && key.bytes().enumerate().all(|(i, byte)| match i {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
}

/// The version is the first digit of the third group, and the variant that of the fourth.
fn is_uuid7(key: &str) -> bool {
    let digits = key.as_bytes();
    is_uuid(key)
        && digits[14] == b'7'
        && matches!(digits[19], b'8' | b'9' | b'a' | b'b' | b'A' | b'B')
}

/// A key that was accepted: printable ASCII without escapes. It holds nothing of the buffer that the
/// request was read into, since a handler can keep the key for as long as it runs.
#[derive(Clone)]
pub(crate) enum Key {
    /// Most keys are as short as a UUID, and need no allocation.
    Short {
        length: u8,
        bytes: [u8; 46],
    },
    Long(Box<[u8]>),
}

impl Key {
    fn new(key: &[u8]) -> Self {
        let mut bytes = [0; 46];
        match (bytes.get_mut(..key.len()), u8::try_from(key.len())) {
            (Some(short), Ok(length)) => {
                short.copy_from_slice(key);
                Key::Short { length, bytes }
            }
            _ => Key::Long(key.into()),
        }
    }

    pub(crate) fn as_str(&self) -> &str {
        std::str::from_utf8(self.as_bytes()).expect("a key is printable ASCII")
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        match self {
            Key::Short { length, bytes } => &bytes[..usize::from(*length)],
            Key::Long(bytes) => bytes,
        }
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(..)")
    }
}

/// The rules by which the keys of a route are read.
#[derive(Clone, Debug)]
pub(crate) struct KeyRules {
    /// The headers that may carry the key. The key is in the first one that the request has.
    pub(crate) headers: Vec<HeaderName>,
    /// The members of a JSON body that may carry the key. The first one that the body has is read.
    pub(crate) in_body: Vec<MemberPointer>,
    pub(crate) syntax: KeySyntax,
    /// The shortest and the longest key that is accepted, in characters after decoding.
    pub(crate) length: RangeInclusive<usize>,
    pub(crate) format: KeyFormat,
}

impl Default for KeyRules {
    fn default() -> Self {
        Self {
            headers: vec![HeaderName::from_static("idempotency-key")],
            in_body: Vec::new(),
            syntax: KeySyntax::default(),
            length: 1..=255,
            format: KeyFormat::any(),
        }
    }
}

impl KeyRules {
    /// Returns the key in the first of the headers that the request has, and the name of that
    /// header. `None` if the request has none of the headers.
    pub(crate) fn read<'a>(
        &'a self,
        headers: &HeaderMap,
    ) -> Option<Result<(Key, &'a HeaderName), Rejection>> {
        self.headers.iter().find_map(|name| {
            let mut lines = headers.get_all(name).iter();
            let first = lines.next()?;
            Some(match lines.next() {
                None => self.accept(name, first).map(|key| (key, name)),
                Some(_) => Err(invalid(format!(
                    "{} was sent more than once; send it once.",
                    header_name(name)
                ))),
            })
        })
    }

    /// Whether a request with these headers may have its key in its body.
    pub(crate) fn may_be_in_body(&self, headers: &HeaderMap) -> bool {
        !self.in_body.is_empty() && says_json(headers)
    }

    /// Returns the key of a request with this body, whose headers have this key: in both it must be
    /// the same. `None` if it is in neither: a body that is not JSON has none.
    pub(crate) fn read_with_body(
        &self,
        in_header: Option<(Key, HeaderName)>,
        body: &[u8],
    ) -> Option<Result<Key, Rejection>> {
        let found = self.read_body(body);
        let Some((key, header)) = in_header else {
            return found.map(|found| found.map(|(key, _)| key));
        };
        match found {
            Some(Ok((other, pointer))) if other.as_bytes() != key.as_bytes() => {
                Some(Err(invalid(format!(
                    "{} and the body's member {pointer} differ; send one of them, or the same key \
                     in both.",
                    header_name(&header)
                ))))
            }
            Some(Err(rejection)) => Some(Err(rejection)),
            Some(Ok(_)) | None => Some(Ok(key)),
        }
    }

    /// Returns the key in the first of the members that this body has.
    fn read_body(&self, body: &[u8]) -> Option<Result<(Key, &MemberPointer), Rejection>> {
        let text = std::str::from_utf8(body).ok()?;
        for pointer in &self.in_body {
            if let Place::Value(place) = pointer.find(text)? {
                let key = self.accept_member(pointer, &text[place]);
                return Some(key.map(|key| (key, pointer)));
            }
        }
        None
    }

    fn accept(&self, name: &HeaderName, value: &HeaderValue) -> Result<Key, Rejection> {
        let place = KeyPlace::Header(name);
        let key = self
            .decode(value)
            .map_err(|what| invalid(format!("{place} {what}.")))?;
        self.check(key, place)
    }

    /// The characters of the string are the key, whatever the syntax of headers.
    fn accept_member(&self, pointer: &MemberPointer, value: &str) -> Result<Key, Rejection> {
        let place = KeyPlace::Member(pointer);
        let characters = string(value);
        let characters = characters.ok_or_else(|| invalid(format!("{place} must be a string.")))?;
        if !characters.iter().all(|byte| matches!(byte, b' '..=b'~')) {
            return Err(invalid(format!("{place} must be printable ASCII.")));
        }
        self.check(Key::new(&characters), place)
    }

    fn check(&self, key: Key, place: KeyPlace<'_>) -> Result<Key, Rejection> {
        let length = key.as_bytes().len();
        if length == 0 {
            return Err(empty(place));
        }
        if length < *self.length.start() {
            return Err(self.too_short(place));
        }
        if length > *self.length.end() {
            return Err(self.too_long(place));
        }
        match &self.format.0 {
            Some(format) if !(format.accepts)(key.as_str()) => {
                Err(invalid(format!("{place} must be {}.", format.name)))
            }
            _ => Ok(key),
        }
    }

    pub(crate) fn too_short(&self, place: KeyPlace<'_>) -> Rejection {
        let shortest = self.length.start();
        Rejection::new(
            RejectionCode::KeyTooShort,
            format!("{place} must be at least {shortest} characters."),
        )
    }

    pub(crate) fn too_long(&self, place: KeyPlace<'_>) -> Rejection {
        let longest = self.length.end();
        Rejection::new(
            RejectionCode::KeyTooLong,
            format!("{place} must be at most {longest} characters."),
        )
    }

    /// The rejection of a request that has no key, on a route that requires one.
    pub(crate) fn required(&self) -> Rejection {
        let name = self.headers.first().map(header_name);
        let name = name.as_deref().unwrap_or("Idempotency-Key");
        let members: Vec<_> = self.in_body.iter().map(ToString::to_string).collect();
        let or_member = match &*members {
            [] => String::new(),
            members => format!(
                ", or in its JSON body the member {}",
                join_with(members, "or")
            ),
        };
        Rejection::new(
            RejectionCode::KeyRequired,
            format!(
                "This operation needs the header {name}{or_member}: {} to {} printable ASCII \
                 characters, unique to the operation and the same on every retry of it.",
                self.length.start(),
                self.length.end(),
            ),
        )
    }

    fn decode(&self, value: &HeaderValue) -> Result<Key, &'static str> {
        let bytes = value.as_bytes();
        // The loop has no early exit, so that the compiler can check many bytes at a time.
        let found = bytes.iter().fold(0_u8, |found, byte| {
            let foreign = !matches!(byte, b' '..=b'~' | b'\t');
            let special = matches!(byte, b',' | b'\t');
            found | u8::from(foreign) << 1 | u8::from(special)
        });
        if found > 1 {
            return Err("must be printable ASCII");
        }
        let special = found == 1;
        let end = bytes
            .iter()
            .rposition(|byte| !is_space(*byte))
            .map_or(0, |last| last + 1);
        let start = bytes[..end]
            .iter()
            .position(|byte| !is_space(*byte))
            .unwrap_or(end);
        let trimmed = &bytes[start..end];
        let quoted = trimmed.first() == Some(&b'"');
        let bare = match self.syntax {
            KeySyntax::Raw => true,
            KeySyntax::Lenient => !quoted,
            KeySyntax::Strict => false,
        };
        if bare {
            if special && trimmed.contains(&b'\t') {
                return Err("must be printable ASCII");
            }
            if special && self.syntax == KeySyntax::Lenient && trimmed.contains(&b',') {
                return Err(
                    "has a comma, as two keys that were joined have: send one key, and \
                            between quotation marks if a comma is a part of it",
                );
            }
            return Ok(Key::new(trimmed));
        }
        if !quoted {
            return Err("must be an RFC 8941 string: characters between quotation marks");
        }
        let inner = string_content(trimmed)?;
        if !inner.contains(&b'\\') {
            return Ok(Key::new(inner));
        }
        let mut unescaped = Vec::with_capacity(inner.len());
        let mut rest = inner.iter();
        while let Some(byte) = rest.next() {
            unescaped.extend(if *byte == b'\\' {
                rest.next()
            } else {
                Some(byte)
            });
        }
        Ok(Key::new(&unescaped))
    }
}

fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

/// Where a request has its key, as a rejection begins its sentence.
#[derive(Clone, Copy)]
pub(crate) enum KeyPlace<'a> {
    Header(&'a HeaderName),
    Member(&'a MemberPointer),
}

impl fmt::Display for KeyPlace<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KeyPlace::Header(name) => f.write_str(&header_name(name)),
            KeyPlace::Member(pointer) => write!(f, "The body's member {pointer}"),
        }
    }
}

pub(crate) fn empty(place: KeyPlace<'_>) -> Rejection {
    invalid(format!(
        "{place} is empty; send a value that is unique to this operation."
    ))
}

fn invalid(detail: String) -> Rejection {
    Rejection::new(RejectionCode::KeyInvalid, detail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rules(syntax: KeySyntax) -> KeyRules {
        KeyRules {
            syntax,
            ..KeyRules::default()
        }
    }

    fn read(rules: &KeyRules, lines: &[&[u8]]) -> Result<String, RejectionCode> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(&rules.headers[0], HeaderValue::from_bytes(line).unwrap());
        }
        let read = rules.read(&headers).expect("the header is there");
        read.map(|(key, _)| key.as_str().to_owned())
            .map_err(|r| r.code())
    }

    #[test]
    fn lenient_takes_a_string_and_its_bare_characters_for_one_key() {
        let rules = rules(KeySyntax::Lenient);
        assert_eq!(read(&rules, &[b"abc"]).unwrap(), "abc");
        assert_eq!(read(&rules, &[b"\"abc\""]).unwrap(), "abc");
        assert_eq!(read(&rules, &[b"  abc\t"]).unwrap(), "abc");
        assert_eq!(read(&rules, &[br#""a\"b\\c""#]).unwrap(), r#"a"b\c"#);
        assert_eq!(read(&rules, &[b"a b"]).unwrap(), "a b");
        assert_eq!(read(&rules, &[b" \"a,b\";p=1 "]).unwrap(), "a,b");
        assert_eq!(read(&rules, &[br#""a\"";p"#]).unwrap(), "a\"");
        assert_eq!(read(&rules, &[b"a;p=1"]).unwrap(), "a;p=1");
    }

    #[test]
    fn strict_takes_only_a_string_and_raw_takes_the_quotes_too() {
        assert_eq!(
            read(&rules(KeySyntax::Strict), &[b"\"abc\""]).unwrap(),
            "abc"
        );
        assert_eq!(
            read(&rules(KeySyntax::Strict), &[b"abc"]),
            Err(RejectionCode::KeyInvalid)
        );
        assert_eq!(
            read(&rules(KeySyntax::Raw), &[b"\"abc\""]).unwrap(),
            "\"abc\""
        );
        assert_eq!(read(&rules(KeySyntax::Raw), &[b"\"abc"]).unwrap(), "\"abc");
    }

    #[test]
    fn malformed_empty_and_repeated_keys_are_invalid() {
        let rules = rules(KeySyntax::Lenient);
        for line in [
            &b""[..],
            b"  ",
            b"\"\"",
            b"\"",
            b"\"abc",
            b"\"a\"b\"",
            b"\"a\";P=1",
            b"\"a\" ;p=1",
            b"a,b",
            b"a, a",
            b"a, \"a\"",
            br#""a\n""#,
            br#""a\"#,
            b"a\tb",
            b"\"a\tb\"",
            b"k\xc3\xa4se",
            b"\xff",
        ] {
            assert_eq!(
                read(&rules, &[line]),
                Err(RejectionCode::KeyInvalid),
                "{line:?}"
            );
        }
        assert_eq!(read(&rules, &[b"a", b"a"]), Err(RejectionCode::KeyInvalid));
    }

    #[test]
    fn length_counts_decoded_characters() {
        let mut rules = rules(KeySyntax::Lenient);
        assert!(read(&rules, &[&[b'a'; 255]]).is_ok());
        assert_eq!(
            read(&rules, &[&[b'a'; 256]]),
            Err(RejectionCode::KeyTooLong)
        );
        let escaped = [&b"\""[..], &br"\\".repeat(255), b"\""].concat();
        assert_eq!(read(&rules, &[&escaped]).unwrap().len(), 255);
        rules.length = 4..=8;
        assert_eq!(read(&rules, &[b"\"abc\""]), Err(RejectionCode::KeyTooShort));
        assert!(read(&rules, &[b"\"abcd\""]).is_ok());
        assert_eq!(read(&rules, &[b"\"\""]), Err(RejectionCode::KeyInvalid));
    }

    #[test]
    fn the_first_header_present_wins() {
        let mut rules = rules(KeySyntax::Lenient);
        rules.headers.push(HeaderName::from_static("x-request-key"));
        let mut headers = HeaderMap::new();
        assert!(rules.read(&headers).is_none());
        headers.insert("x-request-key", HeaderValue::from_static("b"));
        let (key, name) = rules.read(&headers).unwrap().unwrap();
        assert_eq!((key.as_str(), name.as_str()), ("b", "x-request-key"));
        headers.insert("idempotency-key", HeaderValue::from_static("a"));
        let (key, name) = rules.read(&headers).unwrap().unwrap();
        assert_eq!((key.as_str(), name.as_str()), ("a", "idempotency-key"));
    }

    #[test]
    fn rejections_write_the_header_as_the_documentation_does() {
        let mut rules = rules(KeySyntax::Lenient);
        rules.length = 2..=3;
        for (lines, detail) in [
            (
                &[""][..],
                "Idempotency-Key is empty; send a value that is unique to this operation.",
            ),
            (&["a"], "Idempotency-Key must be at least 2 characters."),
            (&["abcd"], "Idempotency-Key must be at most 3 characters."),
            (
                &["ab", "ab"],
                "Idempotency-Key was sent more than once; send it once.",
            ),
            (&["\"ab"], "Idempotency-Key has no closing quotation mark."),
        ] {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(&rules.headers[0], HeaderValue::from_static(line));
            }
            let rejection = rules.read(&headers).unwrap().unwrap_err();
            assert_eq!(rejection.detail(), detail);
        }
        let required = rules.required();
        assert!(
            required
                .detail()
                .contains("the header Idempotency-Key: 2 to 3")
        );
    }

    #[test]
    fn formats_are_checked() {
        let mut rules = rules(KeySyntax::Lenient);
        rules.format = KeyFormat::uuid();
        assert!(read(&rules, &[b"2fd4e1c6-7a2d-48fc-A1ED-99a0b5c3c2f1"]).is_ok());
        for key in [
            &b"2fd4e1c67a2d48fca1ed99a0b5c3c2f1"[..],
            b"abc",
            b"2fd4e1c6-7a2d-48fc-a1ed-99a0b5c3c2fg",
        ] {
            assert_eq!(read(&rules, &[key]), Err(RejectionCode::KeyInvalid));
        }
        rules.format = KeyFormat::uuid7();
        for key in [
            &b"017f22e2-79b0-7cc3-98c4-dc0c0c07398f"[..],
            b"017F22E2-79B0-7CC3-BFFF-DC0C0C07398F",
        ] {
            assert!(read(&rules, &[key]).is_ok());
        }
        for key in [
            &b"2fd4e1c6-7a2d-48fc-a1ed-99a0b5c3c2f1"[..],
            b"017f22e2-79b0-7cc3-78c4-dc0c0c07398f",
            b"017f22e2-79b0-7cc3-c8c4-dc0c0c07398f",
            b"017f22e279b07cc398c4dc0c0c07398f",
        ] {
            assert_eq!(read(&rules, &[key]), Err(RejectionCode::KeyInvalid));
        }
        rules.format = KeyFormat::custom("even", |key| key.len() % 2 == 0);
        assert!(read(&rules, &[b"ab"]).is_ok());
        assert!(read(&rules, &[b"abc"]).is_err());
        assert_eq!(format!("{:?}", rules.format), "KeyFormat(\"even\")");
    }

    proptest! {
        /// No byte makes the reader panic, and every accepted key is printable and of an allowed
        /// length.
        #[test]
        fn any_header_value_is_read_or_refused(
            bytes in proptest::collection::vec(any::<u8>(), 0..300),
            syntax in prop_oneof![Just(KeySyntax::Lenient), Just(KeySyntax::Strict), Just(KeySyntax::Raw)],
        ) {
            if HeaderValue::from_bytes(&bytes).is_ok()
                && let Ok(key) = read(&rules(syntax), &[&bytes])
            {
                prop_assert!((1..=255).contains(&key.len()));
                prop_assert!(key.bytes().all(|byte| (b' '..=b'~').contains(&byte)));
            }
        }

        /// A key that is quoted and then read is the same key.
        #[test]
        fn every_printable_key_survives_being_quoted(key in "[ -~]{1,255}") {
            let quoted = format!("\"{}\"", key.replace('\\', r"\\").replace('"', "\\\""));
            prop_assert_eq!(read(&rules(KeySyntax::Strict), &[quoted.as_bytes()]).unwrap(), key);
        }
    }
}
