//! The headers that the sidecar changes in a message that it forwards.

use std::io::Write as _;
use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{
    AGE, CACHE_CONTROL, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE,
    CONTENT_SECURITY_POLICY, CONTENT_TYPE, COOKIE, DATE, EXPECT, EXPIRES, FORWARDED, HOST,
    HeaderMap, HeaderName, HeaderValue, LOCATION, MAX_FORWARDS, PROXY_AUTHENTICATE, RETRY_AFTER,
    SET_COOKIE, STRICT_TRANSPORT_SECURITY, TE, TRAILER, UPGRADE, VARY, VIA, WWW_AUTHENTICATE,
};
use http::{Method, Version, request};
use ipnet::IpNet;

use tower_idempotency::for_sidecar::HOP_BY_HOP;

use crate::front::Peer;

pub(crate) const ATTEMPT: HeaderName = HeaderName::from_static("idempotency-attempt");
pub(crate) const FENCING_TOKEN: HeaderName = HeaderName::from_static("idempotency-fencing-token");
pub(crate) const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

const FRAMING: [HeaderName; 7] = [
    CONTENT_ENCODING,
    CONTENT_LENGTH,
    CONTENT_RANGE,
    CONTENT_TYPE,
    EXPECT,
    HOST,
    TRAILER,
];

/// Response headers that say what the client does next, or with later requests.
const CONTROL: [HeaderName; 12] = [
    AGE,
    CACHE_CONTROL,
    CONTENT_SECURITY_POLICY,
    DATE,
    EXPIRES,
    LOCATION,
    PROXY_AUTHENTICATE,
    RETRY_AFTER,
    SET_COOKIE,
    STRICT_TRANSPORT_SECURITY,
    VARY,
    WWW_AUTHENTICATE,
];

/// A part of an offer of h2c, which concerns one connection (RFC 7540, section 3.2.1).
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");

/// Removes the headers of one connection. Returns the protocol of an `Upgrade`, so that the
/// caller can ask for it on the next connection.
pub(crate) fn strip_hop_by_hop(headers: &mut HeaderMap) -> Option<HeaderValue> {
    let named: Vec<HeaderName> = tokens(headers, &CONNECTION)
        // `Connection: host` would remove the host and so change the target.
        .filter(|name| !name.eq_ignore_ascii_case("host"))
        .filter_map(|name| name.parse().ok())
        .collect();
    let upgrade = named
        .contains(&UPGRADE)
        .then(|| headers.get(UPGRADE).cloned())
        .flatten();
    let trailers = tokens(headers, &TE).any(|coding| coding.eq_ignore_ascii_case("trailers"));
    for name in HOP_BY_HOP.iter().chain([&HTTP2_SETTINGS]).chain(&named) {
        headers.remove(name);
    }
    if trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    upgrade
}

/// Whether a connection may become a tunnel for this protocol. A tunnel for another version
/// of HTTP would carry requests past the layer.
pub(crate) fn can_be_tunnelled(protocol: &HeaderValue) -> bool {
    protocol.to_str().is_ok_and(|protocols| {
        protocols.split(',').all(|protocol| {
            let name = protocol.split('/').next().unwrap_or_default().trim();
            !["", "h2c", "h2", "http", "tls"]
                .iter()
                .any(|http| name.eq_ignore_ascii_case(http))
        })
    })
}

/// The members of a comma-separated list, in all lines of the header.
pub(crate) fn tokens<'a>(
    headers: &'a HeaderMap,
    name: &HeaderName,
) -> impl Iterator<Item = &'a str> {
    headers
        .get_all(name)
        .iter()
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(','))
        .map(str::trim)
}

/// Whether `tokens` leaves out a line of this header, since the line is not ASCII.
pub(crate) fn has_unread_line(headers: &HeaderMap, name: &HeaderName) -> bool {
    let mut lines = headers.get_all(name).iter();
    lines.any(|line| line.to_str().is_err())
}

/// The headers that only the sidecar sets: they are removed from what a client sends.
#[derive(Clone, Debug)]
pub(crate) struct ReservedHeaders {
    own: Arc<[HeaderName]>,
    /// The headers by which the layer has already decided when trailers arrive.
    read: Arc<[HeaderName]>,
}

impl ReservedHeaders {
    pub(crate) fn new(of_authoriser: &[HeaderName]) -> Self {
        let own = [ATTEMPT, FENCING_TOKEN];
        Self {
            own: own.iter().chain(of_authoriser).cloned().collect(),
            read: Arc::default(),
        }
    }

