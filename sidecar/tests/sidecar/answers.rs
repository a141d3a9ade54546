//! These upstreams respond with heads that are odd, large or malformed.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;

use crate::failures::{at_first, charge};
use crate::support::{File, Step, Upstream, get, until};

fn fields(count: usize, length: usize) -> String {
    let value = "x".repeat(length);
    let fields = (0..count).map(|at| format!("X-{at}: {value}\r\n"));
    fields.collect::<Vec<_>>().concat()
}

/// Starts an upstream that sends this text for every request.
async fn saying(text: String) -> Upstream {
    Upstream::start(move |_| vec![Step::Write(text.clone()), Step::Close]).await
}

#[tokio::test]
async fn what_is_odd_in_an_answer_but_can_be_read_is_read_and_replayed() {
    let hello = "Content-Length: 5\r\n\r\nhello";
    let chunked = "Transfer-Encoding: chunked\r\n";
    for (answer, field) in [
        (
            format!("HTTP/1.1 201 Created\r\n{}{hello}", fields(250, 4)),
            "x-249: xxxx",
        ),
        (
            format!("HTTP/1.1 201 Created\r\n{}{hello}", fields(100, 2500)),
            "",
        ),
        // RFC 9112, section 5.1.
        (
            format!("HTTP/1.1 201 Created\r\nX-Long : v\r\n{hello}"),
            "x-long: v",
        ),
        // RFC 9112, section 5.2.
        (
            format!("HTTP/1.1 201 Created\r\nX-Folded: one\r\n\t two\r\n  three\r\n{hello}"),
            "x-folded: one two three",
        ),
        (format!("HTTP/1.1 201\r\n{hello}"), ""),
        (format!("HTTP/1.1 201 \r\n{hello}"), ""),
        (format!("HTTP/1.1 201 Créé\r\n{hello}"), ""),
        (format!("\r\nHTTP/1.1 201 Created\r\n{hello}"), ""),
        // RFC 9112, section 2.2.
        (
            format!(
                "HTTP/1.1 201 Created\nX-A: b\n{}",
                hello.replace("\r\n", "\n")
            ),
            "x-a: b",
        ),
        (
            format!("HTTP/1.1 201 Created\r\nX-Name: Zoë\r\n{hello}"),
            "x-name: Zoë",
        ),
        (
            format!("HTTP/1.1 201 Created\r\nX-Empty:\r\n{hello}"),
            "x-empty: ",
        ),
        (
            format!(
                "{}HTTP/1.1 201 Created\r\n{hello}",
                "HTTP/1.1 103 Early\r\nLink: x\r\n\r\n".repeat(1000)
            ),
            "",
        ),
        // RFC 9112, section 6.3: both lengths are the same, and chunks beat a length.
        (
            "HTTP/1.1 201 Created\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello"
                .to_owned(),
            "content-length: 5",
        ),
        (
            "HTTP/1.1 201 Created\r\nContent-Length: 5, 5\r\n\r\nhello".to_owned(),
            "content-length: 5",
        ),
        (
            format!(
                "HTTP/1.1 201 Created\r\nContent-Length: 2\r\n{chunked}\r\n5\r\nhello\r\n0\r\n\r\n"
            ),
            "",
        ),
        (
            format!(
                "HTTP/1.1 201 Created\r\n{chunked}\r\n3;a=b;c=\"d\"\r\nhel\r\n2 ;x\r\nlo\r\n0\r\n{}\r\n",
                fields(200, 4)
            ),
            "",
        ),
        ("HTTP/1.0 201 Created\r\n\r\nhello".to_owned(), ""),
    ] {
        let upstream = saying(answer.clone()).await;
        let sidecar = File::new(upstream.address).start().await;
        for replayed in [None, Some("true")] {
            let got = charge(&sidecar).await;
            let head: String = answer.chars().take(200).collect();
            assert_eq!((got.status(), got.text()), (201, "hello"), "{head}");
            assert_eq!(got.field("idempotency-replayed"), replayed, "{head}");
            if let Some((name, value)) = field.split_once(": ") {
                assert_eq!(got.field(name), Some(value), "{head}");
            }
        }
        assert_eq!(upstream.seen().len(), 1);
    }
}

#[tokio::test]
async fn what_cant_be_read_after_a_status_line_is_done_and_never_executed_again() {
    let hello = "Content-Length: 5\r\n\r\nhello";
    for answer in [
        format!("HTTP/1.1 201 Created\r\n{}{hello}", fields(300, 4)),
        format!("HTTP/1.1 201 Created\r\n{}{hello}", fields(100, 3000)),
        format!("HTTP/1.1 201 {}\r\n{hello}", "x".repeat(500_000)),
        format!("HTTP/1.1 201 Created\r\nX-Nul: a\0b\r\n{hello}"),
        format!("HTTP/1.1 201 Created\r\nX Name: a\r\n{hello}"),
        format!("HTTP/1.1 201 Created\r\nno field\r\n{hello}"),
        format!("HTTP/1.1 201 Created\r\n X-Before: the first field\r\n{hello}"),
        format!("http/1.1 201 Created\r\n{hello}"),
        format!("HTTP/2.0 201 Created\r\n{hello}"),
        "HTTP/1.1 201 Created\r\nContent-Length: 5\r\nContent-Length: 2\r\n\r\nhello".to_owned(),
        "HTTP/1.1 201 Created\r\nContent-Length: 5, 2\r\n\r\nhello".to_owned(),
        "HTTP/1.1 201 Created\r\nContent-Length: +5\r\n\r\nhello".to_owned(),
        "HTTP/1.1 201 Created\r\nContent-Length: 99999999999999999999\r\n\r\nhello".to_owned(),
        "HTTP/1.1 201 Created\r\nTransfer-Encoding: gzip, chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n".to_owned(),
        "HTTP/1.1 201 Created\r\nTransfer-Encoding: gz\u{ed}p\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n".to_owned(),
        "HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked, chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n".to_owned(),
        "HTTP/1.1 201 Created\r\nTransfer-Encoding: gzip\r\n\r\nhello".to_owned(),
        "HTTP/1.0 201 Created\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n".to_owned(),
        // The head has no end.
        "HTTP/1.1 201 Created\r\nContent-Le".to_owned(),
    ] {
        let upstream = saying(answer.clone()).await;
        let file = File::new(upstream.address).idempotency("lease = '100ms'");
        let sidecar = file.start().await;
        let first = charge(&sidecar).await;
        let head: String = answer.chars().take(200).collect();
        assert_eq!((first.status(), first.code().as_str()), (502, "upstream-broken"), "{head}");
        assert!(first.text().contains("\"retry\":\"never\""), "{head}");
        let second = charge(&sidecar).await;
        assert_eq!(
            (second.status(), second.code().as_str()),
            (409, "response-unavailable"),
            "{head}"
        );
        assert_eq!(upstream.seen().len(), 1);
    }
}

