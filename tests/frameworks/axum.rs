//! axum: layers on routers, on routes, on one method, in nests.

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Extension, Path, Request};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post as on_post};
use http::{Method, StatusCode};
use http_body_util::BodyExt;
use http_body_util::channel::Channel;
use std::time::Duration;
use tower::ServiceExt;
use tower_idempotency::options::{Require, Target};
use tower_idempotency::{IdempotencyContext, IdempotencyLayer, MemoryStore, RouteOptions, scope};

use crate::common::{Gate, Runs, Seen, post, protected, request, with};

async fn send(app: &Router, request: Request) -> Seen {
    crate::common::send(app, request).await
}

/// A handler that responds with the number of its execution and the body that
/// it received.
fn counting(runs: &Runs) -> axum::routing::MethodRouter {
    let runs = runs.clone();
    on_post(async move |body: String| {
        let answer = format!("run {}: {body}", runs.begin());
        (StatusCode::CREATED, answer)
    })
}

fn required(store: &MemoryStore, pattern: &str) -> IdempotencyLayer {
    IdempotencyLayer::builder(store.clone(), scope::shared())
        .route(pattern, |options| options.require(Require::Required))
        .build()
        .unwrap()
}

#[tokio::test]
async fn a_layer_on_a_router_protects_all_of_its_routes() {
    let (runs, store) = (Runs::default(), MemoryStore::new());
    let capture = {
        let runs = runs.clone();
        async move |Path(id): Path<u32>, body: Bytes| {
            runs.begin();
            ([("x-order", id.to_string())], body)
        }
    };
    let app = Router::new()
        .route("/payments", counting(&runs))
        .route("/orders/{id}/capture", on_post(capture))
        .layer(protected(&store));

    let paid = send(&app, post("/payments", "a", "7 EUR")).await;
    assert_eq!((paid.status, paid.text()), (201, "run 1: 7 EUR"));
    let again = send(&app, post("/payments", "a", "7 EUR")).await;
    again.assert_replays(&paid);

    let captured = send(&app, post("/orders/5/capture", "b", "all")).await;
    assert_eq!(captured.header("x-order"), Some("5"));
    let again = send(&app, post("/orders/5/capture", "b", "all")).await;
    again.assert_replays(&captured);
    assert_eq!(again.header("x-order"), Some("5"));
    assert_eq!((runs.count(), store.len()), (2, 2));

    let other = send(&app, post("/payments", "a", "8 EUR")).await;
    assert_eq!(other.refusal(), "422 key-reused");
}

/// Responses that pass through, are recorded, are replayed, are refused and are streamed.
#[cfg(feature = "axum")]
#[tokio::test]
async fn a_layer_made_for_axum_does_what_the_layer_does() {
    for is_route_layer in [false, true] {
        let (runs, store) = (Runs::default(), MemoryStore::new());
        let large = || async { vec![b'x'; 3 << 20] };
        let app = Router::new()
            .route("/payments", counting(&runs))
            .route("/large", on_post(large).get(large));
        let layer = protected(&store).for_axum();
        let app = if is_route_layer {
            app.route_layer(layer)
        } else {
            app.layer(layer)
        };
        let paid = send(&app, post("/payments", "a", "7 EUR")).await;
        assert_eq!((paid.status, paid.text()), (201, "run 1: 7 EUR"));
        let again = send(&app, post("/payments", "a", "7 EUR")).await;
        again.assert_replays(&paid);
        let other = send(&app, post("/payments", "a", "8 EUR")).await;
        assert_eq!(other.refusal(), "422 key-reused");
        for large in [
            send(&app, post("/large", "b", "")).await,
            send(&app, request(Method::GET, "/large", "")).await,
        ] {
            assert_eq!((large.status, large.text().len()), (200, 3 << 20));
        }
        assert_eq!((runs.count(), store.len()), (1, 2));
    }
}

#[tokio::test]
async fn a_layer_on_a_router_records_the_404_of_an_unknown_route_too() {
    let store = MemoryStore::new();
    let app = Router::new()
        .route("/payments", on_post(async || ()))
        .layer(protected(&store));
    let first = send(&app, post("/nowhere", "a", "")).await;
    assert_eq!((first.status, store.len()), (404, 1));
    let again = send(&app, post("/nowhere", "a", "")).await;
    again.assert_replays(&first);
}

