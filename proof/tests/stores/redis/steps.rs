//! The results of steps, in the record's own hash.

use tower_idempotency::store::{RecordedStep, Store, StoreErrorKind};

use super::own_server::OwnServer;
use super::{claim, open, prefix};
use crate::servers;
use crate::steps::{lease_of, step_claim, steps_go_with_their_record, two_steps};

/// The fields of a step beside the one that lists them.
fn kept(server: &OwnServer, key: &str) -> i64 {
    let fields = server.run(&format!("HKEYS {key}"));
    let steps = fields.lines().filter(|field| field.starts_with("step:"));
    i64::try_from(steps.count()).unwrap()
}

#[tokio::test]
async fn steps_stay_and_go_with_their_record() {
    let server = OwnServer::start(&[]);
    let store = server.open().await;
    let kept = async |id| kept(&server, &format!("idempotency:{id}"));
    steps_go_with_their_record(&store, kept).await;
}

/// Every key of a script is the record's own, so that no other node has a part of it.
#[tokio::test]
async fn a_cluster_keeps_steps_with_their_record() {
    let url = servers::url("TEST_REDIS_CLUSTER_URL");
    let store = open(&url, &prefix()).await;
    for _ in 0..20 {
        let first = lease_of(&store, &claim()).await;
        for step in two_steps() {
            store.record_step(&first, &step).await.unwrap();
        }
        let nonce = first.claim.nonce;
        let release = store.release(
            &first.claim.id,
            &nonce,
            tower_idempotency::store::Release::MayRunAgain,
        );
        release.await.unwrap();
        let next = lease_of(&store, &step_claim(first.claim.id)).await;
        assert_eq!(next.steps, two_steps());
    }
}

#[tokio::test]
async fn steps_that_another_program_wrote_are_not_taken_for_none() {
    let server = OwnServer::start(&[]);
    let store = server.open().await;
    let lease = lease_of(&store, &claim()).await;
    let key = format!("idempotency:{}", lease.claim.id);
    server.run(&format!("HSET {key} steps 99:charge"));
    let step = RecordedStep::new("mail", "1");
    let error = store.record_step(&lease, &step).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Unreadable);
    let error = store.claim(&lease.claim).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Unreadable);
}
