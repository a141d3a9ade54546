//! What a request's head has to be in HTTP/1.1 (RFC 9112), and what the sidecar refuses.

use crate::support::{File, Upstream, ok};

/// Sends each text on a connection of its own. Its response has the status, and nothing of it has reached the
/// upstream.
async fn refuses(cases: &[(&str, u16)]) {
    let upstream = Upstream::start(|_| ok("done")).await;
    let sidecar = File::new(upstream.address).start().await;
    for (request, status) in cases {
        let mut client = sidecar.client().await;
        client.send(request).await;
        assert_eq!(client.head().await.status(), *status, "{request}");
        assert_eq!(upstream.seen().len(), 0, "{request}");
    }
}

#[tokio::test]
async fn a_request_of_http_1_1_has_one_host() {
    let post = "POST /a HTTP/1.1\r\nIdempotency-Key: k\r\nContent-Length: 2\r\n";
    let without = format!("{post}\r\n{{}}");
    let with = |host: &str| format!("{post}Host: {host}\r\n\r\n{{}}");
    let upstream = Upstream::start(|_| ok("done")).await;
    let sidecar = File::new(upstream.address).start().await;
    let mut refused = vec![
        without.clone(),
        with("a.example\r\nHost: a.example"),
        "GET / HTTP/1.1\r\n\r\n".to_owned(),
        "GET http://a.example/ HTTP/1.1\r\n\r\n".to_owned(),
        "GET http://a.example/ HTTP/1.1\r\nHost: a b\r\n\r\n".to_owned(),
        "GET http://user:pw@a.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n".to_owned(),
        "GET / HTTP/1.0\r\nHost: a/b\r\n\r\n".to_owned(),
        "GET / HTTP/1.0\r\nHost: a\r\nHost: a\r\n\r\n".to_owned(),
        "GET /healthz HTTP/1.1\r\n\r\n".to_owned(),
    ];
    let malformed = [
        "",
        "a b",
        "a/b",
        "user@a.example",
        "http://a.example",
        "a:b",
        "a:80:90",
        "[::1",
        "a.example, b.example",
        "é",
        "a?b",
        "a%zz",
        ":80",
    ];
    refused.extend(malformed.map(with));
    for request in refused {
        let answer = sidecar.exchange(&request).await;
        assert_eq!(
            (answer.status(), answer.code().as_str()),
            (400, "host-invalid"),
            "{request}"
        );
    }
    assert!(upstream.seen().is_empty());
    for host in ["a.example", "A:8080", "my_service:", "[2001:db8::1]:443"] {
        let own = with(host).replace(" k\r\n", &format!(" {host}\r\n"));
        assert_eq!(sidecar.exchange(&own).await.status(), 200, "{host}");
        assert_eq!(upstream.last().field("host"), Some(host));
    }
}

#[tokio::test]
async fn a_target_is_a_path_or_a_url_and_for_options_a_star() {
    refuses(&[
        (
            "GET a.example:80 HTTP/1.1\r\nHost: a.example:80\r\n\r\n",
            400,
        ),
        ("GET a.example HTTP/1.1\r\nHost: a.example\r\n\r\n", 400),
        (
            "POST a.example:80 HTTP/1.1\r\nHost: a.example\r\nContent-Length: 0\r\n\r\n",
            400,
        ),
        ("GET * HTTP/1.1\r\nHost: a.example\r\n\r\n", 400),
        ("GET ?a HTTP/1.1\r\nHost: a.example\r\n\r\n", 400),
        ("GET mailto:a HTTP/1.1\r\nHost: a.example\r\n\r\n", 400),
        ("GET  HTTP/1.1\r\nHost: a.example\r\n\r\n", 400),
        ("GET /a b HTTP/1.1\r\nHost: a.example\r\n\r\n", 400),
        ("GET  /a HTTP/1.1\r\nHost: a.example\r\n\r\n", 400),
        (
            "CONNECT a.example:80 HTTP/1.1\r\nHost: a.example:80\r\n\r\n",
            501,
        ),
        ("CONNECT /a HTTP/1.1\r\nHost: a.example\r\n\r\n", 501),
    ])
    .await;
}