#[tokio::test]
async fn a_route_layer_leaves_unknown_routes_alone() {
    let (runs, store) = (Runs::default(), MemoryStore::new());
    let layer = IdempotencyLayer::builder(store.clone(), scope::shared())
        .defaults(|options| options.require(Require::Required))
        .build()
        .unwrap();
    let app = Router::new()
        .route("/payments", counting(&runs))
        .route_layer(layer);

    for unknown in [
        post("/nowhere", "a", ""),
        request(Method::POST, "/nowhere", ""),
    ] {
        let answer = send(&app, unknown).await;
        assert_eq!((answer.status, answer.text()), (404, ""));
    }
    assert!(store.is_empty());

    let keyless = send(&app, request(Method::POST, "/payments", "")).await;
    assert_eq!(keyless.refusal(), "400 key-required");
    let first = send(&app, post("/payments", "a", "7 EUR")).await;
    send(&app, post("/payments", "a", "7 EUR"))
        .await
        .assert_replays(&first);
    assert_eq!(runs.count(), 1);
}

#[tokio::test]
async fn a_layer_on_one_method_router_leaves_the_others_alone() {
    let (runs, others, store) = (Runs::default(), Runs::default(), MemoryStore::new());
    let paid = counting(&runs).layer(protected(&store));
    let app = Router::new()
        .route("/payments", get(async || "list").merge(paid))
        .route("/searches", counting(&others));

    let first = send(&app, post("/payments", "a", "7 EUR")).await;
    send(&app, post("/payments", "a", "7 EUR"))
        .await
        .assert_replays(&first);
    assert_eq!(runs.count(), 1);

    for run in 1..=2 {
        let answer = send(&app, post("/searches", "a", "x")).await;
        assert_eq!(answer.text(), format!("run {run}: x"));
        let listed: Request = with(
            request(Method::GET, "/payments", ""),
            "idempotency-key",
            "a",
        );
        assert_eq!(send(&app, listed).await.text(), "list");
    }
    assert_eq!(store.len(), 1);
}

#[tokio::test]
async fn outside_of_a_nest_a_pattern_is_matched_against_the_whole_path() {
    let (runs, store) = (Runs::default(), MemoryStore::new());
    let orders = Router::new().route("/orders/{id}/capture", counting(&runs));
    let app = Router::new()
        .nest("/api", orders)
        .layer(required(&store, "POST /api/orders/{id}/capture"));

    let keyless = request(Method::POST, "/api/orders/5/capture", "");
    assert_eq!(send(&app, keyless).await.refusal(), "400 key-required");
    let first = send(&app, post("/api/orders/5/capture", "a", "")).await;
    assert_eq!(first.status, 201);
    send(&app, post("/api/orders/5/capture", "a", ""))
        .await
        .assert_replays(&first);
    let other = send(&app, post("/api/orders/6/capture", "a", "")).await;
    assert_eq!(other.refusal(), "422 key-reused");
    assert_eq!(runs.count(), 1);
}

#[tokio::test]
async fn inside_of_a_nest_the_query_is_part_of_what_was_asked() {
    let (runs, store) = (Runs::default(), MemoryStore::new());
    let payments = Router::new()
        .route("/payments", counting(&runs))
        .layer(protected(&store));
    let app = Router::new().nest("/api", payments);

    let first = send(&app, post("/api/payments?dry=1", "a", "")).await;
    send(&app, post("/api/payments?dry=1", "a", ""))
        .await
        .assert_replays(&first);
    for target in ["/api/payments?dry=0", "/api/payments"] {
        let other = send(&app, post(target, "a", "")).await;
        assert_eq!(other.refusal(), "422 key-reused", "{target}");
    }
    assert_eq!(runs.count(), 1);
}

#[tokio::test]
async fn one_layer_inside_of_a_nest_and_outside_protects_once() {
    let (runs, store) = (Runs::default(), MemoryStore::new());
    let layer = protected(&store);
    let payments = Router::new()
        .route("/payments", counting(&runs).layer(layer.clone()))
        .layer(layer.clone());
    let app = Router::new().nest("/api", payments).layer(layer);

    let first = send(&app, post("/api/payments", "a", "7 EUR")).await;
    assert_eq!(first.text(), "run 1: 7 EUR");
    send(&app, post("/api/payments", "a", "7 EUR"))
        .await
        .assert_replays(&first);
    assert_eq!((runs.count(), store.len()), (1, 1));
}

