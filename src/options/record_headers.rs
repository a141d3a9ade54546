//! Which headers of a response are recorded.

use http::header::{
    CONNECTION, CONTENT_ENCODING, CONTENT_RANGE, CONTENT_TYPE, DATE, SET_COOKIE, TRAILER,
    WWW_AUTHENTICATE,
};
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::error::ConfigError;
use crate::message::media_type::HOP_BY_HOP;
use crate::record::response::RecordedFields;

/// The headers without which a client reads a body as something else (RFC 9110, 8.3, 8.4, 14.4
/// and 6.6.2), or a gRPC response as failed. `connect-content-encoding` is that of streams of the
/// Connect protocol.
const SAYS_HOW_TO_READ: [HeaderName; 9] = [
    CONTENT_TYPE,
    CONTENT_ENCODING,
    CONTENT_RANGE,
    TRAILER,
    HeaderName::from_static("connect-content-encoding"),
    HeaderName::from_static("grpc-encoding"),
    HeaderName::from_static("grpc-status"),
    HeaderName::from_static("grpc-message"),
    HeaderName::from_static("grpc-status-details-bin"),
];

/// Which headers of a response are recorded, and which of its trailers.
///
/// Hop-by-hop headers, and headers that `Connection` names, are never recorded. Headers that say
/// how a response is read are always recorded: `Content-Type`, `Content-Encoding`,
/// `Content-Range` and `Trailer`, `connect-content-encoding` of the Connect protocol, and
/// `grpc-encoding`, `grpc-status`, `grpc-message` and `grpc-status-details-bin` of gRPC. To deny
/// one of them is an error when the layer is built.
///
/// A name that is not a header's name is an error when the layer is built.
#[derive(Clone, Debug)]
pub struct RecordHeaders {
    /// `true` if only `names` are recorded, `false` if all other headers are.
    pub(crate) allow: bool,
    pub(crate) names: Vec<HeaderName>,
    error: Option<String>,
}

impl RecordHeaders {
    /// Records all headers except these. The default is
    /// `deny(["set-cookie", "www-authenticate", "date"])`.
    #[must_use]
    pub fn deny<N: AsRef<str>>(names: impl IntoIterator<Item = N>) -> Self {
        Self::new(false, names)
    }

    /// Records only these headers, and those that say how a response is read.
    #[must_use]
    pub fn allow<N: AsRef<str>>(names: impl IntoIterator<Item = N>) -> Self {
        Self::new(true, names)
    }

    fn new<N: AsRef<str>>(allow: bool, all: impl IntoIterator<Item = N>) -> Self {
        let (mut names, mut error) = (Vec::new(), None);
        for name in all {
            let name = name.as_ref();
            match name.parse() {
                Ok(name) => names.push(name),
                Err(_) => error = Some(format!("names `{name}`, which is not a header's name")),
            }
        }
        Self {
            allow,
            names,
            error,
        }
    }

    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let wrong = |error: &str| Err(ConfigError::new("record_headers", error));
        if let Some(error) = &self.error {
            return wrong(error);
        }
        let mut denied = self.names.iter().filter(|_| !self.allow);
        match denied.find(|name| SAYS_HOW_TO_READ.contains(name)) {
            None => Ok(()),
            Some(name) => wrong(&format!(
                "denies `{name}`, without which a client can't read the response"
            )),
        }
    }

    /// The fields that are recorded, such as trailers.
    pub(crate) fn of<'a>(&self, fields: &'a HeaderMap) -> RecordedFields<'a> {
        RecordedFields::chosen(fields, |name| self.keeps(name))
    }

    /// The headers that are recorded.
    pub(crate) fn of_head<'a>(&self, headers: &'a HeaderMap) -> RecordedFields<'a> {
        // Most responses have a few headers, which are looked through faster than one is looked up.
        if headers.keys().all(|name| *name != CONNECTION) {
            return self.of(headers);
        }
        let connection = headers.get_all(CONNECTION);
        let names = |value: &HeaderValue, name: &HeaderName| {
            let mut named = value.to_str().unwrap_or_default().split(',');
            named.any(|named| named.trim().eq_ignore_ascii_case(name.as_str()))
        };
        let is_named = |name: &HeaderName| connection.iter().any(|value| names(value, name));
        RecordedFields::chosen(headers, |name| self.keeps(name) && !is_named(name))
    }

    /// The headers that `allow` records: the chosen ones, then those that say how a response is read.
    #[cfg(feature = "contract")]
    pub(crate) fn allowed(&self) -> Vec<HeaderName> {
        let mut allowed = self.names.clone();
        allowed.extend(
            SAYS_HOW_TO_READ
                .into_iter()
                .filter(|name| !self.names.contains(name)),
        );
        allowed
    }

    fn keeps(&self, name: &HeaderName) -> bool {
        let chosen = self.names.contains(name) == self.allow || SAYS_HOW_TO_READ.contains(name);
        chosen && !HOP_BY_HOP.contains(name)
    }
}

impl Default for RecordHeaders {
    fn default() -> Self {
        Self::deny([SET_COOKIE, WWW_AUTHENTICATE, DATE])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hop_by_hop_and_denied_headers_are_not_recorded() {
        let headers: HeaderMap = [
            ("connection", "close, X-Hop"),
            ("connection", "x-other"),
            ("x-hop", "1"),
            ("x-other", "1"),
            ("keep-alive", "timeout=5"),
            ("transfer-encoding", "chunked"),
            ("set-cookie", "a=1"),
            ("date", "now"),
            ("trailer", "x-sum"),
            ("content-type", "text/plain"),
            ("x-id", "1"),
            ("x-id", "2"),
        ]
        .map(|(name, value)| {
            (
                HeaderName::from_static(name),
                HeaderValue::from_static(value),
            )
        })
        .into_iter()
        .collect();
        let kept = RecordHeaders::default().of_head(&headers).copied();
        let mut names: Vec<_> = kept.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["content-type", "trailer", "x-id"]);
        assert_eq!(kept.get_all("x-id").iter().count(), 2);

        let kept = RecordHeaders::allow(["X-Id", "connection"])
            .of_head(&headers)
            .copied();
        let mut names: Vec<_> = kept.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["content-type", "trailer", "x-id"]);
    }

    #[cfg(feature = "contract")]
    #[test]
    fn a_contract_lists_what_is_allowed_and_what_a_client_reads_a_response_by() {
        let allowed = RecordHeaders::allow(["x-id", "content-type"]).allowed();
        assert_eq!(allowed[..2], ["x-id", "content-type"]);
        let mut others = SAYS_HOW_TO_READ.to_vec();
        others.retain(|name| *name != CONTENT_TYPE);
        assert_eq!(allowed[2..], others);
    }
}
