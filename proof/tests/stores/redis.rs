//! These tests run the store against Redis, standalone and Cluster.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use http::StatusCode;
use tower_idempotency::RedisStore;
use tower_idempotency::conformance;
use tower_idempotency::options::OnLapsedLease;
use tower_idempotency::store::{
    Claim, Claimed, Lease, Outcome, Ownership, RecordState, Release, Store,
};
use tower_idempotency::store::{
    Completion, FencingToken, Fingerprint, RecordId, RedisConnection, ScopeDigest,
};

use self::own_server::OwnServer;
use super::servers;

mod bad_input;
mod own_server;
mod paging;
mod refusals;
mod round_trips;
mod settings;
mod steps;
mod unreadable;
mod waiting;

const LEASE: Duration = Duration::from_secs(30);
const RETENTION: Duration = Duration::from_secs(3600);

/// Returns a prefix that no other test uses, in this run or in an earlier one.
fn prefix() -> String {
    static LAST: AtomicU64 = AtomicU64::new(0);
    let at = LAST.fetch_add(1, Ordering::Relaxed);
    format!(
        "test-{}-{at}-{:x}:",
        std::process::id(),
        rand::random::<u32>()
    )
}

async fn open(url: &str, prefix: &str) -> RedisStore {
    let connection = RedisConnection::from_url(url).unwrap();
    let store = RedisStore::builder(connection).prefix(prefix).open().await;
    store.unwrap()
}

fn claim() -> Claim {
    let mut claim = Claim::new(
        RecordId::from_bytes(rand::random()),
        ScopeDigest::from_bytes([2; 32]),
        Fingerprint::from_bytes([3; 32]),
    );
    claim.lease = LEASE;
    claim.retention = RETENTION;
    claim
}

async fn acquire(store: &RedisStore, claim: &Claim) -> Lease {
    match store.claim(claim).await.unwrap() {
        Claimed::Acquired(lease) => lease,
        other => panic!("{other:?}"),
    }
}

fn paid() -> Outcome {
    let mut paid = Completion::new(StatusCode::CREATED, "paid", SystemTime::now());
    paid.retention = 2 * RETENTION;
    Outcome::Completed(paid.into())
}

#[tokio::test]
async fn a_server_keeps_the_contract() {
    let (url, prefix) = (servers::url("TEST_REDIS_URL"), prefix());
    let report = conformance::check(|| open(&url, &prefix)).await;
    report.assert_passed();
}

#[tokio::test]
async fn a_cluster_keeps_the_contract() {
    let (url, prefix) = (servers::url("TEST_REDIS_CLUSTER_URL"), prefix());
    let report = conformance::check(|| open(&url, &prefix)).await;
    report.assert_passed();
}

#[tokio::test]
async fn no_digit_of_a_token_is_lost() {
    let server = OwnServer::start(&[]);
    let store = server.open().await;
    let claim = claim();
    let key = format!("idempotency:{}", claim.id);
    server.run(&format!(
        "HSET {key} format 1 state 5 token 9007199254740989 attempt 41"
    ));
    let lease = acquire(&store, &claim).await;
    assert_eq!(
        (lease.token.get(), lease.attempt),
        (9_007_199_254_740_990, 42)
    );
    assert_eq!(server.run(&format!("HGET {key} token")), "9007199254740990");
    let released = store.release(&claim.id, &claim.nonce, Release::MayRunAgain);
    assert_eq!(released.await.unwrap(), Ownership::Held);
    assert_eq!(server.run(&format!("HGET {key} token")), "9007199254740990");

    let last = acquire(&store, &claim).await.token;
    assert_eq!(last.get(), FencingToken::LIMIT - 1);
    store
        .complete(&acquire(&store, &claim).await, &paid())
        .await
        .unwrap();
    let found = store.look_up(&claim.id).await.unwrap().unwrap();
    assert_eq!(found.token, last);
}

#[tokio::test]
async fn a_record_ends_a_retention_after_its_lapse_and_not_at_it() {
    let server = OwnServer::start(&[]);
    let store = server.open().await;
    let number = |command: String| server.run(&command).parse::<i128>().unwrap();
    let of = |length: Duration| i128::try_from(length.as_micros()).unwrap();
    let left = |id: &RecordId| number(format!("PTTL idempotency:{id}")) * 1000;
    let about = |left: i128, length: Duration| {
        let spent = of(length) - left;
        assert!(
            (-1000..10_000_000).contains(&spent),
            "{left} left of {length:?}"
        );
    };

    let mut claim = claim();
    let lease = acquire(&store, &claim).await;
    about(left(&claim.id), LEASE + RETENTION);
    let lapses_at = number(format!("HGET idempotency:{} lapses_at", claim.id));
    let ends_at = number(format!("PEXPIRETIME idempotency:{}", claim.id));
    assert_eq!(ends_at, (lapses_at + of(RETENTION) + 999) / 1000);
    server.run(&format!("PEXPIRE idempotency:{} 60000", claim.id));
    assert_eq!(store.renew(&lease).await.unwrap(), Ownership::Held);
    about(left(&claim.id), LEASE + RETENTION);
    store
        .release(&claim.id, &claim.nonce, Release::OutcomeUnknown)
        .await
        .unwrap();
    about(left(&claim.id), RETENTION);
    store.complete(&lease, &paid()).await.unwrap();
    about(left(&claim.id), 2 * RETENTION);

    claim.id = RecordId::from_bytes(rand::random());
    acquire(&store, &claim).await;
    store
        .release(&claim.id, &claim.nonce, Release::MayRunAgain)
        .await
        .unwrap();
    about(left(&claim.id), RETENTION);

    // Under `refuse` a record whose outcome is unknown never expires.
    claim.on_lapsed_lease = OnLapsedLease::Refuse;
    let lease = acquire(&store, &claim).await;
    assert_eq!(left(&claim.id), -1000);
    store.renew(&lease).await.unwrap();
    assert_eq!(left(&claim.id), -1000);
    store
        .release(&claim.id, &claim.nonce, Release::OutcomeUnknown)
        .await
        .unwrap();
    assert_eq!(left(&claim.id), -1000);
    store.complete(&lease, &paid()).await.unwrap();
    about(left(&claim.id), 2 * RETENTION);
}

#[tokio::test]
async fn a_server_that_was_killed_has_its_records_again_and_is_used_again() {
    let mut server = OwnServer::start(&["--appendonly", "yes", "--appendfsync", "always"]);
    let store = server.open().await;
    let (done, running) = (claim(), claim());
    store
        .complete(&acquire(&store, &done).await, &paid())
        .await
        .unwrap();
    let lease = acquire(&store, &running).await;
    server.kill();
    let error = loop {
        // The client's connection may not have noticed the crash yet.
        let error = store.claim(&claim()).await.unwrap_err();
        if error.kind() == tower_idempotency::store::StoreErrorKind::NotSent {
            break error;
        }
    };
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert!(cause.contains("see whether the server runs"), "{cause}");

    // The tasks that the failed claim started have failed as well by now.
    for _ in 0..1000 {
        tokio::task::yield_now().await;
    }
    server.start_again();
    let Claimed::Found(found) = store.claim(&done).await.unwrap() else {
        panic!("a recorded operation ran again");
    };
    assert!(matches!(found.state, RecordState::Completed { .. }));
    assert_eq!(store.renew(&lease).await.unwrap(), Ownership::Held);
}
