//! The path of one request through steps 4 to 8, in one allocation.

use std::future::Future;
use std::ops::ControlFlow;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::request::Parts;
use http::{Request, Response};
use http_body::Body;
use pin_project_lite::pin_project;
use tower_service::Service;

use crate::limits::{Full, Holding};
use crate::message::body::{BoxError, FullBody};
use crate::message::response_body::ResponseBody;
use crate::request::admit::{Admission, Admitted, Decision};
use crate::request::claim::Protection;
use crate::request::content::BodyReading;
use crate::request::operation::{Operation, ProtectedRequest};
use crate::request::{Execution, finish};
use crate::runtime::catch::{CatchUnwind, Panic};

/// The path of a protected request: a future of its response.
pub(crate) trait Flow<R, E>:
    Future<Output = Result<Response<ResponseBody<R>>, E>> + Send
{
    /// The operation, once it has begun or its admission takes time.
    fn operation(self: Pin<&Self>) -> Option<&Arc<Operation>>;
}

/// A [`Flow`] in the one allocation that it has.
pub(crate) type BoxFlow<R, E> = Pin<Box<dyn Flow<R, E>>>;

/// Steps 4 to 8 of one request.
pub(crate) fn flow<S, B, R>(
    request: ProtectedRequest,
    parts: Parts,
    body: B,
    service: S,
) -> BoxFlow<R, S::Error>
where
    S: Service<Request<B>, Response = Response<R>> + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
    B: Body + From<Bytes> + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
    R: Body + Send + 'static,
    R::Data: Send,
    R::Error: Into<BoxError>,
{
    // The place is taken before the body is read: a body that never comes holds a place too.
    let place = request.place().ok();
    match BodyReading::new(request.limits(), body) {
        Ok(begun) => {
            // Allocated before it is made: a value that could be dropped for lack of memory would be
            // made elsewhere, and moved.
            let flow = Box::write(
                Box::new_uninit(),
                RequestFlow {
                    step: Step::Reading {
                        asked: None,
                        reading: None,
                    },
                    finish: finish::<R, S::Error>,
                },
            );
            let mut flow = Box::into_pin(flow);
            let step = flow.as_mut().project().step.project();
            let StepProjection::Reading { asked, mut reading } = step else {
                unreachable!("it is the first step");
            };
            *asked = Some(Asked {
                request,
                parts,
                service,
                place,
            });
            reading.set(Some(begun));
            flow
        }
        Err((body, full)) => flow_without_room(request, parts, body, full, service, place),
    }
}

/// Steps 4 to 8 of a request whose body there is no room for.
pub(super) fn flow_without_room<S, B, R>(
    request: ProtectedRequest,
    parts: Parts,
    body: B,
    full: Full,
    service: S,
    place: Option<Holding>,
) -> BoxFlow<R, S::Error>
where
    S: Service<Request<B>, Response = Response<R>> + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
    B: Body + From<Bytes> + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
    R: Body + Send + 'static,
    R::Data: Send,
    R::Error: Into<BoxError>,
{
    let operation = Arc::new(Operation::new(request, None));
    let admission = operation.admit_digested(parts, body, full, place);
    Box::pin(RequestFlow {
        step: Step::Admitting {
            operation,
            service,
            admission,
        },
        finish: finish::<R, S::Error>,
    })
}

/// Steps 5 to 8 of a request whose body was read, or the response of a request whose handler does not
/// run.
pub(super) fn flow_of_read<S, B, R>(
    request: ProtectedRequest,
    parts: Parts,
    body: FullBody,
    room: Holding,
    service: S,
    mut place: Option<Holding>,
) -> ControlFlow<Response<ResponseBody<R>>, BoxFlow<R, S::Error>>
where
    S: Service<Request<B>, Response = Response<R>> + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
    B: Body + From<Bytes> + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
    R: Body + Send + 'static,
    R::Data: Send,
    R::Error: Into<BoxError>,
{
    match request.decide_at_once(&parts, body.into(), &mut place) {
        Ok(decision) => {
            let asked = Asked {
                request,
                parts,
                service,
                place,
            };
            let mut flow = Box::pin(RequestFlow {
                step: Step::Over,
                finish: finish::<R, S::Error>,
            });
            asked.decided::<B, _>(decision, room, flow.as_mut().project().step);
            ControlFlow::Continue(flow)
        }
        Err(stop) => ControlFlow::Break(request.stop(stop, Some(&parts))),
    }
}

/// A request whose body is being read.
struct Asked<S> {
    request: ProtectedRequest,
    parts: Parts,
    service: S,
    place: Option<Holding>,
}

