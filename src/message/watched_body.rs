//! A body that is passed on as it is, while something is told what passes.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use crate::message::body::as_bytes;

/// Is told what passes of a body.
pub(crate) trait Watch: Send + Sync {
    fn data(&mut self, data: &Bytes);
    fn trailers(&mut self, trailers: &HeaderMap);
    /// Called once, when nothing more is to come.
    fn ended(&mut self, how: Passed);
}

/// How much of a body has passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Passed {
    Whole,
    /// The body ended in an error, in a panic, or not at the length that it announced.
    Broken,
    /// The reader dropped the body before its end.
    Part,
}

pin_project! {
    /// A body of which a [`Watch`] is told. Frames, errors, end and length are those of the body.
    pub(crate) struct WatchedBody<B> {
        #[pin]
        body: B,
        // `None` once the watch was told of the end.
        watching: Option<Watching>,
        // How many bytes of a known length are to come.
        left: Option<u64>,
    }
}

impl<B: Body> WatchedBody<B> {
    /// `length` is the number of bytes that the body announces, if it announces one.
    pub(crate) fn new(body: B, watch: Box<dyn Watch>, length: Option<u64>) -> Self {
        let mut watching = Watching(Some(watch));
        let is_over = body.is_end_stream() || length == Some(0);
        if is_over {
            watching.end(Passed::Whole);
        }
        Self {
            body,
            watching: (!is_over).then_some(watching),
            left: length,
        }
    }
}

impl<B: Body> Body for WatchedBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let mut this = self.project();
        // Taken out while the body is polled, so that the watch is told of a panic: it is dropped
        // then.
        let watching = this.watching.take();
        let frame = this.body.as_mut().poll_frame(cx);
        let frame = frame.map(|frame| frame.map(|frame| frame.map(as_bytes)));
        let Some(mut watching) = watching else {
            return frame;
        };
        let passed = match &frame {
            Poll::Pending => None,
            Poll::Ready(None) if this.left.is_none_or(|left| left == 0) => Some(Passed::Whole),
            Poll::Ready(None | Some(Err(_))) => Some(Passed::Broken),
            Poll::Ready(Some(Ok(frame))) => watching.pass(frame, this.left),
        };
        // A reader need not ask for more of a body that says that it is over.
        let is_over = || frame.is_ready() && this.body.is_end_stream();
        match passed.or_else(|| is_over().then_some(Passed::Whole)) {
            Some(passed) => watching.end(passed),
            None => *this.watching = Some(watching),
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A watch that was not yet told of the end. Its drop tells it.
struct Watching(Option<Box<dyn Watch>>);

impl Watching {
    /// Returns how much has passed if nothing more is to come.
    fn pass(&mut self, frame: &Frame<Bytes>, left: &mut Option<u64>) -> Option<Passed> {
        let watch = self.0.as_mut()?;
        if let Some(trailers) = frame.trailers_ref() {
            watch.trailers(trailers);
        }
        let data = frame.data_ref()?;
        watch.data(data);
        let left = left.as_mut()?;
        match left.checked_sub(data.len() as u64) {
            None => Some(Passed::Broken),
            Some(rest) => {
                *left = rest;
                (rest == 0).then_some(Passed::Whole)
            }
        }
    }

    fn end(&mut self, passed: Passed) {
        if let Some(mut watch) = self.0.take() {
            watch.ended(passed);
        }
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.end(if std::thread::panicking() {
            Passed::Broken
        } else {
            Passed::Part
        });
    }
}
