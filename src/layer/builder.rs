//! The options of a layer, and what can be wrong with them.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use tokio::sync::Semaphore;

use crate::error::ConfigError;
use crate::layer::IdempotencyLayer;
use crate::lease::Leases;
use crate::message::body::Budget;
use crate::message::media_type::can_have_body;
use crate::options::route::{Routes, Rule};
use crate::options::{RouteOptions, Target};
use crate::record::digest::Digests;
use crate::rejection::{RejectionCode, RejectionRules, RenderRejection, Template};
use crate::request::core::{Core, Rules};
use crate::runtime::background::Background;
use crate::scope::Scope;
#[cfg(feature = "encryption")]
use crate::store::encrypted::Encryption;
use crate::store::{DynStore, Store, TimedStore, erased};

/// Options of an [`IdempotencyLayer`]: those of the whole layer here, those
/// that a route can have for itself in [`RouteOptions`].
///
/// ```
/// use http::StatusCode;
/// use std::time::Duration;
/// use tower_idempotency::{IdempotencyLayer, MemoryStore, scope};
/// use tower_idempotency::options::Require;
/// use tower_idempotency::recording::Statuses;
/// use tower_idempotency::rejection::RejectionCode;
///
/// let layer = IdempotencyLayer::builder(MemoryStore::new(), scope::header("x-api-key"))
///     .namespace("billing")
///     .docs_url("https://developer.example.com/idempotency")
///     .rejection_status(RejectionCode::KeyReused, StatusCode::CONFLICT)
///     .defaults(|options| options.retention(Duration::from_secs(7 * 24 * 3600)))
///     .route("POST /payments", |options| options.require(Require::Required))
///     .route("POST /orders/{id}/capture", |options| {
///         options.require(Require::Required).record(Statuses::none().with(200..300))
///     })
///     .build()?;
/// # Ok::<(), tower_idempotency::ConfigError>(())
/// ```
#[must_use]
pub struct IdempotencyLayerBuilder {
    store: Arc<dyn DynStore>,
    scope: Arc<dyn Scope>,
    namespace: String,
    secrets: Vec<Vec<u8>>,
    #[cfg(feature = "encryption")]
    encryption: Option<Encryption>,
    max_buffered_bytes: usize,
    max_background_operations: usize,
    max_waiting_requests: usize,
    target: Target,
    ignore_path_case: bool,
    #[cfg(feature = "config")]
    skip_store_checks: bool,
    store_timeout: Duration,
    rejections: RejectionRules,
    /// Content type and body, not looked at yet.
    bodies: Vec<(RejectionCode, String, String)>,
    defaults: RouteOptions,
    routes: Vec<Rule>,
}

impl IdempotencyLayerBuilder {
    pub(crate) fn new(store: impl Store, scope: impl Scope) -> Self {
        Self {
            store: erased(store),
            scope: Arc::new(scope),
            namespace: String::new(),
            secrets: Vec::new(),
            #[cfg(feature = "encryption")]
            encryption: None,
            max_buffered_bytes: 256 << 20,
            max_background_operations: 10_000,
            max_waiting_requests: 1_000,
            target: Target::default(),
            ignore_path_case: false,
            #[cfg(feature = "config")]
            skip_store_checks: false,
            store_timeout: Duration::from_secs(2),
            rejections: RejectionRules::default(),
            bodies: Vec::new(),
            defaults: RouteOptions::default(),
            routes: Vec::new(),
        }
    }

    /// Keeps the records of this service apart from those of others on the
    /// same store. Default: empty.
    pub fn namespace(mut self, namespace: impl Into<String>) -> Self {
        self.namespace = namespace.into();
        self
    }

    /// Turns every digest into an HMAC, so that whoever reads the store can't
    /// try out keys and callers (G10). At least 16 bytes each; the current one
    /// first. Default: none.
    ///
    /// To change a secret, list the new one second in every process, then
    /// first, and drop the old one a retention later: while it is listed,
    /// records made under it still count. The store has to be able to
    /// [`look_up`](Store::look_up). An operation that lapsed under an old
    /// secret runs again as if it were the first, and its former owner is not
    /// fenced off.
    ///
    /// There is no way to list "none": turning secrets on in front of a store
    /// that outlives the process forgets the records that were made without.
    pub fn secrets<K: Into<Vec<u8>>>(mut self, secrets: impl IntoIterator<Item = K>) -> Self {
        self.secrets = secrets.into_iter().map(Into::into).collect();
        self
    }

    /// Encrypts recorded answers before the store gets them, under keys made of
    /// the [`secrets`](Self::secrets) (G10). See [`Encryption`]. Default: none.
    #[cfg(feature = "encryption")]
    pub fn encryption(mut self, encryption: Encryption) -> Self {
        self.encryption = Some(encryption);
        self
    }

    /// The most bytes that all request bodies hold together while they are
    /// being read; beyond it: `over-capacity`. Default: 256 MiB.
    pub fn max_buffered_bytes(mut self, bytes: usize) -> Self {
        self.max_buffered_bytes = bytes;
        self
    }

