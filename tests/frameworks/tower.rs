//! tower's own layers outside and inside of the layer; readiness; the names of
//! the types.

use std::convert::Infallible;
use std::fmt::Debug;
use std::future::{Ready, ready};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body::Body;
use http_body_util::Full;
use tokio::task::{JoinHandle, JoinSet};
use tower::buffer::BufferLayer;
use tower::limit::ConcurrencyLimitLayer;
use tower::load_shed::LoadShedLayer;
use tower::load_shed::error::Overloaded;
use tower::steer::Steer;
use tower::timeout::TimeoutLayer;
use tower::timeout::error::Elapsed;
use tower::util::{BoxCloneSyncService, BoxService};
use tower::{BoxError, Service, ServiceBuilder, ServiceExt, service_fn};
use tower_idempotency::options::Require;
use tower_idempotency::{
    Idempotency, IdempotencyContext, IdempotencyLayer, MemoryStore, ResponseBody, scope,
};

use crate::common::{Gate, Runs, Seen, post, protected, request, send};

type Ask = Request<Full<Bytes>>;
type ResponseHead = Response<Full<Bytes>>;
type Reply = BoxCloneSyncService<Ask, ResponseHead, BoxError>;

fn text(text: impl Into<Bytes>) -> ResponseHead {
    Response::new(Full::new(text.into()))
}

/// A handler that responds at once with the number of its execution.
fn counting(runs: &Runs) -> Reply {
    let runs = runs.clone();
    let run = move |_: Ask| {
        let run = runs.begin();
        ready(Ok::<_, BoxError>(text(format!("run {run}"))))
    };
    Reply::new(service_fn(run))
}

/// A handler that responds after the gate is opened.
fn waiting(runs: &Runs, gate: &Gate) -> Reply {
    let (runs, gate) = (runs.clone(), gate.clone());
    let run = move |_: Ask| {
        let (run, gate) = (runs.begin(), gate.clone());
        async move {
            gate.pass().await;
            Ok::<_, BoxError>(text(format!("run {run}")))
        }
    };
    Reply::new(service_fn(run))
}

/// Awaits the response to a request that was sent in a task of its own.
async fn answer<R>(asked: JoinHandle<Result<Response<R>, BoxError>>) -> Seen
where
    R: Body<Error: Debug>,
{
    Seen::whole(asked.await.unwrap().unwrap()).await
}

/// A service that panics if it is called before it has reported that it is
/// ready. A clone is not ready, whatever the original reported.
#[derive(Debug, Default)]
struct Strict {
    asked: bool,
    ready: bool,
    runs: Runs,
}

impl Clone for Strict {
    fn clone(&self) -> Self {
        Self {
            asked: false,
            ready: false,
            runs: self.runs.clone(),
        }
    }
}

impl<B> Service<Request<B>> for Strict {
    type Response = ResponseHead;
    type Error = Infallible;
    type Future = Ready<Result<ResponseHead, Infallible>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        if !self.asked {
            self.asked = true;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.ready = true;
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<B>) -> Self::Future {
        assert!(self.ready, "called without having been ready");
        self.asked = false;
        self.ready = false;
        ready(Ok(text(format!("run {}", self.runs.begin()))))
    }
}

