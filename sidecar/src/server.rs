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
use http_body_util::{Either, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout_at};
use tracing::{debug, info, warn};

use crate::bodies::GuardedBody;
use crate::connections::Connections;
use crate::desk;
use crate::ending::{Close, Ending, Phase, Waits};
use crate::front::{Front, Peer, ServedBody, alive};
use crate::listener::Listener;
use crate::metrics::{CONTENT_TYPE as PROMETHEUS, Metrics};
use crate::observed::NOTHING;
use crate::received::{ReceivedBody, Unread};
use crate::socket::{Socket, share};
use crate::stream::Stream;
use crate::tls::Acceptor;
use crate::transport::Transport;
use crate::{BoxError, http2};

/// How much of a body hyper may discard before the next request, instead of closing the connection.
const SHORT_REST: u64 = 8 << 10;
/// How long the sidecar waits after it ran out of file descriptors.
const PAUSE: Duration = Duration::from_millis(100);

/// How long a shutdown may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Drain {
    /// For how long everything is served as before, while probes say that it ends.
    pub(crate) delay: Duration,
    /// For how long requests and operations may go on after that.
    pub(crate) timeout: Duration,
}

/// Serves until `shutdown`. Then requests and operations may finish, as `drain` says.
pub(crate) async fn serve(
    front: Arc<Front>,
    listener: Listener,
    metrics: Option<(Listener, Arc<Metrics>)>,
    drain: Drain,
    shutdown: impl Future<Output = ()>,
) {
    let limits = front.limits();
    let of_metrics = Connections::of_metrics(limits, front.numbers());
    let of_clients = Connections::of_clients(limits, front.numbers());
    let (metrics_phase, _) = watch::channel(Phase::Serve);
    let metrics = metrics.map(|(listener, metrics)| {
        let site = Site::Metrics(Arc::clone(&front), metrics);
        let phase = metrics_phase.clone();
        tokio::spawn(async move { accept_all(&site, &listener, &of_metrics, &phase).await })
    });
    let (phase, _) = watch::channel(Phase::Serve);
    let site = Site::Front(Arc::clone(&front));
    tokio::select! {
        // Otherwise a shutdown could wait for as long as connections keep arriving.
        biased;
        () = shutdown => {}
        () = accept_all(&site, &listener, &of_clients, &phase) => {}
    }
    front.begin_draining();
    if !drain.delay.is_zero() {
        info!(delay = ?drain.delay, "told to end: not ready any more");
        tokio::select! {
            () = sleep(drain.delay) => {}
            () = accept_all(&site, &listener, &of_clients, &phase) => {}
        }
    }
    drop(listener);
    let until = Instant::now() + drain.timeout;
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
        metrics_phase.send_replace(Phase::End);
    }
}

/// What is served on a listener.
#[derive(Clone)]
pub(crate) enum Site {
    /// The upstream.
    Front(Arc<Front>),
    /// `/metrics`, the probes and the desk.
    Metrics(Arc<Front>, Arc<Metrics>),
}

impl Site {
    pub(crate) fn front(&self) -> &Front {
        match self {
            Self::Front(front) | Self::Metrics(front, _) => front,
        }
    }

    /// Responds to a request. `guard` lives as long as the response's body.
    pub(crate) async fn respond<G>(
        &self,
        request: Request<ReceivedBody>,
        peer: Peer,
        guard: G,
    ) -> Response<ServedBody<G>> {
        match self {
            Self::Front(front) => front.respond(request, peer, guard).await,
            Self::Metrics(front, own) => {
                let response = match front.desk() {
                    Some(desk) if desk::is_desk(request.uri().path()) => {
                        Box::pin(desk::respond(desk, request, peer)).await
                    }
                    _ => Box::pin(metrics(front, own, &request)).await.map(Full::new),
                };
                response.map(|whole| GuardedBody::new(Either::Right(whole), (None, guard)))
            }
        }
    }
}

/// Accepts and serves connections without end.
async fn accept_all(
    site: &Site,
    listener: &Listener,
    connections: &Arc<Connections>,
    phase: &watch::Sender<Phase>,
) {
    loop {
        let place = connections.place().await;
        let (stream, peer) = accept(listener).await;
        let Some(counted) = connections.count(place, peer.ip()) else {
            debug!(%peer, "the peer has its share of the connections");
            continue;
        };
        let tls = listener.tls.clone();
        let connection = connection(site.clone(), tls, stream, peer, phase.subscribe());
        tokio::spawn(async move {
            connection.await;
            drop(counted);
        });
    }
}

