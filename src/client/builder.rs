//! How the options of a policy are set.

use std::error::Error as StdError;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::HeaderName;
use tokio::time::Sleep;
use tower::retry::backoff::{Backoff, MakeBackoff};
use tower::retry::budget::Budget;

use super::backoff::FullJitter;
use super::options::{Options, Pauses};
use super::policy::RetryPolicy;
use super::received::Marks;
use super::transient::is_transient;
use crate::error::ConfigError;
use crate::options::key::{KeyFormat, KeyRules, KeySyntax};
use crate::options::recording::Statuses;

/// The options of a [`RetryPolicy`]. What is wrong with one is said by
/// [`build`](Self::build).
#[derive(Debug)]
pub struct RetryPolicyBuilder {
    options: Options,
    wrong: Option<ConfigError>,
}

impl Default for RetryPolicyBuilder {
    fn default() -> Self {
        let options = Options {
            keys: KeyRules {
                headers: vec![HeaderName::from_static("idempotency-key")],
                syntax: KeySyntax::default(),
                length: 1..=usize::MAX,
                format: KeyFormat::any(),
            },
            marks: Marks::default(),
            attempts: 16,
            deadline: Duration::from_secs(120),
            attempt_timeout: Duration::from_secs(10),
            max_answer_body: 1 << 20,
            backoff: pauses_of(FullJitter::default()),
            budget: None,
            max_retry_after: Duration::from_secs(60),
            retry_statuses: Statuses::none().and_each([408, 425, 429, 500, 502, 503, 504]),
            retry_errors: Arc::new(is_transient),
        };
        Self {
            options,
            wrong: None,
        }
    }
}

impl RetryPolicyBuilder {
    /// How often a request is sent at most, the first time included. Default:
    /// 16, which with the other defaults outlasts a server that died in the
    /// middle of the operation.
    #[must_use]
    pub fn attempts(mut self, attempts: usize) -> Self {
        self.options.attempts = attempts;
        self
    }

