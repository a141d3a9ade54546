//! What a policy goes by: which requests may be repeated, and which answers and
//! errors call for it.

use std::error::Error as StdError;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::{Method, Request, StatusCode};
use tokio::time::Sleep;
use tower::retry::budget::Budget;

use super::error::Asked;
use super::key::IdempotencyKey;
use super::received::{Marks, Received, Refusal};
use crate::options::key::KeyRules;
use crate::options::recording::Statuses;
use crate::rejection::{RejectionCode, Retry};

/// The pauses of one operation.
pub(super) type Pauses = Arc<Mutex<dyn FnMut() -> Sleep + Send>>;

pub(super) type RetryErrors = dyn Fn(&(dyn StdError + 'static)) -> bool + Send + Sync;

/// The options of a policy.
#[derive(Clone)]
pub(super) struct Options {
    /// One header, and no more than that it is a key.
    pub(super) keys: KeyRules,
    pub(super) marks: Marks,
    pub(super) attempts: usize,
    pub(super) deadline: Duration,
    pub(super) attempt_timeout: Duration,
    pub(super) max_answer_body: usize,
    pub(super) backoff: Arc<dyn Fn() -> Pauses + Send + Sync>,
    pub(super) budget: Option<Arc<dyn Budget + Send + Sync>>,
    pub(super) max_retry_after: Duration,
    pub(super) retry_statuses: Statuses,
    pub(super) retry_errors: Arc<RetryErrors>,
}

impl Options {
    /// What an error names the request by.
    pub(super) fn asked<B>(&self, request: &Request<B>) -> Asked {
        Asked {
            method: request.method().clone(),
            path: request.uri().path().to_owned(),
            key: self.key(request),
        }
    }

    fn key<B>(&self, request: &Request<B>) -> Option<IdempotencyKey> {
        let (key, _) = self.keys.read(request.headers())?.ok()?;
        Some(IdempotencyKey::as_sent(key.as_str()))
    }

    /// Whether a second copy of it does no harm (RFC 9110, section 9.2.2, or by
    /// its key).
    pub(super) fn may_repeat<B>(&self, request: &Request<B>) -> bool {
        let idempotent = [
            Method::GET,
            Method::HEAD,
            Method::OPTIONS,
            Method::TRACE,
            Method::PUT,
            Method::DELETE,
        ];
        idempotent.contains(request.method()) || self.key(request).is_some()
    }

    /// For how long to wait at least, if an answer calls for another attempt.
    pub(super) fn calls_for_another(
        &self,
        status: StatusCode,
        received: &Received,
    ) -> Option<Duration> {
        // Recorded: it would come again, whatever it says.
        if received.is_replay() {
            return None;
        }
        let refusal = received.refusal();
        // Only a person can find out, and until then nothing changes.
        if refusal.and_then(Refusal::known_code) == Some(RejectionCode::OutcomeUnknown) {
            return None;
        }
        let again = match refusal.and_then(Refusal::retry) {
            Some(retry) => retry == Retry::SameKey,
            // In flight, at another server.
            None if status == StatusCode::CONFLICT && received.retry_after.is_some() => true,
            None => self.retry_statuses.has(status),
        };
        let wait = received.retry_after.unwrap_or_default();
        again.then(|| wait.min(self.max_retry_after))
    }

    /// Whether another attempt may do better than this one, which failed.
    pub(super) fn helps_against(&self, error: &(dyn StdError + 'static)) -> bool {
        (self.retry_errors)(error)
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("keys", &self.keys)
            .field("attempts", &self.attempts)
            .field("deadline", &self.deadline)
            .field("attempt_timeout", &self.attempt_timeout)
            .field("max_answer_body", &self.max_answer_body)
            .field("max_retry_after", &self.max_retry_after)
            .field("retry_statuses", &self.retry_statuses)
            .finish_non_exhaustive()
    }
}
