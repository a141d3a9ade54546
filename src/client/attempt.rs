//! One attempt: sent, timed, and its answer read to the end.

use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::SystemTime;

use http::{Request, Response, StatusCode};
use http_body::Body;
use tokio::time::{Instant, timeout_at};
use tower::util::ServiceExt;
use tower_layer::Layer;
use tower_service::Service;

use super::answer_body::AnswerBody;
use super::error::{Attempt, Error, ErrorKind, Outcome};
use super::options::Options;
use super::policy::Deadline;
use crate::message::body::{BodyBuffer, BoxError, FullBody, up_to};
use crate::message::media_type::never_ends;

/// Makes [`ReadAnswers`]: the layer that goes between tower's `Retry` and a
/// client. See [`RetryPolicy::read_answers`](super::RetryPolicy::read_answers).
#[derive(Clone, Debug)]
pub struct ReadAnswersLayer {
    pub(super) options: Arc<Options>,
}

impl<S> Layer<S> for ReadAnswersLayer {
    type Service = ReadAnswers<S>;

    fn layer(&self, inner: S) -> ReadAnswers<S> {
        ReadAnswers {
            inner,
            options: Arc::clone(&self.options),
        }
    }
}

/// Makes one attempt within its time, and reads the answer to its end, so that
/// one that breaks off is an error while it can still be retried. Leaves
/// [`Received`](super::Received) in the response's extensions.
///
/// It is always ready, and waits for the service inside as part of the attempt:
/// a service that does not get ready is one that timed out.
#[derive(Clone)]
pub struct ReadAnswers<S> {
    inner: S,
    options: Arc<Options>,
}

impl<S, B, R> Service<Request<B>> for ReadAnswers<S>
where
    S: Service<Request<B>, Response = Response<R>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
    B: Send + 'static,
    R: Body + Send + 'static,
    R::Error: Into<BoxError>,
{
    type Response = Response<AnswerBody<R>>;
    type Error = Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let inner = self.inner.clone();
        let options = Arc::clone(&self.options);
        let (began_at, began) = (SystemTime::now(), Instant::now());
        let asked = options.asked(&request);
        let until = match request.extensions().get::<Deadline>() {
            Some(Deadline(deadline)) => (began + options.attempt_timeout).min(*deadline),
            None => began + options.attempt_timeout.min(options.deadline),
        };
        Box::pin(async move {
            let answer = timeout_at(until, options.answer_of(inner.oneshot(request))).await;
            let attempt = |outcome| Attempt::new(began_at, began.elapsed(), outcome);
            let attempt = match answer {
                Ok(Ok(mut response)) => {
                    options.note(&mut response, attempt);
                    return Ok(response);
                }
                Ok(Err(Broken::Unanswered(error))) => {
                    attempt(Outcome::Unanswered).with_error(error)
                }
                Ok(Err(Broken::CutOff(status, error))) => {
                    attempt(Outcome::CutOff(status)).with_error(error)
                }
                Err(elapsed) => attempt(Outcome::TimedOut).with_error(elapsed.into()),
            };
            Err(Error::new(asked, vec![attempt], ErrorKind::Failed))
        })
    }
}

/// An attempt without a whole answer.
enum Broken {
    Unanswered(BoxError),
    CutOff(StatusCode, BoxError),
}

impl Options {
    async fn answer_of<R, E>(
        &self,
        sent: impl Future<Output = Result<Response<R>, E>>,
    ) -> Result<Response<AnswerBody<R>>, Broken>
    where
        R: Body,
        R::Error: Into<BoxError>,
        E: Into<BoxError>,
    {
        let response = sent
            .await
            .map_err(|error| Broken::Unanswered(error.into()))?;
        let (head, body) = response.into_parts();
        let mut body = Box::pin(body);
        if never_ends(&head) {
            let body = AnswerBody::of(FullBody::default(), Some(body));
            return Ok(Response::from_parts(head, body));
        }
        let mut read = BodyBuffer::default();
        let mut admit = up_to(self.max_answer_body);
        let to_the_end = poll_fn(|cx| read.poll_from(body.as_mut(), &mut admit, cx))
            .await
            .map_err(|error| Broken::CutOff(head.status, error))?;
        let rest = (!to_the_end).then_some(body);
        Ok(Response::from_parts(
            head,
            AnswerBody::of(read.whole(), rest),
        ))
    }

    /// Leaves in the response what it says.
    fn note<R>(
        &self,
        response: &mut Response<AnswerBody<R>>,
        attempt: impl FnOnce(Outcome) -> Attempt,
    ) {
        let status = response.status();
        let mut received = self.marks.read(response.headers());
        if let Some(body) = response.body().whole() {
            received = received.with_body(status, response.headers(), body);
        }
        let attempt = attempt(received.outcome(status));
        received.attempts.push(attempt);
        response.extensions_mut().insert(received);
    }
}

impl<S> fmt::Debug for ReadAnswers<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReadAnswers").finish_non_exhaustive()
    }
}
