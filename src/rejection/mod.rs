//! What a request that the layer rejects is told: codes, texts, and the forms they are sent in.

pub(crate) mod grpc;

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, LINK, RETRY_AFTER};
use http::request::Parts;
use http::{HeaderValue, Response, StatusCode};

mod reasons;
mod template;

pub(crate) use template::Template;

/// What a client can do about a rejection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Retry {
    /// Send the same request again, with the same key.
    SameKey,
    /// Correct the request, and send it with a new (or well-formed) key.
    NewKey,
    /// Sending it again does not help.
    Never,
}

impl Retry {
    /// As it stands in the member `retry`: `same-key`, `new-key` or `never`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Retry::SameKey => "same-key",
            Retry::NewKey => "new-key",
            Retry::Never => "never",
        }
    }
}

/// Declares [`RejectionCode`]. A row has the variant; its word; the HTTP status and the gRPC status;
/// what a client can do; and the title.
macro_rules! codes {
    ($($(#[$doc:meta])* $code:ident $word:literal $status:ident $grpc:literal $retry:ident $title:literal;)*) => {
        /// Why a request was not executed and not replayed.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[non_exhaustive]
        pub enum RejectionCode {
            $($(#[$doc])* $code,)*
        }

        impl RejectionCode {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$code),*];

            const fn row(self) -> (&'static str, StatusCode, u32, Retry, &'static str) {
                match self {
                    $(Self::$code => ($word, StatusCode::$status, $grpc, Retry::$retry, $title),)*
                }
            }
        }
    };
}

codes! {
    /// A key is required here, and the request has none.
    KeyRequired "key-required" BAD_REQUEST 3 NewKey "Idempotency key required";
    /// The key is malformed, empty, sent twice or of the wrong format.
    KeyInvalid "key-invalid" BAD_REQUEST 3 NewKey "Idempotency key invalid";
    /// The key is too short.
    KeyTooShort "key-too-short" BAD_REQUEST 3 NewKey "Idempotency key too short";
    /// The key is too long.
    KeyTooLong "key-too-long" BAD_REQUEST 3 NewKey "Idempotency key too long";
    /// The scope finds no caller.
    ScopeMissing "scope-missing" BAD_REQUEST 16 Never "Caller unknown";
    /// The request's body is larger than `max_request_body`.
    BodyTooLarge "body-too-large" PAYLOAD_TOO_LARGE 11 Never "Request body too large";
    /// The request's body took longer than `body_timeout`.
    BodyTimeout "body-timeout" REQUEST_TIMEOUT 4 SameKey "Request body too slow";
    /// The request's body broke off.
    BodyUnreadable "body-unreadable" BAD_REQUEST 14 SameKey "Request body unreadable";
    /// The key was used for another request.
    KeyReused "key-reused" UNPROCESSABLE_ENTITY 3 NewKey "Idempotency key reused";
    /// The first request with this key is still running.
    InFlight "in-flight" CONFLICT 10 SameKey "Request still in flight";
    /// It is not known how the first request ended (`on_lapsed_lease = refuse`).
    OutcomeUnknown "outcome-unknown" CONFLICT 9 SameKey "Outcome unknown";
    /// The operation is done, but its response was not kept.
    ResponseUnavailable "response-unavailable" CONFLICT 6 Never "Response unavailable";
    /// The store did not answer.
    StoreUnavailable "store-unavailable" SERVICE_UNAVAILABLE 14 SameKey "Idempotency store unavailable";
    /// There is no room for another operation.
    OverCapacity "over-capacity" SERVICE_UNAVAILABLE 8 SameKey "Over capacity";
}

impl RejectionCode {
    /// The code as it stands in the member `code`, such as `key-reused`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        self.row().0
    }

    /// The HTTP status, unless the layer was given another one.
    #[must_use]
    pub const fn default_status(self) -> StatusCode {
        self.row().1
    }

    /// The status code of gRPC, such as 10 (`ABORTED`).
    #[must_use]
    pub const fn grpc_status(self) -> u32 {
        self.row().2
    }

    /// What the client can do.
    #[must_use]
    pub const fn retry(self) -> Retry {
        self.row().3
    }

    /// A short name for people, the same for every occurrence.
    #[must_use]
    pub const fn title(self) -> &'static str {
        self.row().4
    }

    /// Whether waiting a moment is what helps.
    const fn says_when(self) -> bool {
        matches!(
            self,
            Self::InFlight | Self::StoreUnavailable | Self::OverCapacity
        )
    }
}

impl fmt::Display for RejectionCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One refusal, before it is rendered. It holds nothing of another request,
/// of a scope or of a stored answer.
#[derive(Clone, Debug)]
pub struct Rejection {
    code: RejectionCode,
    detail: Cow<'static, str>,
    status: StatusCode,
    retry_after: Option<Duration>,
    docs_url: Option<Arc<str>>,
}

