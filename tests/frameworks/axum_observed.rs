//! axum's own bodies, observed: what handlers get and what clients get is what it is without the layer.

use std::fmt::Write as _;

use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, Json, Request};
use axum::response::Response;
use axum::routing::{any, get, post as on_post};
use axum::{BoxError, Router};
use http::{HeaderMap, Method, StatusCode};
use http_body::{Body as _, Frame};
use http_body_util::BodyExt;
use http_body_util::channel::Channel;
use tower_idempotency::options::Mode;
use tower_idempotency::rejection::RejectionCode;
use tower_idempotency::{IdempotencyLayer, MemoryStore, scope};

use crate::common::{Seen, post, request, send, with};

/// What a body says of itself, and each of its frames.
async fn frames(mut body: Body) -> String {
    let hint = body.size_hint();
    let mut read = format!(
        "{:?} {}",
        (hint.lower(), hint.upper()),
        body.is_end_stream()
    );
    while let Some(frame) = body.frame().await {
        match frame {
            Ok(frame) => write!(read, " {frame:?}").unwrap(),
            Err(error) => return format!("{read} error {error}"),
        }
    }
    read
}

/// Sends the frames back one by one.
async fn echo(body: Body) -> Response {
    let mut response = Response::new(Body::new(body));
    *response.status_mut() = StatusCode::ACCEPTED;
    response
}

fn app() -> Router {
    Router::new()
        .route("/frames", on_post(frames).put(frames))
        .route("/echo", on_post(echo))
        .route(
            "/json",
            on_post(async |Json(read): Json<[u8; 2]>| Json(read)),
        )
        .route(
            "/short",
            on_post(async |body: Bytes| body).layer(DefaultBodyLimit::max(8)),
        )
        .route("/ignore", any(async || StatusCode::NO_CONTENT))
        .route("/large", get(large).post(large))
}

async fn large(body: Bytes) -> Vec<u8> {
    body.repeat(1 << 20)
}

/// A body of some frames and an end.
fn sent(frames: Vec<Result<Frame<Bytes>, BoxError>>) -> Body {
    let (mut sender, body) = Channel::<Bytes, BoxError>::new(frames.len().max(1));
    for frame in frames {
        match frame {
            Ok(frame) => sender.try_send(frame).unwrap(),
            Err(error) => {
                sender.abort(error);
                break;
            }
        }
    }
    Body::new(body)
}

fn streamed(key: &str, breaks: bool) -> Request {
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", "7".parse().unwrap());
    let mut frames: Vec<_> = ["one", "", "two"]
        .map(|data| Ok(Frame::data(Bytes::from_static(data.as_bytes()))))
        .into();
    frames.push(if breaks {
        Err("it broke off".into())
    } else {
        Ok(Frame::trailers(trailers))
    });
    post::<Bytes>("/echo", key, "").map(|_| sent(frames))
}

/// The requests of both applications, in this order.
fn requests() -> Vec<Request> {
    let frames = |body| {
        let mut request = streamed("a", body);
        *request.uri_mut() = "/frames".parse().unwrap();
        request
    };
    let json = |key, body: &'static str| {
        let request: Request = post("/json", key, body);
        with(request, "content-type", "application/json")
    };
    vec![
        frames(false),
        frames(false),
        frames(true),
        streamed("b", false),
        streamed("b", false),
        post("/frames", "c", "one"),
        post("/frames", "c", "one"),
        post("/frames", "c", "another"),
        post("/frames", "d", ""),
        post("/frames", "", "one"),
        request(Method::POST, "/frames", "without a key"),
        request(Method::PUT, "/frames", "without a key"),
        json("e", "[1, 2]"),
        json("e", "[1, 2]"),
        json("f", "[1, 2"),
        post("/short", "g", "a body that is longer"),
        post("/short", "g", "a body that is longer"),
        post("/short", "h", "short"),
        post("/ignore", "i", "not read"),
        post("/large", "j", "xyz"),
        post("/large", "j", "xyz"),
        request(Method::GET, "/large", "x"),
        post("/nowhere", "k", "x"),
    ]
}

#[tokio::test]
async fn observed_bodies_of_axum_are_those_that_came() {
    let layer = IdempotencyLayer::builder(MemoryStore::new(), scope::shared())
        .defaults(|options| options.mode(Mode::Observe))
        .build()
        .unwrap();
    let (plain, general) = (app(), app().layer(layer.clone()));
    let made_for_axum = app().layer(layer.for_axum());
    // The second round finds all keys of the first again. The responses of `/large` are not kept.
    for (observed, expected) in [(&general, [9, 5, 1, 2]), (&made_for_axum, [9, 18, 2, 4])] {
        for (plainly, request) in requests().into_iter().zip(requests()) {
            let named = format!("{} {}", request.method(), request.uri());
            let expected: Seen = send(&plain, plainly).await;
            let seen: Seen = send(observed, request).await;
            assert_eq!(format!("{seen:?}"), format!("{expected:?}"), "{named}");
        }
        let counts = layer.counts().observed;
        let reused = counts.reject(RejectionCode::KeyReused);
        let found = [counts.execute, counts.replay, reused, counts.not_observed];
        assert_eq!(found, expected, "{counts:?}");
    }
    assert_eq!(layer.counts().replayed, 0);
}
