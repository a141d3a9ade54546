//! What an application holds: the layer, its builder, its service, and its records
//! by hand.
//!
//! Public items: `IdempotencyLayer`, `IdempotencyLayerBuilder`, `Idempotency`,
//! `ResponseFuture`, `Records`, `Resolved`, `Audit`, `FindError`, `Usage`. May use: `request`, `lease`,
//! `limits`, `counts`, `observer`, `options`,
//! `scope`, `rejection`, `store`, `message`, `record`, `runtime`, `error`.

pub(crate) mod audit;
pub(crate) mod builder;
pub(crate) mod find;
#[cfg(feature = "axum")]
mod for_axum;
pub(crate) mod future;
mod limits;
pub(crate) mod records;
pub(crate) mod service;
pub(crate) mod usage;

#[cfg(feature = "axum")]
use std::convert::Infallible;
use std::fmt;
#[cfg(feature = "axum")]
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use http::request::Parts;
use tower_layer::Layer;

use crate::counts::Counts;
use crate::error::ConfigError;
use crate::layer::builder::IdempotencyLayerBuilder;
use crate::layer::records::Records;
use crate::layer::service::Idempotency;
use crate::layer::usage::Usage;
use crate::options::{Mode, Require};
use crate::request::core::Core;
use crate::scope::Scope;
use crate::store::Store;

/// Makes the operations of a service safe to retry.
///
/// A clone shares everything with its original. All layers on one store share its
/// records; give two services on one store two
/// [namespaces](IdempotencyLayerBuilder::namespace).
///
/// ```
/// use axum::{routing::post, Router};
/// use tower_idempotency::{IdempotencyLayer, MemoryStore, scope};
///
/// # fn main() -> Result<(), tower_idempotency::ConfigError> {
/// let idempotency = IdempotencyLayer::new(MemoryStore::new(), scope::header("x-api-key"))?;
/// let app: Router = Router::new()
///     .route("/payments", post(|| async { "paid" }))
///     .layer(idempotency);
/// # Ok(())
/// # }
/// ```
///
/// A layer needs a [scope](crate::scope), which says whose a key is. Without one the
/// code does not compile:
///
/// ```compile_fail
/// # use tower_idempotency::{IdempotencyLayer, MemoryStore};
/// let idempotency = IdempotencyLayer::new(MemoryStore::new());
/// ```
#[derive(Clone)]
pub struct IdempotencyLayer {
    core: Arc<Core>,
}

impl IdempotencyLayer {
    /// A layer with every option at its default: POST and PATCH are protected when they carry a
    /// key, and a key belongs to the caller that `scope` finds.
    ///
    /// # Errors
    /// If the scope was made with a value that can't work.
    pub fn new(store: impl Store, scope: impl Scope) -> Result<Self, ConfigError> {
        Self::builder(store, scope).build()
    }

    /// A builder, to set options.
    pub fn builder(store: impl Store, scope: impl Scope) -> IdempotencyLayerBuilder {
        IdempotencyLayerBuilder::new(store, scope)
    }

    /// This layer for a router of axum, as [`layer`](https://docs.rs/axum/0.8/axum/struct.Router.html#method.layer)
    /// and `route_layer` take it. It does the same as the layer itself, which works there too. But
    /// axum boxes every response body that is not its own: a response that passes through here keeps
    /// the body that it has.
    ///
    /// ```
    /// use axum::Router;
    /// use axum::routing::post;
    /// use tower_idempotency::{IdempotencyLayer, MemoryStore, scope};
    ///
    /// let idempotency = IdempotencyLayer::new(MemoryStore::new(), scope::header("x-api-key"))?;
    /// let app: Router = Router::new()
    ///     .route("/payments", post(|| async { "paid" }))
    ///     .layer(idempotency.for_axum());
    /// # Ok::<(), tower_idempotency::ConfigError>(())
    /// ```
    #[cfg(feature = "axum")]
    #[must_use]
    pub fn for_axum(
        &self,
    ) -> impl Layer<
        axum::routing::Route,
        Service = impl tower_service::Service<
            axum::extract::Request,
            Response = axum::response::Response,
            Error = Infallible,
            Future = impl Future<Output = Result<axum::response::Response, Infallible>> + Send + use<>,
        > + Clone
                  + Send
                  + Sync
                  + use<>,
    > + Clone
    + Send
    + Sync
    + use<> {
        for_axum::AxumLayer(self.clone())
    }

    /// Waits for the operations that go on without a client, and for calls of the store
    /// that are tried again, for `limit` at most. Returns how many are left: their
    /// leases lapse when the process ends.
    ///
    /// Call it at shutdown, once the server has stopped. The server itself waits for
    /// the clients that are still connected.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use tower_idempotency::{IdempotencyLayer, MemoryStore, scope};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), tower_idempotency::ConfigError> {
    /// let idempotency = IdempotencyLayer::new(MemoryStore::new(), scope::shared())?;
    /// // axum::serve(…, app.layer(idempotency.clone())).with_graceful_shutdown(…).await;
    /// let left = idempotency.drain(Duration::from_secs(20)).await;
    /// assert_eq!(left, 0);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn drain(&self, limit: Duration) -> usize {
        self.core.accounts.drain(limit).await
    }

    /// What became of the requests so far, as numbers for an application's metrics.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.core.leases.counts.read()
    }

    /// What requests hold of the layer now, against each of its limits (G11).
    #[must_use]
    pub fn usage(&self) -> Usage {
        Usage::of(&self.core)
    }

    /// Whether the layer protects this request: its route is protected, and the
    /// request has a key or needs one. Every other request passes through, and so does one that the
    /// layer only [observes](crate::options::Mode::Observe). Of a request whose key may be in its body
    /// ([`key_in_body`](crate::RouteOptions::key_in_body)) the head does not tell: it counts as
    /// protected.
    ///
    /// Use it for checks that must run before a response is replayed, such as whether
    /// the caller may still have it: what stands inside the layer does not run on a
    /// replay.
    #[must_use]
    pub fn protects(&self, request: &Parts) -> bool {
        let routes = &self.core.rules.routes;
        match routes.options(&request.method, &request.uri, &request.extensions) {
            None => false,
            Some(options) if options.mode == Mode::Observe => false,
            Some(options) => match options.require {
                Require::Required => true,
                Require::Optional => {
                    let headers = &request.headers;
                    options.keys.read(headers).is_some() || options.keys.may_be_in_body(headers)
                }
                Require::Ignored => false,
            },
        }
    }

    /// Records by hand, for an operator's own tools.
    #[must_use]
    pub fn records(&self) -> Records<'_> {
        Records::new(&self.core)
    }

    pub(crate) fn core(&self) -> &Arc<Core> {
        &self.core
    }
}

impl fmt::Debug for IdempotencyLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IdempotencyLayer")
            .field("namespace", &self.core.rules.namespace)
            .field("routes", &self.core.rules.routes)
            .finish_non_exhaustive()
    }
}

impl<S> Layer<S> for IdempotencyLayer {
    type Service = Idempotency<S>;

    fn layer(&self, inner: S) -> Idempotency<S> {
        Idempotency::new(inner, Arc::clone(&self.core))
    }
}
