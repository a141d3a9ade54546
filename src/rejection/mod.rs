//! The responses to requests that the layer rejects (G9): their codes, their texts, and the forms
//! in which they are sent.
//!
//! Public items: [`Rejection`], [`RejectionCode`], [`Retry`], [`RenderRejection`]. May use:
//! `message`, `limits`, and the leaves `display` and `error`.

pub(crate) mod gateway;
pub(crate) mod grpc;
pub(crate) mod json_rpc;

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

use json_rpc::JsonRpcRequest;
pub(crate) use template::{DEFAULT, Template};
use template::{Values, request_id};

/// What a client can do about a rejection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Retry {
    /// The client can send the same request again, with the same key.
    SameKey,
    /// The client can correct the request, and send it with a new (or a well-formed) key.
    NewKey,
    /// The client gets the same rejection if it sends the request again.
    Never,
}

impl Retry {
    /// Returns the value of the member `retry` in the problem document: `same-key`, `new-key` or
    /// `never`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Retry::SameKey => "same-key",
            Retry::NewKey => "new-key",
            Retry::Never => "never",
        }
    }
}

/// Declares an enum of codes. Each row has the variant, its word, and what else is the same for all
/// rejections with this code.
macro_rules! codes {
    ($(#[$enum_doc:meta])* $name:ident -> $rest:ty: $($(#[$doc:meta])* $code:ident $word:literal $row:expr;)*) => {
        $(#[$enum_doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name {
            $($(#[$doc])* $code,)*
        }

        impl $name {
            /// All codes, in the order of their declaration.
            pub const ALL: &'static [Self] = &[$(Self::$code),*];

            /// Returns the value of the member `code` in the problem document, such as
            #[doc = concat!("`", codes!(@first $($word)*), "`.")]
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$code => $word,)*
                }
            }

            const fn row(self) -> $rest {
                match self {
                    $(Self::$code => $row,)*
                }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
    (@first $first:literal $($others:literal)*) => { $first };
}
use codes;

codes! {
    /// Why the layer neither executed a request nor replayed a response.
    #[non_exhaustive]
    RejectionCode -> (StatusCode, u32, Retry, &'static str):
    /// The route requires a key, and the request has none.
    KeyRequired "key-required" (StatusCode::BAD_REQUEST, 3, Retry::NewKey, "Idempotency key required");
    /// The key is malformed, empty, sent twice or of the wrong format.
    KeyInvalid "key-invalid" (StatusCode::BAD_REQUEST, 3, Retry::NewKey, "Idempotency key invalid");
    /// The key is too short.
    KeyTooShort "key-too-short" (StatusCode::BAD_REQUEST, 3, Retry::NewKey, "Idempotency key too short");
    /// The key is too long.
    KeyTooLong "key-too-long" (StatusCode::BAD_REQUEST, 3, Retry::NewKey, "Idempotency key too long");
    /// The scope found no caller in the request (G6).
    ScopeMissing "scope-missing" (StatusCode::BAD_REQUEST, 16, Retry::Never, "Caller unknown");
    /// The request's body is larger than `max_request_body`.
    BodyTooLarge "body-too-large" (StatusCode::PAYLOAD_TOO_LARGE, 11, Retry::Never, "Request body too large");
    /// The request's body took longer than `body_timeout`.
    BodyTimeout "body-timeout" (StatusCode::REQUEST_TIMEOUT, 4, Retry::SameKey, "Request body too slow");
    /// The request's body broke off.
    BodyUnreadable "body-unreadable" (StatusCode::BAD_REQUEST, 14, Retry::SameKey, "Request body unreadable");
    /// The key was used for another request.
    KeyReused "key-reused" (StatusCode::UNPROCESSABLE_ENTITY, 3, Retry::NewKey, "Idempotency key reused");
    /// The first request with this key is still running, or may still be running.
    InFlight "in-flight" (StatusCode::CONFLICT, 10, Retry::SameKey, "Request still in flight");
    /// It is not known how the operation ended: the route has
    /// [`OnLapsedLease::Refuse`](crate::options::OnLapsedLease::Refuse), or the handler of an
    /// `exactly_once` route did not commit.
    OutcomeUnknown "outcome-unknown" (StatusCode::CONFLICT, 9, Retry::SameKey, "Outcome unknown");
    /// The operation is done, but its response was not recorded.
    ResponseUnavailable "response-unavailable" (StatusCode::CONFLICT, 6, Retry::Never, "Response unavailable");
    /// The store failed, or did not respond within `store_timeout`.
    StoreUnavailable "store-unavailable" (StatusCode::SERVICE_UNAVAILABLE, 14, Retry::SameKey, "Idempotency store unavailable");
    /// A limit of what requests hold is reached, by the caller or by all callers, or the store
    /// has no room for another record (G11).
    OverCapacity "over-capacity" (StatusCode::SERVICE_UNAVAILABLE, 8, Retry::SameKey, "Over capacity");
}

impl RejectionCode {
    /// Returns the HTTP status that the rejection has unless
    /// [`rejection_status`](crate::IdempotencyLayerBuilder::rejection_status) sets another one.
    #[must_use]
    pub const fn default_status(self) -> StatusCode {
        self.row().0
    }

    /// Returns the status code of gRPC, such as 10 (`ABORTED`).
    #[must_use]
    pub const fn grpc_status(self) -> u32 {
        self.row().1
    }

    /// Returns what the client can do.
    #[must_use]
    pub const fn retry(self) -> Retry {
        self.row().2
    }

    /// Returns a short name for people, which is the same for all rejections with this code.
    #[must_use]
    pub const fn title(self) -> &'static str {
        self.row().3
    }

    /// Whether the rejection says after which time the client can try again.
    const fn says_when(self) -> bool {
        matches!(
            self,
            Self::InFlight | Self::StoreUnavailable | Self::OverCapacity
        )
    }
}

/// A rejection of one request, before it is rendered as a response.
///
/// A rejection contains nothing of another request, of a scope or of a recorded response (G6).
#[derive(Clone, Debug)]
pub struct Rejection {
    code: RejectionCode,
    detail: Cow<'static, str>,
    status: StatusCode,
    retry_after: Option<Duration>,
    docs_url: Option<Arc<str>>,
}

impl Rejection {
    /// Makes a rejection with the default status of its code, so that a renderer can be tested.
    /// `detail` is for the person who reads the response.
    pub fn new(code: RejectionCode, detail: impl Into<Cow<'static, str>>) -> Self {
        Self {
            code,
            detail: detail.into(),
            status: code.default_status(),
            retry_after: None,
            docs_url: None,
        }
    }

    /// Sets another status than the default of the code.
    #[cfg(feature = "_sql")]
    pub(crate) fn with_status(mut self, status: StatusCode) -> Self {
        self.status = status;
        self
    }

    /// Sets the status and the URL of the documentation that the layer's options name, and
    /// `Retry-After` if waiting helps.
    pub(crate) fn settle(mut self, rules: &RejectionRules, retry_after: Duration) -> Self {
        self.status = rules.status(self.code.as_str()).unwrap_or(self.status);
        self.retry_after = self.code.says_when().then_some(retry_after);
        self.docs_url.clone_from(&rules.docs_url);
        self
    }

    fn values(&self) -> Values<'_> {
        Values {
            code: self.code.as_str(),
            title: self.code.title(),
            detail: &self.detail,
            status: self.status,
            retry: self.code.retry().as_str(),
            docs_url: self.docs_url.as_deref().unwrap_or_default(),
        }
    }

    /// Returns the reason for the rejection.
    #[must_use]
    pub fn code(&self) -> RejectionCode {
        self.code
    }

    /// Returns one or two sentences for the person who reads the response.
    #[must_use]
    pub fn detail(&self) -> &str {
        &self.detail
    }

    /// Returns the HTTP status of the response.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// Returns how long the client should wait before its next attempt; `None` if waiting does not
    /// help.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }

    /// Renders the rejection as a problem document (RFC 9457): `application/problem+json` with the
    /// members `type`, `title`, `status`, `detail`, `code`, `retry` and `source`.
    ///
    /// This is the default form. The default form for gRPC requests is [`grpc`](Self::grpc).
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

    /// Renders the rejection with the application's own body.
    ///
    /// The response has the status of this rejection and its headers: `Cache-Control: no-store`,
    /// `Retry-After` (in seconds) if waiting helps, and `Link` if the layer has a `docs_url`. A
    /// `content_type` that is not a valid header value is left out.
    pub fn answer(&self, content_type: &str, body: impl Into<Bytes>) -> Response<Bytes> {
        let mut response = Response::new(body.into());
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        if let Ok(content_type) = HeaderValue::from_str(content_type) {
            headers.insert(CONTENT_TYPE, content_type);
        }
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(wait) = self.retry_after {
            // `Retry-After` has whole seconds. The wait is rounded up, because a client takes 0
            // for "at once".
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

/// Renders rejections in the application's own form.
///
/// A closure from `(&Rejection, &Parts)` to `Response<Bytes>` is a renderer. This one puts each
/// rejection into the JSON object that a service uses for its errors, with the id of the request:
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
/// A full implementation by a type looks like this. A renderer also renders the rejections of gRPC
/// requests, which otherwise get [`Rejection::grpc`], and the examples in the contract
/// (`IdempotencyLayer::contract`).
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
    /// Returns the response to the request with this head.
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

/// The options of a layer that concern rejections. Statuses and bodies are found by the words of
/// codes, because a layer has those of [`GatewayCode`](gateway::GatewayCode) too.
#[derive(Clone, Default)]
pub(crate) struct RejectionRules {
    pub(crate) statuses: Vec<(&'static str, StatusCode)>,
    pub(crate) bodies: Vec<(&'static str, Template)>,
    /// The body of the codes that `bodies` does not list.
    pub(crate) default_body: Option<Template>,
    pub(crate) renderer: Option<Arc<dyn RenderRejection>>,
    pub(crate) docs_url: Option<Arc<str>>,
}

impl RejectionRules {
    /// Whether the response to a rejected request depends on the head of that request.
    pub(crate) fn look_at_requests(&self) -> bool {
        self.renderer.is_some() || self.default_body.is_some() || !self.bodies.is_empty()
    }

    /// The status that the options name for this code.
    fn status(&self, code: &str) -> Option<StatusCode> {
        let own = self.statuses.iter().find(|(own, _)| *own == code);
        own.map(|(_, status)| *status)
    }

    /// The body that the options name for this code, or for all codes.
    pub(crate) fn body(&self, code: &str) -> Option<&Template> {
        let own = self.bodies.iter().find(|(own, _)| *own == code);
        own.map(|(_, body)| body).or(self.default_body.as_ref())
    }

    /// Renders a rejection. `request` must be `Some` if
    /// [`look_at_requests`](Self::look_at_requests) is true; `grpc` says whether the request was a
    /// gRPC request.
    pub(crate) fn render(
        &self,
        rejection: &Rejection,
        request: Option<&Parts>,
        grpc: bool,
    ) -> Response<Bytes> {
        let call = request.and_then(|request| request.extensions.get::<JsonRpcRequest>());
        let code = rejection.code.as_str();
        let body = self.body(code);
        let body = body.filter(|body| !grpc && (call.is_none() || body.is_json_rpc()));
        match (body, &self.renderer, request) {
            (Some(body), _, Some(request)) => {
                let response = rejection.answer("", Bytes::new());
                let id = request_id(&request.headers);
                let mut response = body.render(&rejection.values(), id, response);
                let Some(call) = call else { return response };
                // See `Rejection::json_rpc` for the usual status.
                *response.status_mut() = self.status(code).unwrap_or(StatusCode::OK);
                json_rpc::own_answer(call, &request.headers, response)
            }
            (_, Some(renderer), Some(request)) => renderer.render(rejection, request),
            _ if grpc => rejection.grpc(),
            _ => match call.zip(request) {
                Some((call, request)) => rejection.json_rpc(call, &request.headers),
                None => rejection.problem(),
            },
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

    /// Clients parse these bytes, so a change of them breaks clients.
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
            statuses: vec![("key-reused", StatusCode::CONFLICT)],
            docs_url: Some("https://example.com/keys".into()),
            ..RejectionRules::default()
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

    #[test]
    fn a_renderer_behind_a_pointer_renders() {
        let own = |rejection: &Rejection, _: &Parts| rejection.answer("text/plain", "own");
        let boxed: Box<dyn RenderRejection> = Box::new(own);
        let counted: Arc<dyn RenderRejection> = Arc::new(own);
        let (parts, ()) = http::Request::new(()).into_parts();
        let rejection = Rejection::new(RejectionCode::InFlight, "Why.");
        assert_eq!(boxed.render(&rejection, &parts).body(), "own");
        assert_eq!(counted.render(&rejection, &parts).body(), "own");
    }

    #[cfg(feature = "contract")]
    #[test]
    fn the_examples_of_a_contract_say_what_requests_are_told() {
        for code in RejectionCode::ALL {
            let usual = Rejection::usual(*code);
            assert_eq!(usual.code(), *code);
            assert_eq!(usual.status(), code.default_status());
        }
        for told in [
            Rejection::scope_missing(),
            Rejection::body_timeout(),
            Rejection::body_unreadable(),
            Rejection::key_reused(),
            Rejection::in_flight(),
            Rejection::outcome_unknown(),
            Rejection::response_unavailable(),
            Rejection::store_unavailable(),
            Rejection::over_capacity(),
        ] {
            assert_eq!(Rejection::usual(told.code()).detail(), told.detail());
        }
    }

    #[cfg(feature = "_sql")]
    #[test]
    fn a_handler_that_never_committed_is_a_mistake_of_the_server() {
        let rejection = Rejection::never_committed();
        assert_eq!(rejection.code(), RejectionCode::OutcomeUnknown);
        assert_eq!(rejection.status(), 500);
    }
}
