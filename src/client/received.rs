//! What an answer says about itself: replay or not, and what a refusal asks for.

use std::fmt;
use std::time::{Duration, SystemTime};

use http::header::{CONTENT_TYPE, DATE, RETRY_AFTER};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use serde_json::Value;

use super::error::{Attempt, Outcome};
use crate::message::media_type::is_media_type;
use crate::rejection::{RejectionCode, Retry};

/// What an answer says of the operation, by its headers and, where it is a
/// refusal of an idempotency layer, by its problem document.
///
/// [`Client`](super::Client) and [`ReadAnswers`](super::ReadAnswers) leave one
/// in each response's extensions:
///
/// ```
/// use http::Response;
/// use tower_idempotency::client::{Protection, Received};
///
/// fn log<B>(response: &Response<B>) {
///     if let Some(received) = response.extensions().get::<Received>() {
///         if received.is_replay() {
///             println!("made before, at {:?}", received.made_at());
///         }
///         if received.protection() == Protection::Unrecorded {
///             println!("keep this answer, it may not come again");
///         }
///     }
/// }
/// ```
#[derive(Clone, Debug, Default)]
pub struct Received {
    is_replay: bool,
    made_at: Option<SystemTime>,
    kept_until: Option<SystemTime>,
    protection: Protection,
    refusal: Option<Refusal>,
    pub(super) retry_after: Option<Duration>,
    pub(super) attempts: Vec<Attempt>,
}

/// What stands between the operation and a second execution.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Protection {
    /// The answer has no mark: as the API promises.
    #[default]
    Unmarked,
    /// `Idempotency-Status: unrecorded`. It was executed, and this is its
    /// answer: keep it. A retry may be refused, or execute again.
    Unrecorded,
    /// `Idempotency-Status: unprotected`. It was executed without protection:
    /// a retry executes again.
    Unprotected,
}

impl Received {
    /// Reads the headers that a server sends unless it was told otherwise. For
    /// headers of other names see [`RetryPolicy::received`](super::RetryPolicy::received).
    #[must_use]
    pub fn of(headers: &HeaderMap) -> Self {
        Marks::default().read(headers)
    }

    /// Whether the answer is a recorded one, so that nothing was executed.
    #[must_use]
    pub fn is_replay(&self) -> bool {
        self.is_replay
    }

    /// When the execution began that this is the answer of, for a replay the
    /// original one; if the API says so.
    #[must_use]
    pub fn made_at(&self) -> Option<SystemTime> {
        self.made_at
    }

    /// Until when the server keeps the answer; if the API says so. Later, the
    /// same key is a new operation.
    #[must_use]
    pub fn kept_until(&self) -> Option<SystemTime> {
        self.kept_until
    }

    /// Whether the operation is protected against a second execution.
    #[must_use]
    pub fn protection(&self) -> Protection {
        self.protection
    }

    /// The refusal that the answer is, if it is one.
    #[must_use]
    pub fn refusal(&self) -> Option<&Refusal> {
        self.refusal.as_ref()
    }

    /// Every attempt that led to this answer, the first one first. Empty if
    /// only headers were read.
    #[must_use]
    pub fn attempts(&self) -> &[Attempt] {
        &self.attempts
    }

    pub(super) fn outcome(&self, status: StatusCode) -> Outcome {
        match &self.refusal {
            Some(refusal) => Outcome::Refused(status, refusal.clone()),
            None => Outcome::Answered(status),
        }
    }

    /// With what an answer of this status says in its body. A recorded answer
    /// is the operation's own, whatever it says.
    pub(super) fn with_body(
        mut self,
        status: StatusCode,
        headers: &HeaderMap,
        body: &[u8],
    ) -> Self {
        if !self.is_replay && (status.is_client_error() || status.is_server_error()) {
            self.refusal = Refusal::read(headers, body);
        }
        self
    }
}

/// A refusal of an idempotency layer (RFC 9457): this request was not executed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    code: Box<str>,
    detail: Box<str>,
    retry: Option<Retry>,
}

impl Refusal {
    /// Larger problem documents are not read, in bytes.
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
        // An operation may have codes of its own, which are no refusals.
        let is_ours = text("source") == Some("idempotency") && !code.is_empty();
        let is_refusal = is_ours || retry.is_some();
        is_refusal.then(|| Self {
            code: code.into(),
            detail: text("detail").unwrap_or_default().into(),
            retry: retry.or(known.map(|code| code.retry())),
        })
    }

    /// The member `code`, such as `key-reused`. Empty if there is none, in a
    /// shape of the API's own.
    #[must_use]
    pub fn code(&self) -> &str {
        &self.code
    }

    /// The same, if it is one that this version knows.
    #[must_use]
    pub fn known_code(&self) -> Option<RejectionCode> {
        let mut all = RejectionCode::ALL.iter();
        all.find(|known| known.as_str() == self.code()).copied()
    }

    /// What helps, by the member `retry` or else by the code. `None` if neither
    /// is known.
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

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.detail)
    }
}

/// The names of the headers that an API marks its answers with.
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
        Received {
            is_replay: field(&self.replayed).is_some_and(|value| value == "true"),
            made_at: field(&self.created_at).and_then(time),
            kept_until: field(&self.expires_at).and_then(time),
            protection: match status.map(HeaderValue::as_bytes) {
                Some(b"unrecorded") => Protection::Unrecorded,
                Some(b"unprotected") => Protection::Unprotected,
                _ => Protection::Unmarked,
            },
            refusal: None,
            retry_after: retry_after(headers),
            attempts: Vec::new(),
        }
    }
}

/// RFC 3339.
fn time(value: &HeaderValue) -> Option<SystemTime> {
    let time: jiff::Timestamp = value.to_str().ok()?.trim().parse().ok()?;
    Some(time.into())
}

/// How long to wait by `Retry-After`: seconds, or an HTTP date. `None` if there
/// is none that can be read.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
        // More digits than a number has room for: for ever.
        return Some(Duration::from_secs(value.parse().unwrap_or(u64::MAX)));
    }
    let until = httpdate::parse_http_date(value).ok()?;
    // By the server's clock, if it says what that shows: ours may be wrong.
    let shown = headers.get(DATE).and_then(|date| date.to_str().ok());
    let now = shown.and_then(|date| httpdate::parse_http_date(date).ok());
    let wait = until.duration_since(now.unwrap_or_else(SystemTime::now));
    Some(wait.unwrap_or_default())
}
