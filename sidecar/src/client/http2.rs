//! An HTTP/2 client for one server: as few connections as have room for all requests. hyper-util's
//! client would open a connection for each `:authority`, and clients choose that value.

use std::error::Error;
use std::fmt;
use std::future::{Future as _, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::header::HOST;
use http::{Request, Response, StatusCode, Uri, Version};
use http_body::Body;
use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep, timeout};
use tracing::debug;

use crate::BoxError;
use crate::client::{Bodies, Failure, GiveUp, MAX_HEAD};
use crate::connect::Connector;
use crate::tls::Protocols;

/// Many requests share one connection, so a dead connection has to be noticed soon.
const PING: Duration = Duration::from_secs(10);
/// How many requests a connection gets. Its stream identifiers end after about a thousand million
/// (RFC 9113, section 5.1.1).
const MOST: u32 = 1 << 29;
/// The longest pause before a request that the upstream refused is sent again.
const PAUSE: Duration = Duration::from_millis(100);
/// How often a new connection is asked whether the server has said how many streams it takes.
const LOOK: Duration = Duration::from_millis(1);
/// How long a connection may rest that is not the only one.
const REST: Duration = Duration::from_mins(1);

pub(crate) struct Http2<B> {
    connector: Connector,
    upstream: Uri,
    shared: Mutex<Shared<B>>,
}

struct Shared<B> {
    /// The first one that has room gets the next request.
    connections: Vec<Connection<B>>,
    /// The number of the newest connection, counted from 1.
    number: u64,
}

struct Connection<B> {
    sender: http2::SendRequest<B>,
    number: u64,
    /// How many requests were sent on it.
    requests: u32,
    /// How many requests the server takes at the same time, as it said last.
    most: Arc<AtomicUsize>,
    /// A clone for each request that runs.
    running: Arc<()>,
    used: Instant,
}

impl<B> Connection<B> {
    fn running(&self) -> usize {
        Arc::strong_count(&self.running) - 1
    }

    /// Whether the server takes another request now. A request that it does not take would wait in
    /// h2 until another one ends, whose client may be gone (G8).
    fn has_room(&self) -> bool {
        // Relaxed: a request that meets an old number waits in h2, or opens a connection too many.
        self.requests < MOST && self.running() < self.most.load(Ordering::Relaxed)
    }

    /// The sender for one request.
    fn begin(&mut self) -> Chosen<B> {
        self.requests += 1;
        self.used = Instant::now();
        Chosen {
            sender: self.sender.clone(),
            number: self.number,
            stream: Stream {
                _running: Arc::clone(&self.running),
            },
        }
    }
}

/// A connection for one request.
struct Chosen<B> {
    sender: http2::SendRequest<B>,
    number: u64,
    stream: Stream,
}

/// Counts a request on its connection until its response has ended: an extension of the response.
#[derive(Clone, Debug)]
pub(crate) struct Stream {
    _running: Arc<()>,
}

/// What became of a request that got no response.
enum Unanswered {
    /// The upstream has not processed it and will not (RFC 9113, sections 6.8 and 8.7).
    Refused(BoxError),
    Failed(Failure),
}