    /// `names` are the headers that the layer reads in heads.
    pub(crate) fn with_read(mut self, names: Vec<HeaderName>) -> Self {
        self.read = names.into();
        self
    }

    pub(crate) fn strip_from(&self, headers: &mut HeaderMap) {
        remove_spellings(headers, &self.own);
    }

    pub(crate) fn has(&self, name: &HeaderName) -> bool {
        self.own
            .iter()
            .any(|own| reads_as(name.as_str(), own.as_str()))
    }

    /// Removes from trailers what a head alone may say, since some servers merge trailers into the
    /// head (RFC 9110, section 6.5.1): the reserved headers, those that the layer reads, and every
    /// header that says how the request is read, where it goes, or on whose authority.
    pub(crate) fn strip_from_trailers(&self, trailers: &mut HeaderMap) {
        self.strip_from(trailers);
        remove_spellings(trailers, &self.read);
        remove_framing(trailers);
        remove_where(trailers, |name| names_the_client(name) || commands(name));
    }
}

/// Whether a request header of this name routes the request, changes what is asked, or gives it
/// authority. Names of credentials are the applications' own; most contain one of these words.
fn commands(name: &HeaderName) -> bool {
    let name = name.as_str().replace('_', "-");
    let words = [
        "api-key", "apikey", "auth", "cookie", "csrf", "password", "secret", "session", "token",
        "xsrf",
    ];
    let starts = [
        "if-",
        "x-account",
        "x-api",
        "x-client",
        "x-http-method",
        "x-method",
        "x-original",
        "x-real",
        "x-rewrite",
        "x-tenant",
        "x-user",
    ];
    let names = [
        "cache-control",
        "max-forwards",
        "origin",
        "pragma",
        "range",
        "referer",
        "via",
    ];
    names.contains(&&*name)
        || starts.iter().any(|start| name.starts_with(start))
        || words.iter().any(|word| name.contains(word))
}

/// Removes from trailers what belongs to one connection, and what says how the message is read.
fn remove_framing(trailers: &mut HeaderMap) {
    remove_spellings(trailers, &HOP_BY_HOP);
    remove_spellings(trailers, &[HTTP2_SETTINGS]);
    remove_spellings(trailers, &FRAMING);
}

/// Whether this is `Forwarded` or a header that begins with `X-Forwarded-`.
fn names_the_client(name: &HeaderName) -> bool {
    let name = name.as_str();
    *name == FORWARDED
        || name
            .get(.."x-forwarded-".len())
            .is_some_and(|start| reads_as(start, "x-forwarded-"))
}

/// Removes these headers in every spelling that CGI-like interfaces read as the same name.
pub(crate) fn remove_spellings(headers: &mut HeaderMap, names: &[HeaderName]) {
    remove_where(headers, |name| {
        names
            .iter()
            .any(|own| reads_as(name.as_str(), own.as_str()))
    });
}

/// WSGI, Rack and PHP read `X-Account` and `X_Account` as the same name.
fn reads_as(name: &str, other: &str) -> bool {
    let plain = |byte| if byte == b'_' { b'-' } else { byte };
    name.len() == other.len()
        && name
            .bytes()
            .zip(other.bytes())
            .all(|(one, other)| plain(one) == plain(other))
}

fn remove_where(headers: &mut HeaderMap, is_removed: impl Fn(&HeaderName) -> bool) {
    let removed: Vec<_> = headers
        .keys()
        .filter(|name| is_removed(name))
        .cloned()
        .collect();
    for name in removed {
        headers.remove(name);
    }
}

/// Counts `Max-Forwards` down. Returns `false` if the request must not be forwarded (RFC 9110,
/// 7.6.2).
pub(crate) fn may_be_forwarded(parts: &mut request::Parts) -> bool {
    if !matches!(parts.method, Method::OPTIONS | Method::TRACE) {
        return true;
    }
    let sent = parts.headers.get(MAX_FORWARDS);
    let hops = sent.and_then(|hops| hops.to_str().ok()?.parse::<u64>().ok());
    match hops {
        Some(0) => false,
        Some(hops) => {
            parts.headers.insert(MAX_FORWARDS, (hops - 1).into());
            true
        }
        None => true,
    }
}

