//! These tests remove expired records.

use std::time::Duration;

use sqlx::PgConnection;
use tokio::time::timeout;
use tower_idempotency::PostgresStore;
use tower_idempotency::options::OnLapsedLease;
use tower_idempotency::store::{Claimed, Outcome, Ownership, RecordState, Release, Store};

use super::{Fresh, acquire, claim_of, connection, id, pool};

#[tokio::test]
async fn records_past_their_end_go_and_no_others() {
    let fresh = Fresh::new().await;
    let store = fresh.store().await;
    let brief = Duration::from_micros(1);
    for (retention, count) in [(brief, 3), (Duration::from_secs(600), 2)] {
        for _ in 0..count {
            let mut claim = claim_of(id());
            (claim.lease, claim.retention) = (brief, retention);
            acquire(&store, &claim).await;
            claim.id = id();
            acquire(&store, &claim).await;
            store
                .release(&claim.id, &claim.nonce, Release::MayRunAgain)
                .await
                .unwrap();
            claim.id = id();
            let lease = acquire(&store, &claim).await;
            store
                .complete(&lease, &Outcome::Sealed { retention })
                .await
                .unwrap();
        }
    }
    // This record stays until an operator resolves it.
    let mut claim = claim_of(id());
    (claim.lease, claim.retention) = (brief, brief);
    claim.on_lapsed_lease = OnLapsedLease::Refuse;
    acquire(&store, &claim).await;
    assert_eq!(store.purge().await.unwrap(), 9);
    assert_eq!(store.purge().await.unwrap(), 0);
    assert_eq!(fresh.count("SELECT count(*) FROM {t}").await, 7);
    claim.nonce = claim_of(claim.id).nonce;
    let Claimed::Found(record) = store.claim(&claim).await.unwrap() else {
        panic!()
    };
    assert!(matches!(record.state, RecordState::Lapsed { .. }));
}

/// A call holds its locks for as long as one batch takes, however many records are past their end.
#[tokio::test]
async fn a_call_removes_one_batch_and_reads_no_more_than_that() {
    let fresh = Fresh::new().await;
    let store = fresh.store().await;
    let (over, live) = (1_300_u64, 3_000_u64);
    for (number, age) in [(over, "-1"), (live, "1")] {
        let fill = format!(
            "INSERT INTO {{t}} (id, format, state, nonce, token, attempt, fingerprint, retention,
                 lapses_at, expires_at)
             SELECT sha256(('{age}' || n)::bytea), 1, 5, '\\x{nonce}', n, 1, '\\x{print}', 1,
                 clock_timestamp(), clock_timestamp() + {age} * interval '1 hour'
             FROM generate_series(1, {number}) n",
            nonce = "01".repeat(16),
            print = "02".repeat(32),
        );
        assert_eq!(fresh.run(&fill).await, number);
    }
    fresh.run("ANALYZE {t}").await;

    let mut watched = fresh.pool.begin().await.unwrap();
    // A table as small as this one is read as a whole otherwise, since that costs less.
    sqlx::raw_sql("SET LOCAL enable_seqscan = off")
        .execute(&mut *watched)
        .await
        .unwrap();
    let removed: i64 = sqlx::query_scalar(fresh.sql("SELECT {t}_purge(500)"))
        .fetch_one(&mut *watched)
        .await
        .unwrap();
    assert_eq!(removed, 500);
    let [read, deleted] = read_and_deleted(&fresh, &mut watched).await;
    assert_eq!(deleted, 500);
    assert!(read <= 2 * 500, "{read} rows were read to remove 500");
    watched.rollback().await.unwrap();

    for expected in [500, 500, 300, 0] {
        assert_eq!(store.purge().await.unwrap(), expected);
    }
    assert_eq!(fresh.count("SELECT count(*) FROM {t}").await, 3_000);
}

/// Returns how many rows of the table this transaction has read and deleted so far.
async fn read_and_deleted(fresh: &Fresh, transaction: &mut PgConnection) -> [i64; 2] {
    let counted = "SELECT seq_tup_read + idx_tup_fetch, n_tup_del
         FROM pg_stat_xact_user_tables WHERE relname = '{t}'";
    let (read, deleted) = sqlx::query_as(fresh.sql(counted))
        .fetch_one(transaction)
        .await
        .unwrap();
    [read, deleted]
}

