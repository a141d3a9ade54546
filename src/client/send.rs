//! Sends a request: one attempt after the other, until a response settles the
//! operation or the client gives up.

use std::future::{Future, poll_fn};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::{Request, Response, response};
use http_body::Body;
use tokio::time::{Instant, sleep_until, timeout_at};
use tower::util::ServiceExt;
use tower_service::Service;
use tracing::debug;

use super::body::BufferedBody;
use super::error::{Attempt, AttemptOutcome, Error, ErrorKind};
use super::options::{Options, Pauses};
use super::received::Received;
use crate::message::body::{BodyBuffer, BoxError, FullBody};
use crate::message::media_type::never_ends;

impl Options {
    /// Sends the request until a response settles the operation.
    pub(super) async fn send<S, B, R>(
        &self,
        http: S,
        mut request: Request<B>,
    ) -> Result<Response<BufferedBody<R>>, Error>
    where
        S: Service<Request<B>, Response = Response<R>> + Clone,
        S::Error: Into<BoxError>,
        B: Clone,
        R: Body,
        R::Error: Into<BoxError>,
    {
        let may_repeat = self.may_repeat(&request);
        let target = self.target(&request);
        let deadline = Instant::now() + self.deadline;
        let mut attempts = Vec::new();
        let mut pauses = None;
        loop {
            let copy = may_repeat.then(|| request.clone());
            let (attempt, response) = self.attempt(http.clone(), request, deadline).await;
            let again = match &response {
                Some((response, received)) => self.calls_for_another(response.status(), received),
                None => self.helps_against(&attempt).then_some(Duration::ZERO),
            };
            attempts.push(attempt);
            match (copy, again, response) {
                (Some(copy), Some(at_least), response) => {
                    match self.next_attempt(attempts.len(), &mut pauses, at_least, deadline) {
                        Ok(next) => {
                            let last = attempts.last().map(tracing::field::display);
                            debug!(last, "sent again");
                            // The connection can't be used again while a part
                            // of this response is unread.
                            drop(response);
                            sleep_until(next).await;
                            request = copy;
                        }
                        Err(kind) => {
                            let last = response.map(head_of);
                            return Err(Error::new(target, attempts, kind, last));
                        }
                    }
                }
                (copy, _, Some((mut response, mut received))) => {
                    if let (Some(_), Some(budget)) = (copy, &self.budget) {
                        budget.deposit();
                    }
                    received.attempts = attempts;
                    response.extensions_mut().insert(received);
                    return Ok(response);
                }
                (_, _, None) => {
                    return Err(Error::new(target, attempts, ErrorKind::Failed, None));
                }
            }
        }
    }

    /// Returns when the request is to be sent again, or why it is not.
    fn next_attempt(
        &self,
        made: usize,
        pauses: &mut Option<Pauses>,
        at_least: Duration,
        deadline: Instant,
    ) -> Result<Instant, ErrorKind> {
        if made >= self.attempts {
            return Err(ErrorKind::OutOfAttempts);
        }
        let pauses = pauses.get_or_insert_with(|| (self.backoff)());
        let pause = pauses();
        let next = pause.deadline().max(Instant::now() + at_least);
        if next >= deadline {
            return Err(ErrorKind::OutOfTime);
        }
        match &self.budget {
            Some(budget) if !budget.withdraw() => Err(ErrorKind::OutOfBudget),
            _ => Ok(next),
        }
    }

    /// Makes one attempt: waits for the HTTP client to be ready, sends the
    /// request and reads the response, all before `attempt_timeout` and the
    /// deadline of the operation.
    async fn attempt<S, B, R>(
        &self,
        http: S,
        request: Request<B>,
        deadline: Instant,
    ) -> (Attempt, Option<(Response<BufferedBody<R>>, Received)>)
    where
        S: Service<Request<B>, Response = Response<R>>,
        S::Error: Into<BoxError>,
        R: Body,
        R::Error: Into<BoxError>,
    {
        let (began_at, began) = (SystemTime::now(), Instant::now());
        let until = (began + self.attempt_timeout).min(deadline);
        let response = timeout_at(until, self.read(http.oneshot(request))).await;
        let attempt = |outcome, error| Attempt {
            began_at,
            took: began.elapsed(),
            outcome,
            error,
        };
        match response {
            Ok(Ok(response)) => {
                let received = self.received(&response);
                let outcome = received.outcome(response.status());
                (attempt(outcome, None), Some((response, received)))
            }
            Ok(Err((outcome, error))) => (attempt(outcome, Some(error.into())), None),
            Err(elapsed) => {
                let outcome = AttemptOutcome::TimedOut;
                (attempt(outcome, Some(Arc::new(elapsed))), None)
            }
        }
    }

    /// Reads the response up to `max_response_body`, so that a response which
    /// breaks off is an error while the request can still be sent again.
    async fn read<R, E>(
        &self,
        sent: impl Future<Output = Result<Response<R>, E>>,
    ) -> Result<Response<BufferedBody<R>>, (AttemptOutcome, BoxError)>
    where
        R: Body,
        R::Error: Into<BoxError>,
        E: Into<BoxError>,
    {
        let response = sent
            .await
            .map_err(|error| (AttemptOutcome::NoResponse, error.into()))?;
        let (head, body) = response.into_parts();
        let mut body = Box::pin(body);
        if never_ends(&head) {
            let body = BufferedBody::new(FullBody::default(), Some(body));
            return Ok(Response::from_parts(head, body));
        }
        let mut buffer = BodyBuffer::default();
        let mut admit = up_to(self.max_response_body);
        let ended = poll_fn(|cx| buffer.poll_from(body.as_mut(), &mut admit, cx))
            .await
            .map_err(|error| (AttemptOutcome::CutOff(head.status), error))?;
        let body = BufferedBody::new(buffer.whole(), (!ended).then_some(body));
        Ok(Response::from_parts(head, body))
    }

    fn received<R>(&self, response: &Response<BufferedBody<R>>) -> Received {
        let received = self.marks.read(response.headers());
        match response.body().whole() {
            Some(body) => received.with_body(response.status(), response.headers(), body),
            None => received,
        }
    }
}

/// The head of the last response, for the error.
fn head_of<R>((mut response, received): (Response<R>, Received)) -> response::Parts {
    response.extensions_mut().insert(received);
    response.into_parts().0
}

/// A function that is called with each frame's length, and returns whether all frames
/// so far fit into `limit`.
fn up_to(limit: usize) -> impl FnMut(usize) -> bool {
    let mut left = Some(limit);
    move |bytes| {
        left = left.and_then(|left| left.checked_sub(bytes));
        left.is_some()
    }
}
