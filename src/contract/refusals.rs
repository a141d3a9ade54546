//! What each rejection looks like, by making one.

use std::panic::{AssertUnwindSafe, catch_unwind};

use http::request::Parts;
use http::{HeaderMap, HeaderValue, Request};

use crate::contract::RejectionExample;
use crate::options::RouteOptions;
use crate::options::key;
use crate::options::route::Listed;
use crate::rejection::{Rejection, RejectionCode};
use crate::request::core::Core;

/// Made the way requests are refused. A renderer of the application's own may
/// count on what only a real request has: if it panics, nothing is shown.
pub(super) fn refusal(layer: &Core, listed: &Listed, code: RejectionCode) -> RejectionExample {
    let options = &*listed.options;
    let rules = &layer.rules.rejections;
    let rejection = rejection(options, code).settle(rules, options.retry_after);
    let request = request(listed);
    let has_body = rules.bodies.iter().any(|(own, _)| *own == code);
    let rendered = rules.renderer.is_some() && !has_body;
    let made = catch_unwind(AssertUnwindSafe(|| {
        rules.render(&rejection, Some(&request), false)
    }));
    match made {
        Ok(answer) => RejectionExample {
            code,
            status: answer.status(),
            headers: answer.headers().clone(),
            body: Some(answer.into_body()),
            rendered,
        },
        Err(_) => RejectionExample {
            code,
            status: rejection.status(),
            headers: HeaderMap::new(),
            body: None,
            rendered,
        },
    }
}

/// The head of a request to this endpoint, for who renders rejections.
fn request(listed: &Listed) -> Parts {
    let path = listed.path.as_deref().unwrap_or("/");
    let (mut parts, ()) = Request::new(()).into_parts();
    parts.method = listed.methods.first().cloned().unwrap_or_default();
    parts.uri = path.parse().unwrap_or_default();
    if let Some(name) = listed.options.keys.headers.first() {
        let key = HeaderValue::from_static("2fd4e1c6-7a2d-48fc-a1ed-99a0b5c3c2f1");
        parts.headers.insert(name, key);
    }
    let id = HeaderValue::from_static("6d2f7c1e-0b0a-4b6e-9a53-5c1d0e9f8a77");
    parts.headers.insert("x-request-id", id);
    parts
}

/// The rejection that a request of this policy would get.
fn rejection(options: &RouteOptions, code: RejectionCode) -> Rejection {
    let name = options.keys.headers.first();
    let name = name.expect("a layer without one is not built");
    match code {
        RejectionCode::KeyRequired => options.keys.required(),
        RejectionCode::KeyInvalid => key::empty(name),
        RejectionCode::KeyTooShort => options.keys.too_short(name),
        RejectionCode::KeyTooLong => options.keys.too_long(name),
        RejectionCode::ScopeMissing => Rejection::scope_missing(),
        RejectionCode::BodyTooLarge => Rejection::body_too_large(options.max_request_body),
        RejectionCode::BodyTimeout => Rejection::body_timeout(),
        RejectionCode::BodyUnreadable => Rejection::body_unreadable(),
        RejectionCode::KeyReused => Rejection::key_reused(),
        RejectionCode::InFlight => Rejection::in_flight(),
        RejectionCode::OutcomeUnknown => Rejection::outcome_unknown(),
        RejectionCode::ResponseUnavailable => Rejection::response_unavailable(),
        RejectionCode::StoreUnavailable => Rejection::store_unavailable(),
        RejectionCode::OverCapacity => Rejection::over_capacity(),
    }
}

/// Why this rejection is sent.
pub(super) fn when(code: RejectionCode) -> &'static str {
    match code {
        RejectionCode::KeyRequired => "The request has no key, and needs one.",
        RejectionCode::KeyInvalid => {
            "The key is malformed, empty, sent more than once, or not of the format that is asked for."
        }
        RejectionCode::KeyTooShort => "The key is too short.",
        RejectionCode::KeyTooLong => "The key is too long.",
        RejectionCode::ScopeMissing => "The request does not say who its caller is.",
        RejectionCode::BodyTooLarge => "The request's body is too large.",
        RejectionCode::BodyTimeout => "The request's body took too long to arrive.",
        RejectionCode::BodyUnreadable => "The request's body broke off.",
        RejectionCode::KeyReused => "The key was used for another request.",
        RejectionCode::InFlight => "The first request with this key is still running, or may be.",
        RejectionCode::OutcomeUnknown => "Nobody knows how the first request with this key ended.",
        RejectionCode::ResponseUnavailable => "The operation is done, but its answer was not kept.",
        RejectionCode::StoreUnavailable => "Whether the key was used can't be told right now.",
        RejectionCode::OverCapacity => "There is no room for another operation.",
    }
}

/// What a client does about it.
pub(super) fn advice(code: RejectionCode) -> &'static str {
    match code {
        RejectionCode::KeyRequired => "Send one.",
        RejectionCode::KeyInvalid | RejectionCode::KeyTooShort | RejectionCode::KeyTooLong => {
            "Correct the key."
        }
        RejectionCode::ScopeMissing => "Authenticate the request.",
        RejectionCode::BodyTooLarge => "Send less.",
        RejectionCode::BodyTimeout | RejectionCode::BodyUnreadable => {
            "Send the same request again, with the same key."
        }
        RejectionCode::KeyReused => "Find out why, then use a new key.",
        RejectionCode::InFlight | RejectionCode::StoreUnavailable | RejectionCode::OverCapacity => {
            "Wait, then send the same request again, with the same key."
        }
        RejectionCode::OutcomeUnknown => {
            "Ask this API's operator, then send the same request again."
        }
        RejectionCode::ResponseUnavailable => "Read the operation's result in another way.",
    }
}
