use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use tower_idempotency::store::{ForgetMode, Release, Store};

use super::{Place, acquired, another, body, claim, paid};

/// Polls a future this many times, then drops it. Returns whether the future ended
/// before.
async fn cut_off<F: Future>(future: F, polls: usize) -> bool {
    let mut future = pin!(future);
    let mut left = polls;
    poll_fn(|context| {
        if left == 0 {
            return Poll::Ready(false);
        }
        left -= 1;
        match future.as_mut().poll(context) {
            Poll::Ready(_) => Poll::Ready(true),
            // The last poll returns at once, because another wake-up may never
            // come.
            Poll::Pending if left == 0 => Poll::Ready(false),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

#[tokio::test]
async fn a_call_dropped_at_any_await_leaves_nothing_on_the_pools_connection() {
    let place = Place::new(1).await;
    let store = &place.store;
    let big: Vec<u8> = (0..=250).cycle().take(1 << 20).collect();
    let lease = place.acquire(&claim(200)).await;
    store.complete(&lease, &paid(big.clone())).await.unwrap();

    let mut whole = [false; 5];
    for polls in 1..400 {
        let first = another(&claim(1));
        let lease = match store.claim(&first).await.unwrap() {
            tower_idempotency::store::Claimed::Acquired(lease) => lease,
            other => panic!("{other:?}"),
        };
        let by_hand = claim(2);
        let answer = paid(big.clone());
        whole[0] |= cut_off(store.claim(&by_hand), polls).await;
        check(&place).await;
        whole[1] |= cut_off(store.renew(&lease), polls).await;
        check(&place).await;
        whole[2] |= cut_off(store.complete(&lease, &answer), polls).await;
        check(&place).await;
        whole[3] |= cut_off(store.claim(&another(&claim(200))), polls).await;
        check(&place).await;
        assert_eq!(body(store.claim(&another(&claim(200))).await.unwrap()), big);
        let release = store.release(&first.id, &first.nonce, Release::MayRunAgain);
        whole[4] |= cut_off(release, polls).await;
        check(&place).await;
        store.forget(&first.id, ForgetMode::Forced).await.unwrap();
        if whole == [true; 5] {
            return;
        }
    }
    panic!("not every call ended: {whole:?}");
}

/// Checks that the next caller that gets the connection finds no open transaction
/// and receives its own result.
async fn check(place: &Place) {
    assert_eq!(place.number("SELECT 42").await, 42);
    assert!(!place.has_open_transaction().await);
}

/// The server still runs the statement of a dropped call, and the pool must not
/// wait for that statement.
#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_call_that_hangs_does_not_keep_its_place_in_the_pool() {
    let place = Place::new(2).await;
    place.acquire(&claim(1)).await;
    place
        .run(
            "UPDATE {t} SET lapses_at = {now} - 1000; \
             INSERT INTO {t}_renewals SELECT id, nonce, {now} - 1000 FROM {t}",
        )
        .await;
    let mut renewal = place.pool.begin().await.unwrap();
    let lock = place.sql("SELECT 1 FROM {t}_renewals FOR UPDATE");
    sqlx::query(sqlx::AssertSqlSafe(lock))
        .fetch_all(&mut *renewal)
        .await
        .unwrap();
    let store = place.store.clone();
    let taker = tokio::spawn(async move { store.claim(&another(&claim(1))).await });
    super::until_one_waits(&place).await;
    taker.abort();
    taker.await.unwrap_err();
    let next = tokio::time::timeout(Duration::from_secs(10), place.number("SELECT 42"));
    assert_eq!(next.await.expect("a connection"), 42);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_is_killed_leaves_no_transaction_open() {
    let place = Place::new(3).await;
    place.acquire(&claim(1)).await;
    place
        .run(
            "UPDATE {t} SET lapses_at = {now} - 1000; \
             INSERT INTO {t}_renewals SELECT id, nonce, {now} - 1000 FROM {t}",
        )
        .await;
    let mut renewal = place.pool.begin().await.unwrap();
    let lock = place.sql("SELECT 1 FROM {t}_renewals FOR UPDATE");
    sqlx::query(sqlx::AssertSqlSafe(lock))
        .fetch_all(&mut *renewal)
        .await
        .unwrap();
    let store = place.store.clone();
    let taker = tokio::spawn(async move { store.claim(&another(&claim(1))).await });
    let id = super::until_one_waits(&place).await;
    place.run(&format!("KILL QUERY {id}")).await;
    taker.await.unwrap().unwrap_err();
    renewal.rollback().await.unwrap();
    let mut connections = Vec::new();
    for _ in 0..3 {
        let mut connection = place.pool.acquire().await.unwrap();
        // The server refuses this statement in the middle of a transaction.
        let set = "SET TRANSACTION ISOLATION LEVEL READ COMMITTED";
        let set = sqlx::raw_sql(set).execute(&mut *connection);
        set.await.expect("no open transaction");
        connections.push(connection);
    }
    drop(connections);
    // The killed call had the record's row locked.
    for _ in 0..100 {
        let claimed = place.store.claim(&another(&claim(1))).await.unwrap();
        if matches!(claimed, tower_idempotency::store::Claimed::Acquired(_)) {
            acquired(claimed);
            return;
        }
        // The server needs some time to notice a closed connection.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("the row stays locked");
}
