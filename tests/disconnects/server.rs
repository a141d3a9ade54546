//! A server on a socket that reports when it has finished with a request.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use pin_project_lite::pin_project;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinHandle;
use tower::{BoxError, Layer, Service, ServiceExt, service_fn};
use tower_idempotency::IdempotencyLayer;

use crate::app::Sent;
use crate::within;

/// The requests that a server has received and finished.
#[derive(Clone, Debug)]
pub(crate) struct Exchanges {
    begun: Arc<Semaphore>,
    over: Arc<Semaphore>,
    whole: Arc<AtomicUsize>,
    sent: Arc<AtomicUsize>,
}

impl Exchanges {
    fn none() -> Self {
        Self {
            begun: Arc::new(Semaphore::new(0)),
            over: Arc::new(Semaphore::new(0)),
            whole: Arc::default(),
            sent: Arc::default(),
        }
    }

    /// Wraps a service. The wrapper must be outside of everything that a test
    /// observes.
    pub(crate) fn watch<S, B, R>(
        &self,
        service: S,
    ) -> impl Service<
        Request<B>,
        Response = Response<Watched<R>>,
        Error = S::Error,
        Future: Send + 'static,
    > + Clone
    + Send
    + 'static
    where
        S: Service<Request<B>, Response = Response<R>> + Clone + Send + 'static,
        S::Future: Send + 'static,
        B: Send + 'static,
    {
        let exchanges = self.clone();
        service_fn(move |asked| {
            let exchange = Exchange(exchanges.clone());
            exchanges.begun.add_permits(1);
            let answer = service.clone().oneshot(asked);
            async move {
                let answer = answer.await?;
                Ok(answer.map(|body| Watched {
                    body,
                    ended: false,
                    exchange,
                }))
            }
        })
    }
}

struct Exchange(Exchanges);

impl Drop for Exchange {
    fn drop(&mut self) {
        self.0.over.add_permits(1);
    }
}

pin_project! {
    /// The body of a response. Dropping the body ends the exchange.
    pub(crate) struct Watched<R> {
        #[pin]
        body: R,
        ended: bool,
        exchange: Exchange,
    }
}

impl<R: Body> Body for Watched<R> {
    type Data = R::Data;
    type Error = R::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<R::Data>, R::Error>>> {
        let mut this = self.project();
        let frame = ready!(this.body.as_mut().poll_frame(cx));
        if let Some(Ok(frame)) = &frame {
            let bytes = frame.data_ref().map_or(0, Buf::remaining);
            this.exchange.0.sent.fetch_add(bytes, Ordering::SeqCst);
        }
        // A server does not poll a body again that says that it has ended.
        if !*this.ended && (frame.is_none() || this.body.is_end_stream()) {
            *this.ended = true;
            this.exchange.0.whole.fetch_add(1, Ordering::SeqCst);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Serves until a test stops it or the test's runtime ends.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    exchanges: Exchanges,
    accepting: JoinHandle<()>,
}

impl Server {
    pub(crate) async fn start<S, R>(service: S) -> Self
    where
        S: Service<Request<Incoming>, Response = Response<R>> + Clone + Send + 'static,
        S::Future: Send + 'static,
        S::Error: Into<BoxError> + 'static,
        R: Body<Data = Bytes> + Send + 'static,
        R::Error: Into<BoxError>,
    {
        Self::start_with(service, auto::Builder::new(TokioExecutor::new())).await
    }

    pub(crate) async fn start_with<S, R>(service: S, http: auto::Builder<TokioExecutor>) -> Self
    where
        S: Service<Request<Incoming>, Response = Response<R>> + Clone + Send + 'static,
        S::Future: Send + 'static,
        S::Error: Into<BoxError> + 'static,
        R: Body<Data = Bytes> + Send + 'static,
        R::Error: Into<BoxError>,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self::start_on(listener, service, http)
    }

    /// A server whose sockets hold few bytes that their clients do not read.
    pub(crate) fn start_with_small_sockets<S, R>(service: S) -> Self
    where
        S: Service<Request<Incoming>, Response = Response<R>> + Clone + Send + 'static,
        S::Future: Send + 'static,
        S::Error: Into<BoxError> + 'static,
        R: Body<Data = Bytes> + Send + 'static,
        R::Error: Into<BoxError>,
    {
        let socket = TcpSocket::new_v4().unwrap();
        // Connections inherit the size from their listener.
        socket.set_send_buffer_size(64 << 10).unwrap();
        socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
        let listener = socket.listen(1024).unwrap();
        let http = auto::Builder::new(TokioExecutor::new());
        Self::start_on(listener, service, http)
    }

    fn start_on<S, R>(listener: TcpListener, service: S, http: auto::Builder<TokioExecutor>) -> Self
    where
        S: Service<Request<Incoming>, Response = Response<R>> + Clone + Send + 'static,
        S::Future: Send + 'static,
        S::Error: Into<BoxError> + 'static,
        R: Body<Data = Bytes> + Send + 'static,
        R::Error: Into<BoxError>,
    {
        let address = listener.local_addr().unwrap();
        let exchanges = Exchanges::none();
        let service = exchanges.watch(service);
        let accepting = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (http, service) = (http.clone(), service.clone());
                tokio::spawn(async move {
                    let service = TowerToHyperService::new(service);
                    // A client may end a connection in any way, so the result
                    // is ignored.
                    http.serve_connection(TokioIo::new(stream), service)
                        .await
                        .ok();
                });
            }
        });
        Self {
            address,
            exchanges,
            accepting,
        }
    }

    /// The same with axum. Dropping the returned sender stops the server
    /// gracefully.
    pub(crate) async fn axum<S>(layer: &IdempotencyLayer, service: S) -> (Self, oneshot::Sender<()>)
    where
        S: Service<axum::extract::Request, Response = Response<Sent>, Error = Infallible>
            + Clone
            + Send
            + Sync
            + 'static,
        S::Future: Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let exchanges = Exchanges::none();
        let inner = layer.layer(service.map_response(|answer| answer.map(axum::body::Body::new)));
        let service = exchanges.watch(inner);
        let service = service.map_response(|answer| answer.map(axum::body::Body::new));
        let (stop, stopped) = oneshot::channel();
        let accepting = tokio::spawn(async move {
            let make = tower::make::Shared::new(service);
            axum::serve(listener, make)
                .with_graceful_shutdown(async { drop(stopped.await) })
                .await
                .unwrap();
        });
        let server = Self {
            address,
            exchanges,
            accepting,
        };
        (server, stop)
    }

    /// Waits until one more request has arrived.
    pub(crate) async fn begun(&self) {
        within(self.exchanges.begun.acquire())
            .await
            .unwrap()
            .forget();
    }

    /// Waits until one more request and its response have been dropped.
    pub(crate) async fn over(&self) {
        within(self.exchanges.over.acquire())
            .await
            .unwrap()
            .forget();
    }

    /// How many responses have come to their end.
    pub(crate) fn whole(&self) -> usize {
        self.exchanges.whole.load(Ordering::SeqCst)
    }

    /// How many bytes of responses have left.
    pub(crate) fn sent(&self) -> usize {
        self.exchanges.sent.load(Ordering::SeqCst)
    }

    /// Waits until the server has shut down.
    pub(crate) async fn stopped(self) {
        within(self.accepting).await.unwrap();
    }
}
