//! What messages of HTTP consist of: names of headers, methods, statuses, types.

use http::{HeaderName, Method, StatusCode};
use schemars::{Schema, SchemaGenerator, json_schema};

use super::amount::whole;
use super::value::{Value, values};
use crate::message::media_type::can_have_body;
use crate::options::can_protect;

values![
    Name,
    Verb,
    Status,
    AnswerStatus,
    StatusName,
    MediaType,
    SkipHeader,
    HeaderSwitch
];

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
