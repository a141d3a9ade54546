//! The error of a configuration that can't work.

use std::error::Error;
use std::fmt;

pub(crate) type BoxError = Box<dyn Error + Send + Sync>;

/// An option whose value can't work, found when the layer or a store is built.
///
/// ```
/// use std::time::Duration;
/// use tower_idempotency::{IdempotencyLayer, MemoryStore, scope};
///
/// let error = IdempotencyLayer::builder(MemoryStore::new(), scope::shared())
///     .defaults(|options| options.lease(Duration::ZERO))
///     .build()
///     .unwrap_err();
/// assert_eq!(error.option(), "lease");
/// assert_eq!(error.to_string(), "`lease` must be longer than zero");
/// ```
#[derive(Debug)]
pub struct ConfigError {
    option: &'static str,
    message: String,
    route: Option<String>,
}

impl ConfigError {
    pub(crate) fn new(option: &'static str, message: impl Into<String>) -> Self {
        Self {
            option,
            message: message.into(),
            route: None,
        }
    }

    pub(crate) fn on_route(mut self, pattern: &str) -> Self {
        self.route = Some(pattern.to_owned());
        self
    }

    /// The name of the option that is wrong.
    #[must_use]
    pub fn option(&self) -> &'static str {
        self.option
    }

    /// What is wrong with the option, as the rest of a sentence that begins with the option's name.
    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    /// The pattern of the route for which the option was set; `None` if it was set for every request.
    #[must_use]
    pub fn route(&self) -> Option<&str> {
        self.route.as_deref()
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` {}", self.option, self.message)?;
        match &self.route {
            Some(pattern) => write!(f, " (on route `{pattern}`)"),
            None => Ok(()),
        }
    }
}

impl Error for ConfigError {}

/// An error as a value that `tracing` records with its sources.
pub(crate) fn cause<'a>(error: &'a (dyn Error + 'static)) -> &'a (dyn Error + 'static) {
    error
}
