//! Step 7: what a response means for the operation's record. Nothing here asks
//! the store or changes anything.

use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use http::{HeaderMap, Response, response};
use tracing::warn;

use crate::lease::Verdict;
use crate::message::body::{FullBody, SMALL};
use crate::message::kept::AHEAD;
use crate::message::media_type::is_event_stream;
use crate::options::mcp::ToolAnswer;
use crate::options::recording::{RecordRule, Recording, ResponseHead};
use crate::options::rpc::answers_twice;
use crate::options::{OnLapsedLease, OnOversize, RouteOptions};
use crate::record::response::RecordedResponse;
use crate::request::operation::Operation;
use crate::store::{Outcome, Release};

/// How the body of a response ended.
pub(crate) enum BodyEnd<'a> {
    /// The whole body, and what it says of its operation (`mcp`, `skip_json`).
    Full(&'a FullBody, ToolAnswer),
    /// The body was too large to record, or endless. Holds its trailers if the end
    /// was reached.
    TooLarge(Option<&'a HeaderMap>),
    /// There was no room to keep the body. Holds its trailers if the end was reached.
    NoRoom(Option<&'a HeaderMap>),
    /// A stream of events answers one JSON-RPC id twice. Holds its trailers.
    TwoAnswers(Option<&'a HeaderMap>),
    /// The body broke off before its end.
    Broken,
}

impl<'a> BodyEnd<'a> {
    /// The end of a body that was read whole, by what stands in it where the route looks at that.
    pub(crate) async fn of_full(
        operation: &Operation,
        headers: &HeaderMap,
        body: &'a FullBody,
    ) -> Self {
        let is_stream = is_event_stream(headers);
        let mut answer = ToolAnswer::Result;
        if operation.options.mcp.is_some() {
            if ToolAnswer::is_coded(headers) {
                return Self::Full(body, ToolAnswer::Coded);
            }
            let of = move |body: &[u8]| ToolAnswer::of(body, is_stream);
            answer = search(operation, &body.data, of).await;
        } else if is_stream && search(operation, &body.data, answers_twice).await {
            warn!("a stream of events answers one JSON-RPC id twice: its record is sealed");
            return Self::TwoAnswers(body.trailers.as_deref());
        }
        if answer == ToolAnswer::Result && operation.options.skip_json.may_be_in(headers) {
            let options = Arc::clone(&operation.options);
            let skips = move |body: &[u8]| options.skip_json.are_in(body, is_stream);
            if search(operation, &body.data, skips).await {
                answer = ToolAnswer::Unfinished;
            }
        }
        Self::Full(body, answer)
    }
}

/// Searches a long body on another thread, so that no other request waits (G11).
async fn search<T: Send + 'static>(
    operation: &Operation,
    body: &Bytes,
    search: impl FnOnce(&[u8]) -> T + Clone + Send + 'static,
) -> T {
    if body.len() <= AHEAD {
        return search(body);
    }
    let aside = {
        let (body, search) = (body.clone(), search.clone());
        move || search(&body)
    };
    let caller = operation.account().caller();
    let found = operation.core.turns.run(caller, aside).await;
    // Without a thread for it, the work holds up this one.
    found.unwrap_or_else(|| search(body))
}

/// Step 7: what becomes of the record, by the route's options, the handler's word
/// ([`Recording`]) and the response.
pub(crate) fn judge<'a>(
    options: &RouteOptions,
    head: &'a response::Parts,
    body: BodyEnd<'a>,
    began_at: SystemTime,
) -> Verdict<'a> {
    let word = head.extensions.get::<Recording>();
    let sealed = || {
        let retention = options.retention;
        Verdict::Record(Outcome::Sealed { retention })
    };
    let records = match word {
        Some(Recording::InDoubt) => return Verdict::LeaveInFlight,
        Some(Recording::Seal) => return sealed(),
        Some(Recording::Keep) => true,
        Some(Recording::Skip) => false,
        Some(Recording::IfComplete) | None => {
            let response = response_head(head, &body);
            if options.in_doubt.records(&response) {
                return Verdict::LeaveInFlight;
            }
            let answer = match body {
                BodyEnd::Full(_, answer) => answer,
                _ => ToolAnswer::Result,
            };
            match answer {
                ToolAnswer::Result => records(options, &response, &body),
                ToolAnswer::Coded if records(options, &response, &body) => {
                    warn!(
                        "the answer to a tool's call has a Content-Encoding, although none was \
                         accepted: its record is sealed. Let the server, or what compresses behind \
                         this layer, leave the answers of MCP as they are"
                    );
                    return sealed();
                }
                ToolAnswer::Unfinished | ToolAnswer::Coded => false,
                ToolAnswer::Unclear(answers) => {
                    warn!(
                        answers,
                        "the stream of a tool's call must have one answer: its record is sealed"
                    );
                    return sealed();
                }
            }
        }
    };
    match body {
        BodyEnd::Full(body, _) if records => {
            Verdict::RecordResponse(recorded(options, head, body, began_at))
        }
        BodyEnd::TooLarge(_) if records && options.oversize == OnOversize::Seal => sealed(),
        // The response would have been recorded, so its operation has happened. Whether there
        // is room depends on other requests: `OnOversize::Rerun` is not meant for that.
        BodyEnd::Broken | BodyEnd::NoRoom(_) | BodyEnd::TwoAnswers(_) if records => sealed(),
        BodyEnd::Broken if word == Some(&Recording::IfComplete) => Verdict::LeaveInFlight,
        BodyEnd::Broken => Verdict::Release(if_unknown(options)),
        BodyEnd::Full(..) | BodyEnd::TooLarge(_) | BodyEnd::NoRoom(_) | BodyEnd::TwoAnswers(_) => {
            Verdict::Release(Release::MayRunAgain)
        }
    }
}

