//! G8: a request that is not protected is passed on without being read. The
//! layer changes neither its body, nor errors, nor readiness.

use std::future::{Ready, ready};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body::{Body, Frame, SizeHint};
use tower::limit::ConcurrencyLimitLayer;
use tower::{Layer, Service, ServiceBuilder, ServiceExt};
use tower_idempotency::options::Require;
use tower_idempotency::{IdempotencyContext, RouteOptions};

use crate::support::body::Script;
use crate::support::store::{Op, Steered};
use crate::support::{API_KEY, Runs, counting, in_time, request, with, with_policy, without};

/// A body that must not be read, and that is told from others by the value that
/// it holds.
struct Untouchable(Arc<()>);

impl From<Bytes> for Untouchable {
    fn from(_: Bytes) -> Self {
        panic!("it was replaced")
    }
}

impl Body for Untouchable {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        panic!("it was read")
    }

    fn is_end_stream(&self) -> bool {
        panic!("it was asked for its end")
    }

    fn size_hint(&self) -> SizeHint {
        panic!("it was asked for its size")
    }
}

/// A value in a request's extensions.
#[derive(Clone)]
struct Mark(Arc<()>);

/// A service that keeps the requests that it receives.
#[derive(Clone, Default)]
struct Keeps(Arc<Mutex<Vec<Request<Untouchable>>>>);

impl Service<Request<Untouchable>> for Keeps {
    type Response = Response<Script>;
    type Error = &'static str;
    type Future = Ready<Result<Response<Script>, &'static str>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), &'static str>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Untouchable>) -> Self::Future {
        let fails = request.headers().contains_key("fail");
        self.0.lock().unwrap().push(request);
        ready(if fails {
            Err("as the test wants it")
        } else {
            Ok(Response::new(
                Script::frames(["a", "b"]).and_trailer("c", "d"),
            ))
        })
    }
}

fn ask(method: Method, body: &Arc<()>) -> Request<Untouchable> {
    let mut request = request(method, "/files?x=1", Untouchable(Arc::clone(body)));
    request.extensions_mut().insert(Mark(Arc::clone(body)));
    request
}

type Change = fn(RouteOptions) -> RouteOptions;

/// The options and requests that make up unprotected traffic.
fn other_traffic(body: &Arc<()>) -> Vec<(Change, Request<Untouchable>)> {
    let keyed = |method| with(ask(method, body), "idempotency-key", "k");
    let mut all: Vec<(Change, _)> = vec![
        // The request has no key, and the route requires none.
        (|options| options, ask(Method::POST, body)),
        (
            |options| options,
            without(ask(Method::PATCH, body), API_KEY),
        ),
        // The route is ignored, whatever the key.
        (
            |options| options.require(Require::Ignored),
            keyed(Method::POST),
        ),
        (
            |options| options.require(Require::Ignored),
            with(keyed(Method::POST), "idempotency-key", "\"broken"),
        ),
        (
            |options| options.methods([Method::PUT]).require(Require::Required),
            ask(Method::POST, body),
        ),
    ];
    // The methods are safe, or the route does not list them.
    for method in [
        Method::GET,
        Method::HEAD,
        Method::OPTIONS,
        Method::TRACE,
        Method::CONNECT,
        Method::PUT,
        Method::DELETE,
        Method::from_bytes(b"QUERY").unwrap(),
    ] {
        all.push((|options| options.require(Require::Required), keyed(method)));
    }
    all
}

#[tokio::test]
async fn the_service_gets_the_very_same_request() {
    let body = Arc::new(());
    for (change, request) in other_traffic(&body) {
        let (store, keeps) = (Steered::new(), Keeps::default());
        let app = with_policy(&store, change).layer(keeps.clone());
        let name = format!("{} {:?}", request.method(), request.headers());
        let (method, uri, headers) = (
            request.method().clone(),
            request.uri().clone(),
            request.headers().clone(),
        );
        app.oneshot(request).await.unwrap();

        let got = keeps.0.lock().unwrap().pop().expect(&name);
        assert_eq!((got.method(), got.uri()), (&method, &uri), "{name}");
        assert_eq!(got.headers(), &headers, "{name}");
        assert_eq!(got.extensions().len(), 1, "{name}");
        let mark = got.extensions().get::<Mark>().unwrap();
        assert!(Arc::ptr_eq(&mark.0, &body), "{name}");
        assert!(got.extensions().get::<IdempotencyContext>().is_none());
        assert!(Arc::ptr_eq(&got.body().0, &body), "{name}");
        assert_eq!(store.calls(Op::Claim), 0, "{name}");
        assert!(store.memory.is_empty(), "{name}");
    }
}

