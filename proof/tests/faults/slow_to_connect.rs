//! Connecting to this server takes longer than a request waits.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::sleep;

use crate::admin;
use crate::servers::Server;
use crate::traffic::{Book, STORE_TIMEOUT, Seen, connect, service};

/// Each request once opened a connection and dropped the connection at its
/// deadline, so no request succeeded any more.
#[tokio::test(flavor = "multi_thread")]
async fn a_postgres_that_is_slower_to_connect_than_a_request_waits_is_reached_all_the_same() {
    let server = Server::start("postgres", &[]);
    let slow = Arc::new(AtomicBool::new(false));
    let url = behind_a_proxy(server.url(), Arc::clone(&slow)).await;
    let book = Arc::new(Book::default());
    let service = service(connect(&url).await, &book);
    book.insist(&service, "old").await;

    slow.store(true, Ordering::Relaxed);
    admin::cut_connections(&server).await;
    let begun = Instant::now();
    let mut new = (0..).map(|number| format!("new-{number}"));
    while let Seen::NotNow(_) = book.ask(&service, &new.next().unwrap()).await {
        assert!(
            begun.elapsed() < Duration::from_secs(20),
            "no request gets through"
        );
    }
    book.insist(&service, "old").await;
    assert_eq!(book.executions_of("old"), 1);
    assert_eq!(book.violations(), Vec::<String>::new());
}

/// Returns the URL of a proxy that delays new connections while `slow` is set.
async fn behind_a_proxy(url: &str, slow: Arc<AtomicBool>) -> String {
    let port = url.rsplit(':').next().unwrap().split('/').next().unwrap();
    let server = format!("127.0.0.1:{port}");
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let own = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (mut client, _) = listener.accept().await.unwrap();
            let (slow, server) = (slow.load(Ordering::Relaxed), server.clone());
            tokio::spawn(async move {
                if slow {
                    sleep(STORE_TIMEOUT + Duration::from_secs(1)).await;
                }
                let mut upstream = TcpStream::connect(server).await?;
                copy_bidirectional(&mut client, &mut upstream).await
            });
        }
    });
    url.replace(&format!(":{port}/"), &format!(":{own}/"))
}
