//! The spelling of a path by which the layer finds the route of a request.
//!
//! Servers decode a path before they route by it, and they differ in how. All spellings of a
//! path are matched as one normal spelling. The sidecar rejects a path that servers read
//! in different ways, since the layer and the upstream could choose different routes for it.

use std::borrow::Cow;
use std::fmt;

use http::Uri;
use http::uri::PathAndQuery;

/// The target as the client sent it: an extension of the request. The upstream gets this
/// target, not the normal spelling.
#[derive(Clone, Debug)]
pub(crate) struct SentTarget(pub(crate) Uri);

/// Why servers could read a path in different ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ambiguous {
    Escape,
    EscapedTwice,
    NotUtf8,
    Slash,
    Control,
    Dots,
    Empty,
    Semicolon,
    NoPath,
}

impl fmt::Display for Ambiguous {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Escape => "has a `%` without two hexadecimal digits behind it",
            Self::EscapedTwice => "is percent-encoded twice",
            Self::NotUtf8 => "is not UTF-8 once it is decoded",
            Self::Slash => "has an encoded slash, or a backslash",
            Self::Control => "has a control character",
            Self::Dots => "has a segment `.` or `..`",
            Self::Empty => "has an empty segment",
            Self::Semicolon => "has a `;`, which some servers cut a segment at",
            Self::NoPath => "does not begin with a slash",
        })
    }
}

/// `uri` with the normal spelling of its path; `None` if `uri` has it already.
pub(crate) fn matched(uri: &Uri) -> Result<Option<Uri>, Ambiguous> {
    let own = uri.path();
    let path = normal(own)?;
    if path == own {
        return Ok(None);
    }
    let mut target = path.into_owned();
    if let Some(query) = uri.query() {
        target.push('?');
        target.push_str(query);
    }
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(PathAndQuery::try_from(target).map_err(|_| Ambiguous::NotUtf8)?);
    Uri::from_parts(parts)
        .map(Some)
        .map_err(|_| Ambiguous::NoPath)
}

/// The normal spelling: decoded, and without a slash at the end. A byte that a path cannot
/// hold as it is stays an escape, with upper-case digits.
pub(crate) fn normal(path: &str) -> Result<Cow<'_, str>, Ambiguous> {
    let kept = |byte| byte == b'/' || stands_for_itself(byte);
    if path.bytes().all(kept) {
        return trimmed(path).map(Cow::Borrowed);
    }
    let decoded = decoded(path.as_bytes())?;
    let text = String::from_utf8(decoded).map_err(|_| Ambiguous::NotUtf8)?;
    let text = trimmed(&text)?;
    let mut normal = String::with_capacity(text.len());
    for byte in text.bytes() {
        if kept(byte) {
            normal.push(char::from(byte));
        } else {
            const HEX: &[u8; 16] = b"0123456789ABCDEF";
            normal.push('%');
            normal.push(char::from(HEX[usize::from(byte >> 4)]));
            normal.push(char::from(HEX[usize::from(byte & 15)]));
        }
    }
    Ok(Cow::Owned(normal))
}

fn trimmed(path: &str) -> Result<&str, Ambiguous> {
    let segments = match path.strip_prefix('/').ok_or(Ambiguous::NoPath)? {
        "" => return Ok(path),
        segments => segments.strip_suffix('/').unwrap_or(segments),
    };
    for segment in segments.split('/') {
        match segment {
            "" => return Err(Ambiguous::Empty),
            "." | ".." => return Err(Ambiguous::Dots),
            _ => {}
        }
    }
    Ok(&path[..=segments.len()])
}

fn decoded(path: &[u8]) -> Result<Vec<u8>, Ambiguous> {
    let mut decoded = Vec::with_capacity(path.len());
    let mut rest = path;
    while let [first, tail @ ..] = rest {
        let (byte, escaped) = match (first, tail) {
            (b'%', [high, low, after @ ..]) => {
                rest = after;
                (hex(*high)? << 4 | hex(*low)?, true)
            }
            (b'%', _) => return Err(Ambiguous::Escape),
            _ => {
                rest = tail;
                (*first, false)
            }
        };
        match byte {
            b'\\' => return Err(Ambiguous::Slash),
            b'/' if escaped => return Err(Ambiguous::Slash),
            b';' => return Err(Ambiguous::Semicolon),
            _ if byte.is_ascii_control() => return Err(Ambiguous::Control),
            _ => decoded.push(byte),
        }
    }
    let is_escape = |bytes: &[u8]| bytes[0] == b'%' && bytes[1..].iter().all(u8::is_ascii_hexdigit);
    if decoded.windows(3).any(is_escape) {
        return Err(Ambiguous::EscapedTwice);
    }
    Ok(decoded)
}

