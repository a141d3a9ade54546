//! Who a key belongs to (G6).
//!
//! A key means something only beside its caller: two customers that both
//! send `Idempotency-Key: 1` must never see each other's answers. The scope
//! is therefore an argument of [`IdempotencyLayer::new`] without a default.
//! It should be a stable id of a *verified* caller, so put the layer inside
//! authentication:
//!
//! - [`extension`]: what an authentication middleware left in the request's
//!   extensions. The best choice where there is one.
//! - [`header`] and [`headers`]: a whole credential, such as an API key. It
//!   is digested, never stored. A credential that rotates (a short-lived
//!   bearer token) starts a new scope with each rotation: prefer the account.
//! - [`peer_ip`] and [`forwarded_ip`]: the network address. Callers behind
//!   one NAT share it.
//! - a closure from the request's head to a [`Caller`], or [`shared`], which
//!   says out loud that all callers are one.
//!
//! Several go in order of preference with [`Scope::or`]:
//!
//! ```
//! use tower_idempotency::scope::{self, Scope};
//!
//! # fn main() -> Result<(), tower_idempotency::ConfigError> {
//! let scope = scope::header("x-api-key")?.or(scope::peer_ip());
//! # Ok(())
//! # }
//! ```
//!
//! [`IdempotencyLayer::new`]: crate::IdempotencyLayer::new

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderName, HeaderValue};

use crate::display::{header_name, join_with};
use crate::error::ConfigError;
use crate::record::digest::{Digests, Label, sha256};
use crate::record::{ScopeDigest, unhex};

mod forwarded;

pub(crate) use forwarded::canonical;
pub use forwarded::{ForwardedHeader, ForwardedIp, forwarded_ip};

/// Tells callers apart.
///
/// Closures from the request's head to an `Option<Caller>` are scopes. A full
/// implementation looks like this:
///
/// ```
/// use std::borrow::Cow;
/// use http::request::Parts;
/// use tower_idempotency::scope::{Caller, Scope};
///
/// /// The tenant is the first label of the host name.
/// struct Subdomain;
///
/// impl Scope for Subdomain {
///     fn caller(&self, request: &Parts) -> Option<Caller> {
///         let host = request.headers.get("host")?.to_str().ok()?;
///         let (tenant, _) = host.split_once('.')?;
///         Some(Caller::new("subdomain", tenant))
///     }
///
///     fn describe(&self) -> Cow<'static, str> {
///         "the tenant whose host name is called".into()
///     }
/// }
/// ```
pub trait Scope: Send + Sync + 'static {
    /// The caller that sent this request, or `None` if it can't be told: the
    /// request is then refused with `scope-missing`.
    fn caller(&self, request: &Parts) -> Option<Caller>;

    /// Who a caller is, for the clients that read the contract
    /// (`IdempotencyLayer::contract`): what completes the sentence "A key belongs
    /// to …". Nothing secret.
    fn describe(&self) -> Cow<'static, str> {
        Cow::Borrowed("the caller, whom the application tells by a rule of its own")
    }

    /// The same as [`describe`](Self::describe), for a layer behind an authorizer
    /// that sets the request headers `verified`, whatever the client sends.
    ///
    /// No part of the API: any release may change it.
    #[doc(hidden)]
    fn describe_verified(&self, verified: &[HeaderName]) -> Cow<'static, str> {
        let _ = verified;
        self.describe()
    }

    /// Whether every request has a caller, so that none is refused with
    /// `scope-missing`.
    fn always_finds(&self) -> bool {
        false
    }

    /// Asks `other` where this scope finds no caller.
    fn or<S: Scope>(self, other: S) -> Or<Self, S>
    where
        Self: Sized,
    {
        Or(self, other)
    }
}

impl<F> Scope for F
where
    F: Fn(&Parts) -> Option<Caller> + Send + Sync + 'static,
{
    fn caller(&self, request: &Parts) -> Option<Caller> {
        self(request)
    }
}

