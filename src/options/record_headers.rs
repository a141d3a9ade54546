//! Which headers of a response are recorded.

use http::header::{CONNECTION, DATE, SET_COOKIE, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::error::ConfigError;
use crate::message::media_type::HOP_BY_HOP;

/// Which headers of a response are recorded. Hop-by-hop headers, and headers that `Connection`
/// names, are never recorded.
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

    /// Records only these headers. `Content-Type` is recorded only if it is one of them.
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
        match &self.error {
            None => Ok(()),
            Some(error) => Err(ConfigError::new("record_headers", error)),
        }
    }

    /// Copies the headers that are recorded. Values are copied byte by byte, because a value can be
    /// a slice of the buffer that a whole message was read into.
    pub(crate) fn of(&self, headers: &HeaderMap) -> HeaderMap {
        let mut kept = HeaderMap::with_capacity(headers.keys_len());
        for (name, value) in headers {
            if self.keeps(name) {
                let mut copy =
                    HeaderValue::from_bytes(value.as_bytes()).unwrap_or_else(|_| value.clone());
                copy.set_sensitive(value.is_sensitive());
                kept.append(name, copy);
            }
        }
        for named in headers.get_all(CONNECTION) {
            for name in named.to_str().unwrap_or_default().split(',') {
                kept.remove(name.trim());
            }
        }
        kept
    }

    fn keeps(&self, name: &HeaderName) -> bool {
        self.names.contains(name) == self.allow && !HOP_BY_HOP.contains(name)
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
        let kept = RecordHeaders::default().of(&headers);
        let mut names: Vec<_> = kept.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["content-type", "trailer", "x-id"]);
        assert_eq!(kept.get_all("x-id").iter().count(), 2);

        let kept = RecordHeaders::allow(["X-Id", "connection"]).of(&headers);
        assert_eq!(
            kept.keys().map(HeaderName::as_str).collect::<Vec<_>>(),
            ["x-id"]
        );
    }
}
