//! A body whose frames follow a script.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Sleep, sleep};

/// What a [`Script`] does next.
pub(crate) enum Step {
    Data(Bytes),
    Trailers(HeaderMap),
    /// The body wakes its task and is pending once.
    Yield,
    /// The body is pending for so long.
    Wait(Duration),
    /// The body is pending for ever.
    Never,
    Fail(&'static str),
    Panic,
}

/// A body that follows these steps. It announces no length unless a test sets
/// one.
pub(crate) struct Script {
    steps: VecDeque<Step>,
    /// After the last step the body repeats this frame so many times.
    more: Option<(Bytes, usize)>,
    waiting: Option<Pin<Box<Sleep>>>,
    /// How many bytes of the announced length are left, if a length is
    /// announced.
    announced: Option<u64>,
    /// How often the body was polled.
    polls: Arc<AtomicUsize>,
    /// How many bytes the body has returned.
    given: Arc<AtomicUsize>,
    /// A test can see by this value whether the body was dropped.
    alive: Arc<()>,
}

impl Script {
    pub(crate) fn new(steps: impl IntoIterator<Item = Step>) -> Self {
        Self {
            steps: steps.into_iter().collect(),
            more: None,
            waiting: None,
            announced: None,
            polls: Arc::default(),
            given: Arc::default(),
            alive: Arc::default(),
        }
    }

    /// A body with one frame for each item.
    pub(crate) fn frames<D: Into<Bytes>>(data: impl IntoIterator<Item = D>) -> Self {
        Self::new(data.into_iter().map(|data| Step::Data(data.into())))
    }

    /// A body that repeats this frame without end.
    pub(crate) fn endless(frame: impl Into<Bytes>) -> Self {
        Self::repeated(frame, usize::MAX)
    }

    /// A body that repeats this frame so many times.
    pub(crate) fn repeated(frame: impl Into<Bytes>, times: usize) -> Self {
        Self {
            more: Some((frame.into(), times)),
            ..Self::new([])
        }
    }

    /// Announces this length in bytes, whether it is true or not.
    pub(crate) fn announcing(mut self, length: u64) -> Self {
        self.announced = Some(length);
        self
    }

    pub(crate) fn then(mut self, step: Step) -> Self {
        self.steps.push_back(step);
        self
    }

    pub(crate) fn and_trailer(self, name: &'static str, value: &'static str) -> Self {
        let mut trailers = HeaderMap::new();
        trailers.insert(name, value.parse().unwrap());
        self.then(Step::Trailers(trailers))
    }

    /// Returns a function that tells how often the body was polled.
    pub(crate) fn polls(&self) -> impl Fn() -> usize + use<> {
        let polls = Arc::clone(&self.polls);
        move || polls.load(Ordering::SeqCst)
    }

    /// Returns a function that tells how many bytes the body has returned.
    pub(crate) fn given(&self) -> impl Fn() -> usize + use<> {
        let given = Arc::clone(&self.given);
        move || given.load(Ordering::SeqCst)
    }

    /// Returns a function that tells whether the body was dropped.
    pub(crate) fn is_gone(&self) -> impl Fn() -> bool + use<> {
        let alive = Arc::downgrade(&self.alive);
        move || alive.upgrade().is_none()
    }
}

impl From<Bytes> for Script {
    fn from(data: Bytes) -> Self {
        Self::frames([data])
    }
}

impl Body for Script {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        self.polls.fetch_add(1, Ordering::SeqCst);
        loop {
            if let Some(wait) = &mut self.waiting {
                if wait.as_mut().poll(cx).is_pending() {
                    return Poll::Pending;
                }
                self.waiting = None;
            }
            let frame = match self.steps.pop_front() {
                Some(Step::Data(data)) => Ok(Frame::data(data)),
                Some(Step::Trailers(trailers)) => Ok(Frame::trailers(trailers)),
                Some(Step::Yield) => {
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                Some(Step::Wait(time)) => {
                    self.waiting = Some(Box::pin(sleep(time)));
                    continue;
                }
                Some(Step::Never) => {
                    self.steps.push_front(Step::Never);
                    return Poll::Pending;
                }
                Some(Step::Fail(message)) => Err(std::io::Error::other(message)),
                Some(Step::Panic) => panic!("as the test wants it"),
                None => match &mut self.more {
                    Some((frame, times)) if *times > 0 => {
                        *times -= 1;
                        Ok(Frame::data(frame.clone()))
                    }
                    _ => return Poll::Ready(None),
                },
            };
            if let Some(data) = frame.as_ref().ok().and_then(Frame::data_ref) {
                let length = data.len();
                self.given.fetch_add(length, Ordering::SeqCst);
                self.announced = self
                    .announced
                    .map(|left| left.saturating_sub(length as u64));
            }
            return Poll::Ready(Some(frame));
        }
    }

    fn size_hint(&self) -> SizeHint {
        self.announced
            .map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}
