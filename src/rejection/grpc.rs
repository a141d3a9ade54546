//! The form of a rejection for clients of gRPC.

use std::fmt::Write;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue, Response};

use crate::rejection::Rejection;

/// gRPC's `DEADLINE_EXCEEDED`.
const DEADLINE_EXCEEDED: u16 = 4;

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
const GRPC_RETRY_PUSHBACK_MS: HeaderName = HeaderName::from_static("grpc-retry-pushback-ms");
const IDEMPOTENCY_CODE: HeaderName = HeaderName::from_static("idempotency-code");
const IDEMPOTENCY_RETRY: HeaderName = HeaderName::from_static("idempotency-retry");

impl Rejection {
    /// Renders the rejection for a gRPC client, as a response that has headers and no body
    /// (`Trailers-Only`).
    ///
    /// The response has the HTTP status 200, whatever [`status`](Self::status) is, and the headers
    /// `grpc-status` and `grpc-message`. For programs it has the metadata `idempotency-code`,
    /// `idempotency-retry` and, if waiting helps, `grpc-retry-pushback-ms` (in milliseconds). This
    /// is the default form for gRPC requests.
    ///
    /// ```
    /// use tower_idempotency::rejection::{Rejection, RejectionCode};
    ///
    /// let answer = Rejection::new(RejectionCode::InFlight, "Still running.").grpc();
    /// assert_eq!(answer.status(), 200);
    /// assert_eq!(answer.headers()["grpc-status"], "10");
    /// assert_eq!(answer.headers()["grpc-message"], "Still running.");
    /// assert_eq!(answer.headers()["idempotency-code"], "in-flight");
    /// assert_eq!(answer.headers()["idempotency-retry"], "same-key");
    /// ```
    #[must_use]
    pub fn grpc(&self) -> Response<Bytes> {
        let code = self.code();
        let mut response = Response::new(Bytes::new());
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert(GRPC_STATUS, HeaderValue::from(code.grpc_status()));
        headers.insert(GRPC_MESSAGE, percent_encoded(self.detail()));
        headers.insert(IDEMPOTENCY_CODE, HeaderValue::from_static(code.as_str()));
        let retry = code.retry().as_str();
        headers.insert(IDEMPOTENCY_RETRY, HeaderValue::from_static(retry));
        if let Some(wait) = self.retry_after() {
            // The value is a signed number of 32 bits. A client takes any other value for "do not
            // retry".
            let millis = i32::try_from(wait.as_millis()).unwrap_or(i32::MAX);
            headers.insert(GRPC_RETRY_PUSHBACK_MS, HeaderValue::from(millis));
        }
        response
    }
}

/// The status of a call whose client has stopped waiting, as trailers or as the headers of a
/// response that has nothing else. It is no rejection: the operation goes on.
pub(crate) fn deadline_exceeded() -> HeaderMap {
    let why = "the client's deadline is over; an operation that has begun goes on, and a retry \
               with the same key gets its response";
    HeaderMap::from_iter([
        (GRPC_STATUS, HeaderValue::from(DEADLINE_EXCEEDED)),
        (GRPC_MESSAGE, percent_encoded(why)),
    ])
}

/// The response to such a call whose own response has not begun.
pub(crate) fn deadline_exceeded_response() -> Response<Bytes> {
    let mut response = Response::new(Bytes::new());
    let headers = response.headers_mut();
    *headers = deadline_exceeded();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}

