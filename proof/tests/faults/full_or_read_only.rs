//! These servers respond but refuse to write. No handler runs, no request hangs,
//! and everything works again once the server writes again.

use std::sync::Arc;

use crate::admin;
use crate::servers::Server;
use crate::traffic::{Book, Seen, connect, service};

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_without_room_executes_nothing_new() {
    let server = Server::start("redis", &[]);
    let full = admin::redis(&server, &["CONFIG", "SET", "maxmemory", "1mb"]);
    let room = admin::redis(&server, &["CONFIG", "SET", "maxmemory", "0"]);
    nothing_new(&server, full, room).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_became_a_replica_executes_nothing_new() {
    let server = Server::start("redis", &[]);
    let demote = async {
        admin::redis(
            &server,
            &["CONFIG", "SET", "replica-serve-stale-data", "yes"],
        )
        .await;
        admin::redis(&server, &["REPLICAOF", "127.0.0.1", "1"]).await
    };
    let promote = admin::redis(&server, &["REPLICAOF", "NO", "ONE"]);
    nothing_new(&server, demote, promote).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_without_the_replicas_that_it_wants_executes_nothing_new() {
    let server = Server::start("redis", &[]);
    let missing = admin::redis(&server, &["CONFIG", "SET", "min-replicas-to-write", "1"]);
    let enough = admin::redis(&server, &["CONFIG", "SET", "min-replicas-to-write", "0"]);
    nothing_new(&server, missing, enough).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_only_postgres_executes_nothing_new() {
    let server = Server::start("postgres", &[]);
    let read_only = admin::postgres(
        &server,
        &[
            "ALTER SYSTEM SET default_transaction_read_only = on",
            "SELECT pg_reload_conf()",
        ],
    );
    let writable = admin::postgres(
        &server,
        &[
            "SET default_transaction_read_only = off",
            "ALTER SYSTEM RESET default_transaction_read_only",
            "SELECT pg_reload_conf()",
        ],
    );
    Box::pin(nothing_new(&server, read_only, writable)).await;
}

async fn nothing_new<T, U>(
    server: &Server,
    worse: impl Future<Output = T>,
    better: impl Future<Output = U>,
) {
    let book = Arc::new(Book::default());
    let service = service(connect(server.url()).await, &book);
    book.insist(&service, "old").await;
    worse.await;
    // A server needs some time before a new setting takes effect.
    let mut new = (0..).map(|number| format!("new-{number}"));
    while let Seen::Answer = book.ask(&service, &new.next().unwrap()).await {}
    for key in new.by_ref().take(5) {
        let Seen::NotNow(code) = book.ask(&service, &key).await else {
            panic!("{key} was executed");
        };
        assert_eq!(code, "store-unavailable");
        assert_eq!(book.executions_of(&key), 0);
    }
    // A replay writes nothing, so a replay still works.
    book.insist(&service, "old").await;
    better.await;
    for key in new.take(5) {
        book.insist(&service, &key).await;
        assert_eq!(book.executions_of(&key), 1);
    }
    assert_eq!(book.executions_of("old"), 1);
    assert_eq!(book.violations(), Vec::<String>::new());
}