    /// While this many operations or more run on without a client, others are not
    /// begun: `over-capacity`. Asked before the claim, since one that has begun
    /// can't be stopped when its client leaves (G4); so whether it would have
    /// been a replay is not known either. Default: 10 000.
    ///
    /// What the layer still has to tell the store counts too: completions and
    /// releases that are being tried again. Routes with
    /// [`OnDisconnect::Cancel`](crate::options::OnDisconnect::Cancel) begin all the same.
    /// How many clients leave at one moment this does not bound; a limit of
    /// concurrent requests outside the layer does.
    pub fn max_background_operations(mut self, operations: usize) -> Self {
        self.max_background_operations = operations;
        self
    }

    /// How many requests wait for the outcome of another at once
    /// ([`OnInFlight::Wait`](crate::options::OnInFlight::Wait)); beyond it: `in-flight`.
    /// Default: 1 000.
    pub fn max_waiting_requests(mut self, requests: usize) -> Self {
        self.max_waiting_requests = requests;
        self
    }

    /// How long the store may take for an answer. Default: 2 s.
    pub fn store_timeout(mut self, timeout: Duration) -> Self {
        self.store_timeout = timeout;
        self
    }

    /// Where this API's clients read about idempotency: the `type` of problem
    /// documents, and `Link: …; rel="describedby"`. Default: none.
    /// With the feature `contract`, `IdempotencyLayer::contract` makes a page for them.
    pub fn docs_url(mut self, url: impl Into<Arc<str>>) -> Self {
        self.rejections.docs_url = Some(url.into());
        self
    }

    /// Another HTTP status for one rejection. gRPC clients are told the
    /// [status of gRPC](RejectionCode::grpc_status) all the same.
    pub fn rejection_status(mut self, code: RejectionCode, status: StatusCode) -> Self {
        self.rejections.statuses.retain(|(own, _)| *own != code);
        self.rejections.statuses.push((code, status));
        self
    }

    /// Another body for one rejection, and the type of its content, with
    /// `{code}`, `{title}`, `{detail}`, `{status}`, `{retry}`, `{docs_url}` and
    /// `{request_id}` filled in. gRPC clients are told in their own way all the
    /// same.
    ///
    /// In JSON a value is escaped as the inside of a string, so it belongs
    /// between quotation marks. In other types only the values of `{code}`,
    /// `{status}`, `{retry}` and `{request_id}` can stand, and of these only
    /// what consists of 1 to 128 letters, digits, `.`, `_` and `-`. The id of a
    /// request is its `x-request-id`, or else a new UUID; it is sent back under
    /// that name.
    ///
    /// ```
    /// use tower_idempotency::{IdempotencyLayer, MemoryStore, scope};
    /// use tower_idempotency::rejection::RejectionCode;
    ///
    /// let layer = IdempotencyLayer::builder(MemoryStore::new(), scope::shared())
    ///     .rejection_body(
    ///         RejectionCode::KeyReused,
    ///         "application/json",
    ///         r#"{"error":{"message":"{detail}","requestId":"{request_id}"}}"#,
    ///     )
    ///     .build()?;
    /// # Ok::<(), tower_idempotency::ConfigError>(())
    /// ```
    pub fn rejection_body(
        mut self,
        code: RejectionCode,
        content_type: impl Into<String>,
        body: impl Into<String>,
    ) -> Self {
        self.bodies.retain(|(own, ..)| *own != code);
        self.bodies.push((code, content_type.into(), body.into()));
        self
    }

    /// Another body and headers for all rejections that have no
    /// [body of their own](Self::rejection_body). Default:
    /// [`Rejection::problem`](crate::rejection::Rejection::problem), and
    /// [`Rejection::grpc`](crate::rejection::Rejection::grpc) where the request is of
    /// gRPC.
    pub fn render_rejections(mut self, renderer: impl RenderRejection) -> Self {
        self.rejections.renderer = Some(Arc::new(renderer));
        self
    }

    /// Changes the options of every request.
    pub fn defaults(mut self, change: impl FnOnce(RouteOptions) -> RouteOptions) -> Self {
        self.defaults = change(self.defaults);
        self
    }

    /// Changes the options of the requests that match `pattern`, beginning
    /// with the defaults, wherever those are set.
    ///
    /// The pattern is a path in axum's syntax, with a method before it or
    /// none: `POST /orders/{id}/capture`, `/files/{*path}`. The most specific
    /// path wins, and of equal paths the one with a method. Patterns that
    /// conflict (`/orders/{*rest}` beside `/orders/{id}/capture`) are an error. A method in a
    /// pattern is protected by it; a pattern without one is for the policy's
    /// [`methods`](RouteOptions::methods), and leaves other methods to the defaults.
    ///
    /// The pattern is matched with the path that the client sent; see [`target`](Self::target) for
    /// nested axum routers.
    pub fn route(
        mut self,
        pattern: impl Into<String>,
        change: impl FnOnce(RouteOptions) -> RouteOptions + Send + 'static,
    ) -> Self {
        self.routes.push((pattern.into(), Box::new(change)));
        self
    }

