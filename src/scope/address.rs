//! Addresses as proxies write them.

use std::net::IpAddr;

/// Reads a node of RFC 7239, section 6, that is an address: `192.0.2.1`, `192.0.2.1:80`,
/// `[2001:db8::1]` or `[2001:db8::1]:_hidden`. `X-Forwarded-For` has `2001:db8::1` too.
pub(super) fn address(node: &str) -> Option<IpAddr> {
    if let Ok(ip) = node.parse::<IpAddr>() {
        return Some(ip.to_canonical());
    }
    let (ip, port) = if let Some(rest) = node.strip_prefix('[') {
        let (ip, behind) = rest.split_once(']')?;
        (IpAddr::V6(ip.parse().ok()?), behind)
    } else {
        let colon = node.find(':')?;
        let (ip, behind) = node.split_at(colon);
        (IpAddr::V4(ip.parse().ok()?), behind)
    };
    let has_port = || port.strip_prefix(':').is_some_and(is_port);
    (port.is_empty() || has_port()).then(|| ip.to_canonical())
}

/// A port has up to five digits; an obfuscated one begins with `_`.
fn is_port(port: &str) -> bool {
    match port.strip_prefix('_') {
        Some(name) => {
            let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
            !name.is_empty() && name.bytes().all(is_plain)
        }
        None => {
            port.len() <= 5 && !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit())
        }
    }
}
