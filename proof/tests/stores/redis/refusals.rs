//! These tests check what a server refuses while the application runs.

use std::error::Error;
use std::time::Duration;

use tower_idempotency::RedisStore;
use tower_idempotency::store::{Claimed, Ownership, RecordState, Store, StoreErrorKind};

use super::own_server::OwnServer;
use super::{acquire, claim, paid};

fn remedy(error: &dyn Error) -> String {
    error.source().unwrap().to_string()
}

#[tokio::test]
async fn a_full_server_refuses_claims_and_still_records_and_replays() {
    let server = OwnServer::start(&[]);
    let store = server.open().await;
    let (done, running) = (claim(), claim());
    store
        .complete(&acquire(&store, &done).await, &paid())
        .await
        .unwrap();
    let lease = acquire(&store, &running).await;
    server.run("CONFIG SET maxmemory 1");

    let error = store.claim(&claim()).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Refused, "{error:?}");
    assert!(remedy(&error).contains("raise maxmemory"), "{error:?}");
    assert!(matches!(
        store.claim(&done).await.unwrap(),
        Claimed::Found(_)
    ));
    assert_eq!(
        store.complete(&lease, &paid()).await.unwrap(),
        Ownership::Held
    );
    assert!(matches!(
        store.claim(&running).await.unwrap(),
        Claimed::Found(_)
    ));
}

#[tokio::test]
async fn a_full_server_can_be_opened() {
    let server = OwnServer::start(&["--maxmemory", "1"]);
    server.open().await;
    assert_eq!(server.run("DBSIZE"), "0");
}

#[tokio::test]
async fn a_primary_that_became_a_replica_refuses() {
    let server = OwnServer::start(&[]);
    let store = server.open().await;
    server.run("REPLICAOF 127.0.0.1 1");
    let error = store.claim(&claim()).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Refused, "{error:?}");
    assert!(
        remedy(&error).contains("connect to the primary"),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_right_that_scripts_miss_is_named_before_there_are_records() {
    let server = OwnServer::start(&[]);
    let url = format!("{}?user=app&pass=pw", server.url());
    for right in [
        "time",
        "hmget",
        "exists",
        "hset",
        "hdel",
        "pexpireat",
        "persist",
        "del",
    ] {
        server.run("ACL SETUSER app reset on >pw ~* &* +@all");
        server.run(&format!("ACL SETUSER app -{right}"));
        let error = RedisStore::connect(&url).await.unwrap_err();
        assert_eq!(error.kind(), StoreErrorKind::Refused, "{error:?}");
        let remedy = remedy(&error);
        assert!(remedy.contains(&right.to_uppercase()), "{remedy}");
        assert!(remedy.contains(&format!("+{right}")), "{remedy}");
        assert_eq!(server.run("DBSIZE"), "0", "without {right}");
    }
    server.run("ACL SETUSER app reset on >pw ~* &* +@all -publish");
    RedisStore::connect(&url).await.unwrap();
    assert_eq!(server.run("DBSIZE"), "0");
}

/// The refused command may be a script's second command, after the first command
/// was carried out.
#[tokio::test]
async fn without_a_right_that_was_taken_away_nobody_knows_what_a_script_did() {
    let server = OwnServer::start(&[]);
    server.run("ACL SETUSER app on >pw ~* &* +@all");
    let url = format!("{}?user=app&pass=pw", server.url());
    let store = RedisStore::connect(&url).await.unwrap();
    let lease = acquire(&store, &claim()).await;
    let another = acquire(&store, &claim()).await;

    server.run("ACL SETUSER app -pexpireat");
    let error = store.claim(&claim()).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Unknown, "{error:?}");
    assert!(remedy(&error).contains("+pexpireat"), "{error:?}");
    let error = store.complete(&lease, &paid()).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Unknown, "{error:?}");

    server.run("ACL SETUSER app +pexpireat -hset");
    let error = store.complete(&another, &paid()).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Unknown, "{error:?}");
    // The partly executed scripts neither lost these records nor made them
    // permanent.
    server.run("ACL SETUSER app +hset");
    for lease in [lease, another] {
        assert_ne!(
            server.run(&format!("PTTL idempotency:{}", lease.claim.id)),
            "-1"
        );
        assert_eq!(
            store.complete(&lease, &paid()).await.unwrap(),
            Ownership::Held
        );
        let found = store.claim(&lease.claim).await.unwrap();
        assert!(
            matches!(&found, Claimed::Found(found) if matches!(found.state, RecordState::Completed { .. })),
            "{found:?}"
        );
    }
}

#[tokio::test]
async fn a_server_that_refused_connections_for_a_while_is_used_again() {
    let server = OwnServer::start(&[]);
    server.run("ACL SETUSER app on >pw ~* &* +@all");
    let url = format!("{}?user=app&pass=pw", server.url());
    let store = RedisStore::connect(&url).await.unwrap();
    let answered = async |kind: Option<StoreErrorKind>| {
        let until = async {
            while store.claim(&claim()).await.err().map(|error| error.kind()) != kind {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let in_time = tokio::time::timeout(Duration::from_secs(10), until).await;
        assert!(in_time.is_ok(), "never {kind:?}");
    };
    answered(None).await;
    server.run("ACL SETUSER app resetpass >another");
    server.run("CLIENT KILL USER app");
    answered(Some(StoreErrorKind::Refused)).await;
    server.run("ACL SETUSER app resetpass >pw");
    answered(None).await;
}

#[tokio::test]
async fn a_server_that_wants_more_replicas_refuses() {
    let server = OwnServer::start(&["--min-replicas-to-write", "1"]);
    let store = server.open().await;
    let error = store.claim(&claim()).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Refused, "{error:?}");
    assert!(remedy(&error).contains("min-replicas"), "{error:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_kept_by_a_script_is_busy() {
    let server = OwnServer::start(&["--busy-reply-threshold", "1"]);
    let store = server.open().await;
    std::thread::scope(|threads| {
        threads.spawn(|| server.run_raw(&[b"EVAL", b"while true do end", b"0"]));
        while !server.run("PING").starts_with("BUSY") {
            std::thread::sleep(Duration::from_millis(5));
        }
        let claim = claim();
        let runtime = tokio::runtime::Handle::current();
        let error = threads
            .spawn(move || runtime.block_on(async { store.claim(&claim).await }))
            .join()
            .unwrap();
        server.run("SCRIPT KILL");
        let error = error.unwrap_err();
        assert_eq!(error.kind(), StoreErrorKind::Contention, "{error:?}");
    });
}
