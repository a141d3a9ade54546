//! The address of a client behind proxies.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Once;

use http::HeaderName;
use http::request::Parts;
use ipnet::{IpNet, Ipv4Net};
use tracing::warn;

use super::address::address;
use super::peer::{ip_caller, is_forwarded, named_ip, no_peer, peer};
use super::{Caller, Scope};
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
/// `trusted` are the proxies' networks, such as `10.0.0.0/8`, or single addresses. The header is
/// read from its end: addresses of trusted proxies are skipped, and the first other address is the
/// client. Every address to the left of that one was only claimed by the client. A connection from
/// an address that is not trusted is itself the client. A request whose trusted proxies name no
/// address has no caller: the proxy's own address would make all clients one caller.
///
/// Name the header that the proxies set: the client could have sent the other one.
///
/// An empty list, and an entry that is neither a network nor an address, are errors when the layer
/// is built.
///
/// ```
/// use tower_idempotency::scope::{self, ForwardedHeader};
///
/// let scope = scope::forwarded_ip(ForwardedHeader::XForwardedFor, ["10.0.0.0/8"]);
/// ```
#[must_use]
pub fn forwarded_ip<N: AsRef<str>>(
    header: ForwardedHeader,
    trusted: impl IntoIterator<Item = N>,
) -> ForwardedIp {
    let parse = |network: N| {
        let network = network.as_ref();
        let parsed = network
            .parse::<IpNet>()
            .or_else(|_| network.parse::<IpAddr>().map(IpNet::from));
        parsed
            .map(canonical)
            .map_err(|_| format!("names `{network}`, which is neither a network nor an address"))
    };
    ForwardedIp {
        header,
        trusted: trusted.into_iter().map(parse).collect(),
    }
}

/// An IPv4 network that is written as an IPv6 one (`::ffff:10.0.0.0/104`) becomes the IPv4 network,
/// because [`peer`] returns such addresses as IPv4 too.
pub(crate) fn canonical(network: IpNet) -> IpNet {
    match network.addr().to_canonical() {
        IpAddr::V4(address) if network.addr().is_ipv6() => {
            let length = network.prefix_len().saturating_sub(96);
            Ipv4Net::new(address, length).map_or(network, IpNet::from)
        }
        _ => network,
    }
}

/// The scope that [`forwarded_ip`] returns.
#[derive(Clone, Debug)]
pub struct ForwardedIp {
    header: ForwardedHeader,
    /// The networks, or what is wrong with the first entry that is none.
    trusted: Result<Vec<IpNet>, String>,
}

impl ForwardedIp {
    fn trusts(&self, ip: IpAddr) -> bool {
        self.trusted
            .iter()
            .flatten()
            .any(|network| network.contains(&ip))
    }

    fn name(&self) -> HeaderName {
        match self.header {
            ForwardedHeader::Forwarded => http::header::FORWARDED,
            ForwardedHeader::XForwardedFor => HeaderName::from_static("x-forwarded-for"),
        }
    }
}

/// Whether the process has told that a proxy may be missing in `trusted`.
static WARNED: Once = Once::new();

