//! What the status, the headers and the content type of a message say about its body.

use http::header::{CONNECTION, CONTENT_TYPE, TE, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, response};

/// The headers that belong to one connection and not to the message (RFC 9110, section 7.6.1).
///
/// `Content-Length` is not listed, because the server computes it again, and neither is `Trailer`,
/// which belongs to the message.
pub(crate) const HOP_BY_HOP: [HeaderName; 6] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    TE,
    TRANSFER_ENCODING,
    UPGRADE,
];

const GRPC: &[u8] = b"application/grpc";

/// So many headers are looked through faster than one of them is looked up.
const FEW: usize = 4;

/// The first value of a header of a response, which mostly has a few.
pub(crate) fn field<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a HeaderValue> {
    if headers.len() > FEW {
        return headers.get(name);
    }
    let (_, value) = headers.iter().find(|(own, _)| *own == name)?;
    Some(value)
}

/// Returns the media type of a `Content-Type` without its parameters.
pub(crate) fn media_type(content_type: Option<&HeaderValue>) -> Option<&[u8]> {
    let own = content_type?
        .as_bytes()
        .split(|byte| *byte == b';')
        .next()?;
    Some(own.trim_ascii())
}

/// Compares the media type of a `Content-Type` with `wanted`; parameters are ignored.
pub(crate) fn is_media_type(content_type: Option<&HeaderValue>, wanted: &str) -> bool {
    content_type
        .and_then(|own| without_prefix(own.as_bytes(), wanted.as_bytes()))
        .is_some_and(is_end)
}

/// Whether a content type is JSON: its media type ends with `/json` or `+json`.
pub(crate) fn is_json(content_type: &str) -> bool {
    let own = content_type.split(';').next().unwrap_or_default().trim();
    let own = own.to_ascii_lowercase();
    own.ends_with("/json") || own.ends_with("+json")
}

/// Whether a message is gRPC: its media type is `application/grpc` or begins with
/// `application/grpc+`. gRPC-Web is not, because it carries its status in the body.
pub(crate) fn is_grpc(headers: &HeaderMap) -> bool {
    field(headers, &CONTENT_TYPE)
        .and_then(|own| without_prefix(own.as_bytes(), GRPC))
        .is_some_and(|rest| rest.first() == Some(&b'+') || is_end(rest))
}

/// What follows after `prefix` in a `Content-Type` that begins with it, in upper or lower case.
fn without_prefix<'a>(content_type: &'a [u8], prefix: &[u8]) -> Option<&'a [u8]> {
    let (own, rest) = content_type
        .trim_ascii_start()
        .split_at_checked(prefix.len())?;
    // Types that are compared begin alike: most that differ do so in their last letters.
    let (last, of_prefix) = (own.last()?, prefix.last()?);
    let is = last.eq_ignore_ascii_case(of_prefix) && own.eq_ignore_ascii_case(prefix);
    is.then_some(rest)
}

/// Whether a media type ends where this rest of its `Content-Type` begins.
fn is_end(rest: &[u8]) -> bool {
    matches!(rest.trim_ascii_start().first(), None | Some(b';'))
}

/// Whether HTTP allows a response of this status to have a body.
pub(crate) fn can_have_body(status: StatusCode) -> bool {
    !status.is_informational()
        && !matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
}

/// Whether the body of this response has no end to wait for: the response upgrades the connection
/// or is a stream of events.
pub(crate) fn never_ends(head: &response::Parts) -> bool {
    head.status == StatusCode::SWITCHING_PROTOCOLS || is_event_stream(&head.headers)
}

/// Whether a message is a stream of events.
pub(crate) fn is_event_stream(headers: &HeaderMap) -> bool {
    is_media_type(field(headers, &CONTENT_TYPE), "text/event-stream")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_type(content_type: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(content_type))])
    }

    #[test]
    fn a_content_type_says_what_is_grpc() {
        for grpc in [
            "application/grpc",
            "application/grpc+proto",
            "application/grpc+json",
            "Application/GRPC",
            "application/grpc ; x=1",
        ] {
            assert!(is_grpc(&of_type(grpc)), "{grpc}");
        }
        for other in [
            "application/grpc-web",
            "application/grpc-web+proto",
            "application/grpc-web-text",
            "application/grpcs",
            "application/grp",
            "application/json",
            "",
        ] {
            assert!(!is_grpc(&of_type(other)), "{other}");
        }
        assert!(!is_grpc(&HeaderMap::new()));
    }
}
