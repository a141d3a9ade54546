//! The sidecar forwards what the client sent.

use std::collections::BTreeMap;

use crate::support::{File, Step, Upstream, answer, get, ok, post};

fn named(fields: &[(&str, &str)]) -> BTreeMap<String, String> {
    let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    fields.iter().map(own).collect()
}

#[tokio::test]
async fn a_request_arrives_as_it_was_sent_but_for_hop_by_hop_fields() {
    let upstream = Upstream::start(|_| ok("done")).await;
    let sidecar = File::new(upstream.address).start().await;
    sidecar
        .exchange(
            "PUT /a%2fb//c/../d;x=1?q=%6f&&r=//%zz HTTP/1.1\r\n\
             Host: Shop.Example:8443\r\n\
             Authorization: Bearer abc\r\n\
             Cookie: a=1; b=2\r\n\
             X-Twice: one\r\n\
             X-Twice: two\r\n\
             X-Empty:\r\n\
             Expect-CT: x\r\n\
             Accept-Encoding: gzip, br\r\n\
             User-Agent: curl/8\r\n\
             Proxy-Authorization: Basic x\r\n\
             X-Real-IP: 192.0.2.9\r\n\
             Connection: keep-alive, X-Hop\r\n\
             X-Hop: gone\r\n\
             Keep-Alive: timeout=5\r\n\
             Proxy-Connection: keep-alive\r\n\
             TE: gzip, trailers\r\n\
             Trailer: x-sum\r\n\
             Content-Type: text/plain\r\n\
             Content-Length: 5\r\n\r\nhello",
        )
        .await;
    let seen = upstream.last();
    assert_eq!(seen.start, "PUT /a%2fb//c/../d;x=1?q=%6f&&r=//%zz HTTP/1.1");
    assert_eq!(seen.text(), "hello");
    assert_eq!(
        seen.named(),
        named(&[
            ("host", "Shop.Example:8443"),
            ("authorization", "Bearer abc"),
            ("cookie", "a=1; b=2"),
            ("x-twice", "one, two"),
            ("x-empty", ""),
            ("expect-ct", "x"),
            ("accept-encoding", "gzip, br"),
            ("user-agent", "curl/8"),
            ("proxy-authorization", "Basic x"),
            ("x-real-ip", "192.0.2.9"),
            ("te", "trailers"),
            ("trailer", "x-sum"),
            ("content-type", "text/plain"),
            ("content-length", "5"),
            ("x-forwarded-for", "127.0.0.1"),
            ("x-forwarded-proto", "http"),
            ("x-forwarded-host", "Shop.Example:8443"),
            ("via", "1.1 idempotency-sidecar"),
        ])
    );
}

#[tokio::test]
async fn an_answer_arrives_as_it_was_sent_but_for_hop_by_hop_fields() {
    let upstream = Upstream::start(|_| {
        answer(
            "299 Quite Fine",
            "Date: Mon, 23 Nov 2026 00:00:00 GMT\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\n\
             Connection: X-Hop\r\nX-Hop: gone\r\nKeep-Alive: timeout=5\r\nETag: \"x\"\r\n",
            "done",
        )
    })
    .await;
    let sidecar = File::new(upstream.address).start().await;
    for request in [get("/"), post("/orders", "k", "{}")] {
        let answer = sidecar.exchange(&request).await;
        assert_eq!(answer.start, "HTTP/1.1 299 Quite Fine");
        assert_eq!(answer.text(), "done");
        assert_eq!(
            answer.named(),
            named(&[
                ("date", "Mon, 23 Nov 2026 00:00:00 GMT"),
                ("set-cookie", "a=1, b=2"),
                ("etag", "\"x\""),
                ("content-length", "4"),
            ])
        );
    }
}

#[tokio::test]
async fn a_protected_request_is_executed_once_and_its_answer_replayed() {
    let upstream = Upstream::start(|_| answer("201 Created", "X-Id: 7\r\n", "order 7")).await;
    let sidecar = File::new(upstream.address).start().await;
    let first = sidecar.exchange(&post("/orders?a=1", "k", "{}")).await;
    let again = sidecar.exchange(&post("/orders?a=1", "k", "{}")).await;
    assert_eq!((first.status(), first.text()), (201, "order 7"));
    assert_eq!((again.status(), again.text()), (201, "order 7"));
    assert_eq!(first.field("idempotency-replayed"), None);
    assert_eq!(again.field("idempotency-replayed"), Some("true"));
    assert_eq!(again.field("x-id"), Some("7"));
    assert_eq!(upstream.seen().len(), 1);
    assert_eq!(upstream.last().text(), "{}");
    assert_eq!(upstream.last().field("idempotency-key"), Some("k"));
}

#[tokio::test]
async fn connections_to_the_upstream_are_kept() {
    let upstream = Upstream::start(|_| ok("done")).await;
    let sidecar = File::new(upstream.address).start().await;
    let mut client = sidecar.client().await;
    for _ in 0..20 {
        client.send(&get("/")).await;
        assert_eq!(client.answer().await.text(), "done");
    }
    assert_eq!(upstream.seen().len(), 20);
    // The sidecar may open a second connection before the first connection is idle
    // again.
    assert!(upstream.connections() <= 3, "{}", upstream.connections());
}

