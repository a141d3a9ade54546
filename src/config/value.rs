//! Values that are written as one word or one number, or in a short form and a
//! long one.

use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use http::{HeaderName, Method, StatusCode};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Unexpected, Visitor};

use super::read::one_of;
use crate::policy::{can_have_body, can_protect};

/// A value with a grammar of its own. What it can't be made of is refused.
pub(super) trait Value: Sized {
    /// As in "must be …".
    const ALLOWED: &'static str;

    fn text(_: &str) -> Result<Self, String> {
        Self::wrong(Unexpected::Str(""))
    }

    fn number(number: u64) -> Result<Self, String> {
        Self::wrong(Unexpected::Unsigned(number))
    }

    fn switch(on: bool) -> Result<Self, String> {
        Self::wrong(Unexpected::Bool(on))
    }

    fn table<'de, A: MapAccess<'de>>(_: A) -> Result<Self, A::Error> {
        Err(A::Error::invalid_type(Unexpected::Map, &Self::ALLOWED))
    }

    fn wrong(found: Unexpected<'_>) -> Result<Self, String> {
        use super::read::Fault;

        Err(Fault::invalid_type(found, &Self::ALLOWED).message)
    }

    /// For text that is not quoted, since it may be a credential.
    fn not_allowed() -> String {
        format!("must be {}", Self::ALLOWED)
    }

    fn schema(generator: &mut SchemaGenerator) -> Schema;
}

pub(super) struct ValueVisitor<T>(pub(super) PhantomData<T>);

impl<'de, T: Value> Visitor<'de> for ValueVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(T::ALLOWED)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        T::text(text).map_err(E::custom)
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<T, E> {
        T::number(number).map_err(E::custom)
    }

    fn visit_bool<E: Error>(self, on: bool) -> Result<T, E> {
        T::switch(on).map_err(E::custom)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
        T::table(map)
    }
}

/// What `Value` says, for serde and for the schema.
macro_rules! values {
    ($($(#[$doc:meta])* $name:ident),+ $(,)?) => {$(
        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_any($crate::config::value::ValueVisitor(
                    std::marker::PhantomData::<$name>,
                ))
            }
        }

        impl schemars::JsonSchema for $name {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
                <$name as $crate::config::value::Value>::schema(generator)
            }
        }
    )+};
}
pub(super) use values;

values![
    Size,
    Time,
    Name,
    Verb,
    Status,
    AnswerStatus,
    StatusName,
    MediaType,
    SkipHeader,
    Pointer,
    HeaderSwitch
];

/// Bytes.
#[derive(Clone, Copy)]
pub(super) struct Size(pub(super) usize);

impl Value for Size {
    const ALLOWED: &'static str =
        "a size: a number of bytes such as 1048576, or \"64KiB\", \"1MiB\", \"1GiB\"";

    fn number(number: u64) -> Result<Self, String> {
        let size = usize::try_from(number).map(Size);
        size.map_err(|_| Self::not_allowed())
    }

    fn text(text: &str) -> Result<Self, String> {
        let units = [("KiB", 10), ("MiB", 20), ("GiB", 30)];
        let size = units.iter().find_map(|(unit, shift)| {
            let number = whole(text.strip_suffix(unit)?)?;
            usize::try_from(number).ok()?.checked_mul(1 << shift)
        });
        size.map(Size).ok_or_else(Self::not_allowed)
    }

    fn schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [
            { "type": "integer", "minimum": 0 },
            { "type": "string", "pattern": "^[0-9]+(KiB|MiB|GiB)$" },
        ]})
    }
}

/// A duration.
#[derive(Clone, Copy)]
pub(super) struct Time(pub(super) Duration);

impl Time {
    /// Longer ones are no use, and some store's clock would overflow.
    const MOST: Duration = Duration::from_secs(36_500 * 24 * 3600);
}

impl Value for Time {
    const ALLOWED: &'static str =
        "a duration such as \"300ms\", \"30s\", \"10m\", \"24h\" or \"7d\"";

    fn text(text: &str) -> Result<Self, String> {
        let units = [
            ("ms", 1),
            ("s", 1_000),
            ("m", 60_000),
            ("h", 3_600_000),
            ("d", 86_400_000),
        ];
        let millis = units
            .iter()
            .find_map(|(unit, millis)| whole(text.strip_suffix(unit)?)?.checked_mul(*millis));
        let time = millis
            .map(Duration::from_millis)
            .ok_or_else(Self::not_allowed)?;
        if time > Self::MOST {
            return Err("must not be longer than 36500d".to_owned());
        }
        Ok(Time(time))
    }

