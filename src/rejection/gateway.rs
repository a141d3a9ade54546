//! The sidecar's own refusals: their codes, and the form of their responses.

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, Response, StatusCode};

use super::template::{Values, request_id};
use super::{RejectionRules, Retry, codes};
use crate::message::media_type::is_grpc;

codes! {
    /// Why the sidecar itself responds to a request. A code with the word of a
    /// [`RejectionCode`](crate::rejection::RejectionCode) shares that code's status and body in a
    /// file.
    GatewayCode -> (StatusCode, Retry, &'static str):
    /// The upstream was not reached.
    UpstreamUnreachable "upstream-unreachable" (StatusCode::BAD_GATEWAY, Retry::SameKey, "Upstream not reached");
    /// The upstream broke off before the head of its response.
    UpstreamBroken "upstream-broken" (StatusCode::BAD_GATEWAY, Retry::SameKey, "Upstream broke off");
    /// The upstream did not respond in time.
    UpstreamTimeout "upstream-timeout" (StatusCode::GATEWAY_TIMEOUT, Retry::SameKey, "Upstream did not answer in time");
    /// Too many requests are at the upstream, or wait for it.
    OverCapacity "over-capacity" (StatusCode::SERVICE_UNAVAILABLE, Retry::SameKey, "Over capacity");
    /// The client's body broke off while it was forwarded.
    BodyUnreadable "body-unreadable" (StatusCode::BAD_REQUEST, Retry::SameKey, "Request body unreadable");
    /// Servers may read the path in different ways.
    PathAmbiguous "path-ambiguous" (StatusCode::BAD_REQUEST, Retry::Never, "Path ambiguous");
    /// The method is that of a protected route in other letters.
    MethodInvalid "method-invalid" (StatusCode::BAD_REQUEST, Retry::Never, "Method not in upper case");
    /// The request does not name one host.
    HostInvalid "host-invalid" (StatusCode::BAD_REQUEST, Retry::Never, "Host missing or invalid");
    /// The target, or what says where the request ends, is not as HTTP requires.
    RequestMalformed "request-malformed" (StatusCode::BAD_REQUEST, Retry::Never, "Request malformed");
    /// The body has another transfer coding than `chunked`.
    TransferCodingUnknown "transfer-coding-unknown" (StatusCode::NOT_IMPLEMENTED, Retry::Never, "Transfer coding unknown");
    /// The method is CONNECT.
    ConnectRefused "connect-refused" (StatusCode::NOT_IMPLEMENTED, Retry::Never, "CONNECT is not served");
    /// The authorizer denied the request. The status is the authorizer's 401 or 403.
    NotAuthorized "not-authorized" (StatusCode::FORBIDDEN, Retry::Never, "Not authorized");
    /// The authorizer gave no answer.
    AuthorizerUnavailable "authorizer-unavailable" (StatusCode::BAD_GATEWAY, Retry::SameKey, "Authorizer not available");
}

impl GatewayCode {
    /// Returns the HTTP status that the refusal has unless the file sets another one.
    #[must_use]
    pub const fn default_status(self) -> StatusCode {
        self.row().0
    }
}

/// One refusal of the sidecar.
#[derive(Clone, Copy, Debug)]
pub struct Refusal<'a> {
    /// Why the sidecar responds itself.
    pub code: GatewayCode,
    /// The status, unless the file sets another one.
    pub status: StatusCode,
    /// What the client can do. `None` for a request that was not protected, whose key does not
    /// matter.
    pub retry: Option<Retry>,
    /// One or two sentences for the person who reads the response.
    pub detail: &'a str,
}

impl<'a> Refusal<'a> {
    /// Makes a refusal of a protected request, with the default status of its code.
    #[must_use]
    pub const fn new(code: GatewayCode, detail: &'a str) -> Self {
        let (status, retry, _) = code.row();
        Self {
            code,
            status,
            retry: Some(retry),
            detail,
        }
    }
}

/// What the response to a refused request depends on: a part of the request's head.
#[derive(Clone, Debug, Default)]
pub struct Asked {
    request_id: Option<HeaderValue>,
    grpc: bool,
}

