use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Barrier;
use tower_idempotency::store::RecordId;
use tower_idempotency::store::{Claimed, Ownership, RecordState, Release, Store};

use super::{Place, another, claim, paid, until_one_waits};

/// Lets many claimants claim each of these ids at once, and returns who acquired
/// each id.
async fn storm(place: &Place, ids: &[RecordId], claimants: usize) -> HashMap<RecordId, usize> {
    let start = Arc::new(Barrier::new(claimants));
    let tasks: Vec<_> = (0..claimants)
        .map(|at| {
            let (store, start) = (place.store.clone(), Arc::clone(&start));
            let mut ids = ids.to_vec();
            // Each claimant begins at another id, so that neighbouring rows are
            // also claimed at once.
            let from = at % ids.len();
            ids.rotate_left(from / 4);
            tokio::spawn(async move {
                let mut won = Vec::new();
                start.wait().await;
                for id in ids {
                    let mut claim = another(&claim(0));
                    claim.id = id;
                    match store.claim(&claim).await.expect("no error") {
                        Claimed::Acquired(_) => won.push(id),
                        Claimed::Found(record) => assert!(
                            matches!(record.state, RecordState::InFlight { .. }),
                            "{record:?}"
                        ),
                        other => panic!("{other:?}"),
                    }
                }
                won
            })
        })
        .collect();
    let mut winners = HashMap::new();
    for task in tasks {
        for id in task.await.unwrap() {
            *winners.entry(id).or_default() += 1;
        }
    }
    winners
}

fn neighbours(count: u8) -> Vec<RecordId> {
    let id = |last| {
        let mut id = [3; 32];
        id[31] = last;
        RecordId::from_bytes(id)
    };
    (0..count).map(id).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn of_claims_at_once_one_acquires_and_none_fails() {
    let place = Place::new(12).await;
    let ids = neighbours(60);
    let winners = storm(&place, &ids, 12).await;
    assert!(
        ids.iter().all(|id| winners.get(id) == Some(&1)),
        "{winners:?}"
    );
    // The same holds for claims of released records.
    place.run("UPDATE {t} SET state = 5").await;
    let winners = storm(&place, &ids, 12).await;
    assert!(
        ids.iter().all(|id| winners.get(id) == Some(&1)),
        "{winners:?}"
    );
    // The same holds for claims of lapsed leases that were renewed once.
    place
        .run(
            "UPDATE {t} SET lapses_at = {now} - 1000; \
             INSERT INTO {t}_renewals SELECT id, nonce, {now} - 1000 FROM {t}",
        )
        .await;
    let winners = storm(&place, &ids, 12).await;
    assert!(
        ids.iter().all(|id| winners.get(id) == Some(&1)),
        "{winners:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn claims_releases_and_completions_at_once_leave_one_owner_at_a_time() {
    let place = Place::new(8).await;
    let owners = Arc::new(std::sync::Mutex::new(None));
    let tasks: Vec<_> = (0..8)
        .map(|_| {
            let (store, owners) = (place.store.clone(), Arc::clone(&owners));
            tokio::spawn(async move {
                let mut last = 0;
                for _ in 0..60 {
                    let claim = another(&claim(1));
                    let Claimed::Acquired(lease) = store.claim(&claim).await.unwrap() else {
                        continue;
                    };
                    assert!(lease.token.get() > last);
                    last = lease.token.get();
                    assert_eq!(owners.lock().unwrap().replace(claim.nonce), None);
                    assert_eq!(store.renew(&lease).await.unwrap(), Ownership::Held);
                    owners.lock().unwrap().take();
                    let release = store.release(&claim.id, &claim.nonce, Release::MayRunAgain);
                    assert_eq!(release.await.unwrap(), Ownership::Held);
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert!(
        !place.has_open_transaction().await,
        "and no transaction stays open"
    );
}

/// The record's lease has lapsed. A renewal in another session has locked the
/// record's renewals, and then commits its change.
#[tokio::test(flavor = "multi_thread")]
async fn a_takeover_that_meets_a_renewal_leaves_the_lease_to_its_owner() {
    let place = Place::new(4).await;
    let lease = place.acquire(&claim(1)).await;
    place
        .run(
            "UPDATE {t} SET lapses_at = {now} - 1000; \
             INSERT INTO {t}_renewals SELECT id, nonce, {now} - 1000 FROM {t}",
        )
        .await;
    let mut renewal = place.pool.begin().await.unwrap();
    let far = "UPDATE {t}_renewals SET lapses_at = 4000000000000000";
    sqlx::query(sqlx::AssertSqlSafe(place.sql(far)))
        .execute(&mut *renewal)
        .await
        .unwrap();
    let store = place.store.clone();
    let taker = tokio::spawn(async move { store.claim(&another(&claim(1))).await.unwrap() });
    until_one_waits(&place).await;
    renewal.commit().await.unwrap();
    super::is_in_flight(taker.await.unwrap());
    assert_eq!(place.store.renew(&lease).await.unwrap(), Ownership::Held);
}

/// Here a takeover has locked the record's renewals before the renewal arrives.
#[tokio::test(flavor = "multi_thread")]
async fn a_renewal_that_meets_a_takeover_is_lost() {
    for renewed_before in [false, true] {
        let place = Place::new(4).await;
        let lease = place.acquire(&claim(1)).await;
        if renewed_before {
            place.store.renew(&lease).await.unwrap();
        }
        let mut takeover = place.pool.begin().await.unwrap();
        for step in [
            "SELECT 1 FROM {t} FOR UPDATE",
            "INSERT INTO {t}_renewals SELECT id, nonce, 0 FROM {t} \
             ON DUPLICATE KEY UPDATE lapses_at = 0",
        ] {
            sqlx::query(sqlx::AssertSqlSafe(place.sql(step)))
                .execute(&mut *takeover)
                .await
                .unwrap();
        }
        let (store, renewed) = (place.store.clone(), lease.clone());
        let renewal = tokio::spawn(async move { store.renew(&renewed).await.unwrap() });
        until_one_waits(&place).await;
        for step in [
            "UPDATE {t} SET nonce = 'another', token = token + 1",
            "DELETE FROM {t}_renewals",
        ] {
            sqlx::query(sqlx::AssertSqlSafe(place.sql(step)))
                .execute(&mut *takeover)
                .await
                .unwrap();
        }
        takeover.commit().await.unwrap();
        assert_eq!(renewal.await.unwrap(), Ownership::Lost);
        assert_eq!(place.number("SELECT COUNT(*) FROM {t}_renewals").await, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_clock_is_read_after_a_wait() {
    let place = Place::new(4).await;
    let lease = place.acquire(&claim(1)).await;
    let mut locker = place.pool.begin().await.unwrap();
    let lock = place.sql("SELECT 1 FROM {t} FOR UPDATE");
    sqlx::query(sqlx::AssertSqlSafe(lock))
        .fetch_all(&mut *locker)
        .await
        .unwrap();
    let store = place.store.clone();
    let complete = tokio::spawn(async move { store.complete(&lease, &paid("x")).await });
    until_one_waits(&place).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    let unlocked_at = place.number("SELECT {now}").await;
    locker.commit().await.unwrap();
    assert_eq!(complete.await.unwrap().unwrap(), Ownership::Held);
    let ended_at = place.number("SELECT expires_at - kept_for FROM {t}").await;
    assert!(ended_at >= unlocked_at, "{ended_at} {unlocked_at}");
}
