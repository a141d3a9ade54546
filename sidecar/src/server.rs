//! Connections of clients: the sidecar accepts, serves and closes them.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout_at};
use tracing::{debug, info, warn};

use crate::ending::{Close, Ending, IDLE, Phase};
use crate::front::Front;
use crate::received::{ReceivedBody, Unread};
use crate::socket::{Socket, share};
use crate::{BoxError, http2};

/// How much of a body hyper may discard before the next request, instead of closing the connection.
const SHORT_REST: u64 = 8 << 10;
/// How long the sidecar waits after it ran out of file descriptors.
const PAUSE: Duration = Duration::from_millis(100);

/// Serves until `shutdown`. Then requests and operations may finish, within `drain`.
pub(crate) async fn serve(
    front: Arc<Front>,
    listener: TcpListener,
    metrics: Option<TcpListener>,
    drain: Duration,
    shutdown: impl Future<Output = ()>,
) {
    let metrics = metrics.map(|listener| tokio::spawn(serve_metrics(Arc::clone(&front), listener)));
    let (phase, _) = watch::channel(Phase::Serve);
    let mut shutdown = pin!(shutdown);
    loop {
        tokio::select! {
            // Otherwise a shutdown could wait for as long as connections keep arriving.
            biased;
            () = &mut shutdown => break,
            (stream, peer) = accept(&listener) => {
                let front = Arc::clone(&front);
                tokio::spawn(connection(front, stream, peer, phase.subscribe()));
            }
        }
    }
    drop(listener);
    front.begin_draining();
    let until = Instant::now() + drain;
    phase.send_replace(Phase::Drain);
    info!(connections = phase.receiver_count(), "draining");
    if timeout_at(until, phase.closed()).await.is_err() {
        warn!(connections = phase.receiver_count(), "requests are cut off");
        phase.send_replace(Phase::End);
        phase.closed().await;
    }
    let left = until.saturating_duration_since(Instant::now());
    let left = front.layer().drain(left).await;
    if left > 0 {
        warn!(operations = left, "operations are left to their leases");
    }
    if let Some(metrics) = metrics {
        metrics.abort();
    }
}

async fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    loop {
        match listener.accept().await {
            Ok(accepted) => return accepted,
            Err(error) => {
                if is_connection_error(&error) {
                    debug!(error = &error as &dyn std::error::Error, "no connection");
                } else {
                    warn!(
                        error = &error as &dyn std::error::Error,
                        "no connection can be accepted"
                    );
                    sleep(PAUSE).await;
                }
            }
        }
    }
}

fn is_connection_error(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionRefused | ConnectionReset
    )
}

async fn connection(
    front: Arc<Front>,
    stream: TcpStream,
    peer: SocketAddr,
    phase: watch::Receiver<Phase>,
) {
    let _counted = front.numbers().connection();
    let (socket, watched) = share(stream);
    let mut ending = Ending::new(phase);
    let may_send_on = tokio::select! {
        // The half of the socket that speaks HTTP is dropped with this future, before `linger` begins.
        served = requests(front, socket, peer, &mut ending) => served.unwrap_or_else(|error| {
            debug!(%peer, error = &*error, "connection ended");
            true
        }),
        () = watched.failed() => false,
    };
    if may_send_on {
        tokio::select! {
            () = watched.linger() => {}
            () = ending.end() => {}
        }
    }
}

/// Serves the requests of a connection. Returns whether the client may still be sending while it has a
/// response to read.
async fn requests(
    front: Arc<Front>,
    mut socket: Socket,
    peer: SocketAddr,
    ending: &mut Ending,
) -> Result<bool, BoxError> {
    let is_http2 = tokio::select! {
        is_http2 = socket.begins_with_http2() => is_http2?,
        _ = ending.next() => return Ok(false),
    };
    if is_http2 {
        http2::serve(front, socket, peer, ending).await?;
        return Ok(true);
    }
    let unread = Unread::default();
    let activity = ending.activity().clone();
    let service = service_fn(|request: Request<Incoming>| {
        let (front, unread) = (Arc::clone(&front), unread.clone());
        let running = activity.begin();
        async move {
            let request = request.map(|body| ReceivedBody::http1(body, unread.clone()));
            let mut response = front.respond(request, peer, running).await;
            // A request can only follow on a body that was read. hyper reads a short rest by itself.
            if unread.get() > SHORT_REST && response.status() != StatusCode::SWITCHING_PROTOCOLS {
                let close = HeaderValue::from_static("close");
                response.headers_mut().insert(CONNECTION, close);
            }
            Ok::<_, Infallible>(response)
        }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE)
        // A client that closes its sending half still waits for the response.
        .half_close(true)
        .serve_connection(TokioIo::new(socket), service)
        .with_upgrades();
    let mut served = pin!(served);
    loop {
        tokio::select! {
            served = served.as_mut() => {
                served?;
                return Ok(unread.get() > 0);
            }
            close = ending.next() => match close {
                Close::Gracefully => served.as_mut().graceful_shutdown(),
                Close::AtOnce => return Ok(false),
            },
        }
    }
}

async fn serve_metrics(front: Arc<Front>, listener: TcpListener) {
    loop {
        let (stream, _) = accept(&listener).await;
        let front = Arc::clone(&front);
        tokio::spawn(async move {
            let service = service_fn(|request| {
                let response = metrics(&front, &request).map(Full::new);
                async move { Ok::<_, Infallible>(response) }
            });
            let mut builder = auto::Builder::new(TokioExecutor::new());
            builder
                .http1()
                .timer(TokioTimer::new())
                .header_read_timeout(IDLE)
                .half_close(true);
            builder
                .http2()
                .timer(TokioTimer::new())
                .keep_alive_interval(http2::PING)
                .keep_alive_timeout(http2::PING);
            let served = builder.serve_connection(TokioIo::new(stream), service);
            if let Err(error) = served.await {
                debug!(error = &*error, "connection for metrics ended");
            }
        });
    }
}

fn metrics(front: &Front, request: &Request<Incoming>) -> Response<Bytes> {
    let response = |status, text: String, content_type: &'static str| {
        let mut response = Response::new(Bytes::from(text));
        *response.status_mut() = status;
        let content_type = HeaderValue::from_static(content_type);
        response.headers_mut().insert(CONTENT_TYPE, content_type);
        response
    };
    let plain = "text/plain; charset=utf-8";
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return response(StatusCode::METHOD_NOT_ALLOWED, String::new(), plain);
    }
    match request.uri().path() {
        "/metrics" => {
            let text = front.numbers().text(&front.layer().counts());
            let prometheus = "text/plain; version=0.0.4; charset=utf-8";
            response(StatusCode::OK, text, prometheus)
        }
        "/healthz" => front.health(),
        _ => response(StatusCode::NOT_FOUND, String::new(), plain),
    }
}
