//! The body of an answer that was read ahead.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};

use crate::message::body::{BoxError, FullBody, as_bytes};

/// The body of an answer: read to its end, unless it is longer than the policy
/// reads ahead or has no end. Then the rest comes as it arrives, and may break
/// off.
pub struct AnswerBody<B> {
    read: Bytes,
    trailers: Option<Box<HeaderMap>>,
    rest: Option<Pin<Box<B>>>,
}

impl<B> AnswerBody<B> {
    pub(super) fn of(read: FullBody, rest: Option<Pin<Box<B>>>) -> Self {
        Self {
            read: read.data,
            trailers: read.trailers,
            rest,
        }
    }

    /// All of it, if it was read to its end.
    #[must_use]
    pub fn whole(&self) -> Option<&Bytes> {
        self.rest.is_none().then_some(&self.read)
    }
}

impl<B> Body for AnswerBody<B>
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
        if !self.read.is_empty() {
            let read = std::mem::take(&mut self.read);
            return Poll::Ready(Some(Ok(Frame::data(read))));
        }
        if let Some(rest) = &mut self.rest {
            let frame = ready!(rest.as_mut().poll_frame(cx));
            return Poll::Ready(frame.map(|frame| frame.map(as_bytes).map_err(Into::into)));
        }
        let trailers = self.trailers.take();
        Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(*trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.read.is_empty()
            && self.trailers.is_none()
            && self.rest.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let read = self.read.len() as u64;
        let Some(rest) = &self.rest else {
            return SizeHint::with_exact(read);
        };
        let rest = rest.size_hint();
        let mut hint = SizeHint::new();
        hint.set_lower(rest.lower().saturating_add(read));
        if let Some(upper) = rest.upper().and_then(|upper| upper.checked_add(read)) {
            hint.set_upper(upper);
        }
        hint
    }
}

impl<B> fmt::Debug for AnswerBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AnswerBody").finish_non_exhaustive()
    }
}
