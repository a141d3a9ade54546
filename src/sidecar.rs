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

use crate::error::ConfigError;
use crate::layer::IdempotencyLayer;
use crate::store::StoreError;

mod authorize;
mod bodies;
mod checks;
mod client;
mod connect;
mod forwarded;
mod front;
mod metrics;
mod path;
mod problem;
mod server;
pub(crate) mod settings;
mod store;
mod upstream;

use front::Front;
pub(crate) use settings::{Authorize, Settings};

/// A proxy with an [`IdempotencyLayer`], listening.
#[derive(Debug)]
pub struct Sidecar {
    front: Arc<Front>,
    listener: TcpListener,
    metrics: Option<TcpListener>,
    drain: Duration,
}

impl Sidecar {
    /// With a layer that is there already.
    pub(crate) async fn listen(
        settings: &Settings,
        layer: IdempotencyLayer,
        protected: bool,
    ) -> Result<Self, SidecarError> {
        checks::check(&layer, settings.ignore_path_case)?;
        let front = Arc::new(Front::new(layer, settings, protected));
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

async fn bind(address: SocketAddr) -> Result<TcpListener, SidecarError> {
    TcpListener::bind(address).await.map_err(|error| {
        SidecarError::caused_by(format!("can't listen on {address}"), error)
    })
}

/// Why a [`Sidecar`] does not start.
#[derive(Debug)]
pub struct SidecarError {
    message: String,
    source: Option<Box<dyn Error + Send + Sync>>,
}

impl SidecarError {
    fn option(option: &'static str, message: String) -> Self {
        Self {
            message: format!("`{option}` {message}"),
            source: None,
        }
    }

    fn caused_by(message: String, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self {
            message,
            source: Some(source.into()),
        }
    }
}

impl fmt::Display for SidecarError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Error for SidecarError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}

impl From<ConfigError> for SidecarError {
    fn from(error: ConfigError) -> Self {
        Self::caused_by("the layer can't be built".to_owned(), error)
    }
}

impl From<StoreError> for SidecarError {
    fn from(error: StoreError) -> Self {
        Self::caused_by("the store can't be used".to_owned(), error)
    }
}
