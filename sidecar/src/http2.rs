//! Connections of clients over HTTP/2.
//!
//! The sidecar uses h2 itself: hyper's server sends no `100 Continue` over HTTP/2, sends the body of
//! a response to HEAD, and takes the body of a request for whole that its client resets with `NO_ERROR`.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::pin;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use h2::server::{Builder, SendResponse};
use h2::{Ping, PingPong, Reason, RecvStream, SendStream};
use http::header::{CONTENT_LENGTH, DATE, EXPECT};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body::Body;
use http_body_util::BodyExt as _;
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};
use tower_idempotency::for_sidecar::Limits;
use tracing::debug;

use crate::BoxError;
use crate::ending::{Close, Ending};
use crate::received::ReceivedBody;
use crate::server::Site;
use crate::socket::Socket;

/// How many requests of one connection run at the same time.
const MAX_STREAMS: u32 = 200;
/// How many bytes of bodies a client may send before they are read: for a request, and for all
/// requests of a connection.
const WINDOW: u32 = 1 << 20;
/// How many bytes of a response wait for the client to read them.
const MAX_UNSENT: usize = 400 << 10;
/// How often a connection is pinged, so that a vanished client is noticed.
const PING: Duration = Duration::from_secs(20);

/// Serves a connection until it ends.
pub(crate) async fn serve(
    site: &Site,
    limits: &Limits,
    socket: Socket,
    peer: SocketAddr,
    ending: &mut Ending,
) -> Result<(), h2::Error> {
    let mut builder = Builder::new();
    builder
        .max_concurrent_streams(MAX_STREAMS)
        .initial_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .max_header_list_size(u32::try_from(limits.max_head_bytes).unwrap_or(u32::MAX))
        .max_send_buffer_size(MAX_UNSENT);
    let mut connection = tokio::select! {
        connection = builder.handshake(socket) => connection?,
        _ = ending.next() => return Ok(()),
    };
    let pings = connection.ping_pong().expect("nobody has taken it");
    let mut vanished = pin!(vanished(pings));
    loop {
        tokio::select! {
            request = connection.accept() => {
                // h2 has sent GOAWAY before it returns an error.
                let Some(request) = request else { return Ok(()) };
                let (request, response) = request?;
                let running = ending.activity().begin();
                tokio::spawn(exchange(site.clone(), request, response, peer, running));
            }
            close = ending.next() => match close {
                Close::Gracefully => connection.graceful_shutdown(),
                Close::AtOnce => return Ok(()),
            },
            () = &mut vanished => return Ok(()),
        }
    }
}

/// Completes when a ping has no answer.
async fn vanished(mut pings: PingPong) {
    loop {
        sleep(PING).await;
        let pong = timeout(PING, pings.ping(Ping::opaque())).await;
        if !matches!(pong, Ok(Ok(_))) {
            return;
        }
    }
}

/// Responds to one request. The response is given up when the client resets the stream, or when the
/// connection ends: a protected operation goes on without its client (G4).
async fn exchange<G>(
    site: Site,
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    peer: SocketAddr,
    running: G,
) {
    let is_head = request.method() == Method::HEAD;
    let mut waits = expects_continue(request.headers()) && !request.body().is_end_stream();
    let length = length(request.headers());
    let (expected, mut polled) = oneshot::channel();
    let request = request.map(|body| ReceivedBody::http2(body, length, waits.then_some(expected)));
    let mut responding = pin!(site.respond(request, peer, running));
    let response = loop {
        tokio::select! {
            response = &mut responding => break response,
            polled = &mut polled, if waits => {
                waits = false;
                if polled.is_ok() {
                    let mut go_on = Response::new(());
                    *go_on.status_mut() = StatusCode::CONTINUE;
                    // It fails if the stream has been reset, which the next turn notices.
                    let _ = respond.send_informational(go_on);
                }
            }
            _ = poll_fn(|cx| respond.poll_reset(cx)) => return,
        }
    };
    if let Err(error) = send(respond, response, is_head).await {
        debug!(
            error = &error as &dyn std::error::Error,
            "a response was not sent"
        );
    }
}

fn expects_continue(headers: &HeaderMap) -> bool {
    let expected = headers.get(EXPECT);
    expected.is_some_and(|expected| expected.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}

fn length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

async fn send<B>(
    mut respond: SendResponse<Bytes>,
    response: Response<B>,
    is_head: bool,
) -> Result<(), h2::Error>
where
    B: Body<Data = Bytes, Error = BoxError>,
{
    let (mut head, body) = response.into_parts();
    let bodiless = [StatusCode::NO_CONTENT, StatusCode::NOT_MODIFIED].contains(&head.status);
    if head.status == StatusCode::NO_CONTENT {
        head.headers.remove(CONTENT_LENGTH);
    } else if !bodiless && let Some(length) = body.size_hint().exact() {
        head.headers.entry(CONTENT_LENGTH).or_insert(length.into());
    }
    head.headers.entry(DATE).or_insert_with(|| {
        HeaderValue::try_from(httpdate::fmt_http_date(SystemTime::now()))
            .expect("a date is visible ASCII")
    });
    let ends = is_head || bodiless || body.is_end_stream();
    let mut stream = respond.send_response(Response::from_parts(head, ()), ends)?;
    if ends {
        return Ok(());
    }
    let mut body = pin!(body);
    loop {
        let frame = tokio::select! {
            frame = body.frame() => frame,
            // Otherwise a client that has left would be noticed only at the next frame.
            _ = poll_fn(|cx| stream.poll_reset(cx)) => return Ok(()),
        };
        match frame {
            None => return stream.send_data(Bytes::new(), true),
            Some(Err(error)) => {
                debug!(error = &*error, "a response broke off");
                stream.send_reset(Reason::INTERNAL_ERROR);
                return Ok(());
            }
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => {
                    let ends = body.is_end_stream();
                    if !data.is_empty() && !has_room(&mut stream).await? {
                        return Ok(());
                    }
                    stream.send_data(data, ends)?;
                    if ends {
                        return Ok(());
                    }
                }
                Err(frame) => {
                    if let Ok(trailers) = frame.into_trailers() {
                        return stream.send_trailers(trailers);
                    }
                }
            },
        }
    }
}

/// Waits until the client takes more of a response. Returns `false` if it takes nothing more.
///
/// One byte is asked for, since h2 sends a larger part piece by piece: a larger claim would keep
/// the connection's window from other streams.
async fn has_room(stream: &mut SendStream<Bytes>) -> Result<bool, h2::Error> {
    stream.reserve_capacity(1);
    while stream.capacity() == 0 {
        match poll_fn(|cx| stream.poll_capacity(cx)).await {
            Some(room) => room?,
            None => return Ok(false),
        };
    }
    Ok(true)
}
