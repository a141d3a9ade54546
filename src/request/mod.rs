//! One protected request, read from top to bottom. Steps 1 and 2, route and key,
//! are in `layer/service.rs`. From there:
//!
//! | step | where |
//! | --- | --- |
//! | 3 the caller, 4 body and fingerprint | `admit.rs`, `content.rs` |
//! | 5 the claim | `claim.rs`; `wait.rs` and `old_secrets.rs` where the route or the layer asks for that |
//! | 6 the handler | here, `execute` |
//! | 7 the verdict | `judge.rs`; `stream.rs` for a response that is sent while it is read; `settle.rs` for a handler that commits itself |
//! | 8 the record | `lease/mod.rs`, `LeaseOwner::end` |
//! | responses and headers of the layer's own | `respond.rs` |
//!
//! Public items: `IdempotencyContext`. May use: `lease`, `limits`, `options`, `scope`, `rejection`,
//! `store`, `message`, `record`, `runtime`, `display`, `error`.

mod admit;
mod claim;
#[cfg(feature = "_sql")]
mod commit_fate;
#[cfg(feature = "_sql")]
pub(crate) mod commit_state;
mod content;
pub(crate) mod context;
pub(crate) mod core;
mod judge;
mod old_secrets;
pub(crate) mod operation;
mod respond;
#[cfg(feature = "_sql")]
mod settle;
mod stop;
mod stream;
mod wait;

#[cfg(feature = "_sql")]
pub(crate) use commit_fate::find_out;
#[cfg(feature = "_sql")]
pub(crate) use judge::committed;

use std::future::Future;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use http::request::Parts;
use http::{Request, Response, Version};
use http_body::Body;
use tower_service::Service;

use crate::lease::{Ended, LeaseOwner, Verdict};
use crate::message::body::BoxError;
use crate::message::client_deadline;
use crate::message::first_read::{AnnouncedLength, FirstRead, read};
use crate::message::media_type::{can_have_body, never_ends};
use crate::message::response_body::ResponseBody;
use crate::record::Completion;
use crate::rejection::Rejection;
use crate::request::admit::{Admitted, admit};
use crate::request::claim::Protection;
use crate::request::context::IdempotencyContext;
use crate::request::judge::{BodyEnd, if_unknown, judge};
use crate::request::operation::{Operation, Progress};
use crate::request::respond::{unprotected, unrecorded};
#[cfg(feature = "_sql")]
use crate::request::settle::Settled;
use crate::request::stream::ReadAhead;
use crate::runtime::Handle;
use crate::runtime::catch::CatchUnwind;

/// Steps 3 to 8 of one request.
///
/// The future is boxed once, by its caller. It stays below the kilobyte from which
/// on an allocator takes its slow path: the functions here return
/// `impl Future` with an `async move` block, since an `async fn` would keep its
/// arguments a second time.
pub(crate) fn run<S, B, R>(
    operation: Arc<Operation>,
    mut service: S,
    request: Request<B>,
) -> impl Future<Output = Result<Response<ResponseBody<R>>, S::Error>>
where
    S: Service<Request<B>, Response = Response<R>>,
    B: Body + From<Bytes>,
    B::Error: Into<BoxError>,
    R: Body + Send + 'static,
    R::Data: Send,
    R::Error: Into<BoxError>,
{
    let (parts, body) = request.into_parts();
    let mut parts = Box::new(parts);
    async move {
        // Steps 3 to 5.
        let Admitted { protection, body } = match admit(&operation, &mut parts, body).await {
            Ok(admitted) => admitted,
            Err(stop) => return Ok(operation.stop(stop, &parts)),
        };
        match protection {
            // Steps 6 to 8.
            Protection::Own(owner) => execute(operation, &mut service, parts, body, owner).await,
            // The layer further out records the response.
            Protection::OuterLayer => {
                let response = service.call(Request::from_parts(*parts, body)).await?;
                Ok(response.map(ResponseBody::passed))
            }
            Protection::None => {
                operation.core.leases.counts.unprotected.add();
                operation.enter(Progress::Running);
                let mut response = service.call(Request::from_parts(*parts, body)).await?;
                unprotected(response.headers_mut());
                let place = operation.place().ok();
                Ok(response.map(|body| ResponseBody::unprotected(body, place)))
            }
        }
    }
}

