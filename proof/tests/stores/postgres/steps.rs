//! The results of steps, in a table of their own.

use std::time::Duration;

use tower_idempotency::store::{RecordId, RecordedStep, Release, Store};

use super::{Fresh, id, options, pool_with};
use crate::steps::{lease_of, step_claim, steps_go_with_their_record, two_steps};

async fn kept(fresh: &Fresh, id: RecordId) -> i64 {
    let count = format!("SELECT count(*) FROM {{t}}_steps WHERE id = '\\x{id}'");
    fresh.count(&count).await
}

/// Above READ COMMITTED one snapshot serves a whole call.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn steps_go_with_their_record_at_every_isolation() {
    for level in ["read committed", "repeatable read", "serializable"] {
        let fresh = Fresh::new().await;
        let options = options().options([("default_transaction_isolation", level)]);
        let store = fresh.store_on(pool_with(options)).await;
        steps_go_with_their_record(&store, async |id| kept(&fresh, id).await).await;
    }
}

#[tokio::test]
async fn a_purge_removes_the_steps_of_what_it_removes() {
    let fresh = Fresh::new().await;
    let store = fresh.store().await;
    let mut brief = step_claim(id());
    (brief.lease, brief.retention) = (Duration::from_millis(1), Duration::from_millis(1));
    for claim in [&brief, &step_claim(id())] {
        let lease = lease_of(&store, claim).await;
        store.record_step(&lease, &two_steps()[0]).await.unwrap();
    }
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert_eq!(store.purge().await.unwrap(), 1);
    assert_eq!(kept(&fresh, brief.id).await, 0);
    assert_eq!(fresh.count("SELECT count(*) FROM {t}_steps").await, 1);
}

/// Somebody removes records by hand, and leaves their steps.
#[tokio::test]
async fn the_steps_of_an_earlier_record_mean_nothing() {
    let fresh = Fresh::new().await;
    let store = fresh.store().await;
    let before = lease_of(&store, &step_claim(id())).await;
    let step = RecordedStep::new("charge", "1");
    store.record_step(&before, &step).await.unwrap();
    fresh.run("DELETE FROM {t}").await;
    let lease = lease_of(&store, &step_claim(before.claim.id)).await;
    let own = RecordedStep::new("charge", "2");
    store.record_step(&lease, &own).await.unwrap();
    let release = store.release(&lease.claim.id, &lease.claim.nonce, Release::MayRunAgain);
    release.await.unwrap();
    let next = lease_of(&store, &step_claim(before.claim.id)).await;
    assert_eq!(next.steps, [own]);
}

/// A step does not wait for a renewal, nor for a step of a transaction that is open; who takes
/// over does not wait either, and finds the record in flight.
#[tokio::test]
async fn an_open_transaction_with_a_step_holds_up_changes_of_the_record_alone() {
    let fresh = Fresh::new().await;
    let store = fresh.store().await;
    let mut short = step_claim(id());
    short.lease = Duration::from_millis(1);
    let lease = lease_of(&store, &short).await;
    let mut transaction = fresh.pool.begin().await.unwrap();
    let record = fresh.sql("SELECT {t}_record_step($1, $2, 'reserve', '1')");
    let held: bool = sqlx::query_scalar(record)
        .bind(&lease.claim.id.as_bytes()[..])
        .bind(&lease.claim.nonce.as_bytes()[..])
        .fetch_one(&mut *transaction)
        .await
        .unwrap();
    assert!(held);
    tokio::time::sleep(Duration::from_millis(5)).await;
    let other = tokio::time::timeout(Duration::from_secs(5), async {
        let charge = RecordedStep::new("charge", "2");
        store.record_step(&lease, &charge).await.unwrap();
        store.claim(&step_claim(lease.claim.id)).await.unwrap()
    });
    let other = other.await.expect("neither waits");
    assert!(
        matches!(&other, tower_idempotency::store::Claimed::Found(_)),
        "{other:?}"
    );
    transaction.commit().await.unwrap();
    let next = lease_of(&store, &step_claim(lease.claim.id)).await;
    let names: Vec<_> = next.steps.iter().map(|step| &*step.name).collect();
    assert_eq!(names, ["reserve", "charge"]);
}