/// What becomes of the record when nobody can say how the operation ended.
pub(crate) fn if_unknown(options: &RouteOptions) -> Release {
    match options.on_lapsed_lease {
        OnLapsedLease::Rerun => Release::MayRunAgain,
        OnLapsedLease::Refuse => Release::OutcomeUnknown,
    }
}

/// What is recorded of a full response.
fn recorded<'a>(
    options: &RouteOptions,
    head: &'a response::Parts,
    body: &'a FullBody,
    began_at: SystemTime,
) -> RecordedResponse<'a> {
    RecordedResponse {
        status: head.status,
        headers: options.record_headers.of_head(&head.headers),
        trailers: body.trailers.as_deref().and_then(|trailers| {
            let trailers = options.record_headers.of(trailers);
            (trailers.len() > 0).then_some(trailers)
        }),
        body: &body.data,
        // See `BodyBuffer::whole`.
        is_body_alone: body.data.len() > SMALL,
        began_at,
        completed_at: SystemTime::now(),
        retention: options.retention,
    }
}

/// The outcome of a response that the handler commits itself. The response is
/// recorded whatever its status: its effects are committed with it.
#[cfg(feature = "_sql")]
pub(crate) fn committed(
    options: &RouteOptions,
    head: &response::Parts,
    body: &FullBody,
    began_at: SystemTime,
) -> Outcome {
    if body.data.len() > options.max_recorded_body {
        let retention = options.retention;
        return Outcome::Sealed { retention };
    }
    recorded(options, head, body, began_at).into()
}

fn response_head<'a>(head: &'a response::Parts, body: &BodyEnd<'a>) -> ResponseHead<'a> {
    let trailers = match body {
        BodyEnd::Full(body, _) => body.trailers.as_deref(),
        BodyEnd::TooLarge(trailers) | BodyEnd::NoRoom(trailers) | BodyEnd::TwoAnswers(trailers) => {
            *trailers
        }
        BodyEnd::Broken => None,
    };
    ResponseHead::new(head.status, &head.headers, trailers)
}

/// Whether the route's rules record this response.
fn records(options: &RouteOptions, response: &ResponseHead<'_>, body: &BodyEnd<'_>) -> bool {
    if options.skips(response.headers) {
        return false;
    }
    // A gRPC response has its status in trailers, which were not reached here. A
    // large response is no reason to run the operation again.
    let unread = matches!(body, BodyEnd::TooLarge(None) | BodyEnd::NoRoom(None));
    unread && response.awaits_grpc_status() || options.record.records(response)
}

/// A copy of what [`judge`] looks at in a response head, for a response whose head
/// leaves before the response is judged.
pub(crate) fn head_for_judging(head: &response::Parts) -> response::Parts {
    let (mut parts, ()) = Response::new(()).into_parts();
    parts.status = head.status;
    parts.headers = head.headers.clone();
    if let Some(word) = head.extensions.get::<Recording>() {
        parts.extensions.insert(*word);
    }
    parts
}
