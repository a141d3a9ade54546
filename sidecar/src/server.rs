//! Connections of clients: the sidecar accepts, serves and closes them.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};
use tracing::{debug, info, warn};

use crate::front::Front;

/// How long the head of a request may take, and how long an idle connection is kept. Load
/// balancers close idle connections after a minute. Since this is longer, the load balancer
/// closes first, and never sends a request on a connection that the sidecar is closing.
pub(crate) const IDLE: Duration = Duration::from_secs(75);
/// How often an HTTP/2 connection is pinged, so that a vanished client is noticed.
const PING: Duration = Duration::from_secs(20);
/// How long the sidecar waits after it ran out of file descriptors.
const PAUSE: Duration = Duration::from_millis(100);

/// What the tasks of all connections are to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Serve,
    /// Finish the requests that run, and take no new ones.
    Drain,
    End,
}

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

fn builder() -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(PING)
        .keep_alive_timeout(PING);
    builder
}

async fn connection(
    front: Arc<Front>,
    stream: TcpStream,
    peer: SocketAddr,
    mut phase: watch::Receiver<Phase>,
) {
    let _counted = front.numbers().connection();
    // hyper writes a response in large pieces, so Nagle's algorithm could only delay the last one.
    let _ = stream.set_nodelay(true);
    let activity = Activity::new();
    let service = service_fn(|request| {
        let front = Arc::clone(&front);
        let running = activity.begin();
        async move { Ok::<_, Infallible>(front.respond(request, peer, running).await) }
    });
    let builder = builder();
    let mut served = pin!(builder.serve_connection_with_upgrades(TokioIo::new(stream), service));
    let mut closing = false;
    loop {
        // `idle_at` is computed anew in each turn: a request that began meanwhile moves it.
        let idle_at = activity.idle_since().unwrap_or_else(Instant::now) + IDLE;
        tokio::select! {
            ended = served.as_mut() => {
                if let Err(error) = ended {
                    debug!(%peer, error = &*error, "connection ended");
                }
                return;
            }
            changed = phase.changed() => {
                if changed.is_err() || *phase.borrow() == Phase::End {
                    return;
                }
                closing = true;
                served.as_mut().graceful_shutdown();
            }
            () = sleep_until(idle_at) => {
                if activity.idle_since().is_some_and(|since| since.elapsed() >= IDLE) {
                    // The client was asked to close the connection and is still there.
                    if closing {
                        return;
                    }
                    closing = true;
                    activity.touch();
                    served.as_mut().graceful_shutdown();
                }
            }
        }
    }
}

/// How many requests run on a connection, and since when that number holds.
///
/// Both change under one lock. Apart from each other, the timer could close a connection as idle
/// whose request has just begun.
#[derive(Clone, Debug)]
struct Activity(Arc<Mutex<(usize, Instant)>>);

impl Activity {
    fn new() -> Self {
        Self(Arc::new(Mutex::new((0, Instant::now()))))
    }

    fn begin(&self) -> Running {
        self.change(|running| running + 1);
        Running(self.clone())
    }

    fn touch(&self) {
        self.change(|running| running);
    }

    /// `None` while a request runs.
    fn idle_since(&self) -> Option<Instant> {
        let (running, since) = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        (running == 0).then_some(since)
    }

    fn change(&self, to: impl FnOnce(usize) -> usize) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *state = (to(state.0), Instant::now());
    }
}

/// A request from its head to the last byte of its response.
#[derive(Debug)]
struct Running(Activity);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.change(|running| running - 1);
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
            let builder = builder();
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
