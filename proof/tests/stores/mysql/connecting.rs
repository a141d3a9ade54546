//! Connecting to this server takes longer than a request waits.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sqlx::mysql::MySqlPoolOptions;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};
use tower_idempotency::MySqlStore;
use tower_idempotency::store::Store;

use super::{Place, claim, url};

const PATIENCE: Duration = Duration::from_millis(500);

/// Each request once dropped the connection that it was opening, so no request
/// succeeded any more.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_slow_to_connect_to_is_reached_all_the_same() {
    let place = Place::new(1).await;
    let slow = Arc::new(AtomicBool::new(false));
    let options = url().host("127.0.0.1").port(proxy(Arc::clone(&slow)).await);
    let pool = MySqlPoolOptions::new().max_connections(1);
    let pool = pool.connect_with(options).await.unwrap();
    let builder = MySqlStore::builder(pool.clone()).table(&place.table);
    let store = builder.open().await.unwrap();
    let only = pool.acquire().await.unwrap();
    slow.store(true, Ordering::Relaxed);
    only.close().await.unwrap();

    for _ in 0..20 {
        if let Ok(claimed) = timeout(PATIENCE, store.claim(&claim(1))).await {
            claimed.unwrap();
            return;
        }
    }
    panic!("no request gets through");
}

/// Returns the port of a proxy that delays new connections while `slow` is set.
async fn proxy(slow: Arc<AtomicBool>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (mut client, _) = listener.accept().await.unwrap();
            let slow = slow.load(Ordering::Relaxed);
            tokio::spawn(async move {
                if slow {
                    sleep(PATIENCE * 3).await;
                }
                let server = (url().get_host().to_owned(), url().get_port());
                let mut upstream = TcpStream::connect(server).await?;
                client.set_nodelay(true)?;
                upstream.set_nodelay(true)?;
                copy_bidirectional(&mut client, &mut upstream).await
            });
        }
    });
    port
}
