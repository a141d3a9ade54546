//! These clients have more connections than they may, or send nothing on them.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, sleep, timeout};

use crate::frames::{CONTINUATION, Frame, block, fields};
use crate::support::{Client, File, Running, Upstream, get, ok};

const OTHER: [u8; 4] = [127, 0, 0, 2];

async fn limited(limits: &str) -> Running {
    let upstream = Upstream::start(|_| ok("done")).await;
    let file = File::new(upstream.address).top("metrics = '127.0.0.1:0'");
    let file = file.top(&format!("limits = {{ {limits} }}"));
    file.start().await
}

/// Opens connections until the sidecar closes one. Returns those that are open.
async fn as_many_as_may_be(address: SocketAddr) -> Vec<Client> {
    let mut open = Vec::new();
    loop {
        let mut client = Client::connect(address).await;
        let closed = timeout(Duration::from_millis(200), client.is_closed()).await;
        if closed.is_ok() {
            return open;
        }
        open.push(client);
    }
}

async fn is_served(mut client: Client, path: &str) -> bool {
    client.send(&get(path)).await;
    client.answer().await.status() == 200
}

#[tokio::test]
async fn a_peer_has_its_share_of_the_connections_and_others_have_room() {
    let sidecar = limited("max_connections = 16").await;
    let open = as_many_as_may_be(sidecar.address).await;
    assert_eq!(open.len(), 14);
    let other = Client::connect_from(OTHER, sidecar.address).await;
    assert!(is_served(other, "/").await);
    assert_eq!(sidecar.refusals("max_connections_per_peer").await, 1);
    // What ends makes room.
    drop(open);
    crate::support::until(async || {
        let mut client = sidecar.client().await;
        client.send(&get("/")).await;
        client.try_answer().await.is_some()
    })
    .await;
}

#[tokio::test]
async fn the_share_of_a_peer_can_be_a_number() {
    let limits = "max_connections = 16, max_connections_per_peer = 3";
    let sidecar = limited(limits).await;
    assert_eq!(as_many_as_may_be(sidecar.address).await.len(), 3);
}

#[tokio::test]
async fn what_is_beyond_all_connections_waits_in_the_queue_of_the_system() {
    let sidecar = limited("max_connections = 2, max_connections_per_peer = 2").await;
    let first = sidecar.client().await;
    let _second = sidecar.client().await;
    let mut third = Client::connect_from(OTHER, sidecar.address).await;
    third.send(&get("/")).await;
    let answered = timeout(Duration::from_millis(200), third.answer()).await;
    assert!(answered.is_err());
    drop(first);
    assert_eq!(third.answer().await.status(), 200);
    assert!(sidecar.refusals("max_connections").await > 0);
}

#[tokio::test]
async fn connections_for_metrics_have_a_limit_of_their_own() {
    let sidecar = limited("max_metrics_connections = 8").await;
    let metrics = sidecar.metrics.unwrap();
    let open = as_many_as_may_be(metrics).await;
    assert_eq!(open.len(), 7);
    let other = Client::connect_from(OTHER, metrics).await;
    assert!(is_served(other, "/healthz").await);
    assert!(is_served(sidecar.client().await, "/").await);
}

/// Returns after how long the sidecar closes a connection on which a part comes again and again. The
/// paused clock moves on when no task can run.
async fn closed_after(address: SocketAddr, begin: &[u8], part: &[u8]) -> Duration {
    let (mut read, mut write) = Client::connect(address).await.0.into_inner().into_split();
    write.write_all(begin).await.unwrap();
    let part = part.to_vec();
    let drips = tokio::spawn(async move {
        loop {
            sleep(Duration::from_secs(1)).await;
            if write.write_all(&part).await.is_err() {
                return;
            }
        }
    });
    let begun = Instant::now();
    let mut some = [0; 1024];
    while read.read(&mut some).await.is_ok_and(|length| length > 0) {}
    drips.abort();
    begun.elapsed()
}

#[tokio::test(start_paused = true)]
async fn a_head_that_never_ends_is_not_waited_for_on_any_listener() {
    let sidecar = limited("head_timeout = '10s'").await;
    let http2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
    let head = Frame::head(0, 1, &fields("GET", "/", &[])).bytes();
    let more = Frame::new(CONTINUATION, 0, 1, block(&[("x", "a")])).bytes();
    let ping = Frame::new(crate::frames::PING, 0, 0, [0; 8]).bytes();
    for (begin, part) in [
        (b"GET / HTTP/1.1\r\n".to_vec(), b"X: y\r\n".to_vec()),
        (Vec::new(), b"\r\n".to_vec()),
        (http2.clone(), ping),
        ([http2, head].concat(), more),
    ] {
        for address in [sidecar.address, sidecar.metrics.unwrap()] {
            let after = closed_after(address, &begin, &part).await;
            let (least, most) = (Duration::from_secs(9), Duration::from_secs(13));
            assert!(after > least && after < most, "{begin:?}: {after:?}");
        }
    }
    assert_eq!(sidecar.refusals("head_timeout").await, 8);
}

/// The time of a head counts from its first byte, not from the end of the last request.
#[tokio::test(start_paused = true)]
async fn a_later_head_has_its_time_after_a_long_rest() {
    let sidecar = limited("head_timeout = '10s', keep_alive = '20s'").await;
    let mut client = sidecar.client().await;
    // Otherwise the system keeps a second part back for some real time.
    client.0.get_ref().set_nodelay(true).unwrap();
    client.send(&get("/")).await;
    assert_eq!(client.answer().await.status(), 200);
    sleep(Duration::from_secs(15)).await;
    client.send("GET / HTTP/1.1\r\n").await;
    sleep(Duration::from_secs(8)).await;
    client.send("Host: a\r\n\r\n").await;
    assert_eq!(client.answer().await.status(), 200);
    client.send("GET / HTTP/1.1\r\n").await;
    let begun = Instant::now();
    assert!(client.is_closed().await);
    assert_eq!(begun.elapsed().as_secs(), 10);
}
