//! Values of the sidecar's entries: the sidecar is a program in front of a service.

use std::net::SocketAddr;

use http::{HeaderName, Uri};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde::de::MapAccess;
use serde::de::value::MapAccessDeserializer;

use super::amount::Time;
use super::credential::Credential;
use super::field::{Name, text};
use super::value::{Plain, Setting, Value, read_as_value, values};

values! {
    /// Where to listen.
    #[derive(Copy)]
    Address(SocketAddr): "an address and a port such as \"127.0.0.1:8080\", \"0.0.0.0:8080\" or \
        \"[::1]:8080\"",
        { "type": "string", "pattern": "^[0-9a-fA-F.:\\[\\]%]+:[0-9]+$" },
        |plain| text(&plain)?.parse().ok();
    /// The service behind the sidecar.
    Upstream(Uri): "a URL such as \"http://127.0.0.1:9000\": of http, without a user, a path or a \
        query",
        { "type": "string", "pattern": "^http://[^/?#@]+/?$" },
        |plain| {
            let has_no_path = |url: &Uri| matches!(url.path(), "" | "/") && url.query().is_none();
            http_url(text(&plain)?).filter(has_no_path)
        };
    /// Something that the sidecar itself serves.
    ServedPath(Option<String>): "a path such as \"/.well-known/idempotency\", without a query, or \
        `false` for none",
        { "anyOf": [
            { "const": false },
            { "type": "string", "pattern": "^/[A-Za-z0-9/._~-]*$" },
        ]},
        |plain| {
            let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/-._~".contains(&byte);
            match plain {
                Plain::Switch(false) => Some(None),
                Plain::Text(text) if text.starts_with('/') && text.bytes().all(is_plain) => {
                    Some(Some(text.to_owned()))
                }
                _ => None,
            }
        };
}

read_as_value![AuthorizeUrl, Authorize];

fn http_url(text: &str) -> Option<Uri> {
    let url: Uri = text.parse().ok()?;
    let authority = url.authority()?;
    let plain = url.scheme_str() == Some("http")
        && !authority.as_str().contains('@')
        && !authority.host().is_empty();
    plain.then_some(url)
}

/// The URL that is asked. Its query may hold a credential.
#[derive(Clone)]
struct AuthorizeUrl(Uri);

impl Value for AuthorizeUrl {
    fn allowed() -> String {
        "a URL such as \"http://127.0.0.1:9001/authorize\": of http, without a user".to_owned()
    }

    fn plain(plain: Plain<'_>) -> Result<Self, String> {
        let Credential(text) = Credential::plain(plain)?;
        let wrong = || format!("must be {}", Self::allowed());
        http_url(&text).map(Self).ok_or_else(wrong)
    }

    fn schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^(env:[A-Za-z0-9_]+$|http://[^@/?#]+([/?#]|$))" })
    }
}

/// The URL that is asked, and how.
#[derive(Clone)]
pub(super) struct Authorize {
    pub(super) url: Uri,
    pub(super) timeout: Option<Time>,
    pub(super) headers: Vec<HeaderName>,
}

/// Why a field of the authorizer's response can't be copied into the request, if it can't.
pub(super) fn not_copied(name: &HeaderName) -> Option<&'static str> {
    // WSGI, Rack and PHP read `_` in a field's name as `-`.
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

/// The name of a field as CGI-like interfaces tell fields apart: `_` is `-`.
pub(super) fn spelling(name: &HeaderName) -> String {
    name.as_str().replace('_', "-")
}

impl Value for Authorize {
    fn allowed() -> String {
        "a URL such as \"http://127.0.0.1:9001/authorize\", or a table: \
         { url = \"…\", timeout = \"5s\", headers = [\"x-account\"] }"
            .to_owned()
    }

    fn plain(plain: Plain<'_>) -> Result<Self, String> {
        let AuthorizeUrl(url) = AuthorizeUrl::plain(plain)?;
        Ok(Self {
            url,
            timeout: None,
            headers: Vec::new(),
        })
    }

    fn table<'de, A: MapAccess<'de>>(map: A) -> Result<Self, A::Error> {
        let table = AuthorizeTable::deserialize(MapAccessDeserializer::new(map))?;
        Ok(Self {
            url: table.url.0,
            timeout: table.timeout,
            headers: table.headers.set(),
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
    /// How long its response may take.
    timeout: Option<Time>,
    /// Fields of its response that are copied into the request.
    #[serde(default)]
    headers: Vec<Name>,
}