async fn accept(listener: &Listener) -> (Stream, SocketAddr) {
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
    site: Site,
    tls: Option<Acceptor>,
    stream: Stream,
    peer: SocketAddr,
    phase: watch::Receiver<Phase>,
) {
    let front = site.front();
    let _counted = matches!(site, Site::Front(_)).then(|| front.numbers().connection());
    let limits = front.limits();
    let (mut socket, watched) = share(stream);
    socket.end_if_unread(limits.client_timeout, front.numbers());
    let waits = Waits {
        head: limits.head_timeout,
        keep_alive: limits.keep_alive,
    };
    let mut ending = Ending::new(phase, waits, Arc::clone(front.numbers()));
    let served = async {
        // The time of the first head counts from the beginning of the connection, and so bounds the
        // handshake too.
        let transport = tokio::select! {
            transport = secured(tls.as_ref(), socket, front) => transport?,
            _ = ending.next() => return Ok(false),
        };
        let peer = Peer {
            address: peer,
            is_tls: transport.is_tls(),
        };
        requests(&site, transport, peer, &mut ending).await
    };
    let may_send_on = tokio::select! {
        // The half of the socket that speaks HTTP is dropped with this future, before `linger` begins.
        served = served => served.unwrap_or_else(|error| {
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

/// The connection on which HTTP is spoken, after the handshake of TLS if there is one.
async fn secured(
    tls: Option<&Acceptor>,
    socket: Socket,
    front: &Front,
) -> Result<Transport, BoxError> {
    let Some(tls) = tls else {
        return Ok(Transport::plain(socket));
    };
    tls.accept(socket).await.map_err(|error| {
        front.numbers().handshakes_failed.inc();
        error.into()
    })
}

/// Serves the requests of a connection. Returns whether the client may still be sending while it has a
/// response to read.
async fn requests(
    site: &Site,
    mut transport: Transport,
    peer: Peer,
    ending: &mut Ending,
) -> Result<bool, BoxError> {
    let is_http2 = tokio::select! {
        is_http2 = transport.begins_with_http2() => is_http2?,
        _ = ending.next() => return Ok(false),
    };
    if is_http2 {
        http2::serve(site, transport, peer, ending).await?;
        return Ok(true);
    }
    let unread = Unread::default();
    let activity = ending.activity().clone();
    transport.tell(&activity);
    let service = service_fn(|request: Request<Incoming>| {
        let (site, unread) = (site.clone(), unread.clone());
        let running = activity.begin();
        async move {
            let request = request.map(|body| ReceivedBody::http1(body, unread.clone()));
            let mut response = site.respond(request, peer, running).await;
            // A request can only follow on a body that was read. hyper reads a short rest by itself.
            if unread.get() > SHORT_REST && response.status() != StatusCode::SWITCHING_PROTOCOLS {
                let close = HeaderValue::from_static("close");
                response.headers_mut().insert(CONNECTION, close);
            }
            Ok::<_, Infallible>(response)
        }
    });
    let served = http1::Builder::new()
        // `ending` limits the time of heads.
        .header_read_timeout(None)
        .max_buf_size(site.front().limits().max_head_bytes)
        // A client that closes its sending half still waits for the response.
        .half_close(true)
        .serve_connection(TokioIo::new(transport), service)
        .with_upgrades();
    let mut served = pin!(served);
    loop {
        tokio::select! {
            // `ending` counts the time from what `served` has read.
            biased;
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

async fn metrics(
    front: &Front,
    metrics: &Metrics,
    request: &Request<ReceivedBody>,
) -> Response<Bytes> {
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
        "/metrics" => response(StatusCode::OK, metrics.text(), PROMETHEUS),
        "/observed" => {
            let toml = "application/toml; charset=utf-8";
            match front.suggestion() {
                Some(suggestion) => response(StatusCode::OK, suggestion, toml),
                None => response(StatusCode::NOT_FOUND, NOTHING.to_owned(), plain),
            }
        }
        "/livez" => alive(),
        "/readyz" => front.readiness().await,
        "/healthz" => front.health(),
        _ => response(StatusCode::NOT_FOUND, String::new(), plain),
    }
}
