//! A server that follows a script. It replaces the HTTP client under the layer.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use tokio::time::{Instant, sleep};
use tower::{Layer, Service, ServiceExt};
use tower_idempotency::client::{
    Attempt, BufferedBody, ClientLayer, ClientLayerBuilder, Error, FullJitter,
};

type BoxError = Box<dyn std::error::Error + Send + Sync>;
pub(crate) type AnyBody = BoxBody<Bytes, BoxError>;
pub(crate) type Answered = Result<Response<BufferedBody<AnyBody>>, Error>;

/// What happens to one attempt.
pub(crate) enum Step {
    Answer(Response<AnyBody>),
    /// The response comes so much later.
    Late(Duration, Response<AnyBody>),
    Fail(BoxError),
    /// No response comes.
    Hang,
}

/// One attempt as the server received it.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) at: Instant,
    pub(crate) method: Method,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Seen {
    pub(crate) fn key(&self) -> &str {
        self.headers["idempotency-key"].to_str().unwrap()
    }
}

/// A server that responds with 200 after its script has ended.
#[derive(Clone, Default)]
pub(crate) struct Server {
    script: Arc<Mutex<VecDeque<Step>>>,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Server {
    pub(crate) fn that(script: impl IntoIterator<Item = Step>) -> Self {
        Self {
            script: Arc::new(Mutex::new(script.into_iter().collect())),
            seen: Arc::default(),
        }
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// How often the server received a request.
    pub(crate) fn count(&self) -> usize {
        self.seen.lock().unwrap().len()
    }

    /// Sends one request through the whole client with the default options.
    pub(crate) async fn ask(&self, request: Request<Full<Bytes>>) -> Answered {
        self.ask_with(ClientLayer::default(), request).await
    }

    pub(crate) async fn ask_with(
        &self,
        layer: ClientLayer,
        request: Request<Full<Bytes>>,
    ) -> Answered {
        layer.layer(self.clone()).oneshot(request).await
    }
}

impl Service<Request<Full<Bytes>>> for Server {
    type Response = Response<AnyBody>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Full<Bytes>>) -> Self::Future {
        let step = self.script.lock().unwrap().pop_front();
        let seen = Arc::clone(&self.seen);
        Box::pin(async move {
            let (head, body) = request.into_parts();
            let body = body.collect().await.unwrap().to_bytes();
            seen.lock().unwrap().push(Seen {
                at: Instant::now(),
                method: head.method,
                headers: head.headers,
                body,
            });
            match step.unwrap_or_else(|| Step::Answer(status(200))) {
                Step::Answer(response) => Ok(response),
                Step::Late(wait, response) => {
                    sleep(wait).await;
                    Ok(response)
                }
                Step::Fail(error) => Err(error),
                Step::Hang => std::future::pending().await,
            }
        })
    }
}

pub(crate) fn post(key: &str) -> Request<Full<Bytes>> {
    request(Method::POST, Some(key))
}

pub(crate) fn request(method: Method, key: Option<&str>) -> Request<Full<Bytes>> {
    let mut request = Request::new(Full::from("an order"));
    *request.method_mut() = method;
    *request.uri_mut() = "http://shop/orders?token=secret".parse().unwrap();
    if let Some(key) = key {
        let key = key.parse().unwrap();
        request.headers_mut().insert("idempotency-key", key);
    }
    request
}

pub(crate) fn status(status: u16) -> Response<AnyBody> {
    with_body(status, "")
}

pub(crate) fn with_body(status: u16, body: impl Into<Bytes>) -> Response<AnyBody> {
    let body = Full::new(body.into()).map_err(Into::into).boxed();
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    response
}

/// A response with a problem document.
pub(crate) fn problem(status: u16, document: impl ToString) -> Response<AnyBody> {
    let response = with_body(status, document.to_string());
    header(response, "content-type", "application/problem+json")
}

/// A rejection as an idempotency layer words it.
pub(crate) fn refusal(status: u16, code: &str, retry: &str) -> Response<AnyBody> {
    problem(
        status,
        serde_json::json!({
            "type": "about:blank", "code": code, "retry": retry, "source": "idempotency",
            "detail": "The detail.",
        }),
    )
}

pub(crate) fn header(
    mut response: Response<AnyBody>,
    name: &'static str,
    value: &str,
) -> Response<AnyBody> {
    let value = value.parse().unwrap();
    response.headers_mut().insert(name, value);
    response
}

/// A response whose body breaks off after these bytes.
pub(crate) fn cut_off(status: u16, read: &'static str) -> Response<AnyBody> {
    let broken = io::Error::from(io::ErrorKind::UnexpectedEof);
    let frames = [Ok(Frame::data(Bytes::from(read))), Err(broken.into())];
    let body = StreamBody::new(tokio_stream::iter(frames));
    with_body(status, "").map(|_| BodyExt::boxed(body))
}

pub(crate) fn refused() -> BoxError {
    io::Error::from(io::ErrorKind::ConnectionRefused).into()
}

/// The client waits for no backoff, so that only `Retry-After` causes pauses.
pub(crate) fn at_once() -> ClientLayerBuilder {
    ClientLayer::builder().backoff(FullJitter::new(Duration::ZERO, Duration::ZERO))
}

pub(crate) async fn text(answered: Answered) -> String {
    let body = answered.unwrap().into_body();
    let bytes = body.collect().await.unwrap().to_bytes();
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// The result of an attempt, without the time when the attempt began and how
/// long it took.
pub(crate) fn outcome_of(attempt: &Attempt) -> String {
    let text = attempt.to_string();
    let (time, rest) = text.split_once(' ').unwrap();
    assert!(time.ends_with('Z'), "{text}");
    let (outcome, _) = rest.split_once(" after ").unwrap();
    outcome.to_owned()
}
