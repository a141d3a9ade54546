//! The options that a route can set for itself, such as `methods`, `require`,
//! `scope` and `keys_per`, and how the layer finds the route of a request.

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::Full;
use tower::Layer;
use tower_idempotency::options::{KeysPer, Require};
use tower_idempotency::{IdempotencyLayer, MemoryStore, scope};

use crate::support::{
    Runs, builder, by, counting, post, request, send, to, with, with_policy, without,
};

fn keyed(method: Method, target: &str) -> Request<Full<Bytes>> {
    let request = request(method, target, Full::from("{}"));
    with(request, "idempotency-key", "k")
}

#[tokio::test]
async fn methods_are_those_that_are_listed() {
    let layer = with_policy(&MemoryStore::new(), |options| {
        options.methods([Method::PUT, Method::from_bytes(b"PURGE").unwrap()])
    });
    for (method, protected) in [
        ("PUT", true),
        ("PURGE", true),
        ("POST", false),
        ("PATCH", false),
        ("DELETE", false),
        ("GET", false),
    ] {
        let app = layer.layer(counting(&Runs::default()));
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let ask = || {
            let request = keyed(method.clone(), "/payments");
            with(request, "idempotency-key", method.as_str())
        };
        send(&app, ask()).await;
        assert_eq!(send(&app, ask()).await.is_replay(), protected, "{method}");
    }
}

#[tokio::test]
async fn a_method_in_a_pattern_is_protected_by_it() {
    let layer = builder(&MemoryStore::new())
        .route("DELETE /orders/{id}", |options| options)
        .route("/files/{*path}", |options| options.methods([Method::PUT]))
        .build()
        .unwrap();
    for (method, target, protected) in [
        (Method::DELETE, "/orders/1", true),
        (Method::DELETE, "/orders", false),
        (Method::PUT, "/orders/1", false),
        (Method::POST, "/orders/1", true),
        (Method::PUT, "/files/a/b", true),
        // POST is protected by the default options, which the pattern does not
        // change for POST.
        (Method::POST, "/files/a/b", true),
        (Method::DELETE, "/files/a/b", false),
    ] {
        let app = layer.layer(counting(&Runs::default()));
        let ask = || {
            let request = keyed(method.clone(), target);
            with(request, "idempotency-key", format!("{method} {target}"))
        };
        send(&app, ask()).await;
        let again = send(&app, ask()).await;
        assert_eq!(again.is_replay(), protected, "{method} {target}");
    }
}

#[tokio::test]
async fn a_key_is_required_optional_or_ignored_by_route() {
    let layer = builder(&MemoryStore::new())
        .route("POST /payments", |options| {
            options.require(Require::Required)
        })
        .route("/searches", |options| options.require(Require::Ignored))
        .build()
        .unwrap();
    let runs = Runs::default();
    let app = layer.layer(counting(&runs));
    let without_key = |target| without(keyed(Method::POST, target), "idempotency-key");

    let refused = send(&app, without_key("/payments?x=1")).await;
    assert_eq!(refused.refusal(), "400 key-required");
    assert_eq!(runs.count(), 0);
    assert_eq!(send(&app, without_key("/orders")).await.status, 201);
    assert_eq!(send(&app, without_key("/searches")).await.status, 201);
    for (target, replayed) in [("/payments", true), ("/searches", false), ("/orders", true)] {
        let ask = || with(keyed(Method::POST, target), "idempotency-key", target);
        send(&app, ask()).await;
        assert_eq!(send(&app, ask()).await.is_replay(), replayed, "{target}");
    }
}

