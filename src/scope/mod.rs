//! Who a key belongs to (G6).
//!
//! Two callers that both send `Idempotency-Key: 1` must never get each other's responses. A key
//! therefore counts only together with its caller, and the scope, which finds the caller of a
//! request, is an argument of [`IdempotencyLayer::new`] without a default. A scope should return
//! a stable id of a *verified* caller, so put the layer inside authentication:
//!
//! - [`extension()`]: what an authentication middleware left in the request's extensions. Prefer
//!   this scope where there is such a middleware.
//! - [`header()`] and [`headers`]: a whole credential, such as an API key. Only its digest is
//!   stored. A credential that rotates (a short-lived bearer token) becomes another caller with
//!   each rotation: prefer the account.
//! - [`peer_ip`] and [`forwarded_ip`]: the network address. Callers behind one NAT share it.
//! - a closure from the request's head to a [`Caller`].
//! - [`shared`]: all callers are one.
//!
//! [`Scope::or`] names a second scope for requests in which the first finds no caller:
//!
//! ```
//! use tower_idempotency::scope::{self, Scope};
//!
//! let scope = scope::header("x-api-key").or(scope::peer_ip());
//! ```
//!
//! What is wrong with a scope, such as `header("no spaces")`, is an error when the layer is built.
//!
//! May use: `record`, and the leaves `display` and `error`.
//!
//! [`IdempotencyLayer::new`]: crate::IdempotencyLayer::new

use std::borrow::Cow;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderName, HeaderValue};

use crate::error::ConfigError;
use crate::record::ScopeDigest;
use crate::record::digest::{Digests, Label};

mod address;
mod extension;
mod forwarded;
mod header;
mod peer;

pub use extension::{Extension, extension};
pub(crate) use forwarded::canonical;
pub use forwarded::{ForwardedHeader, ForwardedIp, forwarded_ip};
pub use header::{Header, header, headers};
pub use peer::{PeerAddr, PeerIp, peer_ip};

/// Finds the caller of a request.
///
/// Closures from the request's head to an `Option<Caller>` are scopes. A full implementation
/// looks like this:
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
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not tell whose a key is: it is no `Scope`",
    label = "not a scope",
    note = "scopes are `scope::header(\"x-api-key\")`, `scope::extension(..)` and the others in `tower_idempotency::scope`, \
            and closures `|request: &http::request::Parts| -> Option<Caller>`",
    note = "if this is a `Result`, put `?` behind it"
)]
pub trait Scope: Send + Sync + 'static {
    /// Returns the caller that sent this request. A request without a caller is rejected with
    /// `scope-missing`.
    fn caller(&self, request: &Parts) -> Option<Caller>;

    /// Completes the sentence "A key belongs to …" in the contract (`IdempotencyLayer::contract`),
    /// which an API's clients read. The text must hold nothing secret.
    fn describe(&self) -> Cow<'static, str> {
        Cow::Borrowed("the caller, whom the application tells by a rule of its own")
    }

    /// The same as [`describe`](Self::describe), for a layer behind an authorizer that sets the
    /// request headers `verified`, whatever the client sends.
    ///
    /// No part of the API: any release may change it.
    #[doc(hidden)]
    fn describe_verified(&self, verified: &[HeaderName]) -> Cow<'static, str> {
        let _ = verified;
        self.describe()
    }

    /// The request headers in which this scope looks for the caller.
    ///
    /// No part of the API: any release may change it.
    #[doc(hidden)]
    fn headers(&self) -> Vec<HeaderName> {
        Vec::new()
    }

    /// Whether all callers are one, so that no caller has a share of what a layer holds.
    ///
    /// No part of the API: any release may change it.
    #[doc(hidden)]
    fn is_everyone(&self) -> bool {
        false
    }

    /// Whether every request has a caller, so that none is rejected with `scope-missing`.
    fn always_finds(&self) -> bool {
        false
    }

    /// Returns what is wrong with this scope. The layer asks when it is built; a scope that wraps
    /// another one passes the question on.
    ///
    /// # Errors
    /// If the scope was made with a value that can't work.
    fn check(&self) -> Result<(), ConfigError> {
        Ok(())
    }

    /// For a request without a caller: says which mistake of the application can be the cause, if
    /// one can. The layer logs this text.
    fn mistake(&self, request: &Parts) -> Option<Cow<'static, str>> {
        let _ = request;
        None
    }

    /// The callers that a person may mean by `caller`, who looks for one of their records
    /// ([`Records::find`](crate::Records::find)): the text is what the request has where this scope looks.
    /// The default knows none.
    fn named(&self, caller: &str) -> Vec<Caller> {
        let _ = caller;
        Vec::new()
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

/// A pointer to a scope is a scope.
macro_rules! pointer {
    ($pointer:ty) => {
        impl Scope for $pointer {
            fn caller(&self, request: &Parts) -> Option<Caller> {
                (**self).caller(request)
            }

            fn describe(&self) -> Cow<'static, str> {
                (**self).describe()
            }

            fn describe_verified(&self, verified: &[HeaderName]) -> Cow<'static, str> {
                (**self).describe_verified(verified)
            }

            fn headers(&self) -> Vec<HeaderName> {
                (**self).headers()
            }

            fn is_everyone(&self) -> bool {
                (**self).is_everyone()
            }

            fn always_finds(&self) -> bool {
                (**self).always_finds()
            }

            fn check(&self) -> Result<(), ConfigError> {
                (**self).check()
            }

            fn mistake(&self, request: &Parts) -> Option<Cow<'static, str>> {
                (**self).mistake(request)
            }

            fn named(&self, caller: &str) -> Vec<Caller> {
                (**self).named(caller)
            }
        }
    };
}