    /// The time for all attempts and the pauses between them. No attempt begins
    /// later, and none goes on. Default: 2 minutes. It has to be well below the
    /// server's retention.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.options.deadline = deadline;
        self
    }

    /// The time for one attempt, until its answer is read. Default: 10 s.
    #[must_use]
    pub fn attempt_timeout(mut self, timeout: Duration) -> Self {
        self.options.attempt_timeout = timeout;
        self
    }

    /// Up to how many bytes of an answer are read ahead. If an answer is longer,
    /// nobody tries again when the rest of it breaks off. Default: 1 MiB.
    #[must_use]
    pub fn max_answer_body(mut self, bytes: usize) -> Self {
        self.options.max_answer_body = bytes;
        self
    }

    /// How long to pause: [`FullJitter`], or one of tower's. Where an answer has
    /// a `Retry-After`, the longer of the two counts. Default: at most 200 ms
    /// first, then twice as long each time, and never above 20 s.
    #[must_use]
    pub fn backoff<M>(mut self, maker: M) -> Self
    where
        M: MakeBackoff + Clone + Send + Sync + 'static,
        M::Backoff: Backoff<Future = Sleep> + Send + 'static,
    {
        self.options.backoff = pauses_of(maker);
        self
    }

    /// A budget for the retries of all requests together, such as tower's
    /// `TpsBudget`: where most requests fail, more of them make it worse. A
    /// request that is settled puts in, a retry takes out. Default: none.
    #[must_use]
    pub fn budget(mut self, budget: impl Budget + Send + Sync + 'static) -> Self {
        self.options.budget = Some(Arc::new(budget));
        self
    }

    /// How much of a `Retry-After` is obeyed at most. Default: 60 s.
    #[must_use]
    pub fn max_retry_after(mut self, wait: Duration) -> Self {
        self.options.max_retry_after = wait;
        self
    }

    /// The statuses that call for another attempt. A refusal of an idempotency
    /// layer has its own word on that, and a 409 with `Retry-After` is always
    /// one. Default: 408, 425, 429, 500, 502, 503 and 504.
    #[must_use]
    pub fn retry_statuses(mut self, statuses: Statuses) -> Self {
        self.options.retry_statuses = statuses;
        self
    }

    /// Which errors of the client call for another attempt, if there is no
    /// answer. Default: [`is_transient`]. What took too long, and an answer
    /// that broke off, always do.
    #[must_use]
    pub fn retry_errors(
        mut self,
        which: impl Fn(&(dyn StdError + 'static)) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.options.retry_errors = Arc::new(which);
        self
    }

    /// The header of the key. Default: `Idempotency-Key`.
    #[must_use]
    pub fn header(mut self, name: &str) -> Self {
        if let Some(name) = self.name("header", name) {
            self.options.keys.headers = vec![name];
        }
        self
    }

    /// How the key is written: as the server reads it. Default: as an RFC 8941
    /// string, as the IETF draft has it; [`KeySyntax::Raw`] is for servers that
    /// take quotation marks for a part of the key.
    #[must_use]
    pub fn key_syntax(mut self, syntax: KeySyntax) -> Self {
        self.options.keys.syntax = syntax;
        self
    }

    /// The server's `replayed_header`. Default: `Idempotency-Replayed`.
    #[must_use]
    pub fn replayed_header<'a>(mut self, name: impl Into<Option<&'a str>>) -> Self {
        let name = name.into();
        self.options.marks.replayed = name.and_then(|name| self.name("replayed_header", name));
        self
    }

    /// The server's `created_at_header`. Default: none.
    #[must_use]
    pub fn created_at_header<'a>(mut self, name: impl Into<Option<&'a str>>) -> Self {
        let name = name.into();
        self.options.marks.created_at = name.and_then(|name| self.name("created_at_header", name));
        self
    }

    /// The server's `expires_at_header`. Default: none.
    #[must_use]
    pub fn expires_at_header<'a>(mut self, name: impl Into<Option<&'a str>>) -> Self {
        let name = name.into();
        self.options.marks.expires_at = name.and_then(|name| self.name("expires_at_header", name));
        self
    }

    fn name(&mut self, option: &'static str, name: &str) -> Option<HeaderName> {
        let parsed = name.parse().ok();
        if parsed.is_none() {
            let message = format!("names `{name}`, which is not a header's name");
            self.wrong(option, message);
        }
        parsed
    }

    /// The first of them is told.
    fn wrong(&mut self, option: &'static str, message: impl Into<String>) {
        self.wrong
            .get_or_insert_with(|| ConfigError::new(option, message));
    }

    /// The policy.
    ///
    /// # Errors
    ///
    /// If an option has a value that can't work.
    pub fn build(mut self) -> Result<RetryPolicy, ConfigError> {
        if self.options.attempts == 0 {
            self.wrong("attempts", "must be at least 1");
        }
        let times = [
            ("deadline", self.options.deadline),
            ("attempt_timeout", self.options.attempt_timeout),
            ("max_retry_after", self.options.max_retry_after),
        ];
        for (option, time) in times {
            if time.is_zero() && option != "max_retry_after" {
                self.wrong(option, "must be longer than zero");
            } else if time > LONGEST {
                self.wrong(option, "must not be longer than a year");
            }
        }
        match self.wrong {
            Some(error) => Err(error),
            None => Ok(RetryPolicy::new(self.options)),
        }
    }
}

/// No retention is longer, and it can be added to any instant.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 60 * 60);

fn pauses_of<M>(maker: M) -> Arc<dyn Fn() -> Pauses + Send + Sync>
where
    M: MakeBackoff + Clone + Send + Sync + 'static,
    M::Backoff: Backoff<Future = Sleep> + Send + 'static,
{
    Arc::new(move || {
        let mut backoff = maker.clone().make_backoff();
        Arc::new(Mutex::new(move || backoff.next_backoff()))
    })
}
