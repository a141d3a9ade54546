//! The sidecar streams bodies with their trailers, and never waits for the end of a
//! body.

use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::Notify;

use crate::support::{File, Step, Upstream, get, ok, post, until, within};

#[tokio::test]
async fn the_first_byte_of_a_request_arrives_before_its_last_is_sent() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let file = File::new(listener.local_addr().unwrap());
    let sidecar = file.start().await;
    let mut client = sidecar.client().await;
    client
        .send("POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n")
        .await;
    let (mut upstream, _) = within(listener.accept()).await.unwrap();
    let mut read = String::new();
    while !read.contains("first") {
        let mut some = [0; 1024];
        let length = within(upstream.read(&mut some)).await.unwrap();
        assert!(length > 0);
        read.push_str(std::str::from_utf8(&some[..length]).unwrap());
    }
    client.send("4\r\nlast\r\n0\r\n\r\n").await;
    while !read.ends_with("0\r\n\r\n") {
        let mut some = [0; 1024];
        let length = within(upstream.read(&mut some)).await.unwrap();
        assert!(length > 0);
        read.push_str(std::str::from_utf8(&some[..length]).unwrap());
    }
    assert!(read.contains("last"));
    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
    upstream.write_all(answer).await.unwrap();
    assert_eq!(client.answer().await.status(), 200);
}

#[tokio::test]
async fn the_first_byte_of_an_answer_arrives_before_its_last_is_there() {
    let go_on = Arc::new(Notify::new());
    let upstream = {
        let go_on = Arc::clone(&go_on);
        Upstream::start(move |_| {
            vec![
                Step::Write(
                    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n"
                        .to_owned(),
                ),
                Step::Wait(Arc::clone(&go_on)),
                Step::Write("4\r\nlast\r\n0\r\n\r\n".to_owned()),
            ]
        })
        .await
    };
    let sidecar = File::new(upstream.address).start().await;
    for request in [get("/"), post("/a", "k", "{}")] {
        let mut client = sidecar.client().await;
        client.send(&request).await;
        let head = client.head().await;
        assert_eq!(head.field("transfer-encoding"), Some("chunked"));
        let mut first = [0; 10];
        within(client.0.read_exact(&mut first)).await.unwrap();
        assert_eq!(&first, b"5\r\nfirst\r\n");
        go_on.notify_one();
        let mut last = [0; 14];
        within(client.0.read_exact(&mut last)).await.unwrap();
        assert_eq!(&last, b"4\r\nlast\r\n0\r\n\r\n");
    }
}

#[tokio::test]
async fn trailers_of_a_request_arrive_but_those_that_only_the_sidecar_says() {
    let upstream = Upstream::start(|_| ok("done")).await;
    let sidecar = File::new(upstream.address).start().await;
    for key in ["", "Idempotency-Key: k\r\n"] {
        let request = format!(
            "POST /a HTTP/1.1\r\nHost: a\r\n{key}Transfer-Encoding: chunked\r\n\
             Trailer: x-sum, idempotency-attempt\r\n\r\n\
             5\r\nhello\r\n0\r\nX-Sum: 7\r\nIdempotency-Attempt: 9\r\n\r\n"
        );
        assert_eq!(sidecar.exchange(&request).await.status(), 200);
        let seen = upstream.last();
        assert_eq!(seen.text(), "hello");
        assert_eq!(
            seen.trailers,
            [("x-sum".to_owned(), "7".to_owned())],
            "{key}"
        );
    }
}

#[tokio::test]
async fn no_trailer_of_a_request_says_how_it_is_read_or_who_asks() {
    let upstream = Upstream::start(|_| ok("done")).await;
    let sidecar = File::new(upstream.address)
        .top("trusted_proxies = ['127.0.0.1']")
        .idempotency("scope = ['headers:x-shop, x-plan', 'shared']")
        .route("POST /b", "header = ['x-key']")
        .route("POST /c", "fingerprint_headers = ['x-version']")
        .start()
        .await;
    let refused = [
        "Forwarded",
        "X-Forwarded-For",
        "X_Forwarded_Proto",
        "X-Forwarded-Prefix",
        "Connection",
        "Keep-Alive",
        "TE",
        "Upgrade",
        "Transfer-Encoding",
        "Content-Length",
        "Content_Length",
        "Content-Type",
        "Content-Encoding",
        "Content-Range",
        "Host",
        "Expect",
        "Trailer",
        "Authorization",
        "Proxy-Authorization",
        "Cookie",
        "X-Api-Key",
        "X_Auth_Token",
        "X-User-Id",
        "X-Real-IP",
        "X-HTTP-Method-Override",
        "X-Original-URL",
        "Cache-Control",
        "Range",
        "If-Match",
        "Idempotency-Key",
        // The file names these.
        "X-Shop",
        "X_Shop",
        "X-Key",
        "X-Version",
        "X-Plan",
    ];
    let declared = refused.join(", ");
    let sent = refused.map(|name| format!("{name}: 9\r\n")).concat();
    for key in ["", "Idempotency-Key: k\r\n"] {
        let request = format!(
            "POST /a HTTP/1.1\r\nHost: a\r\n{key}Transfer-Encoding: chunked\r\n\
             Trailer: Content-Digest, {declared}\r\n\r\n\
             5\r\nhello\r\n0\r\nContent-Digest: 7\r\n{sent}\r\n"
        );
        assert_eq!(sidecar.exchange(&request).await.status(), 200);
        let expected = [("content-digest".to_owned(), "7".to_owned())];
        assert_eq!(upstream.last().trailers, expected, "{key}");
    }
}