/// The status of such a response says whether the operation is over, as for a body that breaks off.
#[tokio::test]
async fn what_cant_be_read_after_a_status_that_is_not_recorded_leaves_the_outcome_in_doubt() {
    for status in ["503 Later", "504 Late", "099 Odd", "429 Slow"] {
        let answer = format!("HTTP/1.1 {status}\r\n{}\r\n", fields(300, 4));
        let upstream = at_first(vec![Step::Write(answer), Step::Close]).await;
        let file = File::new(upstream.address).idempotency("lease = '300ms'");
        let sidecar = file.start().await;
        assert_eq!(charge(&sidecar).await.code(), "upstream-broken", "{status}");
        assert_eq!(charge(&sidecar).await.code(), "in-flight", "{status}");
        until(async || charge(&sidecar).await.status() == 200).await;
        assert_eq!(upstream.seen().len(), 2);
    }
}

#[tokio::test]
async fn a_head_that_stalls_after_its_status_line_is_like_one_that_breaks_off() {
    let part = Step::Write("HTTP/1.1 201 Created\r\nX-A: b\r\n".to_owned());
    let upstream = at_first(vec![part, Step::Hang]).await;
    let file = File::new(upstream.address).top("upstream_timeout = '200ms'");
    let sidecar = file.start().await;
    assert_eq!(charge(&sidecar).await.code(), "upstream-broken");
    assert_eq!(charge(&sidecar).await.code(), "response-unavailable");
}

/// No byte of a status line, or a protocol that is not HTTP.
#[tokio::test]
async fn what_is_no_answer_leaves_the_outcome_in_doubt() {
    for text in [
        "",
        "HTTP/1.1 20",
        "hello\r\n\r\n",
        "HTTP/1.1 100 Continue\r\n\r\n",
    ] {
        let upstream = at_first(vec![Step::Write(text.to_owned()), Step::Close]).await;
        let sidecar = File::new(upstream.address).start().await;
        assert_eq!(charge(&sidecar).await.code(), "upstream-broken", "{text}");
        assert_eq!(charge(&sidecar).await.code(), "in-flight", "{text}");
    }
}

#[tokio::test]
async fn without_a_key_an_answer_that_cant_be_read_is_a_bad_gateway() {
    let upstream = saying("HTTP/1.1 200 OK\r\nContent-Length: 5, 2\r\n\r\nhello".to_owned()).await;
    let sidecar = File::new(upstream.address).start().await;
    let got = sidecar.exchange(&get("/")).await;
    assert_eq!(
        (got.status(), got.code().as_str()),
        (502, "upstream-broken")
    );
}

/// Starts an upstream with HTTP/2 whose responses have this many fields of this length.
async fn http2_with(count: usize, length: usize) -> (std::net::SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let seen = Arc::<AtomicUsize>::default();
    let counted = Arc::clone(&seen);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let counted = Arc::clone(&counted);
            let service = service_fn(move |_: Request<Incoming>| {
                counted.fetch_add(1, Ordering::SeqCst);
                async move {
                    let mut response = Response::builder().status(201);
                    for at in 0..count {
                        response = response.header(format!("x-{at}"), "x".repeat(length));
                    }
                    Ok::<_, Infallible>(response.body(Full::new(Bytes::from("hello"))).unwrap())
                }
            });
            tokio::spawn(
                hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(stream), service),
            );
        }
    });
    (address, seen)
}

#[tokio::test]
async fn over_http_2_the_limits_of_an_answer_are_the_same() {
    for (count, length) in [(250, 4), (100, 2500)] {
        let (upstream, seen) = http2_with(count, length).await;
        let file = File::new(upstream).top("upstream_http2 = true");
        let sidecar = file.start().await;
        for _ in 0..2 {
            let got = charge(&sidecar).await;
            assert_eq!((got.status(), got.text()), (201, "hello"));
            let last = got.field(&format!("x-{}", count - 1)).unwrap();
            assert_eq!(last.len(), length);
        }
        assert_eq!(seen.load(Ordering::SeqCst), 1);
    }
    let (upstream, seen) = http2_with(100, 3000).await;
    let file = File::new(upstream)
        .top("upstream_http2 = true")
        .idempotency("lease = '100ms'");
    let sidecar = file.start().await;
    let first = charge(&sidecar).await;
    assert_eq!(
        (first.status(), first.code().as_str()),
        (502, "upstream-broken")
    );
    assert_eq!(charge(&sidecar).await.code(), "response-unavailable");
    assert_eq!(seen.load(Ordering::SeqCst), 1);
}
