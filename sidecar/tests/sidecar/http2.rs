//! These tests use HTTP/2 between client and sidecar, and between sidecar and
//! upstream.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri, Version, request};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Incoming;
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::support::{File, Running, Upstream, get, nobody, ok, post, until, within};

async fn client(sidecar: &Running) -> SendRequest<Full<Bytes>> {
    connect(sidecar).await
}

pub(crate) async fn connect<B>(sidecar: &Running) -> SendRequest<B>
where
    B: Body<Data = Bytes, Error = Infallible> + Send + Unpin + 'static,
{
    let stream = TcpStream::connect(sidecar.address).await.unwrap();
    let handshake = handshake(TokioExecutor::new(), TokioIo::new(stream));
    let (client, connection) = handshake.await.unwrap();
    tokio::spawn(connection);
    client
}

/// This upstream speaks only HTTP/2, and its responses have trailers.
pub(crate) struct Http2 {
    pub(crate) address: SocketAddr,
    seen: Arc<Mutex<Vec<request::Parts>>>,
    bodies: Arc<Mutex<Vec<Bytes>>>,
    connections: Arc<AtomicUsize>,
    connected: Arc<Mutex<Vec<tokio::task::AbortHandle>>>,
}

impl Http2 {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let http2 = Self {
            address: listener.local_addr().unwrap(),
            seen: Arc::default(),
            bodies: Arc::default(),
            connections: Arc::default(),
            connected: Arc::default(),
        };
        let seen = Arc::clone(&http2.seen);
        let bodies = Arc::clone(&http2.bodies);
        let connections = Arc::clone(&http2.connections);
        let connected = Arc::clone(&http2.connected);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                connections.fetch_add(1, Ordering::SeqCst);
                let (seen, bodies) = (Arc::clone(&seen), Arc::clone(&bodies));
                let service = service_fn(move |request: Request<Incoming>| {
                    let (seen, bodies) = (Arc::clone(&seen), Arc::clone(&bodies));
                    async move {
                        let (parts, body) = request.into_parts();
                        let body = body.collect().await.unwrap();
                        let trailers = body.trailers().cloned().unwrap_or_default();
                        let mut data = body.to_bytes();
                        bodies.lock().unwrap().push(data.clone());
                        if parts.method == Method::HEAD {
                            data.clear();
                        }
                        seen.lock().unwrap().push(parts);
                        let frames = [Frame::data(data), Frame::trailers(trailers)];
                        let frames = frames.map(Ok::<_, Infallible>);
                        let frames = tokio_stream::iter(frames);
                        Ok::<_, Infallible>(Response::new(StreamBody::new(frames)))
                    }
                });
                let task = tokio::spawn(async move {
                    let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
                connected.lock().unwrap().push(task.abort_handle());
            }
        });
        http2
    }

    pub(crate) fn seen(&self) -> Vec<request::Parts> {
        self.seen.lock().unwrap().clone()
    }

    pub(crate) fn bodies(&self) -> Vec<Bytes> {
        self.bodies.lock().unwrap().clone()
    }
}

fn request(uri: &str, key: Option<&str>) -> Request<Full<Bytes>> {
    let mut request = Request::post(uri.parse::<Uri>().unwrap())
        .version(Version::HTTP_2)
        .header("te", "trailers");
    if let Some(key) = key {
        request = request.header("idempotency-key", key);
    }
    request.body(Full::from("hello")).unwrap()
}

#[tokio::test]
async fn a_client_may_speak_http_2_to_an_upstream_that_does_not() {
    let upstream = Upstream::start(|_| ok("done")).await;
    let sidecar = File::new(upstream.address).start().await;
    let mut client = client(&sidecar).await;
    for replayed in [false, true] {
        let mut request = request("http://shop.example/%6frders?q=1", Some("k"));
        for crumb in ["a=1", "b=2"] {
            request
                .headers_mut()
                .append("cookie", crumb.parse().unwrap());
        }
        let answer = within(client.send_request(request)).await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        assert_eq!(
            answer.headers().contains_key("idempotency-replayed"),
            replayed
        );
        assert_eq!(
            answer.into_body().collect().await.unwrap().to_bytes(),
            "done"
        );
    }
    let seen = upstream.last();
    assert_eq!(seen.start, "POST /%6frders?q=1 HTTP/1.1");
    assert_eq!(seen.field("host"), Some("shop.example"));
    assert_eq!(seen.field("cookie"), Some("a=1; b=2"));
    assert_eq!(seen.field("te"), Some("trailers"));
    assert_eq!(seen.text(), "hello");
    assert_eq!(upstream.seen().len(), 1);
}

