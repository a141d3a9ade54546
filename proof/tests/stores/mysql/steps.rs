//! The results of steps, in a table of their own.

use std::time::Duration;

use tower_idempotency::store::{Claimed, RecordId, RecordedStep, Release, Store};

use super::Place;
use crate::steps::{lease_of, step_claim, steps_go_with_their_record, two_steps};

async fn kept(place: &Place, id: RecordId) -> i64 {
    let count = format!("SELECT COUNT(*) FROM {{t}}_steps WHERE id = x'{id}'");
    place.number(&count).await
}

fn id() -> RecordId {
    RecordId::from_bytes(rand::random())
}

#[tokio::test]
async fn steps_stay_and_go_with_their_record() {
    let place = Place::new(4).await;
    steps_go_with_their_record(&place.store, async |id| kept(&place, id).await).await;
}

#[tokio::test]
async fn a_purge_removes_the_steps_of_what_it_removes() {
    let place = Place::new(2).await;
    let mut brief = step_claim(id());
    (brief.lease, brief.retention) = (Duration::from_millis(1), Duration::from_millis(1));
    for claim in [&brief, &step_claim(id())] {
        let lease = lease_of(&place.store, claim).await;
        let step = &two_steps()[0];
        place.store.record_step(&lease, step).await.unwrap();
    }
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert_eq!(place.store.purge().await.unwrap(), 1);
    assert_eq!(kept(&place, brief.id).await, 0);
    assert_eq!(place.number("SELECT COUNT(*) FROM {t}_steps").await, 1);
}

/// Somebody removes records by hand, and leaves their steps.
#[tokio::test]
async fn the_steps_of_an_earlier_record_mean_nothing() {
    let place = Place::new(2).await;
    let store = &place.store;
    let before = lease_of(store, &step_claim(id())).await;
    let step = RecordedStep::new("charge", "1");
    store.record_step(&before, &step).await.unwrap();
    place.run("DELETE FROM {t}").await;
    let lease = lease_of(store, &step_claim(before.claim.id)).await;
    let own = RecordedStep::new("charge", "2");
    store.record_step(&lease, &own).await.unwrap();
    let release = store.release(&lease.claim.id, &lease.claim.nonce, Release::MayRunAgain);
    release.await.unwrap();
    let next = lease_of(store, &step_claim(before.claim.id)).await;
    assert_eq!(next.steps, [own]);
}

/// A step does not wait for a step of a transaction that is open; who takes over does not wait
/// either, and finds the record in flight. Nor does the transaction wait for others' steps.
#[tokio::test]
async fn an_open_transaction_with_a_step_holds_up_changes_of_the_record_alone() {
    for level in ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"] {
        let place = Place::new(4).await;
        let store = &place.store;
        let mut short = step_claim(id());
        short.lease = Duration::from_millis(1);
        let lease = lease_of(store, &short).await;
        let mut connection = place.pool.acquire().await.unwrap();
        let begin = format!("SET TRANSACTION ISOLATION LEVEL {level}; START TRANSACTION");
        let run = async |connection: &mut sqlx::MySqlConnection, statement: &str| {
            let statement = sqlx::AssertSqlSafe(place.sql(statement));
            sqlx::raw_sql(statement).execute(connection).await.unwrap();
        };
        run(&mut connection, &begin).await;
        let nonce = u128::from_be_bytes(*lease.claim.nonce.as_bytes());
        let call = format!(
            "CALL {{t}}_record_step(x'{}', x'{nonce:032x}', 'reserve', '1', 1)",
            lease.claim.id
        );
        run(&mut connection, &call).await;
        tokio::time::sleep(Duration::from_millis(5)).await;
        let other = tokio::time::timeout(Duration::from_secs(5), async {
            let charge = RecordedStep::new("charge", "2");
            store.record_step(&lease, &charge).await.unwrap();
            let elsewhere = lease_of(store, &step_claim(id())).await;
            store.record_step(&elsewhere, &charge).await.unwrap();
            store.claim(&step_claim(lease.claim.id)).await.unwrap()
        });
        let other = other.await.expect("nobody waits");
        assert!(matches!(&other, Claimed::Found(_)), "{level}: {other:?}");
        run(&mut connection, "COMMIT").await;
        let next = lease_of(store, &step_claim(lease.claim.id)).await;
        let names: Vec<_> = next.steps.iter().map(|step| &*step.name).collect();
        assert_eq!(names, ["reserve", "charge"], "{level}");
    }
}