impl Scope for Box<dyn Scope> {
    fn caller(&self, request: &Parts) -> Option<Caller> {
        (**self).caller(request)
    }

    fn describe(&self) -> Cow<'static, str> {
        (**self).describe()
    }

    fn describe_verified(&self, verified: &[HeaderName]) -> Cow<'static, str> {
        (**self).describe_verified(verified)
    }

    fn always_finds(&self) -> bool {
        (**self).always_finds()
    }
}

impl Scope for Arc<dyn Scope> {
    fn caller(&self, request: &Parts) -> Option<Caller> {
        (**self).caller(request)
    }

    fn describe(&self) -> Cow<'static, str> {
        (**self).describe()
    }

    fn describe_verified(&self, verified: &[HeaderName]) -> Cow<'static, str> {
        (**self).describe_verified(verified)
    }

    fn always_finds(&self) -> bool {
        (**self).always_finds()
    }
}

/// A caller: a kind of id and its value. Equal values of different kinds are
/// different callers. Stored and logged only as a digest (G10).
#[derive(Clone)]
pub struct Caller {
    kind: Bytes,
    value: Value,
}

#[derive(Clone)]
enum Value {
    All,
    Header(HeaderValue),
    Headers(Vec<HeaderValue>),
    Ip(IpAddr),
    Text(String),
}

impl Caller {
    /// The caller of this `kind` (such as `"account"`) with this id.
    pub fn new(kind: &'static str, id: impl ToString) -> Self {
        Self {
            kind: Bytes::from_static(kind.as_bytes()),
            value: Value::Text(id.to_string()),
        }
    }

    pub(crate) fn digest(&self, digests: &Digests, namespace: &str) -> ScopeDigest {
        let mut hasher = digests.start(Label::Scope);
        // An application may name its kinds as it likes: none is a built-in one.
        let of_application = matches!(self.value, Value::Text(_));
        hasher
            .part(namespace.as_bytes())
            .number(usize::from(of_application))
            .part(&self.kind);
        match &self.value {
            Value::All => &mut hasher,
            Value::Header(value) => hasher.part(value.as_bytes()),
            Value::Headers(values) => {
                for value in values {
                    hasher.part(value.as_bytes());
                }
                &mut hasher
            }
            Value::Ip(IpAddr::V4(ip)) => hasher.part(&ip.octets()),
            Value::Ip(IpAddr::V6(ip)) => hasher.part(&ip.octets()),
            Value::Text(text) => hasher.part(text.as_bytes()),
        };
        ScopeDigest::from_bytes(hasher.finish())
    }
}

/// The kind; the value is redacted.
impl fmt::Debug for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Caller({}, ..)", String::from_utf8_lossy(&self.kind))
    }
}

/// All callers are one: every client that sends the same key gets the same
/// record. Right only where all clients are one party, such as a service
/// that a single backend calls.
#[must_use]
pub fn shared() -> Shared {
    Shared(())
}

/// See [`shared`].
#[derive(Clone, Debug)]
pub struct Shared(());

impl Scope for Shared {
    fn caller(&self, _: &Parts) -> Option<Caller> {
        Some(Caller {
            kind: Bytes::from_static(b"shared"),
            value: Value::All,
        })
    }

    fn describe(&self) -> Cow<'static, str> {
        Cow::Borrowed("everybody: all callers share their keys")
    }

    fn always_finds(&self) -> bool {
        true
    }
}

/// The value of one header, such as `x-api-key` or `authorization`.
///
/// A request with no such header, an empty one or more than one has no
/// caller.
///
/// # Errors
/// If `name` is not a header's name.
pub fn header(name: impl AsRef<str>) -> Result<Header, ConfigError> {
    headers([name])
}

