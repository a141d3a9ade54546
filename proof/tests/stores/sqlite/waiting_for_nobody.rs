//! These tests check which operations wait for which locks.

use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Waker};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use sqlx::SqlitePool;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode};
use tower_idempotency::SqliteStore;
use tower_idempotency::store::{Claimed, Ownership, RecordState, Store, StoreErrorKind};

use super::{Directory, acquire, answer, claim, connect, id, pool_of};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_many_first_claims_at_once_one_acquires() {
    let directory = Directory::new();
    let mut stores = Vec::new();
    for _ in 0..4 {
        stores.push(connect(&directory.file()).await);
    }
    let mut claims = tokio::task::JoinSet::new();
    for number in 0..40 {
        for attempt in 0..12 {
            let store = stores[attempt % 4].clone();
            claims.spawn(async move { (number, store.claim(&claim(number)).await.unwrap()) });
        }
    }
    let mut acquired = [0; 40];
    while let Some(claimed) = claims.join_next().await {
        match claimed.unwrap() {
            (number, Claimed::Acquired(_)) => acquired[number as usize] += 1,
            (_, Claimed::Found(record)) => {
                assert!(matches!(record.state, RecordState::InFlight { .. }));
            }
            (_, other) => panic!("{other:?}"),
        }
    }
    assert_eq!(acquired, [1; 40]);
}

/// The returned number changes whenever another connection has written.
async fn data_version(pool: &SqlitePool) -> i64 {
    sqlx::query_scalar("PRAGMA data_version")
        .fetch_one(pool)
        .await
        .unwrap()
}

async fn one_connection(file: &Path) -> SqlitePool {
    let options = SqliteConnectOptions::new().filename(file);
    sqlx::sqlite::SqlitePoolOptions::new()
        .max_connections(1)
        .connect_with(options)
        .await
        .unwrap()
}

#[tokio::test]
async fn a_replay_waits_for_no_connection_of_the_pool() {
    let directory = Directory::new();
    connect(&directory.file()).await;
    let options = SqliteConnectOptions::new().filename(directory.file());
    let pool = sqlx::sqlite::SqlitePoolOptions::new()
        .max_connections(2)
        .acquire_timeout(Duration::from_secs(5))
        .connect_with(options);
    let pool = pool.await.unwrap();
    let store = SqliteStore::open(pool.clone()).await.unwrap();
    let lease = acquire(&store, &claim(1)).await;
    store.complete(&lease, &answer("paid")).await.unwrap();
    // The store takes an idle connection, and connections come back in the background.
    let come_back = async {
        while pool.size() == 0 || pool.num_idle() < pool.size() as usize {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), come_back)
        .await
        .expect("connections come back to the pool");
    store.look_up(&id(1)).await.unwrap();
    let all = [pool.acquire().await.unwrap(), pool.acquire().await.unwrap()];
    let replayed = store.claim(&claim(1)).await.unwrap();
    assert!(matches!(replayed, Claimed::Found(_)), "{replayed:?}");
    drop(all);
    // The connection that the store keeps does not outlast the pool.
    pool.close().await;
    let error = store.claim(&claim(1)).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::NotSent);
}

#[tokio::test]
async fn a_claim_that_finds_something_writes_nothing() {
    let directory = Directory::new();
    let store = connect(&directory.file()).await;
    let watching = one_connection(&directory.file()).await;
    let written = data_version(&watching).await;
    let lease = acquire(&store, &claim(1)).await;
    store.complete(&lease, &answer("paid")).await.unwrap();
    let in_flight = acquire(&store, &claim(2)).await;
    let before = data_version(&watching).await;
    assert_ne!(before, written, "a claim writes");
    let log = directory.0.join("records.db-wal");
    let log_before = std::fs::metadata(&log).unwrap();
    for _ in 0..50 {
        for number in [1, 2] {
            let claimed = store.claim(&claim(number)).await.unwrap();
            assert!(matches!(claimed, Claimed::Found(_)));
        }
        store.look_up(&id(1)).await.unwrap().unwrap();
    }
    // A repeated or late call does not write either.
    assert_eq!(store.renew(&lease).await.unwrap(), Ownership::Held);
    let again = store.complete(&lease, &answer("other")).await.unwrap();
    assert_eq!(again, Ownership::Held);
    let mut stale = in_flight.clone();
    stale.claim.nonce = tower_idempotency::store::Nonce::random();
    assert_eq!(store.renew(&stale).await.unwrap(), Ownership::Lost);
    assert_eq!(
        store.complete(&stale, &answer("")).await.unwrap(),
        Ownership::Lost
    );
    assert_eq!(data_version(&watching).await, before);
    let log_after = std::fs::metadata(&log).unwrap();
    assert_eq!(log_after.len(), log_before.len());
    assert_eq!(
        log_after.modified().unwrap(),
        log_before.modified().unwrap()
    );
}

