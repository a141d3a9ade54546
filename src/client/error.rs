//! Why there is no response, and every attempt that was made.

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::{Method, StatusCode, response};

use super::key::IdempotencyKey;
use super::received::Problem;
use super::transient::causes;
use crate::display::rfc3339;

/// A request that ended without a response which settles the operation. Whether
/// the server executed the operation is not known. To find out, send the same
/// request with the same [key](Self::key) once more.
///
/// [`Display`](fmt::Display) writes everything on one line, for a log or an alert:
///
/// ```text
/// POST /orders with key ord_144a3676def4a265e86bdda61913dfb8 ran out of attempts after 3 in 1.9s:
/// 1. 2026-03-01T02:13:05Z timed out after 1.0s; 2. 2026-03-01T02:13:06Z 409 in-flight after 3ms;
/// 3. 2026-03-01T02:13:07Z no response after 1ms (Connection refused)
/// ```
///
/// [`source`](StdError::source) is the error of the last attempt, if that attempt
/// ended with an error.
#[derive(Debug)]
pub struct Error(Box<Inner>);

#[derive(Debug)]
struct Inner {
    kind: ErrorKind,
    target: Target,
    attempts: Vec<Attempt>,
    last: Option<response::Parts>,
}

/// What an error names the request by.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) method: Method,
    /// Without the query, because a query may hold secrets.
    pub(super) path: String,
    pub(super) key: Option<IdempotencyKey>,
}

/// Why the client made no further attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The client made as many attempts as the options allow.
    OutOfAttempts,
    /// The next attempt would have begun after the deadline.
    OutOfTime,
    /// The budget for retries is used up.
    OutOfBudget,
    /// The request was not sent: its body has no place for the key, see
    /// [`ClientLayerBuilder::key_in_body`](super::ClientLayerBuilder::key_in_body).
    NoPlaceForKey,
    /// The request must not be repeated, or the last attempt ended with an error
    /// that another attempt can't change.
    Failed,
}

/// One attempt. [`Display`](fmt::Display) writes when the attempt began, how it
/// ended and how long it took.
#[derive(Clone, Debug)]
pub struct Attempt {
    pub(super) began_at: SystemTime,
    /// From the beginning of the attempt to the end of the response.
    pub(super) took: Duration,
    pub(super) outcome: AttemptOutcome,
    pub(super) error: Option<Arc<dyn StdError + Send + Sync>>,
}

/// How an attempt ended.
#[derive(Clone, Debug)]
pub(super) enum AttemptOutcome {
    /// With a response that was read to its end, or up to `max_response_body`.
    Response(StatusCode),
    /// With the rejection of an idempotency layer.
    Rejected(StatusCode, Problem),
    /// With a response whose body broke off.
    CutOff(StatusCode),
    /// With no response before `attempt_timeout`.
    TimedOut,
    /// With an error of the HTTP client.
    NoResponse,
}

impl Error {
    pub(super) fn new(
        target: Target,
        attempts: Vec<Attempt>,
        kind: ErrorKind,
        last: Option<response::Parts>,
    ) -> Self {
        Self(Box::new(Inner {
            kind,
            target,
            attempts,
            last,
        }))
    }

    /// Why the client made no further attempt.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The key of the request.
    #[must_use]
    pub fn key(&self) -> Option<&IdempotencyKey> {
        self.0.target.key.as_ref()
    }

    /// Every attempt, the first one first.
    #[must_use]
    pub fn attempts(&self) -> &[Attempt] {
        &self.0.attempts
    }

    /// The head of the last response, if the last attempt got a response.
    #[must_use]
    pub fn last_response(&self) -> Option<&response::Parts> {
        self.0.last.as_ref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner {
            kind,
            target: Target { method, path, key },
            attempts,
            ..
        } = &*self.0;
        write!(f, "{method} {path}")?;
        match key {
            Some(key) => write!(f, " with key {key}")?,
            None => f.write_str(" without a key")?,
        }
        let count = attempts.len();
        match kind {
            ErrorKind::OutOfAttempts => write!(f, " ran out of attempts after {count}")?,
            ErrorKind::OutOfTime => write!(f, " ran out of time after {count}")?,
            ErrorKind::OutOfBudget => write!(f, " ran out of budget for retries after {count}")?,
            ErrorKind::NoPlaceForKey => {
                f.write_str(" was not sent: its body has no place for the key")?;
            }
            ErrorKind::Failed => f.write_str(" failed")?,
        }
        if let (Some(first), Some(last)) = (attempts.first(), attempts.last()) {
            let ended_at = last.began_at + last.took;
            let all = ended_at.duration_since(first.began_at).unwrap_or_default();
            write!(f, " in {}", Rounded(all))?;
        }
        for (number, attempt) in (1..).zip(attempts) {
            let mark = if number == 1 { ':' } else { ';' };
            write!(f, "{mark} {number}. {attempt}")?;
        }
        Ok(())
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.attempts.last()?.error()
    }
}

impl Attempt {
    pub(super) fn error(&self) -> Option<&(dyn StdError + 'static)> {
        self.error.as_deref().map(|error| error as _)
    }
}

impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(time) = rfc3339(self.began_at) {
            write!(f, "{} ", time.to_str().unwrap_or_default())?;
        }
        write!(f, "{} after {}", self.outcome, Rounded(self.took))?;
        // The innermost cause says what went wrong; the errors around the
        // innermost cause only say where.
        match self.error().and_then(|error| causes(error).last()) {
            Some(cause) => write!(f, " ({cause})"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for AttemptOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Response(status) => write!(f, "{}", status.as_u16()),
            Self::Rejected(status, problem) => write!(f, "{} {}", status.as_u16(), problem.code()),
            Self::CutOff(status) => write!(f, "{} cut off", status.as_u16()),
            Self::TimedOut => f.write_str("timed out"),
            Self::NoResponse => f.write_str("no response"),
        }
    }
}

/// A duration in milliseconds below one second, else in tenths of a second.
struct Rounded(Duration);

impl fmt::Display for Rounded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 < Duration::from_secs(1) {
            write!(f, "{}ms", self.0.as_millis())
        } else {
            write!(f, "{:.1}s", self.0.as_secs_f64())
        }
    }
}
