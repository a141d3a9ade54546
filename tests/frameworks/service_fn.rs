//! A `service_fn` without a framework: plain bodies, plain errors, one thread.

use std::convert::Infallible;
use std::future::{Future, Ready, ready};
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{Method, Request, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use http_body_util::channel::{Channel, Sender};
use http_body_util::{BodyExt, Full};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tower::util::ServiceFn;
use tower::{ServiceBuilder, ServiceExt};
use tower_idempotency::options::{OnOversize, Require};
use tower_idempotency::{
    Idempotency, IdempotencyContext, IdempotencyLayer, MemoryStore, RequestBody, RequestTrailers,
    RouteOptions, scope,
};

use crate::common::{Answering, Frames, Runs, Seen, post, protected, request, send, with};

type Ask = Request<Full<Bytes>>;

/// A handler that responds with the number of its execution and the body that
/// it received.
fn counting(runs: &Runs) -> impl Fn(Ask) -> Answering<Full<Bytes>> + Clone + Send + use<> {
    let runs = runs.clone();
    move |asked: Ask| {
        let run = runs.begin();
        Box::pin(async move {
            let body = asked.into_body().collect().await?.to_bytes();
            let answer = [format!("run {run}: ").as_bytes(), &body].concat();
            let response = Response::builder().status(StatusCode::CREATED);
            Ok(response.body(Full::from(answer)).expect("a valid head"))
        })
    }
}

#[tokio::test]
async fn a_retry_gets_the_same_answer() {
    let runs = Runs::default();
    let service = ServiceBuilder::new()
        .layer(protected(&MemoryStore::new()))
        .service_fn(counting(&runs));
    let first = send(&service, post("/payments", "a", "7 EUR")).await;
    assert_eq!((first.status, first.text()), (201, "run 1: 7 EUR"));
    send(&service, post("/payments", "a", "7 EUR"))
        .await
        .assert_replays(&first);
    let other = send(&service, post("/payments", "a", "8 EUR")).await;
    assert_eq!(other.refusal(), "422 key-reused");
    assert_eq!(runs.count(), 1);
}

/// Sends a first request, its retry and a request without a key. Different
/// tests run this future on different runtimes.
async fn three_ways() {
    let runs = Runs::default();
    let service = ServiceBuilder::new()
        .layer(protected(&MemoryStore::new()))
        .service_fn(counting(&runs));
    let first = send(&service, post("/", "a", "")).await;
    send(&service, post("/", "a", ""))
        .await
        .assert_replays(&first);
    let passed = send(&service, request(Method::POST, "/", "")).await;
    assert_eq!((passed.text(), runs.count()), ("run 2: ", 2));
}

#[test]
fn it_works_without_a_runtime() {
    let mut future = pin!(three_ways());
    let mut cx = Context::from_waker(Waker::noop());
    // Each step of the future is ready at once, so nothing needs to wake it.
    assert!(future.as_mut().poll(&mut cx).is_ready());
}

/// Background work needs a timer, and must not panic if the runtime has none.
#[test]
fn it_works_in_a_runtime_without_timers() {
    static PANICS: Mutex<Vec<String>> = Mutex::new(Vec::new());

    let own = std::thread::current().id();
    let previous = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if std::thread::current().id() == own {
            let mut panics = PANICS.lock().unwrap_or_else(PoisonError::into_inner);
            panics.push(panic.to_string());
        }
        previous(panic);
    }));

    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    runtime.block_on(async {
        three_ways().await;
        // Tasks that were spawned get their turn here.
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
    });
    let panics = PANICS.lock().unwrap().clone();
    assert_eq!(panics, Vec::<String>::new());
}

#[tokio::test]
async fn an_error_of_the_service_passes_unchanged_and_the_key_executes_again() {
    /// The error implements neither `Error` nor `Display`, which `Service` does
    /// not require.
    #[derive(Debug, PartialEq)]
    struct Refused {
        attempt: u64,
    }

    let service = ServiceBuilder::new()
        .layer(protected(&MemoryStore::new()))
        .service_fn(async |asked: Ask| {
            let context = asked.extensions().get::<IdempotencyContext>().unwrap();
            match context.attempt() {
                attempt @ 1..=2 => Err(Refused { attempt }),
                attempt => Ok(Response::new(Full::<Bytes>::from(format!("{attempt}")))),
            }
        });
    for attempt in 1..=2 {
        let error = service.clone().oneshot(post("/", "a", "")).await;
        assert_eq!(error.unwrap_err(), Refused { attempt });
    }
    let third = send(&service, post("/", "a", "")).await;
    assert_eq!(third.text(), "3");
    send(&service, post("/", "a", ""))
        .await
        .assert_replays(&third);
}

