//! A client for a server that chooses the version of HTTP by ALPN.

use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response, Uri};
use http_body::Body;
use hyper::body::Incoming;
use tokio::io::AsyncWriteExt as _;
use tokio::sync::Mutex;
use tokio::time::timeout;

use super::{Bodies, Failure, GiveUp, Http1, Http2};
use crate::BoxError;
use crate::connect::Connector;
use crate::places::Place;
use crate::tls::Protocols;

/// Sends requests over the version of HTTP that the server chose last.
#[derive(Debug)]
pub(crate) struct Negotiated<B> {
    http1: Http1<B>,
    http2: Http2<B>,
    connector: Connector,
    server: Uri,
    /// `None` until a connection has told.
    speaks_http2: Mutex<Option<bool>>,
}

impl<B> Negotiated<B>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    pub(super) fn new(http1: Http1<B>, http2: Http2<B>, connector: Connector, server: Uri) -> Self {
        Self {
            http1,
            http2,
            connector,
            server,
            speaks_http2: Mutex::default(),
        }
    }

    /// Sends a request. A server that no longer speaks HTTP/2 is asked once more what it speaks.
    pub(super) async fn send(
        &self,
        head: Request<()>,
        bodies: Bodies<'_, B>,
        mut give_up: GiveUp<'_>,
        place: &Arc<Place>,
    ) -> Result<Response<Incoming>, Failure> {
        if self.speaks_http2().await.map_err(Failure::Unreached)? {
            match self.http2.send(&head, bodies, give_up.as_mut()).await {
                Err(Failure::Unreached(error)) => {
                    *self.speaks_http2.lock().await = None;
                    let asked = self.speaks_http2().await;
                    if asked.map_err(Failure::Unreached)? {
                        return Err(Failure::Unreached(error));
                    }
                }
                sent => return sent,
            }
        }
        self.http1.send(head, bodies, give_up, place).await
    }

    /// Whether the server chooses HTTP/2. The first request opens a connection to ask, for which all
    /// others wait.
    async fn speaks_http2(&self) -> Result<bool, BoxError> {
        // Without the timeout, a request would wait for all attempts of the requests before it.
        let known = timeout(self.connector.timeout, self.speaks_http2.lock());
        let mut known = known.await?;
        if let Some(known) = *known {
            return Ok(known);
        }
        let asked = self.connector.connect(&self.server, Protocols::Both);
        let mut asked = asked.await?;
        let speaks_http2 = asked.chose_http2();
        *known = Some(speaks_http2);
        // The connection has done its work. Nothing waits for the server to close it.
        let _ = asked.shutdown().await;
        Ok(speaks_http2)
    }
}
