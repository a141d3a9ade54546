//! One protected request, read from top to bottom. Steps 1 to 3, route, key and caller, are in
//! `layer/service.rs`. From there `flow.rs` goes from step to step:
//!
//! | step | where |
//! | --- | --- |
//! | 2 to 4 where the key may be in the body | `key_in_body.rs` |
//! | 4 body and fingerprint | `content.rs`, `admit.rs` |
//! | 5 the claim | `admit.rs`, `claim.rs`; `wait.rs` and `old_secrets.rs` where the route or the layer asks for that |
//! | 6 the handler | `flow.rs`, and `Execution` here; `steps/` for the parts of it that are recorded |
//! | 7 the verdict | `judge.rs`; `stream.rs` for a response that is sent while it is read; `settle.rs` for a handler that commits itself |
//! | 8 the record | `lease/mod.rs`, `LeaseOwner::end` |
//! | a handler that makes the claim in its own transaction | `in_transaction.rs` |
//! | a request that is only observed | `observe_mode/` |
//! | responses and headers of the layer's own | `respond.rs`; `retry.rs` for what a replay takes from its retry |
//! | what observers are told | `observed.rs` |
//!
//! Public items: `IdempotencyContext`, `steps`. May use: `lease`, `observer`, `limits`, `options`, `scope`, `rejection`,
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
pub(crate) mod flow;
#[cfg(feature = "_sql")]
mod in_transaction;
mod judge;
pub(crate) mod key_in_body;
pub(crate) mod observe_mode;
pub(crate) mod observed;
mod old_secrets;
pub(crate) mod operation;
mod respond;
mod retry;
#[cfg(feature = "_sql")]
mod settle;
pub mod steps;
mod stop;
mod stream;
mod wait;
mod withheld;

#[cfg(feature = "_sql")]
pub(crate) use commit_fate::find_out;
#[cfg(feature = "_sql")]
pub(crate) use judge::committed;

use std::future::Future;
use std::panic::resume_unwind;
use std::pin::pin;
use std::sync::Arc;
use std::time::SystemTime;

use http::request::Parts;
use http::{HeaderMap, Response, StatusCode, Version};
use http_body::Body;

use crate::lease::{Ended, LeaseOwner, Verdict};
use crate::message::body::{BoxError, RequestTrailers};
use crate::message::client_deadline;
use crate::message::first_read::{AnnouncedLength, FirstRead, read};
use crate::message::media_type::{can_have_body, is_event_stream};
use crate::message::response_body::ResponseBody;
use crate::observer::RequestOutcome;
use crate::options::EventStreams;
use crate::options::mcp::ToolAnswer;
use crate::rejection::Rejection;
use crate::request::claim::Protection;
use crate::request::context::IdempotencyContext;
#[cfg(feature = "_sql")]
use crate::request::in_transaction::finish_transaction;
use crate::request::judge::{BodyEnd, if_unknown, judge};
use crate::request::operation::{Operation, Progress};
use crate::request::respond::{unprotected, unrecorded};
#[cfg(feature = "_sql")]
use crate::request::settle::Settled;
use crate::request::stream::ReadAhead;
use crate::runtime::Handle;
use crate::runtime::catch::Panic;

/// What the steps after the handler need of its request.
pub(crate) struct Execution {
    pub(crate) operation: Arc<Operation>,
    protection: Protection,
    /// The head of the request, where rejections look at it.
    asked: Option<Box<Parts>>,
    began_at: SystemTime,
    version: Version,
}

impl Execution {
    /// Step 6: what is done before the handler is called, with this head.
    fn begin(
        operation: Arc<Operation>,
        parts: &mut Parts,
        protection: Protection,
        trailers: Option<Box<HeaderMap>>,
    ) -> Self {
        let mut execution = Self {
            protection,
            asked: None,
            began_at: SystemTime::now(),
            version: parts.version,
            operation,
        };
        let counts = &execution.operation.core.leases.counts;
        execution.operation.enter(Progress::Running);
        match &mut execution.protection {
            Protection::Own(owner) => {
                let operation = &execution.operation;
                owner.handler_begins(if_unknown(&operation.options));
                counts.executed.add();
                if operation.lease().attempt > 1 {
                    counts.rerun.add();
                }
                execution.hand_over(parts);
            }
            // Counted once the handler is through: the operation begins with the handler's claim.
            #[cfg(feature = "_sql")]
            Protection::InTransaction(_) => execution.hand_over(parts),
            Protection::None => counts.unprotected.add(),
        }
        if let Some(trailers) = trailers {
            parts.extensions.insert(RequestTrailers(*trailers));
        }
        execution
    }