    /// Which target of a request is matched with patterns and digested. It makes a difference only
    /// inside a nested axum router. Default: [`Target::AsSent`].
    ///
    /// [`Target::AsSent`] needs the feature `axum` there. Turning that feature on later changes the
    /// fingerprints of requests in nested routers, and their record ids with
    /// [`KeysPer::Route`](crate::options::KeysPer::Route): a retry that is sent before and after the
    /// change is rejected with `key-reused`, or executed twice. [`Target::AsSeen`] keeps them.
    pub fn target(mut self, target: Target) -> Self {
        self.target = target;
        self
    }

    /// For a layer that is only built, to see whether it can be.
    #[cfg(feature = "config")]
    pub(crate) fn skip_store_checks(mut self) -> Self {
        self.skip_store_checks = true;
        self
    }

    /// For services that don't tell `/Orders` from `/orders`. What is compared is
    /// the path as it was sent all the same.
    pub(crate) fn ignore_path_case(mut self, ignore: bool) -> Self {
        self.ignore_path_case = ignore;
        self
    }

    /// The layer.
    ///
    /// # Errors
    /// If an option has a value that can't work; the error names it.
    pub fn build(mut self) -> Result<IdempotencyLayer, ConfigError> {
        if self.store_timeout.is_zero() {
            return Err(ConfigError::new(
                "store_timeout",
                "must be longer than zero",
            ));
        }
        if self.secrets.iter().any(|secret| secret.len() < 16) {
            return Err(ConfigError::new(
                "secrets",
                "must have at least 16 bytes each",
            ));
        }
        for (at, secret) in self.secrets.iter().enumerate() {
            if self.secrets[..at].contains(secret) {
                return Err(ConfigError::new("secrets", "must not list one twice"));
            }
        }
        if let Some((code, status)) = self
            .rejections
            .statuses
            .iter()
            .find(|(_, status)| !can_have_body(*status))
        {
            let message = format!("answers {code} with {status}, which has no body");
            return Err(ConfigError::new("rejection_status", message));
        }
        for (code, content_type, body) in &self.bodies {
            let template = Template::new(content_type, body).map_err(|error| {
                ConfigError::new("rejection_body", format!("of {code} {}", error.message()))
            })?;
            self.rejections.bodies.push((*code, template));
        }
        if let Some(url) = &self.rejections.docs_url
            && (url.is_empty()
                || !url
                    .bytes()
                    .all(|b| b.is_ascii_graphic() && !b"<>\"".contains(&b)))
        {
            return Err(ConfigError::new(
                "docs_url",
                format!("is not a URL: `{url}`"),
            ));
        }
        self.scope.check()?;
        let mut digests = self.secrets.iter().map(|secret| Digests::keyed(secret));
        let current = digests.next().unwrap_or_else(Digests::plain);
        let old_digests = digests.collect();
        let commits = self.store.transactional().is_some();
        #[cfg(feature = "config")]
        let commits = commits || self.skip_store_checks;
        let routes = Routes::new(self.defaults, self.routes, self.target, commits)?;
        let routes = routes.ignoring_case(self.ignore_path_case);
        if self.max_buffered_bytes < routes.largest_body() {
            let message = format!(
                "must hold the largest body, `max_request_body` of {} bytes",
                routes.largest_body()
            );
            return Err(ConfigError::new("max_buffered_bytes", message));
        }
        if self.max_background_operations == 0 {
            return Err(ConfigError::new(
                "max_background_operations",
                "must be at least 1, or nothing is ever begun",
            ));
        }
        #[cfg(feature = "encryption")]
        let store = match self.encryption {
            Some(encryption) => encryption.before(self.store, &self.secrets)?,
            None => self.store,
        };
        #[cfg(not(feature = "encryption"))]
        let store = self.store;
        let background = Background::up_to(self.max_background_operations);
        let store = TimedStore::new(store, self.store_timeout);
        let leases = Arc::new(Leases::new(store, background, routes.shortest_lease()));
        let waiters = self.max_waiting_requests.min(Semaphore::MAX_PERMITS);
        let rules = Rules {
            scope: self.scope,
            namespace: self.namespace,
            digests: current,
            old_digests,
            routes,
            rejections: self.rejections,
        };
        Ok(IdempotencyLayer {
            core: Arc::new(Core {
                rules,
                leases,
                waiters: Semaphore::new(waiters),
                body_budget: Budget::new(self.max_buffered_bytes),
            }),
        })
    }
}

impl fmt::Debug for IdempotencyLayerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IdempotencyLayerBuilder")
            .field("namespace", &self.namespace)
            .field("max_buffered_bytes", &self.max_buffered_bytes)
            .field("max_background_operations", &self.max_background_operations)
            .field("max_waiting_requests", &self.max_waiting_requests)
            .field("store_timeout", &self.store_timeout)
            .field("rejections", &self.rejections)
            .field("defaults", &self.defaults)
            .finish_non_exhaustive()
    }
}
