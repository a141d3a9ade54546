//! The options `rejection_status`, `render_rejections`, `retry_after` and
//! `docs_url`.

use std::time::Duration;

use bytes::Bytes;
use http::request::Parts;
use http::{Request, Response, StatusCode};
use serde_json::{Value, json};
use tokio::time::sleep;
use tower::{Layer, ServiceExt};
use tower_idempotency::options::Require;
use tower_idempotency::rejection::{Rejection, RejectionCode, RenderRejection};
use tower_idempotency::store::StoreErrorKind;
use tower_idempotency::{IdempotencyLayer, IdempotencyLayerBuilder, MemoryStore};

use crate::support::store::{Fault, Op, Steered};
use crate::support::{
    API_KEY, Gate, Runs, Seen, builder, counting, held_back, post, send, to, with, with_policy,
    without,
};

#[tokio::test]
async fn a_code_can_have_another_status() {
    let layer = builder(&MemoryStore::new())
        .rejection_status(RejectionCode::KeyReused, StatusCode::IM_A_TEAPOT)
        .rejection_status(RejectionCode::KeyReused, StatusCode::CONFLICT)
        .build()
        .unwrap();
    let app = layer.layer(counting(&Runs::default()));
    send(&app, post("k", "one")).await;
    let reused = send(&app, post("k", "two")).await;
    // `refusal` checks that the problem document has the same status.
    assert_eq!(reused.refusal(), "409 key-reused");
    let invalid = send(&app, post("\"k", "one")).await;
    assert_eq!(invalid.refusal(), "400 key-invalid");
}

#[tokio::test]
async fn documentation_is_linked_from_every_rejection() {
    let url = "https://developer.example.com/idempotency?v=2#keys";
    let layer = builder(&MemoryStore::new()).docs_url(url).build().unwrap();
    let app = layer.layer(counting(&Runs::default()));
    for (request, expected) in [
        (post("\"k", "{}"), "400 key-invalid"),
        (without(post("k", "{}"), API_KEY), "400 scope-missing"),
    ] {
        let seen = send(&app, request).await;
        assert_eq!(seen.refusal(), expected);
        let link = format!("<{url}>; rel=\"describedby\"");
        assert_eq!(seen.header("link"), Some(&*link));
        let problem: Value = serde_json::from_slice(&seen.body).unwrap();
        assert_eq!(problem["type"], url);
    }
    let answered = send(&app, post("k", "{}")).await;
    assert_eq!(answered.header("link"), None);
}

#[tokio::test]
async fn retry_after_is_in_whole_seconds_and_by_route() {
    let store = Steered::new();
    store.make(Op::Claim, Fault::Fails(StoreErrorKind::NotSent));
    let layer = builder(&store)
        .defaults(|options| options.retry_after(Duration::from_millis(1500)))
        .route("/slow", |options| {
            options.retry_after(Duration::from_secs(60))
        })
        .route("/fast", |options| {
            options.retry_after(Duration::from_nanos(1))
        })
        .route("/now", |options| options.retry_after(Duration::ZERO))
        .build()
        .unwrap();
    let app = layer.layer(counting(&Runs::default()));
    for (target, expected) in [("/a", "2"), ("/slow", "60"), ("/fast", "1"), ("/now", "0")] {
        let seen = send(&app, to(target, post("k", "{}"))).await;
        assert_eq!(seen.refusal(), "503 store-unavailable");
        assert_eq!(seen.header("retry-after"), Some(expected), "{target}");
    }
    // A rejection that waiting does not resolve has no `Retry-After`.
    let seen = send(&app, post("\"k", "{}")).await;
    assert_eq!(seen.header("retry-after"), None);
}

/// A value that is too large must not fail when a request arrives, since the
/// layer is built by then.
#[tokio::test]
async fn a_retry_after_without_an_end_is_a_large_number() {
    let store = Steered::new();
    store.make(Op::Claim, Fault::Fails(StoreErrorKind::NotSent));
    let layer = builder(&store)
        .defaults(|options| options.retry_after(Duration::MAX))
        .build()
        .unwrap();
    let app = layer.layer(counting(&Runs::default()));
    let seen = send(&app, post("k", "{}")).await;
    assert_eq!(seen.refusal(), "503 store-unavailable");
    assert_eq!(
        seen.header("retry-after"),
        Some(&*Duration::MAX.as_secs().to_string())
    );
}

/// Sets up rejections in a service's own format, with the id of the request.
fn in_an_envelope(builder: IdempotencyLayerBuilder) -> IdempotencyLayer {
    builder
        .render_rejections(|rejection: &Rejection, request: &Parts| {
            let id = request.headers.get("x-request-id");
            let id = id.and_then(|id| id.to_str().ok());
            let body = json!({ "error": {
                "code": rejection.code().as_str(),
                "message": rejection.detail(),
                "requestId": id,
            }});
            rejection.answer("application/json", body.to_string())
        })
        .build()
        .unwrap()
}

