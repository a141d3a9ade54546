//! How bodies of requests are compared.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde::de::MapAccess;
use serde::de::value::MapAccessDeserializer;

use super::value::{List, Value, values};
use crate::options::fingerprint::{FingerprintBody, JsonFingerprint};

values![Body, Pointer];

/// How the request's body is compared.
#[derive(Clone)]
pub(super) struct Body(pub(super) FingerprintBody);

impl Value for Body {
    const ALLOWED: &'static str =
        "`bytes`, `json`, `none` or a table such as { json = { exclude = [\"/sent_at\"] } }";

    fn text(text: &str) -> Result<Self, String> {
        match text {
            "bytes" => Ok(Self(FingerprintBody::Bytes)),
            "json" => Ok(Self(FingerprintBody::Json(JsonFingerprint::new()))),
            "none" => Ok(Self(FingerprintBody::None)),
            _ => Err(Self::not_allowed()),
        }
    }

    fn table<'de, A: MapAccess<'de>>(map: A) -> Result<Self, A::Error> {
        let Json { json } = Json::deserialize(MapAccessDeserializer::new(map))?;
        let mut fingerprint = JsonFingerprint::new();
        for Pointer(pointer) in json.include.unwrap_or_default().0 {
            fingerprint = fingerprint.include(pointer);
        }
        for Pointer(pointer) in json.exclude.unwrap_or_default().0 {
            fingerprint = fingerprint.exclude(pointer);
        }
        Ok(Self(FingerprintBody::Json(fingerprint)))
    }

    fn schema(generator: &mut SchemaGenerator) -> Schema {
        let table = generator.subschema_for::<Json>();
        json_schema!({ "anyOf": [{ "enum": ["bytes", "json", "none"] }, table] })
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(inline)]
struct Json {
    json: Pointers,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(inline)]
struct Pointers {
    /// JSON pointers: only what they name is compared.
    include: Option<List<Pointer, 0>>,
    /// JSON pointers: what they name is not compared.
    exclude: Option<List<Pointer, 0>>,
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
