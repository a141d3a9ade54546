//! What the response to an observed request means for the record.

use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, response};
use http_body::Body;

use crate::lease::Verdict;
use crate::message::body::FullBody;
use crate::message::first_read::AnnouncedLength;
use crate::message::media_type::{is_event_stream, never_ends};
use crate::message::watched_body::{Passed, Watch, WatchedBody};
use crate::options::mcp::ToolAnswer;
use crate::options::{EventStreams, OnDisconnect, OnLapsedLease, RouteOptions};
use crate::record::Completion;
use crate::rejection::RejectionCode;
use crate::request::judge::{BodyEnd, head_for_judging, judge};
use crate::request::observe_mode::observation::Observation;
use crate::store::{Outcome, Release};

/// In the completion of an operation of which nobody would know how it ended, under
/// [`OnLapsedLease::Refuse`]: since when.
const UNKNOWN: HeaderName = HeaderName::from_static("idempotency-outcome-unknown");
const AT_ONCE: &str = "at-once";
/// Until then the operation would have been in flight.
const AFTER_LEASE: &str = "after-lease";

/// A response of which the layer sees what passes.
pub(super) struct Responded {
    observation: Arc<Observation>,
    head: response::Parts,
    bytes: usize,
    trailers: Option<HeaderMap>,
    /// Whether the layer would not have waited for the end of the body.
    endless: bool,
}

impl Observation {
    /// The body of a response to this request, whose end ends the record.
    pub(super) fn responded<R: Body>(
        self: Arc<Self>,
        head: &response::Parts,
        body: R,
    ) -> WatchedBody<R> {
        let length = AnnouncedLength::of(head, &body).by_header;
        // An upgrade can have the content type of a stream.
        let records_events = self.request.options.event_streams == EventStreams::Record
            && head.status != StatusCode::SWITCHING_PROTOCOLS;
        let endless = never_ends(head) && !records_events;
        if endless {
            self.does_not_wait(head);
        }
        if !body.is_end_stream() {
            self.watch();
        }
        let watch = Responded {
            observation: self,
            head: head_for_judging(head),
            bytes: 0,
            trailers: None,
            endless,
        };
        WatchedBody::new(body, Box::new(watch), length)
    }

    /// The end of an operation whose response is not recorded, whenever its body ends.
    fn does_not_wait(&self, head: &response::Parts) {
        let end = BodyEnd::TooLarge(None);
        let verdict = judge(&self.request.options, head, end, self.began_at);
        // Nothing waits for the end of such a response, unless a retry executes afterwards.
        if !matches!(verdict, Verdict::Release(_)) {
            self.ended(verdict);
        }
    }

    /// The end of an operation that is done, with this status.
    pub(super) fn done(&self, status: StatusCode) -> Verdict<'static> {
        Verdict::Record(done(status, &self.request.options, self.began_at))
    }
}

impl Watch for Responded {
    fn data(&mut self, data: &Bytes) {
        self.bytes = self.bytes.saturating_add(data.len());
        let limit = self.observation.request.options.max_recorded_body;
        if !self.endless && self.bytes > limit && is_event_stream(&self.head.headers) {
            self.endless = true;
            self.observation.does_not_wait(&self.head);
        }
    }

    fn trailers(&mut self, trailers: &HeaderMap) {
        let own = self.trailers.get_or_insert_default();
        own.extend(trailers.clone());
    }

    fn ended(&mut self, how: Passed) {
        let options = &self.observation.request.options;
        let trailers = self.trailers.take().map(Box::new);
        let whole = FullBody {
            data: Bytes::new(),
            trailers,
        };
        let end = match how {
            _ if self.endless || self.bytes > options.max_recorded_body => {
                BodyEnd::TooLarge(whole.trailers.as_deref())
            }
            // Protected, the rest would have been read without the client.
            Passed::Part if options.on_disconnect == OnDisconnect::Finish => {
                BodyEnd::Full(&whole, ToolAnswer::Result)
            }
            Passed::Whole => BodyEnd::Full(&whole, ToolAnswer::Result),
            Passed::Broken | Passed::Part => BodyEnd::Broken,
        };
        let verdict = judge(options, &self.head, end, self.observation.began_at);
        self.observation.ended(verdict);
    }
}

/// The verdict as it is stored: with the status alone of a response, and without what would have to
/// wait for a person.
pub(super) fn settled(
    verdict: Verdict<'_>,
    options: &RouteOptions,
    began_at: SystemTime,
) -> Verdict<'static> {
    let unknown = |since: &'static str| {
        let mut unknown = completion(StatusCode::OK, options, began_at);
        let since = HeaderValue::from_static(since);
        unknown.headers.insert(UNKNOWN, since);
        Verdict::Record(Outcome::Completed(Arc::new(unknown)))
    };
    match verdict {
        Verdict::RecordResponse(response) => {
            Verdict::Record(done(response.status, options, began_at))
        }
        Verdict::Record(Outcome::Completed(completion)) => {
            Verdict::Record(done(completion.status, options, began_at))
        }
        Verdict::Release(Release::OutcomeUnknown) => unknown(AT_ONCE),
        Verdict::LeaveInFlight if options.on_lapsed_lease == OnLapsedLease::Refuse => {
            unknown(AFTER_LEASE)
        }
        verdict => verdict.into_owned(),
    }
}

/// What a retry would have got of an operation of which nobody would know how it ended. `None` for
/// any other completion.
pub(super) fn unknown(completion: &Completion, options: &RouteOptions) -> Option<RejectionCode> {
    let since = completion.headers.get(UNKNOWN)?;
    let age = completion.completed_at.elapsed().unwrap_or_default();
    Some(if since == AT_ONCE || age >= options.lease {
        RejectionCode::OutcomeUnknown
    } else {
        RejectionCode::InFlight
    })
}

fn done(status: StatusCode, options: &RouteOptions, began_at: SystemTime) -> Outcome {
    Outcome::Completed(Arc::new(completion(status, options, began_at)))
}

fn completion(status: StatusCode, options: &RouteOptions, began_at: SystemTime) -> Completion {
    let mut completion = Completion::new(status, Bytes::new(), began_at);
    completion.completed_at = SystemTime::now();
    completion.retention = options.retention;
    completion
}
