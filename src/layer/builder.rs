//! The builder of a layer, which checks the options.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use tracing::warn;

use crate::error::ConfigError;
use crate::layer::IdempotencyLayer;
use crate::layer::limits::check_limits;
use crate::lease::{Leases, TimedStore};
use crate::limits::{Accounts, Limit, Limits, Resource, Turns};
use crate::message::media_type::can_have_body;
use crate::message::observed_body::{ObservedBodies, ObservedBody};
use crate::observer::{Observer, Observers};
use crate::options::route::{Abilities, Routes, Rule};
use crate::options::{RouteOptions, Target};
use crate::record::digest::Digests;
use crate::rejection::{DEFAULT, RejectionCode, RejectionRules, RenderRejection, Template};
use crate::request::core::{Core, Rules};
use crate::scope::Scope;
#[cfg(feature = "encryption")]
use crate::store::encrypted::Encryption;
#[cfg(feature = "_sql")]
use crate::store::sql::transaction::TransactionalStore;
use crate::store::{DynStore, Store, erased};

/// The options of an [`IdempotencyLayer`]. The methods here set the options of the whole layer;
/// [`RouteOptions`] has the options that each route can set for itself.
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
    pub(super) limits: [Limit; Resource::ALL.len()],
    send_timeout: Duration,
    target: Target,
    #[cfg(feature = "config")]
    skip_store_checks: bool,
    store_timeout: Duration,
    observers: Vec<Arc<dyn Observer>>,
    rejections: RejectionRules,
    /// The content type and the body for each code, by the code's word. `build` checks them.
    bodies: Vec<(&'static str, String, String)>,
    observed_bodies: ObservedBodies,
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
            limits: Limit::DEFAULTS,
            send_timeout: Duration::from_secs(60),
            target: Target::default(),
            #[cfg(feature = "config")]
            skip_store_checks: false,
            store_timeout: Duration::from_secs(2),
            observers: Vec::new(),
            rejections: RejectionRules::default(),
            bodies: Vec::new(),
            observed_bodies: ObservedBodies::default(),
            defaults: RouteOptions::default(),
            routes: Vec::new(),
        }
    }

    /// Separates the records of this service from those of other services on the same store.
    /// Default: empty.
    pub fn namespace(mut self, namespace: impl Into<String>) -> Self {
        self.namespace = namespace.into();
        self
    }

    /// Makes every digest an HMAC under a secret, so that a reader of the store can't find out
    /// keys and callers by trying (G10). The first secret is the current one, and each has at
    /// least 16 bytes. Default: none.
    ///
    /// To change the secret, first list the new secret second in every process, then list it first
    /// in every process, and remove the old secret one retention later. While an old secret is
    /// listed, the layer also finds the records that were made under it; for that the store must
    /// support [`look_up`](Store::look_up). An operation whose lease lapsed under an old secret
    /// runs again as a first attempt: it gets a record of its own, so the store does not stop its
    /// former owner, which holds the old record.
    ///
    /// No secret stands for "none". So if an application begins to use secrets with a store that
    /// has records already, the layer does not find those records any more.
    pub fn secrets<K: Into<Vec<u8>>>(mut self, secrets: impl IntoIterator<Item = K>) -> Self {
        self.secrets = secrets.into_iter().map(Into::into).collect();
        self
    }

    /// Encrypts recorded responses before the store gets them (G10). The keys are derived from the
    /// [`secrets`](Self::secrets); see [`Encryption`]. Default: no encryption.
    #[cfg(feature = "encryption")]
    pub fn encryption(mut self, encryption: Encryption) -> Self {
        self.encryption = Some(encryption);
        self
    }

    /// Sets for how long data of a response may wait for a client that reads nothing. Then the
    /// client is let go: what waited for it is dropped, its response ends in an error, and the
    /// operation goes on without a client (G4). Default: 1 min.
    ///
    /// A client reads if its server asks the response for more. A server asks for more when its
    /// own buffers and those of the socket have room again, so a client that reads a few bytes
    /// a minute reads nothing.
    pub fn send_timeout(mut self, timeout: Duration) -> Self {
        self.send_timeout = timeout;
        self
    }

    /// Sets how long one call of the store may take. Default: 2 s.
    pub fn store_timeout(mut self, timeout: Duration) -> Self {
        self.store_timeout = timeout;
        self
    }

    /// Adds an observer, which is told of every decision of the layer and of every call of the
    /// store. Default: none, and then no clock is read for one.
    pub fn observer(mut self, observer: impl Observer) -> Self {
        self.observers.push(Arc::new(observer));
        self
    }

    /// Sets the URL of the page on which clients of the API read about idempotency. It is the
    /// `type` of problem documents, and rejections have it in `Link: …; rel="describedby"`.
    /// Default: none.
    ///
    /// With the feature `contract`, `IdempotencyLayer::contract` makes such a page.
    pub fn docs_url(mut self, url: impl Into<Arc<str>>) -> Self {
        self.rejections.docs_url = Some(url.into());
        self
    }

    /// Sets the HTTP status of one rejection. gRPC clients still get the [status of
    /// gRPC](RejectionCode::grpc_status). Default: [`RejectionCode::default_status`].
    pub fn rejection_status(self, code: RejectionCode, status: StatusCode) -> Self {
        self.status_of(code.as_str(), status)
    }

    /// Sets the status of the code with this word, which may be one of the sidecar's.
    pub(crate) fn status_of(mut self, code: &'static str, status: StatusCode) -> Self {
        self.rejections.statuses.retain(|(own, _)| *own != code);
        self.rejections.statuses.push((code, status));
        self
    }

    /// Sets the body and the content type of one rejection. gRPC clients still get the form of
    /// gRPC. A client of MCP ([`RouteOptions::mcp`](crate::RouteOptions::mcp)) gets the body if it
    /// is an answer of JSON-RPC, which has the members `jsonrpc` and `result` or `error`: with the `id` of its
    /// call, and with the status 200 unless [`rejection_status`](Self::rejection_status) sets one.
    ///
    /// The body may have the placeholders `{code}`, `{title}`, `{detail}`, `{status}`, `{retry}`,
    /// `{docs_url}` and `{request_id}`, which the layer replaces by values. In a JSON body a value
    /// is escaped for the inside of a string, so write the placeholder between quotation marks. A
    /// body of another type may have only `{code}`, `{status}`, `{retry}` and `{request_id}`, and
    /// a value is left out unless it consists of 1 to 128 ASCII letters, digits, `.`, `_` and `-`.
    ///
    /// The id of a request is its `x-request-id`, or a new UUID if it has none. The response to a
    /// request whose id is in the body has the id in `x-request-id` too.
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
        self,
        code: RejectionCode,
        content_type: impl Into<String>,
        body: impl Into<String>,
    ) -> Self {
        self.body_of(code.as_str(), content_type.into(), body.into())
    }

    /// Sets the body and the content type of all rejections that have no [body of their
    /// own](Self::rejection_body), with the same placeholders. gRPC clients still get the form of
    /// gRPC. Default: none.
    ///
    /// A client library that looks for `error` in a body takes a body without it for a success. So
    /// an API whose errors have a form of their own needs this form for all rejections:
    ///
    /// ```
    /// use tower_idempotency::{IdempotencyLayer, MemoryStore, scope};
    ///
    /// let layer = IdempotencyLayer::builder(MemoryStore::new(), scope::shared())
    ///     .default_rejection_body(
    ///         "application/json",
    ///         r#"{"error":{"type":"{code}","message":"{detail}"}}"#,
    ///     )
    ///     .build()?;
    /// # Ok::<(), tower_idempotency::ConfigError>(())
    /// ```
    pub fn default_rejection_body(
        self,
        content_type: impl Into<String>,
        body: impl Into<String>,
    ) -> Self {
        self.body_of(DEFAULT, content_type.into(), body.into())
    }

    /// Sets the body of the code with this word, or of [`DEFAULT`].
    pub(crate) fn body_of(
        mut self,
        code: &'static str,
        content_type: String,
        body: String,
    ) -> Self {
        self.bodies.retain(|(own, ..)| *own != code);
        self.bodies.push((code, content_type, body));
        self
    }

    /// Sets the renderer of all rejections that have neither a [body of their
    /// own](Self::rejection_body) nor the [default body](Self::default_rejection_body). Default: [`Rejection::problem`](crate::rejection::Rejection::problem), and
    /// [`Rejection::grpc`](crate::rejection::Rejection::grpc) for gRPC requests.
    pub fn render_rejections(mut self, renderer: impl RenderRejection) -> Self {
        self.rejections.renderer = Some(Arc::new(renderer));
        self
    }

    /// Changes the default options, with which every route begins.
    pub fn defaults(mut self, change: impl FnOnce(RouteOptions) -> RouteOptions) -> Self {
        self.defaults = change(self.defaults);
        self
    }

    /// Changes the options of the requests that match `pattern`. The change begins with the
    /// defaults, also if [`defaults`](Self::defaults) is called later.
    ///
    /// The pattern is a path in axum's syntax, with or without a method before it:
    /// `POST /orders/{id}/capture`, `/files/{*path}`. The pattern with the most specific path
    /// applies, and of two patterns with the same path the one with a method. Two patterns that
    /// conflict (`/orders/{*rest}` and `/orders/{id}/capture`) are an error in
    /// [`build`](Self::build).
    ///
    /// A method in a pattern is protected. A pattern without a method applies to the
    /// [`methods`](RouteOptions::methods) of its options; for other methods the defaults apply.
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

    /// Sets which target of a request counts as sent: its path is matched with patterns, and it is
    /// digested. The option makes a difference only inside a nested axum router. Default:
    /// [`Target::AsSent`].
    ///
    /// Inside a nested router [`Target::AsSent`] needs the feature `axum`. If an application turns
    /// the feature `axum` on later, the fingerprints of requests in nested routers change, and so
    /// do their record ids with [`KeysPer::Route`](crate::options::KeysPer::Route): a retry after
    /// the change is rejected with `key-reused`, or its operation is executed twice.
    /// [`Target::AsSeen`] keeps the fingerprints and ids as they were.
    pub fn target(mut self, target: Target) -> Self {
        self.target = target;
        self
    }

    /// Says how a request body of type `B` that the layer observes becomes a `B` again, so that the
    /// layer can digest such bodies in [`Mode::Observe`](crate::options::Mode::Observe). The body
    /// that `rewrap` returns must pass on what it is given. With the feature `axum` axum's `Body` needs
    /// no such line; requests with bodies of other types are not observed without one.
    ///
    /// ```
    /// use hyper::body::Incoming;
    /// use tower_idempotency::options::Mode;
    /// use tower_idempotency::{IdempotencyLayer, MemoryStore, RequestBody, scope};
    ///
    /// let layer = IdempotencyLayer::builder(MemoryStore::new(), scope::header("x-api-key"))
    ///     .defaults(|options| options.mode(Mode::Observe))
    ///     .observed_body(RequestBody::<Incoming>::observed)
    ///     .build()?;
    /// # Ok::<(), tower_idempotency::ConfigError>(())
    /// ```
    pub fn observed_body<B: 'static>(mut self, rewrap: fn(ObservedBody<B>) -> B) -> Self {
        self.observed_bodies.add(rewrap);
        self
    }

    /// Skips the checks that depend on the store, so that the options of a file can be checked
    /// without the store that the program will use.
    #[cfg(feature = "config")]
    pub(crate) fn skip_store_checks(mut self) -> Self {
        self.skip_store_checks = true;
        self
    }

    /// Whether handlers can make their claims in the store, or why not.
    fn claims_within(&self) -> Result<(), String> {
        self.commits()?;
        #[cfg(feature = "_sql")]
        if let Some(database) = self.store.in_database()
            && let Some(why) = database.claims_nothing_within()
        {
            return Err(format!("can't be in_transaction here: {why}"));
        }
        Ok(())
    }

    fn keeps_steps(&self) -> bool {
        #[cfg(feature = "config")]
        if self.skip_store_checks {
            return true;
        }
        self.store.keeps_steps()
    }

    /// Whether handlers can commit their claims in the store, or why not.
    fn commits(&self) -> Result<(), String> {
        #[cfg(feature = "config")]
        if self.skip_store_checks {
            return Ok(());
        }
        if self.store.transactional().is_none() {
            let why = "needs a store in an SQL database: PostgresStore, MySqlStore or SqliteStore";
            return Err(why.to_owned());
        }
        #[cfg(feature = "_sql")]
        let database = self.store.in_database();
        #[cfg(feature = "_sql")]
        if let Some(change) = database.and_then(TransactionalStore::loses_commits) {
            return Err(format!(
                "needs a database that keeps each commit that others have read, and a crash of this \
                 one takes them back: {change}"
            ));
        }
        Ok(())
    }

    /// Checks the options and makes the layer.
    ///
    /// # Errors
    /// If an option has a value that can't work. The error names the option.
    pub fn build(mut self) -> Result<IdempotencyLayer, ConfigError> {
        for (option, time) in [
            ("store_timeout", self.store_timeout),
            ("send_timeout", self.send_timeout),
        ] {
            if time.is_zero() {
                return Err(ConfigError::new(option, "must be longer than zero"));
            }
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
            let template = Template::new(content_type, body).map_err(|error| match *code {
                DEFAULT => ConfigError::new("default_rejection_body", error.message()),
                code => {
                    ConfigError::new("rejection_body", format!("of {code} {}", error.message()))
                }
            })?;
            match *code {
                DEFAULT => self.rejections.default_body = Some(template),
                code => self.rejections.bodies.push((code, template)),
            }
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
        let abilities = Abilities {
            committed: self.commits(),
            in_transaction: self.claims_within(),
            keeps_steps: self.keeps_steps(),
        };
        let routes = Routes::new(self.defaults, self.routes, self.target, &abilities)?;
        let has_shares = !self.scope.is_everyone() || routes.have_scopes();
        check_limits(&self.limits, routes.largest_body(), has_shares)?;
        #[cfg(feature = "encryption")]
        let store = match self.encryption {
            Some(encryption) => encryption.before(self.store, &self.secrets)?,
            None => self.store,
        };
        #[cfg(not(feature = "encryption"))]
        let store = self.store;
        warn_of_limit(store.largest_completion(), routes.largest_recorded_body());
        let store = TimedStore::new(store, self.store_timeout, Observers::new(self.observers));
        let (lease, deadline) = (routes.shortest_lease(), routes.shortest_body_timeout());
        let leases = Arc::new(Leases::new(store, lease, deadline));
        let rules = Rules {
            scope: self.scope,
            namespace: self.namespace,
            digests: current,
            old_digests,
            routes,
            rejections: self.rejections,
            observed_bodies: self.observed_bodies,
        };
        Ok(IdempotencyLayer {
            core: Arc::new(Core {
                rules,
                send_timeout: self.send_timeout,
                leases,
                accounts: Accounts::new(Limits::new(|of| self.limits[of as usize])),
                turns: Turns::new(),
            }),
        })
    }
}

/// Warns if the store keeps less than the options record.
fn warn_of_limit(most: Option<usize>, max_recorded_body: usize) {
    if let Some(most) = most.filter(|most| *most < max_recorded_body) {
        warn!(
            max_recorded_body,
            store_keeps_at_most = most,
            "the store can't keep the largest responses that the options record: their records \
             will be sealed; lower `max_recorded_body`, or raise the limit of the store"
        );
    }
}

impl fmt::Debug for IdempotencyLayerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("IdempotencyLayerBuilder");
        debug.field("namespace", &self.namespace);
        for of in Resource::ALL {
            let Limit { sum, per_caller } = self.limits[of as usize];
            debug.field(of.option(), &sum);
            debug.field(of.share_option(), &per_caller);
        }
        debug
            .field("send_timeout", &self.send_timeout)
            .field("store_timeout", &self.store_timeout)
            .field("rejections", &self.rejections)
            .field("defaults", &self.defaults)
            .finish_non_exhaustive()
    }
}