#[tokio::test]
async fn many_requests_share_one_connection_to_an_upstream_with_http_2() {
    let upstream = Http2::start().await;
    let file = File::new(upstream.address).top("upstream_http2 = true");
    let sidecar = file.start().await;
    let client = client(&sidecar).await;
    let asked = (0..50).map(|at| {
        let mut client = client.clone();
        tokio::spawn(async move {
            let host = format!("http://shop{}.example/a", at % 7);
            let answer = client.send_request(request(&host, None)).await.unwrap();
            answer.status()
        })
    });
    for answer in asked.collect::<Vec<_>>() {
        assert_eq!(within(answer).await.unwrap(), StatusCode::OK);
    }
    assert_eq!(upstream.seen().len(), 50);
    assert_eq!(upstream.connections.load(Ordering::SeqCst), 1);
    let seen = upstream.seen();
    for host in 0..7 {
        let authority = format!("shop{host}.example");
        assert!(
            seen.iter()
                .any(|parts| parts.uri.authority().unwrap() == &*authority)
        );
    }
    assert!(seen.iter().all(|parts| !parts.headers.contains_key("host")));
    assert!(seen.iter().all(|parts| parts.version == Version::HTTP_2));
}

#[tokio::test]
async fn trailers_pass_both_ways_and_are_replayed() {
    let upstream = Http2::start().await;
    let file = File::new(upstream.address).top("upstream_http2 = true");
    let sidecar = file.start().await;
    let stream = TcpStream::connect(sidecar.address).await.unwrap();
    let (mut client, connection) = handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    for key in [None, Some("k"), Some("k")] {
        let mut trailers = HeaderMap::new();
        trailers.insert("x-sum", "7".parse().unwrap());
        let frames = [Frame::data(Bytes::from("hello")), Frame::trailers(trailers)];
        let body = StreamBody::new(tokio_stream::iter(frames.map(Ok::<_, Infallible>)));
        let request = request("http://shop.example/a", key).map(|_| body);
        let answer = within(client.send_request(request)).await.unwrap();
        let body = within(answer.into_body().collect()).await.unwrap();
        assert_eq!(body.trailers().unwrap()["x-sum"], "7", "{key:?}");
        assert_eq!(body.to_bytes(), "hello");
    }
    assert_eq!(upstream.seen().len(), 2);
}

#[tokio::test]
async fn a_connection_that_has_died_is_made_anew() {
    let upstream = Http2::start().await;
    let file = File::new(upstream.address).top("upstream_http2 = true");
    let sidecar = file.start().await;
    assert_eq!(sidecar.exchange(&post("/a", "1", "{}")).await.status(), 200);
    for connection in upstream.connected.lock().unwrap().drain(..) {
        connection.abort();
    }
    // A request may still use the dead connection until the sidecar has noticed its
    // end.
    let mut key = 1;
    until(async || {
        key += 1;
        let answer = sidecar.exchange(&post("/a", &key.to_string(), "{}")).await;
        answer.status() == 200
    })
    .await;
    assert_eq!(upstream.connections.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn an_upstream_with_http_2_that_is_not_reached_gives_the_key_back() {
    let file = File::new(nobody()).top("upstream_http2 = true");
    let sidecar = file.start().await;
    for _ in 0..2 {
        let answer = sidecar.exchange(&post("/a", "k", "{}")).await;
        assert_eq!(
            (answer.status(), answer.code().as_str()),
            (502, "upstream-unreachable")
        );
    }
}

/// This upstream accepts a head, and no byte of a body.
#[tokio::test]
async fn an_upstream_that_takes_no_body_is_not_waited_for_without_end() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let file = File::new(listener.local_addr().unwrap())
        .top("upstream_http2 = true")
        .top("connect_timeout = '200ms'")
        .top("upstream_timeout = '200ms'");
    let sidecar = file.start().await;
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        // SETTINGS_INITIAL_WINDOW_SIZE is 0 and stays 0.
        let settings = b"\0\0\x06\x04\0\0\0\0\0\0\x04\0\0\0\0";
        stream.write_all(settings).await.unwrap();
        let mut some = [0; 1024];
        while stream.read(&mut some).await.is_ok_and(|read| read > 0) {}
    });
    // When this exchange ends, the upstream's settings have arrived.
    let first = sidecar.exchange(&get("/")).await;
    assert_eq!(first.code(), "upstream-timeout");
    let answer = sidecar.exchange(&post("/a", "k", "{}")).await;
    assert_eq!(
        (answer.status(), answer.code().as_str()),
        (504, "upstream-timeout")
    );
    let again = sidecar.exchange(&post("/a", "k", "{}")).await;
    assert_eq!(again.code(), "in-flight");
}