/// A body that must not be read. Two such bodies can be told apart.
#[derive(Clone, Debug)]
struct Untouched(Arc<str>);

impl From<Bytes> for Untouched {
    fn from(_: Bytes) -> Self {
        panic!("a body was made")
    }
}

impl Body for Untouched {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        panic!("a body was read")
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(u64::MAX)
    }
}

/// Requests that the layer passes through: without a key, with a method that is
/// not protected, on a route that is ignored.
fn passing(body: &Untouched) -> [Request<Untouched>; 4] {
    let ask = |method, target| {
        let request = Request::builder().method(method).uri(target);
        request.body(body.clone()).unwrap()
    };
    let with_key = |request| with(request, "idempotency-key", "a");
    [
        ask(Method::POST, "/"),
        with_key(ask(Method::GET, "/")),
        with_key(ask(Method::PUT, "/")),
        with_key(ask(Method::POST, "/ignored")),
    ]
}

fn with_an_ignored_route(store: &MemoryStore) -> IdempotencyLayer {
    IdempotencyLayer::builder(store.clone(), scope::shared())
        .route("/ignored", |options| options.require(Require::Ignored))
        .build()
        .unwrap()
}

#[tokio::test]
async fn what_passes_through_reaches_the_service_unread_in_its_own_body() {
    let (runs, store) = (Runs::default(), MemoryStore::new());
    let body = Untouched(Arc::from("the very same"));
    let handler = {
        let (runs, body) = (runs.clone(), body.clone());
        move |asked: Request<Untouched>| {
            runs.begin();
            assert!(Arc::ptr_eq(&asked.body().0, &body.0));
            assert!(asked.extensions().is_empty());
            let headers = asked.headers().clone();
            let mut response = Response::new(Full::<Bytes>::from("passed"));
            *response.headers_mut() = headers;
            ready(Ok::<_, Infallible>(response))
        }
    };
    let service = ServiceBuilder::new()
        .layer(with_an_ignored_route(&store))
        .service_fn(handler);
    for asked in passing(&body) {
        let headers = asked.headers().clone();
        let answer = send(&service, asked).await;
        assert_eq!((answer.status, answer.text()), (200, "passed"));
        assert_eq!(answer.headers, headers);
    }
    assert_eq!((runs.count(), store.len()), (4, 0));
}

#[tokio::test]
async fn errors_of_what_passes_through_are_as_they_were() {
    let service = ServiceBuilder::new()
        .layer(with_an_ignored_route(&MemoryStore::new()))
        .service_fn(async |asked: Request<Untouched>| {
            Err::<Response<Full<Bytes>>, _>(asked.into_body().0)
        });
    let body = Untouched(Arc::from("the very same"));
    for asked in passing(&body) {
        let error = service.clone().oneshot(asked).await.unwrap_err();
        assert!(Arc::ptr_eq(&error, &body.0));
    }
}

#[tokio::test(start_paused = true)]
async fn the_answer_to_what_passes_through_is_not_read_ahead() {
    #[derive(Debug, PartialEq)]
    struct DiskGone;

    impl std::fmt::Display for DiskGone {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("the disk is gone")
        }
    }

    impl std::error::Error for DiskGone {}

    let (sender, body) = Channel::<Bytes, DiskGone>::new(1);
    let body = Arc::new(Mutex::new(Some(body)));
    let service = ServiceBuilder::new()
        .layer(protected(&MemoryStore::new()))
        .service_fn(move |_: Ask| {
            let body = body.lock().unwrap().take().expect("it runs once");
            ready(Ok::<_, Infallible>(Response::new(body)))
        });
    let asked = service.oneshot(request(Method::POST, "/", ""));
    let answer = tokio::time::timeout(Duration::from_secs(1), asked).await;
    let mut body = answer.expect("the head").unwrap().into_body();
    assert!(!body.is_end_stream());
    sender.abort(DiskGone);
    let error = body.frame().await.unwrap().unwrap_err();
    assert_eq!(error.downcast_ref(), Some(&DiskGone));
}

#[tokio::test]
async fn an_answers_trailers_are_replayed() {
    let runs = Runs::default();
    let handler = {
        let runs = runs.clone();
        move |_: Ask| {
            runs.begin();
            let body = Frames::new(["seven ", "euros"]).and_trailer("x-checksum", "abc");
            let response = Response::builder().header("trailer", "x-checksum");
            ready(Ok::<_, Infallible>(response.body(body).unwrap()))
        }
    };
    let service = ServiceBuilder::new()
        .layer(protected(&MemoryStore::new()))
        .service_fn(handler);
    let first = send(&service, post("/", "a", "")).await;
    assert_eq!(first.text(), "seven euros");
    assert_eq!(first.trailers.as_ref().unwrap()["x-checksum"], "abc");
    let again = send(&service, post("/", "a", "")).await;
    again.assert_replays(&first);
    assert_eq!(again.header("trailer"), Some("x-checksum"));
    assert_eq!(runs.count(), 1);
}

