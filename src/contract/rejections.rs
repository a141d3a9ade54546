//! An example of each rejection, made the way the layer rejects requests.

use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Request, StatusCode};
use serde_json::Value;

use crate::message::media_type::is_json;
use crate::options::RouteOptions;
use crate::options::key::{self, KeyPlace};
use crate::options::route::Listed;
use crate::rejection::json_rpc::JsonRpcRequest;
use crate::rejection::{Rejection, RejectionCode, RejectionRules};

/// A rejection, as a client would get it.
#[derive(Clone, PartialEq)]
pub(super) struct RejectionExample {
    pub(super) code: RejectionCode,
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    /// `None` if the application's renderer panicked.
    pub(super) body: Option<Bytes>,
    /// Whether the application's renderer makes each response from the request, so
    /// that everything about a real response may differ.
    pub(super) rendered: bool,
}

impl RejectionExample {
    pub(super) fn new(rules: &RejectionRules, listed: &Listed, code: RejectionCode) -> Self {
        let options = &*listed.options;
        let rejection = rejection(options, code).settle(rules, options.retry_after);
        let request = request(listed);
        let has_body = rules.body(code.as_str()).is_some();
        // A renderer may rely on extensions that only a real request has.
        let made = catch_unwind(AssertUnwindSafe(|| {
            rules.render(&rejection, Some(&request), false)
        }));
        let (status, headers, body) = match made {
            Ok(response) => {
                let (head, body) = response.into_parts();
                (head.status, head.headers, Some(body))
            }
            Err(_) => (rejection.status(), HeaderMap::new(), None),
        };
        Self {
            code,
            status,
            headers,
            body,
            rendered: rules.renderer.is_some() && !has_body,
        }
    }

    /// The body as JSON if its content type is JSON, else as a string.
    pub(super) fn json_body(&self) -> Option<Value> {
        let body = self.body.as_ref()?;
        let text = || String::from_utf8_lossy(body).into_owned();
        let json = self.is_json().then(|| serde_json::from_slice(body).ok());
        Some(json.flatten().unwrap_or_else(|| Value::String(text())))
    }

    pub(super) fn content_type(&self) -> Option<&str> {
        self.headers.get(CONTENT_TYPE)?.to_str().ok()
    }

    pub(super) fn retry_after(&self) -> Option<&str> {
        self.headers.get(RETRY_AFTER)?.to_str().ok()
    }

    pub(super) fn is_json(&self) -> bool {
        self.content_type().is_some_and(is_json)
    }
}

/// The head of an invented request to this endpoint, for renderers.
fn request(listed: &Listed) -> Parts {
    let path = listed.path.as_deref().unwrap_or("/");
    let (mut parts, ()) = Request::new(()).into_parts();
    parts.method = listed.methods.first().cloned().unwrap_or_default();
    parts.uri = path.parse().unwrap_or_default();
    if let Some(name) = listed.options.keys.headers.first() {
        let key = HeaderValue::from_static("2fd4e1c6-7a2d-48fc-a1ed-99a0b5c3c2f1");
        parts.headers.insert(name, key);
    }
    if listed.options.mcp.is_some() {
        let id = Some("1".into());
        parts.extensions.insert(JsonRpcRequest {
            id,
            ..JsonRpcRequest::default()
        });
    }
    let id = HeaderValue::from_static("6d2f7c1e-0b0a-4b6e-9a53-5c1d0e9f8a77");
    parts.headers.insert("x-request-id", id);
    parts
}

/// The rejection that a request under these options would get.
fn rejection(options: &RouteOptions, code: RejectionCode) -> Rejection {
    let name = options.keys.headers.first();
    let place = KeyPlace::Header(name.expect("a layer without a key header is not built"));
    match code {
        RejectionCode::KeyRequired => options.keys.required(),
        RejectionCode::KeyInvalid => key::empty(place),
        RejectionCode::KeyTooShort => options.keys.too_short(place),
        RejectionCode::KeyTooLong => options.keys.too_long(place),
        RejectionCode::BodyTooLarge => Rejection::body_too_large(options.max_request_body),
        same_everywhere => Rejection::usual(same_everywhere),
    }
}