#[tokio::test]
async fn a_replay_does_not_wait_while_the_application_writes() {
    let directory = Directory::new();
    let store = connect(&directory.file()).await;
    let lease = acquire(&store, &claim(1)).await;
    store.complete(&lease, &answer("paid")).await.unwrap();
    acquire(&store, &claim(2)).await;

    let app = pool_of(&directory.file()).await;
    let mut transaction = app.begin_with("BEGIN IMMEDIATE").await.unwrap();
    sqlx::query("CREATE TABLE orders (id INTEGER)")
        .execute(&mut *transaction)
        .await
        .unwrap();
    // While this transaction is open, a call that waits for the transaction's lock
    // waits in vain.
    for number in [1, 2] {
        let claimed = store.claim(&claim(number)).await.unwrap();
        assert!(matches!(claimed, Claimed::Found(_)));
    }
    store.look_up(&id(1)).await.unwrap().unwrap();
    // A claim that has to write gets an error that says that nothing was changed.
    let error = store.claim(&claim(3)).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Contention);
    transaction.commit().await.unwrap();
    assert!(store.look_up(&id(3)).await.unwrap().is_none());
    assert_eq!(acquire(&store, &claim(3)).await.attempt, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_counts_from_after_the_wait_for_the_lock() {
    let directory = Directory::new();
    let options = SqliteConnectOptions::new()
        .filename(directory.file())
        .create_if_missing(true)
        .busy_timeout(Duration::from_secs(60))
        .journal_mode(SqliteJournalMode::Wal);
    let app = SqlitePool::connect_with(options).await.unwrap();
    let records = SqliteStore::builder(app.clone());
    records.migrate().await.unwrap();
    let store = records.open().await.unwrap();

    let transaction = app.begin_with("BEGIN IMMEDIATE").await.unwrap();
    let claiming = {
        let store = store.clone();
        tokio::spawn(async move { acquire(&store, &claim(1)).await })
    };
    // If the claim does not wait by then, the test proves less but does not fail.
    tokio::time::sleep(Duration::from_millis(300)).await;
    let released = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    transaction.commit().await.unwrap();
    let lease = claiming.await.unwrap();
    assert!(u128::from(lease.token.get()) >= released.as_millis() * 1000);
    let lapses_at: i64 = sqlx::query_scalar("SELECT lapses_at FROM idempotency_records")
        .fetch_one(&app)
        .await
        .unwrap();
    let ends = released + lease.claim.lease;
    assert!(u128::try_from(lapses_at).unwrap() >= ends.as_millis() * 1000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_is_given_up_leaves_no_lock_behind() {
    let directory = Directory::new();
    let store = connect(&directory.file()).await;
    for number in 0..100 {
        // The call is dropped at any await, and also while SQLite works.
        let claimed = claim(number);
        let called = store.claim(&claimed);
        let _ = tokio::time::timeout(Duration::from_micros(u64::from(number) * 20), called).await;
    }
    for number in 0..100 {
        let claimed = store.claim(&claim(number)).await.unwrap();
        assert!(!matches!(claimed, Claimed::OverCapacity));
    }
    let app = pool_of(&directory.file()).await;
    let transaction = app.begin_with("BEGIN IMMEDIATE").await.unwrap();
    transaction.commit().await.unwrap();
}

#[tokio::test]
async fn who_waits_in_the_same_process_is_woken_at_once() {
    let directory = Directory::new();
    let store = connect(&directory.file()).await;
    for number in 0..100 {
        let start = Instant::now();
        let lease = acquire(&store, &claim(number)).await;
        let mut changed = store.subscribe(&id(number)).await.unwrap();
        let mut cx = Context::from_waker(Waker::noop());
        assert!(Pin::new(&mut changed).poll(&mut cx).is_pending());
        store.complete(&lease, &answer("paid")).await.unwrap();
        let is_woken = Pin::new(&mut changed).poll(&mut cx).is_ready();
        // On a busy machine the waiter may have become ready by its own timer.
        if start.elapsed() < Duration::from_millis(250) {
            assert!(is_woken);
            return;
        }
    }
    panic!("no completion was fast enough to tell");
}