/// Two nests with the same routes. Each has a layer of its own, and both layers
/// use one store.
fn two_nests(
    runs: &Runs,
    store: &MemoryStore,
    defaults: impl Fn(RouteOptions) -> RouteOptions + Copy,
) -> Router {
    let nest = || {
        let layer = IdempotencyLayer::builder(store.clone(), scope::shared())
            .defaults(defaults)
            .build()
            .unwrap();
        Router::new().route("/x", counting(runs)).layer(layer)
    };
    Router::new().nest("/api/a", nest()).nest("/api/b", nest())
}

/// `IdempotencyLayerBuilder::target` can keep the behaviour that an application
/// had before the feature `axum` was turned on, so this test passes with the
/// feature and without it.
#[tokio::test]
async fn a_target_as_seen_is_the_same_with_the_feature_and_without() {
    let (runs, store) = (Runs::default(), MemoryStore::new());
    let nest = || {
        let layer = IdempotencyLayer::builder(store.clone(), scope::shared())
            .target(Target::AsSeen)
            .route("POST /orders/{id}", |options| {
                options.require(Require::Required)
            })
            .build()
            .unwrap();
        let orders = Router::new().route("/orders/{id}", counting(&runs));
        orders.layer(layer)
    };
    let app = Router::new().nest("/v1", nest()).nest("/v2", nest());
    let keyless = request(Method::POST, "/v1/orders/5", "");
    assert_eq!(send(&app, keyless).await.refusal(), "400 key-required");
    let first = send(&app, post("/v1/orders/5", "a", "")).await;
    send(&app, post("/v2/orders/5", "a", ""))
        .await
        .assert_replays(&first);
}

/// The documentation of `IdempotencyLayerBuilder::target` says what happens
/// without the feature: the layer sees the path without the nest's prefix.
#[cfg(not(feature = "axum"))]
mod without_the_feature {
    use super::*;

    #[tokio::test]
    async fn inside_of_a_nest_a_pattern_is_matched_against_what_is_left_of_the_path() {
        let store = MemoryStore::new();
        for (pattern, answered) in [("POST /orders/{id}", 400), ("POST /api/orders/{id}", 201)] {
            let orders = Router::new()
                .route("/orders/{id}", counting(&Runs::default()))
                .layer(required(&store, pattern));
            let app = Router::new().nest("/api", orders);
            let answer = send(&app, request(Method::POST, "/api/orders/5", "")).await;
            assert_eq!(answer.status, answered, "{pattern}");
        }
    }

    #[tokio::test]
    async fn nests_with_equal_inner_paths_need_keys_of_their_own() {
        let (runs, store) = (Runs::default(), MemoryStore::new());
        let app = two_nests(&runs, &store, |options| options);
        let first = send(&app, post("/api/a/x", "k", "")).await;
        send(&app, post("/api/b/x", "k", ""))
            .await
            .assert_replays(&first);
    }
}

#[cfg(feature = "axum")]
mod with_the_feature {
    use std::convert::Infallible;
    use std::net::SocketAddr;

    use axum::extract::ConnectInfo;
    use tower::service_fn;
    use tower_idempotency::options::KeysPer;

    use super::*;

    #[tokio::test]
    async fn inside_of_a_nest_a_pattern_is_matched_against_the_original_path() {
        let (runs, store) = (Runs::default(), MemoryStore::new());
        let orders = || {
            Router::new()
                .route("/orders/{id}/capture", counting(&runs))
                .layer(required(&store, "POST /api/orders/{id}/capture"))
        };
        let once = Router::new().nest("/api", orders());
        let service = Router::new().nest_service("/api", orders());
        let in_a_merged_router = Router::new().merge(Router::new().nest("/api", orders()));
        for app in [once, service, in_a_merged_router] {
            let keyless = request(Method::POST, "/api/orders/5/capture", "");
            assert_eq!(send(&app, keyless).await.refusal(), "400 key-required");
        }
        let inner_only = Router::new()
            .route("/orders/{id}/capture", counting(&runs))
            .layer(required(&store, "POST /orders/{id}/capture"));
        let app = Router::new().nest("/api", inner_only);
        let passed = send(&app, request(Method::POST, "/api/orders/5/capture", "")).await;
        assert_eq!((passed.status, runs.count()), (201, 1));
    }

