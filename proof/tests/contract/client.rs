//! This client does what the contract says, and this handler does what the request
//! tells the handler.

use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderName, HeaderValue, Method, Request, Response};
use serde_json::Value;
use tokio::time::Instant;
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_idempotency::rejection::RejectionCode;
use tower_idempotency::store::WhenFull;
use tower_idempotency::store::{Store, StoreErrorKind};
use tower_idempotency::{
    IdempotencyLayer, IdempotencyLayerBuilder, MemoryStore, ResponseBody, scope,
};

use crate::support::Seen;
use crate::support::body::{Script, Step};
use crate::support::store::{Fault, Op, Steered};

/// A request tells the handler in this header what to do.
const DO: HeaderName = HeaderName::from_static("x-do");
pub(crate) const STATUS: HeaderName = HeaderName::from_static("x-status");
pub(crate) const TYPE: HeaderName = HeaderName::from_static("x-type");
const HANG: &str = "hang";
const FAIL: &str = "fail";
const BREAK_OFF: &str = "break off";

pub(crate) type Configure = fn(IdempotencyLayerBuilder) -> IdempotencyLayerBuilder;

/// This client knows nothing but the contract of the layer in front of the handler.
pub(crate) struct Client {
    pub(crate) layer: IdempotencyLayer,
    /// This is the index of the endpoint that the client uses.
    pub(crate) at: usize,
}

impl Client {
    pub(crate) fn new(configure: Configure, at: usize, store: impl Store) -> Self {
        let scope = scope::header("x-api-key");
        let layer = configure(IdempotencyLayer::builder(store, scope))
            .build()
            .unwrap();
        Self { layer, at }
    }

    /// Sends the requests that cause the rejection with this code, and returns the
    /// rejection.
    pub(crate) async fn provokes(
        configure: Configure,
        at: usize,
        code: RejectionCode,
    ) -> (Self, Seen) {
        let store = Steered::new();
        let client = Self::new(configure, at, store.clone());
        let endpoint = client.endpoint();
        let seen = match code {
            RejectionCode::KeyRequired => {
                let mut request = client.request("");
                for name in endpoint["header"].as_array().unwrap() {
                    request.headers_mut().remove(name.as_str().unwrap());
                }
                client.send(request).await
            }
            RejectionCode::KeyInvalid => client.send(client.with_key("", "")).await,
            RejectionCode::KeyTooShort => {
                let short = "a".repeat((size(&endpoint["key_length"]["min"]) - 1).max(1));
                client.send(client.with_key(&short, "")).await
            }
            RejectionCode::KeyTooLong => {
                let long = "a".repeat(size(&endpoint["key_length"]["max"]) + 1);
                client.send(client.with_key(&long, "")).await
            }
            RejectionCode::ScopeMissing => {
                let mut request = client.request("");
                request.headers_mut().remove("x-api-key");
                client.send(request).await
            }
            RejectionCode::BodyTooLarge => {
                let body = vec![b'a'; size(&endpoint["max_request_body"]) + 1];
                client.send(client.request(body)).await
            }
            RejectionCode::BodyTimeout => {
                let body = Body::new(Script::new([Step::Never]));
                client.send(client.request(body)).await
            }
            RejectionCode::BodyUnreadable => {
                let body = Body::new(Script::new([Step::Fail("cut off")]));
                client.send(client.request(body)).await
            }
            RejectionCode::KeyReused => {
                client.send(client.request("one")).await;
                client.send(client.request("another")).await
            }
            RejectionCode::InFlight => {
                client.begins_and_hangs().await;
                let asked = Instant::now();
                let seen = client.send(client.request("")).await;
                if let Some(seconds) = endpoint["on_in_flight"]["wait"].as_u64() {
                    let bound = Duration::from_secs(seconds);
                    assert!(asked.elapsed() >= bound && asked.elapsed() < bound * 2);
                }
                seen
            }
            RejectionCode::OutcomeUnknown => {
                client.fails(FAIL).await;
                client.send(client.request("")).await
            }
            RejectionCode::ResponseUnavailable => {
                client.fails(BREAK_OFF).await;
                client.send(client.request("")).await
            }
            RejectionCode::StoreUnavailable => {
                store.make(Op::Claim, Fault::Fails(StoreErrorKind::Unknown));
                client.send(client.request("")).await
            }
            RejectionCode::OverCapacity => {
                let full = MemoryStore::builder()
                    .max_records(1)
                    .when_full(WhenFull::Refuse);
                let client = Self::new(configure, at, full.build().unwrap());
                client.begins_and_hangs().await;
                let other = client.with_key(&client.key(2), "");
                let seen = client.send(other).await;
                return (client, seen);
            }
            other => panic!("nobody knows how to provoke {other}"),
        };
        (client, seen)
    }

