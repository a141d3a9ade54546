//! An HTTP/1.1 client for one server, which keeps idle connections open for a while.

use std::error::Error;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, HOST};
use http::{HeaderValue, Request, Response, Uri, Version, uri};
use http_body::Body;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::time::{Instant, sleep_until};
use tracing::debug;

use crate::BoxError;
use crate::client::status_line::{StatusLine, Watched};
use crate::client::{Again, Failure, GiveUp, MAX_FIELDS, MAX_HEAD};
use crate::connect::Connector;
use crate::framing::frame;

/// Keeps the connections of one server.
pub(crate) struct Http1<B>(Arc<Pool<B>>);

struct Pool<B> {
    connector: Connector,
    server: Uri,
    /// What `Host` is where the request has none.
    host: HeaderValue,
    /// How long an idle connection is kept. After zero no connection is used again.
    keep_alive: Duration,
    idle: Mutex<IdleConnections<B>>,
}

struct IdleConnections<B> {
    /// The connection that was used last is at the end.
    all: Vec<(Instant, Connection<B>)>,
    /// Whether a task closes connections that are idle for too long.
    are_swept: bool,
}

struct Connection<B> {
    sender: http1::SendRequest<B>,
    status_line: StatusLine,
}

impl<B> Http1<B>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    pub(crate) fn new(connector: Connector, server: Uri, keep_alive: Duration) -> Self {
        let authority = server
            .authority()
            .map_or("", |authority| authority.as_str());
        Self(Arc::new(Pool {
            connector,
            host: HeaderValue::from_str(authority).expect("an authority is visible ASCII"),
            server,
            keep_alive,
            idle: Mutex::new(IdleConnections {
                all: Vec::new(),
                are_swept: false,
            }),
        }))
    }

    /// Sends a request. It goes to another connection if no byte of it was written, and once more
    /// to a new connection if its method is safe and a kept connection ended without any byte of
    /// a response.
    pub(crate) async fn send(
        &self,
        again: Again<'_, B>,
        mut give_up: GiveUp<'_>,
    ) -> Result<Response<Incoming>, Failure> {
        let mut request = again().expect("the first attempt is possible");
        let is_safe = request.method().is_safe();
        let mut may_reuse = true;
        loop {
            self.0.complete(&mut request);
            let kept = may_reuse.then(|| self.0.take()).flatten();
            let is_kept = kept.is_some();
            let mut connection = match kept {
                Some(connection) => connection,
                None => self.0.connect().await.map_err(Failure::Unreached)?,
            };
            connection.status_line.expect();
            let response = tokio::select! {
                response = connection.sender.try_send_request(request) => response,
                () = &mut give_up => {
                    let status = connection.status_line.status();
                    let late = |status| Failure::Unreadable(status, "its head has no end".into());
                    return Err(status.map_or(Failure::TimedOut, late));
                }
            };
            let mut error = match response {
                Ok(response) => {
                    self.keep(connection);
                    return Ok(response);
                }
                Err(error) => error,
            };
            if let Some(unsent) = error.take_message() {
                if is_kept {
                    request = unsent;
                    continue;
                }
                return Err(Failure::Unreached(error.into_error().into()));
            }
            let error = error.into_error();
            let is_silent = is_kept && !connection.status_line.has_begun();
            if error.is_user() {
                return Err(Failure::Client(error.into()));
            }
            if is_safe
                && is_silent
                && let Some(same) = again()
            {
                request = same;
                may_reuse = false;
                continue;
            }
            return Err(match connection.status_line.status() {
                Some(status) => Failure::Unreadable(status, error.into()),
                None => Failure::Broken(error.into()),
            });
        }
    }

    /// Keeps a connection for the next request, once its response has been read.
    fn keep(&self, mut connection: Connection<B>) {
        if self.0.keep_alive.is_zero() {
            return;
        }
        let pool = Arc::downgrade(&self.0);
        tokio::spawn(async move {
            if connection.sender.ready().await.is_ok()
                && let Some(pool) = pool.upgrade()
            {
                pool.put(connection);
            }
        });
    }
}

impl<B> Pool<B>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    fn idle(&self) -> MutexGuard<'_, IdleConnections<B>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives a request the form that it has over HTTP/1.1 (RFC 9112, section 3.2.1).
    fn complete(&self, request: &mut Request<B>) {
        *request.version_mut() = Version::HTTP_11;
        let mut parts = uri::Parts::default();
        parts.path_and_query = request.uri().path_and_query().cloned();
        *request.uri_mut() = Uri::from_parts(parts).expect("a path and a query are a target");
        frame(request);
        let headers = request.headers_mut();
        headers.entry(HOST).or_insert_with(|| self.host.clone());
        if self.keep_alive.is_zero() {
            // RFC 9112, section 9.6. An upgrade ends the use of HTTP by itself.
            let close = HeaderValue::from_static("close");
            headers.entry(CONNECTION).or_insert(close);
        }
    }

    async fn connect(&self) -> Result<Connection<B>, BoxError> {
        let status_line = StatusLine::default();
        let stream = Watched {
            stream: self.connector.connect(&self.server).await?,
            status_line: status_line.clone(),
        };
        let (sender, connection) = http1::Builder::new()
            .max_headers(MAX_FIELDS)
            .max_header_size(MAX_HEAD as usize)
            // RFC 9112, section 5.1 and 5.2: a proxy removes such white space, and replaces such
            // line ends by spaces.
            .allow_spaces_after_header_name_in_responses(true)
            .allow_obsolete_multiline_headers_in_responses(true)
            .handshake(TokioIo::new(stream))
            .await?;
        tokio::spawn(async move {
            if let Err(error) = connection.with_upgrades().await {
                debug!(error = &error as &dyn Error, "a connection ended");
            }
        });
        Ok(Connection {
            sender,
            status_line,
        })
    }

    /// The connection that was used last, if it is still open and not idle for too long.
    fn take(&self) -> Option<Connection<B>> {
        let mut idle = self.idle();
        while let Some((since, connection)) = idle.all.pop() {
            if since.elapsed() < self.keep_alive && connection.sender.is_ready() {
                return Some(connection);
            }
        }
        None
    }

    fn put(self: &Arc<Self>, connection: Connection<B>) {
        let mut idle = self.idle();
        idle.all.push((Instant::now(), connection));
        if !idle.are_swept {
            idle.are_swept = true;
            tokio::spawn(sweep(Arc::downgrade(self)));
        }
    }

    /// Closes the connections that are idle for too long. Returns when the next one will be.
    fn close_old(&self) -> Option<Instant> {
        let mut idle = self.idle();
        idle.all.retain(|(since, connection)| {
            since.elapsed() < self.keep_alive && connection.sender.is_ready()
        });
        idle.are_swept = !idle.all.is_empty();
        let (oldest, _) = idle.all.first()?;
        Some(*oldest + self.keep_alive)
    }
}

/// Closes connections that are idle for too long until there is none. The reference is weak, so that
/// this task ends with the client.
async fn sweep<B>(pool: Weak<Pool<B>>)
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    loop {
        let next = pool.upgrade().and_then(|pool| pool.close_old());
        match next {
            Some(next) => sleep_until(next).await,
            None => return,
        }
    }
}

impl<B> fmt::Debug for Http1<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Http1").finish_non_exhaustive()
    }
}
