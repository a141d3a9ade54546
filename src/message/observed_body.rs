//! Bodies of requests that are observed while their handlers read them.

use std::any::Any;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use crate::message::watched_body::{Watch, WatchedBody};

pin_project! {
    /// The body of a request in [`Mode::Observe`](crate::options::Mode::Observe): the body `B` as it
    /// comes, which the layer digests while it passes.
    ///
    /// A service takes one type of bodies, so such a body has to become a `B` again:
    /// [`observed_body`](crate::IdempotencyLayerBuilder::observed_body) says how.
    pub struct ObservedBody<B> {
        #[pin]
        body: WatchedBody<B>,
    }
}

impl<B: Body> Body for ObservedBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        self.project().body.poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl<B> fmt::Debug for ObservedBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ObservedBody").finish_non_exhaustive()
    }
}

/// How an [`ObservedBody`] becomes a body of its own type again.
struct Rewrap<B>(fn(ObservedBody<B>) -> B);

/// The types of bodies that can be observed.
pub(crate) struct ObservedBodies(Vec<Box<dyn Any + Send + Sync>>);

impl ObservedBodies {
    pub(crate) fn add<B: 'static>(&mut self, rewrap: fn(ObservedBody<B>) -> B) {
        self.0.push(Box::new(Rewrap(rewrap)));
    }

    /// Whether bodies of this type can be observed.
    pub(crate) fn has<B: 'static>(&self) -> bool {
        self.rewrap::<B>().is_some()
    }

    /// The same body, with a watch; without one if its type can't be observed.
    pub(crate) fn watch<B: Body + 'static>(&self, body: B, watch: Box<dyn Watch>) -> B {
        let Some(rewrap) = self.rewrap::<B>() else {
            return body;
        };
        let length = body.size_hint().exact();
        let body = WatchedBody::new(body, watch, length);
        rewrap(ObservedBody { body })
    }

    fn rewrap<B: 'static>(&self) -> Option<fn(ObservedBody<B>) -> B> {
        // The last one is that of the application, if it has one for a type of this crate's.
        let mut known = self.0.iter().rev();
        known.find_map(|own| own.downcast_ref::<Rewrap<B>>().map(|own| own.0))
    }
}

/// Those that are known without the application.
impl Default for ObservedBodies {
    fn default() -> Self {
        #[cfg_attr(not(feature = "axum"), expect(unused_mut, reason = "for `axum`"))]
        let mut known = Self(Vec::new());
        #[cfg(feature = "axum")]
        known.add::<axum::body::Body>(|body| {
            use http_body_util::BodyExt;
            // axum wraps errors once more, and its extractors look for a limit of the length inside.
            axum::body::Body::new(body.map_err(axum::Error::into_inner))
        });
        known
    }
}
