//! The desk: a page for those who run [`tower_idempotency`].
//!
//! The desk shows what happens now, finds the record of one caller's key, and lets a person resolve or
//! forget a record, with who and why. It is a tower service over `http` types: server-rendered HTML
//! without a script. `docs/desk.md` describes what it shows and who may use it.
//!
//! ```
//! use axum::{Router, routing::post};
//! use tower_idempotency::{IdempotencyLayer, MemoryStore, scope};
//! use tower_idempotency_desk::{Access, Desk};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let layer = IdempotencyLayer::new(MemoryStore::new(), scope::header("x-api-key"))?;
//! // In an application: the value of a variable.
//! let access = Access::token("2f1c0c9be1a94b4d8a7e")?;
//! let desk = Desk::builder(&layer, access).build();
//! let app: Router = Router::new()
//!     .route("/payments", post(|| async { "paid" }))
//!     .layer(layer)
//!     .nest_service("/desk", desk);
//! # Ok(())
//! # }
//! ```

mod access;
mod action;
mod fields;
mod pages;
mod respond;
mod sessions;
mod spoken;
mod traffic;

use std::convert::Infallible;
use std::error::Error;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use http_body_util::Full;
use tower_idempotency::IdempotencyLayer;
use tower_service::Service;

use access::Door;
pub use access::{Access, WeakToken};
pub use traffic::DeskObserver;

/// The desk of one layer. A clone shares everything with its original.
///
/// All links of the desk are relative to its own address, so it can be nested under any prefix.
#[derive(Clone)]
pub struct Desk {
    inner: Arc<Inner>,
}

/// What all clones of a desk share.
struct Inner {
    layer: IdempotencyLayer,
    door: Door,
    observer: Option<DeskObserver>,
    show_bodies: bool,
}

impl Desk {
    /// A builder of the desk of this layer. `access` says who may use the desk.
    pub fn builder(layer: &IdempotencyLayer, access: Access) -> DeskBuilder {
        DeskBuilder {
            layer: layer.clone(),
            access,
            observer: None,
            show_bodies: false,
        }
    }
}

impl fmt::Debug for Desk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Desk").finish_non_exhaustive()
    }
}

/// Options of a [`Desk`].
#[derive(Debug)]
#[must_use = "a builder does nothing until `build` is called"]
pub struct DeskBuilder {
    layer: IdempotencyLayer,
    access: Access,
    observer: Option<DeskObserver>,
    show_bodies: bool,
}

impl DeskBuilder {
    /// Whether the desk shows the headers and the body of a recorded response. Without this option it
    /// shows the status and the size alone: a response can hold what an operator should not read.
    pub fn show_bodies(mut self, show_bodies: bool) -> Self {
        self.show_bodies = show_bodies;
        self
    }

    /// The observer that the layer was built with: the overview then shows the last minute. Without it the
    /// overview has the numbers since the layer was built alone.
    pub fn observer(mut self, observer: DeskObserver) -> Self {
        self.observer = Some(observer);
        self
    }

    /// The desk.
    #[must_use]
    pub fn build(self) -> Desk {
        Desk {
            inner: Arc::new(Inner {
                layer: self.layer,
                door: Door::new(self.access),
                observer: self.observer,
                show_bodies: self.show_bodies,
            }),
        }
    }
}

impl<B> Service<Request<B>> for Desk
where
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let inner = Arc::clone(&self.inner);
        Box::pin(async move { Ok(respond::respond(&inner, request).await) })
    }
}