/// The code and the request id in a rejection of that format.
#[track_caller]
fn opened(seen: &Seen) -> (String, String) {
    assert_eq!(seen.header("content-type"), Some("application/json"));
    assert_eq!(seen.header("cache-control"), Some("no-store"));
    let body: Value = serde_json::from_slice(&seen.body).unwrap();
    let error = body["error"].as_object().unwrap();
    assert_eq!(error.len(), 3);
    assert!(error["message"].as_str().unwrap().ends_with('.'));
    let text = |name| error[name].as_str().unwrap().to_owned();
    (text("code"), text("requestId"))
}

#[tokio::test]
async fn a_renderer_gives_rejections_the_applications_shape_and_knows_their_requests() {
    let store = Steered::new();
    let layer = in_an_envelope(
        builder(&store)
            .rejection_status(RejectionCode::KeyInvalid, StatusCode::UNPROCESSABLE_ENTITY)
            .defaults(|options| options.require(Require::Required).max_request_body(4)),
    );
    let app = layer.layer(counting(&Runs::default()));
    assert_eq!(send(&app, post("k", "{}")).await.status, 201);
    for (number, (request, status, code)) in [
        (
            without(post("k", "{}"), "idempotency-key"),
            400,
            "key-required",
        ),
        (post("\"k", "{}"), 422, "key-invalid"),
        (without(post("k", "{}"), API_KEY), 400, "scope-missing"),
        (post("k", "[   ]"), 413, "body-too-large"),
        (post("k", "[]"), 422, "key-reused"),
    ]
    .into_iter()
    .enumerate()
    {
        let request = with(request, "x-request-id", format!("req-{number}"));
        let seen = send(&app, request).await;
        assert_eq!(seen.status, status);
        assert_eq!(opened(&seen), (code.to_owned(), format!("req-{number}")));
    }
    store.make(Op::Claim, Fault::Fails(StoreErrorKind::NotSent));
    let request = with(post("k", "{}"), "x-request-id", "req-9");
    let seen = send(&app, request).await;
    assert_eq!(opened(&seen).0, "store-unavailable");
    assert_eq!(seen.header("retry-after"), Some("1"));
}

/// This rejection comes last of all: the handler has received the request long
/// before.
#[tokio::test(start_paused = true)]
async fn an_overtaken_owners_answer_is_rendered_too() {
    let store = Steered::unguarded();
    store.make(Op::Renew, Fault::Stalls);
    let (runs, gate) = (Runs::default(), Gate::closed());
    let app = in_an_envelope(builder(&store)).layer(held_back(&runs, &gate));
    let ask = |id: &str| with(post("k", "{}"), "x-request-id", id);
    let first = tokio::spawn(app.clone().oneshot(ask("first")));
    gate.begun().await;
    sleep(Duration::from_secs(30)).await;
    let second = tokio::spawn(app.clone().oneshot(ask("second")));
    gate.begun().await;
    gate.open();
    let first = Seen::whole(first.await.unwrap().unwrap()).await;
    assert_eq!(first.status, 409);
    assert_eq!(opened(&first), ("in-flight".to_owned(), "first".to_owned()));
    gate.open();
    assert_eq!(second.await.unwrap().unwrap().status(), 201);
}

#[tokio::test]
async fn a_renderer_may_replace_the_whole_answer() {
    /// gRPC clients expect a 200 with the gRPC status in a header.
    struct Grpc;
    impl RenderRejection for Grpc {
        fn render(&self, rejection: &Rejection, _: &Parts) -> Response<Bytes> {
            let code = match rejection.status().as_u16() {
                400 => "3",
                409 => "10",
                _ => "14",
            };
            let mut response = Response::new(Bytes::new());
            let headers = response.headers_mut();
            headers.insert("content-type", "application/grpc".parse().unwrap());
            headers.insert("grpc-status", code.parse().unwrap());
            response
        }
    }
    let layer = builder(&MemoryStore::new())
        .render_rejections(Grpc)
        .build()
        .unwrap();
    let app = layer.layer(counting(&Runs::default()));
    let seen = send(&app, post("\"k", "{}")).await;
    assert_eq!((seen.status, seen.header("grpc-status")), (200, Some("3")));
    assert_eq!(seen.header("cache-control"), None);
    assert!(seen.body.is_empty());
}

#[tokio::test]
async fn a_renderer_sees_the_request_as_the_client_sent_it() {
    let layer = builder(&MemoryStore::new())
        .render_rejections(|rejection: &Rejection, request: &Parts| {
            let extension = request.extensions.get::<u64>();
            let seen = format!("{} {} {extension:?}", request.method, request.uri);
            rejection.answer("text/plain", seen)
        })
        .build()
        .unwrap();
    let app = layer.layer(counting(&Runs::default()));
    let mut request: Request<_> = to("/payments?x=1", post("\"k", "{}"));
    request.extensions_mut().insert(7_u64);
    let seen = send(&app, request).await;
    assert_eq!(seen.text(), "POST /payments?x=1 Some(7)");
}