fn hex(digit: u8) -> Result<u8, Ambiguous> {
    match digit {
        b'0'..=b'9' => Ok(digit - b'0'),
        b'a'..=b'f' => Ok(digit - b'a' + 10),
        b'A'..=b'F' => Ok(digit - b'A' + 10),
        _ => Err(Ambiguous::Escape),
    }
}

/// Whether a byte is a `pchar` of RFC 3986 and no escape.
fn stands_for_itself(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,=:@".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(path: &str) -> Result<String, Ambiguous> {
        normal(path).map(Cow::into_owned)
    }

    #[test]
    fn every_spelling_of_a_path_is_matched_as_one() {
        for (sent, matched) in [
            ("/orders", "/orders"),
            ("/%6frders", "/orders"),
            ("/%6Frders/", "/orders"),
            ("/orders/", "/orders"),
            ("/", "/"),
            ("/%7Ejoe/a%2Eb/a%2db", "/~joe/a.b/a-b"),
            ("/a%21b%3a%40", "/a!b:@"),
            ("/a!b:@", "/a!b:@"),
            ("/caf%c3%a9", "/caf%C3%A9"),
            ("/café", "/caf%C3%A9"),
            ("/a%20b", "/a%20b"),
            ("/a\"b", "/a%22b"),
            ("/100%25", "/100%25"),
            ("/100%25/x", "/100%25/x"),
            ("/a%3fb%23c", "/a%3Fb%23c"),
            ("/...", "/..."),
            ("/.well-known/x", "/.well-known/x"),
        ] {
            assert_eq!(read(sent).as_deref(), Ok(matched), "{sent}");
            assert_eq!(read(matched).as_deref(), Ok(matched), "{matched} again");
        }
    }

    #[test]
    fn what_servers_may_read_differently_is_ambiguous() {
        use Ambiguous::{
            Control, Dots, Empty, Escape, EscapedTwice, NoPath, NotUtf8, Semicolon, Slash,
        };
        for (sent, why) in [
            ("/orders%2f", Slash),
            ("/a%2Forders", Slash),
            ("/a%5corders", Slash),
            ("/a\\orders", Slash),
            ("/orders%00", Control),
            ("/orders%0a", Control),
            ("/orders%7F", Control),
            ("/orders%", Escape),
            ("/orders%6", Escape),
            ("/%6grders", Escape),
            ("/%+6rders", Escape),
            ("/%256frders", EscapedTwice),
            ("/%25%36%66rders", EscapedTwice),
            ("/%2525", EscapedTwice),
            ("/%c0%af", NotUtf8),
            ("/%ff", NotUtf8),
            ("/%ed%a0%80", NotUtf8),
            ("/./orders", Dots),
            ("/a/../orders", Dots),
            ("/a/%2e%2E/orders", Dots),
            ("/a/.%2e/orders", Dots),
            ("/orders/.", Dots),
            ("/orders/..", Dots),
            ("/orders/%2e/", Dots),
            ("//orders", Empty),
            ("/a//orders", Empty),
            ("/orders//", Empty),
            ("//", Empty),
            ("/orders;x=1", Semicolon),
            ("/orders%3bx", Semicolon),
            ("*", NoPath),
            ("", NoPath),
        ] {
            assert_eq!(read(sent), Err(why), "{sent}");
        }
    }

    #[test]
    fn the_query_is_kept_as_it_was_sent() {
        let uri = Uri::from_static("http://a.example/%6frders/?q=%6f&r=//");
        let uri = matched(&uri).unwrap().unwrap();
        assert_eq!(uri, "http://a.example/orders?q=%6f&r=//");
        let plain = Uri::from_static("/orders?q=%6f");
        assert!(matched(&plain).unwrap().is_none());
    }
}
