//! The HTTP client for the upstream, which keeps connections open.

use std::error::Error;
use std::time::Duration;

use http::header::HOST;
use http::{Request, Response, Uri, Version};
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper_util::client::legacy;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::sync::Mutex;
use tokio::time::timeout;
use tracing::debug;

use crate::BoxError;
use crate::bodies::Outgoing;
use crate::connect::Connector;
use crate::options::Settings;

/// How long an idle connection is kept. Servers close idle connections after 2 s (gunicorn)
/// or 5 s (Node.js). If a request is sent while the server closes, nobody knows whether the
/// server has seen the request. The sidecar therefore gives up a connection first.
const IDLE: Duration = Duration::from_secs(1);
/// All requests share one HTTP/2 connection, so a dead connection has to be noticed soon.
const PING: Duration = Duration::from_secs(10);

/// Why there is no response.
#[derive(Debug)]
pub(crate) enum Failure {
    /// No byte of the request was sent.
    Unreached(BoxError),
    /// The upstream may have executed the request.
    Broken(BoxError),
    /// The client broke off before the end of its request.
    Client(BoxError),
}

#[derive(Debug)]
pub(crate) enum Client {
    Http1(legacy::Client<Connector, Outgoing>),
    Http2(Http2),
}

impl Client {
    pub(crate) fn new(settings: &Settings) -> Self {
        let connector = Connector {
            timeout: settings.connect_timeout,
        };
        if settings.upstream_http2 {
            return Self::Http2(Http2 {
                connector,
                upstream: settings.upstream.clone(),
                connection: Mutex::new(None),
            });
        }
        let client = legacy::Client::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .build(connector);
        Self::Http1(client)
    }

    /// Sends a request once. A second connection is used only if the first one closed before
    /// any byte of the request was written to it.
    pub(crate) async fn send(
        &self,
        mut request: Request<Outgoing>,
    ) -> Result<Response<Incoming>, Failure> {
        match self {
            Self::Http1(client) => {
                *request.version_mut() = Version::HTTP_11;
                client.request(request).await.map_err(|error| {
                    if error.is_connect() {
                        Failure::Unreached(error.into())
                    } else if is_client_error(&error) {
                        Failure::Client(error.into())
                    } else {
                        Failure::Broken(error.into())
                    }
                })
            }
            Self::Http2(client) => {
                *request.version_mut() = Version::HTTP_2;
                client.send(request).await
            }
        }
    }
}

fn is_client_error(error: &legacy::Error) -> bool {
    error
        .source()
        .and_then(|cause| cause.downcast_ref::<hyper::Error>())
        .is_some_and(hyper::Error::is_user)
}

/// One connection for all requests. hyper-util's client would open a connection for each
/// `:authority`, and clients choose that value.
#[derive(Debug)]
pub(crate) struct Http2 {
    connector: Connector,
    upstream: Uri,
    connection: Mutex<Option<http2::SendRequest<Outgoing>>>,
}

impl Http2 {
    async fn send(&self, mut request: Request<Outgoing>) -> Result<Response<Incoming>, Failure> {
        let host = request.headers_mut().remove(HOST);
        let authority = host
            .and_then(|host| host.as_bytes().try_into().ok())
            .or_else(|| self.upstream.authority().cloned());
        let mut parts = request.uri().clone().into_parts();
        parts.authority = authority;
        if let Ok(uri) = Uri::from_parts(parts) {
            *request.uri_mut() = uri;
        }
        for last in [false, true] {
            let mut connection = self.connection().await.map_err(Failure::Unreached)?;
            let mut error = match connection.try_send_request(request).await {
                Ok(response) => return Ok(response),
                Err(error) => error,
            };
            match error.take_message() {
                Some(unsent) if !last => request = unsent,
                Some(_) => return Err(Failure::Unreached(error.into_error().into())),
                None => {
                    let error = error.into_error();
                    return Err(if error.is_user() {
                        Failure::Client(error.into())
                    } else {
                        Failure::Broken(error.into())
                    });
                }
            }
        }
        unreachable!("the last attempt returns")
    }

    async fn connection(&self) -> Result<http2::SendRequest<Outgoing>, BoxError> {
        // The lock is held while another request connects. Without the timeout, a request would
        // wait for all attempts of the requests before it, one after the other.
        let shared = timeout(self.connector.timeout, self.connection.lock());
        let mut shared = shared.await?;
        if let Some(connection) = &*shared
            && !connection.is_closed()
        {
            return Ok(connection.clone());
        }
        let stream = self.connector.connect(self.upstream.clone()).await?;
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(PING)
            .keep_alive_timeout(PING)
            .keep_alive_while_idle(true)
            .handshake(stream)
            .await?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                debug!(
                    error = &error as &dyn Error,
                    "connection to the upstream ended"
                );
            }
        });
        *shared = Some(sender.clone());
        Ok(sender)
    }
}
