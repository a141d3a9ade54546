//! What the test apps of this program share.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::fmt::Debug;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response};
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use tokio::sync::Semaphore;
use tower::{Service, ServiceExt};
use tower_idempotency::{IdempotencyLayer, MemoryStore, scope};

/// A layer with the default options, for tests in which all requests have one
/// caller.
pub(crate) fn protected(store: &MemoryStore) -> IdempotencyLayer {
    IdempotencyLayer::new(store.clone(), scope::shared()).unwrap()
}

/// The future that a handler returns.
pub(crate) type Answering<R> =
    Pin<Box<dyn Future<Output = Result<Response<R>, Infallible>> + Send>>;

/// A counter of executions.
#[derive(Clone, Debug, Default)]
pub(crate) struct Runs(Arc<AtomicUsize>);

impl Runs {
    /// Counts one more execution and returns its number, from 1.
    pub(crate) fn begin(&self) -> usize {
        self.0.fetch_add(1, Ordering::SeqCst) + 1
    }

    pub(crate) fn count(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

/// Makes handlers wait until the test opens the gate.
#[derive(Clone, Debug)]
pub(crate) struct Gate(Arc<(Semaphore, Semaphore)>);

impl Gate {
    pub(crate) fn closed() -> Self {
        Self(Arc::new((Semaphore::new(0), Semaphore::new(0))))
    }

    /// For handlers: reports that the handler has begun, and waits until the
    /// gate opens.
    pub(crate) async fn pass(&self) {
        let (begun, open) = &*self.0;
        begun.add_permits(1);
        open.acquire().await.unwrap().forget();
    }

    /// Waits until one more handler has begun.
    pub(crate) async fn begun(&self) {
        let begun = tokio::time::timeout(Duration::from_secs(20), self.0.0.acquire());
        begun.await.expect("a handler begins").unwrap().forget();
    }

    /// Lets one handler continue.
    pub(crate) fn open(&self) {
        self.0.1.add_permits(1);
    }
}

/// A request without a key.
pub(crate) fn request<B: From<Bytes>>(
    method: Method,
    target: &str,
    body: impl Into<Bytes>,
) -> Request<B> {
    let body: Bytes = body.into();
    Request::builder()
        .method(method)
        .uri(target)
        .body(B::from(body))
        .unwrap()
}

/// A POST request with a key.
pub(crate) fn post<B: From<Bytes>>(target: &str, key: &str, body: impl Into<Bytes>) -> Request<B> {
    with(request(Method::POST, target, body), "idempotency-key", key)
}

pub(crate) fn with<B>(mut request: Request<B>, name: &'static str, value: &str) -> Request<B> {
    request.headers_mut().insert(
        HeaderName::from_static(name),
        HeaderValue::from_str(value).unwrap(),
    );
    request
}

/// A response that was read to its end.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) trailers: Option<HeaderMap>,
}

impl Seen {
    pub(crate) async fn whole<B>(response: Response<B>) -> Self
    where
        B: Body,
        B::Error: Debug,
    {
        let (head, body) = response.into_parts();
        let collected = body.collect().await.expect("the answer has an end");
        let trailers = collected.trailers().cloned();
        Self {
            status: head.status.as_u16(),
            headers: head.headers,
            body: collected.to_bytes(),
            trailers,
        }
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("the answer is text")
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.headers.get_all(name).iter();
        let value = values.next()?;
        assert!(values.next().is_none(), "{name} stands twice");
        Some(value.to_str().unwrap())
    }

    pub(crate) fn is_replay(&self) -> bool {
        self.header("idempotency-replayed") == Some("true")
    }

    /// Fails unless this response equals `first` and is marked as a replay.
    #[track_caller]
    pub(crate) fn assert_replays(&self, first: &Self) {
        assert!(!first.is_replay(), "the first answer: {first:?}");
        assert!(self.is_replay(), "the retry's answer: {self:?}");
        assert_eq!(self.status, first.status);
        assert_eq!(self.body, first.body);
        assert_eq!(self.trailers, first.trailers);
        assert_eq!(self.header("content-type"), first.header("content-type"));
    }

    /// The status and the code of a rejection, such as `409 in-flight`.
    #[track_caller]
    pub(crate) fn refusal(&self) -> String {
        let problem: serde_json::Value = serde_json::from_slice(&self.body)
            .unwrap_or_else(|_| panic!("not a refusal: {self:?}"));
        assert_eq!(self.headers[CONTENT_TYPE], "application/problem+json");
        assert_eq!(self.headers[CACHE_CONTROL], "no-store");
        assert_eq!(problem["source"], "idempotency");
        assert_eq!(problem["status"], self.status);
        assert!(!self.is_replay());
        format!("{} {}", self.status, problem["code"].as_str().unwrap())
    }
}

/// Sends one request and reads the response to its end.
pub(crate) async fn send<S, B, R>(service: &S, request: Request<B>) -> Seen
where
    S: Service<Request<B>, Response = Response<R>> + Clone,
    S::Error: Debug,
    R: Body,
    R::Error: Debug,
{
    Seen::whole(service.clone().oneshot(request).await.unwrap()).await
}

/// A body of several frames that does not announce its length.
#[derive(Debug)]
pub(crate) struct Frames(VecDeque<Frame<Bytes>>);

impl Frames {
    pub(crate) fn new<D: Into<Bytes>>(data: impl IntoIterator<Item = D>) -> Self {
        Self(
            data.into_iter()
                .map(|data| Frame::data(data.into()))
                .collect(),
        )
    }

    pub(crate) fn and_trailer(mut self, name: &'static str, value: &'static str) -> Self {
        let mut fields = HeaderMap::new();
        fields.insert(name, HeaderValue::from_static(value));
        self.0.push_back(Frame::trailers(fields));
        self
    }
}

/// The layer gives a handler the body that it has read as the request's own
/// body type, by way of `From<Bytes>`.
/// [`RequestBody`](tower_idempotency::RequestBody) has this conversion for
/// other body types.
impl From<Bytes> for Frames {
    fn from(data: Bytes) -> Self {
        Self::new([data])
    }
}

impl Body for Frames {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.pop_front().map(Ok))
    }
}
