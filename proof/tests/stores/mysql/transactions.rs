//! In these tests a handler's own transaction has locked the record's row, or will
//! lock the row.

use std::time::Duration;

use sqlx::{AssertSqlSafe, MySql, Transaction};
use tower_idempotency::store::{Ownership, Store};

use super::{Place, another, claim, is_in_flight, paid};

async fn step(transaction: &mut Transaction<'_, MySql>, place: &Place, statement: &str) {
    sqlx::raw_sql(AssertSqlSafe(place.sql(statement)))
        .execute(&mut **transaction)
        .await
        .unwrap();
}

async fn soon<T>(answer: impl Future<Output = T>) -> T {
    let answer = tokio::time::timeout(Duration::from_secs(10), answer).await;
    answer.expect("an answer without waiting for the transaction")
}

#[tokio::test]
async fn a_claim_does_not_wait_for_a_transaction_that_has_the_row() {
    for before in [
        "UPDATE {t} SET state = 5",
        "UPDATE {t} SET lapses_at = {now} - 1000",
        "UPDATE {t} SET lapses_at = 1, expires_at = 1, retention = 1",
        "UPDATE {t} SET state = 3, expires_at = 1",
    ] {
        let place = Place::new(2).await;
        let first = claim(1);
        place.acquire(&first).await;
        place.run(before).await;
        let mut handler = place.pool.begin().await.unwrap();
        step(&mut handler, &place, "UPDATE {t} SET token = token + 1").await;
        let mut other = another(&first);
        is_in_flight(soon(place.store.claim(&other)).await.unwrap());
        if !before.starts_with("UPDATE {t} SET lapses_at = {now}") {
            // Another fingerprint does not lead to a mismatch either, because
            // nobody knows yet which record the transaction will leave.
            other.fingerprint = tower_idempotency::store::Fingerprint::from_bytes([1; 32]);
            is_in_flight(soon(place.store.claim(&other)).await.unwrap());
        }
        handler.rollback().await.unwrap();
        place.acquire(&another(&first)).await;
    }
}

#[tokio::test]
async fn a_renewal_neither_waits_for_a_handlers_transaction_nor_breaks_it() {
    for level in ["REPEATABLE READ", "SERIALIZABLE"] {
        let place = Place::new(2).await;
        let lease = place.acquire(&claim(1)).await;
        let mut connection = place.pool.acquire().await.unwrap();
        for setting in [
            format!("SET SESSION TRANSACTION ISOLATION LEVEL {level}"),
            // MariaDB has this setting since 10.6.18, and it is on by default since
            // 11.6: changing a row that has changed since the snapshot is an error.
            "SET SESSION innodb_snapshot_isolation = ON".to_owned(),
        ] {
            let set = sqlx::raw_sql(AssertSqlSafe(setting));
            let _ = set.execute(&mut *connection).await;
        }
        let mut handler = sqlx::Connection::begin(&mut *connection).await.unwrap();
        if level == "SERIALIZABLE" {
            step(&mut handler, &place, "SELECT 1 FROM {t} FOR UPDATE").await;
        } else {
            step(&mut handler, &place, "SELECT 1 FROM {t}").await;
        }
        let renewal = soon(place.store.renew(&lease)).await.unwrap();
        assert_eq!(renewal, Ownership::Held);
        step(&mut handler, &place, "UPDATE {t} SET state = 4").await;
        // The transaction has locked the row by now, and renewals still work.
        let renewal = soon(place.store.renew(&lease)).await.unwrap();
        assert_eq!(renewal, Ownership::Held);
        is_in_flight(soon(place.store.claim(&another(&claim(1)))).await.unwrap());
        handler.commit().await.unwrap();
        assert_eq!(place.store.renew(&lease).await.unwrap(), Ownership::Held);
        assert_eq!(
            place.store.complete(&lease, &paid("x")).await.unwrap(),
            Ownership::Held
        );
        assert_eq!(place.number("SELECT state FROM {t}").await, 4);
    }
}
