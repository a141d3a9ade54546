//! Reading bodies whole, and giving answers back.

use std::error::Error;
use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use crate::lease::Held;
use crate::store::Release;

pub(crate) type BoxError = Box<dyn Error + Send + Sync>;

/// The trailers of a request, which the layer read together with its body: an
/// extension of the request that the service gets.
#[derive(Clone, Debug)]
pub struct RequestTrailers(pub HeaderMap);

/// A body that was read.
#[derive(Debug, Default)]
pub(crate) struct Whole {
    pub(crate) data: Bytes,
    /// Boxed, since there are hardly ever any.
    pub(crate) trailers: Option<Box<HeaderMap>>,
}

/// What came of reading a body. `Stopped` and `Broken` have what was read
/// until then.
#[derive(Debug)]
pub(crate) enum Collected {
    Whole(Whole),
    /// `admit` refused a frame; its data is the end of this.
    Stopped(Bytes),
    Broken(Bytes, BoxError),
}

/// Reads to the end, or until `admit`, told how many bytes a frame adds,
/// refuses. A body of one frame is not copied.
pub(crate) async fn collect<B>(
    mut body: Pin<&mut B>,
    mut admit: impl FnMut(usize) -> bool,
) -> Collected
where
    B: Body,
    B::Error: Into<BoxError>,
{
    let mut read = Pieces::default();
    let mut trailers = None;
    loop {
        let frame = match poll_fn(|cx| body.as_mut().poll_frame(cx)).await {
            Some(Ok(frame)) => frame,
            Some(Err(error)) => return Collected::Broken(read.join(), error.into()),
            None => break,
        };
        match frame.into_data() {
            Ok(data) => {
                let admitted = admit(data.remaining());
                read.push(data);
                if !admitted {
                    return Collected::Stopped(read.join());
                }
            }
            Err(frame) => {
                // Anything but data and trailers is of a future HTTP: not ours to keep.
                if let Ok(fields) = frame.into_trailers() {
                    trailers
                        .get_or_insert_with(Box::<HeaderMap>::default)
                        .extend(fields);
                }
            }
        }
    }
    Collected::Whole(Whole {
        data: read.join(),
        trailers,
    })
}

#[derive(Default)]
struct Pieces {
    first: Bytes,
    all: BytesMut,
}

impl Pieces {
    fn push(&mut self, mut data: impl Buf) {
        if self.first.is_empty() && self.all.is_empty() {
            self.first = data.copy_to_bytes(data.remaining());
            return;
        }
        if self.all.is_empty() {
            self.all.extend_from_slice(&self.first);
            self.first = Bytes::new();
        }
        while data.has_remaining() {
            let chunk = data.chunk();
            self.all.extend_from_slice(chunk);
            let len = chunk.len();
            data.advance(len);
        }
    }

    fn join(self) -> Bytes {
        if self.all.is_empty() {
            self.first
        } else {
            self.all.freeze()
        }
    }
}

/// How many bytes all requests that are being read hold together.
#[derive(Debug)]
pub(crate) struct Budget {
    limit: usize,
    held: AtomicUsize,
}

impl Budget {
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            limit,
            held: AtomicUsize::new(0),
        }
    }

    pub(crate) fn share(&self) -> Share<'_> {
        Share {
            budget: self,
            held: 0,
        }
    }
}

/// One request's part of a [`Budget`]; given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Share<'a> {
    budget: &'a Budget,
    held: usize,
}

impl Share<'_> {
    /// Whether there was room for this many more.
    pub(crate) fn take(&mut self, bytes: usize) -> bool {
        self.held += bytes;
        let held = self.budget.held.fetch_add(bytes, Ordering::Relaxed);
        held.saturating_add(bytes) <= self.budget.limit
    }
}

impl Drop for Share<'_> {
    fn drop(&mut self) {
        self.budget.held.fetch_sub(self.held, Ordering::Relaxed);
    }
}

pin_project! {
    /// A request body that can be made of bytes, for services whose own body
    /// can't: hyper's `Incoming`, tonic's, tower-http's limited ones.
    ///
    /// Wrap it outside the layer; the service inside then takes
    /// `Request<RequestBody<B>>`:
    ///
    /// ```
    /// use bytes::Bytes;
    /// use http::{Request, Response};
    /// use http_body_util::Full;
    /// use hyper::body::Incoming;
    /// use std::convert::Infallible;
    /// use tower::{service_fn, ServiceBuilder};
    /// use tower_idempotency::{scope, IdempotencyLayer, MemoryStore, RequestBody};
    ///
    /// let service = ServiceBuilder::new()
    ///     .map_request(|request: Request<Incoming>| request.map(RequestBody::new))
    ///     .layer(IdempotencyLayer::new(MemoryStore::new(), scope::shared()))
    ///     .service_fn(|_request: Request<RequestBody<Incoming>>| async {
    ///         Ok::<_, Infallible>(Response::new(Full::new(Bytes::from("done"))))
    ///     });
    /// ```
    pub struct RequestBody<B> {
        #[pin]
        kind: RequestKind<B>,
    }
}

pin_project! {
    #[project = RequestKindProjection]
    enum RequestKind<B> {
        Read { data: Bytes },
        Unread { #[pin] body: B },
    }
}

impl<B> RequestBody<B> {
    /// A body that was not read yet.
    pub fn new(body: B) -> Self {
        Self {
            kind: RequestKind::Unread { body },
        }
    }
}

impl<B> From<Bytes> for RequestBody<B> {
    fn from(data: Bytes) -> Self {
        Self {
            kind: RequestKind::Read { data },
        }
    }
}

impl<B> Default for RequestBody<B> {
    fn default() -> Self {
        Self::from(Bytes::new())
    }
}

impl<B> fmt::Debug for RequestBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestBody").finish_non_exhaustive()
    }
}

impl<B: Body> Body for RequestBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        match self.project().kind.project() {
            RequestKindProjection::Read { data } if data.is_empty() => Poll::Ready(None),
            RequestKindProjection::Read { data } => {
                Poll::Ready(Some(Ok(Frame::data(std::mem::take(data)))))
            }
            RequestKindProjection::Unread { body } => {
                let frame = ready!(body.poll_frame(cx));
                Poll::Ready(frame.map(|frame| frame.map(as_bytes)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            RequestKind::Read { data } => data.is_empty(),
            RequestKind::Unread { body } => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            RequestKind::Read { data } => SizeHint::with_exact(data.len() as u64),
            RequestKind::Unread { body } => body.size_hint(),
        }
    }
}

/// Copies nothing where the data are [`Bytes`] already.
fn as_bytes<D: Buf>(frame: Frame<D>) -> Frame<Bytes> {
    frame.map_data(|mut data| data.copy_to_bytes(data.remaining()))
}

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