#[tokio::test]
async fn trailers_without_data_are_replayed() {
    let service = ServiceBuilder::new()
        .layer(protected(&MemoryStore::new()))
        .service_fn(async |_: Ask| {
            let body = Frames::new([""; 0]).and_trailer("grpc-status", "0");
            Ok::<_, Infallible>(Response::new(body))
        });
    let first = send(&service, post("/", "a", "")).await;
    assert_eq!(first.trailers.as_ref().unwrap()["grpc-status"], "0");
    send(&service, post("/", "a", ""))
        .await
        .assert_replays(&first);
}

#[tokio::test]
async fn a_requests_trailers_reach_the_handler_as_an_extension() {
    let service = ServiceBuilder::new()
        .map_request(|asked: Request<Frames>| asked.map(RequestBody::new))
        .layer(protected(&MemoryStore::new()))
        .service_fn(async |asked: Request<RequestBody<Frames>>| {
            let (head, body) = asked.into_parts();
            let trailers = head.extensions.get::<RequestTrailers>();
            let checksum = trailers.map(|RequestTrailers(fields)| fields["x-checksum"].clone());
            let body = body.collect().await.unwrap().to_bytes();
            let mut response = Response::new(Full::new(body));
            if let Some(checksum) = checksum {
                response.headers_mut().insert("x-checksum", checksum);
            }
            Ok::<_, Infallible>(response)
        });
    let upload = |key, body: Frames| post::<Frames>("/", key, "").map(|_| body);

    let trailed = Frames::new(["seven ", "euros"]).and_trailer("x-checksum", "abc");
    let first = send(&service, upload("a", trailed)).await;
    assert_eq!(
        (first.text(), first.header("x-checksum")),
        ("seven euros", Some("abc"))
    );
    let bare = send(&service, upload("b", Frames::new(["seven euros"]))).await;
    assert_eq!(
        (bare.text(), bare.header("x-checksum")),
        ("seven euros", None)
    );
}

type Streamed = Ready<Result<Response<Channel<Bytes>>, Infallible>>;

/// A service that responds with a stream. It keeps the senders of its streams
/// in the order of its executions.
struct Streaming {
    runs: Runs,
    begin: UnboundedSender<Sender<Bytes>>,
    begun: UnboundedReceiver<Sender<Bytes>>,
}

impl Streaming {
    fn new() -> Self {
        let (begin, begun) = unbounded_channel();
        Self {
            runs: Runs::default(),
            begin,
            begun,
        }
    }

    /// The service responds with a new stream after the head that `head`
    /// returns.
    fn service(
        &self,
        head: fn() -> http::response::Builder,
        change: fn(RouteOptions) -> RouteOptions,
    ) -> Idempotency<ServiceFn<impl Fn(Ask) -> Streamed + Clone + Send + use<>>> {
        let (runs, begin) = (self.runs.clone(), self.begin.clone());
        let layer = IdempotencyLayer::builder(MemoryStore::new(), scope::shared())
            .defaults(change)
            .build()
            .unwrap();
        ServiceBuilder::new()
            .layer(layer)
            .service_fn(move |_: Ask| {
                runs.begin();
                let (sender, body) = Channel::<Bytes>::new(16);
                begin.send(sender).unwrap();
                ready(Ok::<_, Infallible>(head().body(body).unwrap()))
            })
    }

    /// The sender of the next response's body.
    async fn begun(&mut self) -> Sender<Bytes> {
        soon(self.begun.recv()).await.unwrap()
    }
}

/// Fails if `future` does not end soon. The clock is paused, so a future that
/// waits for something else times out at once.
async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(1), future)
        .await
        .expect("it is ready without anything else having to happen")
}

async fn next_text<B>(body: &mut B) -> String
where
    B: Body<Data = Bytes, Error: std::fmt::Debug> + Unpin,
{
    let frame = soon(body.frame()).await.unwrap().unwrap();
    String::from_utf8(frame.into_data().unwrap().to_vec()).unwrap()
}

