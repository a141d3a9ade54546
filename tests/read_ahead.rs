//! What clients that read nothing cost, as the process shows it: no more than `max_read_ahead`
//! and a fifth, beside what a connection costs anyway. The test has a process of its own.

#![cfg(all(feature = "memory", target_os = "linux"))]

use std::convert::Infallible;
use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{Full, StreamBody};
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpSocket;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tower::ServiceBuilder;
use tower_idempotency::{IdempotencyLayer, MemoryStore, RequestBody, scope};

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;
const MAX_READ_AHEAD: usize = 16 * MIB;
const RESPONSE: usize = 10 * MIB;
const FRAME: usize = 32 * KIB;
const CLIENTS: usize = 40;

/// What a connection costs beside: 64 KiB and a frame of each response, the tasks, and the buffers
/// of hyper. Over HTTP/1, hyper takes more than 400 KiB of a response before it looks whether the
/// socket has room; over HTTP/2 it takes nothing while the window is zero.
const BY_HTTP1: usize = 768 * KIB;
const BY_HTTP2: usize = 256 * KIB;

/// The resident memory of this process, in bytes.
fn resident() -> usize {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let kib = line.unwrap().split_whitespace().nth(1).unwrap();
    kib.parse::<usize>().unwrap() * KIB
}

/// A server whose every response has [`RESPONSE`] bytes, made as they are asked for.
fn serve(layer: IdempotencyLayer) -> SocketAddr {
    let socket = TcpSocket::new_v4().unwrap();
    // What the kernel takes does not show in the memory of a process. It takes little here, so
    // that the server has to hold the rest, or not to read it.
    socket.set_send_buffer_size(16 << 10).unwrap();
    socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
    let listener = socket.listen(1024).unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let service = ServiceBuilder::new()
                .map_request(|request: Request<Incoming>| request.map(RequestBody::new))
                .layer(layer.clone())
                .service_fn(async |_: Request<RequestBody<Incoming>>| {
                    let frame = |_| Ok::<_, Infallible>(Frame::data(Bytes::from(vec![7; FRAME])));
                    let frames = (0..RESPONSE / FRAME).map(frame);
                    let body = StreamBody::new(tokio_stream::iter(frames));
                    Ok::<_, Infallible>(Response::new(body))
                });
            tokio::spawn(async move {
                let service = TowerToHyperService::new(service);
                let http = auto::Builder::new(TokioExecutor::new());
                http.serve_connection(TokioIo::new(stream), service)
                    .await
                    .ok();
            });
        }
    });
    address
}

/// Sends a request on a connection of its own, and reads nothing.
async fn ask(address: SocketAddr, key: String, http2: bool, open: &mut JoinSet<()>) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4 << 10).unwrap();
    let mut stream = socket.connect(address).await.unwrap();
    if !http2 {
        let request = format!(
            "POST /a HTTP/1.1\r\nhost: a\r\nidempotency-key: {key}\r\ncontent-length: 0\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        open.spawn(async move {
            std::future::pending::<()>().await;
            drop(stream);
        });
        return;
    }
    let mut http = http2::Builder::new(TokioExecutor::new());
    let http = http.initial_stream_window_size(0);
    let (mut sender, connection) = http.handshake(TokioIo::new(stream)).await.unwrap();
    open.spawn(async move { drop(connection.await) });
    open.spawn(async move {
        let request = Request::post("http://a.example/a").header("idempotency-key", key);
        let request = request.body(Full::<Bytes>::default()).unwrap();
        let response = sender.send_request(request).await;
        std::future::pending::<()>().await;
        drop(response);
    });
}

#[tokio::test]
async fn clients_that_read_nothing_cost_no_more_memory_than_max_read_ahead() {
    let layer = IdempotencyLayer::builder(MemoryStore::new(), scope::shared())
        .max_read_ahead(MAX_READ_AHEAD)
        .defaults(|options| options.max_recorded_body(2 * RESPONSE))
        .build()
        .unwrap();
    let address = serve(layer);
    let before = resident();
    let mut open = JoinSet::new();
    for client in 0..CLIENTS {
        let http2 = client % 2 == 0;
        ask(address, client.to_string(), http2, &mut open).await;
    }
    // At its highest, and when the memory has not grown for half a second.
    let (mut most, mut steady) = (0, 0);
    while steady < 10 {
        sleep(Duration::from_millis(50)).await;
        let now = resident();
        steady = if now > most { 0 } else { steady + 1 };
        most = most.max(now);
    }
    let cost = most.saturating_sub(before);
    let limit = MAX_READ_AHEAD * 6 / 5 + CLIENTS / 2 * (BY_HTTP1 + BY_HTTP2);
    println!("{} MiB of {} MiB", cost / MIB, limit / MIB);
    assert!(cost <= limit, "{} KiB, not {}", cost / KIB, limit / KIB);
    // All responses together are ten times as large.
    assert!(
        cost > MAX_READ_AHEAD / 2,
        "{} KiB: nothing was read",
        cost / KIB
    );
    open.shutdown().await;
}