    #[tokio::test]
    async fn a_nest_in_a_nest_knows_the_original_path_too() {
        let (runs, store) = (Runs::default(), MemoryStore::new());
        let capture = Router::new()
            .route("/{id}/capture", counting(&runs))
            .layer(required(&store, "POST /api/orders/{id}/capture"));
        let app = Router::new().nest("/api", Router::new().nest("/orders", capture));

        let keyless = request(Method::POST, "/api/orders/5/capture", "");
        assert_eq!(send(&app, keyless).await.refusal(), "400 key-required");
        let first = send(&app, post("/api/orders/5/capture?all=1", "a", "")).await;
        send(&app, post("/api/orders/5/capture?all=1", "a", ""))
            .await
            .assert_replays(&first);
        let other = send(&app, post("/api/orders/5/capture?all=0", "a", "")).await;
        assert_eq!(other.refusal(), "422 key-reused");
        assert_eq!(runs.count(), 1);
    }

    #[tokio::test]
    async fn one_key_in_two_nests_with_equal_inner_paths_is_reused_not_replayed() {
        let (runs, store) = (Runs::default(), MemoryStore::new());
        let app = two_nests(&runs, &store, |options| options);
        let first = send(&app, post("/api/a/x", "k", "")).await;
        let other = send(&app, post("/api/b/x", "k", "")).await;
        assert_eq!(other.refusal(), "422 key-reused");
        send(&app, post("/api/a/x", "k", ""))
            .await
            .assert_replays(&first);
        assert_eq!(runs.count(), 1);
    }

    #[tokio::test]
    async fn with_keys_per_route_two_nests_with_equal_inner_paths_are_independent() {
        let (runs, store) = (Runs::default(), MemoryStore::new());
        let app = two_nests(&runs, &store, |options| options.keys_per(KeysPer::Route));
        let a = send(&app, post("/api/a/x", "k", "")).await;
        let b = send(&app, post("/api/b/x", "k", "")).await;
        assert_eq!((a.text(), b.text()), ("run 1: ", "run 2: "));
        send(&app, post("/api/a/x", "k", ""))
            .await
            .assert_replays(&a);
        send(&app, post("/api/b/x", "k", ""))
            .await
            .assert_replays(&b);
        assert_eq!((runs.count(), store.len()), (2, 2));
    }

    #[tokio::test]
    async fn a_layered_service_that_is_nested_knows_the_original_path() {
        let store = MemoryStore::new();
        let service = tower::ServiceBuilder::new()
            .layer(required(&store, "POST /api/{*rest}"))
            .service(service_fn(async |_: Request| {
                Ok::<_, Infallible>("reached".into_response())
            }));
        let app = Router::new().nest_service("/api", service);
        let keyless = send(&app, request(Method::POST, "/api/orders/5", "")).await;
        assert_eq!(keyless.refusal(), "400 key-required");
        let first = send(&app, post("/api/orders/5", "a", "")).await;
        assert_eq!(first.text(), "reached");
    }

    #[tokio::test]
    async fn peer_ip_reads_connect_info() {
        let (runs, store) = (Runs::default(), MemoryStore::new());
        let app = Router::new()
            .route("/payments", counting(&runs))
            .layer(IdempotencyLayer::new(store, scope::peer_ip()).unwrap());
        let from = |address: &str| {
            let mut request: Request = post("/payments", "a", "");
            let address: SocketAddr = address.parse().unwrap();
            request.extensions_mut().insert(ConnectInfo(address));
            request
        };

        let nobody = send(&app, post("/payments", "a", "")).await;
        assert_eq!(nobody.refusal(), "400 scope-missing");
        let one = send(&app, from("192.0.2.1:1000")).await;
        let two = send(&app, from("192.0.2.2:1000")).await;
        assert_eq!((one.text(), two.text()), ("run 1: ", "run 2: "));
        send(&app, from("192.0.2.1:2000"))
            .await
            .assert_replays(&one);
    }

