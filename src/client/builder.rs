//! How the options of a client are set.

use std::error::Error as StdError;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;
use tokio::time::Sleep;
use tower::retry::backoff::{Backoff, MakeBackoff};
use tower::retry::budget::Budget;

use super::ClientLayer;
use super::backoff::FullJitter;
use super::key_member::KeyMember;
use super::options::{Options, Pauses};
use super::received::Marks;
use super::transient::is_transient;
use crate::error::ConfigError;
use crate::options::key::{KeyFormat, KeyRules, KeySyntax};
use crate::options::recording::Statuses;

/// The options of a [`ClientLayer`]. [`build`](Self::build) returns an error if an
/// option has a value that can't work.
#[derive(Debug)]
pub struct ClientLayerBuilder {
    options: Options,
    /// The first option that was wrong.
    wrong: Option<ConfigError>,
}

impl Default for ClientLayerBuilder {
    fn default() -> Self {
        let options = Options {
            keys: KeyRules {
                headers: vec![HeaderName::from_static("idempotency-key")],
                syntax: KeySyntax::default(),
                length: 1..=usize::MAX,
                format: KeyFormat::any(),
                ..KeyRules::default()
            },
            member: None,
            marks: Marks::default(),
            attempts: 16,
            deadline: Duration::from_secs(120),
            attempt_timeout: Duration::from_secs(10),
            max_response_body: 1 << 20,
            backoff: pauses_of(FullJitter::default()),
            budget: None,
            max_retry_after: Duration::from_secs(60),
            retry_statuses: Statuses::none().with([408, 425, 429, 500, 502, 503, 504]),
            retry_errors: Arc::new(is_transient),
        };
        Self {
            options,
            wrong: None,
        }
    }
}

impl ClientLayerBuilder {
    /// How often a request is sent at most, the first attempt included. Default:
    /// 16. With the other defaults, 16 attempts take longer than the lease of a
    /// server that died in the middle of the operation.
    #[must_use]
    pub fn attempts(mut self, attempts: usize) -> Self {
        self.options.attempts = attempts;
        self
    }

