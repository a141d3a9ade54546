//! The status and the body of each rejection.

use std::collections::BTreeMap;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;

use super::field::BodyStatus;
use super::names::unknown;
use super::value::{Plain, Value, read_as_value};
use crate::rejection::RejectionCode;

/// By the rejection's code.
pub(super) type Rejections = BTreeMap<Code, Rejected>;

/// The code of a rejection, as a name in a table.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Code(pub(super) RejectionCode);

read_as_value![Code];

impl Value for Code {
    fn allowed() -> String {
        "a rejection's code".to_owned()
    }

    fn plain(plain: Plain<'_>) -> Result<Self, String> {
        let mut all = RejectionCode::ALL.iter();
        let found = all.find(|code| matches!(plain, Plain::Text(text) if text == code.as_str()));
        let codes: Vec<&str> = RejectionCode::ALL
            .iter()
            .map(|code| code.as_str())
            .collect();
        found.copied().map(Self).ok_or_else(|| match plain {
            Plain::Text(text) => unknown(text, &codes),
            _ => format!("must be {}", Self::allowed()),
        })
    }

    fn schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string" })
    }
}

/// The JSON Schema of [`Rejections`].
pub(super) fn schema(generator: &mut SchemaGenerator) -> Schema {
    let rejected = generator.subschema_for::<Rejected>();
    let codes = RejectionCode::ALL
        .iter()
        .map(|code| (code.as_str(), &rejected));
    let properties: BTreeMap<_, _> = codes.collect();
    json_schema!({ "type": "object", "properties": properties, "additionalProperties": false })
}

/// What one rejection is sent with.
#[derive(Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Rejection")]
pub(super) struct Rejected {
    /// Another status.
    pub(super) status: Option<BodyStatus>,
    /// The type of `body`.
    pub(super) content_type: Option<String>,
    /// The body, in which `{code}`, `{title}`, `{detail}`, `{status}`, `{retry}`, `{docs_url}` and
    /// `{request_id}` are filled in; in anything but JSON only `{code}`, `{status}`, `{retry}` and
    /// `{request_id}` can stand.
    pub(super) body: Option<String>,
}
