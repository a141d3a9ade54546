//! Bodies on their way through: nothing of them is kept.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use pin_project_lite::pin_project;
use tokio::sync::oneshot;

use super::forwarded::{OfTheLayer, Reserved};
use crate::request_body::RequestBody;

pin_project! {
    /// A request's body, as the upstream gets it.
    #[derive(Debug)]
    pub(super) struct Outgoing {
        #[pin]
        body: RequestBody<Incoming>,
        // Those of a body that the layer has read.
        trailers: Option<HeaderMap>,
        reserved: Reserved,
        // Dropped with the body, which is when its last byte was taken.
        _sent: oneshot::Sender<Infallible>,
    }
}

impl Outgoing {
    /// The receiver fails once the body was taken to its end.
    pub(super) fn new(
        body: RequestBody<Incoming>,
        trailers: Option<HeaderMap>,
        reserved: Reserved,
    ) -> (Self, oneshot::Receiver<Infallible>) {
        let (sent, taken) = oneshot::channel();
        let outgoing = Self {
            body,
            trailers,
            reserved,
            _sent: sent,
        };
        (outgoing, taken)
    }
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let this = self.project();
        let frame = match ready!(this.body.poll_frame(cx)) {
            Some(Ok(frame)) => frame,
            Some(Err(error)) => return Poll::Ready(Some(Err(error))),
            None => match this.trailers.take() {
                Some(trailers) => Frame::trailers(trailers),
                None => return Poll::Ready(None),
            },
        };
        let frame = in_trailers(frame, |trailers| this.reserved.strip_from(trailers));
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.trailers.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        if self.trailers.is_none() {
            return self.body.size_hint();
        }
        // HTTP/1.1 has no place for trailers behind a known length.
        SizeHint::new()
    }
}

fn in_trailers(mut frame: Frame<Bytes>, change: impl FnOnce(&mut HeaderMap)) -> Frame<Bytes> {
    if let Some(trailers) = frame.trailers_mut() {
        change(trailers);
    }
    frame
}

pin_project! {
    /// An answer's body, as the upstream sends it or as the sidecar says it.
    #[project = IncomingProjection]
    #[derive(Debug)]
    pub(super) enum Answered {
        Upstream { #[pin] body: Incoming, of_the_layer: OfTheLayer },
        Here { data: Bytes },
    }
}

impl Body for Answered {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match self.project() {
            IncomingProjection::Upstream { body, of_the_layer } => {
                let frame = ready!(body.poll_frame(cx));
                Poll::Ready(frame.map(|frame| {
                    frame.map(|frame| {
                        in_trailers(frame, |trailers| of_the_layer.strip_from(trailers))
                    })
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
    /// A body that something lives as long as.
    #[derive(Debug)]
    pub(super) struct Until<B, G> {
        #[pin]
        body: B,
        guard: G,
    }
}

impl<B, G> Until<B, G> {
    pub(super) fn new(body: B, guard: G) -> Self {
        Self { body, guard }
    }
}

impl<B: Body, G> Body for Until<B, G> {
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