    #[tokio::test]
    async fn peer_ip_works_behind_axum_serve() {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        use tokio::net::{TcpListener, TcpStream};

        let runs = Runs::default();
        let app = Router::new()
            .route("/payments", counting(&runs))
            .layer(IdempotencyLayer::new(MemoryStore::new(), scope::peer_ip()).unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let make = app.into_make_service_with_connect_info::<SocketAddr>();
        tokio::spawn(async move { axum::serve(listener, make).await });

        let ask = async || {
            let mut stream = TcpStream::connect(address).await.unwrap();
            let request = "POST /payments HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\
                           idempotency-key: a\r\ncontent-length: 5\r\n\r\n7 EUR";
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            answer
        };
        let (first, again) = (ask().await, ask().await);
        for answer in [&first, &again] {
            assert!(answer.starts_with("HTTP/1.1 201 Created\r\n"), "{answer}");
            assert!(answer.ends_with("\r\n\r\nrun 1: 7 EUR"), "{answer}");
        }
        assert!(!first.contains("idempotency-replayed"));
        assert!(again.contains("idempotency-replayed: true"));
        assert_eq!(runs.count(), 1);
    }

    /// One route for each way to extract the context.
    fn extracting() -> Router {
        let must = async |context: IdempotencyContext| {
            (
                StatusCode::INTERNAL_SERVER_ERROR,
                format!("{} {}", context.key(), context.attempt()),
            )
        };
        let may = async |context: Option<IdempotencyContext>| match context {
            Some(context) => context.key().to_owned(),
            None => "not protected".to_owned(),
        };
        Router::new()
            .route("/must", on_post(must))
            .route("/may", on_post(may))
    }

    #[tokio::test]
    async fn a_handler_extracts_its_context() {
        let app = extracting().layer(protected(&MemoryStore::new()));
        // A 500 is not recorded, so the second request is a second attempt.
        for attempt in 1..=2 {
            let answer = send(&app, post("/must", "\"a b\"", "")).await;
            assert_eq!(answer.text(), format!("a b {attempt}"));
        }
        assert_eq!(send(&app, post("/may", "k", "")).await.text(), "k");
    }

    #[tokio::test]
    async fn where_a_request_may_be_unprotected_the_context_is_optional() {
        let layered = extracting().layer(protected(&MemoryStore::new()));
        for app in [layered, extracting()] {
            let answer = send(&app, request(Method::POST, "/may", "")).await;
            assert_eq!((answer.status, answer.text()), (200, "not protected"));
        }
    }

    #[tokio::test]
    async fn a_handler_that_needs_a_context_and_has_none_answers_500() {
        let layered = extracting().layer(protected(&MemoryStore::new()));
        for app in [layered, extracting()] {
            let answer = send(&app, request(Method::POST, "/must", "")).await;
            assert_eq!((answer.status, answer.text()), (500, ""));
        }
    }
}

#[derive(Clone)]
struct Account(String);

/// Authenticates a user by name alone, which is enough for a test.
async fn authenticate(mut request: Request, next: Next) -> Response {
    let name = request.headers().get("authorization");
    let Some(name) = name.and_then(|name| name.to_str().ok()) else {
        return StatusCode::UNAUTHORIZED.into_response();
    };
    let account = Account(name.to_owned());
    request.extensions_mut().insert(account);
    next.run(request).await
}

#[tokio::test]
async fn a_middleware_outside_says_who_asks() {
    let (runs, store) = (Runs::default(), MemoryStore::new());
    let hello = {
        let runs = runs.clone();
        async move |Extension(Account(name)): Extension<Account>| {
            format!("run {} of {name}", runs.begin())
        }
    };
    let by_account = scope::extension("account", |Account(name): &Account| name.clone());
    let app = Router::new()
        .route("/payments", on_post(hello))
        .layer(IdempotencyLayer::new(store.clone(), by_account).unwrap())
        .layer(from_fn(authenticate));

    let nobody = send(&app, post("/payments", "a", "")).await;
    assert_eq!((nobody.status, store.len()), (401, 0));
    let by = |name| with(post("/payments", "a", ""), "authorization", name);
    let (ann, bob) = (send(&app, by("ann")).await, send(&app, by("bob")).await);
    assert_eq!((ann.text(), bob.text()), ("run 1 of ann", "run 2 of bob"));
    send(&app, by("ann")).await.assert_replays(&ann);
    send(&app, by("bob")).await.assert_replays(&bob);
    assert_eq!(runs.count(), 2);
}

#[tokio::test]
async fn a_middleware_inside_sees_the_context_and_does_not_run_on_a_replay() {
    let (runs, inside) = (Runs::default(), Runs::default());
    let audit = {
        let inside = inside.clone();
        move |request: Request, next: Next| {
            let inside = inside.clone();
            async move {
                inside.begin();
                let context = request.extensions().get::<IdempotencyContext>();
                let seen = context.map_or_else(|| "nothing".to_owned(), |own| own.key().to_owned());
                let mut response = next.run(request).await;
                let headers = response.headers_mut();
                headers.insert("x-audited", seen.parse().unwrap());
                response
            }
        }
    };
    let app = Router::new()
        .route("/payments", counting(&runs))
        .layer(from_fn(audit))
        .layer(protected(&MemoryStore::new()));

    let first = send(&app, post("/payments", "a", "")).await;
    assert_eq!(first.header("x-audited"), Some("a"));
    let again = send(&app, post("/payments", "a", "")).await;
    again.assert_replays(&first);
    assert_eq!(again.header("x-audited"), Some("a"));
    assert_eq!((runs.count(), inside.count()), (1, 1));

    let passed = send(&app, request(Method::POST, "/payments", "")).await;
    assert_eq!(passed.header("x-audited"), Some("nothing"));
}

#[tokio::test]
async fn while_the_first_request_runs_a_retry_is_told_to_wait() {
    let (gate, runs) = (Gate::closed(), Runs::default());
    let slow = {
        let (gate, runs) = (gate.clone(), runs.clone());
        async move || {
            let run = runs.begin();
            gate.pass().await;
            format!("run {run}")
        }
    };
    let app = Router::new()
        .route("/payments", on_post(slow))
        .layer(protected(&MemoryStore::new()));

    let first = tokio::spawn({
        let app = app.clone();
        async move { send(&app, post("/payments", "a", "")).await }
    });
    gate.begun().await;
    let early = send(&app, post("/payments", "a", "")).await;
    assert_eq!(early.refusal(), "409 in-flight");
    assert_eq!(early.header("retry-after"), Some("1"));
    let other = send(&app, post("/payments", "a", "other")).await;
    assert_eq!(other.refusal(), "422 key-reused");

    gate.open();
    let first = first.await.unwrap();
    send(&app, post("/payments", "a", ""))
        .await
        .assert_replays(&first);
    assert_eq!(runs.count(), 1);
}

#[tokio::test(start_paused = true)]
async fn events_of_a_handler_that_never_ends_arrive_at_once() {
    let (mut events, body) = Channel::<Bytes>::new(8);
    let body = std::sync::Arc::new(std::sync::Mutex::new(Some(body)));
    let subscribe = async move || {
        let body = body.lock().unwrap().take().expect("it runs once");
        let content_type = [("content-type", "text/event-stream; charset=utf-8")];
        (content_type, Body::new(body))
    };
    let app = Router::new()
        .route("/orders", on_post(subscribe))
        .layer(protected(&MemoryStore::new()));

    // The clock is paused, so a request that waits for the end of the body
    // times out at once.
    let soon = Duration::from_secs(1);
    let asked = app.clone().oneshot(post::<Body>("/orders", "a", ""));
    let response = tokio::time::timeout(soon, asked).await.expect("the head");
    let response = response.unwrap();
    assert_eq!(response.status(), 200);
    let mut body = response.into_body();
    for event in ["data: 1\n\n", "data: 2\n\n"] {
        events.send_data(Bytes::from(event)).await.unwrap();
        let frame = tokio::time::timeout(soon, body.frame()).await;
        let frame = frame.expect("an event").unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), event);
    }
    let again = tokio::time::timeout(soon, send(&app, post("/orders", "a", ""))).await;
    let again = again.expect("an answer without the events");
    assert_eq!(again.refusal(), "409 response-unavailable");
}

