//! Clients that wait with their body until they are told to go on: `Expect: 100-continue`
//! (RFC 9110, 10.1.1).

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use http::{Request, Response, StatusCode};
use tokio::net::TcpStream;

use crate::support::{Client, File, Message, Running, Upstream, ok, within};

pub(crate) async fn http2(sidecar: &Running) -> SendRequest<Bytes> {
    let stream = TcpStream::connect(sidecar.address).await.unwrap();
    let (client, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    client.ready().await.unwrap()
}

fn request(length: usize, key: Option<&str>) -> Request<()> {
    let mut request = Request::post("http://shop.example/a")
        .header("expect", "100-Continue")
        .header("content-length", length);
    if let Some(key) = key {
        request = request.header("idempotency-key", key);
    }
    request.body(()).unwrap()
}

async fn informational(response: &mut ResponseFuture) -> Option<Response<()>> {
    let next = std::future::poll_fn(|cx| response.poll_informational(cx));
    within(next).await.transpose().unwrap()
}

async fn serving() -> (Upstream, Running) {
    let upstream = Upstream::start(|_| ok("done")).await;
    let file = File::new(upstream.address).idempotency("max_request_body = 100");
    let sidecar = file.start().await;
    (upstream, sidecar)
}

#[tokio::test]
async fn over_http_2_a_client_that_waits_is_told_to_go_on() {
    let (upstream, sidecar) = serving().await;
    for key in [None, Some("k")] {
        let mut client = http2(&sidecar).await;
        let (mut response, mut body) = client.send_request(request(5, key), false).unwrap();
        let go_on = informational(&mut response).await.expect("a 100");
        assert_eq!(go_on.status(), StatusCode::CONTINUE);
        body.send_data(Bytes::from("hello"), true).unwrap();
        assert_eq!(within(response).await.unwrap().status(), 200);
        assert_eq!(upstream.last().text(), "hello");
    }
    assert_eq!(upstream.seen().len(), 2);
    // Whoever does not wait is served as well.
    let mut client = http2(&sidecar).await;
    let (response, mut body) = client.send_request(request(5, Some("l")), false).unwrap();
    body.send_data(Bytes::from("hello"), true).unwrap();
    assert_eq!(within(response).await.unwrap().status(), 200);
}

#[tokio::test]
async fn over_http_2_a_refusal_comes_instead_of_the_word_to_go_on() {
    let (upstream, sidecar) = serving().await;
    for (request, status) in [
        (request(101, Some("k")), StatusCode::PAYLOAD_TOO_LARGE),
        (request(5, Some("")), StatusCode::BAD_REQUEST),
    ] {
        let mut client = http2(&sidecar).await;
        let (mut response, _body) = client.send_request(request, false).unwrap();
        assert!(informational(&mut response).await.is_none());
        assert_eq!(within(response).await.unwrap().status(), status);
    }
    assert!(upstream.seen().is_empty());
}

#[tokio::test]
async fn over_http_2_nobody_is_told_to_send_a_body_who_has_none() {
    let (upstream, sidecar) = serving().await;
    let mut client = http2(&sidecar).await;
    let (mut response, _) = client.send_request(request(0, Some("k")), true).unwrap();
    assert!(informational(&mut response).await.is_none());
    assert_eq!(within(response).await.unwrap().status(), 200);
    assert_eq!(upstream.seen().len(), 1);
}

async fn head(client: &mut Client, version: &str, length: usize, key: &str) -> Message {
    let head = format!(
        "POST /a HTTP/{version}\r\nHost: a\r\n{key}Expect: 100-continue\r\n\
         Content-Length: {length}\r\n\r\n"
    );
    client.send(&head).await;
    client.head().await
}

#[tokio::test]
async fn over_http_1_1_it_is_the_same_and_http_1_0_knows_no_expectation() {
    let (upstream, sidecar) = serving().await;
    for key in ["", "Idempotency-Key: k\r\n"] {
        let mut client = sidecar.client().await;
        assert_eq!(head(&mut client, "1.1", 5, key).await.status(), 100);
        client.send("hello").await;
        assert_eq!(client.answer().await.status(), 200);
        assert_eq!(upstream.last().text(), "hello");
    }
    for (length, key, status) in [
        (101, "Idempotency-Key: k\r\n", 413),
        (5, "Idempotency-Key:\r\n", 400),
        (0, "Idempotency-Key: l\r\n", 200),
    ] {
        let mut client = sidecar.client().await;
        assert_eq!(head(&mut client, "1.1", length, key).await.status(), status);
    }
    let mut client = sidecar.client().await;
    client
        .send("POST /a HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\nhello")
        .await;
    assert_eq!(client.head().await.status(), 200);
}
