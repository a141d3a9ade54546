//! The policy of tower's `Retry`.

use std::fmt;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, SystemTime};

use http::{HeaderMap, Request, Response};
use tokio::time::{Instant, Sleep, sleep_until};
use tower::retry::Policy;
use tracing::debug;

use super::attempt::ReadAnswersLayer;
use super::builder::RetryPolicyBuilder;
use super::error::{Attempt, Error, ErrorKind, Outcome};
use super::options::{Options, Pauses};
use super::received::Received;

/// Decides whether a request is sent again, and when: a
/// [`tower::retry::Policy`] for tower's own `Retry`, around the
/// [layer that reads answers](Self::read_answers).
///
/// | what came back | again? |
/// | --- | --- |
/// | no answer, since the connection failed or it took too long | yes |
/// | an answer that breaks off in its body | yes |
/// | an error that can't be helped ([`is_transient`](super::is_transient)) | no |
/// | a replay | no |
/// | a refusal that says `retry: same-key`, such as `in-flight` | yes, but for `outcome-unknown` |
/// | a refusal that says `retry: new-key` or `never`, such as `key-reused` | no |
/// | 408, 425, 429, 500, 502, 503, 504 | yes |
/// | 409 with `Retry-After` | yes |
/// | anything else | no |
///
/// Only a request that may be repeated is: one with a key, or a GET, HEAD,
/// OPTIONS, TRACE, PUT or DELETE. It ends with an answer that calls for no other
/// attempt, whatever its status, or with an [`Error`]. Any other request is
/// sent once, and its answer is handed on as it is.
///
/// ```
/// use std::time::{Duration, SystemTime};
/// use bytes::Bytes;
/// use http_body_util::Full;
/// use hyper_util::{client::legacy::Client, rt::TokioExecutor};
/// use tower::ServiceBuilder;
/// use tower::retry::{RetryLayer, budget::TpsBudget};
/// use tower_idempotency::client::{FullJitter, RetryPolicy};
///
/// # fn main() -> Result<(), tower_idempotency::ConfigError> {
/// # let http: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
/// let policy = RetryPolicy::builder()
///     .attempts(8)
///     .deadline(Duration::from_secs(60))
///     .backoff(FullJitter::new(Duration::from_millis(100), Duration::from_secs(10)))
///     .budget(TpsBudget::default())
///     .build()?;
/// let client = ServiceBuilder::new()
///     .layer(RetryLayer::new(policy.clone()))
///     .layer(policy.read_answers())
///     .service(http);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct RetryPolicy {
    pub(super) options: Arc<Options>,
    operation: Operation,
}

/// What tower's `Retry`, which clones its policy for each request, remembers of
/// one. It asks for the first copy before it clones: that is when it begins.
#[derive(Clone, Default)]
struct Operation {
    began: Option<Instant>,
    attempts: Vec<Attempt>,
    pauses: Option<Pauses>,
}

/// In the extensions of a request that is sent again.
#[derive(Clone, Copy)]
pub(super) struct Deadline(pub(super) Instant);

impl RetryPolicy {
    pub(super) fn new(options: Options) -> Self {
        Self {
            options: Arc::new(options),
            operation: Operation::default(),
        }
    }

    /// Sets the options one by one.
    #[must_use]
    pub fn builder() -> RetryPolicyBuilder {
        RetryPolicyBuilder::default()
    }

    /// The layer that belongs between `Retry` and the client: it keeps the time
    /// of each attempt, and reads answers to their end.
    #[must_use]
    pub fn read_answers(&self) -> ReadAnswersLayer {
        ReadAnswersLayer {
            options: Arc::clone(&self.options),
        }
    }

    /// What the headers of an answer say, under the names that this policy was
    /// given.
    #[must_use]
    pub fn received(&self, headers: &HeaderMap) -> Received {
        self.options.marks.read(headers)
    }