pointer!(Box<dyn Scope>);
pointer!(Arc<dyn Scope>);

/// A caller: a kind of id and its value. Equal values of different kinds are different callers.
/// Stores and logs get only its digest (G10).
#[derive(Clone)]
pub struct Caller {
    kind: Bytes,
    value: Value,
}

#[derive(Clone)]
enum Value {
    Everyone,
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

    /// Whether all callers are one.
    pub(crate) fn is_everyone(&self) -> bool {
        matches!(self.value, Value::Everyone)
    }

    pub(crate) fn digest(&self, digests: &Digests, namespace: &str) -> ScopeDigest {
        let mut hasher = digests.start(Label::Scope);
        // This number keeps the kinds that an application chooses apart from the built-in ones.
        let of_application = matches!(self.value, Value::Text(_));
        hasher
            .part(namespace.as_bytes())
            .number(usize::from(of_application))
            .part(&self.kind);
        match &self.value {
            Value::Everyone => &mut hasher,
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

/// Shows the kind; the value is redacted.
impl fmt::Debug for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Caller({}, ..)", String::from_utf8_lossy(&self.kind))
    }
}

/// All callers are one: every client that sends the same key gets the same record. Right only
/// where all clients are one party, such as a service that a single backend calls.
#[must_use]
pub fn shared() -> Everyone {
    Everyone(())
}

/// The scope that [`shared`] returns.
#[derive(Clone, Debug)]
pub struct Everyone(());

impl Scope for Everyone {
    fn caller(&self, _: &Parts) -> Option<Caller> {
        Some(Caller {
            kind: Bytes::from_static(b"shared"),
            value: Value::Everyone,
        })
    }

    fn named(&self, _: &str) -> Vec<Caller> {
        vec![Caller {
            kind: Bytes::from_static(b"shared"),
            value: Value::Everyone,
        }]
    }

    fn describe(&self) -> Cow<'static, str> {
        Cow::Borrowed("everybody: all callers share their keys")
    }

    fn is_everyone(&self) -> bool {
        true
    }

    fn always_finds(&self) -> bool {
        true
    }
}

