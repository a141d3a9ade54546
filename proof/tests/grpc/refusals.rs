//! These tests check how a gRPC client learns that its call was not executed.

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderName, Method, Request, StatusCode, Version};
use http_body_util::{BodyExt, Empty};
use hyper::body::Body;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio::time::sleep;
use tonic::metadata::MetadataValue;
use tonic::{Code, Status};
use tower::{Layer, ServiceExt};
use tower_idempotency::MemoryStore;
use tower_idempotency::options::Require;
use tower_idempotency::rejection::{Rejection, RejectionCode};
use tower_idempotency::store::StoreErrorKind;

use crate::client::{ask, order, soon};
use crate::shop::{Note, Shop, Stack, serve};
use crate::support::store::{Fault, Op, Steered};
use crate::support::{
    API_KEY, Gate, Runs, Seen, builder, counting, held_back, post, protected, send, with,
    with_policy,
};

/// Returns what a client can act on: gRPC's code, the layer's code, whether to
/// retry, and after how many milliseconds.
#[track_caller]
fn told(status: &Status) -> (Code, &str, &str, Option<&str>) {
    assert!(!status.message().is_empty(), "{status:?}");
    let metadata = |name| Some(status.metadata().get(name)?.to_str().unwrap());
    (
        status.code(),
        metadata("idempotency-code").unwrap(),
        metadata("idempotency-retry").unwrap(),
        metadata("grpc-retry-pushback-ms"),
    )
}

fn of_grpc<B>(request: Request<B>) -> Request<B> {
    with(request, "content-type", "application/grpc")
}

#[tokio::test]
async fn a_call_without_the_key_that_it_needs_is_an_invalid_argument_in_both_stacks() {
    for stack in Stack::ALL {
        let runs = Runs::default();
        let layer = with_policy(&MemoryStore::new(), |p| p.require(Require::Required));
        let client = stack.serve(layer, Shop::new(&runs)).await;
        let mut asked = order("k");
        asked.metadata_mut().remove("idempotency-key");
        let refused = client.pay(asked).await.unwrap_err();
        let expected = (Code::InvalidArgument, "key-required", "new-key", None);
        assert_eq!(told(&refused), expected, "{stack:?}");
        assert!(refused.message().contains("Idempotency-Key"), "{refused:?}");

        let mut asked = order("k");
        let two = MetadataValue::from_static("k2");
        asked.metadata_mut().append("idempotency-key", two);
        let refused = client.pay(asked).await.unwrap_err();
        let expected = (Code::InvalidArgument, "key-invalid", "new-key", None);
        assert_eq!(told(&refused), expected);
        assert_eq!(runs.count(), 0, "{stack:?}");
    }
}

#[tokio::test]
async fn a_call_whose_caller_cannot_be_told_is_unauthenticated() {
    let runs = Runs::default();
    let client = serve(protected(&MemoryStore::new()), Shop::new(&runs)).await;
    let mut asked = order("k");
    asked.metadata_mut().remove(API_KEY);
    let refused = client.pay(asked).await.unwrap_err();
    let expected = (Code::Unauthenticated, "scope-missing", "never", None);
    assert_eq!(told(&refused), expected);
    assert_eq!(runs.count(), 0);
}

#[tokio::test]
async fn another_message_or_method_under_a_known_key_is_an_invalid_argument() {
    let runs = Runs::default();
    let client = serve(protected(&MemoryStore::new()), Shop::new(&runs)).await;
    client.pay(order("k")).await.unwrap();
    let expected = (Code::InvalidArgument, "key-reused", "new-key", None);
    let refused = client.pay(ask("k", Note::new("two books"))).await;
    assert_eq!(told(&refused.unwrap_err()), expected);
    let refused = client.list(order("k")).await;
    assert_eq!(told(&refused.status), expected);
    assert!(refused.metadata.is_none(), "in headers alone");
    assert_eq!(runs.count(), 1);
}

#[tokio::test]
async fn a_call_in_flight_is_aborted_with_a_time_to_wait() {
    let (runs, gate) = (Runs::default(), Gate::closed());
    let shop = Shop::new(&runs).behind(&gate);
    let client = serve(protected(&MemoryStore::new()), shop).await;
    let first = tokio::spawn({
        let client = client.clone();
        async move { client.pay(order("k")).await }
    });
    gate.begun().await;
    let refused = client.pay(order("k")).await.unwrap_err();
    let expected = (Code::Aborted, "in-flight", "same-key", Some("1000"));
    assert_eq!(told(&refused), expected);
    gate.open();
    assert_eq!(first.await.unwrap().unwrap().get_ref(), &Note::new("run 1"));
    assert_eq!(runs.count(), 1);
}

#[tokio::test]
async fn a_store_that_is_out_of_reach_is_unavailable() {
    let runs = Runs::default();
    let store = Steered::new();
    store.make(Op::Claim, Fault::Fails(StoreErrorKind::NotSent));
    let client = serve(protected(&store), Shop::new(&runs)).await;
    let refused = client.pay(order("k")).await.unwrap_err();
    let pushback = Some("1000");
    let expected = (Code::Unavailable, "store-unavailable", "same-key", pushback);
    assert_eq!(told(&refused), expected);
    assert_eq!(runs.count(), 0);
}

#[tokio::test]
async fn an_answer_that_was_not_kept_already_exists() {
    let runs = Runs::default();
    let layer = with_policy(&MemoryStore::new(), |p| p.max_recorded_body(4));
    let client = serve(layer, Shop::new(&runs)).await;
    client.pay(order("k")).await.unwrap();
    let refused = client.pay(order("k")).await.unwrap_err();
    let expected = (Code::AlreadyExists, "response-unavailable", "never", None);
    assert_eq!(told(&refused), expected);
    assert_eq!(runs.count(), 1);
}

