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

/// A body of these steps, that does not say how long it is.
pub(crate) struct Script {
    steps: VecDeque<Step>,
    /// Goes on with this for ever, if anything.
    forever: Option<Bytes>,
    waiting: Option<Pin<Box<Sleep>>>,
    /// How often it was polled, for whoever asks.
    polls: Arc<AtomicUsize>,
}

impl Script {
    pub(crate) fn new(steps: impl IntoIterator<Item = Step>) -> Self {
        Self {
            steps: steps.into_iter().collect(),
            forever: None,
            waiting: None,
            polls: Arc::default(),
        }
    }

    /// One frame for each.
    pub(crate) fn frames<D: Into<Bytes>>(data: impl IntoIterator<Item = D>) -> Self {
        Self::new(data.into_iter().map(|data| Step::Data(data.into())))
    }

    /// This frame, again and again.
    pub(crate) fn endless(frame: impl Into<Bytes>) -> Self {
        Self {
            forever: Some(frame.into()),
            ..Self::new([])
        }
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
                None => match &self.forever {
                    Some(frame) => Ok(Frame::data(frame.clone())),
                    None => return Poll::Ready(None),
                },
            };
            return Poll::Ready(Some(frame));
        }
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}
