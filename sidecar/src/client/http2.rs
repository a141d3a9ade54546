//! An HTTP/2 client for one server: one connection for all requests. hyper-util's client would open a
//! connection for each `:authority`, and clients choose that value.

use std::error::Error;
use std::time::Duration;

use http::header::HOST;
use http::{Request, Response, StatusCode, Uri, Version};
use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep, timeout};
use tracing::debug;

use crate::BoxError;
use crate::client::{Again, Failure, GiveUp, MAX_HEAD};
use crate::connect::Connector;
use crate::upload::Outgoing;

/// All requests share one connection, so a dead connection has to be noticed soon.
const PING: Duration = Duration::from_secs(10);
/// How many requests a connection gets. Its stream identifiers end after about a thousand million
/// (RFC 9113, section 5.1.1).
const MOST: u32 = 1 << 29;
/// The longest pause before a request that the upstream refused is sent again.
const PAUSE: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub(crate) struct Http2 {
    connector: Connector,
    upstream: Uri,
    shared: Mutex<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    sender: Option<http2::SendRequest<Outgoing>>,
    /// The number of the connection that `sender` belongs to, counted from 1.
    number: u64,
    /// How many requests were sent on it.
    requests: u32,
}

/// What became of a request that got no response.
enum Unanswered {
    /// The upstream has not processed it and will not (RFC 9113, sections 6.8 and 8.7).
    Refused(BoxError),
    Failed(Failure),
}

impl Http2 {
    pub(crate) fn new(connector: Connector, upstream: Uri) -> Self {
        Self {
            connector,
            upstream,
            shared: Mutex::default(),
        }
    }

    /// Sends a request. If the upstream refuses it without processing it, the request goes to a
    /// new connection, again and again for as long as connecting may take.
    pub(crate) async fn send(
        &self,
        again: Again<'_, Outgoing>,
        mut give_up: GiveUp<'_>,
    ) -> Result<Response<Incoming>, Failure> {
        let until = Instant::now() + self.connector.timeout;
        let mut refused_by = None;
        let mut refusal: BoxError = "the request can't be sent again".into();
        let mut pause = Duration::ZERO;
        while let Some(mut request) = again() {
            self.complete(&mut request);
            let (number, mut sender) = self
                .connection(refused_by)
                .await
                .map_err(Failure::Unreached)?;
            let response = tokio::select! {
                response = sender.try_send_request(request) => response,
                () = &mut give_up => return Err(Failure::TimedOut),
            };
            match response.map_err(unanswered) {
                Ok(response) => return Ok(response),
                Err(Unanswered::Failed(failure)) => return Err(failure),
                Err(Unanswered::Refused(error)) => refusal = error,
            }
            refused_by = Some(number);
            if Instant::now() + pause >= until {
                break;
            }
            sleep(pause).await;
            pause = (pause * 2).clamp(Duration::from_millis(1), PAUSE);
        }
        Err(Failure::Unreached(refusal))
    }

    /// Gives a request the form that it has over HTTP/2: `:authority` instead of `Host`.
    fn complete(&self, request: &mut Request<Outgoing>) {
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

    /// The shared connection and its number: a new one if that of `refused_by` is still shared.
    async fn connection(
        &self,
        refused_by: Option<u64>,
    ) -> Result<(u64, http2::SendRequest<Outgoing>), BoxError> {
        // The lock is held while another request connects. Without the timeout, a request would
        // wait for all attempts of the requests before it, one after the other.
        let shared = timeout(self.connector.timeout, self.shared.lock());
        let mut shared = shared.await?;
        if let Some(sender) = shared.sender.clone()
            && !sender.is_closed()
            && refused_by != Some(shared.number)
            && shared.requests < MOST
        {
            shared.requests += 1;
            return Ok((shared.number, sender));
        }
        let stream = self.connector.connect(&self.upstream).await?;
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(PING)
            .keep_alive_timeout(PING)
            .keep_alive_while_idle(true)
            .max_header_list_size(MAX_HEAD)
            .handshake(TokioIo::new(stream))
            .await?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                debug!(
                    error = &error as &dyn Error,
                    "connection to the upstream ended"
                );
            }
        });
        *shared = Shared {
            sender: Some(sender.clone()),
            number: shared.number + 1,
            requests: 1,
        };
        Ok((shared.number, sender))
    }
}

fn unanswered(mut error: TrySendError<Request<Outgoing>>) -> Unanswered {
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
