//! Errors when the application starts name the cause and the remedy, and show no
//! credential.

use std::error::Error;
use std::fmt::Write as _;
use std::net::TcpListener;
use std::time::Duration;

use tokio::time::timeout;
use tower_idempotency::RedisStore;
use tower_idempotency::store::{ForgetMode, StoreError, StoreErrorKind};

use super::own_server::OwnServer;
use crate::nobody::nobody;

const SECRET: &str = "s3cret";

async fn refusal(url: &str) -> (StoreErrorKind, String) {
    let opened = timeout(Duration::from_secs(10), RedisStore::connect(url)).await;
    let error = opened.expect("it hangs").expect_err("it opens");
    (error.kind(), text(&error))
}

fn text(error: &StoreError) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        write!(text, ": {error}").unwrap();
        cause = error.source();
    }
    assert!(
        !text.contains(SECRET) && !format!("{error:?}").contains(SECRET),
        "{text}"
    );
    text
}

#[tokio::test]
async fn wrong_credentials_are_said_to_be() {
    let server = OwnServer::start(&["--requirepass", "another"]);
    for url in [
        format!("{}?pass={SECRET}", server.url()),
        format!("{}?user=nobody&pass={SECRET}", server.url()),
        format!("{}?protocol=resp2&pass={SECRET}", server.url()),
        server.url(),
        format!("{}?protocol=resp2", server.url()),
    ] {
        let (kind, text) = refusal(&url).await;
        assert_eq!(kind, StoreErrorKind::Refused, "{text}");
        assert!(text.contains("give the user and password"), "{text}");
    }
    let store = RedisStore::connect(&format!("{}?pass=another", server.url()))
        .await
        .unwrap();
    assert!(!format!("{store:?}").contains("another"), "{store:?}");
}

#[tokio::test]
async fn a_user_who_may_not_run_scripts_is_told_what_to_ask_for() {
    let server = OwnServer::start(&[]);
    server.run(&format!(
        "ACL SETUSER weak on >{SECRET} ~* &* +@all -@scripting"
    ));
    let (kind, text) = refusal(&format!("{}?user=weak&pass={SECRET}", server.url())).await;
    assert_eq!(kind, StoreErrorKind::Refused, "{text}");
    assert!(text.contains("+evalsha"), "{text}");
}

#[tokio::test]
async fn the_rights_that_an_error_lists_are_enough() {
    use super::{Store, acquire, claim, paid};

    let server = OwnServer::start(&[]);
    let rights = "+evalsha +eval +time +exists +hmget +hset +hdel +del +pexpireat +persist +publish \
                  +subscribe +unsubscribe +info +config|get";
    server.run(&format!(
        "ACL SETUSER just on >{SECRET} ~idempotency:* &idempotency:* {rights}"
    ));
    let url = format!("{}?user=just&pass={SECRET}", server.url());
    let store = RedisStore::connect(&url).await.unwrap();
    let lease = acquire(&store, &claim()).await;
    let changed = store.subscribe(&lease.claim.id).await.unwrap();
    store.renew(&lease).await.unwrap();
    store.complete(&lease, &paid()).await.unwrap();
    changed.await;
    store
        .forget(&lease.claim.id, ForgetMode::UnlessAlive)
        .await
        .unwrap();
    assert_eq!(server.run("ACL LOG"), "");
}

#[tokio::test]
async fn nobody_at_the_address_is_said_to_be() {
    let free = nobody();
    for url in [
        format!("redis://:{SECRET}@{free}"),
        format!("redis+unix:///nowhere/socket?pass={SECRET}"),
    ] {
        let (kind, text) = refusal(&url).await;
        assert_eq!(kind, StoreErrorKind::NotSent, "{text}");
        assert!(text.contains("see whether the server runs"), "{text}");
    }
    let (_, text) = refusal(&format!("redis+cluster://:{SECRET}@{free}")).await;
    assert!(text.contains("see whether the server runs"), "{text}");
}

#[tokio::test]
async fn what_is_not_redis_is_said_not_to_be() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            stream.writable().await.unwrap();
            let _ = stream.try_write(b"HTTP/1.1 400 Bad Request\r\n\r\n");
        }
    });
    let (_, text) = refusal(&format!("redis://:{SECRET}@{address}")).await;
    assert!(text.contains("is Redis"), "{text}");
}

#[tokio::test]
async fn a_server_that_says_nothing_is_not_waited_for() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("redis://:{SECRET}@{}", silent.local_addr().unwrap());
    let (_, text) = refusal(&url).await;
    assert!(text.contains("see whether the server runs"), "{text}");
}

#[tokio::test]
async fn a_replica_is_refused() {
    let server = OwnServer::start(&["--replicaof", "127.0.0.1 1"]);
    let (kind, text) = refusal(&server.url()).await;
    assert_eq!(kind, StoreErrorKind::Refused, "{text}");
    assert!(text.contains("connect to its primary"), "{text}");
}

#[tokio::test]
async fn a_node_of_a_cluster_alone_is_refused() {
    let cluster = crate::servers::url("TEST_REDIS_CLUSTER_URL");
    let (kind, text) = refusal(cluster.split(',').next().unwrap()).await;
    assert_eq!(kind, StoreErrorKind::Refused, "{text}");
    assert!(text.contains("redis+cluster://"), "{text}");
}

#[tokio::test]
async fn one_node_is_enough_to_find_the_others() {
    let cluster = crate::servers::url("TEST_REDIS_CLUSTER_URL");
    let first = cluster.split(',').next().unwrap();
    let url = first.replacen("redis://", "redis+cluster://", 1);
    RedisStore::connect(&url).await.unwrap();
}
