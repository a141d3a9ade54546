//! What the test programs share: requests, responses, handlers that count their
//! executions, and futures that are polled a limited number of times. Bodies
//! that misbehave are in [`body`], stores that fail on command in [`store`].

#![allow(dead_code, reason = "each program uses a part of it")]

pub(crate) mod body;
pub(crate) mod log;
pub(crate) mod store;

use std::convert::Infallible;
use std::fmt::Debug;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use http_body::Body;
use http_body_util::{BodyExt, Full};
use tokio::sync::Semaphore;
use tower::{Service, ServiceExt, service_fn};
use tower_idempotency::scope::Header;
use tower_idempotency::store::Store;
use tower_idempotency::{Audit, IdempotencyLayer, IdempotencyLayerBuilder, RouteOptions, scope};

/// The header that names the caller in these tests.
pub(crate) const API_KEY: &str = "x-api-key";

pub(crate) fn by_api_key() -> Header {
    scope::header(API_KEY)
}

/// What an operator says who changes a record, without saying which version was seen.
pub(crate) fn by_operator() -> Audit {
    Audit::new("bob@example.com", "the bank has booked it").unwrap()
}

/// A layer with the default options.
pub(crate) fn protected(store: &(impl Store + Clone)) -> IdempotencyLayer {
    IdempotencyLayer::new(store.clone(), by_api_key()).unwrap()
}

/// A layer whose default options are changed by `change`.
pub(crate) fn with_policy(
    store: &(impl Store + Clone),
    change: impl FnOnce(RouteOptions) -> RouteOptions,
) -> IdempotencyLayer {
    builder(store).defaults(change).build().unwrap()
}

pub(crate) fn builder(store: &(impl Store + Clone)) -> IdempotencyLayerBuilder {
    IdempotencyLayer::builder(store.clone(), by_api_key())
}

/// A POST request to `/payments` from Alice.
pub(crate) fn post(key: &str, body: impl Into<Bytes>) -> Request<Full<Bytes>> {
    post_with(key, Full::new(body.into()))
}

/// A POST request to `/payments` from Alice, with a body of any type.
pub(crate) fn post_with<B>(key: &str, body: B) -> Request<B> {
    let request = request(Method::POST, "/payments", body);
    with(request, "idempotency-key", key)
}

/// A request from Alice without a key.
pub(crate) fn request<B>(method: Method, target: &str, body: B) -> Request<B> {
    let mut request = Request::new(body);
    *request.method_mut() = method;
    *request.uri_mut() = target.parse().unwrap();
    by("alice", request)
}

/// The same request from another caller.
pub(crate) fn by<B>(caller: &str, request: Request<B>) -> Request<B> {
    with(request, API_KEY, caller)
}

/// Sets a header of the request and removes other values of that header.
pub(crate) fn with<B>(
    mut request: Request<B>,
    name: &'static str,
    value: impl AsRef<[u8]>,
) -> Request<B> {
    request.headers_mut().insert(
        HeaderName::from_static(name),
        HeaderValue::from_bytes(value.as_ref()).unwrap(),
    );
    request
}

pub(crate) fn without<B>(mut request: Request<B>, name: &'static str) -> Request<B> {
    request.headers_mut().remove(name);
    request
}

pub(crate) fn to<B>(target: &str, mut request: Request<B>) -> Request<B> {
    *request.uri_mut() = target.parse().unwrap();
    request
}

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

/// A service that counts its executions and responds to each with what `answer`
/// returns.
pub(crate) fn handler<B, R>(
    runs: &Runs,
    answer: impl Fn(usize, Request<Bytes>) -> Response<R> + Clone + Send + 'static,
) -> impl Service<Request<B>, Response = Response<R>, Error = Infallible, Future: Send + 'static>
+ Clone
+ Send
+ 'static
where
    B: Body<Data: Send, Error: Debug> + Send + 'static,
    R: Send + 'static,
{
    let runs = runs.clone();
    service_fn(move |request: Request<B>| {
        let (runs, answer) = (runs.clone(), answer.clone());
        async move {
            let run = runs.begin();
            let (parts, body) = request.into_parts();
            let body = body.collect().await.unwrap().to_bytes();
            Ok(answer(run, Request::from_parts(parts, body)))
        }
    })
}

/// A service that counts its executions and responds with `201 run N`.
pub(crate) fn counting<B>(
    runs: &Runs,
) -> impl Service<
    Request<B>,
    Response = Response<Full<Bytes>>,
    Error = Infallible,
    Future: Send + 'static,
