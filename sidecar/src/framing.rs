//! Where the body of a message ends, said for the next connection.

use http::Request;
use http::header::{CONTENT_LENGTH, HeaderMap, HeaderValue, TRANSFER_ENCODING};
use http_body::Body;

use crate::forwarded::{has_unread_line, tokens};

/// Makes the fields that say where a body ends right for the next connection (RFC 9112, sections 6.1
/// to 6.3): chunks beat a length, and a length that is said several times is said once. Returns
/// `false` for a transfer coding that hyper has not taken off.
pub(crate) fn settle_framing(headers: &mut HeaderMap) -> bool {
    if headers.contains_key(TRANSFER_ENCODING) {
        headers.remove(CONTENT_LENGTH);
        if has_unread_line(headers, &TRANSFER_ENCODING) {
            return false;
        }
        // `identity`, of earlier versions of HTTP, is no coding.
        let mut codings = tokens(headers, &TRANSFER_ENCODING)
            .filter(|coding| !coding.eq_ignore_ascii_case("identity"));
        return codings
            .next()
            .is_none_or(|coding| coding.eq_ignore_ascii_case("chunked"))
            && codings.next().is_none();
    }
    if headers.contains_key(CONTENT_LENGTH) && !has_plain_length(headers) {
        match length(headers) {
            Some(length) => headers.insert(CONTENT_LENGTH, length.into()),
            // hyper takes this only for a response without a body, such as one to HEAD.
            None => headers.remove(CONTENT_LENGTH),
        };
    }
    true
}

/// Whether the length is said once, and as it would be said here.
fn has_plain_length(headers: &HeaderMap) -> bool {
    let mut lines = headers.get_all(CONTENT_LENGTH).iter();
    let first = lines.next().map_or(&b""[..], HeaderValue::as_bytes);
    // A number of up to nine digits is small enough for every reader.
    (1..=9).contains(&first.len())
        && first.iter().all(u8::is_ascii_digit)
        && (first.len() == 1 || first[0] != b'0')
        && lines.next().is_none()
}

/// The length that a head gives. `None` where the lengths differ, or one is not a number.
fn length(headers: &HeaderMap) -> Option<u64> {
    let mut lengths = tokens(headers, &CONTENT_LENGTH).map(|text| text.parse::<u64>().ok());
    let first = lengths.next()?;
    first.filter(|_| lengths.all(|other| other == first))
}

/// Says where the body of a request ends: by its length if that is known, else by chunks. hyper
/// would send no body of unknown length with GET or HEAD.
pub(crate) fn frame<B: Body>(request: &mut Request<B>) {
    let body = request.body();
    let length = body.size_hint().exact();
    let has_none = body.is_end_stream();
    let headers = request.headers_mut();
    if length.is_none() && !has_none {
        headers.remove(CONTENT_LENGTH);
        let chunked = HeaderValue::from_static("chunked");
        headers.insert(TRANSFER_ENCODING, chunked);
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;
    use http::header::CONTENT_LENGTH;

    use super::has_plain_length;

    #[test]
    fn a_length_is_passed_on_only_as_it_would_be_said_here() {
        for (lines, is_plain) in [
            (&["0"][..], true),
            (&["10"], true),
            (&["010"], false),
            (&["00"], false),
            (&["10", "10"], false),
            (&["10, 10"], false),
            (&["+10"], false),
            (&[""], false),
            (&["1234567890"], false),
        ] {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(CONTENT_LENGTH, line.parse().unwrap());
            }
            assert_eq!(has_plain_length(&headers), is_plain, "{lines:?}");
        }
    }
}