/// The values of several headers that make up one credential: all of them
/// must be there, once each.
///
/// # Errors
/// If there is none, or one is not a header's name.
pub fn headers<N: AsRef<str>>(names: impl IntoIterator<Item = N>) -> Result<Header, ConfigError> {
    let names = names
        .into_iter()
        .map(|name| {
            let name = name.as_ref();
            HeaderName::from_bytes(name.as_bytes()).map_err(|error| {
                ConfigError::new(
                    "scope",
                    format!("names `{name}`, which is not a header's name"),
                )
                .caused_by(error)
            })
        })
        .collect::<Result<Vec<HeaderName>, _>>()?;
    if names.is_empty() {
        return Err(ConfigError::new("scope", "names no header"));
    }
    let list: Vec<_> = names.iter().map(HeaderName::as_str).collect();
    Ok(Header {
        kind: Bytes::from(format!("header:{}", list.join(","))),
        names,
        known: None,
    })
}

/// See [`header`] and [`headers`].
#[derive(Clone)]
pub struct Header {
    kind: Bytes,
    names: Vec<HeaderName>,
    known: Option<HashSet<[u8; 32]>>,
}

impl Header {
    /// Only credentials whose SHA-256 is listed (64 hex digits each) are
    /// callers; a request with any other falls through to the next scope, or
    /// has none. Of several headers, the values are joined by newlines.
    ///
    /// # Errors
    /// If an entry is not a SHA-256 in hex.
    pub fn known_sha256<D: AsRef<str>>(
        mut self,
        digests: impl IntoIterator<Item = D>,
    ) -> Result<Self, ConfigError> {
        let known = digests
            .into_iter()
            .map(|digest| {
                unhex(digest.as_ref()).ok_or_else(|| {
                    ConfigError::new("scope", "lists a known value that is not a SHA-256 in hex")
                })
            })
            .collect::<Result<_, _>>()?;
        self.known = Some(known);
        Ok(self)
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
        if let Some(known) = &self.known {
            let digest = match &value {
                Value::Headers(values) => {
                    let values: Vec<_> = values.iter().map(HeaderValue::as_bytes).collect();
                    sha256(&values.join(&b'\n'))
                }
                Value::Header(value) => sha256(value.as_bytes()),
                Value::All | Value::Ip(_) | Value::Text(_) => return None,
            };
            if !known.contains(&digest) {
                return None;
            }
        }
        Some(Caller {
            kind: self.kind.clone(),
            value,
        })
    }

    fn describe(&self) -> Cow<'static, str> {
        self.describe_verified(&[])
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
}

/// What a middleware further out left in the request's extensions as a `T`:
/// the account, the tenant, the API key's id. `kind` keeps two such scopes
/// apart.
///
/// ```
/// use tower_idempotency::scope;
///
/// #[derive(Clone)]
/// struct Account { id: u64 }
///
/// let scope = scope::extension("account", |account: &Account| account.id);
/// ```
pub fn extension<T, V>(
    kind: &'static str,
    id: impl Fn(&T) -> V + Send + Sync + 'static,
) -> impl Scope
where
    T: Send + Sync + 'static,
    V: ToString,
{
    Extension {
        kind,
        caller: move |request: &Parts| {
            let found = request.extensions.get::<T>()?;
            Some(Caller::new(kind, id(found)))
        },
    }
}

struct Extension<F> {
    kind: &'static str,
    caller: F,
}

impl<F: Scope> Scope for Extension<F> {
    fn caller(&self, request: &Parts) -> Option<Caller> {
        self.caller.caller(request)
    }

    fn describe(&self) -> Cow<'static, str> {
        Cow::Owned(format!("whoever has the same `{}`", self.kind))
    }
}

/// The address of the connection, as an extension: axum's
/// `into_make_service_with_connect_info` puts its own there (read under the
/// feature `axum`); whoever serves with hyper inserts this.
#[derive(Clone, Copy, Debug)]
pub struct PeerAddr(pub SocketAddr);