#[tokio::test]
async fn a_code_can_have_a_body_of_its_own() {
    let layer = builder(&MemoryStore::new())
        .rejection_status(RejectionCode::KeyReused, StatusCode::CONFLICT)
        .rejection_body(RejectionCode::KeyReused, "text/plain", "never sent")
        .rejection_body(
            RejectionCode::KeyReused,
            "application/json",
            r#"{"error":{"code":"conflict","status":{status},"requestId":"{request_id}"}}"#,
        )
        .render_rejections(|rejection: &Rejection, _: &Parts| rejection.answer("text/plain", "all"))
        .build()
        .unwrap();
    let app = layer.layer(counting(&Runs::default()));
    send(&app, post("k", "one")).await;
    let reused = send(&app, with(post("k", "two"), "x-request-id", "r-1")).await;
    assert_eq!((reused.status, reused.is_replay()), (409, false));
    assert_eq!(reused.header("content-type"), Some("application/json"));
    assert_eq!(reused.header("cache-control"), Some("no-store"));
    assert_eq!(reused.header("x-request-id"), Some("r-1"));
    assert_eq!(
        reused.body,
        r#"{"error":{"code":"conflict","status":409,"requestId":"r-1"}}"#
    );
    let other = send(&app, post("\"k", "one")).await;
    assert_eq!((other.status, &other.body[..]), (400, &b"all"[..]));
    assert_eq!(other.header("x-request-id"), None);
    // A gRPC client reads only gRPC rejections, so the body of the code is not
    // sent to it.
    let grpc = with(post("k", "three"), "content-type", "application/grpc");
    assert_eq!(&send(&app, grpc).await.body[..], b"all");
}

#[tokio::test]
async fn one_body_can_be_that_of_every_code() {
    let layer = builder(&MemoryStore::new())
        .default_rejection_body("application/json", r#"{"error":"{code}"}"#)
        .rejection_body(RejectionCode::KeyTooLong, "text/plain", "too long")
        .rejection_status(RejectionCode::KeyReused, StatusCode::CONFLICT)
        .render_rejections(|rejection: &Rejection, _: &Parts| rejection.answer("text/plain", "all"))
        .build()
        .unwrap();
    let app = layer.layer(counting(&Runs::default()));
    send(&app, post("k", "one")).await;
    let too_long = "k".repeat(256);
    for (request, status, body) in [
        (post("\"k", "one"), 400, r#"{"error":"key-invalid"}"#),
        (post("k", "two"), 409, r#"{"error":"key-reused"}"#),
        (
            without(post("k", "one"), API_KEY),
            400,
            r#"{"error":"scope-missing"}"#,
        ),
        (post(&too_long, "one"), 400, "too long"),
        // A gRPC client reads only gRPC rejections.
        (
            with(post("k", "three"), "content-type", "application/grpc"),
            409,
            "all",
        ),
    ] {
        let seen = send(&app, request).await;
        assert_eq!((seen.status, seen.text()), (status, body));
        assert_eq!(seen.header("cache-control"), Some("no-store"));
    }
}

/// The layer rejects the request of an overtaken owner after the handler has
/// received the request.
#[tokio::test(start_paused = true)]
async fn an_overtaken_owner_gets_that_body_too() {
    let store = Steered::unguarded();
    store.make(Op::Renew, Fault::Stalls);
    let layer = builder(&store)
        .rejection_body(RejectionCode::InFlight, "text/plain", "{request_id} runs")
        .build()
        .unwrap();
    let gate = Gate::closed();
    let app = layer.layer(held_back(&Runs::default(), &gate));
    let request = with(post("k", "{}"), "x-request-id", "r-1");
    let first = tokio::spawn(app.clone().oneshot(request));
    gate.begun().await;
    sleep(Duration::from_secs(30)).await;
    let second = tokio::spawn(app.clone().oneshot(post("k", "{}")));
    gate.begun().await;
    gate.open();
    let first = Seen::whole(first.await.unwrap().unwrap()).await;
    assert_eq!((first.status, &first.body[..]), (409, &b"r-1 runs"[..]));
    gate.open();
    assert_eq!(second.await.unwrap().unwrap().status(), 201);
    let counts = layer.counts();
    assert_eq!((counts.executed, counts.rerun), (2, 1));
    assert_eq!((counts.overtaken, counts.recorded), (1, 1));
}

#[tokio::test]
async fn a_layer_further_out_does_not_record_the_rejection_of_one_further_in() {
    let outer = with_policy(&MemoryStore::new(), |options| options);
    let inner = with_policy(&MemoryStore::new(), |options| options.max_request_body(1));
    let app = outer.layer(inner.layer(counting(&Runs::default())));
    for _ in 0..2 {
        let refused = send(&app, post("k", "{}")).await;
        assert_eq!(refused.refusal(), "413 body-too-large");
    }
}