    /// The time for all attempts and the pauses between them. At the deadline the
    /// running attempt ends, and no other begins. Default: 2 minutes. The deadline
    /// has to be well below the server's retention.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.options.deadline = deadline;
        self
    }

    /// The time for one attempt, until its response is read. Default: 10 s.
    #[must_use]
    pub fn attempt_timeout(mut self, timeout: Duration) -> Self {
        self.options.attempt_timeout = timeout;
        self
    }

    /// How many bytes of a response the client reads before it returns the
    /// response. If the rest of a longer response breaks off, the request is not
    /// sent again. Default: 1 MiB.
    #[must_use]
    pub fn max_response_body(mut self, bytes: usize) -> Self {
        self.options.max_response_body = bytes;
        self
    }

    /// How long the client pauses between two attempts: [`FullJitter`], or one of
    /// tower's. If a response has a `Retry-After`, the longer of both counts.
    /// Default: [`FullJitter`] with 200 ms and 20 s.
    #[must_use]
    pub fn backoff<M>(mut self, maker: M) -> Self
    where
        M: MakeBackoff + Clone + Send + Sync + 'static,
        M::Backoff: Backoff<Future = Sleep> + Send + 'static,
    {
        self.options.backoff = pauses_of(maker);
        self
    }

    /// A budget for the retries of all requests of this layer, such as tower's
    /// `TpsBudget`: if most requests fail, retries add to the load. A request that
    /// ends with a response deposits, a retry withdraws. Default: none.
    #[must_use]
    pub fn budget(mut self, budget: impl Budget + Send + Sync + 'static) -> Self {
        self.options.budget = Some(Arc::new(budget));
        self
    }

    /// The longest wait that a `Retry-After` can cause. Default: 60 s.
    #[must_use]
    pub fn max_retry_after(mut self, wait: Duration) -> Self {
        self.options.max_retry_after = wait;
        self
    }

    /// The statuses that call for another attempt. They don't apply to the
    /// rejection of an idempotency layer, whose member `retry` decides, nor to a
    /// 409 with `Retry-After`, which always calls for another attempt. Default:
    /// 408, 425, 429, 500, 502, 503 and 504.
    #[must_use]
    pub fn retry_statuses(mut self, statuses: Statuses) -> Self {
        self.options.retry_statuses = statuses;
        self
    }

    /// Which errors of the HTTP client call for another attempt, if there is no
    /// response. Default: [`is_transient`]. An attempt that took too long, and a
    /// response that broke off, always call for another attempt.
    #[must_use]
    pub fn retry_errors(
        mut self,
        which: impl Fn(&(dyn StdError + 'static)) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.options.retry_errors = Arc::new(which);
        self
    }

    /// The header that carries the key. Default: `Idempotency-Key`.
    #[must_use]
    pub fn header(mut self, name: &str) -> Self {
        if let Some(name) = self.name("header", name) {
            self.options.keys.headers = vec![name];
        }
        self
    }

    /// The member of a JSON body that carries the key beside the header, as a JSON pointer such as
    /// `/meta/idempotency-key`: for APIs that read the key there. Objects that are missing on the way
    /// are made, and nothing else of the body changes. A key that stands there already is the
    /// request's key, unless its header or its extensions have one. Default: none.
    ///
    /// The body of the request must be `Full<Bytes>` or `Bytes`. A request with a key whose body is
    /// of another type, is no JSON object, or has another key there is not sent:
    /// [`ErrorKind::NoPlaceForKey`](super::ErrorKind::NoPlaceForKey).
    ///
    /// ```
    /// use tower_idempotency::client::ClientLayer;
    ///
    /// let layer = ClientLayer::builder().key_in_body("/meta/idempotency-key").build()?;
    /// # Ok::<(), tower_idempotency::ConfigError>(())
    /// ```
    #[must_use]
    pub fn key_in_body(mut self, pointer: &str) -> Self {
        match KeyMember::parse(pointer) {
            Ok(member) => self.options.member = Some(member),
            Err(message) => self.wrong("key_in_body", message),
        }
        self
    }

    /// How the key is written. The server must read keys in the same way. Default:
    /// as an RFC 8941 string, like in the IETF draft. [`KeySyntax::Raw`] is for
    /// servers that take quotation marks as a part of the key.
    #[must_use]
    pub fn key_syntax(mut self, syntax: KeySyntax) -> Self {
        self.options.keys.syntax = syntax;
        self
    }

    /// The header that marks a replayed response with `true`, as the server's
    /// option `replayed_header` names it. Default: `Idempotency-Replayed`.
    #[must_use]
    pub fn replayed_header<'a>(mut self, name: impl Into<Option<&'a str>>) -> Self {
        self.options.marks.replayed = self.mark("replayed_header", name.into());
        self
    }

    /// The header that [`Received::made_at`](super::Received::made_at) reads, as
    /// the server's option `created_at_header` names it. Default: none.
    #[must_use]
    pub fn created_at_header<'a>(mut self, name: impl Into<Option<&'a str>>) -> Self {
        self.options.marks.created_at = self.mark("created_at_header", name.into());
        self
    }

    /// The header that [`Received::kept_until`](super::Received::kept_until)
    /// reads, as the server's option `expires_at_header` names it. Default: none.
    #[must_use]
    pub fn expires_at_header<'a>(mut self, name: impl Into<Option<&'a str>>) -> Self {
        self.options.marks.expires_at = self.mark("expires_at_header", name.into());
        self
    }

    fn mark(&mut self, option: &'static str, name: Option<&str>) -> Option<HeaderName> {
        name.and_then(|name| self.name(option, name))
    }

    fn name(&mut self, option: &'static str, name: &str) -> Option<HeaderName> {
        let parsed = name.parse().ok();
        if parsed.is_none() {
            let message = format!("names `{name}`, which is not a header's name");
            self.wrong(option, message);
        }
        parsed
    }

    /// Only the first error is kept, and `build` returns it.
    fn wrong(&mut self, option: &'static str, message: impl Into<String>) {
        self.wrong
            .get_or_insert_with(|| ConfigError::new(option, message));
    }

    /// The layer with these options.
    ///
    /// # Errors
    ///
    /// If an option has a value that can't work.
    pub fn build(mut self) -> Result<ClientLayer, ConfigError> {
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
            None => Ok(ClientLayer {
                options: Arc::new(self.options),
            }),
        }
    }
}

/// No retention is longer than a year, and a year can be added to any `Instant`.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 60 * 60);

fn pauses_of<M>(maker: M) -> Arc<dyn Fn() -> Pauses + Send + Sync>
where
    M: MakeBackoff + Clone + Send + Sync + 'static,
    M::Backoff: Backoff<Future = Sleep> + Send + 'static,
{
    Arc::new(move || {
        let mut backoff = maker.clone().make_backoff();
        Box::new(move || backoff.next_backoff())
    })
}
