//! Every method may have a body (RFC 9110, section 9.3), whatever says where the body ends.

use std::convert::Infallible;

use bytes::Bytes;
use http::{Request, Version};
use http_body::Frame;
use http_body_util::StreamBody;

use crate::http2::{Http2, connect};
use crate::support::{File, Running, Upstream, ok, within};

const METHODS: [&str; 9] = [
    "GET", "HEAD", "DELETE", "OPTIONS", "TRACE", "PUT", "PATCH", "POST", "REPORT",
];

/// Sends `hello` with this method in every way. Protected requests have keys of their own.
async fn send_in_every_way(sidecar: &Running, method: &str) {
    for key in ["", "Idempotency-Key: "] {
        for (at, body) in [
            "Content-Length: 5\r\n\r\nhello",
            "Transfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n",
        ]
        .into_iter()
        .enumerate()
        {
            let key = if key.is_empty() {
                String::new()
            } else {
                format!("{key}{method}{at}\r\n")
            };
            let mut client = sidecar.client().await;
            let request = format!("{method} /a HTTP/1.1\r\nHost: a\r\n{key}{body}");
            client.send(&request).await;
            assert_eq!(client.head().await.status(), 200, "{request}");
        }
        let mut client = connect(sidecar).await;
        let mut request = Request::builder()
            .method(method)
            .uri("http://a/a")
            .version(Version::HTTP_2);
        if !key.is_empty() {
            request = request.header("idempotency-key", format!("{method}2"));
        }
        let pieces =
            ["hel", "lo"].map(|piece| Ok::<_, Infallible>(Frame::data(Bytes::from(piece))));
        let body = StreamBody::new(tokio_stream::iter(pieces));
        let response = client.send_request(request.body(body).unwrap());
        assert_eq!(within(response).await.unwrap().status(), 200, "{method}");
    }
}

#[tokio::test]
async fn the_body_of_every_method_reaches_an_upstream_over_http_1() {
    let upstream = Upstream::start(|request| {
        if request.start.starts_with("HEAD") {
            crate::support::answer("200 OK", "", "")
        } else {
            ok("done")
        }
    })
    .await;
    let sidecar = File::new(upstream.address).start().await;
    for method in METHODS {
        send_in_every_way(&sidecar, method).await;
    }
    let seen = upstream.seen();
    assert_eq!(seen.len(), METHODS.len() * 6);
    for request in seen {
        assert_eq!(request.text(), "hello", "{request:?}");
        let lengths = [
            request.field("content-length"),
            request.field("transfer-encoding"),
        ];
        assert!(
            matches!(lengths, [Some("5"), None] | [None, Some("chunked")]),
            "{request:?}"
        );
    }
}

#[tokio::test]
async fn the_body_of_every_method_reaches_an_upstream_over_http_2() {
    let upstream = Http2::start().await;
    let file = File::new(upstream.address).top("upstream_http2 = true");
    let sidecar = file.start().await;
    for method in METHODS {
        send_in_every_way(&sidecar, method).await;
    }
    assert_eq!(upstream.bodies(), vec!["hello"; METHODS.len() * 6]);
}

/// A request without a body gets none, and does not wait for one.
#[tokio::test]
async fn a_request_without_a_body_has_none_at_the_upstream() {
    let upstream = Upstream::start(|_| ok("done")).await;
    let sidecar = File::new(upstream.address).start().await;
    for method in ["GET", "DELETE", "OPTIONS", "POST"] {
        let request = format!("{method} /a HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(sidecar.exchange(&request).await.status(), 200);
        let seen = upstream.last();
        assert_eq!(seen.field("transfer-encoding"), None, "{method}");
        assert!(
            matches!(seen.field("content-length"), None | Some("0")),
            "{method}"
        );
    }
}
