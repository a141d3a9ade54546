//! Mistakes of an application that are reported only in its log.

use std::net::SocketAddr;
use std::time::Duration;

use http::Method;
use tower::Layer;
use tower_idempotency::options::Require;
use tower_idempotency::scope::{self, ForwardedHeader, PeerAddr, Scope};
use tower_idempotency::{IdempotencyLayer, MemoryStore};

use crate::support::log::Log;
use crate::support::{Runs, counting, post, send, with};

#[derive(Clone)]
struct Claims;

/// How often a line of the log contains `text`, and the whole log.
fn count(log: &Log, text: &str) -> (usize, String) {
    let all = log.text();
    (all.matches(text).count(), all)
}

#[tokio::test(start_paused = true)]
async fn a_layer_outside_its_authentication_says_so_once_a_minute() {
    let log = Log::default();
    let _listening = log.listen();
    let scope = scope::extension("account", |_: &Claims| 1);
    let layer = IdempotencyLayer::new(MemoryStore::new(), scope).unwrap();
    let app = layer.layer(counting(&Runs::default()));
    let line = "WARN";
    for (advance, warnings) in [(0, 1), (59, 1), (1, 2), (59, 2)] {
        tokio::time::advance(Duration::from_secs(advance)).await;
        let seen = send(&app, post("k", "{}")).await;
        assert_eq!(seen.refusal(), "400 scope-missing");
        let (found, all) = count(&log, line);
        assert_eq!(found, warnings, "{all}");
    }
    let (_, all) = count(&log, line);
    let claims = "mistakes::Claims` in the request's extensions: put the layer inside what sets it";
    assert!(all.contains(claims), "{all}");

    let mut authenticated = post("k", "{}");
    authenticated.extensions_mut().insert(Claims);
    send(&app, authenticated).await.assert_fresh("run 1");
}

#[tokio::test]
async fn peer_ip_without_an_address_says_what_to_turn_on() {
    let log = Log::default();
    let _listening = log.listen();
    let scope = scope::header("x-nobody-sends-this").or(scope::peer_ip());
    let layer = IdempotencyLayer::new(MemoryStore::new(), scope).unwrap();
    let app = layer.layer(counting(&Runs::default()));
    send(&app, post("k", "{}")).await;
    let (found, all) = count(&log, "no address of the connection (`peer-ip`)");
    assert_eq!(found, 1, "{all}");
    assert!(all.contains("scope::PeerAddr"), "{all}");
}

/// All clients of a proxy have its address. The process says so once.
#[tokio::test]
async fn an_address_behind_a_proxy_that_is_not_listed_is_told_once() {
    let log = Log::default();
    let _listening = log.listen();
    let from = |peer: &str, name: &'static str, value: &str| {
        let mut request = with(post("k", "{}"), name, value);
        let peer = SocketAddr::new(peer.parse().unwrap(), 1);
        request.extensions_mut().insert(PeerAddr(peer));
        request
    };
    let runs = Runs::default();
    let layer = |scope: Box<dyn Scope>| {
        let layer = IdempotencyLayer::new(MemoryStore::new(), scope).unwrap();
        layer.layer(counting(&runs))
    };
    let by_peer = layer(Box::new(scope::header("x-none").or(scope::peer_ip())));
    let trusted = ["10.0.0.0/8"];
    let by_proxy = layer(Box::new(scope::forwarded_ip(
        ForwardedHeader::XForwardedFor,
        trusted,
    )));
    // Nothing is forwarded, a proxy of the sidecar's kind names the peer itself, or the proxy is listed.
    send(&by_peer, from("192.0.2.9", "x-other", "1")).await;
    send(&by_peer, from("192.0.2.9", "x-forwarded-for", "192.0.2.9")).await;
    send(&by_proxy, from("192.0.2.9", "x-other", "1")).await;
    send(
        &by_proxy,
        from("10.0.0.1", "x-forwarded-for", "203.0.113.1"),
    )
    .await;
    assert_eq!(count(&log, "WARN").0, 0);
    for (app, says) in [
        (&by_peer, "meets the scope `peer-ip`"),
        (
            &by_proxy,
            "`trusted` of the scope `forwarded_ip` does not list",
        ),
    ] {
        for name in ["x-forwarded-for", "x-forwarded-for"] {
            send(app, from("192.0.2.9", name, "203.0.113.1, 198.51.100.1")).await;
        }
        let (found, all) = count(&log, says);
        assert_eq!(found, 1, "{all}");
        assert!(
            !all.contains("203.0.113") && !all.contains("192.0.2"),
            "{all}"
        );
    }
    assert_eq!(count(&log, "WARN").0, 2);
}

#[tokio::test]
async fn a_client_without_a_credential_is_no_mistake_of_the_application() {
    let log = Log::default();
    let _listening = log.listen();
    let scope = scope::header("x-nobody-sends-this");
    let layer = IdempotencyLayer::new(MemoryStore::new(), scope).unwrap();
    let app = layer.layer(counting(&Runs::default()));
    let seen = send(&app, post("k", "{}")).await;
    assert_eq!(seen.refusal(), "400 scope-missing");
    assert_eq!(count(&log, "WARN").0, 0);
}

#[test]
fn routes_are_listed_at_debug_level_when_the_layer_is_built() {
    let log = Log::default();
    let _listening = log.listen();
    IdempotencyLayer::builder(MemoryStore::new(), scope::shared())
        .route("POST /payments", |options| {
            options.require(Require::Required)
        })
        .route("/orders/{id}", |options| {
            options.methods([Method::PUT, Method::DELETE])
        })
        .build()
        .unwrap();
    let all = log.text();
    let lines: Vec<_> = all
        .lines()
        .filter(|line| line.contains("a route of"))
        .collect();
    let [payments, orders, others] = *lines else {
        panic!("{all}");
    };
    for (line, parts) in [
        (
            payments,
            ["DEBUG", "methods=\"POST\"", "/payments", "required"],
        ),
        (
            orders,
            [
                "DEBUG",
                "methods=\"PUT and DELETE\"",
                "/orders/{id}",
                "optional",
            ],
        ),
        (
            others,
            [
                "DEBUG",
                "methods=\"POST and PATCH\"",
                "every path without",
                "optional",
            ],
        ),
    ] {
        let line = line.to_lowercase();
        for part in parts {
            assert!(line.contains(&part.to_lowercase()), "{line}: {part}");
        }
    }
}
