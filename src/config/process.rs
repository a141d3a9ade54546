//! The values of the sidecar's entries. The sidecar is a program that runs in front of a service.

use std::net::SocketAddr;

use http::{HeaderName, Uri};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde::de::MapAccess;
use serde::de::value::MapAccessDeserializer;

use super::amount::Time;
use super::credential::Credential;
use super::field::{Name, text};
use super::tls::ClientTls;
use super::value::{Plain, Setting, Value, read_as_value, values};

values! {
    /// The address and port on which the sidecar listens.
    #[derive(Copy)]
    Address(SocketAddr): "an address and a port such as \"127.0.0.1:8080\", \"0.0.0.0:8080\" or \
        \"[::1]:8080\"",
        { "type": "string", "pattern": "^[0-9a-fA-F.:\\[\\]%]+:[0-9]+$" },
        |plain| text(&plain)?.parse().ok();
    /// The URL of the service behind the sidecar.
    Upstream(Uri): "a URL such as \"http://127.0.0.1:9000\": of http or https, without a user, a path \
        or a query",
        { "type": "string", "pattern": "^https?://[^/?#@]+/?$" },
        |plain| {
            let has_no_path = |url: &Uri| matches!(url.path(), "" | "/") && url.query().is_none();
            http_url(text(&plain)?).filter(has_no_path)
        };
    /// The path of a page that the sidecar itself serves; `None` if it serves no such page.
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
    let plain = matches!(url.scheme_str(), Some("http" | "https"))
        && !authority.as_str().contains('@')
        && !authority.host().is_empty();
    plain.then_some(url)
}

/// The URL of the authorizer. The query of the URL may contain a credential.
#[derive(Clone)]
struct AuthorizeUrl(Uri);

impl Value for AuthorizeUrl {
    fn allowed() -> String {
        "a URL such as \"http://127.0.0.1:9001/authorize\": of http or https, without a user"
            .to_owned()
    }

    fn plain(plain: Plain<'_>) -> Result<Self, String> {
        let Credential(text) = Credential::plain(plain)?;
        let wrong = || format!("must be {}", Self::allowed());
        http_url(&text).map(Self).ok_or_else(wrong)
    }

    fn schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^(env:[A-Za-z0-9_]+$|https?://[^@/?#]+([/?#]|$))" })
    }
}

/// The authorizer of the sidecar: a service that the sidecar asks about each request.
#[derive(Clone)]
pub(super) struct Authorize {
    pub(super) url: Uri,
    pub(super) tls: Option<ClientTls>,
    pub(super) timeout: Option<Time>,
    pub(super) headers: Vec<HeaderName>,
}

/// Returns why this field of the authorizer's response can't be copied into the request; `None` if
/// it can be copied.
pub(super) fn not_copied(name: &HeaderName) -> Option<&'static str> {
    // WSGI, Rack and PHP read `_` in a field's name as `-`, so `content_type` counts as
    // `content-type`.
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

/// Returns the name of a field with `-` for each `_`, because interfaces like CGI take both for
/// the same character.
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
            tls: None,
            timeout: None,
            headers: Vec::new(),
        })
    }

    fn table<'de, A: MapAccess<'de>>(map: A) -> Result<Self, A::Error> {
        let table = AuthorizeTable::deserialize(MapAccessDeserializer::new(map))?;
        Ok(Self {
            url: table.url.0,
            tls: table.tls,
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
    /// The URL that the sidecar asks, with GET and the head of the request.
    url: AuthorizeUrl,
    /// The authorities and the certificate with which an authorizer of https is spoken to.
    tls: Option<ClientTls>,
    /// How long the response of the authorizer may take.
    timeout: Option<Time>,
    /// The fields of the authorizer's response that the sidecar copies into the request.
    #[serde(default)]
    headers: Vec<Name>,
}
