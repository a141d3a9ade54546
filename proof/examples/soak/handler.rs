//! The handler does what the plan says, and writes that into the ledger.

use std::collections::VecDeque;
use std::panic::resume_unwind;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::Body as RequestBody;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use tokio::time::{Sleep, sleep};
use tower_idempotency::IdempotencyContext;

use super::history::{Answered, End, digest};
use super::ledger::{Ledger, Running};
use super::plan::{Behaviour, Breaks, Operation, Shape, Then};

pub(crate) type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// This header names the execution that a response comes from.
pub(crate) const EXECUTION: &str = "x-execution";
const TRAILER: &str = "x-sum";

pub(crate) async fn handle(
    ledger: Arc<Ledger>,
    seed: u64,
    request: Request<RequestBody>,
) -> Result<Response<Answer>, BoxError> {
    let (parts, body) = request.into_parts();
    let header = |name: &str| parts.headers.get(name)?.to_str().ok();
    let named = header("x-api-key").zip(header("idempotency-key"));
    let operation = named.and_then(|(caller, key)| Operation::of(caller, key));
    let operation = operation.ok_or("a request that no client sent")?;
    let body = body.collect().await?.to_bytes();
    let context = parts.extensions.get::<IdempotencyContext>().cloned();

    let running = ledger.begin(operation, operation.asked(&body), context);
    let behaviour = Behaviour::of(seed, operation, running.earlier);
    if !behaviour.works_for.is_zero() {
        sleep(behaviour.works_for).await;
    }
    match behaviour.then {
        Then::Panic => {
            running.end(End::Panicked);
            panic_quietly()
        }
        Then::Fail => {
            running.end(End::Failed);
            Err("as planned".into())
        }
        Then::Answer(shape) => Ok(Answer::response(running, operation, &shape)),
    }
}

/// Panics without the panic hook, which would print thousands of panics.
fn panic_quietly() -> ! {
    resume_unwind(Box::new("as planned"))
}

/// This is the body of a response. The execution runs until the body ends.
#[derive(Debug)]
pub(crate) struct Answer {
    steps: VecDeque<Step>,
    waits: Option<Pin<Box<Sleep>>>,
    announced: Option<u64>,
    running: Option<Running>,
}

#[derive(Debug)]
enum Step {
    Wait(Duration),
    Data(Bytes),
    Trailers(HeaderMap),
    Break(Breaks),
}

impl Answer {
    fn response(running: Running, operation: Operation, shape: &Shape) -> Response<Self> {
        let number = running.number();
        let mut body = format!("Execution {number} of operation {}. ", operation.0).repeat(
            // One sentence has at least 20 bytes, so this many sentences are
            // enough.
            1 + shape.length / 20,
        );
        body.truncate(shape.length);
        let body = Bytes::from(body);
        let sum = format!("{number}-{}", shape.length);
        let trailers = [(TRAILER.to_owned(), sum.clone())];
        let sent = if shape.trailers { &trailers[..] } else { &[] };
        running.answers(Answered {
            status: shape.status,
            length: shape.length,
            digest: digest(shape.status, &body, sent),
        });

        let mut steps = VecDeque::new();
        let piece = body.len().div_ceil(shape.pieces).max(1);
        for (at, start) in (0..body.len()).step_by(piece).enumerate() {
            if at > 0 && !shape.pause.is_zero() {
                steps.push_back(Step::Wait(shape.pause));
            }
            if at == 1
                && let Some(breaks) = shape.breaks
            {
                steps.push_back(Step::Break(breaks));
                break;
            }
            steps.push_back(Step::Data(body.slice(start..body.len().min(start + piece))));
        }
        let sum = HeaderValue::from_str(&sum).expect("digits and a hyphen");
        if shape.trailers {
            steps.push_back(Step::Trailers(HeaderMap::from_iter([(
                header::HeaderName::from_static(TRAILER),
                sum,
            )])));
        }
        let announced = shape.with_length.then_some(body.len() as u64);

        let mut response = Response::new(Self {
            steps,
            waits: None,
            announced,
            running: Some(running),
        });
        *response.status_mut() = StatusCode::from_u16(shape.status).expect("a planned status");
        let headers = response.headers_mut();
        headers.insert(EXECUTION, HeaderValue::from(number));
        if let Some(length) = announced {
            headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
        }
        if shape.trailers {
            headers.insert(header::TRAILER, HeaderValue::from_static(TRAILER));
        }
        response.body_mut().end_if_over();
        response
    }

    /// Ends the execution as soon as no step is left, because a server need not
    /// poll a body whose `is_end_stream` is true.
    fn end_if_over(&mut self) {
        if self.steps.is_empty() {
            self.end(End::Whole);
        }
    }

    fn end(&mut self, end: End) {
        if let Some(running) = self.running.take() {
            running.end(end);
        }
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        loop {
            if let Some(sleep) = &mut self.waits {
                ready!(sleep.as_mut().poll(cx));
                self.waits = None;
            }
            let frame = match self.steps.pop_front() {
                None => return Poll::Ready(None),
                Some(Step::Wait(pause)) => {
                    self.waits = Some(Box::pin(sleep(pause)));
                    continue;
                }
                Some(Step::Break(Breaks::WithAnError)) => {
                    self.steps.clear();
                    self.end(End::BrokeOff);
                    return Poll::Ready(Some(Err("as planned".into())));
                }
                Some(Step::Break(Breaks::WithAPanic)) => {
                    self.end(End::BodyPanicked);
                    panic_quietly()
                }
                Some(Step::Data(data)) => {
                    if let Some(left) = &mut self.announced {
                        *left -= data.len() as u64;
                    }
                    Frame::data(data)
                }
                Some(Step::Trailers(trailers)) => Frame::trailers(trailers),
            };
            self.end_if_over();
            return Poll::Ready(Some(Ok(frame)));
        }
    }

    fn is_end_stream(&self) -> bool {
        self.steps.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        self.announced
            .map_or_else(SizeHint::new, SizeHint::with_exact)
    }
}
