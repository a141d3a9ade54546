//! A shop on a socket of its own that shows a client every kind of failure. The
//! idempotency layer stands in front of the shop's operation, so each order is
//! created once, however often it is sent.

use std::collections::HashMap;
use std::convert::Infallible;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tower::{Layer, ServiceExt};
use tower_idempotency::options::Require;
use tower_idempotency::{ConfigError, IdempotencyLayer, MemoryStore, RequestBody, scope};

type BoxError = Box<dyn std::error::Error + Send + Sync>;
type Body = BoxBody<Bytes, BoxError>;

/// How long a client of this shop should wait for a response. Some responses
/// take longer.
pub(crate) const PATIENCE: Duration = Duration::from_secs(1);

/// What goes wrong with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Mishap {
    /// The shop drops the connection before it has read the request.
    Unread,
    /// The shop drops the connection when the order is created and the response
    /// is ready.
    Unanswered,
    /// The shop drops the connection in the middle of the response.
    CutOff,
    /// A proxy in front of the layer responds with 409 and a `Retry-After`.
    Conflict,
    /// A proxy in front of the layer responds with 503 and a `Retry-After`.
    Unavailable,
    /// The operation itself responds with 503.
    OutOfOrder,
    /// The operation takes longer than the client waits.
    Late,
}

const MISHAPS: [Mishap; 7] = [
    Mishap::Unread,
    Mishap::Unanswered,
    Mishap::CutOff,
    Mishap::Conflict,
    Mishap::Unavailable,
    Mishap::OutOfOrder,
    Mishap::Late,
];

/// What goes wrong with a request that arrives for the `arrival`-th time: one
/// request in four fails, but none from its fourth arrival on. Besides this,
/// the shop drops every tenth connection.
fn mishap(key: &HeaderValue, arrival: u32) -> Option<Mishap> {
    let mut hasher = DefaultHasher::new();
    (key.as_bytes(), arrival).hash(&mut hasher);
    let dice = usize::try_from(hasher.finish() % (4 * MISHAPS.len() as u64)).ok()?;
    MISHAPS.get(dice).filter(|_| arrival < 4).copied()
}

/// A clone is another handle on the same shop.
#[derive(Clone)]
pub(crate) struct Shop {
    books: Arc<Mutex<Books>>,
    layer: IdempotencyLayer,
    made: watch::Sender<usize>,
}

#[derive(Default)]
struct Books {
    /// How often each order was created.
    orders: HashMap<u64, usize>,
    /// How often each key has arrived.
    arrivals: HashMap<HeaderValue, u32>,
    mishaps: HashMap<Mishap, usize>,
}

impl Shop {
    pub(crate) fn new() -> Result<Self, ConfigError> {
        let layer = IdempotencyLayer::builder(MemoryStore::new(), scope::header("x-api-key"))
            .defaults(|policy| policy.require(Require::Required))
            .build()?;
        Ok(Self {
            books: Arc::default(),
            layer,
            made: watch::Sender::new(0),
        })
    }

