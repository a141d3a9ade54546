//! Responses as handlers write them, and what clients receive of them.

use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_LENGTH;
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use http_body::Body;
use tokio::runtime::{Builder, Handle};

use crate::support::body::{Script, Step};
use crate::support::in_time;

/// The response of a handler.
#[derive(Clone, Debug)]
pub(crate) struct Written {
    pub(crate) status: StatusCode,
    pub(crate) parts: Vec<Part>,
    pub(crate) trailers: bool,
    pub(crate) end: End,
    pub(crate) announced: Announced,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Part {
    /// A frame of so many bytes.
    Data(usize),
    Yield,
    /// A pause of so many milliseconds.
    Wait(u64),
}

/// How a body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Whole,
    Broken,
    Panicked,
}

/// How the response announces its length. The number says how many bytes the
/// announced length is longer than the real one.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Announced {
    Nothing,
    ByHint(i64),
    ByHeader(i64),
}

impl Written {
    /// A complete `201` response with these parts.
    pub(crate) fn new(announced: Announced, parts: impl Into<Vec<Part>>) -> Self {
        Self {
            status: StatusCode::CREATED,
            parts: parts.into(),
            trailers: false,
            end: End::Whole,
            announced,
        }
    }

    pub(crate) fn ending(self, end: End) -> Self {
        Self { end, ..self }
    }

    pub(crate) fn len(&self) -> usize {
        let lengths = self.parts.iter().map(|part| match part {
            Part::Data(length) => *length,
            Part::Yield | Part::Wait(_) => 0,
        });
        lengths.sum()
    }

    /// The bytes of the body. No two parts of it are alike.
    pub(crate) fn data(&self) -> Bytes {
        (0..=250).cycle().take(self.len()).collect()
    }

    /// The length that the response announces.
    pub(crate) fn announced(&self) -> Option<u64> {
        let (Announced::ByHint(more) | Announced::ByHeader(more)) = self.announced else {
            return None;
        };
        Some(self.len().saturating_add_signed(more.try_into().unwrap()) as u64)
    }

    /// Whether the response announces a wrong length.
    pub(crate) fn lies(&self) -> bool {
        self.announced().is_some() && !self.is_known()
    }

    /// Whether the response announces its real length.
    pub(crate) fn is_known(&self) -> bool {
        self.announced() == Some(self.len() as u64)
    }

    pub(crate) fn response(&self) -> Response<Script> {
        let mut data = self.data();
        let mut body = Script::new(self.parts.iter().map(|part| match *part {
            Part::Data(length) => Step::Data(data.split_to(length)),
            Part::Yield => Step::Yield,
            Part::Wait(millis) => Step::Wait(Duration::from_millis(millis)),
        }));
        if self.trailers {
            body = body.and_trailer("sum", "42");
        }
        body = match self.end {
            End::Whole => body,
            End::Broken => body.then(Step::Fail("as the test wants it")),
            End::Panicked => body.then(Step::Panic),
        };
        let length = self.announced();
        if let (Announced::ByHint(_), Some(length)) = (self.announced, length) {
            body = body.announcing(length);
        }
        let mut response = Response::new(body);
        *response.status_mut() = self.status;
        if let (Announced::ByHeader(_), Some(length)) = (self.announced, length) {
            let length = HeaderValue::from(length);
            response.headers_mut().insert(CONTENT_LENGTH, length);
        }
        response
    }
}

/// What a client received of a response.
#[derive(Clone, Debug, Default)]
pub(crate) struct Got {
    /// `None` if a panic came instead.
    pub(crate) head: Option<(StatusCode, HeaderMap)>,
    pub(crate) data: Vec<u8>,
    pub(crate) trailers: Option<HeaderMap>,
    /// `None` while more may come.
    pub(crate) end: Option<End>,
    /// The text of the error.
    pub(crate) error: String,
    /// Whether the body reported its end by `is_end_stream`.
    pub(crate) said_end: bool,
}

impl Got {
    /// Reads to the end, and calls `look` after each step.
    pub(crate) async fn all<B, E>(
        call: impl Future<Output = Result<Response<B>, E>>,
        mut look: impl FnMut(&Self),
    ) -> Self
    where
        B: Body<Data = Bytes, Error: ToString>,
    {
        let mut got = Self::default();
        let mut call = pin!(call);
        let body = match in_time(poll_fn(|cx| caught(|| call.as_mut().poll(cx)))).await {
            None => {
                got.end = Some(End::Panicked);
                None
            }
            Some(Err(_)) => panic!("the service does not fail"),
            Some(Ok(response)) => {
                let (head, body) = response.into_parts();
                got.head = Some((head.status, head.headers));
                Some(body)
            }
        };
        look(&got);
        if let Some(body) = body {
            let mut body = pin!(body);
            while in_time(poll_fn(|cx| got.poll_more(body.as_mut(), cx))).await {
                look(&got);
            }
            look(&got);
        }
        got
    }

    /// Polls for one more frame. Returns whether another one may follow.
    pub(crate) fn poll_more<B>(&mut self, mut body: Pin<&mut B>, cx: &mut Context<'_>) -> Poll<bool>
    where
        B: Body<Data = Bytes, Error: ToString>,
    {
        let frame = match caught(|| body.as_mut().poll_frame(cx)) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(frame) => frame,
        };
        self.said_end |= body.is_end_stream();
        match frame {
            None => self.end = Some(End::Panicked),
            Some(None) => self.end = Some(End::Whole),
            Some(Some(Err(error))) => {
                self.end = Some(End::Broken);
                self.error = error.to_string();
            }
            Some(Some(Ok(frame))) => match frame.into_data() {
                Ok(data) => self.data.extend(data),
                Err(frame) => self.trailers = frame.into_trailers().ok(),
            },
        }
        Poll::Ready(self.end.is_none())
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let (_, headers) = self.head.as_ref()?;
        headers.get(name)?.to_str().ok()
    }

    /// Names the kind of the response to a retry.
    pub(crate) fn kind(&self) -> &'static str {
        let refused = self.header("content-type") == Some("application/problem+json");
        let text = String::from_utf8_lossy(&self.data);
        match (refused, self.header("idempotency-replayed")) {
            (true, _) if text.contains("\"response-unavailable\"") => "response-unavailable",
            (true, _) if text.contains("\"in-flight\"") => "in-flight",
            (true, _) => panic!("an unexpected refusal: {text}"),
            (false, Some("true")) => "replay",
            (false, _) => "fresh",
        }
    }
}

/// Returns `None` if `poll` panics.
fn caught<T>(poll: impl FnOnce() -> Poll<T>) -> Poll<Option<T>> {
    match catch_unwind(AssertUnwindSafe(poll)) {
        Ok(poll) => poll.map(Some),
        Err(_) => Poll::Ready(None),
    }
}

/// Runs a test on a runtime of its own whose clock is paused.
pub(crate) fn paused<F: Future>(test: F) -> F::Output {
    let mut runtime = Builder::new_current_thread();
    let runtime = runtime.enable_time().start_paused(true).build().unwrap();
    runtime.block_on(test)
}

/// How many tasks are alive.
pub(crate) fn tasks() -> usize {
    Handle::current().metrics().num_alive_tasks()
}
