//! The address of a client behind proxies.

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};

use http::HeaderName;
use http::request::Parts;
use ipnet::{IpNet, Ipv4Net};

use super::{Caller, Scope, ip_caller, peer};
use crate::display::{header_name, words};
use crate::error::ConfigError;

/// The header in which proxies tell the address they were called from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ForwardedHeader {
    /// `Forwarded`, RFC 7239.
    Forwarded,
    /// `X-Forwarded-For`.
    XForwardedFor,
}

words! { ForwardedHeader { Forwarded = "forwarded", XForwardedFor = "x-forwarded-for" } }

/// The address of the client behind the application's own proxies.
///
/// `trusted` are the proxies' networks, such as `10.0.0.0/8`, or single
/// addresses. The header is read from its end: addresses of trusted proxies
/// are skipped, the first other one is the client, and whatever stands to its
/// left was only claimed by that client. A connection that comes from no
/// trusted proxy is itself the client. A request whose trusted proxies name
/// no address has no caller, rather than the proxy's.
///
/// Name the one header that the proxies set: the other could come from the
/// client.
///
/// ```
/// use tower_idempotency::scope::{self, ForwardedHeader};
///
/// # fn main() -> Result<(), tower_idempotency::ConfigError> {
/// let scope = scope::forwarded_ip(ForwardedHeader::XForwardedFor, ["10.0.0.0/8"])?;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// If no proxy is named, or one is neither a network nor an address.
pub fn forwarded_ip<N: AsRef<str>>(
    header: ForwardedHeader,
    trusted: impl IntoIterator<Item = N>,
) -> Result<ForwardedIp, ConfigError> {
    let trusted = trusted
        .into_iter()
        .map(|network| {
            let network = network.as_ref();
            network
                .parse::<IpNet>()
                .or_else(|_| network.parse::<IpAddr>().map(IpNet::from))
                .map(canonical)
                .map_err(|error| {
                    let message =
                        format!("names `{network}`, which is neither a network nor an address");
                    ConfigError::new("scope", message).caused_by(error)
                })
        })
        .collect::<Result<Vec<_>, _>>()?;
    if trusted.is_empty() {
        return Err(ConfigError::new(
            "scope",
            "names no trusted proxy, so no forwarded address could be believed",
        ));
    }
    Ok(ForwardedIp { header, trusted })
}

/// IPv4 in IPv6 clothes is IPv4, as it is in the addresses of peers.
pub(crate) fn canonical(network: IpNet) -> IpNet {
    match network.addr().to_canonical() {
        IpAddr::V4(address) if network.addr().is_ipv6() => {
            let length = network.prefix_len().saturating_sub(96);
            Ipv4Net::new(address, length).map_or(network, IpNet::from)
        }
        _ => network,
    }
}

/// See [`forwarded_ip`].
#[derive(Clone, Debug)]
pub struct ForwardedIp {
    header: ForwardedHeader,
    trusted: Vec<IpNet>,
}

impl ForwardedIp {
    fn trusts(&self, ip: IpAddr) -> bool {
        self.trusted.iter().any(|network| network.contains(&ip))
    }

    fn name(&self) -> HeaderName {
        match self.header {
            ForwardedHeader::Forwarded => http::header::FORWARDED,
            ForwardedHeader::XForwardedFor => HeaderName::from_static("x-forwarded-for"),
        }
    }
}

impl Scope for ForwardedIp {
    fn caller(&self, request: &Parts) -> Option<Caller> {
        let peer = peer(request)?;
        if !self.trusts(peer) {
            return Some(ip_caller(peer));
        }
        let lines: Vec<_> = request.headers.get_all(self.name()).iter().collect();
        for line in lines.into_iter().rev() {
            let line = line.to_str().ok()?;
            let elements = match self.header {
                ForwardedHeader::Forwarded => split_unquoted(line, ',')?,
                ForwardedHeader::XForwardedFor => line.split(',').collect(),
            };
            for element in elements.into_iter().rev() {
                // What can't be read might be the client: nothing left of it counts.
                let ip = match self.header {
                    ForwardedHeader::Forwarded => forwarded_for(element)?,
                    ForwardedHeader::XForwardedFor => address(element.trim())?,
                };
                if !self.trusts(ip) {
                    return Some(ip_caller(ip));
                }
            }
        }
        None
    }

    fn describe(&self) -> Cow<'static, str> {
        Cow::Owned(format!(
            "whoever calls from the same address, as this API's proxies give it in `{}`",
            header_name(&self.name())
        ))
    }
}

/// Splits at what stands outside of quotation marks: a proxy copies what its
/// client sent as `Host` into `host="…"`. `None` if a quoted string does not
/// end.
fn split_unquoted(text: &str, separator: char) -> Option<Vec<&str>> {
    let (mut pieces, mut from) = (Vec::new(), 0);
    let (mut quoted, mut escaped) = (false, false);
    for (at, character) in text.char_indices() {
        match character {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            _ if character == separator && !quoted => {
                pieces.push(&text[from..at]);
                from = at + separator.len_utf8();
            }
            _ => {}
        }
    }
    pieces.push(&text[from..]);
    (!quoted).then_some(pieces)
}

