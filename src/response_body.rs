//! The body of an answer, passed on or given back.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use crate::body::{BoxError, as_bytes};
use crate::lease::Held;
use crate::store::Release;

pin_project! {
    /// The body of an answer that went through the layer: the service's own
    /// where the request was passed on, else what was read of it or recorded.
    pub struct ResponseBody<B> {
        #[pin]
        kind: ResponseKind<B>,
    }
}

pin_project! {
    #[project = ResponseKindProjection]
    enum ResponseKind<B> {
        Passed { #[pin] body: B },
        Known { data: Bytes, trailers: Option<Box<HeaderMap>> },
        Rest { rest: Box<Rest<B>> },
    }
}

/// An answer that is not known whole: what was read of it, then what follows.
struct Rest<B> {
    read: Bytes,
    then: Then<B>,
    lease: LeaseOfRest,
}

/// The lease of an operation that runs until its answer has been sent.
enum LeaseOfRest {
    /// It has ended already.
    Ended,
    /// Released in the background if the body is dropped before its end.
    Held(Held),
    /// The end of the body waits for it. A task, since a body that holds a
    /// future of any kind could not be shared between threads.
    Releasing(JoinHandle<()>),
}

impl LeaseOfRest {
    fn poll_release(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Self::Held(_) = self
            && let Self::Held(held) = std::mem::replace(self, Self::Ended)
            // Without a runtime nothing can be waited for: the lease lapses.
            && let Ok(runtime) = Handle::try_current()
        {
            *self = Self::Releasing(runtime.spawn(async move {
                held.release(Release::Tombstone).await;
            }));
        }
        if let Self::Releasing(release) = self {
            // That it panicked is said where it did.
            let _ = ready!(Pin::new(release).poll(cx));
            *self = Self::Ended;
        }
        Poll::Ready(())
    }
}

enum Then<B> {
    Body(Pin<Box<B>>),
    Error(Option<BoxError>),
    End,
}

impl<B> ResponseBody<B> {
    pub(crate) fn passed(body: B) -> Self {
        Self {
            kind: ResponseKind::Passed { body },
        }
    }

    pub(crate) fn known(data: Bytes, trailers: Option<Box<HeaderMap>>) -> Self {
        Self {
            kind: ResponseKind::Known { data, trailers },
        }
    }

    pub(crate) fn rest(read: Bytes, body: Pin<Box<B>>) -> Self {
        Self {
            kind: ResponseKind::Rest {
                rest: Box::new(Rest {
                    read,
                    then: Then::Body(body),
                    lease: LeaseOfRest::Ended,
                }),
            },
        }
    }

    /// Keeps a lease until the body ends or is dropped, and releases it then.
    /// Only what follows what was read can have one.
    pub(crate) fn hold(&mut self, held: Held) {
        if let ResponseKind::Rest { rest } = &mut self.kind {
            held.watch();
            rest.lease = LeaseOfRest::Held(held.release_on_drop(Release::Tombstone));
        }
    }

    pub(crate) fn broken(read: Bytes, error: BoxError) -> Self {
        Self {
            kind: ResponseKind::Rest {
                rest: Box::new(Rest {
                    read,
                    then: Then::Error(Some(error)),
                    lease: LeaseOfRest::Ended,
                }),
            },
        }
    }
}

/// Empty.
impl<B> Default for ResponseBody<B> {
    fn default() -> Self {
        Self::known(Bytes::new(), None)
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
            ResponseKindProjection::Passed { body } => {
                let frame = ready!(body.poll_frame(cx));
                Poll::Ready(frame.map(|frame| frame.map(as_bytes).map_err(Into::into)))
            }
            ResponseKindProjection::Known { data, trailers } => Poll::Ready(if data.is_empty() {
                trailers
                    .take()
                    .map(|trailers| Ok(Frame::trailers(*trailers)))
            } else {
                Some(Ok(Frame::data(std::mem::take(data))))
            }),
            ResponseKindProjection::Rest { rest } => {
                if !rest.read.is_empty() {
                    return Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut rest.read)))));
                }
                let frame = match &mut rest.then {
                    Then::Error(error) => error.take().map(Err),
                    Then::Body(body) => {
                        let frame = ready!(body.as_mut().poll_frame(cx));
                        frame.map(|frame| frame.map(as_bytes).map_err(Into::into))
                    }
                    Then::End => None,
                };
                if frame.is_none() {
                    rest.then = Then::End;
                    ready!(rest.lease.poll_release(cx));
                }
                Poll::Ready(frame)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            ResponseKind::Passed { body } => body.is_end_stream(),
            ResponseKind::Known { data, trailers } => data.is_empty() && trailers.is_none(),
            ResponseKind::Rest { rest } => {
                rest.read.is_empty()
                    && matches!(rest.lease, LeaseOfRest::Ended)
                    && match &rest.then {
                        Then::Body(body) => body.is_end_stream(),
                        Then::Error(error) => error.is_none(),
                        Then::End => true,
                    }
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            ResponseKind::Passed { body } => body.size_hint(),
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
            ResponseKind::Rest { rest } => match &rest.then {
                Then::Error(_) | Then::End => SizeHint::default(),
                Then::Body(body) => {
                    let read = rest.read.len() as u64;
                    let rest = body.size_hint();
                    let mut hint = SizeHint::new();
                    hint.set_lower(rest.lower().saturating_add(read));
                    if let Some(upper) = rest.upper().and_then(|upper| upper.checked_add(read)) {
                        hint.set_upper(upper);
                    }
                    hint
                }
            },
        }
    }
}
