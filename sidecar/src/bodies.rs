//! The bodies of forwarded messages, frame by frame: none of them is buffered here.

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
use tower_idempotency::RequestBody;
use tracing::warn;

use crate::BoxError;
use crate::forwarded::{LayerHeaders, ReservedHeaders};
use crate::metrics::Numbers;
use crate::received::ReceivedBody;

pin_project! {
    /// The body of a request, as the upstream gets it.
    #[derive(Debug)]
    pub(crate) struct Outgoing {
        #[pin]
        body: RequestBody<ReceivedBody>,
        // The trailers of a body that the layer has read; `body` has the data alone.
        trailers: Option<HeaderMap>,
        reserved: ReservedHeaders,
        // hyper drops the body once it has taken the last byte; the receiver of `new` sees that drop.
        _sent: oneshot::Sender<Infallible>,
    }
}

impl Outgoing {
    /// The receiver fails once the body is dropped: after its last byte, or when the request ends early.
    pub(crate) fn new(
        body: RequestBody<ReceivedBody>,
        trailers: Option<HeaderMap>,
        reserved: ReservedHeaders,
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
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
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
        // HTTP/1.1 sends trailers only after a chunked body, so no length may be announced.
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
    /// The body of a response: the upstream's, or one that the sidecar wrote.
    #[project = IncomingProjection]
    #[derive(Debug)]
    pub(crate) enum ForwardedBody {
        Upstream {
            #[pin]
            body: Incoming,
            layer_headers: LayerHeaders,
            patience: Option<Patience>,
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
                    patience.restart();
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

/// How long the upstream may pause within a response body. The layer reads the body of a
/// protected operation to its end even when the client has left, so nobody else would
/// give up on an upstream that stalls.
#[derive(Debug)]
pub(crate) struct Patience {
    timeout: Duration,
    /// Runs only while the upstream has nothing to read: a slow client does not count.
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

    fn restart(&mut self) {
        self.ends = None;
    }

    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let timeout = self.timeout;
        let ends = self.ends.get_or_insert_with(|| Box::pin(sleep(timeout)));
        ready!(ends.as_mut().poll(cx));
        self.numbers.timed_out.add();
        warn!("the upstream's response stalled");
        Poll::Ready(io::ErrorKind::TimedOut.into())
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