impl<B> Http2<B>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    pub(crate) fn new(connector: Connector, upstream: Uri) -> Self {
        Self {
            connector,
            upstream,
            shared: Mutex::new(Shared {
                connections: Vec::new(),
                number: 0,
            }),
        }
    }

    /// Sends a request. If the upstream refuses it without processing it, the request goes to a
    /// new connection, again and again for as long as connecting may take.
    pub(crate) async fn send(
        &self,
        head: &Request<()>,
        bodies: Bodies<'_, B>,
        mut give_up: GiveUp<'_>,
    ) -> Result<Response<Incoming>, Failure> {
        let until = Instant::now() + self.connector.timeout;
        let mut refused_by = None;
        let mut refusal: BoxError = "the request can't be sent again".into();
        let mut pause = Duration::ZERO;
        while let Some(body) = bodies() {
            let mut request = head.clone().map(|()| body);
            self.complete(&mut request);
            let chosen = self.connection(refused_by).await;
            let mut chosen = chosen.map_err(Failure::Unreached)?;
            let response = tokio::select! {
                response = chosen.sender.try_send_request(request) => response,
                () = &mut give_up => return Err(Failure::TimedOut),
            };
            match response.map_err(unanswered) {
                Ok(mut response) => {
                    response.extensions_mut().insert(chosen.stream);
                    return Ok(response);
                }
                Err(Unanswered::Failed(failure)) => return Err(failure),
                Err(Unanswered::Refused(error)) => refusal = error,
            }
            refused_by = Some(chosen.number);
            if Instant::now() + pause >= until {
                break;
            }
            sleep(pause).await;
            pause = (pause * 2).clamp(Duration::from_millis(1), PAUSE);
        }
        Err(Failure::Unreached(refusal))
    }

    /// Gives a request the form that it has over HTTP/2: `:authority` instead of `Host`.
    fn complete(&self, request: &mut Request<B>) {
        *request.version_mut() = Version::HTTP_2;
        let host = request.headers_mut().remove(HOST);
        let authority = host
            .and_then(|host| host.as_bytes().try_into().ok())
            .or_else(|| self.upstream.authority().cloned());
        let mut parts = request.uri().clone().into_parts();
        parts.authority = authority;
        if let Ok(uri) = Uri::from_parts(parts) {
            *request.uri_mut() = uri;
        }
    }

    /// A connection that has room; a new one if there is none. The connection of `refused_by` gets no
    /// more requests.
    async fn connection(&self, refused_by: Option<u64>) -> Result<Chosen<B>, BoxError> {
        // The lock is held while another request connects. Without the timeout, a request would
        // wait for all attempts of the requests before it, one after the other.
        let shared = timeout(self.connector.timeout, self.shared.lock());
        let mut shared = shared.await?;
        let mut is_first = true;
        shared.connections.retain(|own| {
            let rests = own.running() == 0 && own.used.elapsed() > REST;
            let is_kept =
                !own.sender.is_closed() && refused_by != Some(own.number) && (!rests || is_first);
            is_first &= !is_kept;
            is_kept
        });
        if let Some(own) = shared.connections.iter_mut().find(|own| own.has_room()) {
            return Ok(own.begin());
        }
        let number = shared.number + 1;
        let mut connection = self.connect(number).await?;
        let chosen = connection.begin();
        shared.number = number;
        shared.connections.push(connection);
        Ok(chosen)
    }

    async fn connect(&self, number: u64) -> Result<Connection<B>, BoxError> {
        let transport = self.connector.connect(&self.upstream, Protocols::Http2);
        let transport = transport.await?;
        if transport.is_tls() && !transport.chose_http2() {
            return Err("the server does not choose HTTP/2 by ALPN".into());
        }
        let (sender, mut connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(PING)
            .keep_alive_timeout(PING)
            .keep_alive_while_idle(true)
            .max_header_list_size(MAX_HEAD)
            // None until the server's settings say how many.
            .initial_max_send_streams(0)
            .handshake(TokioIo::new(transport))
            .await?;
        timeout(self.connector.timeout, async {
            while connection.current_max_send_streams() == 0 {
                tokio::select! {
                    ended = &mut connection => {
                        ended?;
                        return Err("the connection ended before its settings".into());
                    }
                    () = sleep(LOOK) => {}
                }
            }
            Ok::<_, BoxError>(())
        })
        .await??;
        let most = Arc::new(AtomicUsize::new(connection.current_max_send_streams()));
        let told = Arc::clone(&most);
        tokio::spawn(async move {
            let ended = poll_fn(|cx| {
                let ended = Pin::new(&mut connection).poll(cx);
                told.store(connection.current_max_send_streams(), Ordering::Relaxed);
                ended
            });
            if let Err(error) = ended.await {
                debug!(
                    error = &error as &dyn Error,
                    "connection to the upstream ended"
                );
            }
        });
        Ok(Connection {
            sender,
            number,
            requests: 0,
            most,
            running: Arc::new(()),
            used: Instant::now(),
        })
    }
}

impl<B> fmt::Debug for Http2<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Http2").finish_non_exhaustive()
    }
}

fn unanswered<B>(mut error: TrySendError<Request<B>>) -> Unanswered {
    let is_unsent = error.take_message().is_some();
    let error = error.into_error();
    if is_unsent {
        return Unanswered::Refused(error.into());
    }
    if error.is_user() {
        return Unanswered::Failed(Failure::Client(error.into()));
    }
    let cause = error.source().and_then(|cause| cause.downcast_ref());
    let failure = match cause {
        Some(cause) if is_refusal(cause) => return Unanswered::Refused(error.into()),
        // The fields of a response are malformed or too many. h2 does not tell their `:status`.
        Some(cause) if is_unreadable(cause) => Failure::Unreadable(StatusCode::OK, error.into()),
        _ => Failure::Broken(error.into()),
    };
    Unanswered::Failed(failure)
}

/// Whether the upstream says that it has not processed the request: with a GOAWAY that names an
/// earlier stream as the last one, or with `REFUSED_STREAM`.
fn is_refusal(error: &h2::Error) -> bool {
    error.is_remote() && (error.is_go_away() || error.reason() == Some(h2::Reason::REFUSED_STREAM))
}

/// Whether h2 itself ended the stream, as it does when it can't accept the head of a response.
fn is_unreadable(error: &h2::Error) -> bool {
    let reasons = [h2::Reason::PROTOCOL_ERROR, h2::Reason::REFUSED_STREAM];
    error.is_library()
        && error.is_reset()
        && error.reason().is_some_and(|own| reasons.contains(&own))
}
