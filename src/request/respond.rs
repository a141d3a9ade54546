//! The responses and headers that this layer adds: rejections, replays, marks, and
//! `Idempotency-Status`.

use std::sync::Arc;
use std::time::SystemTime;

use http::header::CONTENT_LENGTH;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Response};
use tracing::debug;

use crate::display::rfc3339;
use crate::message::body::FullBody;
use crate::message::kept::unsent;
use crate::message::media_type::field;
use crate::message::response_body::ResponseBody;
use crate::observer::RequestOutcome;
use crate::options::RouteOptions;
use crate::options::recording::Recording;
use crate::record::Completion;
use crate::rejection::Rejection;
use crate::request::core::Core;
use crate::request::operation::{Operation, ProtectedRequest};
use crate::request::stop::Stop;

/// Says what protection a response lacks: `unprotected` or `unrecorded`.
pub(crate) const STATUS_HEADER: HeaderName = HeaderName::from_static("idempotency-status");

/// How many headers a replay gets beside the recorded ones: four marks of the layer, and the length
/// and the date that servers add.
const ADDED: usize = 6;

/// The operation ran without a record, because the store is down.
pub(crate) fn unprotected(headers: &mut HeaderMap) {
    headers.insert(STATUS_HEADER, HeaderValue::from_static("unprotected"));
}

/// The response leaves before its record is stored.
pub(crate) fn unrecorded(headers: &mut HeaderMap) {
    headers.insert(STATUS_HEADER, HeaderValue::from_static("unrecorded"));
}

impl Core {
    /// `parts` must be there wherever rejections
    /// [look at the request](crate::rejection::RejectionRules::look_at_requests).
    pub(crate) fn reject<R>(
        &self,
        rejection: Rejection,
        options: &RouteOptions,
        parts: Option<&Parts>,
        grpc: bool,
    ) -> Response<ResponseBody<R>> {
        debug!(code = rejection.code().as_str(), "rejected");
        self.leases.counts.rejected(rejection.code());
        let rejections = &self.rules.rejections;
        let rejection = rejection.settle(rejections, options.retry_after);
        let mut response = rejections.render(&rejection, parts, grpc);
        // Another layer of this kind further out must not record the rejection as
        // the operation's response.
        response.extensions_mut().insert(Recording::Skip);
        response.map(|data| {
            ResponseBody::known(FullBody {
                data,
                trailers: None,
            })
        })
    }
}

impl ProtectedRequest {
    /// The response of a request whose handler does not run.
    ///
    /// `parts` must be there wherever rejections
    /// [look at the request](crate::rejection::RejectionRules::look_at_requests).
    pub(crate) fn stop<R>(&self, stop: Stop, parts: Option<&Parts>) -> Response<ResponseBody<R>> {
        let rejection = match stop {
            Stop::Reject(rejection) => rejection,
            Stop::InFlight(_) => Rejection::in_flight(),
            Stop::Replay(replay) => {
                self.core.leases.counts.replayed.add();
                self.replayed(&replay);
                return self.replay(replay.completion);
            }
        };
        self.decided(RequestOutcome::Rejected(rejection.code()), None);
        self.core.reject(rejection, &self.options, parts, self.grpc)
    }

    fn replay<R>(&self, completion: Arc<Completion>) -> Response<ResponseBody<R>> {
        let kept_until = completion.kept_until();
        let Completion {
            status,
            mut headers,
            body,
            trailers,
            began_at,
            ..
        } = own(completion);
        let length = body.len();
        let body = ResponseBody::known(FullBody {
            data: unsent(body, self.account()),
            trailers: trailers.map(Box::new),
        });
        let body = body.in_parts(self.account(), self.core.send_timeout);
        let mut response = Response::new(body);
        *response.status_mut() = self.options.replayed_status(status);
        if field(&headers, &CONTENT_LENGTH).is_some()
            && let Some(content_length) = headers.get_mut(CONTENT_LENGTH)
        {
            *content_length = HeaderValue::from(length);
        }
        if let Some(name) = &self.options.replayed_header {
            headers.insert(name, HeaderValue::from_static("true"));
        }
        self.mark(&mut headers, began_at, kept_until);
        *response.headers_mut() = headers;
        response
    }

    /// The headers that first responses and replays have in common. `kept_until` is
    /// `None` where no completion is stored, or not yet. Values of the same headers that the
    /// handler has set say something else, and are removed.
    pub(crate) fn mark(
        &self,
        headers: &mut HeaderMap,
        began_at: SystemTime,
        kept_until: Option<SystemTime>,
    ) {
        let times = [
            (&self.options.created_at_header, Some(began_at)),
            (&self.options.expires_at_header, kept_until),
        ];
        for (name, time) in times {
            let Some(name) = name else { continue };
            match time.and_then(rfc3339) {
                Some(time) => headers.insert(name, time),
                None => headers.remove(name),
            };
        }
        if let Some(echo) = &self.echo {
            let (name, key) = &**echo;
            headers.insert(name, key.clone());
        }
    }
}

impl Operation {
    /// Rejects a request whose handler has run.
    pub(crate) fn reject_executed<R>(
        &self,
        rejection: Rejection,
        parts: Option<&Parts>,
    ) -> Response<ResponseBody<R>> {
        self.executed(Some(rejection.code()));
        self.core.reject(rejection, &self.options, parts, self.grpc)
    }
}

/// The completion itself where the store gave it to this request alone, as the memory store does. A
/// copy has room for the headers of a replay.
fn own(completion: Arc<Completion>) -> Completion {
    Arc::try_unwrap(completion).unwrap_or_else(|shared| {
        let mut headers = HeaderMap::with_capacity(shared.headers.len() + ADDED);
        for (name, value) in &shared.headers {
            headers.append(name, value.clone());
        }
        let mut copy = Completion::new(shared.status, shared.body.clone(), shared.completed_at);
        copy.headers = headers;
        copy.trailers.clone_from(&shared.trailers);
        (copy.began_at, copy.retention) = (shared.began_at, shared.retention);
        copy
    })
}
