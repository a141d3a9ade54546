//! The status and the body of each rejection.

use std::collections::BTreeMap;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;

use super::field::BodyStatus;
use super::names::unknown;
use super::value::{Plain, Value, read_as_value};
use crate::rejection::RejectionCode;

/// What each rejection is sent with, by the rejection's code.
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

/// The status and the body of one rejection.
#[derive(Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Rejection")]
pub(super) struct Rejected {
    /// The HTTP status, instead of the default one.
    pub(super) status: Option<BodyStatus>,
    /// The content type of `body`.
    pub(super) content_type: Option<String>,
    /// The body. Its placeholders `{code}`, `{title}`, `{detail}`, `{status}`, `{retry}`,
    /// `{docs_url}` and `{request_id}` are replaced by values. A body that is not JSON may have
    /// only `{code}`, `{status}`, `{retry}` and `{request_id}`.
    pub(super) body: Option<String>,
}