impl Scope for ForwardedIp {
    fn caller(&self, request: &Parts) -> Option<Caller> {
        let peer = peer(request)?;
        if !self.trusts(peer) {
            if !WARNED.is_completed() && is_forwarded(&request.headers, peer) {
                WARNED.call_once(|| {
                    warn!(
                        "a request that a proxy has forwarded comes from an address that `trusted` \
                         of the scope `forwarded_ip` does not list: if it is that of a proxy of \
                         yours, all clients of the proxy are one caller: list it in `trusted`"
                    );
                });
            }
            return Some(ip_caller(peer));
        }
        let lines: Vec<_> = request.headers.get_all(self.name()).iter().collect();
        for line in lines.into_iter().rev() {
            // A quoted string may have bytes beyond ASCII (RFC 9110, 5.6.4), an address has none.
            let line = String::from_utf8_lossy(line.as_bytes());
            let elements = match self.header {
                ForwardedHeader::Forwarded => split_unquoted(&line, ',')?,
                ForwardedHeader::XForwardedFor => line.split(',').collect(),
            };
            for element in elements.into_iter().rev() {
                // A list may have empty elements (RFC 9110, 5.6.1), and an element of `Forwarded`
                // empty pairs (RFC 7239, 4).
                if element.trim_matches([' ', '\t', ';']).is_empty() {
                    continue;
                }
                // An element that can't be read could be the client's address, so that no
                // address to the left of that element is believed.
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

    fn check(&self) -> Result<(), ConfigError> {
        match &self.trusted {
            Err(error) => Err(ConfigError::new("scope", error)),
            Ok(trusted) if trusted.is_empty() => Err(ConfigError::new(
                "scope",
                "names no trusted proxy, so no forwarded address could be believed",
            )),
            Ok(_) => Ok(()),
        }
    }

    fn mistake(&self, request: &Parts) -> Option<Cow<'static, str>> {
        no_peer(request)
    }

    fn named(&self, caller: &str) -> Vec<Caller> {
        named_ip(caller)
    }
}

/// Splits at each separator that is not inside a quoted string. (A proxy copies the `Host` that
/// its client sent into `host="…"`.) Returns `None` if a quoted string does not end.
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

/// The address in the `for` parameter of one element of `Forwarded`. An element with two such
/// parameters has none, and neither has one that RFC 7239, 4 does not allow.
fn forwarded_for(element: &str) -> Option<IpAddr> {
    let mut found = None;
    for pair in split_unquoted(element, ';')? {
        if pair.trim().is_empty() {
            continue;
        }
        let (name, value) = pair.split_once('=')?;
        let (name, value) = (name.trim(), unquoted(value.trim())?);
        let is_plain = !name.contains(QUOTING);
        if !is_plain || (name.eq_ignore_ascii_case("for") && found.replace(value).is_some()) {
            return None;
        }
    }
    address(&found?)
}

const QUOTING: [char; 2] = ['"', '\\'];

/// The content of a quoted string (RFC 9110, 5.6.4), or the value as it is.
///
/// `None` for text that is partly quoted. A client makes such text with a quotation mark that it
/// leaves open: the first mark of the proxy closes that string, and what the proxy copied of the
/// client between its own marks, with an escape before each mark, then stands outside of them.
fn unquoted(value: &str) -> Option<Cow<'_, str>> {
    let Some(rest) = value.strip_prefix('"') else {
        return (!value.contains(QUOTING)).then_some(Cow::Borrowed(value));
    };
    let mut content = String::new();
    let mut rest = rest.chars();
    loop {
        match rest.next()? {
            '"' => return rest.next().is_none().then_some(Cow::Owned(content)),
            '\\' => content.push(rest.next()?),
            character => content.push(character),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::peer_ip;
    use super::super::tests::{from, id, request};
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn forwarded_addresses_are_believed_only_from_trusted_proxies() {
        let scope = forwarded_ip(ForwardedHeader::XForwardedFor, ["10.0.0.0/8", "192.0.2.7"]);
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
        assert!(
            forwarded_ip(ForwardedHeader::Forwarded, Vec::<String>::new())
                .check()
                .is_err()
        );
        assert!(
            forwarded_ip(ForwardedHeader::Forwarded, ["proxy.local"])
                .check()
                .is_err()
        );
    }

    #[test]
    fn empty_elements_of_a_list_are_none() {
        let scope = forwarded_ip(ForwardedHeader::XForwardedFor, ["10.0.0.0/8"]);
        let told = |value: &str| id(&scope, &from("10.0.0.1", &[("x-forwarded-for", value)]));
        let client = id(&peer_ip(), &from("203.0.113.1", &[]));
        for legal in [
            "203.0.113.1,",
            ",203.0.113.1, ,",
            "6.6.6.6,,203.0.113.1,\t,10.0.0.2,",
            "203.0.113.1:_p",
        ] {
            assert_eq!(told(legal), client, "{legal}");
        }
        assert_eq!(told(""), None);
        assert_eq!(told(" , ,"), None);
    }

    proptest! {
        /// Whatever clients make proxies copy, no value panics the reader, and only an address that
        /// stands there is found.
        #[test]
        fn any_value_is_read_or_refused(value in "(for|=|\"|\\\\|;|,|\\[|\\]|:|_| |host|10\\.0\\.0\\.2|192\\.0\\.2\\.1|2001:db8::1|é){0,16}") {
            for (name, header) in [("forwarded", ForwardedHeader::Forwarded), ("x-forwarded-for", ForwardedHeader::XForwardedFor)] {
                let scope = forwarded_ip(header, ["10.0.0.0/8"]);
                let found = id(&scope, &from("10.0.0.1", &[(name, &value)]));
                let is_named = |ip: &str| value.contains(ip) && found == id(&peer_ip(), &from(ip, &[]));
                prop_assert!(found.is_none() || is_named("192.0.2.1") || value.contains(':'));
            }
        }
    }

    #[test]
    fn a_trusted_network_written_as_ipv6_is_the_ipv4_one() {
        let header = ForwardedHeader::XForwardedFor;
        let scope = forwarded_ip(header, ["::ffff:10.0.0.0/104"]);
        let told = id(
            &scope,
            &from("10.0.0.1", &[("x-forwarded-for", "203.0.113.1")]),
        );
        assert_eq!(told, id(&peer_ip(), &from("203.0.113.1", &[])));
        assert!(told.is_some());
        let trusts = |ip: &str| scope.trusts(ip.parse().unwrap());
        assert!(trusts("10.255.255.255") && !trusts("11.0.0.0"));
        let all = forwarded_ip(header, ["2001:db8::/32"]);
        let told = id(
            &all,
            &from("2001:db8::1", &[("x-forwarded-for", "203.0.113.1")]),
        );
        assert_eq!(told, id(&peer_ip(), &from("203.0.113.1", &[])));
    }

    #[test]
    fn rfc_7239_is_read() {
        let scope = forwarded_ip(ForwardedHeader::Forwarded, ["10.0.0.0/8"]);
        let told = |value: &str| id(&scope, &from("10.0.0.1", &[("forwarded", value)]));
        let client = |ip: &str| id(&peer_ip(), &from(ip, &[]));
        // A backslash escapes inside a quoted string only (RFC 9110, 5.6.4).
        assert_eq!(told(r"x\,for=192.0.2.43"), client("192.0.2.43"));
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
        // A pair and a list element may be empty (RFC 7239, 4; RFC 9110, 5.6.1).
        for legal in [
            "for=192.0.2.43;",
            ";for=192.0.2.43;;proto=https",
            "for=192.0.2.43,",
            ",,for=6.6.6.6, ,for=192.0.2.43 , ,;,",
            "FOR=192.0.2.43;Proto=http",
            "for=192.0.2.43;secret=\"a,b;c\"",
            r#"for="192.0.2.43""#,
            r#"for="192\.0.2\.43""#,
            r#"for="192.0.2.43:80""#,
            r#"for="192.0.2.43:99999""#,
            r#"for="192.0.2.43:_p-1.x_""#,
            r#"for="[::ffff:192.0.2.43]:_p""#,
        ] {
            assert_eq!(told(legal), client("192.0.2.43"), "{legal}");
        }
        let obs_text = {
            let mut parts = from("10.0.0.1", &[]);
            let value = http::HeaderValue::from_bytes(b"for=192.0.2.43;host=\"caf\xe9\"").unwrap();
            parts.headers.insert("forwarded", value);
            parts
        };
        assert_eq!(id(&scope, &obs_text), client("192.0.2.43"));
        for unreadable in [
            "",
            ",",
            ";",
            "for",
            "for=",
            "for=unknown",
            "for=192.0.2",
            "proto=https",
            "for=6.6.6.6, proto=https",
            r#"for="192.0.2.43:""#,
            r#"for="192.0.2.43:_""#,
            r#"for="192.0.2.43:123456""#,
            r#"for="192.0.2.43:x""#,
            r#"for="2001:db8::1:_p""#,
            r#"for="[192.0.2.43]""#,
            r#"for="[2001:db8::1""#,
            r#"for="[2001:db8::1]80""#,
            r#"for="192.0.2.43"x"#,
            r#"for="6.6.6.6"";192.0.2.43""#,
            r#"for="192.0.2.43\"#,
        ] {
            assert_eq!(told(unreadable), None, "{unreadable}");
        }
        // A client chooses the host that a proxy copies.
        for spoofed in [
            r#"for=203.0.113.1;host="a,for=6.6.6.6;";proto=https"#,
            r#"host="a;for=6.6.6.6;";for=203.0.113.1"#,
            r#"host="a\";for=6.6.6.6;";for=203.0.113.1"#,
        ] {
            assert_eq!(told(spoofed), client("203.0.113.1"), "{spoofed}");
        }
        // A client leaves a quotation mark open before the element that the proxy appends, and has
        // marks in its host.
        for inverted in [
            r#"for=6.6.6.6;x=", for=203.0.113.1;host="a\"b""#,
            r#"for=6.6.6.6;x=", for=203.0.113.1;host=";y=\"";proto=https"#,
            r#"for=6.6.6.6;x=", for=203.0.113.1;host=",for=7.7.7.7;y=\"";proto=https"#,
            r#"for=6.6.6.6;x=", for=203.0.113.1;host=";\"y=""#,
        ] {
            assert_eq!(told(inverted), None, "{inverted}");
        }
        assert_eq!(told("for=203.0.113.1;for=6.6.6.6"), None);
        assert_eq!(told(r#"for=203.0.113.1;host="a,for=6.6.6.6"#), None);
        assert_eq!(told("by=10.0.0.1"), None);
    }
}