impl Rejection {
    /// A rejection with the default status of its code, to test a renderer
    /// with. `detail` is for the person who reads the answer.
    pub fn new(code: RejectionCode, detail: impl Into<Cow<'static, str>>) -> Self {
        Self {
            code,
            detail: detail.into(),
            status: code.default_status(),
            retry_after: None,
            docs_url: None,
        }
    }

    /// With another status than the default of its code.
    #[cfg(feature = "_sql")]
    pub(crate) fn with_status(mut self, status: StatusCode) -> Self {
        self.status = status;
        self
    }

    /// With the layer's word on statuses, waiting and documentation.
    pub(crate) fn settle(mut self, rules: &RejectionRules, retry_after: Duration) -> Self {
        let own = rules.statuses.iter().find(|(code, _)| *code == self.code);
        self.status = own.map_or(self.status, |(_, status)| *status);
        self.retry_after = self.code.says_when().then_some(retry_after);
        self.docs_url.clone_from(&rules.docs_url);
        self
    }

    /// Which of the reasons it is.
    #[must_use]
    pub fn code(&self) -> RejectionCode {
        self.code
    }

    /// One or two sentences for the person who reads the answer.
    #[must_use]
    pub fn detail(&self) -> &str {
        &self.detail
    }

    /// The status of the answer.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// How long to wait before the next attempt, where waiting helps.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }

    /// The answer as RFC 9457 has it: `application/problem+json` with the
    /// members `type`, `title`, `status`, `detail`, `code`, `retry` and
    /// `source`. What a layer sends that was told nothing else, except to gRPC
    /// requests: they get [`grpc`](Self::grpc).
    #[must_use]
    pub fn problem(&self) -> Response<Bytes> {
        let problem = serde_json::json!({
            "type": self.docs_url.as_deref().unwrap_or("about:blank"),
            "title": self.code.title(),
            "status": self.status.as_u16(),
            "detail": self.detail,
            "code": self.code.as_str(),
            "retry": self.code.retry().as_str(),
            "source": "idempotency",
        });
        self.answer("application/problem+json", problem.to_string())
    }

    /// An answer with a body of the application's own, and the status and
    /// headers of this rejection: `Cache-Control: no-store`, `Retry-After` and
    /// `Link` where they apply.
    pub fn answer(&self, content_type: &str, body: impl Into<Bytes>) -> Response<Bytes> {
        let mut response = Response::new(body.into());
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        if let Ok(content_type) = HeaderValue::from_str(content_type) {
            headers.insert(CONTENT_TYPE, content_type);
        }
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(wait) = self.retry_after {
            // Whole seconds on the wire; less than one would say "at once".
            let seconds = wait
                .as_secs()
                .saturating_add(u64::from(wait.subsec_nanos() > 0));
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        if let Some(url) = &self.docs_url
            && let Ok(link) = HeaderValue::from_str(&format!("<{url}>; rel=\"describedby\""))
        {
            headers.insert(LINK, link);
        }
        response
    }
}

/// Gives rejections an application's own shape.
///
/// Closures are renderers. This one gives a service its envelope, with the
/// id of the request:
///
/// ```
/// use http::request::Parts;
/// use serde_json::json;
/// use tower_idempotency::{IdempotencyLayer, MemoryStore, scope};
/// use tower_idempotency::rejection::Rejection;
///
/// let layer = IdempotencyLayer::builder(MemoryStore::new(), scope::shared())
///     .render_rejections(|rejection: &Rejection, request: &Parts| {
///         let id = request.headers.get("x-request-id").and_then(|id| id.to_str().ok());
///         let body = json!({ "error": {
///             "code": rejection.code().as_str(),
///             "message": rejection.detail(),
///             "requestId": id,
///         }});
///         rejection.answer("application/json", body.to_string())
///     })
///     .build()?;
/// # Ok::<(), tower_idempotency::ConfigError>(())
/// ```
///
/// A type does the same, and may replace the whole answer. It is asked about
/// gRPC requests too: [`Rejection::grpc`] is what they get without it. And it
/// is asked for the examples of the contract (`IdempotencyLayer::contract`).
///
/// ```
/// use bytes::Bytes;
/// use http::{request::Parts, Response, StatusCode};
/// use tower_idempotency::rejection::{Rejection, RejectionCode, RenderRejection};
///
/// struct Quiet;
///
/// impl RenderRejection for Quiet {
///     fn render(&self, rejection: &Rejection, _request: &Parts) -> Response<Bytes> {
///         match rejection.code() {
///             RejectionCode::InFlight => rejection.answer("text/plain", "still running\n"),
///             _ => rejection.problem(),
///         }
///     }
/// }
/// ```
pub trait RenderRejection: Send + Sync + 'static {
    /// The answer to the request with this head.
    fn render(&self, rejection: &Rejection, request: &Parts) -> Response<Bytes>;
}

