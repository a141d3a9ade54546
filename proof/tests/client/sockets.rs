//! These tests check how the layer classifies the errors of real HTTP clients.

use std::net::Ipv4Addr;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tower::{Layer, ServiceExt, service_fn};
use tower_idempotency::client::{ClientLayer, Error, ErrorKind, FullJitter};

fn layer() -> ClientLayer {
    let layer = ClientLayer::builder()
        .backoff(FullJitter::new(Duration::ZERO, Duration::ZERO))
        .attempts(3)
        .attempt_timeout(Duration::from_secs(20));
    layer.build().unwrap()
}

async fn with_hyper(url: &str, http2: bool) -> Error {
    let http = Client::builder(TokioExecutor::new())
        .http2_only(http2)
        .build_http();
    let client = layer().layer(http);
    let request = Request::post(url).body(Full::new(Bytes::from("an order")));
    client.oneshot(request.unwrap()).await.unwrap_err()
}

async fn with_reqwest(url: &str) -> Error {
    let http = service_fn(async |request: Request<Bytes>| {
        let answered = reqwest::Client::new().execute(request.try_into()?).await?;
        Ok::<Response<reqwest::Body>, reqwest::Error>(answered.into())
    });
    let client = layer().layer(http);
    let request = Request::post(url).body(Bytes::from("an order"));
    client.oneshot(request.unwrap()).await.unwrap_err()
}

/// Returns how many attempts each of the two clients makes.
async fn tries(url: &str, kind: ErrorKind) -> [usize; 2] {
    let errors = [with_hyper(url, false).await, with_reqwest(url).await];
    errors.map(|error| {
        assert_eq!(error.kind(), kind, "{error}");
        error.attempts().len()
    })
}

/// Starts a server that reads a request, writes these bytes, and closes the
/// connection.
async fn that_says(answer: &'static [u8]) -> String {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let url = format!("http://{}/orders", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let mut request = Vec::new();
            while let Ok(1..) = socket.read_buf(&mut request).await {
                if request.ends_with(b"an order") {
                    break;
                }
            }
            socket.write_all(answer).await.ok();
        }
    });
    url
}

#[tokio::test]
async fn what_another_attempt_may_mend_is_tried_again() {
    let closed = {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        format!("http://{}/", listener.local_addr().unwrap())
    };
    for url in [
        closed,
        that_says(b"").await,
        that_says(b"HTTP/1.1 200 O").await,
        that_says(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf").await,
        that_says(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n").await,
    ] {
        assert_eq!(tries(&url, ErrorKind::OutOfAttempts).await, [3, 3], "{url}");
    }
}

#[tokio::test]
async fn what_no_attempt_can_mend_is_tried_once() {
    let garbage = that_says(b"SSH-2.0-OpenSSH_9.6\r\n\r\n\r\n").await;
    assert_eq!(tries(&garbage, ErrorKind::Failed).await, [1, 1]);
    // This URL has no host.
    assert_eq!(tries("/orders", ErrorKind::Failed).await, [1, 1]);
    // Neither client supports this scheme.
    assert_eq!(
        tries("gopher://127.0.0.1/", ErrorKind::Failed).await,
        [1, 1]
    );
}

#[tokio::test]
async fn so_it_is_in_http_2() {
    let goaway = b"\0\0\0\x04\0\0\0\0\0\0\0\x08\x07\0\0\0\0\0\0\0\0\0\0\0\x0b";
    for answer in [&b""[..], goaway] {
        let error = with_hyper(&that_says(answer).await, true).await;
        assert_eq!(error.kind(), ErrorKind::OutOfAttempts, "{error}");
        assert_eq!(error.attempts().len(), 3);
    }
}
