//! Callers by the values of request headers.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderName, HeaderValue};

use super::{Caller, Scope, Value};
use crate::display::{header_name, join_with};
use crate::error::ConfigError;
use crate::record::digest::sha256;
use crate::record::unhex;

/// The value of one header, such as `x-api-key` or `authorization`.
///
/// A request in which the header is absent, empty or sent more than once has no caller. A `name`
/// that is not a header's name is an error when the layer is built.
#[must_use]
pub fn header(name: impl AsRef<str>) -> Header {
    headers([name])
}

/// The values of several headers that make up one credential: each of them must be in the request
/// once.
///
/// An empty list, and a name that is not a header's name, are errors when the layer is built.
#[must_use]
pub fn headers<N: AsRef<str>>(names: impl IntoIterator<Item = N>) -> Header {
    let mut header = Header {
        kind: Bytes::new(),
        names: Vec::new(),
        known: None,
        error: None,
    };
    for name in names {
        let name = name.as_ref();
        match name.parse() {
            Ok(name) => header.names.push(name),
            Err(_) => header.fail(format!("names `{name}`, which is not a header's name")),
        }
    }
    if header.names.is_empty() {
        header.fail("names no header".to_owned());
    }
    let list: Vec<_> = header.names.iter().map(HeaderName::as_str).collect();
    header.kind = Bytes::from(format!("header:{}", list.join(",")));
    header
}

/// The scope that [`header`] and [`headers`] return.
#[derive(Clone)]
pub struct Header {
    kind: Bytes,
    names: Vec<HeaderName>,
    known: Option<HashSet<[u8; 32]>>,
    /// The first thing that was wrong with the arguments.
    error: Option<String>,
}

impl Header {
    /// Only credentials whose SHA-256 is listed (64 hex digits each) are callers. A request with
    /// another credential has no caller in this scope, so that the next scope is asked. Of
    /// several headers, the values are joined by newlines.
    ///
    /// An entry that is not a SHA-256 in hex is an error when the layer is built.
    #[must_use]
    pub fn known_sha256<D: AsRef<str>>(mut self, digests: impl IntoIterator<Item = D>) -> Self {
        let mut known = HashSet::new();
        for digest in digests {
            match unhex(digest.as_ref()) {
                Some(digest) => _ = known.insert(digest),
                None => self.fail("lists a known value that is not a SHA-256 in hex".to_owned()),
            }
        }
        self.known = Some(known);
        self
    }

    /// The caller with this value, unless only known values are callers and this is none.
    fn of_value(&self, value: Value) -> Option<Caller> {
        if let Some(known) = &self.known {
            let values = match &value {
                Value::Headers(values) => values,
                Value::Header(value) => std::slice::from_ref(value),
                Value::Everyone | Value::Ip(_) | Value::Text(_) => return None,
            };
            let values: Vec<_> = values.iter().map(HeaderValue::as_bytes).collect();
            if !known.contains(&sha256(&values.join(&b'\n'))) {
                return None;
            }
        }
        Some(Caller {
            kind: self.kind.clone(),
            value,
        })
    }

    fn fail(&mut self, error: String) {
        self.error.get_or_insert(error);
    }
}

impl fmt::Debug for Header {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Header").field(&self.names).finish()
    }
}

impl Scope for Header {
    fn caller(&self, request: &Parts) -> Option<Caller> {
        let one = |name: &HeaderName| {
            let mut lines = request.headers.get_all(name).iter();
            match (lines.next(), lines.next()) {
                (Some(value), None) if !value.is_empty() => Some(value),
                _ => None,
            }
        };
        let value = match &*self.names {
            [name] => Value::Header(one(name)?.clone()),
            names => Value::Headers(
                names
                    .iter()
                    .map(|name| one(name).cloned())
                    .collect::<Option<_>>()?,
            ),
        };
        self.of_value(value)
    }

    fn named(&self, caller: &str) -> Vec<Caller> {
        let values = caller.split('\n').map(HeaderValue::from_str);
        let values: Result<Vec<_>, _> = values.collect();
        let Ok(values) = values else {
            return Vec::new();
        };
        if values.len() != self.names.len() || values.iter().any(HeaderValue::is_empty) {
            return Vec::new();
        }
        let value = match <[HeaderValue; 1]>::try_from(values) {
            Ok([value]) => Value::Header(value),
            Err(values) => Value::Headers(values),
        };
        self.of_value(value).into_iter().collect()
    }

    fn describe(&self) -> Cow<'static, str> {
        self.describe_verified(&[])
    }

    fn headers(&self) -> Vec<HeaderName> {
        self.names.clone()
    }

    fn describe_verified(&self, verified: &[HeaderName]) -> Cow<'static, str> {
        let of = |is_verified: bool| {
            let names = self.names.iter();
            let names = names.filter(|name| verified.contains(name) == is_verified);
            let names: Vec<_> = names
                .map(|name| format!("`{}`", header_name(name)))
                .collect();
            let noun = if names.len() == 1 {
                "header"
            } else {
                "headers"
            };
            (!names.is_empty()).then(|| (noun, join_with(&names, "and")))
        };
        let known = of(true)
            .map(|(_, names)| format!("is known to this API's authorisation by the same {names}"));
        let sent = of(false).map(|(noun, names)| format!("sends the same {noun} {names}"));
        let both: Vec<_> = known.into_iter().chain(sent).collect();
        let listed = match (&self.known, self.names.len()) {
            (None, _) => "",
            (Some(_), 1) => ", if its value is known",
            (Some(_), _) => ", if their values are known",
        };
        Cow::Owned(format!("whoever {}{listed}", join_with(&both, "and")))
    }

    fn check(&self) -> Result<(), ConfigError> {
        match &self.error {
            None => Ok(()),
            Some(error) => Err(ConfigError::new("scope", error)),
        }
    }
}