impl<F> RenderRejection for F
where
    F: Fn(&Rejection, &Parts) -> Response<Bytes> + Send + Sync + 'static,
{
    fn render(&self, rejection: &Rejection, request: &Parts) -> Response<Bytes> {
        self(rejection, request)
    }
}

impl RenderRejection for Box<dyn RenderRejection> {
    fn render(&self, rejection: &Rejection, request: &Parts) -> Response<Bytes> {
        (**self).render(rejection, request)
    }
}

impl RenderRejection for Arc<dyn RenderRejection> {
    fn render(&self, rejection: &Rejection, request: &Parts) -> Response<Bytes> {
        (**self).render(rejection, request)
    }
}

/// What the layer was told about rejections.
#[derive(Clone, Default)]
pub(crate) struct RejectionRules {
    pub(crate) statuses: Vec<(RejectionCode, StatusCode)>,
    pub(crate) bodies: Vec<(RejectionCode, Template)>,
    pub(crate) renderer: Option<Arc<dyn RenderRejection>>,
    pub(crate) docs_url: Option<Arc<str>>,
}

impl RejectionRules {
    /// Whether a request's head is looked at once more when it is rejected.
    pub(crate) fn look_at_requests(&self) -> bool {
        self.renderer.is_some() || !self.bodies.is_empty()
    }

    /// `request` is there wherever [it is looked at](Self::look_at_requests);
    /// `grpc` says whether it was a gRPC request.
    pub(crate) fn render(
        &self,
        rejection: &Rejection,
        request: Option<&Parts>,
        grpc: bool,
    ) -> Response<Bytes> {
        let body = self.bodies.iter().find(|(code, _)| *code == rejection.code);
        match (body, &self.renderer, request) {
            (Some((_, body)), _, Some(request)) if !grpc => body.render(rejection, request),
            (_, Some(renderer), Some(request)) => renderer.render(rejection, request),
            _ if grpc => rejection.grpc(),
            _ => rejection.problem(),
        }
    }
}

impl fmt::Debug for RejectionRules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RejectionRules")
            .field("statuses", &self.statuses)
            .field("docs_url", &self.docs_url)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settled(code: RejectionCode, rules: &RejectionRules) -> Response<Bytes> {
        Rejection::new(code, "Why.")
            .settle(rules, Duration::from_millis(1500))
            .problem()
    }

    /// Clients act on these bytes.
    #[test]
    fn the_problem_document_is_exactly_this() {
        let response = settled(RejectionCode::InFlight, &RejectionRules::default());
        assert_eq!(response.status(), 409);
        assert_eq!(
            response.headers()["content-type"],
            "application/problem+json"
        );
        assert_eq!(response.headers()["cache-control"], "no-store");
        assert_eq!(response.headers()["retry-after"], "2");
        assert!(!response.headers().contains_key("link"));
        assert_eq!(
            response.body(),
            r#"{"code":"in-flight","detail":"Why.","retry":"same-key","source":"idempotency","status":409,"title":"Request still in flight","type":"about:blank"}"#
        );
    }

    #[test]
    fn codes_have_the_statuses_and_retries_of_the_contract() {
        let table: Vec<_> = RejectionCode::ALL
            .iter()
            .map(|code| {
                let response = settled(*code, &RejectionRules::default());
                let waits = response.headers().contains_key("retry-after");
                (
                    code.as_str(),
                    response.status().as_u16(),
                    code.retry().as_str(),
                    waits,
                )
            })
            .collect();
        assert_eq!(
            table,
            [
                ("key-required", 400, "new-key", false),
                ("key-invalid", 400, "new-key", false),
                ("key-too-short", 400, "new-key", false),
                ("key-too-long", 400, "new-key", false),
                ("scope-missing", 400, "never", false),
                ("body-too-large", 413, "never", false),
                ("body-timeout", 408, "same-key", false),
                ("body-unreadable", 400, "same-key", false),
                ("key-reused", 422, "new-key", false),
                ("in-flight", 409, "same-key", true),
                ("outcome-unknown", 409, "same-key", false),
                ("response-unavailable", 409, "never", false),
                ("store-unavailable", 503, "same-key", true),
                ("over-capacity", 503, "same-key", true),
            ]
        );
        assert_eq!(RejectionCode::KeyReused.to_string(), "key-reused");
    }

    #[test]
    fn statuses_and_documentation_can_be_changed() {
        let rules = RejectionRules {
            statuses: vec![(RejectionCode::KeyReused, StatusCode::CONFLICT)],
            bodies: Vec::new(),
            renderer: None,
            docs_url: Some("https://example.com/keys".into()),
        };
        let response = settled(RejectionCode::KeyReused, &rules);
        assert_eq!(response.status(), 409);
        assert_eq!(
            response.headers()["link"],
            "<https://example.com/keys>; rel=\"describedby\""
        );
        let body: serde_json::Value = serde_json::from_slice(response.body()).unwrap();
        assert_eq!(body["type"], "https://example.com/keys");
        assert_eq!(body["status"], 409);
    }
}
