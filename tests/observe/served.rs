//! Two servers that differ in nothing but a layer that observes, and clients that write bytes.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tower::{BoxError, Layer, Service, ServiceBuilder, service_fn};
use tower_idempotency::options::{Mode, Require};
use tower_idempotency::{IdempotencyLayer, MemoryStore, RequestBody, RouteOptions};

use crate::support::builder;

const LIMIT: Duration = Duration::from_secs(10);

pub(crate) async fn within<F: Future>(future: F) -> F::Output {
    let output = tokio::time::timeout(LIMIT, future).await;
    output.expect("it hangs")
}

pub(crate) fn observing(change: impl Fn(RouteOptions) -> RouteOptions) -> IdempotencyLayer {
    builder(&MemoryStore::new())
        .defaults(|options| change(options.mode(Mode::Observe)))
        .route("POST /required", |options| {
            options.require(Require::Required)
        })
        .observed_body(RequestBody::<Incoming>::observed)
        .build()
        .unwrap()
}

/// What a handler has lived through.
#[derive(Clone, Debug, Default)]
pub(crate) struct Events(Arc<Mutex<Vec<String>>>);

impl Events {
    fn push(&self, event: impl Into<String>) {
        self.0.lock().unwrap().push(event.into());
    }

    pub(crate) fn all(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }

    /// Waits until there are so many.
    pub(crate) async fn reach(&self, count: usize) -> Vec<String> {
        within(async {
            while self.all().len() < count {
                tokio::task::yield_now().await;
            }
        })
        .await;
        self.all()
    }
}

/// A body whose frames a handler sends while it reads those of its request.
pub(crate) struct Sent {
    frames: mpsc::UnboundedReceiver<Result<Frame<Bytes>, BoxError>>,
    length: Option<u64>,
    panics: bool,
}

impl Body for Sent {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = self.frames.poll_recv(cx);
        assert!(
            !self.panics || !matches!(frame, Poll::Ready(None)),
            "in the body"
        );
        frame
    }

    fn size_hint(&self) -> SizeHint {
        self.length.map(SizeHint::with_exact).unwrap_or_default()
    }
}

/// Tells when it is dropped.
struct Dropped(Events);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.push("dropped");
    }
}

async fn handle<B>(request: Request<B>, events: Events) -> Result<Response<Sent>, BoxError>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    let (head, mut body) = request.into_parts();
    let path = head.uri.path().to_owned();
    let hint = body.size_hint();
    events.push(format!(
        "{path} {:?} {}",
        (hint.lower(), hint.upper()),
        body.is_end_stream()
    ));
    let dropped = Dropped(events.clone());
    let (send, frames) = mpsc::unbounded_channel();
    let panics = path == "/panic-late";
    let respond = move |status: u16, length| {
        let mut response = Response::new(Sent {
            frames,
            length,
            panics,
        });
        *response.status_mut() = StatusCode::from_u16(status).unwrap();
        response
            .headers_mut()
            .insert("x-from", "handler".parse().unwrap());
        response
    };
    match path.as_str() {
        "/ignore" => return Ok(respond(202, Some(0))),
        "/whole" => {
            let read = (&mut body).collect().await.map_err(Into::into)?;
            let data = read.to_bytes();
            let length = data.len() as u64;
            send.send(Ok(Frame::data(data))).ok();
            return Ok(respond(201, Some(length)));
        }
        "/none" => return Ok(respond(204, None)),
        "/error" => {
            body.collect().await.map_err(Into::into)?;
            return Err("the handler gave up".into());
        }
        "/panic" => {
            drop((&mut body).collect().await);
            panic!("in the handler");
        }
        "/never" => {
            drop((&mut body).collect().await);
            events.push("waits");
            std::future::pending::<()>().await;
        }
        _ => {}
    }
    let large = (path == "/large").then(|| Bytes::from(vec![b'x'; 3 << 20]));
    let length = large.as_ref().map(|data| data.len() as u64);
    let status = if path == "/fails" { 500 } else { 201 };
    let echo = async move {
        let _dropped = dropped;
        while let Some(frame) = body.frame().await {
            match frame {
                Ok(frame) => {
                    if large.is_some() {
                        continue;
                    }
                    // Trailers come back as such.
                    if send.send(Ok(frame)).is_err() {
                        events.push("client is gone");
                        return;
                    }
                }
                Err(error) => {
                    let error: BoxError = error.into();
                    events.push(format!("error: {error}"));
                    send.send(Err(error)).ok();
                    return;
                }
            }
        }
        if let Some(data) = large {
            send.send(Ok(Frame::data(data))).ok();
        }
        if path == "/broken" {
            send.send(Err("the handler broke off".into())).ok();
        }
        if path == "/trailers" {
            let mut trailers = HeaderMap::new();
            trailers.insert("x-sum", "7".parse().unwrap());
            send.send(Ok(Frame::trailers(trailers))).ok();
        }
        events.push("read");
    };
    tokio::spawn(echo);
    Ok(respond(status, length))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Http {
    One,
    Two,
}

/// A server on a socket: with the layer, if there is one.
pub(crate) async fn serve(layer: Option<IdempotencyLayer>, http: Http) -> (SocketAddr, Events) {
    let events = Events::default();
    let own = events.clone();
    match layer {
        None => {
            let plain = service_fn(move |request| handle::<Incoming>(request, own.clone()));
            (listen(plain, http).await, events)
        }
        Some(layer) => {
            let handler =
                service_fn(move |request| handle::<RequestBody<Incoming>>(request, own.clone()));
            let observed = ServiceBuilder::new()
                .map_request(|request: Request<Incoming>| request.map(RequestBody::new))
                .service(layer.layer(handler));
            (listen(observed, http).await, events)
        }
    }
}

async fn listen<S, R>(service: S, http: Http) -> SocketAddr
where
    S: Service<Request<Incoming>, Response = Response<R>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<BoxError> + 'static,
    R: Body<Data = Bytes> + Send + 'static,
    R::Error: Into<BoxError>,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            stream.set_nodelay(true).unwrap();
            let service = TowerToHyperService::new(service.clone());
            let io = TokioIo::new(stream);
            tokio::spawn(async move {
                // A server without the date sends the same bytes at any time.
                let served = match http {
                    Http::One => {
                        let mut builder = hyper::server::conn::http1::Builder::new();
                        builder.auto_date_header(false);
                        builder.serve_connection(io, service).await
                    }
                    Http::Two => {
                        let executor = TokioExecutor::new();
                        let mut builder = hyper::server::conn::http2::Builder::new(executor);
                        builder.auto_date_header(false);
                        builder.serve_connection(io, service).await
                    }
                };
                served.ok();
            });
        }
    });
    address
}

/// A connection, and all that came over it.
pub(crate) struct Client {
    stream: TcpStream,
    pub(crate) read: Vec<u8>,
}

impl Client {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self {
            stream,
            read: Vec::new(),
        }
    }

    pub(crate) async fn write(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    /// Reads more. `false` at the end of the connection, however it ended.
    pub(crate) async fn more(&mut self) -> bool {
        match within(self.stream.read_buf(&mut self.read)).await {
            Ok(0) => false,
            Ok(_) => true,
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => false,
            Err(error) => panic!("{error}"),
        }
    }

    pub(crate) async fn into_end(mut self) -> Vec<u8> {
        while self.more().await {}
        self.read
    }
}
