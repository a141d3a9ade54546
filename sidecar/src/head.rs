//! What the head of a request must be before it is forwarded: RFC 9112 for HTTP/1.1, RFC 9113 for
//! HTTP/2. hyper has refused what it cannot read at all.

use std::net::Ipv6Addr;

use http::header::{CONTENT_LENGTH, HOST, HeaderMap, HeaderValue, TRANSFER_ENCODING};
use http::{Method, Version, request};
use tower_idempotency::for_sidecar::{GatewayCode, Refusal};

use crate::forwarded::{has_unread_line, tokens};
use crate::problem::usual;

type Checked = Result<(), Refusal<'static>>;

/// Checks the head, and sets `Host` to the host that the request is for.
pub(crate) fn check(parts: &mut request::Parts) -> Checked {
    target(parts)?;
    host(parts)?;
    if parts.version == Version::HTTP_2 {
        return values(&parts.headers);
    }
    codings(&parts.headers)
}

fn malformed(detail: &'static str) -> Checked {
    Err(Refusal::new(GatewayCode::RequestMalformed, detail))
}

/// The target is a path, alone or behind a scheme and a host. `*` is the target of OPTIONS alone
/// (RFC 9112, 3.2; RFC 9113, 8.3.1).
fn target(parts: &request::Parts) -> Checked {
    // h2 takes an empty `:scheme` for one.
    if parts.uri.scheme_str().is_some_and(str::is_empty) {
        return malformed("A `:scheme` is not empty.");
    }
    let path = parts.uri.path();
    if path.starts_with('/') || path == "*" && parts.method == Method::OPTIONS {
        return Ok(());
    }
    let detail =
        "The target of a request is a path that begins with a slash, or, for OPTIONS, `*`.";
    malformed(detail)
}

/// A request has one `Host`, which is a host and perhaps a port (RFC 9112, 3.2). The host of the
/// target replaces `Host` in HTTP/1.1 (RFC 9112, 3.2.2), and is the same in HTTP/2 (RFC 9113,
/// 8.3.1). HTTP/1.0 knows no `Host`.
fn host(parts: &mut request::Parts) -> Checked {
    let refused = |detail| Err(Refusal::new(GatewayCode::HostInvalid, detail));
    let mut lines = parts.headers.get_all(HOST).iter();
    let sent = lines.next();
    if lines.next().is_some() {
        return refused("A request has one `Host`.");
    }
    if sent.is_some_and(|host| !is_host(host.as_bytes())) {
        return refused("`Host` is a host name or an address, and perhaps a port.");
    }
    let Some(authority) = parts.uri.authority() else {
        return match (sent, parts.version) {
            (None, Version::HTTP_10) | (Some(_), _) => Ok(()),
            (None, _) => refused("A request names its host."),
        };
    };
    let authority = authority.as_str();
    // An authority with credentials in front of its host is refused too (RFC 9110, 4.2.4).
    if !is_host(authority.as_bytes()) {
        return refused("The target's host is a host name or an address, and perhaps a port.");
    }
    match (sent, parts.version) {
        (Some(host), Version::HTTP_2)
            if !host.as_bytes().eq_ignore_ascii_case(authority.as_bytes()) =>
        {
            return refused("`Host` and `:authority` differ.");
        }
        (None, Version::HTTP_11) => return refused("A request has a `Host`."),
        _ => {}
    }
    let host = HeaderValue::from_str(authority).expect("an authority is visible ASCII");
    parts.headers.insert(HOST, host);
    Ok(())
}

/// Whether this is `uri-host [ ":" port ]` (RFC 9110, 7.2), and the host is not empty
/// (RFC 9110, 4.2.1).
fn is_host(value: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(value) else {
        return false;
    };
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port),
        _ => (text, ""),
    };
    if !port.bytes().all(|byte| byte.is_ascii_digit()) {
        return false;
    }
    match host.strip_prefix('[') {
        Some(address) => address
            .strip_suffix(']')
            .is_some_and(|address| address.parse::<Ipv6Addr>().is_ok()),
        None => !host.is_empty() && is_name(host.as_bytes()),
    }
}

/// Whether this is a `reg-name` of RFC 3986, which an IPv4 address is too.
fn is_name(mut name: &[u8]) -> bool {
    while let [first, rest @ ..] = name {
        name = match (first, rest) {
            (b'%', [high, low, rest @ ..])
                if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() =>
            {
                rest
            }
            (byte, rest) if byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=".contains(byte) => {
                rest
            }
            _ => return false,
        };
    }
    true
}

/// `chunked`, once, is the only coding that the sidecar decodes. The upstream would get the data
/// of another one without its name, since `Transfer-Encoding` concerns one connection (RFC 9112, 6.1).
fn codings(headers: &HeaderMap) -> Checked {
    let chunked = |coding: &str| coding.eq_ignore_ascii_case("chunked");
    if has_unread_line(headers, &TRANSFER_ENCODING)
        || tokens(headers, &TRANSFER_ENCODING).any(|coding| !chunked(coding))
    {
        return Err(usual(GatewayCode::TransferCodingUnknown));
    }
    if tokens(headers, &TRANSFER_ENCODING).nth(1).is_some() {
        return malformed("A body is chunked once.");
    }
    Ok(())
}

/// The rules of RFC 9113 for which h2 does not look: a value has no white space at its ends (8.2.1),
/// and there is one length (8.1.1).
fn values(headers: &HeaderMap) -> Checked {
    let is_space = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    let padded = |value: &HeaderValue| {
        let bytes = value.as_bytes();
        is_space(bytes.first()) || is_space(bytes.last())
    };
    if headers.values().any(padded) {
        let detail = "In HTTP/2, no value of a header begins or ends with white space.";
        return malformed(detail);
    }
    if headers.get_all(CONTENT_LENGTH).iter().nth(1).is_some() {
        return malformed("A request has one `Content-Length`.");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_a_name_or_an_address_with_perhaps_a_port() {
        for host in [
            "a",
            "A.Example",
            "a.example.",
            "a.example:80",
            "a.example:",
            "my_service",
            "127.0.0.1:8080",
            "[::1]",
            "[2001:db8::1]:443",
            "caf%C3%A9.example",
            "a,b;c=d",
        ] {
            assert!(is_host(host.as_bytes()), "{host}");
        }
        for other in [
            "",
            ":80",
            " ",
            "a b",
            "a:b",
            "a:80:90",
            "a:-1",
            "user@a",
            "user:pw@a",
            "a/b",
            "a?b",
            "a#b",
            "a\\b",
            "http://a",
            "[::1",
            "::1",
            "[::1]x",
            "[]",
            "[a]",
            "[fe80::1%25eth0]",
            "a%",
            "a%4",
            "a%zz",
            "café",
            "a\"b",
            "<a>",
        ] {
            assert!(!is_host(other.as_bytes()), "{other}");
        }
    }
}
