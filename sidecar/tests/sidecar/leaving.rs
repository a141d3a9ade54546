//! These clients close their connections, or a half of them; or the sidecar closes the connection
//! while the client is still sending.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::Notify;

use crate::support::{File, Running, Step, Upstream, get, ok, post, until, within};

/// Starts an upstream that responds when `go_on` is notified.
async fn waiting(go_on: &Arc<Notify>) -> Upstream {
    let go_on = Arc::clone(go_on);
    Upstream::start(move |_| {
        let mut steps = vec![Step::Wait(Arc::clone(&go_on))];
        steps.extend(ok("done"));
        steps
    })
    .await
}

#[tokio::test]
async fn a_client_that_has_closed_its_sending_half_gets_its_response() {
    let go_on = Arc::new(Notify::new());
    let upstream = waiting(&go_on).await;
    let sidecar = File::new(upstream.address).start().await;
    for (at, request) in [
        get("/"),
        post("/a", "k", "{}"),
        post("/b", "k", "{}").replace("Idempotency-Key: k\r\n", ""),
        "GET / HTTP/1.0\r\n\r\n".to_owned(),
    ]
    .iter()
    .enumerate()
    {
        let mut client = sidecar.client().await;
        client.send(request).await;
        client.0.shutdown().await.unwrap();
        // The end of the client's half arrives while the upstream works.
        until(async || upstream.seen().len() == at + 1).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
        go_on.notify_one();
        assert_eq!(client.answer().await.text(), "done", "{request}");
        assert!(client.is_closed().await);
    }
    // Requests that were sent before the end are all served.
    let mut client = sidecar.client().await;
    client.send(&get("/1").repeat(2)).await;
    client.0.shutdown().await.unwrap();
    for _ in 0..2 {
        go_on.notify_one();
        assert_eq!(client.answer().await.text(), "done");
    }
    assert!(client.is_closed().await);
}

#[tokio::test]
async fn a_body_that_ends_with_the_sending_half_before_its_length_is_refused() {
    let upstream = Upstream::start(|_| ok("done")).await;
    let sidecar = File::new(upstream.address).start().await;
    let whole = post("/a", "k", "{}");
    let mut client = sidecar.client().await;
    client.send(&whole[..whole.len() - 1]).await;
    client.0.shutdown().await.unwrap();
    let answer = client.answer().await;
    assert_eq!(
        (answer.status(), answer.code().as_str()),
        (400, "body-unreadable")
    );
    assert!(upstream.seen().is_empty());
    assert_eq!(sidecar.exchange(&whole).await.status(), 200);
}

/// A client that closes its connection could as well have closed its sending half, until something is
/// written to it. A reset tells at once: see `streaming.rs`.
#[tokio::test]
async fn a_client_that_has_closed_its_connection_is_noticed_by_writing_to_it() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let sidecar = File::new(listener.local_addr().unwrap()).start().await;
    let mut client = sidecar.client().await;
    client.send(&get("/")).await;
    let (mut upstream, _) = within(listener.accept()).await.unwrap();
    let mut some = [0; 1024];
    assert!(within(upstream.read(&mut some)).await.unwrap() > 0);
    drop(client);
    let head = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf";
    upstream.write_all(head).await.unwrap();
    assert_eq!(within(upstream.read(&mut some)).await.unwrap_or(0), 0);
}

/// TCP asks by itself whether a client is still there that waits for a silent upstream.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_connection_that_rests_is_probed() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let sidecar = File::new(listener.local_addr().unwrap()).start().await;
    let mut client = sidecar.client().await;
    client.send(&get("/")).await;
    let (_upstream, _) = within(listener.accept()).await.unwrap();
    let ports = format!(
        ":{:04X} 0100007F:{:04X}",
        sidecar.address.port(),
        client.0.get_ref().local_addr().unwrap().port()
    );
    let connections = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let own = connections.lines().find(|line| line.contains(&ports));
    // The sixth field is the timer: 02 is that of the probes.
    let timer = own.and_then(|line| line.split_whitespace().nth(5));
    assert!(timer.unwrap().starts_with("02:"), "{own:?}");
}

/// Sends a request with a large body as a client does that reads nothing before all is
/// written, and returns the status that the client reads.
async fn refused_while_sending(sidecar: &Running, head: &str) -> Option<u16> {
    const LARGE: usize = 3 << 20;
    let mut client = sidecar.client().await;
    let head = head.replace("{length}", &LARGE.to_string());
    client.send(&head).await;
    let part = vec![b' '; LARGE / 50];
    for _ in 0..50 {
        client.0.write_all(&part).await.ok()?;
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let answer = client.try_answer().await?;
    assert_eq!(answer.field("connection"), Some("close"));
    assert!(client.is_closed().await);
    Some(answer.status())
}

#[tokio::test]
async fn a_refusal_is_read_by_a_client_that_sends_its_whole_body_first() {
    let upstream = Upstream::start(|_| ok("done")).await;
    let sidecar = File::new(upstream.address).start().await;
    for (status, head) in [
        (
            413,
            "POST /a HTTP/1.1\r\nHost: a\r\nIdempotency-Key: k\r\nContent-Length: {length}\r\n\r\n",
        ),
        (
            413,
            "POST /a HTTP/1.1\r\nHost: a\r\nIdempotency-Key: k\r\nTransfer-Encoding: chunked\r\n\r\n\
             300000\r\n",
        ),
        (
            400,
            "POST /a//b HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n",
        ),
        (
            400,
            "POST /a HTTP/1.1\r\nHost: a\r\nIdempotency-Key:\r\nContent-Length: {length}\r\n\r\n",
        ),
        (
            400,
            "POST /a HTTP/1.1\r\nHost : a\r\nContent-Length: {length}\r\n\r\n",
        ),
        (431, "POST /a HTTP/1.1\r\nHost: a\r\nX-Long: "),
        (
            200,
            "GET /healthz HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n",
        ),
    ] {
        let asked = (0..10).map(|_| refused_while_sending(&sidecar, head));
        for asked in asked {
            assert_eq!(asked.await, Some(status), "{head}");
        }
    }
    assert!(upstream.seen().is_empty());
}
