//! What a file says about the sidecar.

use std::net::SocketAddr;

use http::{HeaderName, Uri};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde::de::MapAccess;
use serde::de::value::MapAccessDeserializer;

use super::amount::Time;
use super::credential::Credential;
use super::field::Name;
use super::value::{List, Value, values};

values![Address, Upstream, AuthorizeUrl, Authorize, ServedPath];

/// Where to listen.
#[derive(Clone, Copy)]
pub(super) struct Address(pub(super) SocketAddr);

impl Value for Address {
    const ALLOWED: &'static str =
        "an address and a port such as \"127.0.0.1:8080\", \"0.0.0.0:8080\" or \"[::1]:8080\"";

    fn text(text: &str) -> Result<Self, String> {
        text.parse().map(Self).map_err(|_| Self::not_allowed())
    }

    fn schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^[0-9a-fA-F.:\\[\\]%]+:[0-9]+$" })
    }
}

/// The service behind the sidecar.
#[derive(Clone)]
pub(super) struct Upstream(pub(super) Uri);

impl Value for Upstream {
    const ALLOWED: &'static str =
        "a URL such as \"http://127.0.0.1:9000\": of http, without a user, a path or a query";

    fn text(text: &str) -> Result<Self, String> {
        http_url(text)
            .filter(|url| matches!(url.path(), "" | "/") && url.query().is_none())
            .map(Self)
            .ok_or_else(Self::not_allowed)
    }

    fn schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^http://[^/?#@]+/?$" })
    }
}

fn http_url(text: &str) -> Option<Uri> {
    let url: Uri = text.parse().ok()?;
    let authority = url.authority()?;
    let plain = url.scheme_str() == Some("http")
        && !authority.as_str().contains('@')
        && !authority.host().is_empty();
    plain.then_some(url)
}

/// Whom to ask. Its query may hold a credential.
#[derive(Clone)]
pub(super) struct AuthorizeUrl(pub(super) Uri);

impl Value for AuthorizeUrl {
    const ALLOWED: &'static str =
        "a URL such as \"http://127.0.0.1:9001/authorize\": of http, without a user";

    fn text(text: &str) -> Result<Self, String> {
        let Credential(text) = Credential::text(text)?;
        http_url(&text).map(Self).ok_or_else(Self::not_allowed)
    }

    fn schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^(env:[A-Za-z0-9_]+$|http://[^@/?#]+([/?#]|$))" })
    }
}

/// Whom to ask, and how.
#[derive(Clone)]
pub(super) struct Authorize {
    pub(super) url: Uri,
    pub(super) timeout: Option<Time>,
    pub(super) headers: Vec<HeaderName>,
}

/// Why a field of the authorizer's answer can't be the request's, if it can't.
pub(super) fn not_copied(name: &HeaderName) -> Option<&'static str> {
    // As WSGI, Rack and PHP read it.
    let name = spelling(name);
    match &*name {
        "connection" | "http2-settings" | "keep-alive" | "proxy-connection" | "te" | "trailer"
        | "transfer-encoding" | "upgrade" => Some("belongs to one connection"),
        "expect" | "host" => Some("says how the request is read"),
        name if name.starts_with("content-") => Some("says how the request is read"),
        name if name.starts_with("idempotency-") => Some("is for the client and the sidecar"),
        name if name == "forwarded" || name.starts_with("x-forwarded-") => {
            Some("is for proxies and the sidecar")
        }
        _ => None,
    }
}

/// One for all that a CGI-like interface takes for the same.
pub(super) fn spelling(name: &HeaderName) -> String {
    name.as_str().replace('_', "-")
}

impl Value for Authorize {
    const ALLOWED: &'static str = "a URL such as \"http://127.0.0.1:9001/authorize\", or a table: \
        { url = \"…\", timeout = \"5s\", headers = [\"x-account\"] }";

    fn text(text: &str) -> Result<Self, String> {
        let AuthorizeUrl(url) = AuthorizeUrl::text(text)?;
        Ok(Self {
            url,
            timeout: None,
            headers: Vec::new(),
        })
    }

    fn table<'de, A: MapAccess<'de>>(map: A) -> Result<Self, A::Error> {
        let table = AuthorizeTable::deserialize(MapAccessDeserializer::new(map))?;
        let headers = table.headers.unwrap_or_default();
        Ok(Self {
            url: table.url.0,
            timeout: table.timeout,
            headers: headers.0.into_iter().map(|Name(name)| name).collect(),
        })
    }

    fn schema(generator: &mut SchemaGenerator) -> Schema {
        let url = generator.subschema_for::<AuthorizeUrl>();
        let table = generator.subschema_for::<AuthorizeTable>();
        json_schema!({ "anyOf": [url, table] })
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(inline)]
struct AuthorizeTable {
    /// Asked with GET and the head of the request.
    url: AuthorizeUrl,
    /// How long its answer may take.
    timeout: Option<Time>,
    /// Fields of its answer that are copied into the request.
    headers: Option<List<Name, 0>>,
}

/// Something that the sidecar itself answers.
#[derive(Clone)]
pub(super) struct ServedPath(pub(super) Option<String>);

impl Value for ServedPath {
    const ALLOWED: &'static str =
        "a path such as \"/.well-known/idempotency\", without a query, or `false` for none";

    fn switch(on: bool) -> Result<Self, String> {
        if on {
            return Err(Self::not_allowed());
        }
        Ok(Self(None))
    }

    fn text(text: &str) -> Result<Self, String> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/-._~".contains(&byte);
        if text.starts_with('/') && text.bytes().all(plain) {
            Ok(Self(Some(text.to_owned())))
        } else {
            Err(Self::not_allowed())
        }
    }

    fn schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [
            { "const": false },
            { "type": "string", "pattern": "^/[A-Za-z0-9/._~-]*$" },
        ]})
    }
}