/// Makes the responses of refusals, with the statuses and the bodies of a layer's file.
#[derive(Clone, Debug)]
pub struct Refusals(RejectionRules);

impl Refusals {
    pub(crate) fn new(rules: &RejectionRules) -> Self {
        Self(rules.clone())
    }

    /// Keeps of a request's head what [`response`](Self::response) needs.
    #[must_use]
    pub fn asked(&self, headers: &HeaderMap) -> Asked {
        if !self.0.look_at_requests() && self.0.statuses.is_empty() {
            return Asked::default();
        }
        Asked {
            request_id: request_id(headers).cloned(),
            grpc: is_grpc(headers),
        }
    }

    /// Returns the response of a refusal: in the form that the file gives to its code, else a
    /// problem document (RFC 9457) with the members that the layer's rejections have.
    ///
    /// A gRPC client gets the problem document with the default status, which the client's library
    /// translates to a status of gRPC.
    #[must_use]
    pub fn response(&self, refusal: &Refusal<'_>, asked: &Asked) -> Response<Bytes> {
        let code = refusal.code.as_str();
        let own_status = self.0.status(code).filter(|_| !asked.grpc);
        let status = own_status.unwrap_or(refusal.status);
        let title = refusal.code.row().2;
        let retry = refusal.retry.map(Retry::as_str);
        let mut response = Response::new(Bytes::new());
        *response.status_mut() = status;
        let headers = response.headers_mut();
        let content_type = HeaderValue::from_static("application/problem+json");
        headers.insert(CONTENT_TYPE, content_type);
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if refusal.code == GatewayCode::OverCapacity {
            headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        if let Some(body) = self.0.body(code).filter(|_| !asked.grpc) {
            let values = Values {
                code,
                title,
                detail: refusal.detail,
                status,
                retry: retry.unwrap_or_default(),
                docs_url: self.0.docs_url.as_deref().unwrap_or_default(),
            };
            return body.render(&values, asked.request_id.as_ref(), response);
        }
        let problem = serde_json::json!({
            "type": "about:blank",
            "title": title,
            "status": status.as_u16(),
            "detail": refusal.detail,
            "code": code,
            "retry": retry,
            "source": "idempotency-sidecar",
        });
        *response.body_mut() = Bytes::from(problem.to_string());
        response
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::rejection::Template;

    fn refused(
        rules: &RejectionRules,
        headers: &[(&'static str, &'static str)],
    ) -> Response<Bytes> {
        let mut asked = HeaderMap::new();
        for (name, value) in headers {
            asked.insert(*name, HeaderValue::from_static(value));
        }
        let refusals = Refusals::new(rules);
        let refusal = Refusal::new(GatewayCode::UpstreamTimeout, "Why.");
        refusals.response(&refusal, &refusals.asked(&asked))
    }

    #[test]
    fn a_refusal_is_a_problem_document() {
        let response = refused(&RejectionRules::default(), &[]);
        assert_eq!(response.status(), 504);
        assert_eq!(response.headers()[CONTENT_TYPE], "application/problem+json");
        assert_eq!(response.headers()[CACHE_CONTROL], "no-store");
        let body: Value = serde_json::from_slice(response.body()).unwrap();
        assert_eq!(
            (&body["status"], &body["code"]),
            (&504.into(), &"upstream-timeout".into())
        );
    }

    #[test]
    fn an_own_status_or_body_is_for_all_but_grpc() {
        let grpc = [("content-type", "application/grpc")];
        let status = RejectionRules {
            statuses: vec![("upstream-timeout", StatusCode::IM_A_TEAPOT)],
            ..RejectionRules::default()
        };
        assert_eq!(refused(&status, &[]).status(), 418);
        assert_eq!(refused(&status, &grpc).status(), 504);
        let body = Template::new("text/plain", "{code} {request_id}").unwrap();
        let body = RejectionRules {
            bodies: vec![("upstream-timeout", body)],
            ..RejectionRules::default()
        };
        let own = refused(&body, &[("x-request-id", "r-1")]);
        assert_eq!(own.body(), "upstream-timeout r-1");
        assert_eq!(own.headers()[CACHE_CONTROL], "no-store");
        assert!(refused(&body, &grpc).body().starts_with(b"{"));
    }
}
