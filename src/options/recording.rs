//! Which responses are recorded.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, StatusCode};

use crate::display::header_name;
use crate::message::media_type::{is_grpc, media_type};

pub use super::record_headers::RecordHeaders;
pub use super::statuses::{IntoStatuses, Statuses};

/// Says in a response's extensions whether that response is recorded. A handler inserts this
/// value, and the value overrides `record`, `skip_types`, `skip_headers` and `skip_json`.
///
/// ```
/// use http::Response;
/// use tower_idempotency::recording::Recording;
///
/// let mut response = Response::new("try again tomorrow");
/// response.extensions_mut().insert(Recording::Skip);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Recording {
    /// Record the response: a retry gets the recorded response.
    Keep,
    /// Do not record the response: a retry executes again.
    Skip,
    /// The operation has happened, but this response is not kept: a retry is rejected with
    /// `response-unavailable`. This is for responses that must not be stored, and for those that
    /// could not be read from an upstream.
    Seal,
    /// The handler does not know whether the operation has happened. For example, an upstream
    /// stopped responding, and may still execute the request. The record stays in flight until its
    /// lease lapses; [`OnLapsedLease`](crate::options::OnLapsedLease) says what happens then.
    InDoubt,
    /// Apply the route's `record` rule if the body arrives complete. If the body breaks off, and
    /// the rule would not record the response, leave the record in flight (see
    /// [`InDoubt`](Self::InDoubt)). This is for responses that are forwarded from an upstream: the
    /// upstream may still execute the request when the body breaks off.
    IfComplete,
}

/// The status, headers and trailers of a finished response, which a [`RecordRule`] decides about.
#[derive(Debug)]
pub struct ResponseHead<'a> {
    pub(crate) status: StatusCode,
    pub(crate) headers: &'a HeaderMap,
    pub(crate) trailers: Option<&'a HeaderMap>,
    /// Whether the response is of gRPC.
    grpc: bool,
}

impl<'a> ResponseHead<'a> {
    /// Makes the head of a response, so that a rule can be tested.
    #[must_use]
    pub fn new(
        status: StatusCode,
        headers: &'a HeaderMap,
        trailers: Option<&'a HeaderMap>,
    ) -> Self {
        Self {
            status,
            headers,
            trailers,
            grpc: is_grpc(headers),
        }
    }

    /// The HTTP status.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// The headers.
    #[must_use]
    pub fn headers(&self) -> &HeaderMap {
        self.headers
    }

    /// The trailers, if there were any.
    #[must_use]
    pub fn trailers(&self) -> Option<&HeaderMap> {
        self.trailers
    }

    /// The status code of a gRPC response, from its headers or its trailers; 2 (`UNKNOWN`) if both
    /// lack one. `None` for a response that is not gRPC.
    #[must_use]
    pub fn grpc_status(&self) -> Option<u32> {
        self.grpc.then(|| self.sent_grpc_status().unwrap_or(2))
    }

    /// Whether this is a gRPC response whose status must be in trailers that were not read.
    pub(crate) fn awaits_grpc_status(&self) -> bool {
        self.grpc && self.sent_grpc_status().is_none()
    }

    /// Whether this is a gRPC response whose headers or trailers say that the call failed.
    #[cfg(feature = "_sql")]
    pub(crate) fn is_failed_grpc(&self) -> bool {
        self.grpc && self.sent_grpc_status().is_some_and(|code| code != 0)
    }

    fn sent_grpc_status(&self) -> Option<u32> {
        let of = |map: &HeaderMap| map.get("grpc-status")?.to_str().ok()?.parse().ok();
        of(self.headers).or_else(|| self.trailers.and_then(of))
    }
}

/// Decides which responses are recorded. An operation whose response is not recorded is released:
/// a retry executes again.
///
/// A closure from `&ResponseHead<'_>` to `bool` is a rule, and [`Statuses`] is the default rule. A
/// full implementation looks like this:
///
/// ```
/// use std::borrow::Cow;
/// use tower_idempotency::recording::{RecordRule, ResponseHead};
///
/// /// Records every response that the upstream did not call transient.
/// struct NotTransient;
///
/// impl RecordRule for NotTransient {
///     fn records(&self, response: &ResponseHead<'_>) -> bool {
///         response.headers().get("transient-error").is_none_or(|value| value != "true")
///     }
///
///     fn describe(&self) -> Cow<'static, str> {
///         "responses without `Transient-Error: true`".into()
///     }
/// }
/// ```
pub trait RecordRule: Send + Sync + 'static {
    /// Whether this response is recorded.
    fn records(&self, response: &ResponseHead<'_>) -> bool;

    /// Completes the sentence "These responses are recorded: …" in the contract
    /// (`IdempotencyLayer::contract`), which an API's clients read.
    fn describe(&self) -> Cow<'static, str> {
        Cow::Borrowed("those that the application chooses by a rule of its own")
    }
}

