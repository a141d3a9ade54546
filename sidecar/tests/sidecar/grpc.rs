//! gRPC calls pass the sidecar over HTTP/2. A deadline is the client's, and not that of
//! the operation.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, request};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Incoming;
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::support::{File, Running, within};

/// This upstream ends a call at its deadline, as servers of gRPC do, and else when the
/// test lets it.
#[derive(Clone)]
struct Shop {
    runs: Arc<AtomicUsize>,
    seen: Arc<Mutex<Vec<request::Parts>>>,
    go_on: Arc<Notify>,
}

impl Shop {
    async fn start() -> (Self, SocketAddr) {
        let shop = Self {
            runs: Arc::default(),
            seen: Arc::default(),
            go_on: Arc::default(),
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serving = shop.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let shop = serving.clone();
                let pay = service_fn(move |request| shop.clone().pay(request));
                let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                tokio::spawn(server.serve_connection(TokioIo::new(stream), pay));
            }
        });
        (shop, address)
    }

    async fn pay(
        self,
        request: Request<Incoming>,
    ) -> Result<Response<http_body_util::combinators::BoxBody<Bytes, Infallible>>, Infallible> {
        let (parts, body) = request.into_parts();
        body.collect().await.unwrap();
        let deadline = parts.headers.get("grpc-timeout").map(|own| {
            let millis = own.to_str().unwrap().strip_suffix('m').unwrap();
            Duration::from_millis(millis.parse().unwrap())
        });
        self.seen.lock().unwrap().push(parts);
        let run = self.runs.fetch_add(1, Ordering::SeqCst) + 1;
        let paid = timeout(deadline.unwrap_or(Duration::MAX), self.go_on.notified()).await;
        let mut trailers = HeaderMap::new();
        let status = if paid.is_ok() { "0" } else { "4" };
        trailers.insert("grpc-status", status.parse().unwrap());
        let message = format!("run {run}");
        let frames = [Frame::data(message.into()), Frame::trailers(trailers)];
        let frames = tokio_stream::iter(frames.map(Ok::<_, Infallible>));
        let mut response = Response::new(BodyExt::boxed(StreamBody::new(frames)));
        let content_type = "application/grpc".parse().unwrap();
        response.headers_mut().insert("content-type", content_type);
        Ok(response)
    }
}

async fn client(sidecar: &Running) -> SendRequest<Full<Bytes>> {
    let stream = TcpStream::connect(sidecar.address).await.unwrap();
    let handshake = handshake(TokioExecutor::new(), TokioIo::new(stream));
    let (client, connection) = handshake.await.unwrap();
    tokio::spawn(connection);
    client
}

/// The gRPC status of a call, from its headers or trailers, and its message.
async fn call(client: &SendRequest<Full<Bytes>>, key: Option<&str>) -> (String, String, HeaderMap) {
    let mut request = Request::post("http://shop.example/shop.Shop/Pay")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("grpc-timeout", "300m");
    if let Some(key) = key {
        request = request.header("idempotency-key", key);
    }
    let request = request.body(Full::from("note")).unwrap();
    let response = within(client.clone().send_request(request)).await.unwrap();
    let (head, body) = response.into_parts();
    let body = within(body.collect()).await.unwrap();
    let of = |map: &HeaderMap| Some(map.get("grpc-status")?.to_str().unwrap().to_owned());
    let status = of(&head.headers).or_else(|| of(body.trailers()?)).unwrap();
    let message = String::from_utf8(body.to_bytes().to_vec()).unwrap();
    (status, message, head.headers)
}

#[tokio::test]
async fn a_protected_call_outlives_its_deadline_and_a_retry_gets_its_answer() {
    let (shop, address) = Shop::start().await;
    let file = File::new(address).top("upstream_http2 = true");
    let sidecar = file.start().await;
    let client = client(&sidecar).await;
    let (status, message, headers) = call(&client, Some("k")).await;
    assert_eq!((&*status, &*message), ("4", ""));
    assert!(headers.contains_key("grpc-message"), "{headers:?}");
    let (status, _, headers) = call(&client, Some("k")).await;
    assert_eq!(status, "10");
    assert_eq!(headers["idempotency-code"], "in-flight");
    shop.go_on.notify_one();
    let (status, message, headers) = within(async {
        loop {
            let called = call(&client, Some("k")).await;
            if called.0 != "10" {
                return called;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    assert_eq!((&*status, &*message), ("0", "run 1"));
    assert_eq!(headers["idempotency-replayed"], "true");
    let seen = shop.seen.lock().unwrap();
    assert_eq!(seen.len(), 1);
    assert!(!seen[0].headers.contains_key("grpc-timeout"));
}

#[tokio::test]
async fn a_call_without_a_key_has_its_deadline_from_the_upstream() {
    let (shop, address) = Shop::start().await;
    let file = File::new(address).top("upstream_http2 = true");
    let sidecar = file.start().await;
    let client = client(&sidecar).await;
    let (status, message, _) = call(&client, None).await;
    assert_eq!((&*status, &*message), ("4", "run 1"));
    let seen = shop.seen.lock().unwrap();
    assert_eq!(seen[0].headers["grpc-timeout"], "300m");
}
