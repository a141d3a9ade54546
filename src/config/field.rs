//! What HTTP messages consist of: names of headers, methods, statuses, content types.

use http::{HeaderName, Method, StatusCode};

use super::amount::whole;
use super::value::{Plain, values};
use crate::message::media_type::can_have_body;
use crate::options::can_protect;

values! {
    /// The name of a header.
    Name(HeaderName): "a header's name such as \"x-api-key\"",
        { "type": "string", "pattern": NAME },
        |plain| text(&plain)?.parse().ok();
    /// A method that can be protected.
    Verb(Method): "a method in capitals, such as \"POST\", \"PUT\", \"PATCH\" or \"DELETE\"; GET, \
        HEAD, OPTIONS, TRACE, CONNECT and QUERY can't be protected",
        {
            "type": "string",
            "pattern": "^[!#$%&'*+.^_`|~0-9A-Z-]+$",
            "not": { "enum": ["GET", "HEAD", "OPTIONS", "TRACE", "CONNECT", "QUERY"] },
        },
        |plain| {
            let text = text(&plain)?;
            let method = Method::from_bytes(text.as_bytes()).ok().filter(can_protect);
            method.filter(|_| !text.bytes().any(|byte| byte.is_ascii_lowercase()))
        };
    /// A status whose response can have a body.
    #[derive(Copy)]
    BodyStatus(StatusCode): "a status from 200 to 999 whose response has a body: not 204 or 304",
        { "type": "integer", "minimum": 200, "maximum": 999, "not": { "enum": [204, 304] } },
        |plain| match plain {
            Plain::Number(number) => status(number).filter(|status| can_have_body(*status)),
            _ => None,
        };
    /// A status where only a string can stand: as a name in a table.
    #[derive(Copy, PartialEq, Eq, PartialOrd, Ord)]
    StatusName(StatusCode): "a status from 100 to 999",
        { "type": "string", "pattern": "^[1-9][0-9][0-9]$" },
        |plain| status(whole(text(&plain)?)?);
    /// A content type, or a family of them.
    MediaType(String): "a content type without parameters, such as \"application/pdf\" or \
        \"image/*\"",
        { "type": "string", "pattern": "^[^;]*/[^;]*$" },
        |plain| {
            let is_type = |text: &&str| text.contains('/') && !text.contains(';');
            text(&plain).filter(is_type).map(str::to_owned)
        };
    /// A header, or a header with a value.
    SkipHeader(String): "a header's name, or a name and a value such as \"Transient-Error: true\"",
        { "type": "string", "pattern": format!("{}( *: *[^ ].*)?$", NAME.trim_end_matches('$')) },
        |plain| {
            let text = text(&plain)?;
            let (name, value) = text.split_once(':').unwrap_or((text, "any"));
            let is_one = name.trim_end().parse::<HeaderName>().is_ok() && !value.trim().is_empty();
            is_one.then(|| text.to_owned())
        };
    /// A header of a response: off, on under its usual name, or on under another.
    HeaderSwitch(Switch): "a header's name, `true` for the usual one, or `false` for none",
        { "anyOf": [{ "type": "boolean" }, { "type": "string", "pattern": NAME }] },
        |plain| match plain {
            Plain::Switch(on) => Some(Switch::On(on)),
            Plain::Text(text) => text.parse().ok().map(Switch::Named),
            Plain::Number(_) => None,
        };
}

/// The name of a header in a JSON Schema.
pub(super) const NAME: &str = "^[!#$%&'*+.^_`|~0-9A-Za-z-]+$";

#[derive(Clone)]
pub(super) enum Switch {
    On(bool),
    Named(HeaderName),
}

impl HeaderSwitch {
    pub(super) fn name<'a>(&'a self, usual: &'a str) -> Option<&'a str> {
        match &self.0 {
            Switch::On(on) => on.then_some(usual),
            Switch::Named(name) => Some(name.as_str()),
        }
    }
}

/// Text, if the value is text.
pub(super) fn text<'a>(plain: &Plain<'a>) -> Option<&'a str> {
    match plain {
        Plain::Text(text) => Some(text),
        _ => None,
    }
}

fn status(number: u64) -> Option<StatusCode> {
    StatusCode::from_u16(number.try_into().ok()?).ok()
}
