//! Responses that the sidecar writes itself.

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Response, StatusCode};

/// An error of the proxy. Errors of the layer are its rejections.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Problem {
    pub(crate) status: StatusCode,
    pub(crate) code: &'static str,
    pub(crate) title: &'static str,
    /// `same-key`, `new-key` or `never`, as in the layer's rejections. `None` for a request
    /// that was not protected, whose key does not matter.
    pub(crate) retry: Option<&'static str>,
}

impl Problem {
    /// A problem document (RFC 9457) with the members that the layer's rejections have.
    pub(crate) fn response(&self, detail: &str) -> Response<Bytes> {
        let problem = serde_json::json!({
            "type": "about:blank",
            "title": self.title,
            "status": self.status.as_u16(),
            "detail": detail,
            "code": self.code,
            "retry": self.retry,
            "source": "idempotency-sidecar",
        });
        let mut response = Response::new(Bytes::from(problem.to_string()));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        let content_type = HeaderValue::from_static("application/problem+json");
        headers.insert(CONTENT_TYPE, content_type);
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        response
    }
}

pub(crate) const BAD_PATH: Problem = Problem {
    status: StatusCode::BAD_REQUEST,
    code: "path-ambiguous",
    title: "Path ambiguous",
    retry: Some("never"),
};
pub(crate) const BAD_METHOD: Problem = Problem {
    status: StatusCode::BAD_REQUEST,
    code: "method-invalid",
    title: "Method not in upper case",
    retry: Some("never"),
};
pub(crate) const BAD_HOST: Problem = Problem {
    status: StatusCode::BAD_REQUEST,
    code: "host-invalid",
    title: "More than one Host",
    retry: Some("never"),
};
pub(crate) const NO_TUNNEL: Problem = Problem {
    status: StatusCode::NOT_IMPLEMENTED,
    code: "connect-refused",
    title: "CONNECT is not served",
    retry: Some("never"),
};
pub(crate) const UNREACHED: Problem = Problem {
    status: StatusCode::BAD_GATEWAY,
    code: "upstream-unreachable",
    title: "Upstream not reached",
    retry: Some("same-key"),
};
pub(crate) const BROKEN: Problem = Problem {
    status: StatusCode::BAD_GATEWAY,
    code: "upstream-broken",
    title: "Upstream broke off",
    retry: Some("same-key"),
};
pub(crate) const TIMED_OUT: Problem = Problem {
    status: StatusCode::GATEWAY_TIMEOUT,
    code: "upstream-timeout",
    title: "Upstream did not answer in time",
    retry: Some("same-key"),
};
pub(crate) const BODY_BROKEN: Problem = Problem {
    status: StatusCode::BAD_REQUEST,
    code: "body-unreadable",
    title: "Request body unreadable",
    retry: Some("same-key"),
};
pub(crate) const NOT_ALLOWED: Problem = Problem {
    status: StatusCode::FORBIDDEN,
    code: "not-authorized",
    title: "Not authorized",
    retry: Some("never"),
};
pub(crate) const NO_AUTHORIZER: Problem = Problem {
    status: StatusCode::BAD_GATEWAY,
    code: "authorizer-unavailable",
    title: "Authorizer not available",
    retry: Some("same-key"),
};
