//! These tests call tonic's server as a client whose own timer is late: what it gets at
//! its deadline comes from the server.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tonic::transport::Server;
use tower_idempotency::MemoryStore;

use crate::client::{Client, is_replay, order, soon};
use crate::shop::{Note, Shop, Stack, serve_with};
use crate::support::{API_KEY, Gate, Runs, protected};

/// Calls `method` with a deadline of 300 ms, and returns the response's headers and
/// trailers.
async fn call(client: &Client, method: &str) -> (HeaderMap, HeaderMap) {
    let stream = TcpStream::connect(client.address).await.unwrap();
    let handshake = http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
    let (mut sender, connection) = handshake.await.unwrap();
    tokio::spawn(connection);
    let message = prost::Message::encode_to_vec(&Note::new("one book"));
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    let framed = [&[0], &length[..], &message[..]].concat();
    let request = Request::post(format!("http://{}/shop.Shop/{method}", client.address))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("grpc-timeout", "300m")
        .header("idempotency-key", "k")
        .header(API_KEY, "alice")
        .body(Full::new(Bytes::from(framed)))
        .unwrap();
    let response = soon(sender.send_request(request)).await.unwrap();
    let (head, body) = response.into_parts();
    let body = soon(body.collect()).await.unwrap();
    (head.headers, body.trailers().cloned().unwrap_or_default())
}

#[tokio::test]
async fn a_call_is_told_of_its_deadline_by_the_layer_and_goes_on_in_both_stacks() {
    for stack in Stack::ALL {
        let (runs, gate) = (Runs::default(), Gate::closed());
        let shop = Shop::new(&runs).behind(&gate);
        let client = stack.serve(protected(&MemoryStore::new()), shop).await;
        let (headers, _) = call(&client, "Pay").await;
        assert_eq!(headers["grpc-status"], "4", "{stack:?}");
        let (headers, _) = call(&client, "Pay").await;
        assert_eq!(headers["idempotency-code"], "in-flight", "{stack:?}");
        gate.open();
        let retry = client.pay_in_the_end(|| order("k")).await.unwrap();
        assert_eq!(retry.get_ref(), &Note::new("run 1"));
        assert!(is_replay(retry.metadata()));
        assert_eq!(runs.count(), 1);
    }
}

#[tokio::test]
async fn a_stream_of_messages_ends_at_the_deadline_and_is_recorded_whole() {
    let (runs, gate) = (Runs::default(), Gate::closed());
    let two = |_| Ok(["one", "two"].map(|text| Ok(Note::new(text))).into());
    let shop = Shop::answering(&runs, two).behind(&gate);
    let client = serve_with(Server::builder(), protected(&MemoryStore::new()), shop).await;
    let (headers, trailers) = call(&client, "List").await;
    assert!(!headers.contains_key("grpc-status"), "{headers:?}");
    assert_eq!(trailers["grpc-status"], "4");
    gate.open();
    let retry = loop {
        let listed = client.list(order("k")).await;
        if listed.metadata.is_some() {
            break listed;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    };
    assert_eq!(retry.messages, ["one", "two"].map(Note::new));
    assert!(is_replay(&retry.metadata.unwrap()));
    assert_eq!(runs.count(), 1);
}
