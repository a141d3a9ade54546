//! Redis, standalone and Cluster.

use std::sync::atomic::{AtomicU64, Ordering};

use tower_idempotency::store::conformance;
use tower_idempotency::{RedisConnection, RedisStore};

fn server(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| {
        panic!(
            "{name} is not set: run `scripts/test`, or `eval \"$(scripts/servers start)\"`, or set \
             {name} to the URL of a server"
        )
    })
}

/// A prefix that no other test uses, nor one before it.
fn prefix() -> String {
    static LAST: AtomicU64 = AtomicU64::new(0);
    let at = LAST.fetch_add(1, Ordering::Relaxed);
    format!(
        "test-{}-{at}-{:x}:",
        std::process::id(),
        rand::random::<u32>()
    )
}

async fn open(name: &str, prefix: &str) -> RedisStore {
    let connection = RedisConnection::from_url(&server(name)).unwrap();
    RedisStore::builder(connection)
        .prefix(prefix)
        .open()
        .await
        .unwrap()
}

#[tokio::test]
async fn a_server_keeps_the_contract() {
    let prefix = prefix();
    let report = conformance::check(|| open("TEST_REDIS_URL", &prefix)).await;
    report.assert_passed();
}

#[tokio::test]
async fn a_cluster_keeps_the_contract() {
    let prefix = prefix();
    let report = conformance::check(|| open("TEST_REDIS_CLUSTER_URL", &prefix)).await;
    report.assert_passed();
}