    /// Returns what the contract says about the endpoint, as JSON.
    pub(crate) fn endpoint(&self) -> Value {
        self.layer.contract().json()["endpoints"][self.at].take()
    }

    fn service(
        &self,
    ) -> impl Service<
        Request<Body>,
        Response = Response<ResponseBody<Body>>,
        Error = &'static str,
        Future: Send,
    > + use<> {
        self.layer.layer(service_fn(handle))
    }

    /// Returns a key that the contract allows.
    pub(crate) fn key(&self, number: usize) -> String {
        let longest = size(&self.endpoint()["key_length"]["max"]);
        let uuid = format!("{number:08x}-0000-4000-8000-000000000000");
        uuid[..uuid.len().min(longest)].to_owned()
    }

    pub(crate) fn with_key(&self, key: &str, body: impl Into<Body>) -> Request<Body> {
        let endpoint = self.endpoint();
        let value = match endpoint["key_syntax"].as_str() {
            Some("strict") => format!("\"{key}\""),
            _ => key.to_owned(),
        };
        let mut request = Request::new(body.into());
        *request.method_mut() = Method::POST;
        *request.uri_mut() = endpoint["path"].as_str().unwrap_or("/").parse().unwrap();
        let headers = request.headers_mut();
        let name: HeaderName = endpoint["header"][0].as_str().unwrap().parse().unwrap();
        headers.insert(name, HeaderValue::try_from(value).unwrap());
        headers.insert("x-api-key", HeaderValue::from_static("alice"));
        // The contract's examples show this request id.
        let id = HeaderValue::from_static("6d2f7c1e-0b0a-4b6e-9a53-5c1d0e9f8a77");
        headers.insert("x-request-id", id);
        request
    }

    pub(crate) fn request(&self, body: impl Into<Body>) -> Request<Body> {
        self.with_key(&self.key(1), body)
    }

    fn told(&self, what: &'static str) -> Request<Body> {
        let mut request = self.request("");
        request
            .headers_mut()
            .insert(DO, HeaderValue::from_static(what));
        request
    }

    pub(crate) async fn send(&self, request: Request<Body>) -> Seen {
        Seen::whole(self.service().oneshot(request).await.unwrap()).await
    }

    async fn begins_and_hangs(&self) {
        let first = tokio::spawn(self.service().oneshot(self.told(HANG)));
        while self.layer.counts().executed == 0 {
            tokio::task::yield_now().await;
        }
        drop(first);
    }

    /// Sends a request whose response never ends properly.
    async fn fails(&self, how: &'static str) {
        if let Ok(response) = self.service().oneshot(self.told(how)).await {
            let body = http_body_util::BodyExt::collect(response.into_body()).await;
            assert!(body.is_err(), "the answer broke off");
        }
    }
}

fn size(value: &Value) -> usize {
    value.as_u64().unwrap().try_into().unwrap()
}

/// The handler sets these headers on every response.
pub(crate) const ANSWERED: &[(&str, &str)] = &[
    ("content-type", "text/plain"),
    ("location", "/a/1"),
    ("set-cookie", "a=1"),
    ("date", "Thu, 01 Jan 1970 00:00:00 GMT"),
    ("connection", "close"),
];

/// Responds `201 done` with some headers, unless the request says otherwise.
async fn handle(request: Request<Body>) -> Result<Response<Body>, &'static str> {
    let headers = request.into_parts().0.headers;
    let told = |name: &HeaderName| Some(headers.get(name)?.to_str().unwrap());
    let mut response = Response::new(Body::from("done"));
    match told(&DO) {
        Some(HANG) => std::future::pending().await,
        Some(FAIL) => return Err("it fails"),
        Some(BREAK_OFF) => {
            let data = Step::Data(Bytes::from_static(b"do"));
            *response.body_mut() = Body::new(Script::new([data, Step::Fail("broken off")]));
        }
        _ => {}
    }
    *response.status_mut() = told(&STATUS).unwrap_or("201").parse().unwrap();
    let answered = response.headers_mut();
    for (name, value) in ANSWERED {
        answered.insert(*name, HeaderValue::from_static(value));
    }
    if let Some(content_type) = told(&TYPE) {
        answered.insert(CONTENT_TYPE, content_type.parse().unwrap());
    }
    Ok(response)
}
