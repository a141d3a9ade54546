//! Whose a key is, as a list of words and tables.

use std::fmt;
use std::sync::Arc;

use ipnet::IpNet;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, MapAccess};

use super::field::Name;
use super::value::{List, Value, Word, Words, values};
use crate::scope::{self, ForwardedHeader, Scope};

/// The option `scope`: the first that a request has.
#[derive(Clone, Deserialize, JsonSchema)]
#[serde(try_from = "List<Entry>")]
#[schemars(with = "List<Entry>")]
pub(super) struct Scopes {
    scope: Arc<dyn Scope>,
    /// Networks that are believed about where a request comes from.
    pub(super) trusted: Vec<IpNet>,
    /// Whether the connection's address is one of them.
    pub(super) peer_ip: bool,
}

impl Scopes {
    pub(super) fn scope(&self) -> Arc<dyn Scope> {
        Arc::clone(&self.scope)
    }
}

impl fmt::Debug for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Scopes(..)")
    }
}

impl TryFrom<List<Entry>> for Scopes {
    type Error = &'static str;

    fn try_from(List(entries): List<Entry>) -> Result<Self, &'static str> {
        let mut scopes: Option<Arc<dyn Scope>> = None;
        let mut all = false;
        let mut believed = Vec::new();
        let mut peer_ip = false;
        for entry in entries {
            let Entry {
                scope,
                shared,
                is_peer,
                trusted,
            } = entry;
            peer_ip |= is_peer;
            if all {
                return Err("lists another scope after `shared`, which every request has");
            }
            all = shared;
            believed.extend(trusted);
            scopes = Some(match scopes {
                Some(before) => Arc::new(before.or(scope)),
                None => scope,
            });
        }
        let scope = scopes.ok_or("must list at least one")?;
        Ok(Self {
            scope,
            trusted: believed,
            peer_ip,
        })
    }
}

/// One scope of several.
#[derive(Clone)]
struct Entry {
    scope: Arc<dyn Scope>,
    /// Every request has it.
    shared: bool,
    /// It is the connection's address.
    is_peer: bool,
    trusted: Vec<IpNet>,
}

impl Entry {
    fn of(scope: impl Scope) -> Self {
        Self {
            scope: Arc::new(scope),
            shared: false,
            is_peer: false,
            trusted: Vec::new(),
        }
    }
}

values![Entry, Sha256, Net];

impl Value for Entry {
    const ALLOWED: &'static str = "`header:NAME`, `headers:NAME,NAME`, `peer-ip`, `shared`, or a \
        table: { header = \"…\", known_sha256 = […] }, { headers = […], known_sha256 = […] } or \
        { forwarded_ip = \"x-forwarded-for\", trusted = […] }";

    fn text(text: &str) -> Result<Self, String> {
        let names = |names: &str| {
            let found = scope::headers(names.split(',').map(str::trim)).map(Self::of);
            found.map_err(|_| Self::not_allowed())
        };
        match text.split_once(':') {
            None if text == "peer-ip" => Ok(Self {
                is_peer: true,
                ..Self::of(scope::peer_ip())
            }),
            None if text == "shared" => Ok(Self {
                shared: true,
                ..Self::of(scope::shared())
            }),
            Some(("header", name)) if !name.contains(',') => names(name),
            Some(("headers", list)) => names(list),
            _ => Err(Self::not_allowed()),
        }
    }

    fn table<'de, A: MapAccess<'de>>(map: A) -> Result<Self, A::Error> {
        let table = Table::deserialize(MapAccessDeserializer::new(map))?;
        match table {
            Table {
                header: Some(Name(name)),
                headers: None,
                known_sha256,
                forwarded_ip: None,
                trusted: None,
            } => known(scope::header(name), known_sha256).map_err(A::Error::custom),
            Table {
                header: None,
                headers: Some(List(names)),
                known_sha256,
                forwarded_ip: None,
                trusted: None,
            } => known(scope::headers(names), known_sha256).map_err(A::Error::custom),
            Table {
                header: None,
                headers: None,
                known_sha256: None,
                forwarded_ip: Some(Word(header)),
                trusted: Some(List(trusted)),
            } => {
                let named = trusted.iter().map(|Net(network)| network.to_string());
                let scope = scope::forwarded_ip(header, named).map_err(A::Error::custom)?;
                Ok(Self {
                    trusted: trusted.into_iter().map(|Net(network)| network).collect(),
                    ..Self::of(scope)
                })
            }
            _ => Err(A::Error::custom(format!(
                "does not go together: it must be {}",
                Self::ALLOWED
            ))),
        }
    }

    fn schema(generator: &mut SchemaGenerator) -> Schema {
        let header = generator.subschema_for::<Name>();
        let headers = generator.subschema_for::<List<Name>>();
        let known = generator.subschema_for::<List<Sha256>>();
        let forwarded = generator.subschema_for::<Word<ForwardedHeader>>();
        let trusted = generator.subschema_for::<List<Net>>();
        let token = Name::PATTERN.trim_matches(['^', '$']);
        json_schema!({ "anyOf": [
            { "enum": ["peer-ip", "shared"] },
            { "type": "string", "pattern": format!("^(header: *|headers: *({token} *, *)*){token} *$") },
            {
                "type": "object",
                "properties": { "header": header, "known_sha256": known },
                "required": ["header"],
                "additionalProperties": false,
            },
            {
                "type": "object",
                "properties": {
                    "headers": headers,
                    "known_sha256": known,
                },
                "required": ["headers"],
                "additionalProperties": false,
            },
            {
                "type": "object",
                "properties": { "forwarded_ip": forwarded, "trusted": trusted },
                "required": ["forwarded_ip", "trusted"],
                "additionalProperties": false,
            },
        ]})
    }
}

fn known(
    scope: Result<scope::Header, crate::ConfigError>,
    known: Option<List<Sha256>>,
) -> Result<Entry, crate::ConfigError> {
    let scope = scope?;
    match known {
        None => Ok(Entry::of(scope)),
        Some(List(known)) => {
            let digests = known.iter().map(|Sha256(digest)| digest);
            Ok(Entry::of(scope.known_sha256(digests)?))
        }
    }
}

/// All that a scope's table can have; what goes together is said above.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    header: Option<Name>,
    headers: Option<List<Name>>,
    known_sha256: Option<List<Sha256>>,
    forwarded_ip: Option<Word<ForwardedHeader>>,
    trusted: Option<List<Net>>,
}

impl Words for ForwardedHeader {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("x-forwarded-for", ForwardedHeader::XForwardedFor),
        ("forwarded", ForwardedHeader::Forwarded),
    ];
}

/// A digest of a credential that is known.
struct Sha256(String);

impl Value for Sha256 {
    const ALLOWED: &'static str = "a SHA-256 in hex: 64 digits";

    fn text(text: &str) -> Result<Self, String> {
        if text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            Ok(Self(text.to_owned()))
        } else {
            Err(Self::not_allowed())
        }
    }

    fn schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^[0-9a-fA-F]{64}$" })
    }
}

/// A network, or an address.
#[derive(Clone)]
pub(super) struct Net(pub(super) IpNet);

impl Value for Net {
    const ALLOWED: &'static str = "a network such as \"10.0.0.0/8\", or an address";

    fn text(text: &str) -> Result<Self, String> {
        text.parse()
            .or_else(|_| text.parse().map(|address: std::net::IpAddr| address.into()))
            .map(Net)
            .map_err(|_| Self::not_allowed())
    }

    fn schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^[0-9a-fA-F.:]+(/[0-9]+)?$" })
    }
}
