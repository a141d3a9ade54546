//! [`tower_idempotency`] as a proxy in front of a service in any language.
//!
//! The program `tower-idempotency-sidecar --config FILE` runs one [`Sidecar`]; so can any other
//! program. `docs/sidecar.md` describes what the proxy does and the entries of its file.

use std::error::Error;
use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use tower_idempotency::config::{Config, FileError};
use tower_idempotency::for_sidecar::{
    ClientFiles, Listen, ServerFiles, all_of, builder, located, wrong,
};
use tower_idempotency::store::{AnyStore, Store, StoreError};
use tower_idempotency::{ConfigError, IdempotencyLayer, RequestBody};
use tower_idempotency_desk::DeskObserver;

mod authorize;
mod bodies;
mod checks;
mod client;
mod connect;
mod connections;
mod contract;
mod descriptors;
mod desk;
mod ending;
mod forwarded;
mod framing;
mod front;
mod head;
mod http2;
mod listener;
mod metrics;
mod observed;
mod options;
mod path;
mod patience;
mod places;
mod probes;
mod problem;
mod received;
mod resets;
mod server;
mod socket;
mod store;
mod stream;
mod tls;
mod transport;
mod upload;
mod upstream;

pub use contract::SidecarContract;
use front::Front;
use listener::Listener;
use metrics::{LayerObserver, Metrics};
use options::{Settings, is_https, required_store};
use received::ReceivedBody;
use server::Drain;
use store::{Connected, LateStore};
use tls::{Acceptor, Reload};
use tracing::error;

/// How often the files of certificates are looked at.
const LOOK: Duration = Duration::from_secs(2);

type BoxError = Box<dyn Error + Send + Sync>;

/// A proxy with an [`IdempotencyLayer`] that listens on its addresses.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use tower_idempotency::config::Config;
/// use tower_idempotency_sidecar::Sidecar;
///
/// let config = Config::from_toml(
///     r#"
///     listen = "127.0.0.1:0"
///     upstream = "http://127.0.0.1:9000"
///     store = "memory:"
///
///     [idempotency]
///     scope = ["header:x-api-key"]
///     "#,
/// )?;
/// let sidecar = Sidecar::new(&config).await?;
/// println!("listening on {}", sidecar.local_addr()?);
/// let shutdown = async { /* until it is time to end */ };
/// sidecar.serve(shutdown).await;
/// # Ok(())
/// # }
/// ```
pub struct Sidecar {
    front: Arc<Front>,
    listener: Listener,
    metrics: Option<(Listener, Arc<Metrics>)>,
    certificates: Certificates,
    drain: Drain,
}

impl Sidecar {
    /// Connects to the store that the file names, and listens. If the store can't be reached within
    /// five seconds, the sidecar starts all the same and keeps trying in the background.
    ///
    /// # Errors
    /// If the file lacks an entry or has an option that can't work in a proxy, if the store refuses
    /// the connection, or if an address can't be listened on.
    pub async fn new(config: &Config) -> Result<Self, SidecarError> {
        let settings = Settings::read(config)?;
        // Errors of the file are found before the sidecar waits for a store.
        let (_, tls) = checked(config, &settings)?;
        let observers = Observers::of(&settings);
        let layer = match store::connect(required_store(config)?).await? {
            Connected::Now(store) => layer(config, &settings, store, &observers)?,
            Connected::Later(store) => layer(config, &settings, store, &observers)?,
        };
        Self::listen(&settings, layer, observers, tls).await
    }

    /// What a sidecar with this file promises to clients. Neither the store nor the upstream is
    /// contacted.
    ///
    /// # Errors
    /// Those of [`new`](Self::new) that concern the file.
    pub fn contract(config: &Config) -> Result<SidecarContract, SidecarError> {
        let settings = Settings::read(config)?;
        let (layer, _) = checked(config, &settings)?;
        Ok(SidecarContract::new(&layer, &settings))
    }

    /// Creates what the store of this file needs: the table of an SQL store.
    ///
    /// # Errors
    /// If the file names no store, the store refuses or can't be reached.
    pub async fn migrate(config: &Config) -> Result<(), SidecarError> {
        Ok(AnyStore::migrate(required_store(config)?).await?)
    }

    /// The layer of this file on its store, for what an operator does with records: nothing is listened
    /// on and nothing is migrated. The store has to be reached at once.
    ///
    /// # Errors
    /// Those of [`new`](Self::new) that concern the layer and the store. And if the store is `memory:`,
    /// whose records only the process has that serves them.
    pub async fn layer(config: &Config) -> Result<IdempotencyLayer, SidecarError> {
        let settings = Settings::read(config)?;
        let store = required_store(config)?;
        if store.starts_with("memory:") {
            let message = "is `memory:`: its records are in the process that serves, where no other program \
                           reaches them. That process shows them on the desk of its operator's listener";
            return Err(wrong(config, "store", message).into());
        }
        let observers = Observers::default();
        layer(config, &settings, LateStore::default(), &observers)?;
        layer(
            config,
            &settings,
            AnyStore::connect(store).await?,
            &observers,
        )
    }

