//! These clients do not read what the sidecar sends.

use crate::frames::{ALL, Frame, Frames, Outcome, SETTINGS, WINDOW_UPDATE, fields};
use crate::support::{Client, File, Running, Step, Upstream, get, ok, post, until};

const CANCEL: u32 = 8;
/// More than the buffers of the systems on the way hold.
const LARGE: usize = 64 << 20;

async fn impatient(upstream: &Upstream) -> Running {
    let file = File::new(upstream.address).top("limits.client_timeout = '300ms'");
    file.top("metrics = '127.0.0.1:0'").start().await
}

/// Begins a response without an end.
fn endless() -> Vec<Step> {
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {LARGE}\r\n\r\n");
    let part = "x".repeat(1 << 20);
    let parts = vec![Step::Write(part); LARGE >> 20];
    [vec![Step::Write(head)], parts].concat()
}

#[tokio::test]
async fn a_connection_whose_client_reads_nothing_is_closed() {
    let upstream = Upstream::start(|_| endless()).await;
    let sidecar = impatient(&upstream).await;
    let mut client = sidecar.client().await;
    client.send(&get("/")).await;
    until(async || sidecar.refusals("client_timeout").await == 1).await;
    until(async || sidecar.number("idempotency_sidecar_connections").await == 0).await;
    assert_eq!(
        sidecar
            .number("idempotency_sidecar_requests_in_flight")
            .await,
        0
    );
}

#[tokio::test]
async fn a_client_that_reads_with_pauses_gets_everything() {
    let upstream = Upstream::start(|_| endless()).await;
    let sidecar = impatient(&upstream).await;
    let mut client = sidecar.client().await;
    client.send(&get("/")).await;
    client.head().await;
    let mut read = 0;
    let mut some = vec![0; 8 << 20];
    while read < LARGE {
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        let most = some.len().min(LARGE - read);
        tokio::io::AsyncReadExt::read_exact(&mut client.0, &mut some[..most])
            .await
            .unwrap();
        read += most;
    }
}

/// Asks for a path over HTTP/2 with a window of this size for each response.
async fn asked(sidecar: &Running, window: [u8; 4], path: &str, key: Option<&str>) -> Frames {
    let mut client = Frames::connect(sidecar).await;
    let [a, b, c, d] = window;
    client
        .send(&Frame::new(SETTINGS, 0, 0, [0, 4, a, b, c, d]))
        .await;
    let method = if key.is_some() { "POST" } else { "GET" };
    let key = key.map(|key| ("idempotency-key", key));
    let head = fields(method, path, key.as_slice());
    client.send(&Frame::head(ALL, 1, &head)).await;
    client
}

#[tokio::test]
async fn a_stream_whose_window_stays_shut_is_reset_and_the_connection_stays() {
    let upstream = Upstream::start(|_| ok(&"x".repeat(100_000))).await;
    let sidecar = impatient(&upstream).await;
    for window in [[0; 4], [0, 0, 0xff, 0xff]] {
        let mut client = asked(&sidecar, window, "/", None).await;
        assert_eq!(client.outcome(1).await, Outcome::Reset(CANCEL));
        let head = fields("HEAD", "/healthz", &[]);
        client.send(&Frame::head(ALL, 3, &head)).await;
        assert_eq!(client.outcome(3).await, Outcome::Response(200, Vec::new()));
    }
    assert_eq!(sidecar.refusals("client_timeout").await, 2);
}

/// A replay is in memory as one piece, which h2 would take whole as soon as there is room for a byte.
#[tokio::test]
async fn a_replay_that_nobody_reads_is_reset_and_stays_recorded() {
    let body = "x".repeat(200_000);
    let sent = body.clone();
    let upstream = Upstream::start(move |_| ok(&sent)).await;
    let sidecar = impatient(&upstream).await;
    let first = sidecar.exchange(&post("/a", "k", "")).await;
    assert_eq!(first.text(), body);
    let window = [0, 0, 0, 1];
    let mut client = asked(&sidecar, window, "/a", Some("k")).await;
    assert_eq!(client.outcome(1).await, Outcome::Reset(CANCEL));
    let mut client = Client::connect(sidecar.address).await;
    client.send(&post("/a", "k", "")).await;
    let again = client.answer().await;
    assert_eq!(again.field("idempotency-replayed"), Some("true"));
    assert_eq!(again.text(), body);
    assert_eq!(upstream.seen().len(), 1);
}

#[tokio::test]
async fn a_stream_whose_window_opens_step_by_step_is_sent_whole() {
    let upstream = Upstream::start(|_| ok(&"x".repeat(100))).await;
    let sidecar = impatient(&upstream).await;
    let mut client = asked(&sidecar, [0, 0, 0, 10], "/", None).await;
    for _ in 0..9 {
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        client
            .send(&Frame::new(WINDOW_UPDATE, 0, 1, [0, 0, 0, 10]))
            .await;
    }
    let outcome = client.outcome(1).await;
    assert_eq!(outcome, Outcome::Response(200, vec![b'x'; 100]));
}
