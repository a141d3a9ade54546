//! What the servers of these tests serve: the layer, and handlers that follow a
//! test's instructions.

use std::convert::Infallible;
use std::fmt::Debug;
use std::future::Future;
use std::io;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body::Body;
use http_body_util::channel::{Channel, Sender};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use tower::{BoxError, Service, ServiceBuilder, service_fn};
use tower_idempotency::store::Store;
use tower_idempotency::{IdempotencyLayer, RequestBody, ResponseBody, RouteOptions, scope};

use crate::LIMIT;
use crate::support::{Gate, Runs};

pub(crate) type Asked = Request<RequestBody<Incoming>>;
/// The body type of the handlers' responses.
pub(crate) type Sent = UnsyncBoxBody<Bytes, io::Error>;

/// A layer for which all requests have the same caller, on a store that a test
/// can delay.
pub(crate) fn layer(
    store: &(impl Store + Clone),
    change: impl FnOnce(RouteOptions) -> RouteOptions,
) -> IdempotencyLayer {
    IdempotencyLayer::builder(store.clone(), scope::shared())
        .store_timeout(LIMIT)
        .defaults(change)
        .build()
        .unwrap()
}

/// A `201` response with this body.
pub(crate) fn created<B>(body: B) -> Response<Sent>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let mut response = Response::new(body.map_err(io::Error::other).boxed_unsync());
    *response.status_mut() = StatusCode::CREATED;
    response
}

pub(crate) fn text(text: impl Into<Bytes>) -> Response<Sent> {
    created(Full::new(text.into()))
}

/// A handler that receives the number of its execution.
pub(crate) fn handler<B, F>(
    runs: &Runs,
    handle: impl Fn(usize) -> F + Clone + Send + Sync + 'static,
) -> impl Service<Request<B>, Response = Response<Sent>, Error = Infallible, Future: Send + 'static>
+ Clone
+ Send
+ Sync
+ 'static
where
    B: Send + 'static,
    F: Future<Output = Response<Sent>> + Send + 'static,
{
    let runs = runs.clone();
    service_fn(move |_: Request<B>| {
        let answer = handle(runs.begin());
        async move { Ok(answer.await) }
    })
}

/// A handler that waits at the gate and responds with the number of its
/// execution.
pub(crate) fn at_gate<B: Send + 'static>(
    runs: &Runs,
    gate: &Gate,
) -> impl Service<Request<B>, Response = Response<Sent>, Error = Infallible, Future: Send + 'static>
+ Clone
+ Send
+ Sync
+ 'static {
    let gate = gate.clone();
    handler(runs, move |run| {
        let gate = gate.clone();
        async move {
            gate.pass().await;
            text(format!("run {run}"))
        }
    })
}

/// A body whose frames the test sends.
pub(crate) fn channel() -> (Sender<Bytes, io::Error>, Channel<Bytes, io::Error>) {
    Channel::new(64)
}

/// Puts `layer` in front of `service`, for hyper's request bodies.
pub(crate) fn app<S, R>(
    layer: &IdempotencyLayer,
    service: S,
) -> impl Service<
    Request<Incoming>,
    Response = Response<ResponseBody<R>>,
    Error = S::Error,
    Future: Send + 'static,
> + Clone
+ Send
+ 'static
where
    S: Service<Asked, Response = Response<R>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
    R: Body<Data: Send, Error: Into<BoxError>> + Send + 'static,
{
    ServiceBuilder::new()
        .map_request(|asked: Request<Incoming>| asked.map(RequestBody::new))
        .layer(layer.clone())
        .service(service)
}

/// Waits until all operations that run without a client have ended.
pub(crate) async fn settled(layer: &IdempotencyLayer) {
    assert_eq!(layer.drain(LIMIT).await, 0, "it runs on");
}

/// A short time, for timeouts that should expire.
pub(crate) const MOMENT: Duration = Duration::from_millis(50);

/// Fails the test with a value that should not have arrived.
pub(crate) fn never<T: Debug>(unexpected: T) -> ! {
    panic!("unexpected: {unexpected:?}")
}
