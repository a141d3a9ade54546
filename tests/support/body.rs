//! A body that does as it is told.

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

/// What happens next in a [`Script`].
pub(crate) enum Step {
    Data(Bytes),
    Trailers(HeaderMap),
    /// The task is woken, and asks again.
    Yield,
    /// Nothing for so long.
    Wait(Duration),
    /// Nothing ever.
    Never,
    Fail(&'static str),
    Panic,
}

/// A body of these steps, that does not say how long it is unless it is told to.
pub(crate) struct Script {
    steps: VecDeque<Step>,
    /// Goes on with this, so often, if anything.
    more: Option<(Bytes, usize)>,
    waiting: Option<Pin<Box<Sleep>>>,
    /// What is left of the length that it says, in bytes.
    announced: Option<u64>,
    /// How often it was polled, for whoever asks.
    polls: Arc<AtomicUsize>,
    /// How many bytes it gave out, for whoever asks.
    given: Arc<AtomicUsize>,
    /// For who waits until it is dropped.
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

    /// One frame for each.
    pub(crate) fn frames<D: Into<Bytes>>(data: impl IntoIterator<Item = D>) -> Self {
        Self::new(data.into_iter().map(|data| Step::Data(data.into())))
    }

    /// This frame, again and again.
    pub(crate) fn endless(frame: impl Into<Bytes>) -> Self {
        Self::repeated(frame, usize::MAX)
    }

    /// This frame, so often.
    pub(crate) fn repeated(frame: impl Into<Bytes>, times: usize) -> Self {
        Self {
            more: Some((frame.into(), times)),
            ..Self::new([])
        }
    }

    /// Says that it is so long, in bytes, whether it is or not.
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

    /// Counts how often the body is polled.
    pub(crate) fn polls(&self) -> impl Fn() -> usize + use<> {
        let polls = Arc::clone(&self.polls);
        move || polls.load(Ordering::SeqCst)
    }

    /// Counts the bytes that it gave out.
    pub(crate) fn given(&self) -> impl Fn() -> usize + use<> {
        let given = Arc::clone(&self.given);
        move || given.load(Ordering::SeqCst)
    }

    /// Whether it was dropped.
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
