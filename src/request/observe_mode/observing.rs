//! An observed request on its way: what its future holds until the handler has responded.

use std::sync::Arc;

use http::{HeaderValue, Response};
use http_body::Body;

use crate::message::body::BoxError;
use crate::message::response_body::ResponseBody;
use crate::observer::Would;
use crate::request::observe_mode::observation::Observation;
use crate::request::observe_mode::unkeyed::{Known, Unkeyed};
use crate::request::respond::STATUS_HEADER;

/// A request that is observed, from when its handler is called until the handler has responded.
pub(crate) struct Observing {
    pub(super) kind: Kind,
    /// The option `mark_observed`.
    pub(super) marks: bool,
}

pub(super) enum Kind {
    Nothing,
    Decided(Would),
    Observation(Option<Arc<Observation>>),
    /// The body is searched for a key.
    Unkeyed(Arc<Unkeyed>),
}

impl Observing {
    /// Whether there is anything to do when the handler responds.
    pub(crate) fn has_more_to_do(&self) -> bool {
        match &self.kind {
            Kind::Decided(_) => self.marks,
            Kind::Observation(observation) => observation.is_some(),
            Kind::Unkeyed(_) => true,
            Kind::Nothing => false,
        }
    }

    /// Takes over what the search of the body has found by now. Where the handler is done, nothing else is
    /// waited for.
    fn finds(&mut self, at_last: bool) {
        let Kind::Unkeyed(unkeyed) = &self.kind else {
            return;
        };
        let known = unkeyed.known();
        let known = known.or_else(|| at_last.then(|| unkeyed.known_at_last()));
        self.kind = match known {
            None => return,
            Some(Known::Observation(observation)) => Kind::Observation(Some(observation)),
            Some(Known::Decided(would)) => Kind::Decided(would),
            Some(Known::Nothing) => Kind::Nothing,
        };
    }

    /// The handler does not respond at once.
    pub(crate) fn waits(&mut self) {
        self.finds(false);
        if let Kind::Observation(Some(observation)) = &self.kind {
            observation.watch();
        }
    }

    /// The service has failed.
    pub(crate) fn fail(mut self) {
        self.finds(true);
        if let Kind::Observation(observation) = &mut self.kind
            && let Some(observation) = observation.take()
        {
            observation.failed();
        }
    }

    /// The handler has responded.
    pub(crate) fn respond<R>(mut self, response: Response<R>) -> Response<ResponseBody<R>>
    where
        R: Body,
        R::Error: Into<BoxError>,
    {
        self.finds(true);
        let (mut head, body) = response.into_parts();
        let (would, observation) = match &mut self.kind {
            Kind::Nothing | Kind::Unkeyed(_) => (None, None),
            Kind::Decided(would) => (Some(*would), None),
            Kind::Observation(observation) => {
                let observation = observation.take();
                let would = observation.as_ref().and_then(|own| own.would());
                (would, observation)
            }
        };
        let body = match observation.filter(|own| !own.is_over()) {
            Some(observation) => ResponseBody::watched(observation.responded(&head, body)),
            None => ResponseBody::passed(body),
        };
        if self.marks
            && let Some(would) = would
        {
            head.headers.insert(STATUS_HEADER, status(would));
        }
        Response::from_parts(head, body)
    }
}

impl Drop for Observing {
    fn drop(&mut self) {
        self.finds(true);
        let Kind::Observation(Some(observation)) = &self.kind else {
            return;
        };
        if std::thread::panicking() {
            observation.failed();
        } else {
            observation.left();
        }
    }
}

/// A structured field (RFC 9651): a token and its parameters.
fn status(would: Would) -> HeaderValue {
    let value = match would {
        Would::Reject(code) => format!("observed; would=reject; code={code}"),
        would => format!("observed; would={}", would.as_str()),
    };
    value.try_into().expect("words of a header's value")
}
