//! The status and the body of each rejection.

use std::collections::BTreeMap;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;

use super::field::BodyStatus;
use super::names::unknown;
use super::value::{Plain, Value, read_as_value};
use crate::rejection::gateway::GatewayCode;
use crate::rejection::{DEFAULT, RejectionCode};

/// What each rejection is sent with, by the rejection's code.
pub(super) type Rejections = BTreeMap<Code, Rejected>;

/// The word of a code, or `default` for all codes without a body of their own, as a name in a table.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Code(pub(super) &'static str);

impl Code {
    /// The names that the table may have: the codes of the layer, those of the sidecar, and
    /// `default`.
    pub(super) fn all() -> Vec<&'static str> {
        let layer = RejectionCode::ALL.iter().map(|code| code.as_str());
        let mut all: Vec<_> = layer.collect();
        let sidecar = GatewayCode::ALL.iter().map(|code| code.as_str());
        all.extend(
            sidecar.filter(|code| !RejectionCode::ALL.iter().any(|own| own.as_str() == *code)),
        );
        all.push(DEFAULT);
        all
    }
}

read_as_value![Code];

impl Value for Code {
    fn allowed() -> String {
        "a rejection's code".to_owned()
    }

    fn plain(plain: Plain<'_>) -> Result<Self, String> {
        let Plain::Text(text) = plain else {
            return Err(format!("must be {}", Self::allowed()));
        };
        let all = Self::all();
        let found = all.iter().find(|code| **code == text);
        found
            .map(|code| Self(code))
            .ok_or_else(|| unknown(text, &all))
    }

    fn schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string" })
    }
}

/// The JSON Schema of [`Rejections`].
pub(super) fn schema(generator: &mut SchemaGenerator) -> Schema {
    let rejected = generator.subschema_for::<Rejected>();
    let default = generator.subschema_for::<DefaultRejected>();
    let of = |code| if code == DEFAULT { &default } else { &rejected };
    let properties: BTreeMap<_, _> = Code::all()
        .into_iter()
        .map(|code| (code, of(code)))
        .collect();
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

/// The body of all rejections that have none of their own. Each keeps its own status.
#[derive(JsonSchema)]
#[schemars(rename = "DefaultRejection", deny_unknown_fields)]
#[allow(dead_code, reason = "describes what `Rejected` reads for `default`")]
pub(super) struct DefaultRejected {
    /// The content type of `body`.
    content_type: String,
    /// The body, with the placeholders of every other `body`.
    body: String,
}