    fn schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^[0-9]+(ms|s|m|h|d)$" })
    }
}

/// Digits alone: `parse` takes a sign, too.
fn whole(text: &str) -> Option<u64> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok())?
}

/// A header's name.
#[derive(Clone)]
pub(super) struct Name(pub(super) HeaderName);

impl AsRef<str> for Name {
    fn as_ref(&self) -> &str {
        self.0.as_str()
    }
}

impl Name {
    pub(super) const PATTERN: &'static str = "^[!#$%&'*+.^_`|~0-9A-Za-z-]+$";
}

impl Value for Name {
    const ALLOWED: &'static str = "a header's name such as \"x-api-key\"";

    fn text(text: &str) -> Result<Self, String> {
        text.parse().map(Name).map_err(|_| Self::not_allowed())
    }

    fn schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": Name::PATTERN })
    }
}

/// A method that can be protected.
#[derive(Clone)]
pub(super) struct Verb(pub(super) Method);

impl Value for Verb {
    const ALLOWED: &'static str = "a method in capitals, such as \"POST\", \"PUT\", \"PATCH\" or \
        \"DELETE\"; GET, HEAD, OPTIONS, TRACE, CONNECT and QUERY can't be protected";

    fn text(text: &str) -> Result<Self, String> {
        let method = Method::from_bytes(text.as_bytes()).ok();
        method
            .filter(can_protect)
            .filter(|method| {
                !method
                    .as_str()
                    .bytes()
                    .any(|byte| byte.is_ascii_lowercase())
            })
            .map(Verb)
            .ok_or_else(Self::not_allowed)
    }

    fn schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "pattern": "^[!#$%&'*+.^_`|~0-9A-Z-]+$",
            "not": { "enum": ["GET", "HEAD", "OPTIONS", "TRACE", "CONNECT", "QUERY"] },
        })
    }
}

/// A status of HTTP.
#[derive(Clone, Copy)]
pub(super) struct Status(pub(super) StatusCode);

impl Value for Status {
    const ALLOWED: &'static str = "a status from 100 to 999";

    fn number(number: u64) -> Result<Self, String> {
        let status = u16::try_from(number).ok();
        status
            .and_then(|status| StatusCode::from_u16(status).ok())
            .map(Status)
            .ok_or_else(Self::not_allowed)
    }

    fn schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "integer", "minimum": 100, "maximum": 999 })
    }
}

/// A status whose answer can have a body.
#[derive(Clone, Copy)]
pub(super) struct AnswerStatus(pub(super) StatusCode);

impl Value for AnswerStatus {
    const ALLOWED: &'static str =
        "a status from 200 to 999 whose answer has a body: not 204 or 304";

    fn number(number: u64) -> Result<Self, String> {
        match Status::number(number) {
            Ok(Status(status)) if can_have_body(status) => Ok(Self(status)),
            _ => Err(Self::not_allowed()),
        }
    }

    fn schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "integer", "minimum": 200, "maximum": 999, "not": { "enum": [204, 304] },
        })
    }
}

/// A status where only a string can stand: as a name in a table.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct StatusName(pub(super) StatusCode);

impl Value for StatusName {
    const ALLOWED: &'static str = "a status from 100 to 999";

    fn text(text: &str) -> Result<Self, String> {
        let status = whole(text).map(Status::number);
        match status {
            Some(Ok(Status(status))) => Ok(Self(status)),
            _ => Err(Self::not_allowed()),
        }
    }

    fn schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^[1-9][0-9][0-9]$" })
    }
}

/// A content type, or a family of them.
#[derive(Clone)]
pub(super) struct MediaType(pub(super) String);

impl Value for MediaType {
    const ALLOWED: &'static str =
        "a content type without parameters, such as \"application/pdf\" or \"image/*\"";

    fn text(text: &str) -> Result<Self, String> {
        if text.contains('/') && !text.contains(';') {
            Ok(Self(text.to_owned()))
        } else {
            Err(Self::not_allowed())
        }
    }

    fn schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^[^;]*/[^;]*$" })
    }
}

/// A header, or a header with a value.
#[derive(Clone)]
pub(super) struct SkipHeader(pub(super) String);

impl Value for SkipHeader {
    const ALLOWED: &'static str =
        "a header's name, or a name and a value such as \"Transient-Error: true\"";

