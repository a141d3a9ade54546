//! These tests wait for what other processes do.

use std::future::Future;
use std::time::Duration;

use tokio::time::timeout;
use tower_idempotency::RedisStore;
use tower_idempotency::store::{ForgetMode, RecordId, RedisConnection};
use tower_idempotency::store::{Release, Store, Subscription};

use super::own_server::OwnServer;
use super::{acquire, claim, open, paid, prefix};

/// This time is well below the second after which a waiter looks at the record
/// itself.
const SOON: Duration = Duration::from_millis(700);

async fn is_woken(changed: Subscription, what: &str) {
    assert!(timeout(SOON, changed).await.is_ok(), "{what} woke nobody");
}

fn listeners(server: &OwnServer, id: &RecordId) -> String {
    let answer = server.run(&format!("PUBSUB NUMSUB idempotency:{id}"));
    answer.lines().last().unwrap().to_owned()
}

/// Waits until the condition holds. The test fails if the condition never holds.
async fn until<F: Future<Output = bool>>(what: &str, holds: impl Fn() -> F) {
    let until = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(
        timeout(Duration::from_secs(10), until).await.is_ok(),
        "{what}"
    );
}

async fn every_change_wakes(owner: RedisStore, waiter: RedisStore) {
    let first = claim();
    let lease = acquire(&owner, &first).await;
    let changed = waiter.subscribe(&first.id).await.unwrap();
    owner
        .release(&first.id, &first.nonce, Release::OutcomeUnknown)
        .await
        .unwrap();
    is_woken(changed, "unknown").await;

    let changed = waiter.subscribe(&first.id).await.unwrap();
    owner
        .release(&first.id, &first.nonce, Release::MayRunAgain)
        .await
        .unwrap();
    is_woken(changed, "release").await;

    let changed = waiter.subscribe(&first.id).await.unwrap();
    owner.complete(&lease, &paid()).await.unwrap();
    is_woken(changed, "completion").await;

    let several = [
        waiter.subscribe(&first.id).await.unwrap(),
        waiter.subscribe(&first.id).await.unwrap(),
    ];
    owner
        .forget(&first.id, ForgetMode::UnlessAlive)
        .await
        .unwrap();
    for changed in several {
        is_woken(changed, "forgetting").await;
    }
}

#[tokio::test]
async fn every_change_in_one_process_wakes_those_who_wait_in_another() {
    let (url, prefix) = (crate::servers::url("TEST_REDIS_URL"), prefix());
    every_change_wakes(open(&url, &prefix).await, open(&url, &prefix).await).await;
}

#[tokio::test]
async fn in_a_cluster_it_wakes_them_whatever_node_they_listen_to() {
    let (url, prefix) = (crate::servers::url("TEST_REDIS_CLUSTER_URL"), prefix());
    let owner = open(&url, &prefix).await;
    for node in url.split(',') {
        let client = ::redis::Client::open(node).unwrap();
        let builder = ::redis::cluster::ClusterClient::new(url.split(',')).unwrap();
        let cluster = builder.get_async_connection().await.unwrap();
        let connection = RedisConnection::from(cluster).waking_by(client);
        let waiter = RedisStore::builder(connection).prefix(&prefix).open().await;
        every_change_wakes(owner.clone(), waiter.unwrap()).await;
    }
}

#[tokio::test]
async fn a_subscription_is_answered_once_the_server_has_it() {
    let server = OwnServer::start(&[]);
    let store = server.open().await;
    for _ in 0..20 {
        let id = claim().id;
        let _changed = store.subscribe(&id).await.unwrap();
        assert_eq!(listeners(&server, &id), "1");
    }
}

#[tokio::test]
async fn a_channel_is_left_with_its_last_waiter_and_the_connection_with_its_store() {
    let server = OwnServer::start(&[]);
    let store = server.open().await;
    let id = claim().id;
    let clients = || server.run("CLIENT LIST TYPE pubsub").lines().count();
    assert_eq!(clients(), 0);
    let first = store.subscribe(&id).await.unwrap();
    let second = store.subscribe(&id).await.unwrap();
    assert_eq!((listeners(&server, &id).as_str(), clients()), ("1", 1));
    drop(first);
    let other = store.subscribe(&claim().id).await.unwrap();
    assert_eq!(listeners(&server, &id), "1");
    drop(second);
    until("the channel is left", async || {
        listeners(&server, &id) == "0"
    })
    .await;
    drop(store);
    drop(other);
    until("the connection is gone", async || clients() == 0).await;
}

#[tokio::test]
async fn waking_works_again_after_its_connection_was_cut() {
    let server = OwnServer::start(&[]);
    let store = server.open().await;
    let first = claim();
    let lease = acquire(&store, &first).await;
    for _ in 0..3 {
        until("a channel", async || {
            let changed = store.subscribe(&first.id).await.unwrap();
            let listens = listeners(&server, &first.id) == "1";
            if !listens {
                changed.await;
            }
            listens
        })
        .await;
        let changed = store.subscribe(&first.id).await.unwrap();
        assert_eq!(server.run("CLIENT KILL TYPE pubsub"), "1");
        // The waiter may miss a change from here on, so it must look at the record.
        is_woken(changed, "a cut connection").await;
    }
    until("a channel", async || {
        let changed = store.subscribe(&first.id).await.unwrap();
        let listens = listeners(&server, &first.id) == "1";
        if !listens {
            changed.await;
        }
        listens
    })
    .await;
    let changed = store.subscribe(&first.id).await.unwrap();
    store.complete(&lease, &paid()).await.unwrap();
    is_woken(changed, "completion").await;
}

#[tokio::test]
async fn who_is_told_of_nothing_looks_soon() {
    let server = OwnServer::start(&[]);
    let client = ::redis::Client::open(server.url()).unwrap();
    let manager = client.get_connection_manager().await.unwrap();
    let store = RedisStore::open(manager).await.unwrap();
    let changed = store.subscribe(&claim().id).await.unwrap();
    is_woken(changed, "a timer").await;
}

#[tokio::test]
async fn a_message_that_is_lost_costs_a_second() {
    let server = OwnServer::start(&[]);
    let store = server.open().await;
    let changed = store.subscribe(&claim().id).await.unwrap();
    let mut changed = std::pin::pin!(changed);
    assert!(
        timeout(SOON, &mut changed).await.is_err(),
        "woken by nothing"
    );
    assert!(timeout(SOON, &mut changed).await.is_ok(), "it never looks");
}

#[tokio::test]
async fn a_user_without_channels_records_all_the_same() {
    let server = OwnServer::start(&[]);
    server.run("ACL SETUSER mute on >pw ~* resetchannels +@all");
    let url = format!("{}?user=mute&pass=pw", server.url());
    let store = RedisStore::connect(&url).await.unwrap();
    let lease = acquire(&store, &claim()).await;
    let changed = store.subscribe(&lease.claim.id).await.unwrap();
    store.complete(&lease, &paid()).await.unwrap();
    is_woken(changed, "a timer").await;
    assert!(store.look_up(&lease.claim.id).await.unwrap().is_some());
}