#[tokio::test]
async fn a_head_request_and_an_answer_without_a_body_are_left_alone() {
    let upstream = Upstream::start(|request| {
        if request.start.starts_with("HEAD") {
            vec![Step::Write(
                "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n".to_owned(),
            )]
        } else {
            vec![Step::Write(
                "HTTP/1.1 304 Not Modified\r\nETag: x\r\n\r\n".to_owned(),
            )]
        }
    })
    .await;
    let sidecar = File::new(upstream.address).start().await;
    let mut client = sidecar.client().await;
    client.send("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let head = client.head().await;
    assert_eq!(
        (head.status(), head.field("content-length")),
        (200, Some("1000"))
    );
    client.send(&get("/")).await;
    assert_eq!(client.head().await.status(), 304);
}

#[tokio::test]
async fn http_1_0_is_answered_too() {
    let upstream = Upstream::start(|_| ok("done")).await;
    let sidecar = File::new(upstream.address).start().await;
    let mut client = sidecar.client().await;
    client.send("GET / HTTP/1.0\r\n\r\n").await;
    let answer = client.answer().await;
    assert_eq!((answer.status(), answer.text()), (200, "done"));
    assert!(client.is_closed().await);
    assert_eq!(upstream.last().start, "GET / HTTP/1.1");
    assert_eq!(
        upstream.last().field("host"),
        Some(&*upstream.address.to_string())
    );
}

#[tokio::test]
async fn the_target_says_which_host_and_there_is_one() {
    let upstream = Upstream::start(|_| ok("done")).await;
    let sidecar = File::new(upstream.address).start().await;
    sidecar
        .exchange("GET http://a.example/x?y HTTP/1.1\r\nHost: b.example\r\n\r\n")
        .await;
    assert_eq!(upstream.last().target(), "/x?y");
    assert_eq!(upstream.last().field("host"), Some("a.example"));
    sidecar
        .exchange("OPTIONS * HTTP/1.1\r\nHost: a.example\r\n\r\n")
        .await;
    assert_eq!(upstream.last().start, "OPTIONS * HTTP/1.1");
    let two = sidecar
        .exchange("GET / HTTP/1.1\r\nHost: a.example\r\nHost: b.example\r\n\r\n")
        .await;
    assert_eq!((two.status(), two.code().as_str()), (400, "host-invalid"));
    assert_eq!(upstream.seen().len(), 2);
}

#[tokio::test]
async fn a_field_that_connection_names_does_not_undo_what_the_sidecar_says() {
    let upstream = Upstream::start(|_| ok("done")).await;
    let sidecar = File::new(upstream.address).start().await;
    sidecar
        .exchange(
            "POST /orders HTTP/1.1\r\nHost: a.example\r\nIdempotency-Key: k\r\n\
             Connection: x-forwarded-for, host, idempotency-attempt\r\nContent-Length: 0\r\n\r\n",
        )
        .await;
    let seen = upstream.last();
    assert_eq!(seen.field("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(seen.field("idempotency-attempt"), Some("1"));
    assert_eq!(seen.field("host"), Some("a.example"));
    assert_eq!(seen.field("connection"), None);
}

/// The fingerprint has no host, so a caller's key is one operation on all hosts.
#[tokio::test]
async fn hosts_share_keys_unless_the_scope_names_the_host() {
    let upstream = Upstream::start(|request| ok(request.field("host").unwrap())).await;
    let order = |host: &str| {
        format!(
            "POST /orders HTTP/1.1\r\nHost: {host}\r\nAuthorization: alice\r\nIdempotency-Key: k\r\n\
             Content-Length: 0\r\n\r\n"
        )
    };
    for (scope, second) in [
        ("header:authorization", "a.example"),
        ("headers:host,authorization", "b.example"),
    ] {
        let file = File::new(upstream.address).idempotency(&format!("scope = ['{scope}']"));
        let sidecar = file.start().await;
        assert_eq!(
            sidecar.exchange(&order("a.example")).await.text(),
            "a.example"
        );
        assert_eq!(sidecar.exchange(&order("b.example")).await.text(), second);
        assert_eq!(
            sidecar.exchange(&order("a.example")).await.text(),
            "a.example"
        );
    }
}

/// `Vary` chooses no record.
#[tokio::test]
async fn a_replay_has_the_encoding_of_the_first_response_whatever_the_retry_accepts() {
    let upstream = Upstream::start(|request| {
        let fields = format!(
            "Content-Encoding: {}\r\nVary: Accept-Encoding\r\n",
            request.field("accept-encoding").unwrap()
        );
        answer("200 OK", &fields, "compressed")
    })
    .await;
    let sidecar = File::new(upstream.address).start().await;
    for accepted in ["gzip", "br"] {
        let order = format!(
            "POST /orders HTTP/1.1\r\nHost: a\r\nAccept-Encoding: {accepted}\r\nIdempotency-Key: k\r\n\
             Content-Length: 0\r\n\r\n"
        );
        let answer = sidecar.exchange(&order).await;
        assert_eq!(answer.field("content-encoding"), Some("gzip"));
        assert_eq!(answer.field("vary"), Some("Accept-Encoding"));
    }
}