impl<S> Asked<S> {
    /// The step by which the request goes on once its body was read. `room` is that of the body.
    fn decided<B, X>(
        self,
        decision: Decision,
        room: Holding,
        mut step: Pin<&mut Step<S, B, S::Future, X>>,
    ) where
        S: Service<Request<B>>,
        B: From<Bytes>,
    {
        let Asked {
            request,
            parts,
            service,
            place,
        } = self;
        match decision {
            Decision::Acquired(claim, grant, place, body) => {
                let (operation, owner) = Operation::begun(request, room, claim, grant, place);
                let protection = Protection::Own(owner);
                let admitted = Admitted { protection, body };
                handle(operation, service, parts, admitted, step);
            }
            Decision::TakesTime(claim, body) => {
                let operation = Arc::new(Operation::new(request, Some(room)));
                step.set(Step::Admitting {
                    admission: operation.admit(parts, body, claim, place),
                    operation,
                    service,
                });
            }
        }
    }
}

pin_project! {
    /// The steps of a request, and the function that makes the future of the last one.
    struct RequestFlow<S, B, H, X, F> {
        #[pin]
        step: Step<S, B, H, X>,
        finish: F,
    }
}

pin_project! {
    #[project = StepProjection]
    #[project_ref = StepRef]
    #[project_replace = StepTaken]
    enum Step<S, B, H, X> {
        // What is large is in an `Option`: a step that has nothing yet is replaced by the next one
        // without moving all that a step has room for. So it is taken out, and put in.
        /// Step 4: the body is being read.
        Reading {
            asked: Option<Asked<S>>,
            #[pin]
            reading: Option<BodyReading<B>>,
        },
        /// Step 5, where it takes time.
        Admitting {
            operation: Arc<Operation>,
            service: S,
            admission: Admission,
        },
        /// Step 6: the handler runs.
        Handling {
            // Declared, and so dropped, before the lease that `execution` owns: while the drop of the
            // handler's future runs, no other execution may begin (G1).
            #[pin]
            handling: CatchUnwind<H>,
            execution: Option<Execution>,
        },
        /// Steps 7 and 8.
        Finishing {
            operation: Arc<Operation>,
            #[pin]
            finishing: Option<X>,
        },
        Over,
    }
}

impl<S, B, R, X, F> Future for RequestFlow<S, B, S::Future, X, F>
where
    S: Service<Request<B>, Response = Response<R>>,
    B: Body + From<Bytes>,
    B::Error: Into<BoxError>,
    X: Future<Output = Result<Response<ResponseBody<R>>, S::Error>>,
    F: Fn(Execution, Result<Result<Response<R>, S::Error>, Panic>) -> X,
{
    type Output = Result<Response<ResponseBody<R>>, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let mut step = this.step;
        loop {
            match step.as_mut().project() {
                StepProjection::Reading { asked, reading } => {
                    let mut reading = reading.as_pin_mut().expect("the body is being read");
                    let Asked {
                        request,
                        parts,
                        place,
                        ..
                    } = asked.as_mut().expect("the body is being read");
                    let decided = match ready!(reading.as_mut().poll(request.limits(), parts, cx)) {
                        Ok(body) => request.decide_at_once(parts, body, place),
                        Err(stop) => Err(stop),
                    };
                    let decision = match decided {
                        Ok(decision) => decision,
                        Err(stop) => return Poll::Ready(Ok(request.stop(stop, Some(parts)))),
                    };
                    let room = reading.take_room();
                    let asked = asked.take().expect("the body was being read");
                    asked.decided(decision, room, step.as_mut());
                }
                StepProjection::Admitting {
                    operation,
                    admission,
                    ..
                } => {
                    let (parts, admitted) = ready!(admission.as_mut().poll(cx));
                    let admitted = match admitted {
                        Ok(admitted) => admitted,
                        Err(stop) => return Poll::Ready(Ok(operation.stop(stop, Some(&parts)))),
                    };
                    let StepTaken::Admitting {
                        operation, service, ..
                    } = step.as_mut().project_replace(Step::Over)
                    else {
                        unreachable!("the request was being admitted");
                    };
                    handle(operation, service, *parts, admitted, step.as_mut());
                }
                StepProjection::Handling {
                    execution,
                    handling,
                } => {
                    let Poll::Ready(handled) = handling.poll(cx) else {
                        let running = execution.as_ref().expect("the handler runs");
                        running.operation.watch();
                        return Poll::Pending;
                    };
                    let execution = execution.take().expect("the handler ran");
                    // The handler's future is dropped before its lease can be given back.
                    step.set(Step::Finishing {
                        operation: Arc::clone(&execution.operation),
                        finishing: None,
                    });
                    execution.operation.handler_responded();
                    let StepProjection::Finishing { mut finishing, .. } = step.as_mut().project()
                    else {
                        unreachable!("the operation is being finished");
                    };
                    finishing.set(Some((this.finish)(execution, handled)));
                }
                StepProjection::Finishing {
                    operation,
                    finishing,
                } => {
                    let finishing = finishing.as_pin_mut().expect("it was put here");
                    let Poll::Ready(response) = finishing.poll(cx) else {
                        operation.watch();
                        return Poll::Pending;
                    };
                    return Poll::Ready(response);
                }
                StepProjection::Over => unreachable!("polled after completion"),
            }
        }
    }
}

