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
use crate::client::{Bodies, Failure, GiveUp, MAX_FIELDS, MAX_HEAD};
use crate::connect::Connector;
use crate::framing::frame;
use crate::places::Place;
use crate::tls::{Protocols, refused_handshake};
use crate::transport::Unread;

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
    unread: Unread,
}

impl<B> Connection<B> {
    /// Whether the next request may be sent on this connection.
    ///
    /// hyper learns later than the system that the server has closed the connection, or has sent
    /// something that nobody asked for, which hyper would take for the response to the request.
    fn is_usable(&self) -> bool {
        self.sender.is_ready() && self.unread.is_quiet()
    }
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
        head: Request<()>,
        bodies: Bodies<'_, B>,
        mut give_up: GiveUp<'_>,
        place: &Arc<Place>,
    ) -> Result<Response<Incoming>, Failure> {
        let Some(body) = bodies() else {
            return Err(Failure::Unreached("the request can't be sent again".into()));
        };
        let is_safe = head.method().is_safe();
        let mut request = head.map(|()| body);
        let mut may_reuse = true;
        loop {
            self.0.complete(&mut request);
            let kept = may_reuse.then(|| self.0.take()).flatten();
            let is_kept = kept.is_some();
            let mut connection = match kept {
                Some(connection) => connection,
                // The box keeps the future of a request that finds a connection small.
                None => Box::pin(self.0.connect())
                    .await
                    .map_err(Failure::Unreached)?,
            };
            // Only a safe request on a kept connection may be sent again after all of it was written;
            // so only its head is copied.
            let same = (is_safe && is_kept).then(|| head_of(&request));
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
                    self.keep(connection, place);
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
            if is_silent
                && let Some(head) = same
                && let Some(body) = bodies()
            {
                request = head.map(|()| body);
                may_reuse = false;
                continue;
            }
            if !is_kept && refused_handshake(&error) {
                return Err(Failure::Unreached(error.into()));
            }
            return Err(match connection.status_line.status() {
                Some(status) => Failure::Unreadable(status, error.into()),
                None => Failure::Broken(error.into()),
            });
        }
    }

    /// Keeps a connection for the next request, once its response has been read. It has the place of
    /// its request until then: otherwise the next request could open another one.
    fn keep(&self, mut connection: Connection<B>, place: &Arc<Place>) {
        if self.0.keep_alive.is_zero() {
            return;
        }
        // A short response comes with its head. hyper is ready once it has read a response to its end,
        // so there is nothing to wait for, and no task is needed.
        if connection.sender.is_ready() {
            return self.0.put(connection);
        }
        let (pool, place) = (Arc::downgrade(&self.0), Arc::clone(place));
        tokio::spawn(async move {
            if connection.sender.ready().await.is_ok()
                && let Some(pool) = pool.upgrade()
            {
                pool.put(connection);
            }
            drop(place);
        });
    }
}

/// A copy of the head of a request, without its extensions.
fn head_of<B>(request: &Request<B>) -> Request<()> {
    let mut head = Request::new(());
    head.method_mut().clone_from(request.method());
    head.uri_mut().clone_from(request.uri());
    head.headers_mut().clone_from(request.headers());
    head
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
        let transport = self
            .connector
            .connect(&self.server, Protocols::Http1)
            .await?;
        let unread = transport.unread();
        let socket = Watched::new(transport, status_line.clone());
        let (sender, connection) = http1::Builder::new()
            .max_headers(MAX_FIELDS)
            .max_header_size(MAX_HEAD as usize)
            // RFC 9112, section 5.1 and 5.2: a proxy removes such white space, and replaces such
            // line ends by spaces.
            .allow_spaces_after_header_name_in_responses(true)
            .allow_obsolete_multiline_headers_in_responses(true)
            .handshake(TokioIo::new(socket))
            .await?;
        tokio::spawn(async move {
            if let Err(error) = connection.with_upgrades().await {
                debug!(error = &error as &dyn Error, "a connection ended");
            }
        });
        Ok(Connection {
            sender,
            status_line,
            unread,
        })
    }

    /// The connection that was used last, if it is still open and not idle for too long.
    fn take(&self) -> Option<Connection<B>> {
        let mut idle = self.idle();
        while let Some((since, connection)) = idle.all.pop() {
            if since.elapsed() < self.keep_alive && connection.is_usable() {
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
            since.elapsed() < self.keep_alive && connection.is_usable()
        });
        idle.are_swept = !idle.all.is_empty();
        let (oldest, _) = idle.all.first()?;
        oldest.checked_add(self.keep_alive)
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

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;
    use std::pin::pin;
    use std::sync::mpsc::{Receiver, Sender, channel};
    use std::thread;

    use http::Method;
    use http_body_util::{BodyExt as _, Empty};
    use tokio::task::yield_now;
    use tower_idempotency::for_sidecar::Limits;

    use super::*;
    use crate::places::{Caller, Places};

    /// Starts a server that responds to one request on each connection. Then it writes the next of
    /// `texts`, or closes the connection if that is empty, and says that this is done.
    fn server(texts: Receiver<&'static str>, done: Sender<()>) -> Uri {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = format!("http://{}", listener.local_addr().unwrap());
        thread::spawn(move || {
            loop {
                let (mut stream, _) = listener.accept().unwrap();
                let _ = stream.read(&mut [0; 1024]).unwrap();
                let own = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nown";
                stream.write_all(own).unwrap();
                let Ok(text) = texts.recv() else { return };
                stream.write_all(text.as_bytes()).unwrap();
                if text.is_empty() {
                    drop(stream);
                    done.send(()).unwrap();
                } else {
                    done.send(()).unwrap();
                    // The client closes the connection, or sends another request.
                    let _ = stream.read(&mut [0; 1024]);
                }
            }
        });
        server.parse().unwrap()
    }

    async fn post(client: &Http1<Empty<Bytes>>) -> Bytes {
        let mut head = Request::new(());
        *head.method_mut() = Method::POST;
        let mut bodies = || Some(Empty::new());
        let places = Places::new(&Limits::default(), Duration::ZERO);
        let place = places.take(Caller::Of([0; 32])).await.unwrap();
        let forever = pin!(pending());
        let response = client
            .send(head, &mut bodies, forever, &Arc::new(place))
            .await;
        let response = response.unwrap();
        response.into_body().collect().await.unwrap().to_bytes()
    }

    /// The runtime of this test has one thread, which does not learn what happens to a connection
    /// while the test waits for the server.
    #[tokio::test]
    async fn no_request_is_sent_on_a_connection_that_has_ended_or_has_something_to_read() {
        for text in ["", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nstale"] {
            let (write, texts) = channel();
            let (done, written) = channel();
            let connector = Connector::new("upstream", Duration::from_secs(5), None);
            let server = server(texts, done);
            let client = Http1::new(connector, server, Duration::from_mins(1));
            for _ in 0..10 {
                assert_eq!(post(&client).await, "own", "{text}");
                while client.0.idle().all.is_empty() {
                    yield_now().await;
                }
                write.send(text).unwrap();
                written.recv().unwrap();
            }
        }
    }
}
