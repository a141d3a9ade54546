//! Request bodies that can be made of bytes.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use crate::message::body::as_bytes;
use crate::message::observed_body::ObservedBody;

/// A request body that can be made of bytes, as the layer needs it: the layer reads the
/// body of a protected request, and hands the service a body made of what it read.
///
/// Every `B: Body + From<Bytes>` is one, such as axum's `Body`. [`RequestBody`] makes
/// any other body one.
#[diagnostic::on_unimplemented(
    message = "the request body `{Self}` can't be made of bytes, so it can't go through an `IdempotencyLayer`",
    label = "the layer reads a protected request's body, and needs `{Self}: From<bytes::Bytes>`",
    note = "wrap the body outside the layer: \
            `.map_request(|request: http::Request<{Self}>| request.map(tower_idempotency::RequestBody::new))`; \
            the service inside then takes `http::Request<tower_idempotency::RequestBody<{Self}>>`"
)]
pub trait FromBytes: Body + From<Bytes> {}

// Without this attribute the compiler reports the missing `From<Bytes>`, and nothing of
// the note above.
#[diagnostic::do_not_recommend]
impl<B: Body + From<Bytes>> FromBytes for B {}

pin_project! {
    /// A request body that can be made of bytes: either the body `B` of the server,
    /// not yet read, or the bytes that the layer has read of it.
    ///
    /// The layer reads a protected request's body and hands the service a body made
    /// of those bytes, so it needs `B: From<Bytes>`. The bodies of hyper
    /// (`Incoming`), tonic and tower-http's limits can't be made of bytes. Wrap them
    /// outside the layer; the service inside then takes `Request<RequestBody<B>>`:
    ///
    /// ```
    /// use bytes::Bytes;
    /// use http::{Request, Response};
    /// use http_body_util::Full;
    /// use hyper::body::Incoming;
    /// use std::convert::Infallible;
    /// use tower::{service_fn, ServiceBuilder};
    /// use tower_idempotency::{IdempotencyLayer, MemoryStore, RequestBody, scope};
    ///
    /// let service = ServiceBuilder::new()
    ///     .map_request(|request: Request<Incoming>| request.map(RequestBody::new))
    ///     .layer(IdempotencyLayer::new(MemoryStore::new(), scope::shared())?)
    ///     .service_fn(|_request: Request<RequestBody<Incoming>>| async {
    ///         Ok::<_, Infallible>(Response::new(Full::new(Bytes::from("done"))))
    ///     });
    /// # Ok::<(), tower_idempotency::ConfigError>(())
    /// ```
    pub struct RequestBody<B> {
        #[pin]
        kind: RequestKind<B>,
    }
}

pin_project! {
    #[project = RequestKindProjection]
    enum RequestKind<B> {
        Read { data: Bytes },
        Unread { #[pin] body: B },
        Observed { body: Pin<Box<ObservedBody<RequestBody<B>>>> },
    }
}

impl<B> RequestBody<B> {
    /// A body that was not read yet.
    pub fn new(body: B) -> Self {
        Self {
            kind: RequestKind::Unread { body },
        }
    }
}

impl<B: Body> RequestBody<B> {
    /// The body of a request that the layer observes, for
    /// [`observed_body`](crate::IdempotencyLayerBuilder::observed_body).
    pub fn observed(body: ObservedBody<Self>) -> Self {
        let body = Box::pin(body);
        Self {
            kind: RequestKind::Observed { body },
        }
    }
}

impl<B> From<Bytes> for RequestBody<B> {
    fn from(data: Bytes) -> Self {
        Self {
            kind: RequestKind::Read { data },
        }
    }
}

impl<B> Default for RequestBody<B> {
    fn default() -> Self {
        Self::from(Bytes::new())
    }
}

impl<B> fmt::Debug for RequestBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestBody").finish_non_exhaustive()
    }
}

impl<B: Body> Body for RequestBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        match self.project().kind.project() {
            RequestKindProjection::Read { data } if data.is_empty() => Poll::Ready(None),
            RequestKindProjection::Read { data } => {
                Poll::Ready(Some(Ok(Frame::data(std::mem::take(data)))))
            }
            RequestKindProjection::Unread { body } => {
                let frame = ready!(body.poll_frame(cx));
                Poll::Ready(frame.map(|frame| frame.map(as_bytes)))
            }
            RequestKindProjection::Observed { body } => body.as_mut().poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            RequestKind::Read { data } => data.is_empty(),
            RequestKind::Unread { body } => body.is_end_stream(),
            RequestKind::Observed { body } => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            RequestKind::Read { data } => SizeHint::with_exact(data.len() as u64),
            RequestKind::Unread { body } => body.size_hint(),
            RequestKind::Observed { body } => body.size_hint(),
        }
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::Empty;

    use super::*;

    #[test]
    fn a_body_made_of_nothing_is_empty() {
        let body = RequestBody::<Empty<Bytes>>::default();
        assert!(body.is_end_stream());
        assert_eq!(body.size_hint().exact(), Some(0));
    }
}
