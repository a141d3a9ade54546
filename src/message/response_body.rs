//! The body of a response: passed on, given back as a whole, or sent while it is read.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use crate::limits::{Account, Holding};
use crate::message::body::{BoxError, FullBody, as_bytes};
use crate::message::kept::AHEAD;
use crate::message::pipe::{End, Pipe};
use crate::message::pipe_body::PipeBody;
use crate::message::send_timeout::SendTimeout;
use crate::message::watched_body::WatchedBody;
use crate::runtime::Handle;
use crate::runtime::deadline::Moment;

pin_project! {
    /// The body of a response that went through the layer: the service's own body
    /// where the request was passed on, else the bytes that were read or recorded.
    ///
    /// The last byte of a recorded response leaves only after its record is stored
    /// (G3). If the record can't be stored and the head has left already, the body
    /// ends with an error.
    pub struct ResponseBody<B> {
        #[pin]
        kind: ResponseKind<B>,
    }
}

pin_project! {
    #[project = ResponseKindProjection]
    enum ResponseKind<B> {
        Passed { #[pin] body: B },
        Watched { #[pin] body: WatchedBody<B> },
        Unprotected { #[pin] body: B, place: Option<Box<Holding>> },
        Known { data: Bytes, trailers: Option<Box<HeaderMap>> },
        Streamed { sender: PipeBody },
    }
}

impl<B> ResponseBody<B> {
    pub(crate) fn passed(body: B) -> Self {
        Self {
            kind: ResponseKind::Passed { body },
        }
    }

    /// The service's own body, of which the layer sees what passes.
    pub(crate) fn watched(body: WatchedBody<B>) -> Self {
        Self {
            kind: ResponseKind::Watched { body },
        }
    }

    /// The body of an operation that runs without a record, and keeps its place until the body has
    /// ended. The place is boxed, so that no other body is larger for it.
    pub(crate) fn unprotected(body: B, place: Option<Holding>) -> Self {
        let place = place.map(Box::new);
        Self {
            kind: ResponseKind::Unprotected { body, place },
        }
    }

    pub(crate) fn known(FullBody { data, trailers }: FullBody) -> Self {
        Self {
            kind: ResponseKind::Known { data, trailers },
        }
    }

    /// Gives a large body that is there as a whole to its server part by part, and lets the client
    /// go that reads nothing for so long, or whose caller needs the room. A server holds what it was
    /// given whatever the client does.
    pub(crate) fn in_parts(self, account: &Arc<Account>, send_timeout: Duration) -> Self {
        match self.kind {
            ResponseKind::Known { data, trailers } if data.len() > AHEAD => {
                Self::large(data, trailers, account, send_timeout)
            }
            kind => Self { kind },
        }
    }

    fn large(
        data: Bytes,
        trailers: Option<Box<HeaderMap>>,
        account: &Arc<Account>,
        send_timeout: Duration,
    ) -> Self {
        if Handle::try_current().is_err() {
            return Self::known(FullBody { data, trailers });
        }
        // HTTP/1 sends no trailers after a body whose length it announced.
        let length = trailers.is_none().then_some(data.len() as u64);
        let end = End::Full(trailers.map(|trailers| *trailers));
        let pipe = Pipe::of_whole(data, end, account);
        Self::waits(pipe, length, account, send_timeout)
    }

    /// A body that broke off, as far as it goes.
    pub(crate) fn broken(
        read: Bytes,
        error: BoxError,
        account: &Arc<Account>,
        send_timeout: Duration,
    ) -> Self {
        let pipe = Pipe::of_whole(read, End::Broken(error), account);
        Self::waits(pipe, None, account, send_timeout)
    }

    fn waits(
        pipe: Pipe,
        length: Option<u64>,
        account: &Arc<Account>,
        send_timeout: Duration,
    ) -> Self {
        let pipe = Arc::new(pipe);
        account.waits(Arc::<Pipe>::downgrade(&pipe));
        if let Ok(runtime) = Handle::try_current() {
            let watched = Arc::clone(&pipe);
            runtime.spawn(async move {
                SendTimeout::new(send_timeout).until_taken(&watched).await;
            });
        }
        Self::streamed(PipeBody::new(pipe, length))
    }

    /// Ends a body that is sent while it is read with these trailers, if the client's
    /// deadline comes first.
    pub(crate) fn until(mut self, deadline: Moment, trailers: HeaderMap) -> Self {
        if let ResponseKind::Streamed { sender } = &mut self.kind {
            sender.ends_at(deadline, trailers);
        }
        self
    }

    pub(crate) fn streamed(sender: PipeBody) -> Self {
        Self {
            kind: ResponseKind::Streamed { sender },
        }
    }
}

/// An empty body.
impl<B> Default for ResponseBody<B> {
    fn default() -> Self {
        Self::known(FullBody::default())
    }
}

/// The service's own body where the request was passed on: it is not boxed once more.
#[cfg(feature = "axum")]
impl From<ResponseBody<axum::body::Body>> for axum::body::Body {
    fn from(body: ResponseBody<axum::body::Body>) -> Self {
        match body.kind {
            ResponseKind::Passed { body } | ResponseKind::Unprotected { body, place: None } => body,
            ResponseKind::Known {
                data,
                trailers: None,
            } => data.into(),
            kind => Self::new(ResponseBody { kind }),
        }
    }
}

impl<B> fmt::Debug for ResponseBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseBody").finish_non_exhaustive()
    }
}

impl<B> Body for ResponseBody<B>
where
    B: Body,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.project().kind.project() {
            ResponseKindProjection::Passed { body }
            | ResponseKindProjection::Unprotected { body, .. } => {
                let frame = ready!(body.poll_frame(cx));
                Poll::Ready(frame.map(|frame| frame.map(as_bytes).map_err(Into::into)))
            }
            ResponseKindProjection::Watched { body } => {
                let frame = ready!(body.poll_frame(cx));
                Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
            }
            ResponseKindProjection::Known { data, trailers } => Poll::Ready(if data.is_empty() {
                trailers
                    .take()
                    .map(|trailers| Ok(Frame::trailers(*trailers)))
            } else {
                Some(Ok(Frame::data(std::mem::take(data))))
            }),
            ResponseKindProjection::Streamed { sender } => sender.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            ResponseKind::Passed { body } | ResponseKind::Unprotected { body, .. } => {
                body.is_end_stream()
            }
            ResponseKind::Watched { body } => body.is_end_stream(),
            ResponseKind::Known { data, trailers } => data.is_empty() && trailers.is_none(),
            ResponseKind::Streamed { sender } => sender.is_end(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            ResponseKind::Passed { body } | ResponseKind::Unprotected { body, .. } => {
                body.size_hint()
            }
            ResponseKind::Watched { body } => body.size_hint(),
            ResponseKind::Known { data, trailers } => {
                let length = data.len() as u64;
                if trailers.is_none() {
                    return SizeHint::with_exact(length);
                }
                // HTTP/1 sends no trailers after a body whose length it announced.
                let mut hint = SizeHint::new();
                hint.set_lower(length);
                hint
            }
            ResponseKind::Streamed { sender } => sender
                .to_come()
                .map(SizeHint::with_exact)
                .unwrap_or_default(),
        }
    }
}