#[tokio::test]
async fn what_could_be_read_in_two_ways_is_refused() {
    let post = "POST /a HTTP/1.1\r\nHost: a\r\n";
    let body = "\r\n5\r\nhello\r\n0\r\n\r\n";
    let cases: Vec<(String, u16)> = [
        ("Content-Length: 5, 5", 400),
        ("Content-Length: 5\r\nContent-Length: 6", 400),
        ("Content-Length: +5", 400),
        ("Content-Length: -5", 400),
        ("Content-Length: 0x5", 400),
        ("Content-Length: 5 5", 400),
        ("Content-Length:", 400),
        ("Content-Length: 99999999999999999999", 400),
        ("Transfer-Encoding: gzip", 400),
        ("Transfer-Encoding: identity", 400),
        ("Transfer-Encoding: chunked, gzip", 400),
        ("Transfer-Encoding: xchunked", 400),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: gzip", 400),
        ("Transfer-Encoding: gzip, chunked", 501),
        ("Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked", 501),
        (
            "Transfer-Encoding: gz\u{ed}p\r\nTransfer-Encoding: chunked",
            501,
        ),
        ("Transfer-Encoding: chunked;a=b, chunked", 501),
        ("Transfer-Encoding: chunked, chunked", 400),
        (
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
            400,
        ),
        ("Transfer-Encoding : chunked", 400),
        (" Transfer-Encoding: chunked", 400),
        ("X: a\r\n Transfer-Encoding: chunked", 400),
        ("X: a\r\n\tfolded", 400),
        ("X\u{b}: a", 400),
        ("X: a\0b", 400),
        (": a", 400),
        ("X", 400),
    ]
    .map(|(field, status)| (format!("{post}{field}\r\n{body}"), status))
    .into();
    let mut cases: Vec<_> = cases
        .iter()
        .map(|(text, status)| (&**text, *status))
        .collect();
    let old = format!("POST /a HTTP/1.0\r\nTransfer-Encoding: chunked\r\n{body}");
    cases.push((&old, 400));
    refuses(&cases).await;
}

/// RFC 9112, 6.3, lets a server read such a request as chunked. The sidecar closes the
/// connection behind it, and the upstream gets one length.
#[tokio::test]
async fn a_chunked_body_with_a_length_too_is_the_last_of_its_connection() {
    let upstream = Upstream::start(|_| ok("done")).await;
    let sidecar = File::new(upstream.address).start().await;
    for fields in [
        "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n",
    ] {
        let mut client = sidecar.client().await;
        let request = format!(
            "POST /a HTTP/1.1\r\nHost: a\r\n{fields}\r\n5\r\nhello\r\n0\r\n\r\n\
             GET /second HTTP/1.1\r\nHost: a\r\n\r\n"
        );
        client.send(&request).await;
        assert_eq!(client.answer().await.status(), 200);
        assert!(client.is_closed().await);
        assert_eq!(upstream.last().text(), "hello");
        assert_eq!(upstream.last().field("content-length"), None);
    }
    assert!(upstream.seen().iter().all(|seen| seen.target() == "/a"));
}

#[tokio::test]
async fn a_body_with_a_broken_chunk_is_refused_and_one_with_extensions_is_read() {
    let upstream = Upstream::start(|_| ok("done")).await;
    let sidecar = File::new(upstream.address).start().await;
    for key in ["", "Idempotency-Key: k\r\n"] {
        let head =
            format!("POST /a HTTP/1.1\r\nHost: a\r\n{key}Transfer-Encoding: chunked\r\n\r\n");
        for broken in [
            "5\r\nhelloworld\r\n0\r\n\r\n",
            "x\r\n",
            "-1\r\n",
            "\r\n",
            "5 5\r\nhello\r\n0\r\n\r\n",
            "fffffffffffffffff\r\n",
            "5\r\nhello\r\n0\r\nbroken trailer\r\n\r\n",
        ] {
            let mut client = sidecar.client().await;
            client.send(&format!("{head}{broken}")).await;
            let answer = client.answer().await;
            assert_eq!(
                (answer.status(), answer.code().as_str()),
                (400, "body-unreadable"),
                "{broken}"
            );
            assert!(client.is_closed().await);
        }
        assert!(upstream.seen().is_empty());
    }
    let request = "POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n\
                   3;name=\"value\"\r\nhel\r\n02\r\nlo\r\n0;last\r\n\r\n";
    assert_eq!(sidecar.exchange(request).await.status(), 200);
    assert_eq!(upstream.last().text(), "hello");
}

#[tokio::test]
async fn an_intermediary_is_named_and_may_be_the_last() {
    let upstream = Upstream::start(|_| ok("done")).await;
    let sidecar = File::new(upstream.address).start().await;
    for method in ["OPTIONS", "TRACE", "GET"] {
        for (hops, forwarded) in [
            ("2", Some("1")),
            ("1", Some("0")),
            ("0", None),
            ("no number", Some("no number")),
        ] {
            let before = upstream.seen().len();
            let request = format!(
                "{method} /a HTTP/1.1\r\nHost: a\r\nVia: 1.0 fred\r\nMax-Forwards: {hops}\r\n\r\n"
            );
            let answer = sidecar.exchange(&request).await;
            let (status, counts) = match (method, forwarded) {
                ("OPTIONS", None) => (204, true),
                ("TRACE", None) => (405, true),
                ("GET", _) => (200, false),
                _ => (200, true),
            };
            assert_eq!(answer.status(), status, "{request}");
            if status == 200 {
                let seen = upstream.last();
                let expected = if counts { forwarded.unwrap() } else { hops };
                assert_eq!(seen.field("max-forwards"), Some(expected), "{request}");
                assert_eq!(seen.named()["via"], "1.0 fred, 1.1 idempotency-sidecar");
            } else {
                assert_eq!(upstream.seen().len(), before, "{request}");
            }
        }
    }
    sidecar.exchange("GET / HTTP/1.0\r\n\r\n").await;
    assert_eq!(
        upstream.last().field("via"),
        Some("1.0 idempotency-sidecar")
    );
}
