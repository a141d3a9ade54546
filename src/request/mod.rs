//! One protected request, top to bottom: sections 4.3 to 4.8 of the contract.

pub(crate) mod admit;
pub(crate) mod claim;
#[cfg(feature = "_sql")]
pub(crate) mod commit_fate;
pub(crate) mod judge;
pub(crate) mod operation;
#[cfg(feature = "_sql")]
pub(crate) mod settle;
pub(crate) mod stream;

use std::future::Future;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderName, HeaderValue, Request, Response, Version};
use http_body::Body;
use tower_service::Service;

use crate::lease::{Ended, LeaseOwner};
use crate::message::body::{BoxError, FullBody, RequestTrailers};
use crate::message::media_type::{can_have_body, never_ends};
use crate::message::response_body::ResponseBody;
use crate::request::admit::{Admitted, Protection, admit, in_flight};
use crate::request::judge::{BodyEnd, Verdict};
use crate::request::operation::{IdempotencyContext, Operation, Stage};
#[cfg(feature = "_sql")]
use crate::request::settle::Settled;
use crate::request::stream::{AnnouncedLength, FirstRead, ReadAhead, read};
use crate::runtime::Handle;
use crate::runtime::deadline::CatchUnwind;

/// Says what protection an answer lacks.
const STATUS_HEADER: HeaderName = HeaderName::from_static("idempotency-status");

/// The whole of it. Its future is boxed once, and kept below the kilobyte from
/// which on an allocator takes its slow path: steps that follow each other
/// share their room, and an `async fn` would keep its arguments twice.
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
    let parts = Box::new(parts);
    async move {
        match admit(&operation, &parts, body).await {
            Ok(Admitted {
                under: Protection::Own(held),
                whole,
            }) => execute(operation, &mut service, parts, whole, held).await,
            Ok(Admitted { under, whole }) => {
                if let Protection::None = under {
                    operation.layer.counts.unprotected.add();
                    operation.enter(Stage::Unprotected);
                }
                let mut response = service.call(request_of(parts, whole)).await?;
                if let Protection::None = under {
                    let status = HeaderValue::from_static("unprotected");
                    response.headers_mut().insert(STATUS_HEADER, status);
                }
                Ok(response.map(ResponseBody::passed))
            }
            Err(stop) => Ok(operation.stop(stop, &parts)),
        }
    }
}

/// The request as the service gets it.
fn request_of<B: From<Bytes>>(mut parts: Box<Parts>, whole: FullBody) -> Request<B> {
    if let Some(trailers) = whole.trailers {
        parts.extensions.insert(RequestTrailers(*trailers));
    }
    Request::from_parts(*parts, B::from(whole.data))
}

/// The handler, step 6.
fn execute<S, B, R>(
    operation: Arc<Operation>,
    service: &mut S,
    mut parts: Box<Parts>,
    whole: FullBody,
    held: LeaseOwner,
) -> impl Future<Output = Result<Response<ResponseBody<R>>, S::Error>> + use<'_, S, B, R>
where
    S: Service<Request<B>, Response = Response<R>>,
    B: From<Bytes>,
    R: Body + Send + 'static,
    R::Data: Send,
    R::Error: Into<BoxError>,
{
    operation.enter(Stage::Running);
    operation.layer.counts.executed.add();
    if operation.lease().attempt > 1 {
        operation.layer.counts.rerun.add();
    }
    // Only rejections of the application's own shape look at the request again.
    let look = operation.layer.rejections.look_at_requests();
    let asked = look.then(|| parts.clone());
    let version = parts.version;
    parts
        .extensions
        .insert(IdempotencyContext(Arc::clone(&operation)));
    let began_at = SystemTime::now();
    #[cfg(feature = "_sql")]
    operation.commit.begins(began_at);
    async move {
        let answered = CatchUnwind::call(|| service.call(request_of(parts, whole))).await;
        operation.enter(Stage::Answered);
        // What was committed stands, whatever the handler came to.
        #[cfg(feature = "_sql")]
        let held = if operation.commit.has_begun() {
            match Box::pin(operation.settle_commit(held)).await {
                Settled::Committed(response) => return Ok(response),
                Settled::InFlight => return Ok(operation.reject(in_flight(), asked.as_deref())),
                Settled::Not(held) => held,
            }
        } else {
            held
        };
        let response = match answered {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => {
                held.end(Verdict::Release(operation.outcome_unknown()))
                    .await;
                return Err(error);
            }
            Err(panic) => {
                held.end(Verdict::Release(operation.outcome_unknown()))
                    .await;
                resume_unwind(panic)
            }
        };
        #[cfg(feature = "_sql")]
        if operation.is_uncommitted(&response) {
            let rejection = Box::pin(operation.never_committed(held)).await;
            return Ok(operation.reject(rejection, asked.as_deref()));
        }
        let answer = answer(&operation, response, held, began_at, version).await;
        // Another owner's answer is the one that stands.
        let overtaken = || operation.reject(in_flight(), asked.as_deref());
        Ok(answer.unwrap_or_else(overtaken))
    }
}

/// What can be read of the answer at once is judged and recorded
/// before its head leaves, the rest while it is sent. `None` if another owner
/// has taken over.
fn answer<R>(
    operation: &Arc<Operation>,
    response: Response<R>,
    held: LeaseOwner,
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
        let (ending, body) = if never_ends(&head) {
            let ending = operation.judge(&head, BodyEnd::TooLarge(None), began_at);
            match (ending, Handle::try_current()) {
                // Until it has ended the operation runs.
                (Verdict::Release(_), Ok(runtime)) => {
                    let reading = ReadAhead::endless(operation, Box::pin(body));
                    return reading.send(&runtime, held, head, began_at);
                }
                (ending, _) => (ending, ResponseBody::passed(body)),
            }
        } else {
            let length = AnnouncedLength::of(&head, &body);
            let mut body = Box::pin(body);
            // An answer without a body is whole with its head; one in HTTP/1.0
            // should have a length, since its end can't be told from a cut.
            let head_first = can_have_body(head.status) && version > Version::HTTP_10;
            let at_once = !length.is_small() && head_first;
            let limit = operation.options.max_recorded_body;
            match read(body.as_mut(), length, limit, at_once).await {
                FirstRead::Full(whole) => {
                    let ending = operation.judge(&head, BodyEnd::Full(&whole), began_at);
                    (ending, ResponseBody::known(whole))
                }
                FirstRead::Broken(read, error) => {
                    let ending = operation.judge(&head, BodyEnd::Broken, began_at);
                    (ending, ResponseBody::broken(read, error))
                }
                FirstRead::Panicked(panic) => {
                    let ending = operation.judge(&head, BodyEnd::Broken, began_at);
                    held.end(ending).await;
                    resume_unwind(panic)
                }
                FirstRead::Part(read, runtime) => {
                    let reading = ReadAhead::new(operation, body, read, length, version);
                    return reading.send(&runtime, held, head, began_at);
                }
            }
        };
        operation.mark(&mut head.headers, began_at, ending.recorded());
        match held.end(ending).await {
            Ended::Recorded | Ended::Released => {}
            Ended::Pending => {
                let status = HeaderValue::from_static("unrecorded");
                head.headers.insert(STATUS_HEADER, status);
            }
            Ended::Overtaken => return None,
        }
        Some(Response::from_parts(head, body))
    }
}
