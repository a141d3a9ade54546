//! The layer for routers of axum, whose responses keep axum's own body.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};

use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use axum::routing::Route;
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use crate::layer::future::ResponseFuture;
use crate::layer::{Idempotency, IdempotencyLayer};

/// As [`IdempotencyLayer`], for routes of axum.
#[derive(Clone)]
pub(super) struct AxumLayer(pub(super) IdempotencyLayer);

impl Layer<Route> for AxumLayer {
    type Service = AxumIdempotency;

    fn layer(&self, inner: Route) -> AxumIdempotency {
        let shared = OneRoute {
            called: Mutex::new(inner.clone()),
            route: inner,
        };
        AxumIdempotency(self.0.layer(SharedRoute(Arc::new(shared))))
    }
}

/// A route that all clones share. A clone of a route is an allocation; axum clones a layer's service
/// for each request, and the layer does so for each that is protected, but a replay calls none of the
/// clones.
#[derive(Clone)]
pub(super) struct SharedRoute(Arc<OneRoute>);

struct OneRoute {
    route: Route,
    /// The same route. A call needs it for itself while axum clones the service inside, and changes
    /// nothing of it.
    called: Mutex<Route>,
}

impl Service<Request> for SharedRoute {
    type Response = Response;
    type Error = Infallible;
    type Future = <Route as Service<Request>>::Future;

    /// Every route is ready: it waits for its service once it is called.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    #[inline]
    fn call(&mut self, request: Request) -> Self::Future {
        // No request waits for the call of another: with many threads that would be a queue.
        match self.0.called.try_lock() {
            Ok(mut route) => route.call(request),
            Err(_) => self.0.route.clone().call(request),
        }
    }
}

/// An [`Idempotency`] whose responses have axum's body.
#[derive(Clone)]
pub(super) struct AxumIdempotency(Idempotency<SharedRoute>);

impl Service<Request> for AxumIdempotency {
    type Response = Response;
    type Error = Infallible;
    type Future = AxumFuture<<SharedRoute as Service<Request>>::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Service::<Request>::poll_ready(&mut self.0, cx)
    }

    #[inline]
    fn call(&mut self, request: Request) -> Self::Future {
        AxumFuture {
            future: self.0.call(request),
        }
    }
}

pin_project! {
    /// The future of an [`AxumIdempotency`].
    pub(super) struct AxumFuture<F> {
        #[pin]
        future: ResponseFuture<F, Body, Infallible>,
    }
}

impl<F> Future for AxumFuture<F>
where
    F: Future<Output = Result<Response, Infallible>>,
{
    type Output = Result<Response, Infallible>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut future = self.project().future;
        // A response that passes is not taken apart to have its body wrapped and unwrapped.
        if let Some(passed) = future.as_mut().poll_passed(cx) {
            return passed;
        }
        let response = ready!(future.poll(cx))?;
        Poll::Ready(Ok(response.map(Body::from)))
    }
}