    /// Gives the handler of a protected request its context.
    fn hand_over(&mut self, parts: &mut Parts) {
        let operation = &self.operation;
        // Only rejections of the application's own shape, and those of JSON-RPC, look at the request
        // again.
        let looks =
            operation.core.rules.rejections.look_at_requests() || operation.options.mcp.is_some();
        self.asked = looks.then(|| Box::new(parts.clone()));
        // A service that knew the client's deadline would end the operation at it, and
        // another attempt could begin beside what still runs.
        client_deadline::remove(&mut parts.headers);
        let context = IdempotencyContext(Arc::clone(operation));
        parts.extensions.insert(context);
        #[cfg(feature = "_sql")]
        operation.commit.begins(self.began_at);
    }
}

/// Steps 7 and 8: what the handler came to.
fn finish<R, E>(
    execution: Execution,
    handled: Result<Result<Response<R>, E>, Panic>,
) -> impl Future<Output = Result<Response<ResponseBody<R>>, E>>
where
    R: Body + Send + 'static,
    R::Data: Send,
    R::Error: Into<BoxError>,
{
    let Execution {
        operation,
        protection,
        asked,
        began_at,
        version,
    } = execution;
    async move {
        let owner = match protection {
            Protection::Own(owner) => owner,
            #[cfg(feature = "_sql")]
            Protection::InTransaction(place) => {
                return Box::pin(finish_transaction(operation, place, handled, asked)).await;
            }
            Protection::None => {
                operation.decided(RequestOutcome::Unprotected, None);
                let mut response = handled.unwrap_or_else(|panic| resume_unwind(panic))?;
                unprotected(response.headers_mut());
                let place = operation.take_place();
                return Ok(response.map(|body| ResponseBody::unprotected(body, place)));
            }
        };
        operation.enter(Progress::Recording);
        // A response that the handler has committed stands, whatever the handler
        // returned.
        #[cfg(feature = "_sql")]
        let owner = if operation.commit.close_unless_begun() {
            match Box::pin(operation.settle_commit(Some(owner))).await {
                Settled::Committed(mut response) => {
                    operation.executed(None);
                    // What the handler has in its extensions, it has in what it returned.
                    if let Ok(Ok(returned)) = handled {
                        *response.extensions_mut() = returned.into_parts().0.extensions;
                    }
                    return Ok(response);
                }
                Settled::InFlight | Settled::Refused(_) | Settled::Not(None) => {
                    return Ok(operation.reject_executed(Rejection::in_flight(), asked.as_deref()));
                }
                Settled::Not(Some(owner)) => owner,
            }
        } else {
            owner
        };
        // A `Verdict` here would be kept beside the future of the record.
        let failed = if_unknown(&operation.options);
        let response = match handled {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => {
                owner.end(Verdict::Release(failed)).await;
                operation.executed(None);
                return Err(error);
            }
            Err(panic) => {
                owner.end(Verdict::Release(failed)).await;
                operation.executed(None);
                resume_unwind(panic)
            }
        };
        #[cfg(feature = "_sql")]
        if operation.is_uncommitted(&response) {
            let rejection = Box::pin(operation.never_committed(owner)).await;
            return Ok(operation.reject_executed(rejection, asked.as_deref()));
        }
        Ok(record(&operation, response, owner, began_at, version, asked).await)
    }
}

