//! Upstreams with HTTP/2 that refuse streams without processing them (RFC 9113, sections 6.8 and
//! 8.7).

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::support::{File, Running, get, post, within};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const ACK: u8 = 1;
const NO_ERROR: u8 = 0;
const REFUSED_STREAM: u8 = 7;
const CANCEL: u8 = 8;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend_from_slice(&[kind, flags]);
    frame.extend_from_slice(&stream.to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

/// The head of a response with 200 and without a length, and a part of its body.
fn part(stream: u32) -> Vec<u8> {
    let head = frame(HEADERS, END_HEADERS, stream, &[0x88]);
    [head, frame(DATA, 0, stream, b"{\"paid\":1")].concat()
}

/// What an upstream does with the request of this number on a connection, counted from 0.
#[derive(Clone, Copy)]
enum Reaction {
    Respond,
    Refuse,
    /// Responds, and says that it processes no later stream.
    RespondAndLeave,
    /// Says that it processes neither this nor a later stream.
    Leave,
    /// Sends a part of a response that announces no length, and resets the stream with this code.
    Cut(u8),
    /// Responds with trailers, and resets the stream with `NO_ERROR`, as a server does that needs no
    /// more of the request (RFC 9113, section 8.1).
    RespondAndReset,
    /// Says that it processes this stream and no later one, and closes the connection.
    Break,
}

struct Upstream {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
    executed: Arc<AtomicUsize>,
}

impl Upstream {
    async fn start(
        react: impl Fn(usize, usize) -> Reaction + Clone + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let upstream = Self {
            address: listener.local_addr().unwrap(),
            connections: Arc::default(),
            executed: Arc::default(),
        };
        let connections = Arc::clone(&upstream.connections);
        let executed = Arc::clone(&upstream.executed);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let number = connections.fetch_add(1, Ordering::SeqCst);
                let (react, executed) = (react.clone(), Arc::clone(&executed));
                tokio::spawn(async move {
                    let _ = serve(stream, executed, |request| react(number, request)).await;
                });
            }
        });
        upstream
    }

    async fn sidecar(&self) -> Running {
        let file = File::new(self.address).top("upstream_http2 = true");
        file.top("connect_timeout = '2s'").start().await
    }
}

