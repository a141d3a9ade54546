//! The layer for routers of axum, whose responses keep axum's own body.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use axum::routing::Route;
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use crate::layer::{Idempotency, IdempotencyLayer};
use crate::message::response_body::ResponseBody;

/// As [`IdempotencyLayer`], for routes of axum.
#[derive(Clone)]
pub(super) struct AxumLayer(pub(super) IdempotencyLayer);

impl Layer<Route> for AxumLayer {
    type Service = AxumIdempotency;

    fn layer(&self, inner: Route) -> AxumIdempotency {
        AxumIdempotency(self.0.layer(SharedRoute(Arc::new(inner))))
    }
}

/// A route that is cloned when it is called. A clone of a route is an allocation; axum clones a
/// layer's service for each request, and the layer does so for each that is protected, but a replay
/// calls none of the clones.
#[derive(Clone)]
pub(super) struct SharedRoute(Arc<Route>);

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
        Route::clone(&self.0).call(request)
    }
}

/// An [`Idempotency`] whose responses have axum's body.
#[derive(Clone)]
pub(super) struct AxumIdempotency(Idempotency<SharedRoute>);

impl Service<Request> for AxumIdempotency {
    type Response = Response;
    type Error = Infallible;
    type Future = AxumFuture<<Idempotency<SharedRoute> as Service<Request>>::Future>;

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
        future: F,
    }
}

impl<F, E> Future for AxumFuture<F>
where
    F: Future<Output = Result<http::Response<ResponseBody<Body>>, E>>,
{
    type Output = Result<Response, E>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let response = ready!(self.project().future.poll(cx))?;
        Poll::Ready(Ok(response.map(Body::from)))
    }
}
