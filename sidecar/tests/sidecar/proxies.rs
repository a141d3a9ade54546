//! Real proxies in front of the sidecar and behind it, by the files in `deploy/proxies`: client,
//! proxy, sidecar, the same proxy, service.

mod chain;

use std::net::SocketAddr;

use bytes::Bytes;
use http::{Request, StatusCode, Version};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2::handshake;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpSocket;

use crate::support::{Client, Message, nobody, post, until, within};
use chain::{ALL, Chain, Proxy, Service};

const ALICE: [u8; 4] = [127, 0, 0, 2];
const BOB: [u8; 4] = [127, 0, 0, 3];

async fn send(from: [u8; 4], to: SocketAddr, request: &str) -> Message {
    let mut client = Client::connect_from(from, to).await;
    client.send(request).await;
    client.answer().await
}

fn is_replay(answer: &Message) -> bool {
    answer.field("idempotency-replayed") == Some("true")
}

#[tokio::test]
async fn a_request_with_a_key_that_the_proxy_sends_again_is_executed_once() {
    for proxy in ALL {
        let service = Service::start(Version::HTTP_11).await;
        let chain = Chain::of(proxy, &service).change(proxy.tries_for("500ms"));
        let chain = chain.start().await;
        let mut client = Client::connect_from(ALICE, chain.front).await;
        client.send(&post("/slow", "k", "{}")).await;
        until(async || chain.requests().await >= 2).await;
        assert_eq!(service.began(), 1, "{proxy:?}");
        service.finish();
        let answer = client.answer().await;
        assert_eq!((answer.status(), answer.text()), (201, "1"), "{proxy:?}");
        assert!(is_replay(&answer), "{proxy:?}: the second try waited");
        assert_eq!(service.began(), 1, "{proxy:?}");
    }
}

#[tokio::test]
async fn no_proxy_sends_a_request_without_a_key_again() {
    for proxy in ALL {
        let service = Service::start(Version::HTTP_11).await;
        let chain = Chain::of(proxy, &service)
            .change(proxy.tries_for("200ms"))
            .change(proxy.waits_for("500ms"));
        let chain = chain.start().await;
        let without = post("/slow", "k", "{}").replace("Idempotency-Key", "X-Other");
        let answer = send(ALICE, chain.front, &without).await;
        assert_eq!(answer.status(), 504, "{proxy:?}");
        assert_eq!(chain.requests().await, 1, "{proxy:?}");
        assert_eq!(service.began(), 1, "{proxy:?}");
    }
}

#[tokio::test]
async fn an_operation_whose_client_left_the_proxy_ends_and_its_retry_replays() {
    for proxy in ALL {
        let service = Service::start(Version::HTTP_11).await;
        let chain = Chain::of(proxy, &service).start().await;
        let mut client = Client::connect_from(ALICE, chain.front).await;
        client.send(&post("/slow", "k", "{}")).await;
        until(async || service.began() == 1).await;
        client.reset();
        // HAProxy goes on waiting itself, and nginx only closes its half of the connection. Over HTTP/2 a
        // reset tells the sidecar that nobody waits any more.
        if matches!(proxy, Proxy::Caddy | Proxy::Envoy) {
            until(async || chain.requests_in_flight().await == 0).await;
        }
        service.finish();
        until(async || service.ended() == 1).await;
        let answer = send(ALICE, chain.front, &post("/slow", "k", "{}")).await;
        assert_eq!((answer.status(), answer.text()), (201, "1"), "{proxy:?}");
        assert!(is_replay(&answer), "{proxy:?}");
        assert_eq!(service.began(), 1, "{proxy:?}");
    }
}

#[tokio::test]
async fn the_proxy_says_who_the_caller_is_and_the_client_does_not() {
    for proxy in ALL {
        let service = Service::start(Version::HTTP_11).await;
        let chain = Chain::of(proxy, &service).start().await;
        let order = post("/orders", "k", "{}");
        for (from, number) in [(ALICE, "1"), (BOB, "2")] {
            let answer = send(from, chain.front, &order).await;
            assert_eq!(answer.text(), number, "{proxy:?}: two callers, two keys");
            assert!(!is_replay(&answer), "{proxy:?}");
        }
        let lies =
            "Host: shop.example\r\nX-Forwarded-For: 127.0.0.3\r\nForwarded: for=127.0.0.3\r\n";
        let lie = order.replace("Host: shop.example\r\n", lies);
        let answer = send(ALICE, chain.front, &lie).await;
        assert_eq!(answer.text(), "1", "{proxy:?}: the record of who sent this");
        assert!(is_replay(&answer), "{proxy:?}");
        // What the service sees of a client that lies.
        send(ALICE, chain.front, &lie.replace(": k\r", ": other\r")).await;
        let heads = service.heads();
        let head = heads.last().unwrap();
        let addresses = head.headers["x-forwarded-for"].to_str().unwrap();
        assert!(addresses.starts_with("127.0.0.2"), "{proxy:?} {addresses}");
        assert!(!addresses.contains("127.0.0.3"), "{proxy:?} {addresses}");
        assert!(!head.headers.contains_key("forwarded"), "{proxy:?}");
        assert_eq!(head.headers["x-forwarded-host"], "shop.example");
        assert_eq!(head.headers["x-forwarded-proto"], "http");
    }
}

