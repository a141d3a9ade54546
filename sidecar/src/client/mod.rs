//! The HTTP client for the upstream.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response, StatusCode};
use hyper::body::Incoming;

pub(crate) use self::http1::Http1;
use self::http2::Http2;
pub(crate) use self::http2::Stream;
use crate::BoxError;
use crate::connect::Connector;
use crate::options::Settings;
use crate::places::Place;
use crate::upload::Outgoing;

mod http1;
mod http2;
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

/// Makes the same request anew for each attempt to send it. `None` if that is no longer possible.
pub(crate) type Again<'a, B> = &'a mut (dyn FnMut() -> Option<Request<B>> + Send);
/// Completes when nobody waits for the response any longer.
pub(crate) type GiveUp<'a> = Pin<&'a mut (dyn Future<Output = ()> + Send)>;

#[derive(Debug)]
pub(crate) enum Client {
    Http1(Http1<Outgoing>),
    Http2(Http2),
}

impl Client {
    pub(crate) fn new(settings: &Settings) -> Self {
        let connector = Connector {
            timeout: settings.connect_timeout,
        };
        let upstream = settings.upstream.clone();
        if settings.upstream_http2 {
            Self::Http2(Http2::new(connector, upstream))
        } else {
            Self::Http1(Http1::new(
                connector,
                upstream,
                settings.upstream_keep_alive,
            ))
        }
    }

    /// Sends a request, which has a place, so that it is executed once. It is sent again only if the upstream has
    /// certainly not executed it, or if its method is safe (RFC 9110, section 9.2.1).
    pub(crate) async fn send(
        &self,
        again: Again<'_, Outgoing>,
        give_up: GiveUp<'_>,
        place: &Arc<Place>,
    ) -> Result<Response<Incoming>, Failure> {
        match self {
            Self::Http1(client) => client.send(again, give_up, place).await,
            Self::Http2(client) => client.send(again, give_up).await,
        }
    }
}