/// The address in the `for` parameter of one element of `Forwarded`, which
/// must have just one.
fn forwarded_for(element: &str) -> Option<IpAddr> {
    let mut found = None;
    for pair in split_unquoted(element, ';')? {
        let (name, value) = pair.split_once('=')?;
        if name.trim().eq_ignore_ascii_case("for") && found.replace(value.trim()).is_some() {
            return None;
        }
    }
    let value = found?;
    let unquoted = value
        .strip_prefix('"')
        .and_then(|value| value.strip_suffix('"'));
    address(unquoted.unwrap_or(value))
}

/// `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1`, `[2001:db8::1]` or `[2001:db8::1]:80`.
fn address(text: &str) -> Option<IpAddr> {
    let bracketed = || {
        text.strip_prefix('[')?
            .strip_suffix(']')?
            .parse::<IpAddr>()
            .ok()
    };
    text.parse::<IpAddr>()
        .ok()
        .or_else(|| text.parse::<SocketAddr>().ok().map(|address| address.ip()))
        .or_else(bracketed)
        .map(|ip| ip.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::super::peer_ip;
    use super::super::tests::{from, id, request};
    use super::*;

    #[test]
    fn forwarded_addresses_are_believed_only_from_trusted_proxies() {
        let scope =
            forwarded_ip(ForwardedHeader::XForwardedFor, ["10.0.0.0/8", "192.0.2.7"]).unwrap();
        let client = |ip: &str| id(&peer_ip(), &from(ip, &[]));
        let told = |peer: &str, value: &str| id(&scope, &from(peer, &[("x-forwarded-for", value)]));
        assert_eq!(told("198.51.100.9", "203.0.113.1"), client("198.51.100.9"));
        assert_eq!(told("10.0.0.1", "203.0.113.1"), client("203.0.113.1"));
        assert_eq!(
            told("10.0.0.1", "6.6.6.6, 203.0.113.1, 192.0.2.7"),
            client("203.0.113.1")
        );
        assert_eq!(told("10.0.0.1", "203.0.113.1:4711"), client("203.0.113.1"));
        assert_eq!(told("10.0.0.1", "203.0.113.1, unknown"), None);
        assert_eq!(told("10.0.0.1", "10.0.0.2"), None);
        assert_eq!(id(&scope, &from("10.0.0.1", &[])), None);
        assert_eq!(id(&scope, &request(&[])), None);
        let two_lines = from(
            "10.0.0.1",
            &[
                ("x-forwarded-for", "6.6.6.6"),
                ("x-forwarded-for", "203.0.113.1"),
            ],
        );
        assert_eq!(id(&scope, &two_lines), client("203.0.113.1"));
        assert!(forwarded_ip(ForwardedHeader::Forwarded, Vec::<String>::new()).is_err());
        assert!(forwarded_ip(ForwardedHeader::Forwarded, ["proxy.local"]).is_err());
    }

    #[test]
    fn a_trusted_network_in_ipv6_clothes_is_the_ipv4_one() {
        let header = ForwardedHeader::XForwardedFor;
        let scope = forwarded_ip(header, ["::ffff:10.0.0.0/104"]).unwrap();
        let told = id(
            &scope,
            &from("10.0.0.1", &[("x-forwarded-for", "203.0.113.1")]),
        );
        assert_eq!(told, id(&peer_ip(), &from("203.0.113.1", &[])));
        assert!(told.is_some());
        let all = forwarded_ip(header, ["2001:db8::/32"]).unwrap();
        let told = id(
            &all,
            &from("2001:db8::1", &[("x-forwarded-for", "203.0.113.1")]),
        );
        assert_eq!(told, id(&peer_ip(), &from("203.0.113.1", &[])));
    }

    #[test]
    fn rfc_7239_is_read() {
        let scope = forwarded_ip(ForwardedHeader::Forwarded, ["10.0.0.0/8"]).unwrap();
        let told = |value: &str| id(&scope, &from("10.0.0.1", &[("forwarded", value)]));
        let client = |ip: &str| id(&peer_ip(), &from(ip, &[]));
        assert_eq!(told("for=192.0.2.43"), client("192.0.2.43"));
        assert_eq!(
            told(r#"for=6.6.6.6, proto=https;For="[2001:db8:cafe::17]:4711";by=10.0.0.1"#),
            client("2001:db8:cafe::17")
        );
        assert_eq!(
            told(r#"for="[2001:db8:cafe::17]""#),
            client("2001:db8:cafe::17")
        );
        assert_eq!(told("for=_hidden"), None);
        // What a client says its host is, is not where it calls from.
        for spoofed in [
            r#"for=203.0.113.1;host="a,for=6.6.6.6;";proto=https"#,
            r#"host="a;for=6.6.6.6;";for=203.0.113.1"#,
            r#"host="a\";for=6.6.6.6;";for=203.0.113.1"#,
        ] {
            assert_eq!(told(spoofed), client("203.0.113.1"), "{spoofed}");
        }
        assert_eq!(told("for=203.0.113.1;for=6.6.6.6"), None);
        assert_eq!(told(r#"for=203.0.113.1;host="a,for=6.6.6.6"#), None);
        assert_eq!(told("by=10.0.0.1"), None);
    }
}