/// The address of the connection: [`PeerAddr`] or, under the feature `axum`,
/// `ConnectInfo<SocketAddr>`. No header is believed.
#[must_use]
pub fn peer_ip() -> PeerIp {
    PeerIp(())
}

/// See [`peer_ip`].
#[derive(Clone, Debug)]
pub struct PeerIp(());

impl Scope for PeerIp {
    fn caller(&self, request: &Parts) -> Option<Caller> {
        peer(request).map(ip_caller)
    }

    fn describe(&self) -> Cow<'static, str> {
        Cow::Borrowed("whoever calls from the same address")
    }
}

fn ip_caller(ip: IpAddr) -> Caller {
    Caller {
        kind: Bytes::from_static(b"ip"),
        value: Value::Ip(ip),
    }
}

fn peer(request: &Parts) -> Option<IpAddr> {
    let own = request.extensions.get::<PeerAddr>().map(|peer| peer.0);
    #[cfg(feature = "axum")]
    let own = own.or_else(|| {
        let info = request
            .extensions
            .get::<axum::extract::ConnectInfo<SocketAddr>>()?;
        Some(info.0)
    });
    own.map(|address| address.ip().to_canonical())
}

/// The first scope that finds a caller. See [`Scope::or`].
#[derive(Clone, Debug)]
pub struct Or<A, B>(A, B);

impl<A: Scope, B: Scope> Scope for Or<A, B> {
    fn caller(&self, request: &Parts) -> Option<Caller> {
        self.0.caller(request).or_else(|| self.1.caller(request))
    }

