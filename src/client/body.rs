//! The body of a response that the client has read ahead.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};

use crate::message::body::{BoxError, FullBody, as_bytes};

/// The body of a response, read to its end, unless it is longer than
/// `max_response_body` or has no end. In these two cases the rest of the body
/// comes as it arrives, and may break off.
pub struct BufferedBody<B> {
    data: Bytes,
    trailers: Option<Box<HeaderMap>>,
    rest: Option<Pin<Box<B>>>,
}

impl<B> BufferedBody<B> {
    pub(super) fn new(read: FullBody, rest: Option<Pin<Box<B>>>) -> Self {
        Self {
            data: read.data,
            trailers: read.trailers,
            rest,
        }
    }

    /// The data of the whole body, if the body was read to its end.
    #[must_use]
    pub fn whole(&self) -> Option<&Bytes> {
        self.rest.is_none().then_some(&self.data)
    }
}

impl<B> Body for BufferedBody<B>
where
    B: Body,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if !self.data.is_empty() {
            let data = std::mem::take(&mut self.data);
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        if let Some(rest) = &mut self.rest {
            let frame = ready!(rest.as_mut().poll_frame(cx));
            return Poll::Ready(frame.map(|frame| frame.map(as_bytes).map_err(Into::into)));
        }
        let trailers = self.trailers.take();
        Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(*trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.data.is_empty()
            && self.trailers.is_none()
            && self.rest.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let read = self.data.len() as u64;
        let rest = self.rest.as_ref().map(Body::size_hint);
        let mut hint = rest.unwrap_or_else(|| SizeHint::with_exact(0));
        let upper = hint.upper().and_then(|upper| upper.checked_add(read));
        let lower = hint.lower().saturating_add(read);
        hint = SizeHint::new();
        hint.set_lower(lower);
        if let Some(upper) = upper {
            hint.set_upper(upper);
        }
        hint
    }
}

impl<B> fmt::Debug for BufferedBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BufferedBody").finish_non_exhaustive()
    }
}
