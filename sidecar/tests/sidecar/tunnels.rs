//! These connections are handed over to another protocol.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::support::{Client, File, Running, Step, Upstream, answer, get, ok, within};

const UPGRADE: &str = "GET /chat HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\n\
                       Upgrade: websocket\r\nSec-WebSocket-Key: x\r\n\r\n";

/// Starts an upstream that changes the protocol to `websocket` and sends all bytes
/// back. The upstream's task returns the request head that it received.
async fn echoing() -> (Running, JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let sidecar = File::new(listener.local_addr().unwrap()).start().await;
    let upstream = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            head.push(char::from(stream.read_u8().await.unwrap()));
        }
        let switch = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n\
                      Upgrade: websocket\r\nSec-WebSocket-Accept: y\r\n\r\n";
        stream.write_all(switch.as_bytes()).await.unwrap();
        let mut some = [0; 64];
        loop {
            let length = stream.read(&mut some).await.unwrap();
            if length == 0 {
                return head;
            }
            stream.write_all(&some[..length]).await.unwrap();
        }
    });
    (sidecar, upstream)
}

async fn echoes(client: &mut Client, text: &str) {
    client.send(text).await;
    let mut back = vec![0; text.len()];
    within(client.0.read_exact(&mut back)).await.unwrap();
    assert_eq!(back, text.as_bytes());
}

#[tokio::test]
async fn a_websocket_is_a_tunnel() {
    let (sidecar, upstream) = echoing().await;
    let mut client = sidecar.client().await;
    client.send(UPGRADE).await;
    let head = client.head().await;
    assert_eq!(head.status(), 101);
    assert_eq!(head.field("upgrade"), Some("websocket"));
    assert_eq!(head.field("connection"), Some("upgrade"));
    assert_eq!(head.field("sec-websocket-accept"), Some("y"));
    echoes(&mut client, "one").await;
    echoes(&mut client, "two").await;
    drop(client);
    let head = within(upstream).await.unwrap().to_ascii_lowercase();
    assert!(head.contains("\r\nconnection: upgrade\r\n"), "{head}");
    assert!(head.contains("\r\nupgrade: websocket\r\n"), "{head}");
    assert!(head.contains("\r\nsec-websocket-key: x\r\n"), "{head}");
}

#[tokio::test]
async fn an_upstream_that_does_not_change_the_protocol_just_answers() {
    let upstream = Upstream::start(|_| ok("no")).await;
    let sidecar = File::new(upstream.address).start().await;
    let mut client = sidecar.client().await;
    client.send(UPGRADE).await;
    assert_eq!(client.answer().await.text(), "no");
    client.send(&get("/")).await;
    assert_eq!(client.answer().await.text(), "no");
}

/// In a tunnel of HTTP, requests would bypass the layer.
#[tokio::test]
async fn no_other_http_is_tunnelled() {
    let upstream = Upstream::start(|_| ok("done")).await;
    let sidecar = File::new(upstream.address).start().await;
    for protocol in [
        "h2c",
        "H2C",
        "h2c, websocket",
        "HTTP/2.0",
        "TLS/1.0",
        "websocket, h2c",
    ] {
        let request = format!(
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\n\
             Upgrade: {protocol}\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n"
        );
        assert_eq!(sidecar.exchange(&request).await.text(), "done");
        let seen = upstream.last().named();
        for name in ["upgrade", "connection", "http2-settings"] {
            assert!(!seen.contains_key(name), "{protocol}: {name}");
        }
    }
}

#[tokio::test]
async fn an_upgrade_that_connection_does_not_name_is_none() {
    let upstream = Upstream::start(|_| ok("done")).await;
    let sidecar = File::new(upstream.address).start().await;
    let request = UPGRADE.replace(", Upgrade", "");
    assert_eq!(sidecar.exchange(&request).await.text(), "done");
    assert_eq!(upstream.last().field("upgrade"), None);
}

#[tokio::test]
async fn a_protocol_that_nobody_asked_for_is_no_answer() {
    let switch = "Connection: upgrade\r\nUpgrade: websocket\r\n";
    let upstream = Upstream::start(move |_| {
        let mut steps = answer("101 Switching Protocols", switch, "");
        steps.push(Step::Hang);
        steps
    })
    .await;
    let sidecar = File::new(upstream.address).start().await;
    let answer = sidecar.exchange(&get("/")).await;
    assert_eq!(
        (answer.status(), answer.code().as_str()),
        (502, "upstream-broken")
    );
}

#[tokio::test]
async fn connect_is_refused() {
    let upstream = Upstream::start(|_| ok("done")).await;
    let sidecar = File::new(upstream.address).start().await;
    let request = "CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\n\r\n";
    let mut client = sidecar.client().await;
    client.send(request).await;
    assert_eq!(client.head().await.status(), 501);
    assert!(upstream.seen().is_empty());
}