/// Encodes a value of `grpc-message`. The space and printable ASCII except the percent sign stay
/// as they are; every other character becomes the percent-encoded bytes of its UTF-8.
fn percent_encoded(message: &str) -> HeaderValue {
    let mut encoded = String::with_capacity(message.len());
    for byte in message.bytes() {
        match byte {
            b' '..=b'$' | b'&'..=b'~' => encoded.push(char::from(byte)),
            _ => write!(encoded, "%{byte:02X}").expect("a string takes it"),
        }
    }
    HeaderValue::try_from(encoded).expect("it is printable ASCII")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::rejection::{RejectionCode, RejectionRules};

    #[test]
    fn a_message_is_percent_encoded_but_for_what_is_printable() {
        let encoded = |message| percent_encoded(message).to_str().unwrap().to_owned();
        assert_eq!(encoded(""), "");
        assert_eq!(
            encoded("~ !\"#$&'()*+,-./:;<=>?@[\\]^_`{|}"),
            "~ !\"#$&'()*+,-./:;<=>?@[\\]^_`{|}"
        );
        assert_eq!(encoded("100% sure"), "100%25 sure");
        assert_eq!(encoded("a\tb\r\nc\u{0}\u{7f}"), "a%09b%0D%0Ac%00%7F");
        assert_eq!(encoded("für 5 €"), "f%C3%BCr 5 %E2%82%AC");
        assert_eq!(encoded("🦀"), "%F0%9F%A6%80");
    }

    proptest::proptest! {
        #[test]
        fn any_message_can_be_decoded(message in ".*") {
            let encoded = percent_encoded(&message);
            let mut bytes = encoded.as_bytes().iter();
            let mut decoded = Vec::new();
            while let Some(&byte) = bytes.next() {
                proptest::prop_assert!((b' '..=b'~').contains(&byte));
                decoded.push(if byte == b'%' {
                    let mut digit = || char::from(*bytes.next().unwrap()).to_digit(16).unwrap();
                    u8::try_from(digit() * 16 + digit()).unwrap()
                } else {
                    byte
                });
            }
            proptest::prop_assert_eq!(String::from_utf8(decoded).unwrap(), message);
        }
    }

    /// Clients act on these statuses, so a change of them breaks clients.
    #[test]
    fn codes_have_the_grpc_statuses_of_the_contract() {
        // The option `rejection_status` sets HTTP statuses, so it must not change a gRPC status.
        let statuses = RejectionCode::ALL
            .iter()
            .map(|code| (code.as_str(), http::StatusCode::GONE));
        let rules = RejectionRules {
            statuses: statuses.collect(),
            ..RejectionRules::default()
        };
        let table: Vec<_> = RejectionCode::ALL
            .iter()
            .map(|code| {
                let answer = Rejection::new(*code, "50 %")
                    .settle(&rules, Duration::from_millis(1500))
                    .grpc();
                assert_eq!(answer.status(), 200);
                assert!(answer.body().is_empty());
                let header = |name| Some(answer.headers().get(name)?.to_str().unwrap().to_owned());
                assert_eq!(header("content-type").unwrap(), "application/grpc");
                assert_eq!(header("grpc-message").unwrap(), "50 %25");
                let pushback = header("grpc-retry-pushback-ms");
                let others = 5 + usize::from(pushback.is_some());
                assert_eq!(answer.headers().len(), others);
                format!(
                    "{} {} {} {}",
                    header("idempotency-code").unwrap(),
                    header("grpc-status").unwrap(),
                    header("idempotency-retry").unwrap(),
                    pushback.as_deref().unwrap_or("-")
                )
            })
            .collect();
        assert_eq!(
            table,
            [
                "key-required 3 new-key -",
                "key-invalid 3 new-key -",
                "key-too-short 3 new-key -",
                "key-too-long 3 new-key -",
                "scope-missing 16 never -",
                "body-too-large 11 never -",
                "body-timeout 4 same-key -",
                "body-unreadable 14 same-key -",
                "key-reused 3 new-key -",
                "in-flight 10 same-key 1500",
                "outcome-unknown 9 same-key -",
                "response-unavailable 6 never -",
                "store-unavailable 14 same-key 1500",
                "over-capacity 8 same-key 1500",
            ]
        );
    }

    #[test]
    fn a_wait_beyond_what_grpc_can_say_is_the_longest_it_can() {
        let rejection = Rejection::new(RejectionCode::InFlight, "")
            .settle(&RejectionRules::default(), Duration::MAX);
        let answer = rejection.grpc();
        assert_eq!(answer.headers()["grpc-retry-pushback-ms"], "2147483647");
    }
}