#[tokio::test]
async fn a_proxy_behind_tries_another_server_only_if_it_did_not_reach_the_first() {
    for proxy in ALL {
        let service = Service::start(Version::HTTP_11).await;
        let chain = Chain::of(proxy, &service).beside(nobody()).start().await;
        for number in ["1", "2", "3", "4"] {
            let order = post("/orders", number, "{}");
            let answer = send(ALICE, chain.front, &order).await;
            assert_eq!((answer.status(), answer.text()), (201, number), "{proxy:?}");
        }
        assert_eq!(service.began(), 4, "{proxy:?}");
    }
}

#[tokio::test]
async fn an_execution_that_breaks_off_behind_a_proxy_is_not_begun_again() {
    for (proxy, http2) in ALL
        .into_iter()
        .flat_map(|proxy| [(proxy, false), (proxy, true)])
    {
        let service = Service::start(Version::HTTP_11).await;
        let mut plan =
            Chain::of(proxy, &service).change_sidecar("{ wait = \"20s\" }", "\"reject\"");
        if http2 {
            plan = plan.change(proxy.http2_behind());
            plan = plan.change_sidecar("upstream_http2 = false", "upstream_http2 = true");
        }
        let chain = plan.start().await;
        let sidecar = chain.sidecar.address;
        if http2 && proxy == Proxy::Haproxy {
            // It would say that what broke off was not processed: its listener takes no HTTP/2.
            let refused = send(ALICE, sidecar, &post("/orders", "k", "{}")).await;
            assert_eq!((refused.status(), service.began()), (502, 0));
            continue;
        }
        // What breaks off at first is on a new connection, and then on one that is kept.
        for key in ["a", "b"] {
            let began = service.began();
            let charge = post("/breaks", key, "{}");
            let answer = send(ALICE, sidecar, &charge).await;
            assert!((502..=503).contains(&answer.status()), "{proxy:?}");
            assert_eq!(service.began(), began + 1, "{proxy:?} {http2}");
            let again = send(ALICE, sidecar, &charge).await;
            assert_eq!((again.status(), again.code().as_str()), (409, "in-flight"));
            assert_eq!(service.began(), began + 1, "{proxy:?} {http2}");
            for number in 0..2 {
                let order = post("/orders", &format!("{key}{number}"), "{}");
                assert_eq!(
                    send(ALICE, sidecar, &order).await.status(),
                    201,
                    "{proxy:?}"
                );
            }
        }
    }
}

#[tokio::test]
async fn http_2_is_spoken_on_both_sides_of_a_proxy_that_can() {
    for proxy in ALL {
        // nginx speaks HTTP/2 with those in front of it only.
        let [toward_service, toward_sidecar] = match proxy {
            Proxy::Nginx => [Version::HTTP_11, Version::HTTP_11],
            _ => [Version::HTTP_2, Version::HTTP_2],
        };
        let service = Service::start(toward_service).await;
        let mut plan = Chain::of(proxy, &service).change(proxy.http2());
        if proxy != Proxy::Haproxy {
            plan = plan.change(proxy.http2_behind());
            plan = plan.change_sidecar("upstream_http2 = false", "upstream_http2 = true");
        }
        let chain = plan.start().await;
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((ALICE, 0).into()).unwrap();
        let stream = socket.connect(chain.front).await.unwrap();
        let (mut client, connection) = handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
        tokio::spawn(connection);
        for is_replay in [false, true] {
            let order = Request::post("http://shop.example/orders")
                .header("idempotency-key", "k")
                .body(Full::<Bytes>::from("{}"))
                .unwrap();
            let answer = within(client.send_request(order)).await.unwrap();
            assert_eq!(answer.status(), StatusCode::CREATED, "{proxy:?}");
            assert_eq!(answer.version(), Version::HTTP_2, "{proxy:?}");
            let replayed = answer.headers().contains_key("idempotency-replayed");
            assert_eq!(replayed, is_replay, "{proxy:?}");
            let body = within(answer.into_body().collect()).await.unwrap();
            assert_eq!(body.to_bytes(), "1", "{proxy:?}");
        }
        let head = &service.heads()[0];
        let via: Vec<_> = head.headers.get_all("via").iter().collect();
        let version = if toward_sidecar == Version::HTTP_2 {
            "2"
        } else {
            "1.1"
        };
        let from = format!("{version} idempotency-sidecar");
        assert!(via.iter().any(|via| **via == *from), "{proxy:?} {via:?}");
        assert_eq!(head.version, toward_service, "{proxy:?}");
    }
}