#[tokio::test]
async fn trailers_of_an_answer_arrive_but_those_that_only_the_layer_says() {
    let upstream = Upstream::start(|_| {
        vec![Step::Write(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\
             Trailer: x-sum, idempotency-replayed\r\n\r\n\
             5\r\nhello\r\n0\r\nX-Sum: 7\r\nIdempotency-Replayed: true\r\n\r\n"
                .to_owned(),
        )]
    })
    .await;
    let sidecar = File::new(upstream.address).start().await;
    let with_trailers = |request: String| request.replacen("\r\n", "\r\nTE: trailers\r\n", 1);
    let protected = with_trailers(post("/a", "k", "{}"));
    for request in [with_trailers(get("/")), protected.clone(), protected] {
        let answer = sidecar.exchange(&request).await;
        assert_eq!(answer.text(), "hello");
        assert_eq!(answer.trailers, [("x-sum".to_owned(), "7".to_owned())]);
    }
    assert_eq!(upstream.seen().len(), 2);
}

/// Some clients merge trailers into the head, too.
#[tokio::test]
async fn no_trailer_of_an_answer_says_how_it_is_read_or_what_a_client_does() {
    let refused = [
        "Content-Length",
        "Content-Encoding",
        "Content-Type",
        "Transfer-Encoding",
        "Connection",
        "Trailer",
        "Set-Cookie",
        "WWW-Authenticate",
        "Location",
        "Retry-After",
        "Cache-Control",
        "Date",
        "Access-Control-Allow-Origin",
        "Idempotency-Replayed",
    ];
    let sent = refused.map(|name| format!("{name}: 9\r\n")).concat();
    let declared = refused.join(", ");
    let upstream = Upstream::start(move |_| {
        vec![Step::Write(format!(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\
             Trailer: ETag, {declared}\r\n\r\n\
             5\r\nhello\r\n0\r\n{sent}ETag: \"7\"\r\n\r\n"
        ))]
    })
    .await;
    let sidecar = File::new(upstream.address).start().await;
    let with_trailers = |request: String| request.replacen("\r\n", "\r\nTE: trailers\r\n", 1);
    let protected = with_trailers(post("/a", "k", "{}"));
    for request in [with_trailers(get("/")), protected.clone(), protected] {
        let answer = sidecar.exchange(&request).await;
        assert_eq!(answer.text(), "hello");
        let expected = [("etag".to_owned(), "\"7\"".to_owned())];
        assert_eq!(answer.trailers, expected, "{request}");
    }
}

#[tokio::test]
async fn a_client_that_leaves_stops_no_operation_that_has_begun() {
    let go_on = Arc::new(Notify::new());
    let upstream = {
        let go_on = Arc::clone(&go_on);
        Upstream::start(move |_| {
            let mut steps = vec![Step::Wait(Arc::clone(&go_on))];
            steps.extend(ok("done"));
            steps
        })
        .await
    };
    let sidecar = File::new(upstream.address).start().await;
    let mut client = sidecar.client().await;
    client.send(&post("/a", "k", "{}")).await;
    until(async || upstream.seen().len() == 1).await;
    client.reset();
    let running = sidecar.exchange(&post("/a", "k", "{}")).await;
    assert_eq!(running.code(), "in-flight");
    go_on.notify_one();
    until(async || {
        let again = sidecar.exchange(&post("/a", "k", "{}")).await;
        again.field("idempotency-replayed") == Some("true")
    })
    .await;
    assert_eq!(upstream.seen().len(), 1);
}

#[tokio::test]
async fn a_client_that_leaves_is_gone_for_the_upstream_where_nothing_is_protected() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let sidecar = File::new(listener.local_addr().unwrap()).start().await;
    let mut client = sidecar.client().await;
    client.send(&get("/")).await;
    let (mut upstream, _) = within(listener.accept()).await.unwrap();
    let mut some = [0; 1024];
    assert!(within(upstream.read(&mut some)).await.unwrap() > 0);
    client.reset();
    assert_eq!(within(upstream.read(&mut some)).await.unwrap(), 0);
}