    async fn listen(
        settings: &Settings,
        layer: IdempotencyLayer,
        observers: Observers,
        tls: Tls,
    ) -> Result<Self, SidecarError> {
        descriptors::allow(&settings.limits, settings.authorize.is_some());
        let desk = desk::desk(&layer, settings, observers.desk);
        let files = tls.files();
        let front = Front::new(layer, desk, settings, tls.upstream, tls.authorizer);
        let front = Arc::new(front);
        let metrics = match (&settings.metrics, observers.metrics) {
            (Some(address), Some(observer)) => {
                let metrics = Metrics::new(front.layer(), &observer, front.numbers());
                Some((bind(address, tls.metrics).await?, Arc::new(metrics)))
            }
            _ => None,
        };
        let listener = bind(&settings.listen, tls.listener).await?;
        Ok(Self {
            front,
            certificates: Certificates(files),
            listener,
            metrics,
            drain: Drain {
                delay: settings.drain_delay,
                timeout: settings.drain_timeout,
            },
        })
    }

    /// Where it serves: an address and a port, or `unix:` and a path.
    #[must_use]
    pub fn listens_on(&self) -> String {
        self.listener.to_string()
    }

    /// The address on which it serves.
    ///
    /// # Errors
    /// If the system cannot tell the address, or if it serves on a Unix socket.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.address()
    }

    /// Where it serves `/metrics`, as [`listens_on`](Self::listens_on) says it.
    #[must_use]
    pub fn serves_metrics_on(&self) -> Option<String> {
        let (listener, _) = self.metrics.as_ref()?;
        Some(listener.to_string())
    }

    /// The address on which it serves `/metrics`, if the file has the entry `metrics`.
    ///
    /// # Errors
    /// If the system cannot tell the address, or if that is a Unix socket.
    pub fn metrics_addr(&self) -> io::Result<Option<SocketAddr>> {
        let listener = self.metrics.as_ref().map(|(listener, _)| listener);
        listener.map(Listener::address).transpose()
    }

    /// Serves until `shutdown` completes. From then on probes say that it ends, and after `drain_delay` it
    /// accepts no more connections, and waits for running
    /// requests and for operations whose clients have left, for at most `drain_timeout`.
    ///
    /// Meanwhile it looks every two seconds whether a file of a certificate or a key has changed, and
    /// reads it again.
    pub async fn serve(self, shutdown: impl Future<Output = ()>) {
        let looks = self.certificates.look_again_and_again();
        let serves = server::serve(
            self.front,
            self.listener,
            self.metrics,
            self.drain,
            shutdown,
        );
        tokio::select! {
            () = serves => {}
            () = looks => {}
        }
    }

    /// The certificates and keys of this sidecar.
    #[must_use]
    pub fn certificates(&self) -> Certificates {
        self.certificates.clone()
    }
}

/// The certificates and keys of a [`Sidecar`], which are read again while it serves.
#[derive(Clone, Default)]
pub struct Certificates(Arc<[Arc<dyn Reload>]>);

impl Certificates {
    /// Reads all files again. New connections use what was read; the others go on as they are. What
    /// can't be used is logged, and what was read before stays in use.
    pub fn reload(&self) {
        for own in &*self.0 {
            own.reload();
        }
    }

    async fn look_again_and_again(&self) {
        if self.0.is_empty() {
            return std::future::pending().await;
        }
        loop {
            tokio::time::sleep(LOOK).await;
            let files = Arc::clone(&self.0);
            let looked =
                tokio::task::spawn_blocking(move || files.iter().for_each(|own| own.look()));
            if looked.await.is_err() {
                error!("the files of certificates can't be looked at any more");
                std::future::pending::<()>().await;
            }
        }
    }
}

impl fmt::Debug for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificates").finish_non_exhaustive()
    }
}

/// The TLS of a sidecar.
struct Tls {
    listener: Option<Acceptor>,
    metrics: Option<Acceptor>,
    upstream: Option<tls::Connector>,
    authorizer: Option<tls::Connector>,
}

impl Tls {
    fn read(config: &Config, settings: &Settings) -> Result<Self, FileError> {
        let acceptor = |entry, files: &Option<ServerFiles>| {
            let acceptor = files.as_ref().map(|files| Acceptor::new(entry, files));
            acceptor.transpose()
        };
        let connector = |entry, table, url: &Uri, files: &ClientFiles| {
            let connector = is_https(url).then(|| tls::Connector::new(entry, table, files));
            connector.transpose()
        };
        let listener = acceptor("tls", &settings.tls);
        let metrics = acceptor("metrics_tls", &settings.metrics_tls);
        let upstream = connector(
            "upstream",
            "upstream_tls",
            &settings.upstream,
            &settings.upstream_tls,
        );
        let authorizer = settings.authorize.as_ref().map_or(Ok(None), |own| {
            connector("authorize", "authorize.tls", &own.url, &own.tls)
        });
        match (listener, metrics, upstream, authorizer) {
            (Ok(listener), Ok(metrics), Ok(upstream), Ok(authorizer)) => Ok(Self {
                listener,
                metrics,
                upstream,
                authorizer,
            }),
            (listener, metrics, upstream, authorizer) => {
                let errors = [
                    listener.err(),
                    metrics.err(),
                    upstream.err(),
                    authorizer.err(),
                ];
                let errors = errors.into_iter().flatten();
                let errors = errors.map(|error| wrong(config, &error.entry, &error.message()));
                Err(all_of(errors.collect()).expect_err("there is one"))
            }
        }
    }

