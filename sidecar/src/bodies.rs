//! The bodies of responses, frame by frame: none of them is buffered here.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use pin_project_lite::pin_project;
use tracing::warn;

use crate::BoxError;
use crate::client::Stream;
use crate::forwarded::LayerHeaders;
use crate::metrics::{Limit, Numbers};
use crate::patience::Patience;
use crate::places::Place;
use crate::upload::Upload;

fn in_trailers(mut frame: Frame<Bytes>, change: impl FnOnce(&mut HeaderMap)) -> Frame<Bytes> {
    if let Some(trailers) = frame.trailers_mut() {
        change(trailers);
    }
    frame
}

/// For how long nothing may come of a response, and whose pause counts.
#[derive(Debug)]
pub(crate) enum Stall {
    /// The upstream's. The layer reads the body of a protected operation to its end even when the
    /// client has left, so nobody else would give up on an upstream that stalls.
    Upstream(Patience),
    /// That of both sides: while the client sends, the upstream may have nothing to say.
    Both(Patience, Upload),
}

impl Stall {
    fn poll_end(&mut self, cx: &mut Context<'_>, numbers: &Numbers) -> Poll<()> {
        match self {
            Self::Upstream(patience) => {
                ready!(patience.poll_end(cx));
                numbers.timed_out.inc();
                warn!("the upstream's response stalled");
            }
            Self::Both(patience, upload) => {
                ready!(patience.poll_end(cx));
                while upload.has_moved() {
                    ready!(patience.poll_end(cx));
                }
                numbers.refused(Limit::UnprotectedIdle);
            }
        }
        Poll::Ready(())
    }
}

pin_project! {
    /// The body of a response: the upstream's, or one that the sidecar wrote.
    #[project = IncomingProjection]
    #[derive(Debug)]
    pub(crate) enum ForwardedBody {
        Upstream {
            #[pin]
            body: Incoming,
            layer_headers: LayerHeaders,
            stall: Option<Stall>,
            numbers: Arc<Numbers>,
            // Kept until the response has ended.
            _place: Arc<Place>,
            _stream: Option<Stream>,
            // Whether the upstream can still cut this body off without an error of `body`. hyper
            // ends a body of HTTP/2 like a whole one if the upstream resets the stream with
            // NO_ERROR or CANCEL.
            may_be_cut: bool,
        },
        Here { data: Bytes },
    }
}

impl Body for ForwardedBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.project() {
            IncomingProjection::Upstream {
                mut body,
                layer_headers,
                stall,
                numbers,
                may_be_cut,
                ..
            } => {
                let Poll::Ready(frame) = body.as_mut().poll_frame(cx) else {
                    let Some(stall) = stall else {
                        return Poll::Pending;
                    };
                    // The time runs only while there is nothing to read: a slow client does not count.
                    ready!(stall.poll_end(cx, numbers));
                    let stalled = io::Error::from(io::ErrorKind::TimedOut);
                    return Poll::Ready(Some(Err(stalled.into())));
                };
                if let Some(Stall::Upstream(patience) | Stall::Both(patience, _)) = stall {
                    patience.restart();
                }
                if frame.is_none()
                    && *may_be_cut
                    && !body.is_end_stream()
                    && body.size_hint().exact() != Some(0)
                {
                    *may_be_cut = false;
                    return Poll::Ready(Some(Err(
                        io::Error::from(io::ErrorKind::UnexpectedEof).into()
                    )));
                }
                Poll::Ready(frame.map(|frame| {
                    let frame = frame?;
                    if frame.is_trailers() {
                        // Trailers end a body (RFC 9113, 8.1), whatever comes after them.
                        *may_be_cut = false;
                    }
                    Ok(in_trailers(frame, |trailers| {
                        layer_headers.strip_from_trailers(trailers);
                    }))
                }))
            }
            IncomingProjection::Here { data } if data.is_empty() => Poll::Ready(None),
            IncomingProjection::Here { data } => {
                Poll::Ready(Some(Ok(Frame::data(std::mem::take(data)))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Upstream { body, .. } => body.is_end_stream(),
            Self::Here { data } => data.is_empty(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Upstream { body, .. } => body.size_hint(),
            Self::Here { data } => SizeHint::with_exact(data.len() as u64),
        }
    }
}

pin_project! {
    /// A body that keeps a guard alive until the body is dropped.
    #[derive(Debug)]
    pub(crate) struct GuardedBody<B, G> {
        #[pin]
        body: B,
        guard: G,
    }
}

impl<B, G> GuardedBody<B, G> {
    pub(crate) fn new(body: B, guard: G) -> Self {
        Self { body, guard }
    }
}

impl<B: Body, G> Body for GuardedBody<B, G> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        self.project().body.poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