#[tokio::test]
async fn the_service_that_was_ready_is_the_one_that_is_called() {
    let strict = Strict::default();
    let runs = strict.runs.clone();
    let layer = IdempotencyLayer::builder(MemoryStore::new(), scope::shared())
        .route("POST /must", |options| options.require(Require::Required))
        .build()
        .unwrap();
    let mut service = ServiceBuilder::new().layer(layer).service(strict);

    let mut ask = async |request: Ask| {
        let ready = ServiceExt::<Ask>::ready(&mut service).await.unwrap();
        Seen::whole(ready.call(request).await.unwrap()).await
    };
    // All requests use one service, whatever happened to the request before.
    assert_eq!(ask(post("/", "a", "")).await.text(), "run 1");
    assert!(ask(post("/", "a", "")).await.is_replay());
    assert_eq!(ask(request(Method::POST, "/", "")).await.text(), "run 2");
    let refused = ask(request(Method::POST, "/must", "")).await;
    assert_eq!(refused.refusal(), "400 key-required");
    let reused = ask(post("/must", "a", "")).await;
    assert_eq!(reused.refusal(), "422 key-reused");
    assert_eq!(ask(request(Method::GET, "/", "")).await.text(), "run 3");
    assert_eq!(ask(post("/", "b", "")).await.text(), "run 4");
    assert_eq!(ask(post("/must", "c", "")).await.text(), "run 5");
    assert_eq!(runs.count(), 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_of_many_clones_waits_until_it_is_ready_itself() {
    let strict = Strict::default();
    let runs = strict.runs.clone();
    let service = ServiceBuilder::new()
        .layer(protected(&MemoryStore::new()))
        .service(strict);
    let mut asked = JoinSet::new();
    for number in 0..300 {
        let service = service.clone();
        asked.spawn(async move {
            // A third of the requests has no key, a third has keys of their
            // own, and in the last third ten requests share each key.
            let asked: Ask = match number % 3 {
                0 => request(Method::POST, "/", ""),
                1 => post("/", &format!("own-{number}"), ""),
                _ => post("/", &format!("shared-{}", number % 10), ""),
            };
            send(&service, asked).await.status
        });
    }
    while let Some(status) = asked.join_next().await {
        assert!(matches!(status.unwrap(), 200 | 409));
    }
    assert_eq!(runs.count(), 100 + 100 + 10);
}

#[tokio::test]
async fn an_error_of_readiness_is_propagated() {
    #[derive(Clone, Debug)]
    struct Broken;

    impl Service<Ask> for Broken {
        type Response = ResponseHead;
        type Error = &'static str;
        type Future = Ready<Result<ResponseHead, &'static str>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), &'static str>> {
            Poll::Ready(Err("never ready"))
        }

        fn call(&mut self, _: Ask) -> Self::Future {
            unreachable!("it is not ready")
        }
    }

    let store = MemoryStore::new();
    let mut service = ServiceBuilder::new()
        .layer(protected(&store))
        .service(Broken);
    assert_eq!(service.ready().await.unwrap_err(), "never ready");
    let asked = service.oneshot(post("/", "a", "")).await;
    assert_eq!(asked.unwrap_err(), "never ready");
    assert!(store.is_empty());
}

#[tokio::test]
async fn a_service_that_is_not_ready_makes_its_callers_wait() {
    let (runs, gate) = (Runs::default(), Gate::closed());
    let service = ServiceBuilder::new()
        .layer(protected(&MemoryStore::new()))
        .layer(ConcurrencyLimitLayer::new(1))
        .service(waiting(&runs, &gate));
    let ask = |key| tokio::spawn(service.clone().oneshot(post("/", key, "")));

    let first = ask("a");
    gate.begun().await;
    let (same, other) = (ask("a"), ask("b"));
    gate.open();
    let first = answer(first).await;
    // The limit lets the two other requests through only now, one after the
    // other.
    gate.open();
    answer(same).await.assert_replays(&first);
    assert_eq!(answer(other).await.text(), "run 2");
    assert_eq!(runs.count(), 2);
}

#[tokio::test]
async fn what_a_limit_outside_refuses_is_not_protected_yet() {
    let (runs, gate, store) = (Runs::default(), Gate::closed(), MemoryStore::new());
    let service = ServiceBuilder::new()
        .layer(LoadShedLayer::new())
        .layer(ConcurrencyLimitLayer::new(1))
        .layer(protected(&store))
        .service(waiting(&runs, &gate));
    let first = tokio::spawn(service.clone().oneshot(post("/", "a", "")));
    gate.begun().await;
    let shed = service.clone().oneshot(post("/", "b", "")).await;
    assert!(shed.unwrap_err().is::<Overloaded>());
    assert_eq!(store.len(), 1);
    gate.open();
    let first = answer(first).await;
    send(&service, post("/", "a", ""))
        .await
        .assert_replays(&first);
}

#[tokio::test]
async fn what_a_limit_inside_refuses_executes_on_a_retry() {
    let (runs, gate) = (Runs::default(), Gate::closed());
    let service = ServiceBuilder::new()
        .layer(protected(&MemoryStore::new()))
        .layer(LoadShedLayer::new())
        .layer(ConcurrencyLimitLayer::new(1))
        .service(waiting(&runs, &gate));
    let first = tokio::spawn(service.clone().oneshot(post("/", "a", "")));
    gate.begun().await;
    let shed = service.clone().oneshot(post("/", "b", "")).await;
    assert!(shed.unwrap_err().is::<Overloaded>());
    // The layer rejects the key of the running operation without asking the
    // limit for room.
    let early = send(&service, post("/", "a", "")).await;
    assert_eq!(early.refusal(), "409 in-flight");
    gate.open();
    assert_eq!(answer(first).await.text(), "run 1");
    gate.open();
    let second = send(&service, post("/", "b", "")).await;
    assert_eq!(second.text(), "run 2");
}

#[tokio::test]
async fn a_buffer_works_on_either_side() {
    let runs = Runs::default();
    let service = ServiceBuilder::new()
        .layer(BufferLayer::new(4))
        .layer(protected(&MemoryStore::new()))
        .layer(BufferLayer::new(4))
        .service(counting(&runs));
    let first = send(&service, post::<Full<Bytes>>("/", "a", "")).await;
    send(&service, post("/", "a", ""))
        .await
        .assert_replays(&first);
    assert_eq!(runs.count(), 1);
}

/// A handler whose first execution takes 15 s. Later executions respond with
/// the number of their attempt.
async fn slow_at_first(request: Ask) -> Result<ResponseHead, BoxError> {
    let attempt = request.extensions().get::<IdempotencyContext>();
    let attempt = attempt.map_or(0, IdempotencyContext::attempt);
    if attempt == 1 {
        tokio::time::sleep(Duration::from_secs(15)).await;
    }
    Ok(text(format!("attempt {attempt}")))
}

#[tokio::test(start_paused = true)]
async fn a_timeout_inside_is_an_error_and_a_retry_executes() {
    let service = ServiceBuilder::new()
        .layer(protected(&MemoryStore::new()))
        .layer(TimeoutLayer::new(Duration::from_secs(10)))
        .service_fn(slow_at_first);
    let first = service.clone().oneshot(post("/", "a", "")).await;
    assert!(first.unwrap_err().is::<Elapsed>());
    assert_eq!(send(&service, post("/", "a", "")).await.text(), "attempt 2");
}

#[tokio::test(start_paused = true)]
async fn a_timeout_outside_does_not_stop_the_operation() {
    let service = ServiceBuilder::new()
        .layer(TimeoutLayer::new(Duration::from_secs(10)))
        .layer(protected(&MemoryStore::new()))
        .service_fn(slow_at_first);
    let first = service.clone().oneshot(post("/", "a", "")).await;
    assert!(first.unwrap_err().is::<Elapsed>());
    let early = send(&service, post("/", "a", "")).await;
    assert_eq!(early.refusal(), "409 in-flight");
    tokio::time::sleep(Duration::from_secs(6)).await;
    let late = send(&service, post("/", "a", "")).await;
    assert!(late.is_replay());
    assert_eq!(late.text(), "attempt 1");
}

/// A service of an application, with the layer's type written out.
#[derive(Clone, Debug)]
struct Payments {
    service: Idempotency<Strict>,
    boxed: BoxCloneSyncService<Ask, Response<ResponseBody<Full<Bytes>>>, BoxError>,
}

#[tokio::test]
async fn the_types_can_be_named() {
    use tower::Layer;

    let (store, runs) = (MemoryStore::new(), Runs::default());
    let layer = protected(&store);
    let payments = Payments {
        service: layer.layer(Strict::default()),
        boxed: BoxCloneSyncService::new(layer.layer(counting(&runs))),
    };
    let inner: &Strict = payments.service.get_ref();
    assert_eq!(inner.runs.count(), 0);

    let first = send(&payments.service, post::<Full<Bytes>>("/", "a", "")).await;
    assert_eq!(first.text(), "run 1");
    // Two services of one layer share their records.
    send(&payments.boxed, post("/", "a", ""))
        .await
        .assert_replays(&first);
    assert_eq!(
        send(&payments.boxed, post("/", "b", "")).await.text(),
        "run 1"
    );
    assert_eq!((runs.count(), store.len()), (1, 2));
}

#[tokio::test]
async fn a_steer_picks_among_layered_services() {
    use tower::Layer;

    let (left, right, store) = (Runs::default(), Runs::default(), MemoryStore::new());
    let layer = protected(&store);
    let services: Vec<Idempotency<Reply>> =
        vec![layer.layer(counting(&left)), layer.layer(counting(&right))];
    let by_path = |asked: &Ask, _: &[_]| usize::from(asked.uri().path() != "/left");
    let mut steer = Steer::new(services, by_path);

    let mut ask = async |target: &str, key: &str| {
        let answer = steer.ready().await.unwrap().call(post(target, key, ""));
        Seen::whole(answer.await.unwrap()).await
    };
    let first = ask("/left", "a").await;
    ask("/left", "a").await.assert_replays(&first);
    assert_eq!(ask("/right", "a").await.refusal(), "422 key-reused");
    assert_eq!(ask("/right", "b").await.text(), "run 1");
    assert_eq!((left.count(), right.count(), store.len()), (1, 1, 2));
}

#[tokio::test]
async fn a_layer_goes_around_a_boxed_service_and_into_a_box() {
    let runs = Runs::default();
    let service = ServiceBuilder::new()
        .layer(BoxService::layer())
        .layer(protected(&MemoryStore::new()))
        .service(counting(&runs));
    let answer = service.oneshot(post("/", "a", "")).await.unwrap();
    assert_eq!(Seen::whole(answer).await.text(), "run 1");
}
