//! The sidecar's normal spelling of a path: one for all spellings, decoded once, its own.

#![no_main]

use std::borrow::Cow;

use libfuzzer_sys::fuzz_target;
use percent_encoding::percent_decode_str;

// The module is private to the sidecar, and needs nothing else of it.
#[path = "../../sidecar/src/path.rs"]
#[allow(dead_code)]
mod path;

/// The segments that a server reads, which decodes once and ignores a slash at the end.
fn segments(path: &str) -> Vec<Cow<'_, [u8]>> {
    let path = path.strip_suffix('/').unwrap_or(path);
    path.split('/')
        .map(|segment| percent_decode_str(segment).into())
        .collect()
}

/// Another spelling: every byte but the slashes as an escape.
fn escaped(path: &str) -> String {
    let segments = segments(path).into_iter().map(|segment| {
        segment
            .iter()
            .map(|byte| format!("%{byte:02x}"))
            .collect::<String>()
    });
    segments.collect::<Vec<_>>().join("/")
}

fuzz_target!(|data: &[u8]| {
    let Ok(sent) = std::str::from_utf8(data) else {
        return;
    };
    let meant = path::meant(sent, false).map(|meant| meant.map(|path| path.0));
    let normal = path::normal(sent, false);
    // `None` says that the path was sent in its normal spelling.
    let same = meant.map(|meant| meant.map_or(Cow::Borrowed(sent), Cow::Owned));
    assert_eq!(same, normal);
    let Ok(normal) = normal else {
        return;
    };
    assert!(normal.starts_with('/') && normal.is_ascii());
    assert!(http::Uri::try_from(&*normal).is_ok_and(|uri| uri.path() == normal));
    assert_eq!(path::normal(&normal, false), Ok(Cow::Borrowed(&*normal)));
    assert_eq!(segments(sent), segments(&normal));
    if normal != "/" {
        for other in [escaped(sent), format!("{normal}/")] {
            assert_eq!(path::normal(&other, false).as_ref(), Ok(&normal), "{other}");
        }
        // No segment is read as a way up, as two, or as none.
        for segment in segments(&normal).iter().skip(1) {
            assert!(!matches!(&**segment, b"" | b"." | b".."));
            assert!(
                !segment
                    .iter()
                    .any(|byte| b"/\\;".contains(byte) || byte.is_ascii_control())
            );
        }
    }
    if let Ok(folded) = path::normal(sent, true) {
        assert_eq!(path::normal(&folded, true), Ok(Cow::Borrowed(&*folded)));
        let upper = String::from_utf8(percent_decode_str(sent).collect()).expect("it is ASCII");
        if !upper.contains('%') {
            let upper = upper.to_ascii_uppercase();
            assert_eq!(path::normal(&upper, true).as_ref(), Ok(&folded), "{upper}");
        }
    }
});
