//! Sections 4.7 and 4.8: what an answer means for its record, and what a
//! client gets of it, the first time and later.

use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use http::header::CONTENT_LENGTH;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Response, response};

use crate::display::rfc3339;
use crate::message::body::FullBody;
use crate::message::response_body::ResponseBody;
use crate::options::OnOversize;
use crate::options::recording::{Recording, ResponseHead};
use crate::record::Completion;
use crate::rejection::Rejection;
use crate::request::admit::{Stop, in_flight};
use crate::request::operation::Operation;
use crate::store::{Outcome, Release};

/// What was read of an answer's body.
pub(crate) enum BodyEnd<'a> {
    Full(&'a FullBody),
    /// Its end, if that, since it is too large to record or has no end.
    TooLarge(Option<&'a HeaderMap>),
    /// Not all of it: it broke off.
    Broken,
}

/// What becomes of the record.
pub(crate) enum Verdict {
    Record(Outcome),
    Release(Release),
    /// In flight until its lease lapses.
    LeaveInFlight,
}

impl Operation {
    /// 7. What the answer means for the record.
    pub(crate) fn judge(
        &self,
        head: &response::Parts,
        read: BodyEnd<'_>,
        began_at: SystemTime,
    ) -> Verdict {
        let word = head.extensions.get::<Recording>();
        if word == Some(&Recording::InDoubt) {
            return Verdict::LeaveInFlight;
        }
        let keep = match word {
            Some(Recording::Keep) => true,
            Some(Recording::Skip | Recording::InDoubt) => false,
            Some(Recording::IfComplete) | None => self.records(head, &read),
        };
        let retention = self.options.retention;
        let sealed = Verdict::Record(Outcome::Sealed { retention });
        match read {
            BodyEnd::Full(whole) if keep => Verdict::Record(self.completed(head, whole, began_at)),
            BodyEnd::TooLarge(_) if keep && self.options.oversize == OnOversize::Seal => sealed,
            // An answer worth keeping broke off: its effect has happened.
            BodyEnd::Broken if keep => sealed,
            BodyEnd::Broken if word == Some(&Recording::IfComplete) => Verdict::LeaveInFlight,
            BodyEnd::Broken => Verdict::Release(self.outcome_unknown()),
            BodyEnd::Full(_) | BodyEnd::TooLarge(_) => Verdict::Release(Release::MayRunAgain),
        }
    }

    /// A whole answer, as it is recorded.
    fn completed(&self, head: &response::Parts, whole: &FullBody, began_at: SystemTime) -> Outcome {
        Outcome::Completed(Arc::new(Completion {
            status: head.status,
            headers: self.options.record_headers.of(&head.headers),
            body: recorded_body(&whole.data),
            trailers: whole.trailers.as_deref().cloned(),
            began_at,
            completed_at: SystemTime::now(),
            retention: self.options.retention,
        }))
    }

    /// What is recorded of an answer that a handler commits, whatever it is:
    /// its effects have happened.
    #[cfg(feature = "_sql")]
    pub(crate) fn outcome(
        &self,
        head: &response::Parts,
        whole: &FullBody,
        began_at: SystemTime,
    ) -> Outcome {
        if whole.data.len() > self.options.max_recorded_body {
            let retention = self.options.retention;
            return Outcome::Sealed { retention };
        }
        self.completed(head, whole, began_at)
    }

    fn records(&self, head: &response::Parts, read: &BodyEnd<'_>) -> bool {
        let answer = ResponseHead {
            status: head.status,
            headers: &head.headers,
            trailers: match read {
                BodyEnd::Full(whole) => whole.trailers.as_deref(),
                BodyEnd::TooLarge(trailers) => *trailers,
                BodyEnd::Broken => None,
            },
        };
        if self.options.skips(&head.headers) {
            return false;
        }
        // Its status is in trailers that were not reached: being large is no
        // reason to run it again.
        let unread = matches!(read, BodyEnd::TooLarge(None));
        unread && answer.awaits_grpc_status() || self.options.record.records(&answer)
    }

    pub(crate) fn stop<R>(&self, stop: Stop, parts: &Parts) -> Response<ResponseBody<R>> {
        match stop {
            Stop::Reject(rejection) => self.reject(rejection, Some(parts)),
            Stop::InFlight(_) => self.reject(in_flight(), Some(parts)),
            Stop::Replay(completion) => {
                self.layer.counts.replayed.add();
                self.replay(&completion)
            }
        }
    }

    /// `parts` are there wherever rejections
    /// [look at them](crate::rejection::RejectionRules::look_at_requests).
    pub(crate) fn reject<R>(
        &self,
        rejection: Rejection,
        parts: Option<&Parts>,
    ) -> Response<ResponseBody<R>> {
        self.layer
            .reject(rejection, &self.options, parts, self.grpc)
    }

    fn replay<R>(&self, completion: &Completion) -> Response<ResponseBody<R>> {
        let body = ResponseBody::known(FullBody {
            data: completion.body.clone(),
            trailers: completion.trailers.clone().map(Box::new),
        });
        let mut response = Response::new(body);
        *response.status_mut() = self.options.replayed_status(completion.status);
        let mut headers = completion.headers.clone();
        if let Some(length) = headers.get_mut(CONTENT_LENGTH) {
            *length = HeaderValue::from(completion.body.len());
        }
        if let Some(name) = &self.options.replayed_header {
            headers.insert(name, HeaderValue::from_static("true"));
        }
        self.mark(&mut headers, completion.began_at, Some(completion));
        *response.headers_mut() = headers;
        response
    }

    /// The headers that first answers and replays have in common.
    pub(crate) fn mark(
        &self,
        headers: &mut HeaderMap,
        began_at: SystemTime,
        recorded: Option<&Completion>,
    ) {
        if let Some(name) = &self.options.created_at_header
            && let Some(time) = rfc3339(began_at)
        {
            headers.insert(name, time);
        }
        if let Some(name) = &self.options.expires_at_header
            && let Some(time) = recorded.and_then(Completion::kept_until)
            && let Some(time) = rfc3339(time)
        {
            headers.insert(name, time);
        }
        if let Some(key) = &self.echo {
            headers.insert(&self.key_header, key.clone());
        }
    }
}

impl Verdict {
    /// What is recorded, if it is an answer.
    pub(crate) fn recorded(&self) -> Option<&Completion> {
        match self {
            Verdict::Record(Outcome::Completed(completion)) => Some(completion),
            _ => None,
        }
    }
}

/// What an answer is judged by, where its head leaves before that.
pub(crate) fn head_for_judging(head: &response::Parts) -> response::Parts {
    let (mut parts, ()) = Response::new(()).into_parts();
    parts.status = head.status;
    parts.headers = head.headers.clone();
    if let Some(word) = head.extensions.get::<Recording>() {
        parts.extensions.insert(*word);
    }
    parts
}

/// What of a body is kept: a copy of its own, unless it is large. A body can
/// be a slice of a buffer many times its size, which a record would keep too.
fn recorded_body(data: &Bytes) -> Bytes {
    const COPIED: usize = 64 << 10;
    if data.len() <= COPIED {
        Bytes::copy_from_slice(data)
    } else {
        data.clone()
    }
}
