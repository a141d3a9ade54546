//! These clients are slow, or send without end.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Duration, Instant};

use crate::support::{File, Upstream, get, ok, post};

#[tokio::test]
async fn a_slow_body_meets_its_deadline_before_anything_is_claimed() {
    let upstream = Upstream::start(|_| ok("done")).await;
    let file = File::new(upstream.address).idempotency("body_timeout = '200ms'");
    let sidecar = file.start().await;
    let mut client = sidecar.client().await;
    let whole = post("/a", "k", "{}");
    client.send(&whole[..whole.len() - 1]).await;
    let answer = client.answer().await;
    assert_eq!(
        (answer.status(), answer.code().as_str()),
        (408, "body-timeout")
    );
    assert_eq!(sidecar.exchange(&whole).await.status(), 200);
    assert_eq!(upstream.last().field("idempotency-attempt"), Some("1"));
    assert_eq!(upstream.seen().len(), 1);
}

#[tokio::test]
async fn an_endless_body_meets_its_limit_before_anything_is_claimed() {
    let upstream = Upstream::start(|_| ok("done")).await;
    let file = File::new(upstream.address).idempotency("max_request_body = 100");
    let sidecar = file.start().await;
    let mut client = sidecar.client().await;
    client
        .send(
            "POST /a HTTP/1.1\r\nHost: a\r\nIdempotency-Key: k\r\n\
             Transfer-Encoding: chunked\r\n\r\n",
        )
        .await;
    for _ in 0..11 {
        client.send("a\r\n0123456789\r\n").await;
    }
    let answer = client.answer().await;
    assert_eq!(
        (answer.status(), answer.code().as_str()),
        (413, "body-too-large")
    );
    // If the client announces a body that is too large, the sidecar rejects the
    // request without asking for the body.
    let mut client = sidecar.client().await;
    client
        .send(
            "POST /a HTTP/1.1\r\nHost: a\r\nIdempotency-Key: k\r\nExpect: 100-continue\r\n\
             Content-Length: 101\r\n\r\n",
        )
        .await;
    assert_eq!(client.answer().await.status(), 413);
    assert_eq!(sidecar.exchange(&post("/a", "k", "{}")).await.status(), 200);
    assert_eq!(upstream.last().field("idempotency-attempt"), Some("1"));
}

#[tokio::test]
async fn what_is_no_http_or_too_much_of_it_is_refused() {
    let upstream = Upstream::start(|_| ok("done")).await;
    let sidecar = File::new(upstream.address).start().await;
    let fields = "X: y\r\n".repeat(200);
    let long = "x".repeat(1 << 20);
    for (request, status) in [
        ("no http\r\n\r\n".to_owned(), 400),
        ("GET /\u{1} HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), 400),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n"
                .to_owned(),
            400,
        ),
        (format!("GET / HTTP/1.1\r\n{fields}\r\n"), 431),
        (format!("GET / HTTP/1.1\r\nX: {long}\r\n\r\n"), 431),
    ] {
        let mut client = sidecar.client().await;
        // The sidecar may reject the request before the client has sent all of it.
        let _ = client.0.write_all(request.as_bytes()).await;
        assert_eq!(client.head().await.status(), status);
    }
    assert!(upstream.seen().is_empty());
}

/// This message is one request or two requests, depending on which of its lengths a
/// reader believes.
#[tokio::test]
async fn a_request_with_two_lengths_smuggles_nothing() {
    let upstream = Upstream::start(|_| ok("done")).await;
    let sidecar = File::new(upstream.address).start().await;
    let mut client = sidecar.client().await;
    client
        .send(
            "POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 50\r\nTransfer-Encoding: chunked\r\n\r\n\
             0\r\n\r\nPOST /orders HTTP/1.1\r\nHost: a\r\n\r\n",
        )
        .await;
    let _ = client.head().await;
    assert!(upstream.seen().iter().all(|seen| {
        seen.target() == "/a" && (seen.field("content-length").is_none() || seen.body.is_empty())
    }));
}

/// Returns after how long the sidecar closes the connection. The paused clock moves
/// on when no task can run.
async fn closed_after(mut client: crate::support::Client) -> Duration {
    let begun = Instant::now();
    let mut some = [0; 1024];
    while client
        .0
        .read(&mut some)
        .await
        .is_ok_and(|length| length > 0)
    {}
    begun.elapsed()
}

const MINUTE: Duration = Duration::from_mins(1);

#[tokio::test(start_paused = true)]
async fn a_connection_on_which_nothing_comes_is_closed() {
    let upstream = Upstream::start(|_| ok("done")).await;
    let sidecar = File::new(upstream.address).start().await;
    for sent in [
        "",
        "PRI * HTTP/2.0\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\n",
        // This is a whole beginning of HTTP/2, with its settings, but without a
        // request.
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\u{4}\0\0\0\0\0",
    ] {
        let mut client = sidecar.client().await;
        client.send(sent).await;
        let after = closed_after(client).await;
        assert!(
            after >= MINUTE / 2 && after < 3 * MINUTE,
            "{sent:?}: {after:?}"
        );
    }
    let mut client = sidecar.client().await;
    client.send(&get("/")).await;
    assert_eq!(client.answer().await.text(), "done");
    let after = closed_after(client).await;
    assert!(after > MINUTE && after < 3 * MINUTE, "{after:?}");
}