    fn describe(&self) -> Cow<'static, str> {
        self.describe_verified(&[])
    }

    fn describe_verified(&self, verified: &[HeaderName]) -> Cow<'static, str> {
        let first = self.0.describe_verified(verified);
        let second = self.1.describe_verified(verified);
        Cow::Owned(format!("{first}, or else to {second}"))
    }

    fn always_finds(&self) -> bool {
        self.0.always_finds() || self.1.always_finds()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Hex;

    pub(super) fn request(headers: &[(&str, &str)]) -> Parts {
        let mut request = http::Request::new(());
        for (name, value) in headers {
            let name: HeaderName = name.parse().unwrap();
            request.headers_mut().append(name, value.parse().unwrap());
        }
        request.into_parts().0
    }

    pub(super) fn from(peer: &str, headers: &[(&str, &str)]) -> Parts {
        let mut parts = request(headers);
        parts
            .extensions
            .insert(PeerAddr(SocketAddr::new(peer.parse().unwrap(), 1)));
        parts
    }

    pub(super) fn id(scope: &impl Scope, parts: &Parts) -> Option<ScopeDigest> {
        scope
            .caller(parts)
            .map(|caller| caller.digest(&Digests::plain(), ""))
    }

    #[test]
    fn a_header_is_one_whole_value() {
        let scope = header("X-Api-Key").unwrap();
        let a = id(&scope, &request(&[("x-api-key", "a")]));
        assert!(a.is_some());
        assert_ne!(a, id(&scope, &request(&[("x-api-key", "b")])));
        assert_eq!(id(&scope, &request(&[])), None);
        assert_eq!(id(&scope, &request(&[("x-api-key", "")])), None);
        assert_eq!(
            id(&scope, &request(&[("x-api-key", "a"), ("x-api-key", "b")])),
            None
        );
        assert_eq!(header("not a name").unwrap_err().option(), "scope");
        assert!(headers(Vec::<String>::new()).is_err());
    }

    #[test]
    fn several_headers_must_all_be_there() {
        let scope = headers(["x-user", "x-tenant"]).unwrap();
        let ab = id(&scope, &request(&[("x-user", "a"), ("x-tenant", "b")]));
        assert!(ab.is_some());
        assert_ne!(
            ab,
            id(&scope, &request(&[("x-user", "ab"), ("x-tenant", "")]))
        );
        assert_ne!(
            ab,
            id(&scope, &request(&[("x-user", "b"), ("x-tenant", "a")]))
        );
        assert_eq!(id(&scope, &request(&[("x-user", "a")])), None);
    }

    #[test]
    fn only_known_values_are_callers() {
        let known = Hex(&sha256(b"secret")).to_string();
        let scope = header("x-api-key").unwrap().known_sha256([&known]).unwrap();
        assert!(id(&scope, &request(&[("x-api-key", "secret")])).is_some());
        assert_eq!(id(&scope, &request(&[("x-api-key", "guess")])), None);
        let known = Hex(&sha256(b"a\nb")).to_string().to_uppercase();
        let both = headers(["x-a", "x-b"])
            .unwrap()
            .known_sha256([known])
            .unwrap();
        assert!(id(&both, &request(&[("x-a", "a"), ("x-b", "b")])).is_some());
        assert_eq!(id(&both, &request(&[("x-a", "a"), ("x-b", "c")])), None);
        assert!(header("a").unwrap().known_sha256(["zz"]).is_err());
        assert!(header("a").unwrap().known_sha256(["z".repeat(64)]).is_err());
    }

    #[test]
    fn equal_values_of_different_kinds_are_different_callers() {
        let ip = id(&peer_ip(), &from("192.0.2.1", &[]));
        let key = header("x-api-key").unwrap();
        assert_ne!(ip, id(&key, &request(&[("x-api-key", "192.0.2.1")])));
        let account = |_: &Parts| Some(Caller::new("account", 1));
        let tenant = |_: &Parts| Some(Caller::new("tenant", 1));
        assert_ne!(id(&account, &request(&[])), id(&tenant, &request(&[])));
    }

    #[test]
    fn the_first_scope_that_finds_a_caller_wins() {
        let scope = header("x-api-key").unwrap().or(peer_ip());
        let both = from("192.0.2.1", &[("x-api-key", "a")]);
        assert_eq!(id(&scope, &both), id(&header("x-api-key").unwrap(), &both));
        let anonymous = from("192.0.2.1", &[]);
        assert_eq!(id(&scope, &anonymous), id(&peer_ip(), &anonymous));
        assert_eq!(id(&scope, &request(&[])), None);
        let boxed: Box<dyn Scope> = Box::new(peer_ip());
        assert_eq!(id(&boxed, &anonymous), id(&peer_ip(), &anonymous));
        let counted: Arc<dyn Scope> = Arc::new(shared());
        assert_eq!(id(&counted, &anonymous), id(&shared(), &request(&[])));
    }

    #[test]
    fn extensions_are_read_by_type() {
        #[derive(Clone)]
        struct Account(u64);
        let scope = extension("account", |account: &Account| account.0);
        let mut parts = request(&[]);
        assert_eq!(id(&scope, &parts), None);
        parts.extensions.insert(Account(7));
        let seven = id(&scope, &parts);
        parts.extensions.insert(Account(8));
        assert!(seven.is_some() && seven != id(&scope, &parts));
    }

    #[test]
    fn ipv4_is_one_caller_in_either_notation() {
        assert_eq!(
            id(&peer_ip(), &from("::ffff:192.0.2.1", &[])),
            id(&peer_ip(), &from("192.0.2.1", &[]))
        );
    }

    #[test]
    fn an_applications_kind_is_never_a_built_in_one() {
        let own = |_: &Parts| Some(Caller::new("ip", "abcd"));
        assert_ne!(
            id(&own, &request(&[])),
            id(&peer_ip(), &from("97.98.99.100", &[]))
        );
        let own = |_: &Parts| Some(Caller::new("shared", ""));
        assert_ne!(id(&own, &request(&[])), id(&shared(), &request(&[])));
    }

    #[test]
    fn debug_redacts_values() {
        let scope = header("x-api-key").unwrap();
        let caller = scope.caller(&request(&[("x-api-key", "hush")])).unwrap();
        assert_eq!(format!("{caller:?}"), "Caller(header:x-api-key, ..)");
    }
}
