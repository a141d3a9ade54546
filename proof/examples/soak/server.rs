//! This server is hyper on a port of this machine, with the layer or without.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::body::Body as RequestBody;
use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, JoinSet};
use tower::{Layer, Service, ServiceBuilder, service_fn};
use tower_http::catch_panic::CatchPanicLayer;
use tower_idempotency::options::{OnLapsedLease, Require};
use tower_idempotency::{ConfigError, IdempotencyLayer, scope};

use super::handler::{BoxError, handle};
use super::ledger::Ledger;
use super::plan::{LEASE, MAX_RECORDED, STORE_TIMEOUT};
use super::store::Faulty;

pub(crate) fn layer(store: Faulty) -> Result<IdempotencyLayer, ConfigError> {
    IdempotencyLayer::builder(store, scope::header("x-api-key"))
        .store_timeout(STORE_TIMEOUT)
        .defaults(|options| {
            options
                .require(Require::Required)
                .lease(LEASE)
                .max_recorded_body(MAX_RECORDED)
        })
        .route("POST /refuse", |options| {
            options.on_lapsed_lease(OnLapsedLease::Refuse)
        })
        .build()
}

#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    stop: oneshot::Sender<()>,
    done: JoinHandle<()>,
}

impl Server {
    pub(crate) async fn start(
        layer: Option<IdempotencyLayer>,
        ledger: Arc<Ledger>,
        seed: u64,
    ) -> io::Result<Self> {
        let handler = service_fn(move |request: Request<RequestBody>| {
            handle(Arc::clone(&ledger), seed, request)
        });
        match layer {
            Some(layer) => Self::serve(layer.layer(handler)).await,
            None => Self::serve(handler).await,
        }
    }

    async fn serve<S, B>(service: S) -> io::Result<Self>
    where
        S: Service<Request<RequestBody>, Response = Response<B>, Error = BoxError>
            + Clone
            + Send
            + 'static,
        S::Future: Send,
        B: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
    {
        let plain = ServiceBuilder::new()
            .map_request(|request: Request<Incoming>| request.map(RequestBody::new))
            .service(service);
        let catching = CatchPanicLayer::new().layer(plain.clone());
        // On every other connection a panic ends the connection; on the others a
        // layer turns the panic into a 500.
        let mut catches = false;
        let connection = move |stream| {
            catches = !catches;
            let (plain, catching) = (plain.clone(), catching.clone());
            async move {
                if catches {
                    talk(stream, catching).await;
                } else {
                    talk(stream, plain).await;
                }
            }
        };
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let (stop, stopped) = oneshot::channel();
        let done = tokio::spawn(accept(listener, stopped, connection));
        Ok(Self {
            address,
            stop,
            done,
        })
    }

    /// Stops the server, and waits until its last connection has ended.
    pub(crate) async fn stop(self) {
        drop(self.stop);
        // A panic on a connection ended that connection only, so the result is of
        // no interest.
        let _ = self.done.await;
    }
}

async fn accept<F>(
    listener: TcpListener,
    mut stopped: oneshot::Receiver<()>,
    mut connection: impl FnMut(TcpStream) -> F,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let mut open = JoinSet::new();
    loop {
        tokio::select! {
            _ = &mut stopped => break,
            Some(_) = open.join_next() => {}
            accepted = listener.accept() => {
                if let Ok((stream, _)) = accepted {
                    open.spawn(connection(stream));
                }
            }
        }
    }
    while open.join_next().await.is_some() {}
}

async fn talk<S, B>(stream: TcpStream, service: S)
where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<BoxError>,
    B: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    // Without this option small pieces of a response would wait for
    // acknowledgements.
    let _ = stream.set_nodelay(true);
    let service = TowerToHyperService::new(service);
    // The client sees for itself how the connection ended.
    let _ = http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .await;
}
