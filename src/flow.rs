//! One protected request, top to bottom: sections 4.3 to 4.8 of the contract.

use std::future::Future;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderName, HeaderValue, Request, Response};
use http_body::Body;
use tower_service::Service;

use crate::admission::{Admitted, Under, admit, in_flight};
use crate::body::{BoxError, Collected, RequestTrailers, Whole, collect, up_to};
use crate::context::{IdempotencyContext, Operation, Stage};
use crate::ending::{Ending, never_ends};
use crate::lease::{Held, Recorded};
use crate::response_body::ResponseBody;
use crate::within::Caught;

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
    R: Body,
    R::Error: Into<BoxError>,
{
    let (parts, body) = request.into_parts();
    let parts = Box::new(parts);
    async move {
        match admit(&operation, &parts, body).await {
            Ok(Admitted {
                under: Under::Own(held),
                whole,
            }) => execute(operation, &mut service, parts, whole, held).await,
            Ok(Admitted { under, whole }) => {
                let mut response = service.call(request_of(parts, whole)).await?;
                if let Under::Nothing = under {
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
fn request_of<B: From<Bytes>>(mut parts: Box<Parts>, whole: Whole) -> Request<B> {
    if let Some(trailers) = whole.trailers {
        parts.extensions.insert(RequestTrailers(*trailers));
    }
    Request::from_parts(*parts, B::from(whole.data))
}

/// 6. to 8. The handler, its answer, and the record of it.
fn execute<S, B, R>(
    operation: Arc<Operation>,
    service: &mut S,
    mut parts: Box<Parts>,
    whole: Whole,
    held: Held,
) -> impl Future<Output = Result<Response<ResponseBody<R>>, S::Error>> + use<'_, S, B, R>
where
    S: Service<Request<B>, Response = Response<R>>,
    B: From<Bytes>,
    R: Body,
    R::Error: Into<BoxError>,
{
    operation.enter(Stage::Running);
    // Only a renderer of the application's own looks at the request again.
    let custom = operation.layer.rejections.renderer.is_some();
    let asked = custom.then(|| parts.clone());
    parts
        .extensions
        .insert(IdempotencyContext(Arc::clone(&operation)));
    let began_at = SystemTime::now();
    async move {
        let answered = Caught::call(|| service.call(request_of(parts, whole))).await;
        let (mut head, body) = match answered {
            Ok(Ok(response)) => response.into_parts(),
            Ok(Err(error)) => {
                held.release(operation.outcome_unknown()).await;
                return Err(error);
            }
            Err(panic) => {
                held.release(operation.outcome_unknown()).await;
                resume_unwind(panic)
            }
        };

        // 7. Judge, at the end of the body.
        let mut body = Box::pin(body);
        let limit = operation.policy.max_recorded_body;
        let collected = if never_ends(&head) || body.size_hint().lower() > limit as u64 {
            Collected::Stopped(Bytes::new())
        } else {
            match Caught::call(|| collect(body.as_mut(), up_to(limit))).await {
                Ok(collected) => collected,
                Err(panic) => {
                    held.release(operation.outcome_unknown()).await;
                    resume_unwind(panic)
                }
            }
        };
        let (ending, mut body) = operation.judge(&mut head, collected, body, began_at);

        // 8. Complete, then let the answer go.
        let recorded = match ending {
            Ending::Complete(outcome) => held.complete(outcome).await,
            Ending::Release(how) => held.release(how).await,
            Ending::ReleaseAtEnd => {
                body.hold(held);
                Recorded::Released
            }
        };
        match recorded {
            Recorded::Stored => {}
            Recorded::Released if !operation.is_lost() => {}
            Recorded::NotYet if !operation.is_lost() => {
                head.headers
                    .insert(STATUS_HEADER, HeaderValue::from_static("unrecorded"));
            }
            // Another owner's answer is the one that stands.
            Recorded::Lost | Recorded::Released | Recorded::NotYet => {
                return Ok(operation.layer.reject(
                    in_flight(),
                    &operation.policy,
                    asked.as_deref(),
                ));
            }
        }
        Ok(Response::from_parts(head, body))
    }
}
