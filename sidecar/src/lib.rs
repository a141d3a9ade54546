//! The layer as a process, in front of a service in any language.
//!
//! `tower-idempotency-sidecar --config FILE` is a program made of this; a
//! [`Sidecar`] can run inside another one just as well. `docs/sidecar.md` says
//! what it does and what stands in its file.

use std::error::Error;
use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tower_idempotency::config::{Config, FileError};
use tower_idempotency::for_sidecar::{ignore_path_case, located};
use tower_idempotency::store::{AnyStore, Store, StoreError};
use tower_idempotency::{ConfigError, IdempotencyLayer};

mod authorize;
mod bodies;
mod checks;
mod client;
mod connect;
mod contract;
mod forwarded;
mod front;
mod metrics;
mod options;
mod path;
mod problem;
mod server;
mod store;
mod upstream;

pub use contract::SidecarContract;
use front::Front;
use options::{Settings, required_store};
use store::{Connected, LateStore};

type BoxError = Box<dyn Error + Send + Sync>;

/// A proxy with an [`IdempotencyLayer`], listening.
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
    listener: TcpListener,
    metrics: Option<TcpListener>,
    drain: Duration,
}

impl Sidecar {
    /// As the file says: connected to its store, and listening. A store that
    /// can't be reached right now is tried again in the background.
    ///
    /// # Errors
    /// If the file lacks something or asks for what a proxy can't do, if the
    /// store refuses, or if an address can't be listened on.
    pub async fn new(config: &Config) -> Result<Self, SidecarError> {
        let settings = Settings::read(config)?;
        // What is wrong in the file is said before a store is waited for.
        layer(config, &settings, LateStore::default())?;
        let layer = match store::connect(required_store(config)?).await? {
            Connected::Now(store) => layer(config, &settings, store)?,
            Connected::Later(store) => layer(config, &settings, store)?,
        };
        Self::listen(&settings, layer).await
    }

    /// What a sidecar with this file would promise to clients. Neither the
    /// store nor the upstream is asked.
    ///
    /// # Errors
    /// As of [`new`](Self::new).
    pub fn contract(config: &Config) -> Result<SidecarContract, SidecarError> {
        let settings = Settings::read(config)?;
        required_store(config)?;
        let layer = layer(config, &settings, LateStore::default())?;
        Ok(SidecarContract::new(&layer, &settings))
    }

    /// Creates what the store of this file needs: the table of an SQL store.
    ///
    /// # Errors
    /// If the file names no store, the store refuses or can't be reached.
    pub async fn migrate(config: &Config) -> Result<(), SidecarError> {
        Ok(AnyStore::migrate(required_store(config)?).await?)
    }

    async fn listen(settings: &Settings, layer: IdempotencyLayer) -> Result<Self, SidecarError> {
        let front = Arc::new(Front::new(layer, settings));
        let metrics = match settings.metrics {
            Some(address) => Some(bind(address).await?),
            None => None,
        };
        Ok(Self {
            front,
            listener: bind(settings.listen).await?,
            metrics,
            drain: settings.drain_timeout,
        })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// If the system does not say.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Where it tells its numbers, if it does.
    ///
    /// # Errors
    /// If the system does not say.
    pub fn metrics_addr(&self) -> io::Result<Option<SocketAddr>> {
        self.metrics
            .as_ref()
            .map(TcpListener::local_addr)
            .transpose()
    }

    /// Serves until `shutdown`. Then it accepts no more connections, finishes
    /// the requests that run and waits for operations whose clients have left,
    /// for `drain_timeout` at most.
    pub async fn serve(self, shutdown: impl Future<Output = ()>) {
        server::serve(
            self.front,
            self.listener,
            self.metrics,
            self.drain,
            shutdown,
        )
        .await;
    }
}

fn layer(
    config: &Config,
    settings: &Settings,
    store: impl Store,
) -> Result<IdempotencyLayer, SidecarError> {
    let mut builder = ignore_path_case(config.builder(store)?, settings.ignore_path_case);
    let docs_url = settings.docs_url.as_ref();
    // Where rejections lead to, unless the file says otherwise.
    if let (None, Some(path)) = (docs_url, &settings.contract) {
        builder = builder.docs_url(path.as_str());
    }
    let layer = builder.build()?;
    checks::check(&layer, settings).map_err(|error| located(config, &error))?;
    Ok(layer)
}

impl fmt::Debug for Sidecar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sidecar")
            .field("listener", &self.listener)
            .finish_non_exhaustive()
    }
}

async fn bind(address: SocketAddr) -> Result<TcpListener, SidecarError> {
    TcpListener::bind(address)
        .await
        .map_err(|error| SidecarError(Reason::Listen(address, error)))
}

/// Why a [`Sidecar`] does not start.
#[derive(Debug)]
pub struct SidecarError(Reason);

#[derive(Debug)]
enum Reason {
    File(FileError),
    Layer(ConfigError),
    Store(StoreError),
    Listen(SocketAddr, io::Error),
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
