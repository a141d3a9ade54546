//! Connections of clients over HTTP/2.
//!
//! The sidecar uses h2 itself: hyper's server sends no `100 Continue` over HTTP/2, sends the body of
//! a response to HEAD, and takes the body of a request for whole that its client resets with `NO_ERROR`.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
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
use tracing::debug;

use crate::BoxError;
use crate::ending::{Close, Ending};
use crate::front::{Front, Peer};
use crate::metrics::Limit;
use crate::received::ReceivedBody;
use crate::resets::Resets;
use crate::server::Site;
use crate::transport::Transport;

/// How many bytes of bodies a client may send before they are read: for a request, and for all
/// requests of a connection.
const WINDOW: u32 = 256 << 10;
/// How many bytes of a response wait for the client to read them.
const MAX_UNSENT: usize = 64 << 10;
/// How many bytes of a response are asked for at a time. A larger claim would keep the connection's
/// window from other streams.
const PART: usize = 16 << 10;
/// How many streams a client may reset before the sidecar has looked at them, and how many resets a
/// client may cause by what it sends, before h2 ends the connection.
const MAX_EARLY_RESETS: usize = 20;
const MAX_CAUSED_RESETS: usize = 1024;
/// How often a connection is pinged, so that a vanished client is noticed.
const PING: Duration = Duration::from_secs(20);

/// Serves a connection until it ends.
pub(crate) async fn serve(
    site: &Site,
    transport: Transport,
    peer: Peer,
    ending: &mut Ending,
) -> Result<(), h2::Error> {
    let limits = site.front().limits();
    let numbers = site.front().numbers();
    let u32 = |limit| u32::try_from(limit).unwrap_or(u32::MAX);
    let mut builder = Builder::new();
    builder
        .max_concurrent_streams(u32(limits.max_streams))
        .max_pending_accept_reset_streams(MAX_EARLY_RESETS)
        .max_local_error_reset_streams(Some(MAX_CAUSED_RESETS))
        .initial_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .max_header_list_size(u32(limits.max_head_bytes))
        .max_send_buffer_size(MAX_UNSENT);
    let mut connection = tokio::select! {
        connection = builder.handshake(transport) => connection?,
        _ = ending.next() => return Ok(()),
    };
    let pings = connection.ping_pong().expect("nobody has taken it");
    let mut vanished = pin!(vanished(pings));
    let mut sent_away = false;
    let resets = Arc::new(Resets::new(limits.max_resets_per_second));
    loop {
        tokio::select! {
            request = connection.accept() => {
                // h2 has sent GOAWAY before it returns an error.
                let Some(request) = request else { return Ok(()) };
                let (request, response) = request?;
                let running = ending.activity().begin();
                let resets = Arc::clone(&resets);
                let exchange = exchange(site.clone(), request, response, peer, running);
                tokio::spawn(async move {
                    if exchange.await == End::Reset {
                        resets.add();
                    }
                });
            }
            close = ending.next() => match close {
                Close::Gracefully => connection.graceful_shutdown(),
                Close::AtOnce => return Ok(()),
            },
            () = &mut vanished => return Ok(()),
            () = resets.too_many(), if !sent_away => {
                sent_away = true;
                numbers.refused(Limit::Resets);
                connection.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
            }
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

/// How a stream has ended.
#[derive(Debug, PartialEq, Eq)]
enum End {
    /// By its response, or with its connection.
    Over,
    /// By the client, before it had the whole response.
    Reset,
}

/// Responds to one request. The response is given up when the client resets the stream, or when the
/// connection ends: a protected operation goes on without its client (G4).
async fn exchange<G>(
    site: Site,
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    peer: Peer,
    running: G,
) -> End {
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
            reset = poll_fn(|cx| respond.poll_reset(cx)) => return ended(&reset),
        }
    };
    send(respond, response, is_head, site.front())
        .await
        .unwrap_or_else(|error| {
            debug!(
                error = &error as &dyn std::error::Error,
                "a response was not sent"
            );
            End::Over
        })
}

/// An error says that the connection has ended.
fn ended(reset: &Result<Reason, h2::Error>) -> End {
    if reset.is_ok() { End::Reset } else { End::Over }
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
    front: &Front,
) -> Result<End, h2::Error>
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
        return Ok(End::Over);
    }
    let mut body = pin!(body);
    loop {
        let frame = tokio::select! {
            frame = body.frame() => frame,
            // Otherwise a client that has left would be noticed only at the next frame.
            reset = poll_fn(|cx| stream.poll_reset(cx)) => return Ok(ended(&reset)),
        };
        match frame {
            None => {
                stream.send_data(Bytes::new(), true)?;
                return Ok(End::Over);
            }
            Some(Err(error)) => {
                debug!(error = &*error, "a response broke off");
                stream.send_reset(Reason::INTERNAL_ERROR);
                return Ok(End::Over);
            }
            Some(Ok(frame)) => match frame.into_data() {
                Ok(mut data) => {
                    let ends = body.is_end_stream();
                    if data.is_empty() {
                        stream.send_data(Bytes::new(), ends)?;
                    }
                    while !data.is_empty() {
                        let room = room(&mut stream, data.len());
                        let Ok(room) = timeout(front.limits().client_timeout, room).await else {
                            front.numbers().refused(Limit::Client);
                            stream.send_reset(Reason::CANCEL);
                            return Ok(End::Over);
                        };
                        let Some(room) = room? else {
                            return Ok(End::Reset);
                        };
                        let part = data.split_to(room.min(data.len()));
                        stream.send_data(part, ends && data.is_empty())?;
                    }
                    if ends {
                        return Ok(End::Over);
                    }
                }
                Err(frame) => {
                    if let Ok(trailers) = frame.into_trailers() {
                        stream.send_trailers(trailers)?;
                        return Ok(End::Over);
                    }
                }
            },
        }
    }
}

/// Waits until the client takes more of a response, and returns how many bytes. `None` if the client
/// takes nothing more.
async fn room(stream: &mut SendStream<Bytes>, length: usize) -> Result<Option<usize>, h2::Error> {
    stream.reserve_capacity(length.min(PART));
    while stream.capacity() == 0 {
        match poll_fn(|cx| stream.poll_capacity(cx)).await {
            Some(room) => room?,
            None => return Ok(None),
        };
    }
    Ok(Some(stream.capacity()))
}
