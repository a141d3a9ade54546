//! The service behind the sidecar: a thread of its own, so that no attack takes its time.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::net::TcpListener;
use tokio::time::sleep;

use crate::BoxError;

/// How long the slow operations take: longer than any attack.
const SLOW: Duration = Duration::from_secs(60);
/// How long the first request of a pair takes.
const BRIEF: Duration = Duration::from_millis(50);
/// The size of the responses of `/large`, in bytes: the largest that is recorded.
const LARGE: usize = 1 << 20;
/// How many streams the upstream allows on one connection of HTTP/2.
const STREAMS: u32 = 100;

/// Starts the upstream, which serves until this process ends.
pub(crate) fn start() -> Result<SocketAddr, BoxError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let listener = runtime.block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))?;
    let address = listener.local_addr()?;
    std::thread::spawn(move || runtime.block_on(serve(listener)));
    Ok(address)
}

async fn serve(listener: TcpListener) {
    let orders = Arc::new(AtomicU64::new(0));
    let large = Bytes::from(vec![b'x'; LARGE]);
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            sleep(Duration::from_millis(10)).await;
            continue;
        };
        let (orders, large) = (Arc::clone(&orders), large.clone());
        let service = service_fn(move |request| {
            let (orders, large) = (Arc::clone(&orders), large.clone());
            async move { Ok::<_, Infallible>(respond(request, &orders, large).await) }
        });
        tokio::spawn(async move {
            let mut server = auto::Builder::new(TokioExecutor::new());
            server.http2().max_concurrent_streams(STREAMS);
            let _ = server.serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn respond(
    request: Request<Incoming>,
    orders: &AtomicU64,
    large: Bytes,
) -> Response<Full<Bytes>> {
    let (parts, body) = request.into_parts();
    // A body that broke off has no operation.
    let whole = body.collect().await.is_ok();
    let (status, body) = match parts.uri.path() {
        "/orders" | "/brief" if whole => {
            if parts.uri.path() == "/brief" {
                sleep(BRIEF).await;
            }
            // Relaxed: the numbers only have to differ.
            let number = orders.fetch_add(1, Ordering::Relaxed);
            (
                StatusCode::CREATED,
                format!("{{\"order\":{number}}}").into(),
            )
        }
        "/large" => (StatusCode::OK, large),
        "/slow" | "/wait" => {
            sleep(SLOW).await;
            (StatusCode::OK, Bytes::from_static(b"at last"))
        }
        "/doubt" => (StatusCode::BAD_GATEWAY, Bytes::new()),
        "/later" => (StatusCode::SERVICE_UNAVAILABLE, Bytes::new()),
        _ => (StatusCode::OK, Bytes::from_static(b"ok")),
    };
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    response
}