    /// For how long to wait at least, if this answer calls for another attempt.
    /// If not, it is handed on with all attempts.
    fn after_answer<R>(&mut self, response: &mut Response<R>) -> Option<Duration> {
        let received = response.extensions_mut().remove::<Received>();
        let mut received = received.unwrap_or_else(|| self.received(response.headers()));
        if received.attempts.is_empty() {
            // Something between here and the layer that reads answers lost it.
            let outcome = received.outcome(response.status());
            let attempt = Attempt::new(SystemTime::now(), Duration::ZERO, outcome);
            received.attempts.push(attempt);
        }
        let attempts = &mut self.operation.attempts;
        attempts.append(&mut received.attempts);
        let again = self.options.calls_for_another(response.status(), &received);
        if again.is_none() {
            if let Some(budget) = &self.options.budget {
                budget.deposit();
            }
            received.attempts.append(attempts);
        }
        response.extensions_mut().insert(received);
        again
    }

    /// Whether another attempt may do better.
    fn after_error(&mut self, error: &Error) -> bool {
        let attempts = &mut self.operation.attempts;
        attempts.extend_from_slice(error.attempts());
        let last = attempts.last();
        last.is_some_and(|last| match (last.outcome(), last.error()) {
            (Outcome::Unanswered, Some(error)) => self.options.helps_against(error),
            _ => true,
        })
    }

    /// When to send the request again, or why not.
    fn next_attempt(&mut self, at_least: Duration) -> Result<Instant, ErrorKind> {
        let deadline = self.deadline();
        let Operation {
            attempts, pauses, ..
        } = &mut self.operation;
        if attempts.len() >= self.options.attempts {
            return Err(ErrorKind::OutOfAttempts);
        }
        let pauses = pauses.get_or_insert_with(|| (self.options.backoff)());
        let pause = pauses.lock().unwrap_or_else(PoisonError::into_inner)();
        let next = pause.deadline().max(Instant::now() + at_least);
        if next >= deadline {
            return Err(ErrorKind::OutOfTime);
        }
        match &self.options.budget {
            Some(budget) if !budget.withdraw() => Err(ErrorKind::OutOfBudget),
            _ => Ok(next),
        }
    }

    fn deadline(&self) -> Instant {
        let began = self.operation.began.unwrap_or_else(Instant::now);
        began + self.options.deadline
    }

    fn give_up<B, R>(
        &mut self,
        request: &Request<B>,
        result: &mut Result<Response<R>, Error>,
        kind: ErrorKind,
    ) {
        let attempts = std::mem::take(&mut self.operation.attempts);
        match result {
            Ok(response) => {
                let (mut last, ()) = Response::new(()).into_parts();
                last.status = response.status();
                last.headers = std::mem::take(response.headers_mut());
                last.extensions = std::mem::take(response.extensions_mut());
                let asked = self.options.asked(request);
                *result = Err(Error::new(asked, attempts, kind).with_answer(last));
            }
            Err(error) => error.set(attempts, kind),
        }
    }
}

/// All defaults.
impl Default for RetryPolicy {
    fn default() -> Self {
        let policy = Self::builder().build();
        policy.expect("the defaults can work")
    }
}

impl<B: Clone, R> Policy<Request<B>, Response<R>, Error> for RetryPolicy {
    type Future = Sleep;

    fn retry(
        &mut self,
        request: &mut Request<B>,
        result: &mut Result<Response<R>, Error>,
    ) -> Option<Sleep> {
        let next = match result {
            Ok(response) => {
                let at_least = self.after_answer(response)?;
                self.next_attempt(at_least)
            }
            Err(error) if self.after_error(error) => self.next_attempt(Duration::ZERO),
            Err(_) => Err(ErrorKind::Failed),
        };
        match next {
            Ok(next) => {
                let last = self.operation.attempts.last();
                debug!(last = last.map(tracing::field::display), "sent again");
                let deadline = Deadline(self.deadline());
                request.extensions_mut().insert(deadline);
                Some(sleep_until(next))
            }
            Err(kind) => {
                self.give_up(request, result, kind);
                None
            }
        }
    }

    fn clone_request(&mut self, request: &Request<B>) -> Option<Request<B>> {
        if !self.options.may_repeat(request) {
            return None;
        }
        if self.operation.attempts.is_empty() {
            self.operation.began = Some(Instant::now());
        }
        Some(request.clone())
    }
}

impl fmt::Debug for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Operation")
            .field("began", &self.began)
            .field("attempts", &self.attempts)
            .finish_non_exhaustive()
    }
}