/// A handler that reads JSON gets the body that its client sent, with a key in it and without.
#[tokio::test]
async fn a_key_is_read_from_a_json_body_and_the_handler_reads_it_too() {
    let runs = Runs::default();
    let counted = runs.clone();
    let pay = async move |axum::Json(body): axum::Json<serde_json::Value>| {
        format!("run {}: {}", counted.begin(), body["amount"])
    };
    let layer = IdempotencyLayer::builder(MemoryStore::new(), scope::shared())
        .defaults(|options| options.key_in_body(["/meta/key"]));
    let app = Router::new().route("/payments", on_post(pay));
    let app = app.layer(layer.build().unwrap());
    let ask = |body: &'static str| {
        let request = request(Method::POST, "/payments", body);
        with(request, "content-type", "application/json")
    };
    let keyed = r#"{"amount": 7, "meta": {"key": "a"}}"#;
    let first = send(&app, ask(keyed)).await;
    assert_eq!(first.text(), "run 1: 7");
    send(&app, ask(keyed)).await.assert_replays(&first);
    for run in 2..4 {
        let seen = send(&app, ask(r#"{"amount": 7}"#)).await;
        assert_eq!(
            (seen.text(), seen.is_replay()),
            (&*format!("run {run}: 7"), false)
        );
    }
}
