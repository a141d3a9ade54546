//! tower-http's layers outside and inside of the layer.

use std::convert::Infallible;
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::routing::post as on_post;
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use tower::ServiceBuilder;
use tower_http::ServiceBuilderExt;
use tower_http::add_extension::AddExtensionLayer;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::compression::CompressionLayer;
use tower_http::cors::{Any, CorsLayer};
use tower_http::decompression::DecompressionLayer;
use tower_http::limit::RequestBodyLimitLayer;
use tower_http::request_id::{MakeRequestId, RequestId};
use tower_http::timeout::TimeoutLayer;
use tower_http::trace::TraceLayer;
use tower_idempotency::{IdempotencyContext, IdempotencyLayer, MemoryStore, RequestBody, scope};
use tracing::Span;

use crate::common::{Frames, Runs, Seen, post, protected, request, send, with};

async fn ask(app: &Router, request: Request<Body>) -> Seen {
    send(app, request).await
}

/// An app with one route, which counts its executions.
fn counting(runs: &Runs) -> Router {
    let runs = runs.clone();
    let pay = async move |body: String| format!("run {}: {body}", runs.begin());
    Router::new().route("/payments", on_post(pay))
}

/// Makes request ids that count up, so that no two requests have the same id.
#[derive(Clone, Default)]
struct Ids(Arc<AtomicUsize>);

impl MakeRequestId for Ids {
    fn make_request_id<B>(&mut self, _: &Request<B>) -> Option<RequestId> {
        let id = self.0.fetch_add(1, Ordering::SeqCst) + 1;
        let id = HeaderValue::from_str(&format!("request-{id}")).unwrap();
        Some(RequestId::new(id))
    }
}

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

#[tokio::test]
async fn every_layer_fits_around_any_service() {
    let runs = Runs::default();
    let handler = {
        let runs = runs.clone();
        move |request: Request<RequestBody<_>>| {
            let runs = runs.clone();
            async move {
                let limited: RequestBody<tower_http::body::Limited<Full<Bytes>>> =
                    request.into_body();
                let body = limited.collect().await.unwrap().to_bytes();
                let answer = format!("run {}: {} bytes", runs.begin(), body.len());
                Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(answer))))
            }
        }
    };
    let app = ServiceBuilder::new()
        .set_request_id(REQUEST_ID, Ids::default())
        .layer(TraceLayer::new_for_http())
        .propagate_request_id(REQUEST_ID)
        .layer(CatchPanicLayer::new())
        .layer(CorsLayer::permissive())
        .layer(CompressionLayer::new())
        .layer(TimeoutLayer::with_status_code(
            StatusCode::GATEWAY_TIMEOUT,
            Duration::from_secs(30),
        ))
        .layer(RequestBodyLimitLayer::new(1024))
        .map_request_body(RequestBody::new)
        .layer(protected(&MemoryStore::new()))
        .layer(TimeoutLayer::with_status_code(
            StatusCode::GATEWAY_TIMEOUT,
            Duration::from_secs(20),
        ))
        .layer(CatchPanicLayer::new())
        .layer(TraceLayer::new_for_http())
        .service_fn(handler);

    let first = send(&app, post::<Full<Bytes>>("/", "a", "7 EUR")).await;
    assert_eq!(first.text(), "run 1: 5 bytes");
    let again = send(&app, post::<Full<Bytes>>("/", "a", "7 EUR")).await;
    again.assert_replays(&first);
    assert_eq!(runs.count(), 1);
}

#[tokio::test]
async fn a_trace_outside_sees_replays_and_one_inside_does_not() {
    let (runs, outside, inside) = (Runs::default(), Runs::default(), Runs::default());
    let seen = |by: &Runs| {
        let by = by.clone();
        TraceLayer::new_for_http().on_request(move |_: &Request<Body>, _: &Span| {
            by.begin();
        })
    };
    let app = counting(&runs)
        .layer(seen(&inside))
        .layer(protected(&MemoryStore::new()))
        .layer(seen(&outside));
    let first = ask(&app, post("/payments", "a", "")).await;
    ask(&app, post("/payments", "a", ""))
        .await
        .assert_replays(&first);
    assert_eq!((outside.count(), inside.count(), runs.count()), (2, 1, 1));
}

fn from_origin(origin: &str) -> Request<Body> {
    with(post("/payments", "a", ""), "origin", origin)
}

