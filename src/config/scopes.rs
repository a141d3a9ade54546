//! The option `scope`: how the caller that a key belongs to is found.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, MapAccess};

use super::field::{NAME, Name, text};
use super::value::{List, Plain, Setting, Value, Word, read_as_value, values};
use crate::ConfigError;
use crate::scope::{self, ForwardedHeader, Scope};

/// The scopes that are tried in this order: the caller of a request is the one that the first of
/// them finds.
#[derive(Clone, Deserialize, JsonSchema)]
#[serde(try_from = "List<Entry>")]
#[schemars(with = "List<Entry>")]
pub(super) struct Scopes {
    scope: Arc<dyn Scope>,
    /// The networks of proxies that are trusted to name the address of the client.
    pub(super) trusted: Vec<IpNet>,
    /// Whether one of the scopes is the address of the connection.
    pub(super) peer_ip: bool,
}

impl Scopes {
    pub(super) fn scope(&self) -> Arc<dyn Scope> {
        Arc::clone(&self.scope)
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

/// One entry of the list.
#[derive(Clone)]
struct Entry {
    scope: Arc<dyn Scope>,
    /// Whether this scope finds a caller in every request.
    shared: bool,
    /// Whether this scope is the address of the connection.
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

read_as_value![Entry];

impl Value for Entry {
    fn allowed() -> String {
        "`header:NAME`, `headers:NAME,NAME`, `peer-ip`, `shared`, or a table: \
         { header = \"…\", known_sha256 = […] }, { headers = […], known_sha256 = […] } or \
         { forwarded_ip = \"x-forwarded-for\", trusted = […] }"
            .to_owned()
    }

    fn plain(plain: Plain<'_>) -> Result<Self, String> {
        let names = |names: &str| {
            let scope = scope::headers(names.split(',').map(str::trim));
            scope.check().is_ok().then_some(scope)
        };
        let read = |text: &str| match text.split_once(':') {
            None if text == "peer-ip" => Some(Self {
                is_peer: true,
                ..Self::of(scope::peer_ip())
            }),
            None if text == "shared" => Some(Self {
                shared: true,
                ..Self::of(scope::shared())
            }),
            Some(("header", name)) if !name.contains(',') => names(name).map(Self::of),
            Some(("headers", list)) => names(list).map(Self::of),
            _ => None,
        };
        let wrong = || format!("must be {}", Self::allowed());
        text(&plain).and_then(read).ok_or_else(wrong)
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
                headers: Some(names),
                known_sha256,
                forwarded_ip: None,
                trusted: None,
            } => known(scope::headers(names.set()), known_sha256).map_err(A::Error::custom),
            Table {
                header: None,
                headers: None,
                known_sha256: None,
                forwarded_ip: Some(Word(header)),
                trusted: Some(trusted),
            } => {
                let trusted = trusted.set();
                let named = trusted.iter().map(ToString::to_string);
                let scope = scope::forwarded_ip(header, named);
                scope.check().map_err(A::Error::custom)?;
                Ok(Self {
                    trusted,
                    ..Self::of(scope)
                })
            }
            _ => Err(A::Error::custom(format!(
                "does not go together: it must be {}",
                Self::allowed()
            ))),
        }
    }

    fn schema(generator: &mut SchemaGenerator) -> Schema {
        let header = generator.subschema_for::<Name>();
        let headers = generator.subschema_for::<List<Name>>();
        let known = generator.subschema_for::<List<Sha256>>();
        let forwarded = generator.subschema_for::<Word<ForwardedHeader>>();
        let trusted = generator.subschema_for::<List<Net>>();
        let token = NAME.trim_matches(['^', '$']);
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

fn known(scope: scope::Header, known: Option<List<Sha256>>) -> Result<Entry, ConfigError> {
    let scope = match known {
        None => scope,
        Some(known) => scope.known_sha256(known.set()),
    };
    scope.check()?;
    Ok(Entry::of(scope))
}

/// All entries that a table in `scope` can have. [`Entry`] rejects combinations that don't make a
/// scope.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    header: Option<Name>,
    headers: Option<List<Name>>,
    known_sha256: Option<List<Sha256>>,
    forwarded_ip: Option<Word<ForwardedHeader>>,
    trusted: Option<List<Net>>,
}

values! {
    /// The digest of a credential that the scope accepts.
    Sha256(String): "a SHA-256 in hex: 64 digits",
        { "type": "string", "pattern": "^[0-9a-fA-F]{64}$" },
        |plain| {
            let is_hex = |text: &str| text.bytes().all(|byte| byte.is_ascii_hexdigit());
            text(&plain).filter(|text| text.len() == 64 && is_hex(text)).map(str::to_owned)
        };
    /// A network. A single address is a network of one address.
    Net(IpNet): "a network such as \"10.0.0.0/8\", or an address",
        { "type": "string", "pattern": "^[0-9a-fA-F.:]+(/[0-9]+)?$" },
        |plain| {
            let text = text(&plain)?;
            let address = || text.parse().map(|address: IpAddr| address.into());
            text.parse().ok().or_else(|| address().ok())
        };
}
