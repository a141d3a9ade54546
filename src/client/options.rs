//! The options of a client: which requests may be repeated, and which responses
//! and errors call for another attempt.

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::{Method, Request, StatusCode};
use tokio::time::Sleep;
use tower::retry::budget::Budget;

use super::error::{Attempt, AttemptOutcome, Error, ErrorKind, Target};
use super::key::IdempotencyKey;
use super::key_member::KeyMember;
use super::received::{Marks, Problem, Received};
use crate::options::key::KeyRules;
use crate::options::recording::Statuses;
use crate::rejection::{RejectionCode, Retry};

/// The pauses of one operation: each call returns the next one.
pub(super) type Pauses = Box<dyn FnMut() -> Sleep + Send>;

pub(super) type RetryErrors = dyn Fn(&(dyn StdError + 'static)) -> bool + Send + Sync;

#[derive(Clone)]
pub(super) struct Options {
    /// One header. Length and format are the server's to check.
    pub(super) keys: KeyRules,
    /// The member of a JSON body that carries the key beside the header.
    pub(super) member: Option<KeyMember>,
    pub(super) marks: Marks,
    pub(super) attempts: usize,
    pub(super) deadline: Duration,
    pub(super) attempt_timeout: Duration,
    pub(super) max_response_body: usize,
    pub(super) backoff: Arc<dyn Fn() -> Pauses + Send + Sync>,
    pub(super) budget: Option<Arc<dyn Budget + Send + Sync>>,
    pub(super) max_retry_after: Duration,
    pub(super) retry_statuses: Statuses,
    pub(super) retry_errors: Arc<RetryErrors>,
}

impl Options {
    /// Puts a key into the request's header, unless the header is there, and into the member of its
    /// body that carries the key.
    pub(super) fn put_key<B: 'static>(&self, request: &mut Request<B>) -> Result<(), Error> {
        self.put_key_into_header(request);
        let (Some(member), Some(key)) = (&self.member, self.key(request)) else {
            return Ok(());
        };
        if member.put(request, key.as_str()) {
            return Ok(());
        }
        let target = self.target(request);
        Err(Error::new(
            target,
            Vec::new(),
            ErrorKind::NoPlaceForKey,
            None,
        ))
    }

    fn put_key_into_header<B: 'static>(&self, request: &mut Request<B>) {
        let header = &self.keys.headers[0];
        if request.headers().contains_key(header) {
            return;
        }
        let given = request.extensions().get::<IdempotencyKey>().cloned();
        let in_body = || self.member.as_ref()?.key(request);
        let given = given.or_else(in_body);
        let needs_one = [Method::POST, Method::PATCH].contains(request.method());
        if let Some(key) = given.or_else(|| needs_one.then(IdempotencyKey::new)) {
            let value = key.header_value(self.keys.syntax);
            request.headers_mut().insert(header, value);
        }
    }

    /// The method, path and key that an error names the request by.
    pub(super) fn target<B>(&self, request: &Request<B>) -> Target {
        Target {
            method: request.method().clone(),
            path: request.uri().path().to_owned(),
            key: self.key(request),
        }
    }

    fn key<B>(&self, request: &Request<B>) -> Option<IdempotencyKey> {
        let (key, _) = self.keys.read(request.headers())?.ok()?;
        Some(IdempotencyKey::as_sent(key.as_str()))
    }

    /// Whether a second copy of the request does no harm: its method is
    /// idempotent (RFC 9110, section 9.2.2), or the request has a key.
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

    /// The shortest pause before the next attempt, or `None` if the response
    /// calls for no other attempt.
    pub(super) fn calls_for_another(
        &self,
        status: StatusCode,
        received: &Received,
    ) -> Option<Duration> {
        // The server would replay the same response again, whatever its status.
        if received.is_replay() {
            return None;
        }
        let problem = received.problem();
        // A person has to find out what happened, and until then the server
        // rejects every attempt.
        if problem.and_then(Problem::known_code) == Some(RejectionCode::OutcomeUnknown) {
            return None;
        }
        let again = match problem.and_then(Problem::retry) {
            Some(retry) => retry == Retry::SameKey,
            // The operation is in flight at a server that is not this crate's.
            None if status == StatusCode::CONFLICT && received.retry_after.is_some() => true,
            None => self.retry_statuses.has(status),
        };
        let wait = received.retry_after.unwrap_or_default();
        again.then(|| wait.min(self.max_retry_after))
    }

    /// Whether another attempt may succeed after this one, which got no whole
    /// response. A response that broke off or came too late is worth another
    /// attempt in any case.
    pub(super) fn helps_against(&self, attempt: &Attempt) -> bool {
        match (&attempt.outcome, attempt.error()) {
            (AttemptOutcome::NoResponse, Some(error)) => (self.retry_errors)(error),
            _ => true,
        }
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("keys", &self.keys)
            .field("attempts", &self.attempts)
            .field("deadline", &self.deadline)
            .field("attempt_timeout", &self.attempt_timeout)
            .field("max_response_body", &self.max_response_body)
            .field("max_retry_after", &self.max_retry_after)
            .field("retry_statuses", &self.retry_statuses)
            .finish_non_exhaustive()
    }
}
