//! These tests remove expired records.

use std::time::Duration;

use sqlx::SqlitePool;
use tower_idempotency::SqliteStore;
use tower_idempotency::options::OnLapsedLease;
use tower_idempotency::store::{Outcome, Release, Store};

use super::{Directory, acquire, claim, connect, id, pool_of};

async fn count(pool: &SqlitePool) -> i64 {
    sqlx::query_scalar("SELECT count(*) FROM idempotency_records")
        .fetch_one(pool)
        .await
        .unwrap()
}

/// Inserts released records that expired long ago, one after the other.
async fn fill(pool: &SqlitePool, records: i64) {
    let insert = "
        WITH RECURSIVE number (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM number WHERE n < ?)
        INSERT INTO idempotency_records
            (id, format, state, nonce, token, attempt, fingerprint, retention, expires_at)
        SELECT randomblob(32), 1, 5, randomblob(16), n, 1, randomblob(32), 1, n FROM number";
    sqlx::query(insert)
        .bind(records)
        .execute(pool)
        .await
        .unwrap();
}

#[tokio::test]
async fn what_is_past_its_end_goes_in_small_batches_the_oldest_first() {
    let directory = Directory::new();
    let store = connect(&directory.file()).await;
    let sealed = acquire(&store, &claim(1)).await;
    let retention = Duration::from_secs(60);
    store
        .complete(&sealed, &Outcome::Sealed { retention })
        .await
        .unwrap();
    acquire(&store, &claim(2)).await;
    let mut refusing = claim(3);
    refusing.on_lapsed_lease = OnLapsedLease::Refuse;
    refusing.retention = Duration::ZERO;
    let unknown = acquire(&store, &refusing).await;
    let how = Release::OutcomeUnknown;
    store
        .release(&id(3), &unknown.claim.nonce, how)
        .await
        .unwrap();
    let pool = pool_of(&directory.file()).await;
    fill(&pool, 1200).await;

    assert_eq!(store.purge().await.unwrap(), 500);
    let oldest: i64 = sqlx::query_scalar("SELECT min(expires_at) FROM idempotency_records")
        .fetch_one(&pool)
        .await
        .unwrap();
    assert_eq!(oldest, 501);
    assert_eq!(store.purge().await.unwrap(), 500);
    assert_eq!(store.purge().await.unwrap(), 200);
    assert_eq!(store.purge().await.unwrap(), 0);
    for number in [1, 2, 3] {
        assert!(store.look_up(&id(number)).await.unwrap().is_some());
    }
    assert_eq!(count(&pool).await, 3);
}

#[tokio::test]
async fn the_search_for_them_reads_no_other_record() {
    let directory = Directory::new();
    let _store = connect(&directory.file()).await;
    let pool = pool_of(&directory.file()).await;
    let plan = "EXPLAIN QUERY PLAN
        SELECT rowid FROM idempotency_records
        WHERE expires_at <= 1 AND format = 1 AND state BETWEEN 1 AND 5
        ORDER BY expires_at LIMIT 500";
    let plan: Vec<(i64, i64, i64, String)> = sqlx::query_as(plan).fetch_all(&pool).await.unwrap();
    let [(.., only)] = &plan[..] else {
        panic!("{plan:?}");
    };
    assert!(
        only.contains("USING INDEX idempotency_records_expires_at (expires_at<?)"),
        "{only}"
    );
}

#[tokio::test]
async fn a_store_removes_them_by_itself() {
    let directory = Directory::new();
    let pool = pool_of(&directory.file()).await;
    let records = SqliteStore::builder(pool.clone()).purge_every(Duration::from_millis(5));
    records.migrate().await.unwrap();
    fill(&pool, 700).await;
    let store = records.open().await.unwrap();
    while count(&pool).await > 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // A store that was dropped removes nothing any more.
    drop(store);
    tokio::task::yield_now().await;
    while pool.num_idle() < pool.size() as usize {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    fill(&pool, 1).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(count(&pool).await, 1);
}