#[tokio::test]
async fn cors_outside_answers_each_origin_for_itself() {
    let runs = Runs::default();
    let cors = CorsLayer::new()
        .allow_origin(["https://a.example", "https://b.example"].map(HeaderValue::from_static))
        .allow_headers(Any)
        .expose_headers([HeaderName::from_static("idempotency-replayed")]);
    let app = counting(&runs)
        .layer(protected(&MemoryStore::new()))
        .layer(cors);

    let preflight = request(Method::OPTIONS, "/payments", "");
    let preflight = with(preflight, "origin", "https://a.example");
    let preflight = with(preflight, "access-control-request-method", "POST");
    let preflight = with(
        preflight,
        "access-control-request-headers",
        "idempotency-key",
    );
    let allowed = ask(&app, preflight).await;
    assert_eq!(allowed.status, 200);
    assert_eq!(allowed.header("access-control-allow-headers"), Some("*"));

    let first = ask(&app, from_origin("https://a.example")).await;
    let again = ask(&app, from_origin("https://b.example")).await;
    again.assert_replays(&first);
    for (answer, origin) in [(&first, "https://a.example"), (&again, "https://b.example")] {
        assert_eq!(answer.header("access-control-allow-origin"), Some(origin));
        let exposed = answer.header("access-control-expose-headers");
        assert_eq!(exposed, Some("idempotency-replayed"));
    }
    assert_eq!(runs.count(), 1);
}

#[tokio::test]
async fn a_refusal_carries_the_headers_of_the_layers_outside() {
    let app = counting(&Runs::default())
        .layer(protected(&MemoryStore::new()))
        .layer(CorsLayer::permissive());
    ask(&app, from_origin("https://a.example")).await;
    let other = with(
        post("/payments", "a", "other"),
        "origin",
        "https://a.example",
    );
    let refused = ask(&app, other).await;
    assert_eq!(refused.refusal(), "422 key-reused");
    assert_eq!(refused.header("access-control-allow-origin"), Some("*"));
}

#[tokio::test]
async fn cors_inside_is_recorded_as_it_was_answered() {
    let app = counting(&Runs::default())
        .layer(CorsLayer::permissive())
        .layer(protected(&MemoryStore::new()));
    let first = ask(&app, from_origin("https://a.example")).await;
    let again = ask(&app, from_origin("https://a.example")).await;
    again.assert_replays(&first);
    assert_eq!(again.header("access-control-allow-origin"), Some("*"));
    assert_eq!(again.header("vary"), first.header("vary"));
}

/// A text that is long enough to be compressed, and varied.
fn long_text() -> String {
    (0..500).fold(String::new(), |mut text, line| {
        writeln!(text, "{line}: ten green bottles hanging on the wall").unwrap();
        text
    })
}

fn answering(text: &str, runs: &Runs) -> Router {
    let (text, runs) = (text.to_owned(), runs.clone());
    let list = async move || {
        runs.begin();
        text
    };
    Router::new().route("/reports", on_post(list))
}

fn gzipped() -> Request<Body> {
    with(post("/reports", "a", ""), "accept-encoding", "gzip")
}

/// The response to a client that decompresses it.
async fn decoded(app: &Router) -> Seen {
    let client = ServiceBuilder::new()
        .layer(DecompressionLayer::new())
        .service(app.clone());
    send(&client, post::<Body>("/reports", "a", "")).await
}

#[tokio::test]
async fn compression_outside_encodes_a_replay_for_whoever_asks() {
    let (text, runs) = (long_text(), Runs::default());
    let app = answering(&text, &runs)
        .layer(protected(&MemoryStore::new()))
        .layer(CompressionLayer::new());

    let first = ask(&app, gzipped()).await;
    assert_eq!(first.header("content-encoding"), Some("gzip"));
    assert!(first.body.len() < text.len() / 2);
    let again = ask(&app, gzipped()).await;
    again.assert_replays(&first);
    assert_eq!(again.header("content-encoding"), Some("gzip"));
    assert_eq!(again.header("content-length"), None);

    let plain = ask(&app, post("/reports", "a", "")).await;
    assert!(plain.is_replay());
    assert_eq!(plain.header("content-encoding"), None);
    assert_eq!(plain.text(), text);
    assert_eq!(decoded(&app).await.text(), text);
    assert_eq!(runs.count(), 1);
}

#[tokio::test]
async fn compression_inside_is_recorded_byte_for_byte() {
    let (text, runs) = (long_text(), Runs::default());
    let app = answering(&text, &runs)
        .layer(CompressionLayer::new())
        .layer(protected(&MemoryStore::new()));

    let first = ask(&app, gzipped()).await;
    assert_eq!(first.header("content-encoding"), Some("gzip"));
    assert!(first.body.len() < text.len() / 2);
    let again = ask(&app, gzipped()).await;
    again.assert_replays(&first);
    assert_eq!(again.header("content-encoding"), Some("gzip"));
    assert_eq!(again.header("vary"), first.header("vary"));
    let decoded = decoded(&app).await;
    assert!(decoded.is_replay());
    assert_eq!(decoded.text(), text);
    assert_eq!(runs.count(), 1);
}

