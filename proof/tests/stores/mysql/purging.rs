use std::time::Duration;

use sqlx::MySqlConnection;
use tower_idempotency::MySqlStore;
use tower_idempotency::options::OnLapsedLease;
use tower_idempotency::store::{Ownership, Release, Store};

use super::{Place, another, claim, paid};

/// Inserts this many expired records.
async fn fill(place: &Place, count: usize) {
    insert(place, "over", 1, count).await;
}

/// Inserts records whose ids begin with `name`, and which expire at `end`, in microseconds since 1970.
async fn insert(place: &Place, name: &str, end: u64, count: usize) {
    let rows: Vec<_> = (0..count)
        .map(|at| format!("(RPAD('{name}{at}', 32, '.'), 1, 3, '', 1, 1, '', 1, 1, {end})"))
        .collect();
    let insert = "INSERT INTO {t} (id, format, state, nonce, token, attempt, fingerprint, \
                  lapses_at, retention, expires_at) VALUES ";
    place.run(&format!("{insert}{}", rows.join(","))).await;
}

#[tokio::test]
async fn a_batch_is_five_hundred_and_passes_over_what_is_locked() {
    let place = Place::new(2).await;
    fill(&place, 1100).await;
    let mut connection = place.pool.acquire().await.unwrap();
    // At this isolation level the server locks only the selected rows, and not
    // their neighbours.
    let exactly = "SET TRANSACTION ISOLATION LEVEL READ COMMITTED";
    sqlx::raw_sql(exactly)
        .execute(&mut *connection)
        .await
        .unwrap();
    let mut handler = sqlx::Connection::begin(&mut *connection).await.unwrap();
    let lock = place.sql("SELECT 1 FROM {t} WHERE id LIKE 'over1%' FOR UPDATE");
    let locked = sqlx::query(sqlx::AssertSqlSafe(lock))
        .fetch_all(&mut *handler)
        .await
        .unwrap();
    let locked = i64::try_from(locked.len()).unwrap();
    assert_eq!(place.store.purge().await.unwrap(), 500);
    assert_eq!(
        place.store.purge().await.unwrap(),
        u64::try_from(600 - locked).unwrap()
    );
    assert_eq!(place.store.purge().await.unwrap(), 0);
    assert_eq!(place.number("SELECT COUNT(*) FROM {t}").await, locked);
    handler.rollback().await.unwrap();
    assert_eq!(
        place.store.purge().await.unwrap(),
        u64::try_from(locked).unwrap()
    );
}

/// Returns how many rows the connection's statements have read so far.
async fn rows_read(connection: &mut MySqlConnection) -> u64 {
    let counted = "SHOW SESSION STATUS LIKE 'Handler_read%'";
    let counters: Vec<(String, String)> =
        sqlx::query_as(counted).fetch_all(connection).await.unwrap();
    let counters = counters.iter().map(|(_, count)| count.parse::<u64>());
    counters.sum::<Result<_, _>>().unwrap()
}

/// A call holds its locks for as long as one batch takes, however many records are past their end.
#[tokio::test]
async fn a_call_reads_no_more_than_its_batch() {
    let place = Place::new(2).await;
    // A scan would meet them first.
    insert(&place, "live", 1 << 62, 3_000).await;
    fill(&place, 5_000).await;
    let mut connection = place.pool.acquire().await.unwrap();
    let before = rows_read(&mut connection).await;
    let none = rows_read(&mut connection).await - before;
    sqlx::raw_sql(sqlx::AssertSqlSafe(place.sql("CALL {t}_purge(500)")))
        .execute(&mut *connection)
        .await
        .unwrap();
    let read = rows_read(&mut connection).await - before - 2 * none;
    assert_eq!(place.number("SELECT COUNT(*) FROM {t}").await, 7_500);
    // Each is read by the search, as a row of the cursor, and by the statement that deletes it; and
    // the statement that deletes its steps looks for them.
    assert!(read <= 5 * 500, "{read} rows were read to remove 500");
}

#[tokio::test(flavor = "multi_thread")]
async fn purges_at_once_remove_each_record_once() {
    let place = Place::new(4).await;
    fill(&place, 1500).await;
    let tasks: Vec<_> = (0..4)
        .map(|_| {
            let store = place.store.clone();
            tokio::spawn(async move {
                let mut removed = 0;
                for _ in 0..4 {
                    removed += store.purge().await.unwrap();
                }
                removed
            })
        })
        .collect();
    let mut removed = 0;
    for task in tasks {
        removed += task.await.unwrap();
    }
    assert_eq!(removed, 1500);
}

#[tokio::test]
async fn what_is_not_over_stays() {
    let place = Place::new(1).await;
    let store = &place.store;
    // This record has expired according to its own row, but its lease was renewed
    // later.
    let renewed = claim(1);
    let lease = place.acquire(&renewed).await;
    store.renew(&lease).await.unwrap();
    let mut refuses = claim(2);
    refuses.on_lapsed_lease = OnLapsedLease::Refuse;
    place.acquire(&refuses).await;
    let kept = place.acquire(&claim(3)).await;
    store.complete(&kept, &paid("kept")).await.unwrap();
    let over = claim(4);
    place.acquire(&over).await;
    place
        .run(
            "UPDATE {t} SET lapses_at = 1, retention = 1; \
             UPDATE {t} SET expires_at = 1 WHERE state = 1 AND expires_at IS NOT NULL",
        )
        .await;
    assert_eq!(store.purge().await.unwrap(), 1);
    assert_eq!(place.number("SELECT COUNT(*) FROM {t}").await, 3);
    assert_eq!(store.renew(&lease).await.unwrap(), Ownership::Held);
    assert_eq!(place.acquire(&another(&over)).await.attempt, 1);
    // The store must not remove the records of a later version.
    place.run("UPDATE {t} SET format = 2, expires_at = 1").await;
    assert_eq!(store.purge().await.unwrap(), 0);
}

#[tokio::test]
async fn renewals_go_when_what_they_were_of_has_ended() {
    let place = Place::new(1).await;
    let store = &place.store;
    for id in 1..=4 {
        let lease = place.acquire(&claim(id)).await;
        store.renew(&lease).await.unwrap();
        match id {
            1 => drop(store.complete(&lease, &paid("x")).await.unwrap()),
            2 => {
                let release =
                    store.release(&lease.claim.id, &lease.claim.nonce, Release::MayRunAgain);
                release.await.unwrap();
            }
            3 => place.run("DELETE FROM {t} WHERE state = 1").await,
            _ => {}
        }
    }
    store.purge().await.unwrap();
    let count = "SELECT COUNT(*) FROM {t}_renewals";
    assert_eq!(place.number(count).await, 4, "none has lapsed");
    place.run("UPDATE {t}_renewals SET lapses_at = 1").await;
    store.purge().await.unwrap();
    assert_eq!(place.number(count).await, 1, "of the one still in flight");
}

#[tokio::test]
async fn an_open_store_purges_by_itself_until_it_is_dropped() {
    let place = Place::new(2).await;
    let purging = MySqlStore::builder(place.pool.clone())
        .table(&place.table)
        .purge_every(Duration::from_millis(5))
        .open()
        .await
        .unwrap();
    fill(&place, 700).await;
    let count = "SELECT COUNT(*) FROM {t}";
    while place.number(count).await > 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    drop(purging);
}