/// Steps 7 and 8. What can be read of the response at once is judged and recorded
/// before its head leaves, the rest while it is sent. If another owner has taken over, the response of
/// that owner is the one that stands, and the request is rejected.
fn record<R>(
    operation: &Arc<Operation>,
    response: Response<R>,
    owner: LeaseOwner,
    began_at: SystemTime,
    version: Version,
    asked: Option<Box<Parts>>,
) -> impl Future<Output = Response<ResponseBody<R>>>
where
    R: Body + Send + 'static,
    R::Data: Send,
    R::Error: Into<BoxError>,
{
    let (mut head, body) = response.into_parts();
    async move {
        let told = |response: Option<_>| match response {
            Some(response) => {
                operation.executed(None);
                response
            }
            None => operation.reject_executed(Rejection::in_flight(), asked.as_deref()),
        };
        let is_upgrade = head.status == StatusCode::SWITCHING_PROTOCOLS;
        let is_stream = !is_upgrade && is_event_stream(&head.headers);
        let events = is_stream && operation.options.event_streams == EventStreams::Record;
        let (kept_until, ending, body) = if is_upgrade || is_stream && !events {
            let verdict = judge(&operation.options, &head, BodyEnd::TooLarge(None), began_at);
            match (verdict.into_owned(), Handle::try_current()) {
                // The operation runs until the response has ended.
                (Verdict::Release(_), Ok(runtime)) => {
                    let reading = ReadAhead::endless(operation, Box::pin(body));
                    return told(reading.send(&runtime, owner, head, began_at));
                }
                (verdict, _) => (None, owner.end(verdict), ResponseBody::passed(body)),
            }
        } else {
            let length = AnnouncedLength::of(&head, &body);
            let most = operation.options.max_recorded_body;
            // A body that is read to its end here needs no box, which a task would take over.
            let (mut here, mut boxed) = (pin!(None), None);
            let whole = length.small_within(most);
            let reading = if whole.is_some() {
                here.set(Some(body));
                here.as_mut().as_pin_mut().expect("it was put here")
            } else {
                boxed.insert(Box::pin(body)).as_mut()
            };
            // A response without a body is complete with its head. A response of
            // HTTP/1.0 should have a length: its end can't be told from a cut.
            let head_first = can_have_body(head.status) && version > Version::HTTP_10;
            let at_once = !length.is_small() && head_first;
            let limit = whole.unwrap_or(most);
            match read(reading, length, limit, at_once, operation.account()).await {
                FirstRead::Full(mut body, room) => {
                    let options = &operation.options;
                    let is_read =
                        options.mcp.is_some() || options.skip_json.may_be_in(&head.headers);
                    let end = if events || is_read {
                        Box::pin(BodyEnd::of_full(operation, &head.headers, &body)).await
                    } else {
                        BodyEnd::Full(&body, ToolAnswer::Result)
                    };
                    let verdict = judge(&operation.options, &head, end, began_at);
                    let (kept_until, ending) = (verdict.kept_until(), owner.end(verdict));
                    body.data = room.of_whole(body.data, operation.account());
                    (kept_until, ending, ResponseBody::known(body))
                }
                FirstRead::Broken(read, error) => {
                    let verdict = judge(&operation.options, &head, BodyEnd::Broken, began_at);
                    let (account, timeout) = (operation.account(), operation.core.send_timeout);
                    let body = ResponseBody::broken(read, error, account, timeout);
                    (None, owner.end(verdict), body)
                }
                FirstRead::Panicked(panic) => {
                    let verdict = judge(&operation.options, &head, BodyEnd::Broken, began_at);
                    owner.end(verdict).await;
                    operation.executed(None);
                    resume_unwind(panic)
                }
                FirstRead::Part(read, room, runtime) => {
                    let body = boxed.expect("a body that is read whole has no part");
                    let of_mcp =
                        operation.options.mcp.is_some() && !ToolAnswer::is_coded(&head.headers);
                    let events = events.then_some((began_at, of_mcp));
                    let reading =
                        ReadAhead::new(operation, body, read, room, length, version, events);
                    return told(reading.send(&runtime, owner, head, began_at));
                }
            }
        };
        let kept_until = match ending.await {
            Ended::Overtaken => return told(None),
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
        let body = body.in_parts(operation.account(), operation.core.send_timeout);
        told(Some(Response::from_parts(head, body)))
    }
}