async fn serve(
    mut stream: TcpStream,
    executed: Arc<AtomicUsize>,
    react: impl Fn(usize) -> Reaction + Sync,
) -> std::io::Result<()> {
    stream.read_exact(&mut [0; 24]).await?;
    stream.write_all(&frame(SETTINGS, 0, 0, b"")).await?;
    let (mut requests, mut last) = (0, u32::MAX);
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).await?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; length as usize];
        stream.read_exact(&mut payload).await?;
        let (kind, flags) = (head[3], head[4]);
        let id = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        let has_ended = flags & END_STREAM != 0;
        match kind {
            SETTINGS if flags & ACK == 0 => {
                stream.write_all(&frame(SETTINGS, ACK, 0, b"")).await?;
            }
            PING if flags & ACK == 0 => {
                stream.write_all(&frame(PING, ACK, 0, &payload)).await?;
            }
            HEADERS | DATA | CONTINUATION if has_ended && id <= last => {
                let reaction = react(requests);
                requests += 1;
                let processed = match reaction {
                    Reaction::Leave => id - 1,
                    _ => id,
                };
                if matches!(reaction, Reaction::Respond | Reaction::RespondAndLeave) {
                    executed.fetch_add(1, Ordering::SeqCst);
                    // `:status: 200` of the static table.
                    let done = frame(HEADERS, END_HEADERS | END_STREAM, id, &[0x88]);
                    stream.write_all(&done).await?;
                }
                match reaction {
                    Reaction::Respond => {}
                    Reaction::Cut(code) => {
                        stream.write_all(&part(id)).await?;
                        let code = [0, 0, 0, code];
                        stream.write_all(&frame(RST_STREAM, 0, id, &code)).await?;
                    }
                    Reaction::RespondAndReset => {
                        // `x: 1`, a literal without indexing.
                        let trailers = [0, 1, b'x', 1, b'1'];
                        let end = frame(HEADERS, END_HEADERS | END_STREAM, id, &trailers);
                        let reset = frame(RST_STREAM, 0, id, &[0; 4]);
                        stream.write_all(&[part(id), end, reset].concat()).await?;
                    }
                    Reaction::Refuse => {
                        let code = [0, 0, 0, REFUSED_STREAM];
                        stream.write_all(&frame(RST_STREAM, 0, id, &code)).await?;
                    }
                    Reaction::RespondAndLeave | Reaction::Leave | Reaction::Break => {
                        last = processed;
                        let code = [0; 4];
                        let payload = [processed.to_be_bytes(), code].concat();
                        stream.write_all(&frame(GOAWAY, 0, 0, &payload)).await?;
                    }
                }
                if matches!(reaction, Reaction::Break) {
                    return Ok(());
                }
            }
            _ => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_an_upstream_did_not_process_before_it_left_are_sent_again() {
    let upstream = Upstream::start(|_, request| match request {
        9 => Reaction::RespondAndLeave,
        _ => Reaction::Respond,
    })
    .await;
    let sidecar = Arc::new(upstream.sidecar().await);
    let asked = (0..160).map(|key| {
        let sidecar = Arc::clone(&sidecar);
        tokio::spawn(async move {
            let request = post("/charges", &key.to_string(), "{}");
            sidecar.exchange(&request).await.status()
        })
    });
    for answer in asked.collect::<Vec<_>>() {
        assert_eq!(within(answer).await.unwrap(), 200);
    }
    assert_eq!(upstream.executed.load(Ordering::SeqCst), 160);
    // Streams that began before the tenth are processed after it.
    assert!(upstream.connections.load(Ordering::SeqCst) >= 5);
}

#[tokio::test]
async fn a_refused_request_goes_to_another_connection() {
    for refusal in [Reaction::Refuse, Reaction::Leave] {
        let upstream = Upstream::start(move |connection, _| match connection {
            0 | 1 => refusal,
            _ => Reaction::Respond,
        })
        .await;
        let sidecar = upstream.sidecar().await;
        for key in ["1", "2"] {
            // A body that is not protected is sent again from what the sidecar has kept of it.
            for key in [format!("Idempotency-Key: {key}\r\n"), String::new()] {
                let request = format!(
                    "POST /a HTTP/1.1\r\nHost: a\r\n{key}Transfer-Encoding: chunked\r\n\r\n\
                     5\r\nhello\r\n0\r\n\r\n"
                );
                assert_eq!(sidecar.exchange(&request).await.status(), 200);
            }
        }
        assert_eq!(upstream.executed.load(Ordering::SeqCst), 4);
        assert_eq!(upstream.connections.load(Ordering::SeqCst), 3);
    }
}

#[tokio::test]
async fn a_request_that_every_connection_refuses_is_not_executed_and_its_key_is_free() {
    let refuses = Arc::new(AtomicUsize::new(1));
    let upstream = {
        let refuses = Arc::clone(&refuses);
        Upstream::start(move |_, _| match refuses.load(Ordering::SeqCst) {
            1 => Reaction::Refuse,
            _ => Reaction::Respond,
        })
        .await
    };
    let sidecar = upstream.sidecar().await;
    let refused = sidecar.exchange(&post("/charges", "k", "{}")).await;
    assert_eq!(
        (refused.status(), refused.code().as_str()),
        (502, "upstream-unreachable")
    );
    refuses.store(0, Ordering::SeqCst);
    let again = sidecar.exchange(&post("/charges", "k", "{}")).await;
    assert_eq!(again.status(), 200);
    assert_eq!(upstream.executed.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_request_that_may_have_been_processed_is_not_sent_again() {
    let upstream = Upstream::start(|_, _| Reaction::Break).await;
    let sidecar = upstream.sidecar().await;
    let broken = sidecar.exchange(&post("/charges", "k", "{}")).await;
    assert_eq!(broken.code(), "upstream-broken");
    let again = sidecar.exchange(&post("/charges", "k", "{}")).await;
    assert_eq!(again.code(), "in-flight");
    assert_eq!(upstream.connections.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_response_that_is_reset_within_its_body_is_never_taken_for_whole() {
    for code in [NO_ERROR, CANCEL] {
        let upstream = Upstream::start(move |_, _| Reaction::Cut(code)).await;
        let sidecar = upstream.sidecar().await;
        for request in [post("/charges", "k", "{}"), get("/charges")] {
            let mut client = sidecar.client().await;
            client.send(&request).await;
            assert!(
                client.try_answer().await.is_none(),
                "code {code}: {request}"
            );
        }
        let again = sidecar.exchange(&post("/charges", "k", "{}")).await;
        assert_eq!(again.code(), "response-unavailable", "code {code}");
    }
}

#[tokio::test]
async fn a_whole_response_before_a_reset_is_recorded() {
    let upstream = Upstream::start(|_, _| Reaction::RespondAndReset).await;
    let sidecar = upstream.sidecar().await;
    for replayed in [None, Some("true")] {
        let response = sidecar.exchange(&post("/charges", "k", "{}")).await;
        assert_eq!(response.text(), "{\"paid\":1");
        assert_eq!(response.field("idempotency-replayed"), replayed);
    }
}
