//! What a response says about the operation: whether it is a replay, until when
//! it is kept, and which rejection it is.

use std::fmt;
use std::time::{Duration, SystemTime};

use http::header::{CONTENT_TYPE, DATE, RETRY_AFTER};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use serde_json::Value;

use super::error::{Attempt, AttemptOutcome};
use crate::message::media_type::is_media_type;
use crate::rejection::{RejectionCode, Retry};

/// What a response says about its operation in headers and, if the response is a
/// rejection of an idempotency layer, in the problem document.
///
/// [`Client`](super::Client) leaves a `Received` in the extensions of each
/// response:
///
/// ```
/// use http::Response;
/// use tower_idempotency::client::Received;
///
/// fn log<B>(response: &Response<B>) {
///     if let Some(received) = response.extensions().get::<Received>() {
///         if received.is_replay() {
///             println!("executed before, at {:?}", received.made_at());
///         }
///         if received.is_unrecorded() {
///             println!("keep this response: a retry may not get it again");
///         }
///     }
/// }
/// ```
#[derive(Clone, Debug, Default)]
pub struct Received {
    is_replay: bool,
    made_at: Option<SystemTime>,
    kept_until: Option<SystemTime>,
    is_unrecorded: bool,
    is_unprotected: bool,
    problem: Option<Problem>,
    pub(super) retry_after: Option<Duration>,
    pub(super) attempts: Vec<Attempt>,
}

impl Received {
    /// Reads the headers of a response that did not come through
    /// [`Client`](super::Client), under their default names.
    #[must_use]
    pub fn of(headers: &HeaderMap) -> Self {
        Marks::default().read(headers)
    }

    /// Whether the response is a recorded one, so that this request executed
    /// nothing.
    #[must_use]
    pub fn is_replay(&self) -> bool {
        self.is_replay
    }

    /// When the execution began that this response belongs to; for a replay, the
    /// first execution. `None` if the API does not send this time.
    #[must_use]
    pub fn made_at(&self) -> Option<SystemTime> {
        self.made_at
    }

    /// Until when the server keeps the response. After this time the same key is
    /// a new operation. `None` if the API does not send this time.
    #[must_use]
    pub fn kept_until(&self) -> Option<SystemTime> {
        self.kept_until
    }

    /// Whether the server could not record the response
    /// (`Idempotency-Status: unrecorded`). The operation was executed, and this
    /// is its response. Keep the response: a retry may be rejected, or may
    /// execute the operation again.
    #[must_use]
    pub fn is_unrecorded(&self) -> bool {
        self.is_unrecorded
    }

    /// Whether the operation was executed without protection
    /// (`Idempotency-Status: unprotected`). A retry executes the operation again.
    #[must_use]
    pub fn is_unprotected(&self) -> bool {
        self.is_unprotected
    }

    /// The problem document, if the response is a rejection of an idempotency
    /// layer.
    #[must_use]
    pub fn problem(&self) -> Option<&Problem> {
        self.problem.as_ref()
    }

    /// Every attempt that led to this response, the first one first. Empty if
    /// only headers were read.
    #[must_use]
    pub fn attempts(&self) -> &[Attempt] {
        &self.attempts
    }

    pub(super) fn outcome(&self, status: StatusCode) -> AttemptOutcome {
        match &self.problem {
            Some(problem) => AttemptOutcome::Rejected(status, problem.clone()),
            None => AttemptOutcome::Response(status),
        }
    }

    /// Adds the problem document in the body of an error response. A replayed
    /// response is the operation's own, even if it looks like a rejection.
    pub(super) fn with_body(
        mut self,
        status: StatusCode,
        headers: &HeaderMap,
        body: &[u8],
    ) -> Self {
        if !self.is_replay && (status.is_client_error() || status.is_server_error()) {
            self.problem = Problem::read(headers, body);
        }
        self
    }
}

/// The problem document (RFC 9457) of a rejection by an idempotency layer: this
/// request was not executed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    code: Box<str>,
    detail: Box<str>,
    retry: Option<Retry>,
}

impl Problem {
    /// Larger documents are not parsed, in bytes.
    const LARGEST: usize = 64 << 10;