#[tokio::test]
async fn the_most_specific_route_wins_and_begins_with_the_defaults() {
    let layer = builder(&MemoryStore::new())
        .route("/orders/{id}/{action}", |options| {
            options.require(Require::Ignored)
        })
        .route("POST /orders/{id}/capture", |options| {
            options.key_length(1..=4)
        })
        // The defaults are set last, and still apply to every route.
        .defaults(|options| options.require(Require::Required))
        .build()
        .unwrap();
    let app = layer.layer(counting(&Runs::default()));
    let code = async |target: &str, key: &str| {
        let seen = send(&app, to(target, post(key, "{}"))).await;
        if seen.status == 201 {
            "ran".to_owned()
        } else {
            seen.refusal()
        }
    };
    assert_eq!(code("/orders/1/capture", "four").await, "ran");
    assert_eq!(code("/orders/1/capture", "fiver").await, "400 key-too-long");
    assert_eq!(code("/orders/1/void", "\"broken").await, "ran");
    assert_eq!(code("/orders", "\"broken").await, "400 key-invalid");
    let no_key = without(post("", "{}"), "idempotency-key");
    let seen = send(&app, to("/orders/1/capture", no_key)).await;
    assert_eq!(seen.refusal(), "400 key-required");
}

#[tokio::test]
async fn a_route_can_have_a_scope_of_its_own() {
    let layer = builder(&MemoryStore::new())
        .route("/teams", |options| options.scope(scope::header("x-team")))
        .build()
        .unwrap();
    let app = layer.layer(counting(&Runs::default()));
    let of_team = |caller: &str, team: &str| {
        let request = with(keyed(Method::POST, "/teams"), "x-team", team);
        by(caller, request)
    };
    let first = send(&app, of_team("alice", "red")).await;
    first.assert_fresh("run 1");
    send(&app, of_team("bob", "red"))
        .await
        .assert_replays(&first);
    let blue = send(&app, of_team("alice", "blue")).await;
    blue.assert_fresh("run 2");
    let of_no_team = send(&app, keyed(Method::POST, "/teams")).await;
    assert_eq!(of_no_team.refusal(), "400 scope-missing");
    // On other routes a key belongs to its caller.
    let elsewhere = |caller| by(caller, keyed(Method::POST, "/payments"));
    send(&app, elsewhere("alice")).await.assert_fresh("run 3");
    send(&app, elsewhere("bob")).await.assert_fresh("run 4");
}

#[tokio::test]
async fn the_first_of_several_scopes_that_finds_a_caller_counts() {
    use tower_idempotency::scope::Scope;
    let of_either = scope::header("x-user").or(scope::shared());
    let layer = IdempotencyLayer::new(MemoryStore::new(), of_either).unwrap();
    let app = layer.layer(counting(&Runs::default()));
    let user = |user: &str| with(post("k", "{}"), "x-user", user);
    let one = send(&app, user("1")).await;
    let anybody = send(&app, post("k", "{}")).await;
    one.assert_fresh("run 1");
    anybody.assert_fresh("run 2");
    send(&app, user("1")).await.assert_replays(&one);
    // All requests that name no user count as one user.
    send(&app, by("bob", post("k", "{}")))
        .await
        .assert_replays(&anybody);
}

#[tokio::test]
async fn keys_are_unique_per_scope_or_per_route() {
    for (keys_per, expected) in [
        (KeysPer::Scope, "422 key-reused"),
        (KeysPer::Route, "its own"),
    ] {
        let layer = with_policy(&MemoryStore::new(), |options| options.keys_per(keys_per));
        let app = layer.layer(counting(&Runs::default()));
        let first = send(&app, keyed(Method::POST, "/a")).await;
        for (method, target) in [(Method::POST, "/b"), (Method::PATCH, "/a")] {
            let other = send(&app, keyed(method.clone(), target)).await;
            if expected == "its own" {
                assert_eq!((other.status, other.is_replay()), (201, false));
                send(&app, keyed(method, target))
                    .await
                    .assert_replays(&other);
            } else {
                assert_eq!(other.refusal(), expected);
            }
        }
        send(&app, keyed(Method::POST, "/a"))
            .await
            .assert_replays(&first);
        // The query and the body are not part of an endpoint.
        let other = send(&app, keyed(Method::POST, "/a?x=1")).await;
        assert_eq!(other.refusal(), "422 key-reused");
    }
}
