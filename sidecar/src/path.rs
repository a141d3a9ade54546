//! The spelling of a path by which the layer finds the route of a request.
//!
//! Servers decode a path before they route by it, and they differ in how. All spellings of a
//! path are matched as one normal spelling. The sidecar rejects a path that servers read
//! in different ways, since the layer and the upstream could choose different routes for it.

use std::borrow::Cow;
use std::fmt;

use tower_idempotency::for_sidecar::NormalPath;

/// Why servers could read a path in different ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ambiguous {
    Escape,
    EscapedTwice,
    NotUtf8,
    NotAscii,
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
            Self::NotAscii => "has a letter outside of ASCII, where the case of letters is ignored",
            Self::Slash => "has an encoded slash, or a backslash",
            Self::Control => "has a control character",
            Self::Dots => "has a segment `.` or `..`",
            Self::Empty => "has an empty segment",
            Self::Semicolon => "has a `;`, which some servers cut a segment at",
            Self::NoPath => "does not begin with a slash",
        })
    }
}

/// The normal spelling of a path that was sent, for the layer; `None` if it was sent like that.
pub(crate) fn meant(sent: &str, ignore_case: bool) -> Result<Option<NormalPath>, Ambiguous> {
    let path = normal(sent, ignore_case)?;
    Ok((path != sent).then(|| NormalPath(path.into_owned())))
}

/// The normal spelling: decoded, and without a slash at the end. A byte that a path cannot
/// hold as it is stays an escape, with upper-case digits.
///
/// With `ignore_case` all letters are small ones. Frameworks fold the letters outside of ASCII in
/// different ways, and some fold the Kelvin sign to `k` and the long s to `s`, so that a path has
/// none of them.
pub(crate) fn normal(path: &str, ignore_case: bool) -> Result<Cow<'_, str>, Ambiguous> {
    let kept = |byte| byte == b'/' || stands_for_itself(byte);
    let is_folded = |byte: u8| ignore_case && byte.is_ascii_uppercase();
    if path.bytes().all(|byte| kept(byte) && !is_folded(byte)) {
        return trimmed(path).map(Cow::Borrowed);
    }
    let decoded = decoded(path.as_bytes())?;
    let mut text = String::from_utf8(decoded).map_err(|_| Ambiguous::NotUtf8)?;
    if ignore_case {
        if !text.is_ascii() {
            return Err(Ambiguous::NotAscii);
        }
        text.make_ascii_lowercase();
    }
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
    use proptest::prelude::*;

    fn read(path: &str) -> Result<String, Ambiguous> {
        normal(path, false).map(Cow::into_owned)
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
    fn where_case_is_ignored_letters_are_small_and_ascii() {
        let read = |path| normal(path, true).map(Cow::into_owned);
        for (sent, matched) in [
            ("/Orders/aB", "/orders/ab"),
            ("/%4Frders/", "/orders"),
            ("/A%3f%5B", "/a%3F%5B"),
            ("/a%20B", "/a%20b"),
        ] {
            assert_eq!(read(sent).as_deref(), Ok(matched), "{sent}");
            assert_eq!(read(matched).as_deref(), Ok(matched), "{matched} again");
        }
        for sent in [
            "/%E2%84%AAept",
            "/order%C5%BF",
            "/caf%C3%A9",
            "/café",
            "/%EF%BC%AF",
        ] {
            assert_eq!(read(sent), Err(Ambiguous::NotAscii), "{sent}");
        }
        assert_eq!(read("/%c1%8frders"), Err(Ambiguous::NotUtf8));
    }

    #[test]
    fn a_path_that_is_sent_in_its_normal_spelling_costs_no_extension() {
        assert!(meant("/orders", true).unwrap().is_none());
        assert!(meant("/Orders", false).unwrap().is_none());
        let NormalPath(path) = meant("/%4Frders/", false).unwrap().unwrap();
        assert_eq!(path, "/Orders");
    }

    proptest! {
        /// A second server that reads the path decodes nothing more.
        #[test]
        fn a_normal_spelling_is_its_own(path in "/([a-zK/.;% é]|%[0-9A-Fa-f]{2}){0,12}", fold in any::<bool>()) {
            if let Ok(own) = normal(&path, fold) {
                prop_assert_eq!(normal(&own, fold), Ok(Cow::Borrowed(&*own)));
                prop_assert!(own.starts_with('/') && own.is_ascii());
            }
        }
    }
}
