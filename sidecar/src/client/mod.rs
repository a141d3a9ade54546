//! The HTTP client for the upstream and the authorizer.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode, Uri};
use http_body::Body;
use hyper::body::Incoming;

use self::http1::Http1;
use self::http2::Http2;
pub(crate) use self::http2::Stream;
use self::negotiated::Negotiated;
use crate::BoxError;
use crate::connect::Connector;
use crate::places::Place;

mod http1;
mod http2;
mod negotiated;
mod status_line;

/// How many fields a response may have over HTTP/1.1.
pub(crate) const MAX_FIELDS: usize = 256;
/// How many bytes the fields of a response may have together.
pub(crate) const MAX_HEAD: u32 = 256 << 10;

/// How long an idle connection is kept. Servers close idle connections after 2 s (gunicorn)
/// or 5 s (Node.js). If a request is sent while the server closes, nobody knows whether the
/// server has seen the request. The sidecar therefore gives up a connection first.
pub(crate) const KEEP_ALIVE: Duration = Duration::from_secs(1);

/// Why there is no response.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The upstream has certainly not executed the request, and will not.
    Unreached(BoxError),
    /// The upstream may have executed the request.
    Broken(BoxError),
    /// The upstream responded with this status, but the rest of its response can't be read.
    Unreadable(StatusCode, BoxError),
    /// The upstream has not responded in time.
    TimedOut,
    /// The client broke off before the end of its request.
    Client(BoxError),
}

impl Failure {
    pub(crate) fn into_error(self) -> BoxError {
        match self {
            Self::Unreached(error)
            | Self::Broken(error)
            | Self::Unreadable(_, error)
            | Self::Client(error) => error,
            Self::TimedOut => "no response in time".into(),
        }
    }
}

/// Makes the body of a request anew for each attempt to send it. `None` if that is no longer possible.
pub(crate) type Bodies<'a, B> = &'a mut (dyn FnMut() -> Option<B> + Send);
/// Completes when nobody waits for the response any longer.
pub(crate) type GiveUp<'a> = Pin<&'a mut (dyn Future<Output = ()> + Send)>;

#[derive(Debug)]
pub(crate) enum Client<B> {
    Http1(Http1<B>),
    Http2(Http2<B>),
    Negotiated(Negotiated<B>),
}

impl<B> Client<B>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    /// A client for one server. Without `http2` a server of TLS chooses the version of HTTP, and any other
    /// gets HTTP/1.1.
    pub(crate) fn new(
        connector: Connector,
        server: &Uri,
        http2: Option<bool>,
        keep_alive: Duration,
    ) -> Self {
        let of_http1 =
            |connector: &Connector| Http1::new(connector.clone(), server.clone(), keep_alive);
        let of_http2 = |connector: &Connector| Http2::new(connector.clone(), server.clone());
        match http2 {
            Some(true) => Self::Http2(of_http2(&connector)),
            None if connector.is_tls() => {
                let (http1, http2) = (of_http1(&connector), of_http2(&connector));
                Self::Negotiated(Negotiated::new(http1, http2, connector, server.clone()))
            }
            Some(false) | None => Self::Http1(of_http1(&connector)),
        }
    }

    /// Sends a request, which has a place, so that it is executed once. It is sent again only if the upstream has
    /// certainly not executed it, or if its method is safe (RFC 9110, section 9.2.1).
    pub(crate) async fn send(
        &self,
        head: Request<()>,
        bodies: Bodies<'_, B>,
        give_up: GiveUp<'_>,
        place: &Arc<Place>,
    ) -> Result<Response<Incoming>, Failure> {
        // The boxes keep the future of a request over HTTP/1.1 small, which every request allocates and
        // moves.
        match self {
            Self::Http1(client) => client.send(head, bodies, give_up, place).await,
            Self::Http2(client) => Box::pin(client.send(&head, bodies, give_up)).await,
            Self::Negotiated(client) => Box::pin(client.send(head, bodies, give_up, place)).await,
        }
    }
}
