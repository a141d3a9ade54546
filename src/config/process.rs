//! The values of the sidecar's entries. The sidecar is a program that runs in front of a service.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

use http::{HeaderName, Uri};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde::de::MapAccess;
use serde::de::value::MapAccessDeserializer;

use super::amount::{Time, whole};
use super::credential::Credential;
use super::field::{Name, text};
use super::tls::ClientTls;
use super::value::{Plain, Setting, Value, read_as_value, values};

values! {
    /// Where the sidecar listens.
    Address(Listen): "an address and a port such as \"127.0.0.1:8080\", \"[::1]:8080\" or \
        \"localhost:8080\", a Unix socket such as \"unix:/run/idempotency.sock\", or \"fd:3\" for the \
        first socket that a service manager passes",
        { "type": "string", "pattern": LISTEN },
        |plain| listen(text(&plain)?);
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

/// Where the sidecar listens, in a JSON Schema.
const LISTEN: &str = "^([A-Za-z0-9._-]+:[0-9]+|\\[[0-9a-fA-F.:%]+\\]:[0-9]+|unix:.+|fd:[0-9]+)$";

/// Where a listener is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    /// A name or an address, and a port; 0 for any that is free.
    Tcp(String, u16),
    /// The path of a Unix socket.
    Unix(PathBuf),
    /// A descriptor from 3, which a service manager passes.
    Descriptor(u32),
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(host, port) if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp(host, port) => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Descriptor(number) => write!(f, "fd:{number}"),
        }
    }
}

fn listen(text: &str) -> Option<Listen> {
    if let Some(path) = text.strip_prefix("unix:") {
        let is_path = !path.is_empty() && !path.contains('\0');
        return is_path.then(|| Listen::Unix(path.into()));
    }
    if let Some(number) = text.strip_prefix("fd:") {
        let number = whole(number)?.try_into().ok().filter(|number| *number >= 3);
        return number.map(Listen::Descriptor);
    }
    if let Ok(address) = text.parse::<SocketAddr>() {
        // The scope of a link-local address stays in its text.
        let host = text
            .rsplit_once(':')?
            .0
            .trim_start_matches('[')
            .trim_end_matches(']');
        return Some(Listen::Tcp(host.to_owned(), address.port()));
    }
    let (host, port) = text.rsplit_once(':')?;
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    let port = whole(port)?.try_into().ok()?;
    // What consists of digits alone is a wrong address, not a name.
    let is_number = host
        .bytes()
        .all(|byte| byte.is_ascii_digit() || byte == b'.');
    (!is_number && host.bytes().all(is_name)).then(|| Listen::Tcp(host.to_owned(), port))
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
