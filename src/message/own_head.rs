//! The head of a request in an allocation of its own.

use bytes::{Bytes, BytesMut};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderValue, Uri};

/// Copies the header values and the target of a request. A server cuts them out of the buffer that
/// it reads a connection into, and such a buffer can be many times as large as the head: a request
/// that waits would keep the whole buffer.
pub(crate) fn own_head(head: &mut Parts) {
    let values: usize = head.headers.values().map(HeaderValue::len).sum();
    let target = relative(&head.uri).map_or(0, str::len);
    let mut copies = BytesMut::with_capacity(values + target);
    for value in head.headers.values_mut() {
        copies.extend_from_slice(value.as_bytes());
        let copy = copies.split().freeze();
        // What a header value was made of is one again.
        if let Ok(mut copy) = HeaderValue::from_maybe_shared(copy) {
            copy.set_sensitive(value.is_sensitive());
            *value = copy;
        }
    }
    #[cfg(feature = "axum")]
    let seen = head.uri.clone();
    own_uri(&mut head.uri, &mut copies);
    #[cfg(feature = "axum")]
    if let Some(original) = head.extensions.get_mut::<axum::extract::OriginalUri>() {
        if original.0 == seen {
            original.0 = head.uri.clone();
        } else {
            own_uri(&mut original.0, &mut copies);
        }
    }
}

/// The target of a request that names no server, as most do.
fn relative(uri: &Uri) -> Option<&str> {
    let is_relative = uri.scheme().is_none() && uri.authority().is_none();
    uri.path_and_query()
        .filter(|_| is_relative)
        .map(PathAndQuery::as_str)
}

fn own_uri(uri: &mut Uri, copies: &mut BytesMut) {
    let copy = match relative(uri) {
        Some(target) => {
            copies.extend_from_slice(target.as_bytes());
            copies.split().freeze()
        }
        None => Bytes::from(uri.to_string()),
    };
    if let Ok(copy) = Uri::from_maybe_shared(copy)
        && copy == *uri
    {
        *uri = copy;
    }
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    /// The bytes of `part` are outside of `buffer`.
    fn is_outside(part: &[u8], buffer: &[u8]) -> bool {
        !buffer.as_ptr_range().contains(&part.as_ptr())
    }

    #[test]
    fn a_head_that_is_cut_out_of_a_buffer_keeps_its_values_and_not_the_buffer() {
        let buffer = Bytes::from(b"/orders?of=7 one two secret ".repeat(1000));
        let value = |range| HeaderValue::from_maybe_shared(buffer.slice(range)).unwrap();
        let target = Uri::from_maybe_shared(buffer.slice(0..12)).unwrap();
        let mut secret = value(21..27);
        secret.set_sensitive(true);
        let request = Request::post(target.clone())
            .header("x-a", value(13..16))
            .header("x-a", value(17..20))
            .header("authorization", secret);
        let (mut head, ()) = request.body(()).unwrap().into_parts();
        #[cfg(feature = "axum")]
        head.extensions.insert(axum::extract::OriginalUri(target));
        let before = head.clone();
        own_head(&mut head);
        assert_eq!((&head.headers, &head.uri), (&before.headers, &before.uri));
        assert!(head.headers["authorization"].is_sensitive());
        for value in head.headers.values() {
            assert!(is_outside(value.as_bytes(), &buffer), "{value:?}");
        }
        assert!(is_outside(head.uri.path().as_bytes(), &buffer));
        assert!(is_outside(head.uri.query().unwrap().as_bytes(), &buffer));
        #[cfg(feature = "axum")]
        {
            let original = head.extensions.get::<axum::extract::OriginalUri>().unwrap();
            assert_eq!(original.0, before.uri);
            assert!(is_outside(original.path().as_bytes(), &buffer));
        }
    }

    #[test]
    fn every_form_of_a_target_stays_what_it_is() {
        for target in [
            "/",
            "*",
            "/a?b",
            "https://example.com/a?b",
            "example.com:443",
            "http://h?q",
        ] {
            let request = Request::get(target).body(()).unwrap();
            let (mut head, ()) = request.into_parts();
            let before = head.uri.clone();
            own_head(&mut head);
            assert_eq!(head.uri, before, "{target}");
            assert_eq!(head.uri.to_string(), before.to_string(), "{target}");
        }
    }
}
