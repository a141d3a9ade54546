//! Sections 4.7 and 4.8: what an answer means for its record, and what a
//! client gets of it, the first time and later.

use std::pin::Pin;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Response, StatusCode, response};

use crate::admission::Stop;
use crate::answer::{Answer, Recording, is_media_type};
use crate::body::{Collected, Whole};
use crate::context::Operation;
use crate::policy::{Oversize, rfc3339};
use crate::record::Completion;
use crate::response_body::ResponseBody;
use crate::store::{Outcome, Release};

/// What becomes of the record.
pub(crate) enum Ending {
    Complete(Outcome),
    Release(Release),
    /// Released at the end of the answer's body: until then the operation runs.
    ReleaseAtEnd,
}

impl Operation {
    /// 7. What the answer means for the record, and what the client gets of it.
    pub(crate) fn judge<R>(
        &self,
        head: &mut response::Parts,
        collected: Collected,
        rest: Pin<Box<R>>,
        began_at: SystemTime,
    ) -> (Ending, ResponseBody<R>) {
        let keep = self.records(head, &collected);
        let retention = self.policy.retention;
        let completed_at = SystemTime::now();
        let ended = match collected {
            Collected::Whole(Whole { data, trailers }) => {
                let ending = if keep {
                    Ending::Complete(Outcome::Completed(Arc::new(Completion {
                        status: head.status,
                        headers: self.policy.record_headers.of(&head.headers),
                        body: recorded_body(&data),
                        trailers: trailers.as_deref().cloned(),
                        began_at,
                        completed_at,
                        retention,
                    })))
                } else {
                    Ending::Release(Release::Tombstone)
                };
                (ending, ResponseBody::known(data, trailers))
            }
            Collected::Stopped(read) => {
                let ending = if keep && self.policy.oversize == Oversize::Seal {
                    Ending::Complete(Outcome::Sealed { retention })
                } else {
                    Ending::ReleaseAtEnd
                };
                (ending, ResponseBody::rest(read, rest))
            }
            Collected::Broken(read, error) => {
                // An answer worth keeping broke off: its effect has happened.
                let ending = if keep {
                    Ending::Complete(Outcome::Sealed { retention })
                } else {
                    Ending::Release(self.outcome_unknown())
                };
                (ending, ResponseBody::broken(read, error))
            }
        };
        let kept = matches!(ended.0, Ending::Complete(_));
        let kept_until = || completed_at.checked_add(retention).filter(|_| kept);
        self.mark(&mut head.headers, began_at, kept_until);
        ended
    }

    fn records(&self, head: &response::Parts, collected: &Collected) -> bool {
        let answer = Answer {
            status: head.status,
            headers: &head.headers,
            trailers: match collected {
                Collected::Whole(whole) => whole.trailers.as_deref(),
                Collected::Stopped(_) | Collected::Broken(..) => None,
            },
        };
        match head.extensions.get::<Recording>() {
            Some(Recording::Keep) => true,
            Some(Recording::Skip) => false,
            None if self.policy.skips_type(&head.headers) => false,
            // Its status is in trailers that were not reached: being large
            // is no reason to run it again.
            None if matches!(collected, Collected::Stopped(_)) && answer.awaits_grpc_status() => {
                true
            }
            None => self.policy.record.records(&answer),
        }
    }

    pub(crate) fn stop<R>(&self, stop: Stop, parts: &Parts) -> Response<ResponseBody<R>> {
        match stop {
            Stop::Reject(rejection) => self.layer.reject(rejection, &self.policy, Some(parts)),
            Stop::Replay(completion) => self.replay(&completion),
        }
    }

    fn replay<R>(&self, completion: &Completion) -> Response<ResponseBody<R>> {
        let trailers = completion.trailers.clone().map(Box::new);
        let body = ResponseBody::known(completion.body.clone(), trailers);
        let mut response = Response::new(body);
        *response.status_mut() = self.policy.replayed_status(completion.status);
        let mut headers = completion.headers.clone();
        if let Some(length) = headers.get_mut(CONTENT_LENGTH) {
            *length = HeaderValue::from(completion.body.len());
        }
        if let Some(name) = &self.policy.replayed_header {
            headers.insert(name, HeaderValue::from_static("true"));
        }
        self.mark(&mut headers, completion.began_at, || {
            completion.kept_until()
        });
        *response.headers_mut() = headers;
        response
    }

    /// The headers that first answers and replays have in common.
    fn mark(
        &self,
        headers: &mut HeaderMap,
        began_at: SystemTime,
        kept_until: impl FnOnce() -> Option<SystemTime>,
    ) {
        if let Some(name) = &self.policy.created_at_header
            && let Some(time) = rfc3339(began_at)
        {
            headers.insert(name, time);
        }
        if let Some(name) = &self.policy.expires_at_header
            && let Some(time) = kept_until().and_then(rfc3339)
        {
            headers.insert(name, time);
        }
        if let Some(key) = &self.echo {
            headers.insert(&self.key_header, key.clone());
        }
    }
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
