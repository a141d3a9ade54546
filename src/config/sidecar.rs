//! The entries of a file that concern the sidecar, which reads them by
//! [`for_sidecar`](crate::for_sidecar).

use std::time::Duration;

use http::{HeaderName, Uri};
use ipnet::IpNet;

use super::choice::Exactly;
use super::desk::{DeskEntry, DeskTable};
use super::limits::Limits;
use super::process::Listen;
use super::scopes::Scopes;
use super::tls::{ClientFiles, ClientTls, ServerFiles, ServerTls};
use super::{Config, FileError, print};
use crate::IdempotencyLayerBuilder;
use crate::error::ConfigError;
use crate::options::ExactlyOnce;
use crate::options::recording::Statuses;
use crate::scope::canonical;
use crate::store::Store;

/// The statuses by which a gateway says that the service may still run.
const OF_GATEWAYS: [u16; 2] = [502, 504];

/// Each field is an entry at the top of the file; `None` where it is left out.
#[derive(Clone, Debug)]
pub struct Entries {
    /// The entry `listen`.
    pub listen: Option<Listen>,
    /// The entry `tls`.
    pub tls: Option<ServerFiles>,
    /// `http://` or `https://` and an authority, without a path.
    pub upstream: Option<Uri>,
    /// The entry `upstream_tls`.
    pub upstream_tls: Option<ClientFiles>,
    /// HTTP/2 instead of HTTP/1.1.
    pub upstream_http2: Option<bool>,
    /// How long an idle connection to the service is kept over HTTP/1.1.
    pub upstream_keep_alive: Option<Duration>,
    /// The entry `connect_timeout`.
    pub connect_timeout: Option<Duration>,
    /// From the request's last byte to the head of the response.
    pub upstream_timeout: Option<Duration>,
    /// The authorizer, which is asked before anything is claimed or replayed.
    pub authorize: Option<AuthorizeEntry>,
    /// The proxies whose `X-Forwarded-*` headers are trusted.
    pub trusted_proxies: Vec<IpNet>,
    /// The entry `metrics`.
    pub metrics: Option<Listen>,
    /// The entry `metrics_tls`.
    pub metrics_tls: Option<ServerFiles>,
    /// The entry `desk`.
    pub desk: Option<DeskEntry>,
    /// A path; `Some(None)` for `false`.
    pub livez: Option<Option<String>>,
    /// A path; `Some(None)` for `false`.
    pub readyz: Option<Option<String>>,
    /// A path; `Some(None)` for `false`.
    pub healthz: Option<Option<String>>,
    /// A path; `Some(None)` for `false`.
    pub contract: Option<Option<String>>,
    /// The entry `drain_timeout`.
    pub drain_timeout: Option<Duration>,
    /// The entry `drain_delay`.
    pub drain_delay: Option<Duration>,
    /// Patterns are matched against the path in lower case.
    pub ignore_path_case: Option<bool>,
    /// The table `[limits]`, with its defaults.
    pub limits: Limits,
    /// The entry `docs_url` of `[idempotency]`.
    pub docs_url: Option<String>,
    /// `[idempotency]`, then each `[[route]]`.
    pub tables: Vec<Table>,
}

/// The entry `authorize`. Its `url` may hold a credential.
#[derive(Clone)]
pub struct AuthorizeEntry {
    /// `http://` or `https://`, asked with GET.
    pub url: Uri,
    /// The entry `authorize.tls`.
    pub tls: Option<ClientFiles>,
    /// How long the authorizer may take.
    pub timeout: Option<Duration>,
    /// The headers that are copied from the authorizer's response into the request.
    pub headers: Vec<HeaderName>,
}

impl std::fmt::Debug for AuthorizeEntry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AuthorizeEntry")
            .field("timeout", &self.timeout)
            .field("headers", &self.headers)
            .finish_non_exhaustive()
    }
}

/// The options of one table that a proxy has to check.
#[derive(Clone, Debug)]
pub struct Table {
    /// The number of the `[[route]]`, from 0; `None` for `[idempotency]`.
    pub route: Option<usize>,
    /// Whether `scope` lists `peer-ip`.
    pub peer_ip: bool,
    /// The networks that `scope` trusts to say where a request comes from.
    pub trusted: Vec<IpNet>,
    /// The option `exactly_once`.
    pub exactly_once: bool,
    /// The option `steps`.
    pub steps: bool,
}

impl Table {
    fn new(
        route: Option<usize>,
        scope: Option<&Scopes>,
        exactly_once: Option<&Exactly>,
        steps: Option<bool>,
    ) -> Self {
        let trusted = scope.iter().flat_map(|scope| &scope.trusted);
        Self {
            route,
            peer_ip: scope.is_some_and(|scope| scope.peer_ip),
            trusted: trusted.copied().collect(),
            exactly_once: exactly_once.is_some_and(|own| own.0 != ExactlyOnce::No),
            steps: steps == Some(true),
        }
    }