> + Clone
+ Send
+ 'static
where
    B: Body<Data: Send, Error: Debug> + Send + 'static,
{
    handler(runs, |run, _| created(format!("run {run}")))
}

pub(crate) fn created(body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    answer(StatusCode::CREATED, body)
}

pub(crate) fn answer(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response
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
        B: Body<Error: Debug>,
    {
        let (head, body) = response.into_parts();
        let collected = body.collect().await.expect("the answer has an end");
        Self {
            status: head.status.as_u16(),
            headers: head.headers,
            trailers: collected.trailers().cloned(),
            body: collected.to_bytes(),
        }
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("the answer is text")
    }

    #[track_caller]
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.headers.get_all(name).iter();
        let value = values.next()?;
        assert!(values.next().is_none(), "{name} stands twice");
        Some(value.to_str().unwrap())
    }

    pub(crate) fn is_replay(&self) -> bool {
        self.header("idempotency-replayed") == Some("true")
    }

    /// The value of `Idempotency-Status`.
    pub(crate) fn lacks(&self) -> Option<&str> {
        self.header("idempotency-status")
    }

    /// Fails unless a handler has just produced this response.
    #[track_caller]
    pub(crate) fn assert_fresh(&self, body: &str) {
        assert!(!self.is_replay(), "{self:?}");
        assert_eq!(self.text(), body, "{self:?}");
    }

    /// Fails unless this response equals `first` and is marked as a replay.
    #[track_caller]
    pub(crate) fn assert_replays(&self, first: &Self) {
        assert!(!first.is_replay(), "the first answer: {first:?}");
        assert!(self.is_replay(), "the retry's answer: {self:?}");
        assert_eq!(self.status, first.status);
        assert_eq!(self.body, first.body);
        assert_eq!(self.trailers, first.trailers);
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
    S: Service<Request<B>, Response = Response<R>, Error: Debug> + Clone,
    R: Body<Error: Debug>,
{
    in_time(async {
        let response = service.clone().oneshot(request).await;
        Seen::whole(response.unwrap()).await
    })
    .await
}

/// Awaits a future that would otherwise hang the test: it fails after 30
/// minutes of the test's clock.
pub(crate) async fn in_time<F: Future>(future: F) -> F::Output {
    let limit = Duration::from_secs(30 * 60);
    let output = tokio::time::timeout(limit, future).await;
    output.expect("there is an end to waiting")
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
        in_time(self.0.0.acquire()).await.unwrap().forget();
    }

    /// Lets one handler continue.
    pub(crate) fn open(&self) {
        self.0.1.add_permits(1);
    }
}

/// A service whose executions wait at the gate and then respond with `201 run
/// N`.
pub(crate) fn held_back(
    runs: &Runs,
    gate: &Gate,
) -> impl Service<
    Request<Full<Bytes>>,
    Response = Response<Full<Bytes>>,
    Error = Infallible,
    Future: Send + 'static,
> + Clone
+ Send
+ 'static {
    held_back_with(runs, gate, |_| StatusCode::CREATED)
}

/// Like [`held_back`], but `status` returns the status of each execution.
pub(crate) fn held_back_with(
    runs: &Runs,
    gate: &Gate,
    status: impl Fn(usize) -> StatusCode + Clone + Send + 'static,
) -> impl Service<
    Request<Full<Bytes>>,
    Response = Response<Full<Bytes>>,
    Error = Infallible,
    Future: Send + 'static,
> + Clone
+ Send
+ 'static {
    let (runs, gate) = (runs.clone(), gate.clone());
    service_fn(move |_: Request<Full<Bytes>>| {
        let (runs, gate, status) = (runs.clone(), gate.clone(), status.clone());
        async move {
            let run = runs.begin();
            gate.pass().await;
            Ok(answer(status(run), format!("run {run}")))
        }
    })
}

/// Waits until no task can do anything but wait for time to pass. This works
/// only with a paused clock, which moves once all tasks are idle.
pub(crate) async fn quiet() {
    tokio::time::sleep(Duration::from_millis(1)).await;
}

/// Polls `future` at most `times` times, whenever it is woken, and then drops
/// it. Returns its output, or `None` if the last poll was still pending.
pub(crate) async fn poll_times<F: Future>(times: usize, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    let mut polls = 0;
    poll_fn(|cx| {
        if polls == times {
            return Poll::Ready(None);
        }
        polls += 1;
        match future.as_mut().poll(cx) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending if polls == times => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}