    /// Serves the shop on a free port, for as long as the runtime lives, and
    /// returns the address.
    pub(crate) async fn open(&self) -> io::Result<SocketAddr> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let shop = self.clone();
        tokio::spawn(async move {
            for number in 1_u64.. {
                match listener.accept().await {
                    Ok(_) if number % 10 == 0 => {}
                    Ok((socket, _)) => drop(tokio::spawn(shop.clone().serve(socket))),
                    Err(error) => eprintln!("the shop can't accept: {error}"),
                }
            }
        });
        Ok(address)
    }

    async fn serve(self, socket: TcpStream) {
        socket.set_nodelay(true).ok();
        let service = service_fn(|request| self.clone().answer(request));
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .serve_connection(TokioIo::new(socket), service);
        // The connection is meant to break off, so an error is ignored.
        connection.await.ok();
    }

    /// Responds to one request. An error drops the connection.
    async fn answer(self, request: Request<Incoming>) -> Result<Response<Body>, BoxError> {
        let mishap = self.next_mishap(&request);
        if mishap == Some(Mishap::Unread) {
            return Err("dropped before it was read".into());
        }
        let (mut head, body) = request.into_parts();
        // The body is read to its end, so that the connection can be used
        // again.
        let body = body.collect().await?.to_bytes();
        head.extensions.insert(mishap);
        let passing = |status| {
            let mut response = Response::new(Full::default().map_err(into_box).boxed());
            *response.status_mut() = status;
            let soon = HeaderValue::from_static("1");
            response.headers_mut().insert("retry-after", soon);
            Ok(response)
        };
        match mishap {
            Some(Mishap::Conflict) => return passing(StatusCode::CONFLICT),
            Some(Mishap::Unavailable) => return passing(StatusCode::SERVICE_UNAVAILABLE),
            _ => {}
        }
        let this = self.clone();
        let warehouse = tower::service_fn(move |request| this.clone().create(request));
        let request = Request::from_parts(head, RequestBody::<Full<Bytes>>::from(body));
        let response = self.layer.layer(warehouse).oneshot(request).await?;
        match mishap {
            Some(Mishap::Unanswered) => {
                response.into_body().collect().await?;
                Err("dropped before it was answered".into())
            }
            Some(Mishap::CutOff) => {
                let (head, body) = response.into_parts();
                let mut whole = body.collect().await?.to_bytes();
                let mut response = Response::from_parts(head, ());
                response
                    .headers_mut()
                    .insert("content-length", whole.len().into());
                whole.truncate(whole.len() / 2);
                let broken = Err("dropped in the middle".into());
                let frames = [Ok(Frame::data(whole)), broken];
                let body = StreamBody::new(tokio_stream::iter(frames));
                Ok(response.map(|()| BodyExt::boxed(body)))
            }
            _ => Ok(response.map(|body| body.map_err(into_box).boxed())),
        }
    }

    fn next_mishap(&self, request: &Request<Incoming>) -> Option<Mishap> {
        let key = request.headers().get("idempotency-key")?;
        let mut books = self.books.lock().unwrap();
        let arrival = books.arrivals.entry(key.clone()).or_default();
        *arrival += 1;
        let mishap = mishap(key, *arrival)?;
        *books.mishaps.entry(mishap).or_default() += 1;
        Some(mishap)
    }

    /// The operation that the layer protects: it runs once for each key.
    async fn create(
        self,
        request: Request<RequestBody<Full<Bytes>>>,
    ) -> Result<Response<Full<Bytes>>, Infallible> {
        let answer = |status, body: Value| {
            let mut response = Response::new(Full::from(body.to_string()));
            *response.status_mut() = status;
            response
        };
        match request.extensions().get() {
            Some(Some(Mishap::OutOfOrder)) => {
                let wrong = json!({ "error": "the warehouse is out of order" });
                return Ok(answer(StatusCode::SERVICE_UNAVAILABLE, wrong));
            }
            Some(Some(Mishap::Late)) => tokio::time::sleep(PATIENCE + PATIENCE / 4).await,
            _ => {}
        }
        let body = request.into_body().collect().await;
        let order = body.ok().and_then(|body| {
            let order: Value = serde_json::from_slice(&body.to_bytes()).ok()?;
            order["number"].as_u64()
        });
        let Some(number) = order else {
            let wrong = json!({ "error": "an order has a number" });
            return Ok(answer(StatusCode::BAD_REQUEST, wrong));
        };
        let mut books = self.books.lock().unwrap();
        *books.orders.entry(number).or_default() += 1;
        let id = format!("ord_{}", books.orders.len());
        self.made.send_replace(books.orders.len());
        Ok(answer(
            StatusCode::CREATED,
            json!({ "number": number, "id": id }),
        ))
    }

    /// How many orders there are, and how many of them were created more than
    /// once.
    pub(crate) fn count(&self) -> (usize, usize) {
        let books = self.books.lock().unwrap();
        let twice = books.orders.values().filter(|times| **times > 1).count();
        (books.orders.len(), twice)
    }

    /// How often each mishap occurred.
    pub(crate) fn mishaps(&self) -> Vec<(String, usize)> {
        let books = self.books.lock().unwrap();
        let each = MISHAPS.iter().map(|mishap| {
            let times = books.mishaps.get(mishap).copied().unwrap_or_default();
            (format!("{mishap:?}"), times)
        });
        each.collect()
    }

    /// Resolves when the shop has at least so many orders.
    #[allow(dead_code, reason = "for tests that stop a client in the middle")]
    pub(crate) async fn has_made(&self, orders: usize) {
        let mut made = self.made.subscribe();
        let enough = made.wait_for(|made| *made >= orders).await;
        enough.expect("the shop has its sender");
    }
}

fn into_box(error: impl Into<BoxError>) -> BoxError {
    error.into()
}
