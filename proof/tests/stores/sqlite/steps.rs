//! The results of steps, in a table of their own.

use std::time::Duration;

use sqlx::AssertSqlSafe;
use tower_idempotency::SqliteStore;
use tower_idempotency::store::{RecordId, Release, Store};

use super::{Directory, connect, pool_of};
use crate::steps::{lease_of, step_claim, steps_go_with_their_record, two_steps};

async fn kept(pool: &sqlx::SqlitePool, id: RecordId) -> i64 {
    let count = format!("SELECT count(*) FROM idempotency_records_steps WHERE id = x'{id}'");
    let count = sqlx::query_scalar(AssertSqlSafe(count));
    count.fetch_one(pool).await.unwrap()
}

fn id() -> RecordId {
    RecordId::from_bytes(rand::random())
}

#[tokio::test]
async fn steps_stay_and_go_with_their_record() {
    let directory = Directory::new();
    let store = connect(&directory.file()).await;
    let pool = pool_of(&directory.file()).await;
    steps_go_with_their_record(&store, async |id| kept(&pool, id).await).await;
}

#[tokio::test]
async fn a_purge_removes_the_steps_of_what_it_removes() {
    let directory = Directory::new();
    let pool = pool_of(&directory.file()).await;
    let records = SqliteStore::builder(pool.clone()).purge_every(Duration::MAX);
    records.migrate().await.unwrap();
    let store = records.open().await.unwrap();
    let (mut brief, long) = (step_claim(id()), step_claim(id()));
    (brief.lease, brief.retention) = (Duration::from_millis(1), Duration::from_millis(1));
    for claim in [&brief, &long] {
        let lease = lease_of(&store, claim).await;
        store.record_step(&lease, &two_steps()[0]).await.unwrap();
    }
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert_eq!(store.purge().await.unwrap(), 1);
    assert_eq!(kept(&pool, brief.id).await, 0);
    assert_eq!(kept(&pool, long.id).await, 1);
}

/// A program of an earlier version knows no steps. What it writes here are its statements.
#[tokio::test]
async fn a_program_that_knows_no_steps_ends_operations_with_them() {
    let directory = Directory::new();
    let store = connect(&directory.file()).await;
    let pool = pool_of(&directory.file()).await;
    let run = async |statement: String| {
        let statement = sqlx::raw_sql(AssertSqlSafe(statement));
        assert_eq!(statement.execute(&pool).await.unwrap().rows_affected(), 1);
    };
    let takes_over = "UPDATE idempotency_records SET state = 1, nonce = x'00', token = token + 1,
        attempt = attempt + 1 WHERE";
    let begins_anew = "UPDATE idempotency_records SET state = 1, nonce = x'00', token = token + 1,
        attempt = 1 WHERE";
    let completes = "UPDATE idempotency_records SET state = 3 WHERE";
    let forgets = "DELETE FROM idempotency_records WHERE";
    for (statement, left) in [
        (takes_over, 2),
        (begins_anew, 0),
        (completes, 0),
        (forgets, 0),
    ] {
        let id = id();
        let lease = lease_of(&store, &step_claim(id)).await;
        for step in two_steps() {
            store.record_step(&lease, &step).await.unwrap();
        }
        run(format!("{statement} id = x'{id}'")).await;
        assert_eq!(kept(&pool, id).await, left, "{statement}");
        if left > 0 {
            let lapses = "UPDATE idempotency_records SET state = 5 WHERE";
            run(format!("{lapses} id = x'{id}'")).await;
            let next = lease_of(&store, &step_claim(id)).await;
            assert_eq!(next.steps, two_steps());
            let nonce = next.claim.nonce;
            let released = store.release(&id, &nonce, Release::MayRunAgain);
            released.await.unwrap();
        }
    }
}
