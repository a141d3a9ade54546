//! Bodies on their way through: nothing of them is kept.

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use pin_project_lite::pin_project;
use tokio::sync::oneshot;
use tokio::time::{Sleep, sleep};
use tracing::warn;

use crate::BoxError;
use crate::forwarded::{OfTheLayer, Reserved};
use crate::metrics::Numbers;
use tower_idempotency::RequestBody;

pin_project! {
    /// A request's body, as the upstream gets it.
    #[derive(Debug)]
    pub(crate) struct Outgoing {
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
    pub(crate) fn new(
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
        let frame = in_trailers(frame, |trailers| {
            this.reserved.strip_from_trailers(trailers);
        });
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
    pub(crate) enum Answered {
        Upstream {
            #[pin]
            body: Incoming,
            layer_headers: OfTheLayer,
            patience: Option<Patience>,
        },
        Here { data: Bytes },
    }
}

impl Body for Answered {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.project() {
            IncomingProjection::Upstream {
                body,
                layer_headers,
                patience,
            } => {
                let Poll::Ready(frame) = body.poll_frame(cx) else {
                    let Some(patience) = patience else {
                        return Poll::Pending;
                    };
                    let stalled = ready!(patience.poll_end(cx));
                    return Poll::Ready(Some(Err(stalled.into())));
                };
                if let Some(patience) = patience {
                    patience.begin_anew();
                }
                Poll::Ready(frame.map(|frame| {
                    let frame = frame?;
                    Ok(in_trailers(frame, |trailers| {
                        layer_headers.strip_from(trailers);
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

/// How long an answer's body may rest. An operation lasts as long as its
/// answer, also without a client that could give up.
#[derive(Debug)]
pub(crate) struct Patience {
    timeout: Duration,
    /// Only while there is nothing to read: a client may take its time.
    ends: Option<Pin<Box<Sleep>>>,
    numbers: Arc<Numbers>,
}

impl Patience {
    pub(crate) fn new(timeout: Duration, numbers: Arc<Numbers>) -> Self {
        Self {
            timeout,
            ends: None,
            numbers,
        }
    }

    fn begin_anew(&mut self) {
        self.ends = None;
    }

    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let timeout = self.timeout;
        let ends = self.ends.get_or_insert_with(|| Box::pin(sleep(timeout)));
        ready!(ends.as_mut().poll(cx));
        self.numbers.timed_out.add();
        warn!("the upstream's answer stalled");
        Poll::Ready(io::ErrorKind::TimedOut.into())
    }
}

pin_project! {
    /// A body that something lives as long as.
    #[derive(Debug)]
    pub(crate) struct Until<B, G> {
        #[pin]
        body: B,
        guard: G,
    }
}

impl<B, G> Until<B, G> {
    pub(crate) fn new(body: B, guard: G) -> Self {
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