/// Sets `X-Forwarded-For`, `-Proto` and `-Host`, which tell the upstream who sent the request.
///
/// Returns whether a peer that is not trusted named another client. A client may do so, or a proxy
/// that the file does not list.
pub(crate) fn forward(parts: &mut request::Parts, peer: Peer, trusted: &[IpNet]) -> bool {
    let headers = &mut parts.headers;
    let ip = peer.address.ip().to_canonical();
    let is_trusted = trusted.iter().any(|network| network.contains(&ip));
    let mut is_disbelieved = false;
    if !is_trusted {
        is_disbelieved = headers.contains_key(FORWARDED_FOR) || headers.contains_key(FORWARDED);
        remove_where(headers, names_the_client);
    }
    let from = from(headers, ip);
    headers.insert(FORWARDED_FOR, from);
    headers
        .entry(FORWARDED_PROTO)
        .or_insert(HeaderValue::from_static(if peer.is_tls {
            "https"
        } else {
            "http"
        }));
    if !headers.contains_key(FORWARDED_HOST)
        && let Some(host) = headers.get(HOST).cloned()
    {
        headers.insert(FORWARDED_HOST, host);
    }
    is_disbelieved
}

/// Whose turn a request without protection takes: that of the client that the trusted proxies name.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ClientAddr(pub(crate) IpAddr);

/// The client by `X-Forwarded-For`, as `forward` has set that header: the last address that is not one
/// of the trusted proxies, or the first if all are.
pub(crate) fn client(headers: &HeaderMap, peer: Peer, trusted: &[IpNet]) -> ClientAddr {
    let mut client = peer.address.ip().to_canonical();
    let named: Vec<_> = tokens(headers, &FORWARDED_FOR).collect();
    for address in named.into_iter().rev() {
        let is_trusted = trusted.iter().any(|network| network.contains(&client));
        match address.parse::<IpAddr>() {
            Ok(address) if is_trusted => client = address.to_canonical(),
            _ => break,
        }
    }
    ClientAddr(client)
}

/// Adds the sidecar to the intermediaries that `Via` lists (RFC 9110, 7.6.3).
pub(crate) fn sign(parts: &mut request::Parts) {
    let via = match parts.version {
        Version::HTTP_10 => "1.0 idempotency-sidecar",
        Version::HTTP_2 => "2 idempotency-sidecar",
        _ => "1.1 idempotency-sidecar",
    };
    parts.headers.append(VIA, HeaderValue::from_static(via));
}

/// The addresses that a trusted proxy named, then the peer's own.
fn from(headers: &HeaderMap, peer: IpAddr) -> HeaderValue {
    let mut addresses = Vec::with_capacity(48);
    for line in headers.get_all(FORWARDED_FOR) {
        addresses.extend_from_slice(line.as_bytes());
        addresses.extend_from_slice(b", ");
    }
    write!(addresses, "{peer}").expect("a vector takes all");
    HeaderValue::from_maybe_shared(Bytes::from(addresses))
        .expect("made of header values and an address")
}

/// Joins the `Cookie` headers into one: HTTP/2 may split cookies, HTTP/1.1 may not
/// (RFC 9113, section 8.2.3).
pub(crate) fn join_cookies(headers: &mut HeaderMap) {
    if headers.get_all(COOKIE).iter().nth(1).is_none() {
        return;
    }
    let lines: Vec<_> = headers
        .get_all(COOKIE)
        .iter()
        .map(HeaderValue::as_bytes)
        .collect();
    let joined = HeaderValue::from_bytes(&lines.join(&b"; "[..]));
    headers.insert(COOKIE, joined.expect("made of header values"));
}

/// The headers that the layer adds to responses. The sidecar removes them from responses of the
/// upstream, so that clients can rely on them.
#[derive(Clone, Debug)]
pub(crate) struct LayerHeaders(Arc<[HeaderName]>);

impl LayerHeaders {
    pub(crate) fn new(names: Vec<HeaderName>) -> Self {
        Self(names.into())
    }

    pub(crate) fn strip_from(&self, headers: &mut HeaderMap) {
        remove_where(headers, |name| {
            name.as_str().starts_with("idempotency-") || self.0.contains(name)
        });
    }

    /// Removes from trailers what a head alone may say (RFC 9110, section 6.5.1): the layer's
    /// headers, and those that say how the response is read or what the client does with it.
    pub(crate) fn strip_from_trailers(&self, trailers: &mut HeaderMap) {
        self.strip_from(trailers);
        remove_framing(trailers);
        remove_where(trailers, |name| {
            CONTROL.contains(name) || name.as_str().starts_with("access-control-")
        });
    }
}
