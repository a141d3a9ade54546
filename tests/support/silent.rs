//! Servers whose sockets take little, clients that read nothing, and what both cost: for tests that
//! have a process of their own.

use std::fs;
use std::net::SocketAddr;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpSocket;
use tokio::task::JoinSet;
use tower::{Service, ServiceBuilder};
use tower_idempotency::RequestBody;

pub(crate) const KIB: usize = 1 << 10;
pub(crate) const MIB: usize = 1 << 20;

/// What a client that reads nothing speaks.
#[allow(
    dead_code,
    reason = "each test that includes this file uses some of it"
)]
#[derive(Clone, Copy)]
pub(crate) enum Way {
    Http1,
    /// HTTP/2, with a window of so many bytes for each response.
    Http2(u32),
}

/// The resident memory of this process, in bytes.
pub(crate) fn resident() -> usize {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let kib = line.unwrap().split_whitespace().nth(1).unwrap();
    kib.parse::<usize>().unwrap() * KIB
}

/// A server of this service.
pub(crate) fn serve<S, R>(service: S) -> SocketAddr
where
    S: Service<Request<RequestBody<Incoming>>, Response = Response<R>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<tower::BoxError> + std::fmt::Debug,
    R: Body<Data = Bytes> + Send + 'static,
    R::Error: Into<tower::BoxError>,
{
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
                .service(service.clone());
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
pub(crate) async fn ask(
    address: SocketAddr,
    caller: &str,
    key: &str,
    way: Way,
    open: &mut JoinSet<()>,
) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4 << 10).unwrap();
    let mut stream = socket.connect(address).await.unwrap();
    let Way::Http2(window) = way else {
        let request = format!(
            "POST /a HTTP/1.1\r\nhost: a\r\nx-api-key: {caller}\r\nidempotency-key: {key}\r\n\
             content-length: 0\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        open.spawn(async move {
            std::future::pending::<()>().await;
            drop(stream);
        });
        return;
    };
    let mut http = http2::Builder::new(TokioExecutor::new());
    let http = http.initial_stream_window_size(window);
    let (mut sender, connection) = http.handshake(TokioIo::new(stream)).await.unwrap();
    open.spawn(async move { drop(connection.await) });
    let request = Request::post("http://a.example/a")
        .header("x-api-key", caller)
        .header("idempotency-key", key)
        .body(Full::<Bytes>::default())
        .unwrap();
    open.spawn(async move {
        let response = sender.send_request(request).await;
        std::future::pending::<()>().await;
        drop(response);
    });
}