    /// The option of this table is wrong. `message` completes "`scope` …".
    #[must_use]
    pub fn wrong(&self, config: &Config, option: &str, message: &str) -> FileError {
        let path = match self.route {
            Some(at) => format!("route[{at}].{option}"),
            None => format!("idempotency.{option}"),
        };
        config.error(&path, message)
    }
}

/// The entries of this file that concern the sidecar.
#[must_use]
pub fn entries(config: &Config) -> Entries {
    let file = &config.said.file;
    let all = &file.idempotency;
    let routes = file.route.iter().enumerate();
    let table = |(at, route): (_, &super::file::Route)| {
        Table::new(
            Some(at),
            route.scope.as_ref(),
            route.exactly_once.as_ref(),
            route.steps,
        )
    };
    let routes = routes.map(table);
    let networks = file.trusted_proxies.iter().flatten();
    Entries {
        listen: file.listen.as_ref().map(|own| own.0.clone()),
        tls: file.tls.as_ref().map(ServerTls::files),
        upstream: file.upstream.as_ref().map(|own| own.0.clone()),
        upstream_tls: file.upstream_tls.as_ref().map(ClientTls::files),
        upstream_http2: file.upstream_http2,
        upstream_keep_alive: file.upstream_keep_alive.map(|own| own.0),
        connect_timeout: file.connect_timeout.map(|own| own.0),
        upstream_timeout: file.upstream_timeout.map(|own| own.0),
        authorize: file.authorize.as_ref().map(|own| AuthorizeEntry {
            url: own.url.clone(),
            tls: own.tls.as_ref().map(ClientTls::files),
            timeout: own.timeout.map(|timeout| timeout.0),
            headers: own.headers.clone(),
        }),
        trusted_proxies: networks.map(|own| canonical(own.0)).collect(),
        metrics: file.metrics.as_ref().map(|own| own.0.clone()),
        metrics_tls: file.metrics_tls.as_ref().map(ServerTls::files),
        desk: file.desk.as_ref().map(DeskTable::entry),
        livez: file.livez.as_ref().map(|own| own.0.clone()),
        readyz: file.readyz.as_ref().map(|own| own.0.clone()),
        healthz: file.healthz.as_ref().map(|own| own.0.clone()),
        contract: file.contract.as_ref().map(|own| own.0.clone()),
        drain_delay: file.drain_delay.map(|own| own.0),
        drain_timeout: file.drain_timeout.map(|own| own.0),
        ignore_path_case: file.ignore_path_case,
        limits: file.limits.limits(),
        docs_url: all.docs_url.clone(),
        tables: [Table::new(
            None,
            all.scope.as_ref(),
            all.exactly_once.as_ref(),
            all.steps,
        )]
        .into_iter()
        .chain(routes)
        .collect(),
    }
}

/// Returns the builder of the sidecar's layer, in front of this store. A gateway between the sidecar
/// and the service responds with 502 or 504 while the service may still run, so these statuses leave
/// the outcome in doubt, unless the file has the option `in_doubt` itself.
///
/// # Errors
/// Those of [`Config::builder`].
pub fn builder(config: &Config, store: impl Store) -> Result<IdempotencyLayerBuilder, FileError> {
    let builder = config.builder(store)?;
    if config.said.file.idempotency.in_doubt.is_some() {
        return Ok(builder);
    }
    let of_gateways = Statuses::none().with(OF_GATEWAYS);
    Ok(builder.defaults(|options| options.in_doubt(of_gateways)))
}

/// Prints what is in force in the sidecar, with secrets redacted, and where each value comes from.
#[must_use]
pub fn in_force(config: &Config) -> String {
    let in_doubt = OF_GATEWAYS.map(|status| status.to_string());
    print::in_force(
        config,
        &[("idempotency.in_doubt", in_doubt.to_vec().into())],
    )
}

/// Several errors as one.
///
/// # Errors
/// If there is an error.
pub fn all_of(errors: Vec<FileError>) -> Result<(), FileError> {
    FileError::of_all(errors).map_or(Ok(()), Err)
}

/// The entry `option`, at the top of the file, is wrong. `message` completes "`store` …".
#[must_use]
pub fn wrong(config: &Config, option: &str, message: &str) -> FileError {
    config.error(option, message)
}

/// What is wrong with a layer that this file describes, with the entry that makes
/// it so.
#[must_use]
pub fn located(config: &Config, error: &ConfigError) -> FileError {
    config.built(error)
}
