//! HTTP/2: each frame of a server whose layer observes is a frame of a server without a layer.

use std::net::SocketAddr;

use crate::served::{Client, Http, observing, serve};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags];
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// A field that enters no table (RFC 7541, 6.2.2).
fn field(name: &str, value: &str) -> Vec<u8> {
    let mut field = vec![0];
    for text in [name, value] {
        field.push(u8::try_from(text.len()).unwrap());
        field.extend(text.as_bytes());
    }
    field
}

fn head(path: &str, key: &str) -> Vec<u8> {
    let fields = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "a"),
        ("x-api-key", "alice"),
        ("idempotency-key", key),
        ("te", "trailers"),
    ];
    fields
        .iter()
        .flat_map(|(name, value)| field(name, value))
        .collect()
}

/// Reads until the stream has ended, and returns its frames.
async fn stream(client: &mut Client, stream: u32, until: impl Fn(u8, u8, usize) -> bool) {
    let mut at = 0;
    let mut seen = 0;
    loop {
        while client.read.len() < at + 9 {
            assert!(client.more().await, "the connection ended");
        }
        let head = &client.read[at..at + 9];
        let length = usize::from(head[1]) << 8 | usize::from(head[2]);
        let (kind, flags) = (head[3], head[4]);
        let own = u32::from_be_bytes(head[5..9].try_into().unwrap()) == stream;
        while client.read.len() < at + 9 + length {
            assert!(client.more().await, "the connection ended");
        }
        at += 9 + length;
        if own {
            seen += 1;
            if until(kind, flags, seen) {
                return;
            }
        }
    }
}

/// The frames of a connection on which one request after another is sent.
async fn frames(address: SocketAddr, requests: &[(&str, &str, &[&str])]) -> Vec<u8> {
    let mut client = Client::connect(address).await;
    client.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
    client.write(&frame(SETTINGS, 0, 0, &[])).await;
    // The settings of the server, and its acknowledgement.
    stream(&mut client, 0, |kind, flags, _| {
        kind == SETTINGS && flags == 1
    })
    .await;
    client.write(&frame(SETTINGS, 1, 0, &[])).await;
    for (at, (path, key, chunks)) in requests.iter().enumerate() {
        let id = u32::try_from(at * 2 + 1).unwrap();
        let ends = if chunks.is_empty() { END_STREAM } else { 0 };
        client
            .write(&frame(HEADERS, END_HEADERS | ends, id, &head(path, key)))
            .await;
        for (sent, chunk) in chunks.iter().enumerate() {
            let is_last = sent + 1 == chunks.len();
            let ends = if is_last { END_STREAM } else { 0 };
            client.write(&frame(DATA, ends, id, chunk.as_bytes())).await;
            if !is_last {
                // The handler has got this chunk, and its echo has come, before the next is sent.
                let echoed = sent + 2;
                stream(&mut client, id, |_, _, seen| seen == echoed).await;
            }
        }
        let is_over = |kind, flags, _| {
            kind == RST_STREAM || matches!(kind, DATA | HEADERS) && flags & END_STREAM != 0
        };
        stream(&mut client, id, is_over).await;
    }
    client.read
}

#[tokio::test]
async fn every_frame_is_that_of_a_server_without_a_layer() {
    let requests: &[(&str, &str, &[&str])] = &[
        ("/echo", "k", &["paid"]),
        ("/echo", "k", &["paid"]),
        ("/echo", "k", &["other"]),
        ("/echo", "", &["a"]),
        ("/required", "\"no key", &["a"]),
        ("/echo", "chunks", &["one", "two", "three"]),
        ("/trailers", "t", &["a"]),
        ("/echo", "n", &[]),
        ("/none", "n2", &["a"]),
        ("/fails", "f", &["a"]),
        ("/error", "f", &["a"]),
        ("/broken", "f2", &["a"]),
        ("/ignore", "i", &[]),
        ("/echo", "k", &["paid"]),
    ];
    let layer = observing(|options| options);
    let (plain, of_plain) = serve(None, Http::Two).await;
    let (observed, of_observed) = serve(Some(layer), Http::Two).await;
    let expected = frames(plain, requests).await;
    assert!(expected.len() > 400, "{}", expected.len());
    assert_eq!(frames(observed, requests).await, expected);
    let events = of_plain.all();
    assert_eq!(of_observed.reach(events.len()).await, events);
}
