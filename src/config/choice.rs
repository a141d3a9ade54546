//! Values of single options.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde::de::MapAccess;
use serde::de::value::MapAccessDeserializer;

use super::amount::Time;
use super::field::Name;
use super::value::{List, Value, Word, Words, values};
use crate::options::key::{KeyFormat, KeySyntax};
use crate::options::recording::RecordHeaders;
use crate::options::{
    KeysPer, OnDisconnect, OnInFlight, OnMismatch, OnOversize, OnStoreError, Require, RouteOptions,
};
use crate::store::OnLapsedLease;

macro_rules! words {
    ($($type:ident { $($word:literal => $variant:ident),+ })+) => {$(
        impl Words for $type {
            const WORDS: &'static [(&'static str, Self)] = &[$(($word, $type::$variant)),+];
        }
    )+};
}

words! {
    KeySyntax { "lenient" => Lenient, "strict" => Strict, "raw" => Raw }
    Format { "any" => Any, "uuid" => Uuid }
    Require { "required" => Required, "optional" => Optional, "ignored" => Ignored }
    KeysPer { "scope" => Scope, "route" => Route }
    OnMismatch { "reject" => Reject, "replay" => Replay }
    OnOversize { "seal" => Seal, "rerun" => Rerun }
    OnLapsedLease { "rerun" => Rerun, "refuse" => Refuse }
    OnDisconnect { "finish" => Finish, "cancel" => Cancel }
    OnStoreError { "closed" => Reject, "open" => RunUnprotected }
    Cipher { "xchacha20-poly1305" => XChaCha20Poly1305 }
}

values![Waiting, Encrypting];

/// What a key has to look like.
#[derive(Clone, Copy)]
pub(super) enum Format {
    Any,
    Uuid,
}

impl Format {
    pub(super) fn format(self) -> KeyFormat {
        match self {
            Self::Any => KeyFormat::any(),
            Self::Uuid => KeyFormat::uuid(),
        }
    }
}

/// The shortest and the longest.
#[derive(Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(inline)]
pub(super) struct Lengths {
    /// The shortest, in characters.
    #[schemars(range(min = 1))]
    min: Option<usize>,
    /// The longest, in characters.
    #[schemars(range(min = 1))]
    max: Option<usize>,
}

impl Lengths {
    /// What is left out stays as it is.
    pub(super) fn of(&self, options: RouteOptions) -> RouteOptions {
        let now = options.keys.length.clone();
        let min = self.min.unwrap_or(*now.start());
        let max = self.max.unwrap_or(*now.end());
        options.key_length(min..=max)
    }
}

/// What a duplicate gets while the first request runs.
#[derive(Clone, Copy)]
pub(super) struct Waiting(pub(super) OnInFlight);

impl Value for Waiting {
    const ALLOWED: &'static str = "`reject` or a table such as { wait = \"10s\" }";

    fn text(text: &str) -> Result<Self, String> {
        match text {
            "reject" => Ok(Self(OnInFlight::Reject)),
            _ => Err(Self::not_allowed()),
        }
    }

    fn table<'de, A: MapAccess<'de>>(map: A) -> Result<Self, A::Error> {
        let Wait { wait } = Wait::deserialize(MapAccessDeserializer::new(map))?;
        Ok(Self(OnInFlight::Wait(wait.0)))
    }

    fn schema(generator: &mut SchemaGenerator) -> Schema {
        let wait = generator.subschema_for::<Wait>();
        json_schema!({ "anyOf": [{ "const": "reject" }, wait] })
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(inline)]
struct Wait {
    /// For how long at most.
    wait: Time,
}

/// Which headers of an answer are recorded.
#[derive(Clone, Deserialize)]
#[serde(try_from = "HeaderLists")]
pub(super) enum Headers {
    Deny(List<Name, 0>),
    Allow(List<Name, 0>),
}

impl Headers {
    pub(super) fn rule(&self) -> RecordHeaders {
        let names = |List(names): &List<Name, 0>| -> Vec<String> {
            names.iter().map(|name| name.0.to_string()).collect()
        };
        match self {
            Self::Deny(own) => RecordHeaders::deny(names(own)),
            Self::Allow(own) => RecordHeaders::allow(names(own)),
        }
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct HeaderLists {
    /// All headers but these are recorded.
    deny: Option<List<Name, 0>>,
    /// Only these headers are recorded.
    allow: Option<List<Name, 0>>,
}

impl TryFrom<HeaderLists> for Headers {
    type Error = &'static str;

    fn try_from(lists: HeaderLists) -> Result<Self, &'static str> {
        match (lists.deny, lists.allow) {
            (Some(deny), None) => Ok(Self::Deny(deny)),
            (None, Some(allow)) => Ok(Self::Allow(allow)),
            _ => Err("must have either `deny` or `allow`"),
        }
    }
}

impl JsonSchema for Headers {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Headers".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let mut schema = HeaderLists::json_schema(generator);
        schema.insert("minProperties".to_owned(), 1.into());
        schema.insert("maxProperties".to_owned(), 1.into());
        schema
    }
}

/// With what recorded answers are encrypted.
#[derive(Clone, Copy)]
pub(super) enum Cipher {
    XChaCha20Poly1305,
}

/// How recorded answers are encrypted.
#[derive(Clone, Copy)]
#[cfg_attr(
    not(feature = "encryption"),
    expect(dead_code, reason = "it is refused")
)]
pub(super) struct Encrypting {
    pub(super) cipher: Cipher,
    pub(super) also_plain: bool,
}

#[cfg(feature = "encryption")]
impl Encrypting {
    pub(super) fn encryption(self) -> crate::store::Encryption {
        let encryption = match self.cipher {
            Cipher::XChaCha20Poly1305 => crate::store::Encryption::xchacha20_poly1305(),
        };
        if self.also_plain {
            encryption.also_plain()
        } else {
            encryption
        }
    }
}

impl Value for Encrypting {
    const ALLOWED: &'static str = "`xchacha20-poly1305` or a table such as \
        { cipher = \"xchacha20-poly1305\", also_plain = true }";

    fn text(text: &str) -> Result<Self, String> {
        let found = Cipher::WORDS.iter().find(|(word, _)| *word == text);
        let (_, cipher) = *found.ok_or_else(Self::not_allowed)?;
        Ok(Self {
            cipher,
            also_plain: false,
        })
    }

    fn table<'de, A: MapAccess<'de>>(map: A) -> Result<Self, A::Error> {
        let table = EncryptionTable::deserialize(MapAccessDeserializer::new(map))?;
        Ok(Self {
            cipher: table.cipher.0,
            also_plain: table.also_plain.unwrap_or(false),
        })
    }

    fn schema(generator: &mut SchemaGenerator) -> Schema {
        let cipher = generator.subschema_for::<Word<Cipher>>();
        let table = generator.subschema_for::<EncryptionTable>();
        json_schema!({ "anyOf": [cipher, table] })
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(inline)]
struct EncryptionTable {
    /// With what.
    cipher: Word<Cipher>,
    /// Replays answers that are not encrypted, too: for as long as records live that were made
    /// before encryption was turned on.
    also_plain: Option<bool>,
}