#[tokio::test]
async fn a_message_that_is_too_large_is_out_of_range() {
    let runs = Runs::default();
    let layer = with_policy(&MemoryStore::new(), |p| p.max_request_body(8));
    let client = serve(layer, Shop::new(&runs)).await;
    let refused = client.pay(order("k")).await.unwrap_err();
    let expected = (Code::OutOfRange, "body-too-large", "never", None);
    assert_eq!(told(&refused), expected);
    assert_eq!(runs.count(), 0);
}

/// gRPC over HTTP/2 calls this `Trailers-Only`: one block of headers that ends the
/// stream. Clients retry automatically only after such a response.
#[tokio::test]
async fn a_refusal_is_one_block_of_headers_on_the_wire() {
    let client = serve(protected(&MemoryStore::new()), Shop::new(&Runs::default())).await;
    let stream = TcpStream::connect(client.address).await.unwrap();
    let connected = http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
    let (mut sender, connection) = connected.await.unwrap();
    tokio::spawn(connection);
    let request = Request::builder()
        .method(Method::POST)
        .uri(format!("http://{}/shop.Shop/Pay", client.address))
        .header("content-type", "application/grpc+proto")
        .header("te", "trailers")
        .header("idempotency-key", "k")
        .body(Empty::<Bytes>::new())
        .unwrap();
    let response = soon(sender.send_request(request)).await.unwrap();
    assert_eq!(response.version(), Version::HTTP_2);
    assert_eq!(response.status(), StatusCode::OK);
    let mut names: Vec<_> = response.headers().keys().map(HeaderName::as_str).collect();
    names.sort_unstable();
    assert_eq!(
        names,
        [
            "content-type",
            "date",
            "grpc-message",
            "grpc-status",
            "idempotency-code",
            "idempotency-retry"
        ]
    );
    assert_eq!(response.headers()["content-type"], "application/grpc");
    assert_eq!(response.headers()["grpc-status"], "16");
    assert!(response.body().is_end_stream());
    let body = soon(response.into_body().collect()).await.unwrap();
    assert!(body.trailers().is_none());
    assert!(body.to_bytes().is_empty());
}

/// This rejection comes later than all others: the handler has had the request for
/// a long time.
#[tokio::test(start_paused = true)]
async fn an_overtaken_owner_tells_its_client_as_grpc_does() {
    let store = Steered::unguarded();
    store.make(Op::Renew, Fault::Stalls);
    let (runs, gate) = (Runs::default(), Gate::closed());
    let app = protected(&store).layer(held_back(&runs, &gate));
    let first = tokio::spawn(app.clone().oneshot(of_grpc(post("k", "note"))));
    gate.begun().await;
    sleep(std::time::Duration::from_secs(30)).await;
    let second = tokio::spawn(app.clone().oneshot(of_grpc(post("k", "note"))));
    gate.begun().await;
    gate.open();
    let first = Seen::whole(first.await.unwrap().unwrap()).await;
    assert_eq!(
        (first.status, first.header("grpc-status")),
        (200, Some("10"))
    );
    assert_eq!(first.header("idempotency-code"), Some("in-flight"));
    gate.open();
    assert_eq!(second.await.unwrap().unwrap().status(), 201);
}

/// gRPC-Web has its status in the body, so the gRPC form of a rejection would not
/// be understood.
#[tokio::test]
async fn a_request_of_grpc_web_is_refused_as_any_other() {
    let layer = protected(&MemoryStore::new());
    let app = layer.layer(counting(&Runs::default()));
    for (content_type, refusal) in [
        ("application/grpc-web+proto", Some("400 key-invalid")),
        ("application/json", Some("400 key-invalid")),
        ("application/grpc+proto", None),
    ] {
        let request = with(post("\"k", "{}"), "content-type", content_type);
        let seen = send(&app, request).await;
        match refusal {
            Some(refusal) => assert_eq!(seen.refusal(), refusal),
            None => assert_eq!((seen.status, seen.header("grpc-status")), (200, Some("3"))),
        }
    }
}

#[tokio::test]
async fn a_status_that_was_changed_is_changed_for_http_only() {
    let layer = builder(&MemoryStore::new())
        .rejection_status(RejectionCode::KeyInvalid, StatusCode::GONE)
        .build()
        .unwrap();
    let app = layer.layer(counting(&Runs::default()));
    assert_eq!(send(&app, post("\"k", "{}")).await.status, 410);
    let seen = send(&app, of_grpc(post("\"k", "{}"))).await;
    assert_eq!((seen.status, seen.header("grpc-status")), (200, Some("3")));
}

/// The renderer's message may contain any letters.
#[tokio::test]
async fn a_renderer_of_the_applications_own_can_build_on_the_grpc_answer() {
    let layer = builder(&MemoryStore::new())
        .render_rejections(|rejection: &Rejection, request: &Parts| {
            let mut answer = Rejection::new(rejection.code(), "Schlüssel %41\n日本").grpc();
            let path = request.uri.path().parse().unwrap();
            answer.headers_mut().insert("x-method", path);
            answer
        })
        .build()
        .unwrap();
    let client = serve(layer, Shop::new(&Runs::default())).await;
    let mut asked = order("k");
    asked.metadata_mut().remove(API_KEY);
    let refused = client.pay(asked).await.unwrap_err();
    assert_eq!(refused.message(), "Schlüssel %41\n日本");
    assert_eq!(
        refused.metadata().get("x-method").unwrap(),
        "/shop.Shop/Pay"
    );
}
