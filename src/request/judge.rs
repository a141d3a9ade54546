//! Sections 4.7 and 4.8: what an answer means for its record, and what a
//! client gets of it, the first time and later.

use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Response, StatusCode, response};

use crate::message::body::Whole;
use crate::message::response_body::ResponseBody;
use crate::options::recording::{Answer, Recording, is_media_type};
use crate::options::{Oversize, rfc3339};
use crate::record::Completion;
use crate::rejection::Rejection;
use crate::request::admit::{Stop, in_flight};
use crate::request::operation::Operation;
use crate::store::{Outcome, Release};

/// What was read of an answer's body.
pub(crate) enum Read<'a> {
    Whole(&'a Whole),
    /// Its end, if that, since it is too large to record or has no end.
    TooLarge(Option<&'a HeaderMap>),
    /// Not all of it: it broke off.
    Broken,
}

/// What becomes of the record.
pub(crate) enum Ending {
    Complete(Outcome),
    Release(Release),
    /// In flight until its lease lapses.
    Lapse,
}

impl Operation {
    /// 7. What the answer means for the record.
    pub(crate) fn judge(
        &self,
        head: &response::Parts,
        read: Read<'_>,
        began_at: SystemTime,
    ) -> Ending {
        let word = head.extensions.get::<Recording>();
        if word == Some(&Recording::InDoubt) {
            return Ending::Lapse;
        }
        let keep = match word {
            Some(Recording::Keep) => true,
            Some(Recording::Skip | Recording::InDoubt) => false,
            Some(Recording::IfWhole) | None => self.records(head, &read),
        };
        let retention = self.policy.retention;
        let sealed = Ending::Complete(Outcome::Sealed { retention });
        match read {
            Read::Whole(whole) if keep => Ending::Complete(self.completed(head, whole, began_at)),
            Read::TooLarge(_) if keep && self.policy.oversize == Oversize::Seal => sealed,
            // An answer worth keeping broke off: its effect has happened.
            Read::Broken if keep => sealed,
            Read::Broken if word == Some(&Recording::IfWhole) => Ending::Lapse,
            Read::Broken => Ending::Release(self.outcome_unknown()),
            Read::Whole(_) | Read::TooLarge(_) => Ending::Release(Release::Tombstone),
        }
    }

    /// A whole answer, as it is recorded.
    fn completed(&self, head: &response::Parts, whole: &Whole, began_at: SystemTime) -> Outcome {
        Outcome::Completed(Arc::new(Completion {
            status: head.status,
            headers: self.policy.record_headers.of(&head.headers),
            body: recorded_body(&whole.data),
            trailers: whole.trailers.as_deref().cloned(),
            began_at,
            completed_at: SystemTime::now(),
            retention: self.policy.retention,
        }))
    }

    /// What is recorded of an answer that a handler commits, whatever it is:
    /// its effects have happened.
    #[cfg(feature = "_sql")]
    pub(crate) fn outcome(
        &self,
        head: &response::Parts,
        whole: &Whole,
        began_at: SystemTime,
    ) -> Outcome {
        if whole.data.len() > self.policy.max_recorded_body {
            let retention = self.policy.retention;
            return Outcome::Sealed { retention };
        }
        self.completed(head, whole, began_at)
    }

    fn records(&self, head: &response::Parts, read: &Read<'_>) -> bool {
        let answer = Answer {
            status: head.status,
            headers: &head.headers,
            trailers: match read {
                Read::Whole(whole) => whole.trailers.as_deref(),
                Read::TooLarge(trailers) => *trailers,
                Read::Broken => None,
            },
        };
        if self.policy.skips(&head.headers) {
            return false;
        }
        // Its status is in trailers that were not reached: being large is no
        // reason to run it again.
        let unread = matches!(read, Read::TooLarge(None));
        unread && answer.awaits_grpc_status() || self.policy.record.records(&answer)
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
        self.layer.reject(rejection, &self.policy, parts, self.grpc)
    }

    fn replay<R>(&self, completion: &Completion) -> Response<ResponseBody<R>> {
        let body = ResponseBody::known(Whole {
            data: completion.body.clone(),
            trailers: completion.trailers.clone().map(Box::new),
        });
        let mut response = Response::new(body);
        *response.status_mut() = self.policy.replayed_status(completion.status);
        let mut headers = completion.headers.clone();
        if let Some(length) = headers.get_mut(CONTENT_LENGTH) {
            *length = HeaderValue::from(completion.body.len());
        }
        if let Some(name) = &self.policy.replayed_header {
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
        if let Some(name) = &self.policy.created_at_header
            && let Some(time) = rfc3339(began_at)
        {
            headers.insert(name, time);
        }
        if let Some(name) = &self.policy.expires_at_header
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

impl Ending {
    /// What is recorded, if it is an answer.
    pub(crate) fn recorded(&self) -> Option<&Completion> {
        match self {
            Ending::Complete(Outcome::Completed(completion)) => Some(completion),
            _ => None,
        }
    }
}

/// What an answer is judged by, where its head leaves before that.
pub(crate) fn judged_by(head: &response::Parts) -> response::Parts {
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

/// Answers without an end that could be waited for.
pub(crate) fn never_ends(head: &response::Parts) -> bool {
    head.status == StatusCode::SWITCHING_PROTOCOLS
        || is_media_type(head.headers.get(CONTENT_TYPE), "text/event-stream")
}