/// Step 6: the handler, and what it came to.
fn execute<S, B, R>(
    operation: Arc<Operation>,
    service: &mut S,
    mut parts: Box<Parts>,
    body: B,
    mut owner: LeaseOwner,
) -> impl Future<Output = Result<Response<ResponseBody<R>>, S::Error>> + use<'_, S, B, R>
where
    S: Service<Request<B>, Response = Response<R>>,
    R: Body + Send + 'static,
    R::Data: Send,
    R::Error: Into<BoxError>,
{
    operation.enter(Progress::Running);
    owner.handler_begins(if_unknown(&operation.options));
    let counts = &operation.core.leases.counts;
    counts.executed.add();
    if operation.lease().attempt > 1 {
        counts.rerun.add();
    }
    // Only rejections of the application's own shape look at the request again.
    let looks = operation.core.rules.rejections.look_at_requests();
    let asked = looks.then(|| parts.clone());
    let version = parts.version;
    // A service that knew the client's deadline would end the operation at it, and another
    // attempt could begin beside what still runs.
    client_deadline::remove(&mut parts.headers);
    parts
        .extensions
        .insert(IdempotencyContext(Arc::clone(&operation)));
    let began_at = SystemTime::now();
    #[cfg(feature = "_sql")]
    operation.commit.begins(began_at);
    async move {
        // Panics are caught so that the record has an end before they go on.
        let call = || service.call(Request::from_parts(*parts, body));
        let handled = CatchUnwind::call(call).await;
        operation.drop_body();
        operation.enter(Progress::Recording);
        // A response that the handler has committed stands, whatever the handler
        // returned.
        #[cfg(feature = "_sql")]
        let owner = if operation.commit.close_unless_begun() {
            match Box::pin(operation.settle_commit(owner)).await {
                Settled::Committed(response) => return Ok(response),
                Settled::InFlight => {
                    return Ok(operation.reject(Rejection::in_flight(), asked.as_deref()));
                }
                Settled::Not(owner) => owner,
            }
        } else {
            owner
        };
        let failed = Verdict::Release(if_unknown(&operation.options));
        let response = match handled {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => {
                owner.end(failed).await;
                return Err(error);
            }
            Err(panic) => {
                owner.end(failed).await;
                resume_unwind(panic)
            }
        };
        #[cfg(feature = "_sql")]
        if operation.is_uncommitted(&response) {
            let rejection = Box::pin(operation.never_committed(owner)).await;
            return Ok(operation.reject(rejection, asked.as_deref()));
        }
        let recorded = record(&operation, response, owner, began_at, version).await;
        // `None`: the response of another owner is the one that stands.
        let overtaken = || operation.reject(Rejection::in_flight(), asked.as_deref());
        Ok(recorded.unwrap_or_else(overtaken))
    }
}

/// Steps 7 and 8. What can be read of the response at once is judged and recorded
/// before its head leaves, the rest while it is sent. `None` if another owner has
/// taken over.
fn record<R>(
    operation: &Arc<Operation>,
    response: Response<R>,
    owner: LeaseOwner,
    began_at: SystemTime,
    version: Version,
) -> impl Future<Output = Option<Response<ResponseBody<R>>>>
where
    R: Body + Send + 'static,
    R::Data: Send,
    R::Error: Into<BoxError>,
{
    let (mut head, body) = response.into_parts();
    async move {
        let (verdict, body) = if never_ends(&head) {
            let verdict = judge(&operation.options, &head, BodyEnd::TooLarge(None), began_at);
            match (verdict, Handle::try_current()) {
                // The operation runs until the response has ended.
                (Verdict::Release(_), Ok(runtime)) => {
                    let reading = ReadAhead::endless(operation, Box::pin(body));
                    return reading.send(&runtime, owner, head, began_at);
                }
                (verdict, _) => (verdict, ResponseBody::passed(body)),
            }
        } else {
            let length = AnnouncedLength::of(&head, &body);
            let mut body = Box::pin(body);
            // A response without a body is complete with its head. A response of
            // HTTP/1.0 should have a length: its end can't be told from a cut.
            let head_first = can_have_body(head.status) && version > Version::HTTP_10;
            let at_once = !length.is_small() && head_first;
            let limit = operation.options.max_recorded_body;
            match read(body.as_mut(), length, limit, at_once, operation.account()).await {
                FirstRead::Full(mut body, room) => {
                    let verdict = judge(&operation.options, &head, BodyEnd::Full(&body), began_at);
                    body.data = room.of_whole(body.data, operation.account());
                    (verdict, ResponseBody::known(body))
                }
                FirstRead::Broken(read, error) => {
                    let verdict = judge(&operation.options, &head, BodyEnd::Broken, began_at);
                    (verdict, ResponseBody::broken(read, error))
                }
                FirstRead::Panicked(panic) => {
                    let verdict = judge(&operation.options, &head, BodyEnd::Broken, began_at);
                    owner.end(verdict).await;
                    resume_unwind(panic)
                }
                FirstRead::Part(read, room, runtime) => {
                    let reading = ReadAhead::new(operation, body, read, room, length, version);
                    return reading.send(&runtime, owner, head, began_at);
                }
            }
        };
        let kept_until = verdict.completion().and_then(Completion::kept_until);
        let kept_until = match owner.end(verdict).await {
            Ended::Overtaken => return None,
            Ended::Recorded => kept_until,
            Ended::Pending => {
                unrecorded(&mut head.headers);
                None
            }
            Ended::Sealed | Ended::Released | Ended::OutcomeUnknown | Ended::LeftInFlight => None,
        };
        if operation.marks_responses() {
            operation.mark(&mut head.headers, began_at, kept_until);
        }
        let body = body.in_parts(operation.core.send_timeout);
        Some(Response::from_parts(head, body))
    }
}

#[cfg(all(test, feature = "memory", not(feature = "_sql"), not(shuttle)))]
mod tests {
    use std::future::Ready;

    use http_body_util::Full;

    use super::*;
    use crate::layer::IdempotencyLayer;
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
        let operation = Operation::new(layer.core(), options, key, header, request.headers());
        let future = run(Arc::new(operation), Handler, request);
        assert!(size_of_val(&future) <= 1032, "{}", size_of_val(&future));
    }
}