#[tokio::test]
async fn the_client_gets_the_very_same_answer_or_error() {
    let body = Arc::new(());
    for (change, request) in other_traffic(&body) {
        let app = with_policy(&Steered::new(), change).layer(Keeps::default());
        let response = app.oneshot(request).await.unwrap();
        assert!(response.headers().is_empty(), "{response:?}");
        let mut answer = response.into_body();
        // The frames arrive as the service sends them.
        let mut frames = Vec::new();
        while let Some(frame) = http_body_util::BodyExt::frame(&mut answer).await {
            let frame = frame.unwrap();
            frames.push(match frame.into_data() {
                Ok(data) => String::from_utf8(data.to_vec()).unwrap(),
                Err(frame) => format!("{:?}", frame.into_trailers().unwrap()),
            });
        }
        assert_eq!(frames, ["a", "b", r#"{"c": "d"}"#]);
    }
    for (change, request) in other_traffic(&body) {
        let app = with_policy(&Steered::new(), change).layer(Keeps::default());
        let failed = app.oneshot(with(request, "fail", "1")).await;
        assert_eq!(failed.map(|_| ()), Err("as the test wants it"));
    }
}

/// A service that is ready when it was polled this often. With 0 it never is.
struct Reluctant(usize);

/// A clone was not polled yet.
impl Clone for Reluctant {
    fn clone(&self) -> Self {
        Self(3)
    }
}

impl Service<Request<Script>> for Reluctant {
    type Response = Response<Script>;
    type Error = &'static str;
    type Future = Ready<Result<Response<Script>, &'static str>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), &'static str>> {
        match self.0 {
            0 => Poll::Ready(Err("never")),
            1 => Poll::Ready(Ok(())),
            _ => {
                self.0 -= 1;
                Poll::Pending
            }
        }
    }

    fn call(&mut self, _: Request<Script>) -> Self::Future {
        assert_eq!(self.0, 1, "called before it was ready");
        // The service must be polled until it is ready again.
        self.0 = 3;
        ready(Ok(Response::new(Script::frames(["done"]))))
    }
}

#[tokio::test]
async fn readiness_is_that_of_the_service() {
    let layer = with_policy(&Steered::new(), |options| options);
    let mut cx = Context::from_waker(std::task::Waker::noop());
    let mut never = layer.layer(Reluctant(0));
    assert_eq!(never.poll_ready(&mut cx), Poll::Ready(Err("never")));
    let mut at_last = layer.layer(Reluctant(3));
    assert_eq!(at_last.poll_ready(&mut cx), Poll::Pending);
    assert_eq!(at_last.poll_ready(&mut cx), Poll::Pending);
    assert_eq!(at_last.poll_ready(&mut cx), Poll::Ready(Ok(())));

    // The layer calls the clone of the service that was ready, for protected
    // requests and for others.
    let other = request(Method::GET, "/", Script::frames(["{}"]));
    assert_eq!(at_last.call(other).await.unwrap().status(), 200);
    let mut at_last = layer.layer(Reluctant(1));
    assert_eq!(at_last.poll_ready(&mut cx), Poll::Ready(Ok(())));
    let keyed = crate::support::post_with("k", Script::frames(["{}"]));
    assert_eq!(at_last.call(keyed).await.unwrap().status(), 200);
}

/// A service that is ready can hold what others wait for.
#[tokio::test(start_paused = true)]
async fn a_request_that_is_rejected_leaves_the_readiness_of_its_service_to_others() {
    let layer = with_policy(&Steered::new(), |options| options.max_request_body(1));
    let app = ServiceBuilder::new()
        .layer(layer)
        .layer(ConcurrencyLimitLayer::new(1))
        .service(counting(&Runs::default()));
    let keyed = |body| crate::support::post_with("k", body);
    let body = || Script::frames(["{}"]);
    let mut rejects = app.clone();
    for (request, status) in [
        (with(keyed(body()), "idempotency-key", ""), 400),
        (without(keyed(body()), API_KEY), 400),
        (keyed(body().announcing(2)), 413),
        (keyed(body()), 413),
    ] {
        let ready = in_time(rejects.ready()).await.unwrap();
        assert_eq!(ready.call(request).await.unwrap().status(), status);
        let other = app.clone().oneshot(request_of_others());
        assert_eq!(in_time(other).await.unwrap().status(), 201);
    }
}

fn request_of_others() -> Request<Script> {
    request(Method::GET, "/", Script::frames(["{}"]))
}