#[tokio::test]
async fn a_renewed_record_is_not_purged() {
    let fresh = Fresh::new().await;
    let store = fresh.store().await;
    let mut claim = claim_of(id());
    (claim.lease, claim.retention) = (Duration::from_secs(5), Duration::from_micros(1));
    let lease = acquire(&store, &claim).await;
    // The record now looks as if its lease had been renewed all the time.
    fresh
        .run(
            "UPDATE {t} SET lapses_at = lapses_at - interval '1 h',
             expires_at = expires_at - interval '1 h'",
        )
        .await;
    fresh
        .run(
            "INSERT INTO {t}_renewals
             SELECT id, token, clock_timestamp() + interval '5 s' FROM {t}",
        )
        .await;
    assert_eq!(store.purge().await.unwrap(), 0);
    assert_eq!(store.renew(&lease).await.unwrap(), Ownership::Held);
    fresh
        .run("UPDATE {t}_renewals SET lapses_at = 'epoch'")
        .await;
    assert_eq!(store.renew(&lease).await.unwrap(), Ownership::Lost);
    assert_eq!(store.purge().await.unwrap(), 1);
    assert_eq!(fresh.count("SELECT count(*) FROM {t}_renewals").await, 0);
}

#[tokio::test]
async fn a_batch_is_500_and_what_is_locked_is_left_for_the_next() {
    let fresh = Fresh::new().await;
    let store = fresh.store().await;
    fresh
        .run(
            "INSERT INTO {t} (id, format, state, nonce, token, attempt, lapses_at, retention, expires_at)
             SELECT sha256(n::text::bytea), 1, 5, '\\x00000000000000000000000000000000', 1, 1,
                 'epoch', 0, 'epoch'
             FROM generate_series(1, 700) n",
        )
        .await;
    fresh
        .run(
            "INSERT INTO {t}_renewals VALUES ('gone', 1, 'epoch');
             INSERT INTO {t}_waiters VALUES ('gone', '', 'epoch')",
        )
        .await;
    let mut reader = connection().await;
    sqlx::raw_sql(fresh.sql("BEGIN; SELECT * FROM {t} LIMIT 50 FOR KEY SHARE"))
        .execute(&mut reader)
        .await
        .unwrap();
    let mut removed = Vec::new();
    for _ in 0..3 {
        let purged = timeout(Duration::from_secs(2), store.purge());
        removed.push(purged.await.expect("it waits for somebody").unwrap());
    }
    assert_eq!(removed, [500, 150, 0]);
    for table in ["{t}_renewals", "{t}_waiters"] {
        assert_eq!(
            fresh.count(&format!("SELECT count(*) FROM {table}")).await,
            0
        );
    }
    sqlx::raw_sql("COMMIT").execute(&mut reader).await.unwrap();
    assert_eq!(store.purge().await.unwrap(), 50);
}

#[tokio::test]
async fn a_task_purges_until_the_store_is_dropped() {
    let fresh = Fresh::new().await;
    let store = PostgresStore::builder(pool())
        .table(&fresh.table)
        .purge_every(Duration::from_millis(20))
        .open()
        .await
        .unwrap();
    let mut claim = claim_of(id());
    (claim.lease, claim.retention) = (Duration::from_micros(1), Duration::from_micros(1));
    acquire(&store, &claim).await;
    let emptied = async {
        while fresh.count("SELECT count(*) FROM {t}").await != 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(Duration::from_secs(10), emptied)
        .await
        .expect("nothing purges");
}

/// This version cannot know whether such a record is in flight.
#[tokio::test]
async fn a_record_of_a_foreign_format_or_state_is_left_alone() {
    let fresh = Fresh::new().await;
    let store = fresh.store().await;
    for (format, state) in [(2, 1), (2, 3), (1, 9)] {
        let lease = acquire(&store, &claim_of(id())).await;
        fresh
            .run(&format!(
                "UPDATE {{t}} SET format = {format}, state = {state}, expires_at = 'epoch'
                  WHERE token = {}",
                lease.token.get()
            ))
            .await;
    }
    assert_eq!(store.purge().await.unwrap(), 0);
    assert_eq!(fresh.count("SELECT count(*) FROM {t}").await, 3);
}