    fn read(headers: &HeaderMap, body: &[u8]) -> Option<Self> {
        let kind = headers.get(CONTENT_TYPE);
        let is_json = is_media_type(kind, "application/problem+json")
            || is_media_type(kind, "application/json");
        if !is_json || body.len() > Self::LARGEST {
            return None;
        }
        let document: Value = serde_json::from_slice(body).ok()?;
        let text = |name: &str| document.get(name).and_then(Value::as_str);
        let code = text("code").unwrap_or_default();
        let known = RejectionCode::ALL
            .iter()
            .find(|known| known.as_str() == code);
        let retry = text("retry").and_then(|retry| {
            let all = [Retry::SameKey, Retry::NewKey, Retry::Never];
            all.into_iter().find(|known| known.as_str() == retry)
        });
        // The operation's own problem documents may have a member `code` too.
        let is_ours = text("source") == Some("idempotency") && !code.is_empty();
        let is_rejection = is_ours || retry.is_some();
        is_rejection.then(|| Self {
            code: code.into(),
            detail: text("detail").unwrap_or_default().into(),
            retry: retry.or(known.map(|code| code.retry())),
        })
    }

    /// The member `code`, such as `key-reused`. Empty if the document has no
    /// such member.
    #[must_use]
    pub fn code(&self) -> &str {
        &self.code
    }

    /// The member `code`, if this version of the crate knows the code.
    #[must_use]
    pub fn known_code(&self) -> Option<RejectionCode> {
        let mut all = RejectionCode::ALL.iter();
        all.find(|known| known.as_str() == self.code()).copied()
    }

    /// What a client can do: the member `retry`, or else what the code implies.
    /// `None` if this version of the crate knows neither of both.
    #[must_use]
    pub fn retry(&self) -> Option<Retry> {
        self.retry
    }

    /// The member `detail`: one or two sentences for people.
    #[must_use]
    pub fn detail(&self) -> &str {
        &self.detail
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.detail)
    }
}

/// The names of the headers by which an API marks its responses.
#[derive(Clone, Debug)]
pub(super) struct Marks {
    pub(super) replayed: Option<HeaderName>,
    pub(super) created_at: Option<HeaderName>,
    pub(super) expires_at: Option<HeaderName>,
}

impl Default for Marks {
    fn default() -> Self {
        Self {
            replayed: Some(HeaderName::from_static("idempotency-replayed")),
            created_at: None,
            expires_at: None,
        }
    }
}

impl Marks {
    pub(super) fn read(&self, headers: &HeaderMap) -> Received {
        let field = |name: &Option<HeaderName>| headers.get(name.as_ref()?);
        let status = headers.get("idempotency-status");
        let status = status.map_or(&b""[..], HeaderValue::as_bytes);
        Received {
            is_replay: field(&self.replayed).is_some_and(|value| value == "true"),
            made_at: field(&self.created_at).and_then(time),
            kept_until: field(&self.expires_at).and_then(time),
            is_unrecorded: status == b"unrecorded",
            is_unprotected: status == b"unprotected",
            problem: None,
            retry_after: retry_after(headers),
            attempts: Vec::new(),
        }
    }
}

/// Parses an RFC 3339 time.
fn time(value: &HeaderValue) -> Option<SystemTime> {
    let time: jiff::Timestamp = value.to_str().ok()?.trim().parse().ok()?;
    Some(time.into())
}

/// How long to wait by `Retry-After`, which holds seconds or an HTTP date. `None`
/// if the header is missing or malformed.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
        // A number that does not fit into 64 bits means "for ever".
        return Some(Duration::from_secs(value.parse().unwrap_or(u64::MAX)));
    }
    let until = httpdate::parse_http_date(value).ok()?;
    // The date is by the server's clock, which `Date` shows; this machine's
    // clock may be wrong.
    let shown = headers.get(DATE).and_then(|date| date.to_str().ok());
    let now = shown.and_then(|date| httpdate::parse_http_date(date).ok());
    let wait = until.duration_since(now.unwrap_or_else(SystemTime::now));
    Some(wait.unwrap_or_default())
}
