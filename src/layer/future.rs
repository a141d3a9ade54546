//! The future of a request: passed through, rejected, or protected.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use http::Response;
use http_body::Body;
use pin_project_lite::pin_project;
use tracing::{Instrument, Span};

use crate::message::body::BoxError;
use crate::message::response_body::ResponseBody;
use crate::options::OnDisconnect;
use crate::rejection::grpc::{deadline_exceeded, deadline_exceeded_response};
use crate::request::flow::BoxFlow;
use crate::request::observe_mode::Observing;
use crate::request::operation::Progress;
use crate::runtime::Handle;
use crate::runtime::deadline::Moment;

pin_project! {
    /// The future that [`Idempotency`](crate::Idempotency) returns.
    ///
    /// Dropping the future does not cancel an operation that began (G4): the operation
    /// goes on in the tokio runtime that dropped the future, unless its route says
    /// [`OnDisconnect::Cancel`]. A claim whose handler has not begun is given back.
    pub struct ResponseFuture<F, R, E>
    where
        R: 'static,
        E: 'static,
    {
        #[pin]
        kind: Kind<F, R, E>,
    }
}

pin_project! {
    #[project = KindProjection]
    enum Kind<F, R, E>
    where
        R: 'static,
        E: 'static,
    {
        Passed { #[pin] future: F },
        Observed { #[pin] future: F, observing: Option<Observing> },
        Rejected { response: Option<Response<ResponseBody<R>>> },
        Protected { protected: Protected<R, E> },
    }
}

/// The path of a protected request.
struct Protected<R, E>
where
    R: 'static,
    E: 'static,
{
    /// `None` once the path is over, and while it is polled: a path that panicked is
    /// not polled again, nor handed to a task by the drop below.
    flow: Option<BoxFlow<R, E>>,
    /// When the client of a gRPC call stops waiting.
    deadline: Option<Moment>,
    /// The span of the request. Disabled where no subscriber wants it.
    span: Span,
}

impl<F: Future, R: 'static, E: 'static> ResponseFuture<F, R, E> {
    /// The output of the service's own future, if the request passes; `None` for any other request.
    #[cfg(feature = "axum")]
    #[inline]
    pub(super) fn poll_passed(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Option<Poll<F::Output>> {
        match self.project().kind.project() {
            KindProjection::Passed { future } => Some(future.poll(cx)),
            _ => None,
        }
    }
}

impl<F, R: 'static, E: 'static> ResponseFuture<F, R, E> {
    pub(crate) fn passed(future: F) -> Self {
        Self {
            kind: Kind::Passed { future },
        }
    }

    /// A request that passes, and is observed.
    pub(crate) fn observed(future: F, observing: Observing) -> Self {
        if !observing.has_more_to_do() {
            return Self::passed(future);
        }
        let observing = Some(observing);
        Self {
            kind: Kind::Observed { future, observing },
        }
    }

    pub(crate) fn rejected(response: Response<ResponseBody<R>>) -> Self {
        Self {
            kind: Kind::Rejected {
                response: Some(response),
            },
        }
    }

    pub(crate) fn protected(flow: BoxFlow<R, E>, deadline: Option<Moment>, span: Span) -> Self {
        let protected = Protected {
            flow: Some(flow),
            deadline,
            span,
        };
        Self {
            kind: Kind::Protected { protected },
        }
    }
}

impl<F, R: 'static, E: 'static> Future for ResponseFuture<F, R, E>
where
    F: Future<Output = Result<Response<R>, E>>,
    R: Body,
    R::Error: Into<BoxError>,
{
    type Output = Result<Response<ResponseBody<R>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().kind.project() {
            KindProjection::Passed { future } => {
                let response = ready!(future.poll(cx))?;
                Poll::Ready(Ok(response.map(ResponseBody::passed)))
            }
            KindProjection::Observed { future, observing } => {
                // Taken out while the handler runs: the drop after a panic is told from that of a
                // client that leaves.
                let mut own = observing.take().expect("polled after completion");
                match future.poll(cx) {
                    Poll::Pending => {
                        own.waits();
                        *observing = Some(own);
                        Poll::Pending
                    }
                    Poll::Ready(Ok(response)) => Poll::Ready(Ok(own.respond(response))),
                    Poll::Ready(Err(error)) => {
                        own.fail();
                        Poll::Ready(Err(error))
                    }
                }
            }
            KindProjection::Rejected { response } => {
                Poll::Ready(Ok(response.take().expect("polled after completion")))
            }
            KindProjection::Protected { protected } => protected.poll(cx),
        }
    }
}

impl<R: 'static, E: 'static> Protected<R, E> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Response<ResponseBody<R>>, E>> {
        let mut flow = self.flow.take().expect("polled after completion");
        let polled = self.span.in_scope(|| flow.as_mut().poll(cx));
        if let Poll::Ready(response) = polled {
            return Poll::Ready(response.map(|response| match self.deadline.take() {
                Some(deadline) => response.map(|body| body.until(deadline, deadline_exceeded())),
                None => response,
            }));
        }
        self.flow = Some(flow);
        let Some(deadline) = &mut self.deadline else {
            return Poll::Pending;
        };
        ready!(deadline.poll(cx));
        self.go_on_without_client();
        let response = deadline_exceeded_response();
        Poll::Ready(Ok(response.map(|_| ResponseBody::default())))
    }

    fn go_on_without_client(&mut self) {
        let Some(flow) = self.flow.take() else {
            return;
        };
        // Without an operation nothing is stored, and nothing has begun.
        let Some(operation) = flow.as_ref().operation().map(Arc::clone) else {
            return;
        };
        let goes_on = match operation.progress() {
            // Nothing is stored, and nothing has begun.
            Progress::Reading => false,
            Progress::Running => operation.options.on_disconnect != OnDisconnect::Cancel,
            Progress::Claiming | Progress::Recording => true,
        };
        // Without a runtime no task can go on: the lease's owner, which the flow
        // holds, gives the record back when the flow is dropped.
        let runtime = Handle::try_current().ok().filter(|_| goes_on);
        let Some(runtime) = runtime else {
            drop(flow);
            // The handler may have given its context, and the operation with it, to a task or a
            // thread.
            operation.handler_responded();
            return;
        };
        if operation.progress() == Progress::Claiming {
            operation.leave_client();
        }
        let rest = async move { drop(flow.await) };
        let rest = rest.instrument(operation.span.clone());
        operation.account().spawn(&runtime, rest);
    }
}

impl<R: 'static, E: 'static> Drop for Protected<R, E> {
    fn drop(&mut self) {
        self.go_on_without_client();
    }
}

impl<F, R: 'static, E: 'static> fmt::Debug for ResponseFuture<F, R, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
