//! Connections that are kept open, and servers that close them without a word.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

use crate::support::{File, Step, Upstream, answer, get, ok, post};

/// Reads a head. Returns `false` if there is none.
async fn has_head(stream: &mut BufReader<TcpStream>) -> bool {
    let mut line = String::new();
    while stream
        .read_line(&mut line)
        .await
        .is_ok_and(|length| length > 0)
    {
        if line == "\r\n" {
            return true;
        }
        line.clear();
    }
    false
}

/// Starts a server that responds to the first request of each connection. It reads a second one, and
/// closes the connection. Returns how many requests it has read.
async fn once_for_each_connection() -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let read = Arc::<AtomicUsize>::default();
    let counted = Arc::clone(&read);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let counted = Arc::clone(&counted);
            tokio::spawn(async move {
                let mut stream = BufReader::new(stream);
                for is_first in [true, false] {
                    if !has_head(&mut stream).await {
                        return;
                    }
                    counted.fetch_add(1, Ordering::SeqCst);
                    if is_first {
                        let done = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone";
                        stream.write_all(done).await.unwrap();
                    }
                }
            });
        }
    });
    (address, read)
}

#[tokio::test]
async fn an_authorizer_that_closes_a_kept_connection_is_asked_once_more() {
    let upstream = Upstream::start(|_| ok("done")).await;
    let (authorizer, asked) = once_for_each_connection().await;
    let file = File::new(upstream.address).top(&format!("authorize = 'http://{authorizer}'"));
    let sidecar = file.start().await;
    for key in 0..50 {
        let got = sidecar
            .exchange(&post("/charges", &key.to_string(), "{}"))
            .await;
        assert_eq!((got.status(), got.text()), (200, "done"), "{key}");
    }
    assert_eq!(upstream.seen().len(), 50);
    // Some connections were used again, so the test has tried what it says.
    assert!(asked.load(Ordering::SeqCst) > 50);
}

#[tokio::test]
async fn a_safe_request_that_found_a_kept_connection_closed_is_sent_once_more() {
    let (upstream, read) = once_for_each_connection().await;
    let sidecar = File::new(upstream).start().await;
    for method in ["GET", "HEAD", "OPTIONS"] {
        for _ in 0..20 {
            let mut client = sidecar.client().await;
            client.send(&get("/").replace("GET", method)).await;
            assert_eq!(client.head().await.status(), 200, "{method}");
        }
    }
    assert!(read.load(Ordering::SeqCst) > 60);
}

#[tokio::test]
async fn no_other_request_is_sent_once_more() {
    let (upstream, read) = once_for_each_connection().await;
    let sidecar = File::new(upstream).start().await;
    let mut broken = 0;
    for at in 0..50 {
        let method = ["POST", "PUT", "DELETE", "PATCH"][at % 4];
        let request = format!("{method} / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n");
        broken += usize::from(sidecar.exchange(&request).await.status() == 502);
        assert_eq!(read.load(Ordering::SeqCst), at + 1, "{method}");
    }
    assert!(broken > 0, "no connection was used again");
}

#[tokio::test]
async fn a_safe_request_that_a_new_connection_fails_is_not_sent_again() {
    let upstream = Upstream::start(|_| vec![Step::Close]).await;
    let sidecar = File::new(upstream.address).start().await;
    assert_eq!(sidecar.exchange(&get("/")).await.code(), "upstream-broken");
    assert_eq!(upstream.seen().len(), 1);
}

/// The connection closes while the sidecar may use it for the next request.
#[tokio::test]
async fn without_kept_connections_no_request_meets_one_that_closes() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut stream = BufReader::new(stream);
                assert!(has_head(&mut stream).await);
                let done = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone";
                stream.write_all(done).await.unwrap();
                tokio::time::sleep(Duration::from_millis(1)).await;
            });
        }
    });
    let file = File::new(address).top("upstream_keep_alive = '0s'");
    let sidecar = file.start().await;
    let mut client = sidecar.client().await;
    for key in 0..200 {
        client.send(&post("/charges", &key.to_string(), "")).await;
        assert_eq!(client.answer().await.status(), 200, "{key}");
    }
}

#[tokio::test]
async fn a_connection_that_is_not_kept_is_announced_to_be_closed() {
    let upstream = Upstream::start(|_| ok("done")).await;
    let file = File::new(upstream.address).top("upstream_keep_alive = '0s'");
    let sidecar = file.start().await;
    for key in ["1", "2", "3"] {
        assert_eq!(
            sidecar.exchange(&post("/a", key, "{}")).await.text(),
            "done"
        );
        assert_eq!(upstream.last().field("connection"), Some("close"));
    }
    assert_eq!(upstream.connections(), 3);
}

#[tokio::test]
async fn an_idle_connection_is_closed_after_the_time_that_the_file_gives() {
    for (keep_alive, least, most) in [("100ms", 0, 1000), ("3s", 2500, 6000)] {
        let upstream = Upstream::start(|_| answer("200 OK", "", "done")).await;
        let file = File::new(upstream.address);
        let file = file.top(&format!("upstream_keep_alive = '{keep_alive}'"));
        let sidecar = file.start().await;
        sidecar.exchange(&get("/")).await;
        let begun = tokio::time::Instant::now();
        crate::support::until(async || upstream.closed() == 1).await;
        let after = begun.elapsed().as_millis();
        assert!((least..most).contains(&after), "{keep_alive}: {after}");
    }
}