impl<S, B, R, X, F> Flow<R, S::Error> for RequestFlow<S, B, S::Future, X, F>
where
    S: Service<Request<B>, Response = Response<R>> + Send,
    S::Future: Send,
    B: Body + From<Bytes> + Send,
    B::Error: Into<BoxError>,
    X: Future<Output = Result<Response<ResponseBody<R>>, S::Error>> + Send,
    F: Fn(Execution, Result<Result<Response<R>, S::Error>, Panic>) -> X + Send,
{
    fn operation(self: Pin<&Self>) -> Option<&Arc<Operation>> {
        match self.project_ref().step.project_ref() {
            StepRef::Admitting { operation, .. } | StepRef::Finishing { operation, .. } => {
                Some(operation)
            }
            StepRef::Handling { execution, .. } => {
                execution.as_ref().map(|execution| &execution.operation)
            }
            StepRef::Reading { .. } | StepRef::Over => None,
        }
    }
}

/// Step 6: calls the handler.
fn handle<S, B, X>(
    operation: Arc<Operation>,
    mut service: S,
    mut parts: Parts,
    Admitted { protection, body }: Admitted,
    mut step: Pin<&mut Step<S, B, S::Future, X>>,
) where
    S: Service<Request<B>>,
    B: From<Bytes>,
{
    let begun = Execution::begin(operation, &mut parts, protection, body.trailers);
    step.set(Step::Handling {
        handling: CatchUnwind::idle(),
        execution: None,
    });
    let StepProjection::Handling {
        handling,
        execution,
    } = step.project()
    else {
        unreachable!("the handler is about to run");
    };
    *execution = Some(begun);
    // A closure that owns the head moves it several times.
    let mut head = Some(parts);
    // Panics are caught so that the record has an end before they go on.
    handling.begin(|| {
        let head = head.take().expect("the handler is called once");
        service.call(Request::from_parts(head, B::from(body.data)))
    });
}

#[cfg(all(test, feature = "memory", not(feature = "_sql"), not(shuttle)))]
mod tests {
    use std::future::Ready;

    use http_body_util::Full;

    use super::*;
    use crate::layer::IdempotencyLayer;
    use crate::request::operation::KnownCaller;
    use crate::store::memory::MemoryStore;

    struct Handler;

    impl Service<Request<Full<Bytes>>> for Handler {
        type Response = Response<Full<Bytes>>;
        type Error = std::convert::Infallible;
        type Future = Ready<Result<Self::Response, Self::Error>>;

        fn poll_ready(
            &mut self,
            _: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Result<(), Self::Error>> {
            std::task::Poll::Ready(Ok(()))
        }

        fn call(&mut self, _: Request<Full<Bytes>>) -> Self::Future {
            unreachable!("the future is not polled")
        }
    }

    /// The future is allocated for each request, and glibc's fast path ends at 1 032
    /// bytes. With an SQL store the future is larger: it also settles commits.
    #[test]
    fn the_future_of_a_request_fits_into_an_allocators_fast_path() {
        let layer = IdempotencyLayer::new(MemoryStore::new(), crate::scope::shared()).unwrap();
        let request = Request::post("/")
            .header("idempotency-key", "k")
            .body(Full::default())
            .unwrap();
        let routes = &layer.core().rules.routes;
        let options = routes.options(request.method(), request.uri(), request.extensions());
        let options = options.unwrap();
        let (key, header) = options.keys.read(request.headers()).unwrap().unwrap();
        let (parts, body) = request.into_parts();
        let span = &tracing::Span::none();
        let (core, header) = (layer.core(), Some(header));
        let caller = KnownCaller::of(core, options, &parts).unwrap();
        let request = ProtectedRequest::new(core, options, key, header, caller, &parts, span);
        let future = flow(request, parts, body, Handler);
        assert!(size_of_val(&*future) <= 1032, "{}", size_of_val(&*future));
    }
}