fn timing_out(status: StatusCode) -> TimeoutLayer {
    TimeoutLayer::with_status_code(status, Duration::from_secs(10))
}

/// A handler whose first execution takes 15 s. Later executions take no time.
fn slow_at_first(runs: &Runs) -> Router {
    let runs = runs.clone();
    let pay = async move || {
        let run = runs.begin();
        if run == 1 {
            tokio::time::sleep(Duration::from_secs(15)).await;
        }
        format!("run {run}")
    };
    Router::new().route("/payments", on_post(pay))
}

#[tokio::test(start_paused = true)]
async fn a_timeout_outside_does_not_stop_the_operation() {
    let runs = Runs::default();
    let app = slow_at_first(&runs)
        .layer(protected(&MemoryStore::new()))
        .layer(timing_out(StatusCode::REQUEST_TIMEOUT));

    assert_eq!(ask(&app, post("/payments", "a", "")).await.status, 408);
    let early = ask(&app, post("/payments", "a", "")).await;
    assert_eq!(early.refusal(), "409 in-flight");
    tokio::time::sleep(Duration::from_secs(6)).await;
    let late = ask(&app, post("/payments", "a", "")).await;
    assert_eq!((late.status, late.text()), (200, "run 1"));
    assert!(late.is_replay());
    assert_eq!(runs.count(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_timeout_inside_ends_the_operation_and_a_retry_executes() {
    for status in [StatusCode::REQUEST_TIMEOUT, StatusCode::GATEWAY_TIMEOUT] {
        let runs = Runs::default();
        let app = slow_at_first(&runs)
            .layer(timing_out(status))
            .layer(protected(&MemoryStore::new()));
        let first = ask(&app, post("/payments", "a", "")).await;
        assert_eq!(first.status, status.as_u16());
        let second = ask(&app, post("/payments", "a", "")).await;
        assert_eq!(second.text(), "run 2");
        ask(&app, post("/payments", "a", ""))
            .await
            .assert_replays(&second);
        assert_eq!(runs.count(), 2);
    }
}

#[tokio::test]
async fn a_body_over_a_limit_outside_is_refused_and_not_executed() {
    let (runs, store) = (Runs::default(), MemoryStore::new());
    let app = counting(&runs)
        .layer(protected(&store))
        .layer(RequestBodyLimitLayer::new(8));
    // The body announces no length, so the limit is met only while the body is
    // read.
    let upload = |frames: &[&'static str]| {
        let frames = Frames::new(frames.iter().copied());
        post::<Body>("/payments", "a", "").map(|_| Body::new(frames))
    };

    let refused = ask(&app, upload(&["1234", "5678", "9"])).await;
    assert_eq!(refused.refusal(), "413 body-too-large");
    assert_eq!((runs.count(), store.len()), (0, 0));
    let first = ask(&app, upload(&["1234", "5678"])).await;
    assert_eq!(first.text(), "run 1: 12345678");
    ask(&app, upload(&["12345678"]))
        .await
        .assert_replays(&first);

    // If the length is announced, tower-http's own layer rejects the request.
    let declared = with(post("/payments", "b", "123456789"), "content-length", "9");
    let refused = ask(&app, declared).await;
    assert_eq!(
        (refused.status, refused.text()),
        (413, "length limit exceeded")
    );
    assert_eq!((runs.count(), store.len()), (1, 1));
}

#[tokio::test]
async fn a_body_over_a_limit_outside_of_any_service_is_refused_too() {
    let (runs, store) = (Runs::default(), MemoryStore::new());
    let handler = {
        let runs = runs.clone();
        move |_: Request<RequestBody<tower_http::body::Limited<Frames>>>| {
            let answer = Full::<Bytes>::from(format!("run {}", runs.begin()));
            std::future::ready(Ok::<_, Infallible>(Response::new(answer)))
        }
    };
    let app = ServiceBuilder::new()
        .layer(RequestBodyLimitLayer::new(8))
        .map_request(|request: Request<_>| request.map(RequestBody::new))
        .layer(protected(&store))
        .service_fn(handler);
    let refused = send(&app, post::<Frames>("/", "a", "123456789")).await;
    assert_eq!(refused.refusal(), "413 body-too-large");
    assert_eq!((runs.count(), store.len()), (0, 0));
    let first = send(&app, post::<Frames>("/", "a", "12345678")).await;
    assert_eq!(first.text(), "run 1");
}

#[tokio::test]
async fn a_limit_inside_answers_what_is_recorded() {
    let runs = Runs::default();
    let app = counting(&runs)
        .layer(RequestBodyLimitLayer::new(8))
        .layer(protected(&MemoryStore::new()));
    let first = ask(&app, post("/payments", "a", "123456789")).await;
    assert_eq!((first.status, runs.count()), (413, 0));
    ask(&app, post("/payments", "a", "123456789"))
        .await
        .assert_replays(&first);
    assert_eq!(ask(&app, post("/payments", "b", "12")).await.status, 200);
}

/// A handler that panics in its first execution. Later executions respond with
/// the number of their attempt.
fn panicking_at_first(runs: &Runs) -> Router {
    let runs = runs.clone();
    let pay = async move |request: Request<Body>| {
        assert!(runs.begin() > 1, "on purpose: the first execution panics");
        let context = request.extensions().get::<IdempotencyContext>().unwrap();
        format!("attempt {}", context.attempt())
    };
    Router::new().route("/payments", on_post(pay))
}

#[tokio::test]
async fn after_a_panic_a_retry_executes_again() {
    let store = MemoryStore::new();
    let outside =
        |app: Router, layer: IdempotencyLayer| app.layer(layer).layer(CatchPanicLayer::new());
    let inside =
        |app: Router, layer: IdempotencyLayer| app.layer(CatchPanicLayer::new()).layer(layer);
    for catch in [outside, inside] {
        let runs = Runs::default();
        let layer = IdempotencyLayer::builder(store.clone(), scope::shared())
            .namespace(format!("{}", store.len()))
            .build()
            .unwrap();
        let app = catch(panicking_at_first(&runs), layer);
        let first = ask(&app, post("/payments", "a", "")).await;
        assert_eq!((first.status, first.text()), (500, "Service panicked"));
        let second = ask(&app, post("/payments", "a", "")).await;
        assert_eq!((second.status, second.text()), (200, "attempt 2"));
        ask(&app, post("/payments", "a", ""))
            .await
            .assert_replays(&second);
        assert_eq!(runs.count(), 2);
    }
}

#[tokio::test]
async fn request_ids_outside_are_those_of_the_request_that_is_answered() {
    let runs = Runs::default();
    let seen = Arc::new(std::sync::Mutex::new(Vec::new()));
    let handler = {
        let (runs, seen) = (runs.clone(), Arc::clone(&seen));
        async move |request: Request<Body>| {
            runs.begin();
            let id = request.headers()[&REQUEST_ID].clone();
            seen.lock().unwrap().push(id);
        }
    };
    let ids = ServiceBuilder::new()
        .set_request_id(REQUEST_ID, Ids::default())
        .propagate_request_id(REQUEST_ID);
    let app = Router::new()
        .route("/payments", on_post(handler))
        .layer(protected(&MemoryStore::new()))
        .layer(ids);

    let first = ask(&app, post("/payments", "a", "")).await;
    assert_eq!(first.header("x-request-id"), Some("request-1"));
    let again = ask(&app, post("/payments", "a", "")).await;
    again.assert_replays(&first);
    assert_eq!(again.header("x-request-id"), Some("request-2"));
    assert_eq!(*seen.lock().unwrap(), ["request-1"]);
}

#[tokio::test]
async fn an_extension_from_outside_reaches_scope_and_handler() {
    #[derive(Clone)]
    struct Tenant(u32);
    let tenant = |id| {
        let by_tenant = scope::extension("tenant", |tenant: &Tenant| tenant.0);
        let whose = async |request: Request<Body>| {
            let Tenant(id) = request.extensions().get().unwrap();
            id.to_string()
        };
        (Tenant(id), by_tenant, whose)
    };
    let store = MemoryStore::new();
    for id in [7, 8] {
        let (tenant, by_tenant, whose) = tenant(id);
        let app = Router::new()
            .route("/payments", on_post(whose))
            .layer(IdempotencyLayer::new(store.clone(), by_tenant).unwrap())
            .layer(AddExtensionLayer::new(tenant));
        let first = ask(&app, post("/payments", "a", "")).await;
        assert_eq!(first.text(), id.to_string());
        ask(&app, post("/payments", "a", ""))
            .await
            .assert_replays(&first);
    }
    assert_eq!(store.len(), 2);
}
