//! The layer for routers of axum, whose responses keep axum's own body.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use crate::layer::{Idempotency, IdempotencyLayer};
use crate::message::response_body::ResponseBody;

/// As [`IdempotencyLayer`], for services whose bodies are axum's.
#[derive(Clone)]
pub(super) struct AxumLayer(pub(super) IdempotencyLayer);

impl<S> Layer<S> for AxumLayer {
    type Service = AxumIdempotency<S>;

    fn layer(&self, inner: S) -> AxumIdempotency<S> {
        AxumIdempotency(self.0.layer(inner))
    }
}

/// An [`Idempotency`] whose responses have axum's body.
#[derive(Clone)]
pub(super) struct AxumIdempotency<S>(Idempotency<S>);

impl<S> Service<Request> for AxumIdempotency<S>
where
    Idempotency<S>: Service<Request, Response = http::Response<ResponseBody<Body>>>,
{
    type Response = Response;
    type Error = <Idempotency<S> as Service<Request>>::Error;
    type Future = AxumFuture<<Idempotency<S> as Service<Request>>::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(cx)
    }

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

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let response = ready!(self.project().future.poll(cx))?;
        Poll::Ready(Ok(response.map(Body::from)))
    }
}
