//! The body of a request as it arrives, over HTTP/1.1 or HTTP/2.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::RecvStream;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::sync::oneshot;

use crate::BoxError;

/// The body of a client's request.
#[derive(Debug)]
pub(crate) struct ReceivedBody(Kind);

#[derive(Debug)]
enum Kind {
    Http1 {
        body: Incoming,
        unread: Unread,
    },
    Http2 {
        body: RecvStream,
        /// What is left of the length that the client announced.
        left: Option<u64>,
        has_data: bool,
        /// Taken when the body is first polled: then a client that waits with its body is told to go on.
        expected: Option<oneshot::Sender<()>>,
    },
}

/// How many bytes of the running request's body were not read yet, on a connection of HTTP/1.1.
/// `u64::MAX` stands for a body of unknown length.
#[derive(Clone, Debug, Default)]
pub(crate) struct Unread(Arc<AtomicU64>);

impl Unread {
    pub(crate) fn get(&self) -> u64 {
        // Relaxed: nothing else is published with the number.
        self.0.load(Ordering::Relaxed)
    }

    fn set(&self, bytes: u64) {
        self.0.store(bytes, Ordering::Relaxed);
    }

    fn set_to_rest_of(&self, body: &Incoming) {
        self.set(if body.is_end_stream() {
            0
        } else {
            body.size_hint().exact().unwrap_or(u64::MAX)
        });
    }
}

impl ReceivedBody {
    pub(crate) fn http1(body: Incoming, unread: Unread) -> Self {
        unread.set_to_rest_of(&body);
        Self(Kind::Http1 { body, unread })
    }

    pub(crate) fn http2(
        body: RecvStream,
        length: Option<u64>,
        expected: Option<oneshot::Sender<()>>,
    ) -> Self {
        Self(Kind::Http2 {
            body,
            left: length,
            has_data: true,
            expected,
        })
    }
}

impl Body for ReceivedBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match &mut self.0 {
            Kind::Http1 { body, unread } => {
                let frame = ready!(Pin::new(&mut *body).poll_frame(cx));
                match &frame {
                    Some(Ok(frame)) if frame.is_data() => unread.set_to_rest_of(body),
                    Some(Err(_)) => {}
                    Some(Ok(_)) | None => unread.set(0),
                }
                Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
            }
            Kind::Http2 {
                body,
                left,
                has_data,
                expected,
            } => {
                if let Some(expected) = expected.take() {
                    // The receiver is gone once the response has begun.
                    let _ = expected.send(());
                }
                if *has_data {
                    if let Some(data) = ready!(body.poll_data(cx)) {
                        let data = data?;
                        let length = data.len();
                        body.flow_control().release_capacity(length)?;
                        *left = left.map(|left| left.saturating_sub(length as u64));
                        return Poll::Ready(Some(Ok(Frame::data(data))));
                    }
                    *has_data = false;
                }
                let trailers = ready!(body.poll_trailers(cx))?;
                Poll::Ready(trailers.map(Frame::trailers).map(Ok))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::Http1 { body, .. } => body.is_end_stream(),
            Kind::Http2 { body, .. } => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Http1 { body, .. } => body.size_hint(),
            Kind::Http2 { body, .. } if body.is_end_stream() => SizeHint::with_exact(0),
            Kind::Http2 { left, .. } => left.map(SizeHint::with_exact).unwrap_or_default(),
        }
    }
}
