//! Responses on the streams of HTTP/2, and how a connection of HTTP/2 ends.

use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;
use tokio::sync::Notify;

use crate::expectations::http2;
use crate::frames::{ALL, DATA, END_HEADERS, Frame, Frames, GOAWAY, HEADERS, Outcome, fields};
use crate::support::{File, Step, Upstream, answer, ok, until, within};

fn get(path: &str) -> Request<()> {
    Request::get(format!("http://shop.example{path}"))
        .body(())
        .unwrap()
}

#[tokio::test]
async fn a_response_that_has_no_body_has_none() {
    let upstream = Upstream::start(|request| match request.target() {
        "/204" => answer("204 No Content", "", ""),
        "/304" => answer("304 Not Modified", "ETag: \"x\"\r\n", ""),
        _ => vec![Step::Write(
            "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n".to_owned(),
        )],
    })
    .await;
    let sidecar = File::new(upstream.address).start().await;
    for (method, path, status, length) in [
        (Method::HEAD, "/", 200, Some("1000")),
        (Method::HEAD, "/healthz", 200, Some("3")),
        (Method::GET, "/204", 204, None),
        (Method::GET, "/304", 304, Some("0")),
        (Method::OPTIONS, "/", 204, None),
    ] {
        let mut client = http2(&sidecar).await;
        let mut request = get(path);
        if method == Method::OPTIONS {
            request.headers_mut().insert("max-forwards", 0.into());
        }
        *request.method_mut() = method;
        let (response, _) = client.send_request(request, true).unwrap();
        let response = within(response).await.unwrap();
        assert_eq!(response.status(), status);
        let sent = response.headers().get("content-length");
        assert_eq!(sent.map(|sent| sent.to_str().unwrap()), length, "{path}");
        assert!(response.headers().contains_key("date"));
        assert!(response.into_body().is_end_stream(), "{path}");
    }
    // The same over HTTP/1.1.
    for (request, status) in [
        ("HEAD /healthz HTTP/1.1\r\nHost: a\r\n\r\n", 200),
        ("GET /204 HTTP/1.1\r\nHost: a\r\n\r\n", 204),
    ] {
        let mut client = sidecar.client().await;
        client.send(request).await;
        let head = client.head().await;
        assert_eq!(head.status(), status);
        assert!(status == 200 || head.field("content-length").is_none());
        assert!(head.field("date").is_some());
        // Nothing lies between this head and the next.
        client.send(request).await;
        assert_eq!(client.head().await.status(), status);
    }
}

/// A client that sends all of its body before it reads gets the refusal, as over HTTP/1.1.
#[tokio::test]
async fn a_refusal_is_read_by_a_client_that_is_still_sending() {
    let upstream = Upstream::start(|_| ok("done")).await;
    let sidecar = File::new(upstream.address).start().await;
    for _ in 0..10 {
        let mut client = Frames::connect(&sidecar).await;
        let head = fields(
            "POST",
            "/a",
            &[("idempotency-key", "k"), ("content-length", "3145728")],
        );
        client.send(&Frame::head(END_HEADERS, 1, &head)).await;
        // As much as the window allows.
        for _ in 0..15 {
            client.send(&Frame::new(DATA, 0, 1, [0; 16_384])).await;
        }
        let outcome = client.outcome(1).await;
        assert!(matches!(outcome, Outcome::Response(413, _)), "{outcome:?}");
        client
            .send(&Frame::head(ALL, 3, &fields("GET", "/", &[])))
            .await;
        let next = Outcome::Response(200, b"done".into());
        assert_eq!(client.outcome(3).await, next);
    }
}

#[tokio::test]
async fn a_shutdown_is_told_and_finishes_the_streams_that_run() {
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
    let mut client = Frames::connect(&sidecar).await;
    client
        .send(&Frame::head(ALL, 1, &fields("GET", "/", &[])))
        .await;
    until(async || upstream.seen().len() == 1).await;
    let ended = sidecar.stop();
    let mut seen = Vec::new();
    while let Some(frame) = client.read().await {
        seen.push(frame.kind);
        if frame.kind == GOAWAY {
            assert_eq!(frame.payload[4..8], [0; 4], "no error");
            go_on.notify_one();
        }
        if frame.kind == 6 && frame.flags == 0 {
            // h2 asks with a ping which streams the client had begun.
            client.send(&Frame::new(6, 1, 0, frame.payload)).await;
        }
    }
    assert!(seen.contains(&GOAWAY) && seen.contains(&HEADERS) && seen.contains(&DATA));
    drop(client);
    within(ended).await.unwrap();
}

#[tokio::test]
async fn a_stream_that_its_client_resets_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let sidecar = File::new(listener.local_addr().unwrap()).start().await;
    for begun in [false, true] {
        let mut client = http2(&sidecar).await;
        let (response, body) = client.send_request(get("/"), true).unwrap();
        let (mut upstream, _) = within(listener.accept()).await.unwrap();
        let mut some = [0; 1024];
        assert!(within(upstream.read(&mut some)).await.unwrap() > 0);
        if begun {
            let head = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n";
            tokio::io::AsyncWriteExt::write_all(&mut upstream, head)
                .await
                .unwrap();
            let response = within(response).await.unwrap();
            assert_eq!(response.status(), StatusCode::OK);
            drop(response);
        } else {
            drop(response);
        }
        drop(body);
        assert_eq!(within(upstream.read(&mut some)).await.unwrap_or(0), 0);
    }
}

/// The response is larger than what the client takes at a time.
#[tokio::test]
async fn a_large_response_arrives_whole() {
    let large = "0123456789".repeat(200_000);
    let upstream = {
        let large = large.clone();
        Upstream::start(move |_| ok(&large)).await
    };
    let sidecar = File::new(upstream.address).start().await;
    let mut client = http2(&sidecar).await;
    for key in [None, Some("k"), Some("l")] {
        let mut request = Request::post("http://shop.example/a").body(()).unwrap();
        if let Some(key) = key {
            request
                .headers_mut()
                .insert("idempotency-key", key.parse().unwrap());
        }
        client = client.ready().await.unwrap();
        let (response, _) = client.send_request(request, true).unwrap();
        let mut body = within(response).await.unwrap().into_body();
        let mut read = Vec::new();
        while let Some(data) = within(body.data()).await {
            let data: Bytes = data.unwrap();
            read.extend_from_slice(&data);
            body.flow_control().release_capacity(data.len()).unwrap();
        }
        assert!(read == large.as_bytes(), "{key:?}: {}", read.len());
    }
}

#[tokio::test]
async fn a_response_that_breaks_off_is_reset() {
    let upstream = Upstream::start(|_| {
        let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n";
        vec![Step::Write(head.to_owned()), Step::Close]
    })
    .await;
    let sidecar = File::new(upstream.address).start().await;
    for key in [&[][..], &[("idempotency-key", "k")]] {
        let mut client = Frames::connect(&sidecar).await;
        client
            .send(&Frame::head(ALL, 1, &fields("POST", "/a", key)))
            .await;
        assert_eq!(client.outcome(1).await, Outcome::Reset(2));
    }
}
