//! Why there is no answer, and everything that was tried.

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::{Method, StatusCode, response};

use super::key::IdempotencyKey;
use super::received::Refusal;
use super::transient::causes;
use crate::display::rfc3339;

type SharedError = Arc<dyn StdError + Send + Sync>;

/// A request that ended without an answer which settles it. What it came to at
/// the server is not known: whoever looks into it can send the same request
/// with the same [key](Self::key) once more.
///
/// [`Display`](fmt::Display) says all of it on one line, for whoever is woken
/// by it:
///
/// ```text
/// POST /orders with key ord_144a3676def4a265e86bdda61913dfb8 ran out of attempts after 3 in 1.9s:
/// 1. 2026-03-01T02:13:05Z timed out after 1.0s; 2. 2026-03-01T02:13:06Z 409 in-flight after 3ms;
/// 3. 2026-03-01T02:13:07Z no answer after 1ms (Connection refused)
/// ```
///
/// [`source`](StdError::source) is the error of the last attempt, if it ended
/// with one.
#[derive(Debug)]
pub struct Error(Box<Inner>);

#[derive(Debug)]
struct Inner {
    kind: ErrorKind,
    asked: Asked,
    attempts: Vec<Attempt>,
    last: Option<response::Parts>,
}

/// What a request is named by.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) method: Method,
    /// Without the query, which may hold what is nobody's business.
    pub(super) path: String,
    pub(super) key: Option<IdempotencyKey>,
}

/// Why nothing more was tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// As many attempts were made as the policy allows.
    OutOfAttempts,
    /// The next attempt would have been after the deadline.
    OutOfTime,
    /// The budget for retries is used up.
    OutOfBudget,
    /// The request must not be repeated, or the last error is one that
    /// another attempt can't help against.
    Failed,
}

/// One attempt: when, and what came back.
#[derive(Clone, Debug)]
pub struct Attempt {
    began_at: SystemTime,
    took: Duration,
    outcome: Outcome,
    error: Option<SharedError>,
}

/// What came back of one attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// A whole answer (or more of one than is read ahead).
    Answered(StatusCode),
    /// A refusal of an idempotency layer.
    Refused(StatusCode, Refusal),
    /// The head of an answer, and its body broke off.
    CutOff(StatusCode),
    /// Nothing within the time for one attempt.
    TimedOut,
    /// No answer: [`Attempt::error`] says why.
    Unanswered,
}

impl Error {
    pub(super) fn new(asked: Asked, attempts: Vec<Attempt>, kind: ErrorKind) -> Self {
        Self(Box::new(Inner {
            kind,
            asked,
            attempts,
            last: None,
        }))
    }

    /// The last answer, which does not settle the request.
    pub(super) fn with_answer(mut self, last: response::Parts) -> Self {
        self.0.last = Some(last);
        self
    }

    /// All attempts, and why there was no other.
    pub(super) fn set(&mut self, attempts: Vec<Attempt>, kind: ErrorKind) {
        self.0.attempts = attempts;
        self.0.kind = kind;
    }

    /// Why nothing more was tried.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The key that was on the request.
    #[must_use]
    pub fn key(&self) -> Option<&IdempotencyKey> {
        self.0.asked.key.as_ref()
    }

    /// Every attempt, the first one first.
    #[must_use]
    pub fn attempts(&self) -> &[Attempt] {
        &self.0.attempts
    }

    /// The head of the last answer, if the last attempt had one.
    #[must_use]
    pub fn last_answer(&self) -> Option<&response::Parts> {
        self.0.last.as_ref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner {
            kind,
            asked: Asked { method, path, key },
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
    pub(super) fn new(began_at: SystemTime, took: Duration, outcome: Outcome) -> Self {
        Self {
            began_at,
            took,
            outcome,
            error: None,
        }
    }

    pub(super) fn with_error(mut self, error: Box<dyn StdError + Send + Sync>) -> Self {
        self.error = Some(error.into());
        self
    }

    /// When it began.
    #[must_use]
    pub fn began_at(&self) -> SystemTime {
        self.began_at
    }

    /// How long it took, from its beginning to the end of the answer.
    #[must_use]
    pub fn took(&self) -> Duration {
        self.took
    }

    /// What came back.
    #[must_use]
    pub fn outcome(&self) -> &Outcome {
        &self.outcome
    }

    /// The error that it ended with.
    #[must_use]
    pub fn error(&self) -> Option<&(dyn StdError + 'static)> {
        self.error.as_deref().map(|error| error as _)
    }
}

impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(time) = rfc3339(self.began_at) {
            write!(f, "{} ", time.to_str().unwrap_or_default())?;
        }
        write!(f, "{} after {}", self.outcome, Rounded(self.took))?;
        // The innermost cause: what is around it says only where it struck.
        match self.error().and_then(|error| causes(error).last()) {
            Some(cause) => write!(f, " ({cause})"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Outcome::Answered(status) => write!(f, "{}", status.as_u16()),
            Outcome::Refused(status, refusal) => {
                write!(f, "{} {}", status.as_u16(), refusal.code())
            }
            Outcome::CutOff(status) => write!(f, "{} cut off", status.as_u16()),
            Outcome::TimedOut => f.write_str("timed out"),
            Outcome::Unanswered => f.write_str("no answer"),
        }
    }
}

/// Milliseconds below a second, else tenths of one.
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