#[tokio::test(start_paused = true)]
async fn events_arrive_as_they_are_sent_and_a_retry_gets_none() {
    let mut streaming = Streaming::new();
    let head = || Response::builder().header(CONTENT_TYPE, "text/event-stream");
    let service = streaming.service(head, |options| options);

    let answer = soon(service.clone().oneshot(post("/", "a", ""))).await;
    let mut body = Box::pin(answer.unwrap().into_body());
    let mut events = streaming.begun().await;
    for event in ["data: 1\n\n", "data: 2\n\n"] {
        events.send_data(Bytes::from(event)).await.unwrap();
        assert_eq!(next_text(&mut body).await, event);
    }
    let again = soon(send(&service, post("/", "a", ""))).await;
    assert_eq!(again.refusal(), "409 response-unavailable");
    drop(events);
    assert!(body.frame().await.is_none());
    let again = soon(send(&service, post("/", "a", ""))).await;
    assert_eq!(again.refusal(), "409 response-unavailable");
    assert_eq!(streaming.runs.count(), 1);
}

#[tokio::test(start_paused = true)]
async fn switching_protocols_is_answered_at_once_and_a_retry_does_not_execute() {
    let streaming = Streaming::new();
    let head = || Response::builder().status(StatusCode::SWITCHING_PROTOCOLS);
    let service = streaming.service(head, |options| options);
    let answer = soon(service.clone().oneshot(post("/", "a", "")))
        .await
        .unwrap();
    assert_eq!(answer.status(), 101);
    let again = soon(send(&service, post("/", "a", ""))).await;
    assert_eq!(again.refusal(), "409 response-unavailable");
    assert_eq!(streaming.runs.count(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_answer_too_large_to_record_arrives_whole_and_a_retry_does_not_execute() {
    let mut streaming = Streaming::new();
    let service = streaming.service(Response::builder, |options| options.max_recorded_body(8));

    let asked = tokio::spawn(service.clone().oneshot(post("/", "a", "")));
    let mut sender = streaming.begun().await;
    for piece in ["1234", "5678", "9"] {
        sender.send_data(Bytes::from(piece)).await.unwrap();
    }
    // The layer does not wait for more of the body before it returns the head.
    let answer = soon(asked).await.unwrap().unwrap();
    sender.send_data(Bytes::from("and more")).await.unwrap();
    drop(sender);
    let first = Seen::whole(answer).await;
    assert_eq!((first.status, first.text()), (200, "123456789and more"));
    assert_eq!(first.header("idempotency-status"), None);

    for _ in 0..2 {
        let again = soon(send(&service, post("/", "a", ""))).await;
        assert_eq!(again.refusal(), "409 response-unavailable");
    }
    let other = soon(send(&service, post("/", "a", "other"))).await;
    assert_eq!(other.refusal(), "422 key-reused");
    assert_eq!(streaming.runs.count(), 1);
}

#[tokio::test]
async fn an_answer_of_exactly_the_limit_is_recorded() {
    let limited = |store: &MemoryStore| {
        IdempotencyLayer::builder(store.clone(), scope::shared())
            .defaults(|options| options.max_recorded_body(8))
            .build()
            .unwrap()
    };
    for (key, frames) in [("a", vec!["12345678"]), ("b", vec!["1234", "5678"])] {
        let service = ServiceBuilder::new()
            .layer(limited(&MemoryStore::new()))
            .service_fn(move |_: Ask| {
                ready(Ok::<_, Infallible>(Response::new(Frames::new(
                    frames.clone(),
                ))))
            });
        let first = send(&service, post("/", key, "")).await;
        assert_eq!(first.text(), "12345678");
        send(&service, post("/", key, ""))
            .await
            .assert_replays(&first);
    }
}

#[tokio::test(start_paused = true)]
async fn under_rerun_a_retry_executes_once_the_large_answer_has_ended() {
    let mut streaming = Streaming::new();
    let service = streaming.service(Response::builder, |options| {
        options.max_recorded_body(8).oversize(OnOversize::Rerun)
    });
    for run in 1..=2 {
        let asked = tokio::spawn(service.clone().oneshot(post("/", "a", "")));
        let mut sender = streaming.begun().await;
        sender.send_data(Bytes::from("123456789")).await.unwrap();
        let mut body = Box::pin(soon(asked).await.unwrap().unwrap().into_body());
        assert_eq!(next_text(&mut body).await, "123456789");

        let early = soon(send(&service, post("/", "a", ""))).await;
        assert_eq!(early.refusal(), "409 in-flight");
        sender.send_data(Bytes::from("the end")).await.unwrap();
        assert_eq!(next_text(&mut body).await, "the end");
        let early = soon(send(&service, post("/", "a", ""))).await;
        assert_eq!(early.refusal(), "409 in-flight");
        drop(sender);
        assert!(soon(body.frame()).await.is_none());
        assert_eq!(streaming.runs.count(), run);
    }
}