impl<F> RecordRule for F
where
    F: Fn(&ResponseHead<'_>) -> bool + Send + Sync + 'static,
{
    fn records(&self, response: &ResponseHead<'_>) -> bool {
        self(response)
    }
}

macro_rules! pointer {
    ($pointer:ty) => {
        impl RecordRule for $pointer {
            fn records(&self, response: &ResponseHead<'_>) -> bool {
                (**self).records(response)
            }

            fn describe(&self) -> Cow<'static, str> {
                (**self).describe()
            }
        }
    };
}

pointer!(Box<dyn RecordRule>);
pointer!(Arc<dyn RecordRule>);

/// A header by which a response says that it is not to be recorded.
#[derive(Clone, Debug)]
pub(crate) struct SkipHeader {
    pub(crate) name: HeaderName,
    /// `None` stands for any value.
    pub(crate) value: Option<String>,
}

impl SkipHeader {
    /// Reads `name` or `name: value`. An error is the rest of a sentence.
    pub(super) fn read(text: &str) -> Result<Self, String> {
        let (name, value) = match text.split_once(':') {
            Some((name, value)) => (name.trim_end(), Some(value.trim().to_owned())),
            None => (text, None),
        };
        match name.parse() {
            Err(_) => Err(format!("names `{name}`, which is not a header's name")),
            Ok(_) if value.as_deref() == Some("") => {
                Err(format!("names `{name}:` without a value"))
            }
            Ok(name) => Ok(Self { name, value }),
        }
    }

    pub(super) fn is_in(&self, headers: &HeaderMap) -> bool {
        let mut values = headers.get_all(&self.name).iter();
        match &self.value {
            None => values.next().is_some(),
            Some(value) => values.any(|own| own.as_bytes().eq_ignore_ascii_case(value.as_bytes())),
        }
    }
}

impl fmt::Display for SkipHeader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&header_name(&self.name))?;
        match &self.value {
            Some(value) => write!(f, ": {value}"),
            None => Ok(()),
        }
    }
}

/// Whether the content type of these headers is one of `types`, which are in lower case and may be
/// families such as `image/*`.
pub(super) fn has_type(headers: &HeaderMap, types: &[String]) -> bool {
    let is = |own: &[u8], skipped: &str| match skipped.strip_suffix('*') {
        Some("*/") => true,
        Some(family) => own
            .get(..family.len())
            .is_some_and(|own| own.eq_ignore_ascii_case(family.as_bytes())),
        None => own.eq_ignore_ascii_case(skipped.as_bytes()),
    };
    !types.is_empty()
        && media_type(headers.get(CONTENT_TYPE))
            .is_some_and(|own| types.iter().any(|skipped| is(own, skipped)))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn fields(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in fields {
            map.append(*name, HeaderValue::from_static(value));
        }
        map
    }

    #[test]
    fn a_skipped_header_is_written_as_it_is_read() {
        for text in ["Transient-Error: true", "X-Volatile"] {
            assert_eq!(SkipHeader::read(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn a_rule_of_the_applications_own_is_called_that() {
        let own = |_: &ResponseHead<'_>| true;
        assert!(own.describe().contains("a rule of its own"));
    }

    #[cfg(feature = "_sql")]
    #[test]
    fn a_grpc_response_awaits_its_status_and_has_failed_by_it() {
        let grpc = fields(&[("content-type", "application/grpc")]);
        let json = fields(&[("content-type", "application/json")]);
        for (headers, status, awaits, failed) in [
            (&grpc, None, true, false),
            (&grpc, Some("0"), false, false),
            (&grpc, Some("1"), false, true),
            (&json, None, false, false),
            (&json, Some("1"), false, false),
        ] {
            let trailers = status.map(|status| fields(&[("grpc-status", status)]));
            let response = ResponseHead::new(StatusCode::OK, headers, trailers.as_ref());
            assert_eq!(response.awaits_grpc_status(), awaits, "{response:?}");
            assert_eq!(response.is_failed_grpc(), failed, "{response:?}");
        }
    }
}