    fn text(text: &str) -> Result<Self, String> {
        let (name, value) = text.split_once(':').unwrap_or((text, " "));
        let is_name = Name::text(name.trim_end()).is_ok();
        if is_name && (!value.trim().is_empty() || !text.contains(':')) {
            Ok(Self(text.to_owned()))
        } else {
            Err(Self::not_allowed())
        }
    }

    fn schema(_: &mut SchemaGenerator) -> Schema {
        let name = Name::PATTERN.trim_end_matches('$');
        json_schema!({ "type": "string", "pattern": format!("{name}( *: *[^ ].*)?$") })
    }
}

/// A JSON pointer.
#[derive(Clone)]
pub(super) struct Pointer(pub(super) String);

impl Value for Pointer {
    const ALLOWED: &'static str = "a JSON pointer such as \"/amount\" or \"/to/iban\"";

    fn text(text: &str) -> Result<Self, String> {
        if text.is_empty() || text.starts_with('/') {
            Ok(Self(text.to_owned()))
        } else {
            Err(Self::not_allowed())
        }
    }

    fn schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^(/.*)?$" })
    }
}

/// A header of an answer: off, on under its usual name, or on under another.
#[derive(Clone)]
pub(super) enum HeaderSwitch {
    On(bool),
    Named(Name),
}

impl HeaderSwitch {
    pub(super) fn name<'a>(&'a self, usual: &'a str) -> Option<&'a str> {
        match self {
            Self::On(on) => on.then_some(usual),
            Self::Named(name) => Some(name.as_ref()),
        }
    }
}

impl Value for HeaderSwitch {
    const ALLOWED: &'static str = "a header's name, `true` for the usual one, or `false` for none";

    fn switch(on: bool) -> Result<Self, String> {
        Ok(Self::On(on))
    }

    fn text(text: &str) -> Result<Self, String> {
        let name = Name::text(text).map_err(|_| Self::not_allowed())?;
        Ok(Self::Named(name))
    }

    fn schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [
            { "type": "boolean" },
            { "type": "string", "pattern": Name::PATTERN },
        ]})
    }
}

/// One of a few words.
#[derive(Clone, Copy)]
pub(super) struct Word<T>(pub(super) T);

pub(super) trait Words: Copy + 'static {
    const WORDS: &'static [(&'static str, Self)];
}

fn words<T: Words>() -> Vec<&'static str> {
    T::WORDS.iter().map(|(word, _)| *word).collect()
}

impl<'de, T: Words> Deserialize<'de> for Word<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct WordVisitor<T>(PhantomData<T>);

        impl<T: Words> Visitor<'_> for WordVisitor<T> {
            type Value = Word<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&one_of(&words::<T>()))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Word<T>, E> {
                let found = T::WORDS.iter().find(|(word, _)| *word == text);
                match found {
                    Some((_, meant)) => Ok(Word(*meant)),
                    None => Err(E::custom(format!("must be {}", one_of(&words::<T>())))),
                }
            }
        }

        deserializer.deserialize_any(WordVisitor(PhantomData))
    }
}

impl<T: Words> JsonSchema for Word<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Word".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "enum": words::<T>() })
    }
}

/// Entries of one kind, at least so many.
#[derive(Clone)]
pub(super) struct List<T, const LEAST: usize = 1>(pub(super) Vec<T>);

impl<T, const LEAST: usize> Default for List<T, LEAST> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<'de, T: Value + Deserialize<'de>, const LEAST: usize> Deserialize<'de> for List<T, LEAST> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ListVisitor<T, const LEAST: usize>(PhantomData<T>);

        impl<'de, T: Value + Deserialize<'de>, const LEAST: usize> Visitor<'de> for ListVisitor<T, LEAST> {
            type Value = List<T, LEAST>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a list (an entry is {})", T::ALLOWED)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = seq.next_element()? {
                    entries.push(entry);
                }
                if entries.len() < LEAST {
                    let message = format!("must not be empty; an entry is {}", T::ALLOWED);
                    return Err(A::Error::custom(message));
                }
                Ok(List(entries))
            }
        }

        deserializer.deserialize_any(ListVisitor(PhantomData))
    }
}

impl<T: JsonSchema, const LEAST: usize> JsonSchema for List<T, LEAST> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "List".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let entry = generator.subschema_for::<T>();
        let mut schema = json_schema!({ "type": "array", "items": entry });
        if LEAST > 0 {
            schema.insert("minItems".to_owned(), LEAST.into());
        }
        schema
    }
}