/// Two scopes: the second is asked where the first finds no caller. See [`Scope::or`].
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

    fn headers(&self) -> Vec<HeaderName> {
        [self.0.headers(), self.1.headers()].concat()
    }

    fn always_finds(&self) -> bool {
        self.0.always_finds() || self.1.always_finds()
    }

    fn check(&self) -> Result<(), ConfigError> {
        self.0.check().and_then(|()| self.1.check())
    }

    fn mistake(&self, request: &Parts) -> Option<Cow<'static, str>> {
        self.0.mistake(request).or_else(|| self.1.mistake(request))
    }

    fn named(&self, caller: &str) -> Vec<Caller> {
        let mut callers = self.0.named(caller);
        callers.extend(self.1.named(caller));
        callers
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::record::Hex;
    use crate::record::digest::sha256;

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
        let scope = header("X-Api-Key");
        let a = id(&scope, &request(&[("x-api-key", "a")]));
        assert!(a.is_some());
        assert_ne!(a, id(&scope, &request(&[("x-api-key", "b")])));
        assert_eq!(id(&scope, &request(&[])), None);
        assert_eq!(id(&scope, &request(&[("x-api-key", "")])), None);
        assert_eq!(
            id(&scope, &request(&[("x-api-key", "a"), ("x-api-key", "b")])),
            None
        );
        assert_eq!(header("not a name").check().unwrap_err().option(), "scope");
        assert!(headers(Vec::<String>::new()).check().is_err());
    }

    #[test]
    fn several_headers_must_all_be_there() {
        let scope = headers(["x-user", "x-tenant"]);
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
        let scope = header("x-api-key").known_sha256([&known]);
        assert!(id(&scope, &request(&[("x-api-key", "secret")])).is_some());
        assert_eq!(id(&scope, &request(&[("x-api-key", "guess")])), None);
        let known = Hex(&sha256(b"a\nb")).to_string().to_uppercase();
        let both = headers(["x-a", "x-b"]).known_sha256([known]);
        assert!(id(&both, &request(&[("x-a", "a"), ("x-b", "b")])).is_some());
        assert_eq!(id(&both, &request(&[("x-a", "a"), ("x-b", "c")])), None);
        assert!(header("a").known_sha256(["zz"]).check().is_err());
        assert!(header("a").known_sha256(["z".repeat(64)]).check().is_err());
    }

    #[test]
    fn equal_values_of_different_kinds_are_different_callers() {
        let ip = id(&peer_ip(), &from("192.0.2.1", &[]));
        let key = header("x-api-key");
        assert_ne!(ip, id(&key, &request(&[("x-api-key", "192.0.2.1")])));
        let account = |_: &Parts| Some(Caller::new("account", 1));
        let tenant = |_: &Parts| Some(Caller::new("tenant", 1));
        assert_ne!(id(&account, &request(&[])), id(&tenant, &request(&[])));
    }

    #[test]
    fn the_first_scope_that_finds_a_caller_wins() {
        let scope = header("x-api-key").or(peer_ip());
        let both = from("192.0.2.1", &[("x-api-key", "a")]);
        assert_eq!(id(&scope, &both), id(&header("x-api-key"), &both));
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
        let scope = header("x-api-key");
        let caller = scope.caller(&request(&[("x-api-key", "hush")])).unwrap();
        assert_eq!(format!("{caller:?}"), "Caller(header:x-api-key, ..)");
    }

    #[test]
    fn an_error_of_any_part_of_a_scope_is_its_error() {
        let wrong = || header("not a name");
        let boxed: Box<dyn Scope> = Box::new(wrong());
        let shared_pointer: Arc<dyn Scope> = Arc::new(boxed.or(shared()));
        for scope in [shared_pointer, Arc::new(peer_ip().or(wrong()))] {
            let error = scope.check().unwrap_err().to_string();
            assert_eq!(
                error,
                "`scope` names `not a name`, which is not a header's name"
            );
        }
        assert!(header("a").or(peer_ip()).check().is_ok());
    }

    #[test]
    fn a_mistake_of_the_application_is_told_from_one_of_the_client() {
        struct Claims;
        let claims = extension("account", |_: &Claims| 1);
        let mistake = claims
            .clone()
            .or(header("a"))
            .mistake(&request(&[]))
            .unwrap();
        assert!(
            mistake.starts_with("no `tower_idempotency::scope::tests::"),
            "{mistake}"
        );
        assert!(
            mistake
                .contains("Claims` in the request's extensions: put the layer inside what sets it")
        );
        let boxed: Box<dyn Scope> = Box::new(peer_ip());
        assert!(boxed.mistake(&request(&[])).unwrap().contains("`peer-ip`"));
        let proxies = forwarded_ip(ForwardedHeader::Forwarded, ["10.0.0.0/8"]);
        assert!(proxies.mistake(&request(&[])).is_some());
        assert_eq!(proxies.mistake(&from("10.0.0.1", &[])), None);
        assert_eq!(header("a").mistake(&request(&[])), None);
    }

    #[test]
    fn each_scope_says_who_its_callers_are() {
        let verified = [HeaderName::from_static("x-user")];
        let own = |_: &Parts| -> Option<Caller> { None };
        let pair = headers(["x-user", "x-tenant"]);
        let listed = header("x-key").known_sha256(Vec::<String>::new());
        let both_listed = headers(["x-a", "x-b"]).known_sha256(Vec::<String>::new());
        let proxies = forwarded_ip(ForwardedHeader::XForwardedFor, ["10.0.0.0/8"]);
        let boxed: Box<dyn Scope> = Box::new(header("x-user").or(peer_ip()));
        let rows: [(&dyn Scope, &str, &str); 9] = [
            (
                &own,
                "the caller, whom the application tells by a rule of its own",
                "the caller, whom the application tells by a rule of its own",
            ),
            (
                &header("x-user"),
                "whoever sends the same header `X-User`",
                "whoever is known to this API's authorisation by the same `X-User`",
            ),
            (
                &pair,
                "whoever sends the same headers `X-User` and `X-Tenant`",
                "whoever is known to this API's authorisation by the same `X-User` and sends the \
                 same header `X-Tenant`",
            ),
            (
                &listed,
                "whoever sends the same header `X-Key`, if its value is known",
                "whoever sends the same header `X-Key`, if its value is known",
            ),
            (
                &both_listed,
                "whoever sends the same headers `X-A` and `X-B`, if their values are known",
                "whoever sends the same headers `X-A` and `X-B`, if their values are known",
            ),
            (
                &proxies,
                "whoever calls from the same address, as this API's proxies give it in \
                 `X-Forwarded-For`",
                "whoever calls from the same address, as this API's proxies give it in \
                 `X-Forwarded-For`",
            ),
            (
                &boxed,
                "whoever sends the same header `X-User`, or else to whoever calls from the same \
                 address",
                "whoever is known to this API's authorisation by the same `X-User`, or else to \
                 whoever calls from the same address",
            ),
            (
                &extension("account", |account: &u64| *account),
                "whoever has the same `account`",
                "whoever has the same `account`",
            ),
            (
                &shared(),
                "everybody: all callers share their keys",
                "everybody: all callers share their keys",
            ),
        ];
        for (scope, described, behind_an_authorizer) in rows {
            assert_eq!(scope.describe(), described);
            assert_eq!(scope.describe_verified(&verified), behind_an_authorizer);
        }
    }

    #[test]
    fn a_scope_names_its_headers_and_whether_it_always_finds_a_caller() {
        let first = header("x-user").or(headers(["x-a", "x-b"]));
        assert_eq!(first.headers(), ["x-user", "x-a", "x-b"]);
        let boxed: Box<dyn Scope> = Box::new(first);
        assert_eq!(boxed.headers(), ["x-user", "x-a", "x-b"]);
        assert!(peer_ip().headers().is_empty());
        assert!(!boxed.always_finds());
        for always in [
            Box::new(header("a").or(shared())) as Box<dyn Scope>,
            Box::new(shared().or(header("a"))),
            Box::new(shared()),
        ] {
            assert!(always.always_finds());
        }
        assert!(!peer_ip().always_finds());
    }

    #[test]
    fn a_request_is_forwarded_if_it_names_another_address_than_its_connection() {
        let peer = "10.0.0.1".parse().unwrap();
        for (line, forwarded) in [
            ("192.0.2.9", true),
            ("10.0.0.1, 192.0.2.9", true),
            ("10.0.0.1", false),
            ("10.0.0.1,, 10.0.0.1", false),
        ] {
            let parts = request(&[("x-forwarded-for", line)]);
            assert_eq!(
                peer::is_forwarded(&parts.headers, peer),
                forwarded,
                "{line}"
            );
        }
        let parts = request(&[("forwarded", "for=10.0.0.1")]);
        assert!(peer::is_forwarded(&parts.headers, peer));
    }

    #[test]
    fn a_missing_address_is_mended_as_this_build_reads_it() {
        let mistake = peer_ip().mistake(&request(&[])).unwrap();
        let by_axum = mistake.contains("into_make_service_with_connect_info");
        assert_eq!(by_axum, cfg!(feature = "axum"), "{mistake}");
    }
}
