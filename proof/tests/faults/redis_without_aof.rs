//! A Redis without an append-only file forgets records, as `docs/stores.md` says.

use std::sync::Arc;

use crate::servers::Server;
use crate::traffic::{Book, connect, service};

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_without_an_append_only_file_forgets_at_a_crash_what_it_answered() {
    let server = Server::start("redis", &["appendonly no"]);
    let book = Arc::new(Book::default());
    let service = service(connect(server.url()).await, &book);
    let keys: Vec<String> = (0..20).map(|number| format!("key-{number}")).collect();
    for key in &keys {
        book.insist(&service, key).await;
        book.insist(&service, key).await;
        assert_eq!(book.executions_of(key), 1);
    }
    server.kill();
    server.restart();
    for key in &keys {
        book.insist(&service, key).await;
        // Each operation ran again, so `open` warns of this setting.
        assert_eq!(book.executions_of(key), 2, "{key}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_with_an_append_only_file_forgets_nothing_at_a_crash() {
    let server = Server::start("redis", crate::DURABLE);
    let book = Arc::new(Book::default());
    let service = service(connect(server.url()).await, &book);
    let keys: Vec<String> = (0..20).map(|number| format!("key-{number}")).collect();
    for key in &keys {
        book.insist(&service, key).await;
    }
    server.kill();
    server.restart();
    for key in &keys {
        book.insist(&service, key).await;
        assert_eq!(book.executions_of(key), 1, "{key}");
    }
}