    fn files(&self) -> Arc<[Arc<dyn Reload>]> {
        let listeners = [&self.listener, &self.metrics].into_iter().flatten();
        let servers = [&self.upstream, &self.authorizer].into_iter().flatten();
        let listeners = listeners.map(Acceptor::files);
        listeners
            .chain(servers.map(tls::Connector::files))
            .collect()
    }
}

/// What is told of the events of a layer.
#[derive(Default)]
struct Observers {
    desk: Option<DeskObserver>,
    metrics: Option<LayerObserver>,
}

impl Observers {
    /// Those that this file asks for: a layer without an observer reads no clock for one.
    fn of(settings: &Settings) -> Self {
        Self {
            desk: settings.desk.as_ref().map(|_| DeskObserver::new()),
            metrics: settings.metrics.as_ref().map(|_| LayerObserver::new()),
        }
    }
}

/// The layer without its store, and what TLS needs of the files that the configuration names. Errors of
/// both are reported together.
fn checked(config: &Config, settings: &Settings) -> Result<(IdempotencyLayer, Tls), SidecarError> {
    let layer = layer(
        config,
        settings,
        LateStore::default(),
        &Observers::default(),
    );
    match (layer, Tls::read(config, settings)) {
        (Ok(layer), Ok(tls)) => Ok((layer, tls)),
        (Err(SidecarError(Reason::File(of_layer))), Err(of_tls)) => {
            Err(all_of(vec![of_layer, of_tls])
                .expect_err("there are two")
                .into())
        }
        (Err(of_layer), _) => Err(of_layer),
        (Ok(_), Err(of_tls)) => Err(of_tls.into()),
    }
}

fn layer(
    config: &Config,
    settings: &Settings,
    store: impl Store,
    observers: &Observers,
) -> Result<IdempotencyLayer, SidecarError> {
    let builder = builder(config, store)?;
    let mut builder = builder.observed_body(RequestBody::<ReceivedBody>::observed);
    if let Some(observer) = &observers.desk {
        builder = builder.observer(observer.clone());
    }
    if let Some(observer) = &observers.metrics {
        builder = builder.observer(observer.clone());
    }
    let docs_url = settings.docs_url.as_ref();
    // Rejections link to the contract that the sidecar serves, unless the file names another page.
    if let (None, Some(path)) = (docs_url, &settings.contract) {
        builder = builder.docs_url(path.as_str());
    }
    let layer = builder.build()?;
    let errors = checks::check(&layer, settings);
    all_of(errors.iter().map(|error| located(config, error)).collect())?;
    Ok(layer)
}

impl fmt::Debug for Sidecar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sidecar")
            .field("listener", &self.listener.to_string())
            .finish_non_exhaustive()
    }
}

async fn bind(address: &Listen, tls: Option<Acceptor>) -> Result<Listener, SidecarError> {
    Listener::bind(address, tls)
        .await
        .map_err(|error| SidecarError(Reason::Listen(address.clone(), error)))
}

/// Why a [`Sidecar`] does not start.
#[derive(Debug)]
pub struct SidecarError(Reason);

#[derive(Debug)]
enum Reason {
    File(FileError),
    Layer(ConfigError),
    Store(StoreError),
    Listen(Listen, io::Error),
}

impl fmt::Display for SidecarError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Reason::File(error) => error.fmt(f),
            Reason::Layer(error) => error.fmt(f),
            Reason::Store(_) => f.write_str("the store can't be used"),
            Reason::Listen(address, _) => write!(f, "can't listen on {address}"),
        }
    }
}

impl Error for SidecarError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match &self.0 {
            Reason::File(error) => error.source(),
            Reason::Layer(error) => error.source(),
            Reason::Store(error) => Some(error),
            Reason::Listen(_, error) => Some(error),
        }
    }
}

impl From<FileError> for SidecarError {
    fn from(error: FileError) -> Self {
        Self(Reason::File(error))
    }
}

impl From<ConfigError> for SidecarError {
    fn from(error: ConfigError) -> Self {
        Self(Reason::Layer(error))
    }
}

impl From<StoreError> for SidecarError {
    fn from(error: StoreError) -> Self {
        Self(Reason::Store(error))
    }
}
