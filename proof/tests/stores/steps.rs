//! What holds of steps on every store that several processes can share: the tests of each store
//! run this.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::StatusCode;
use tower_idempotency::store::{
    Claim, Claimed, Completion, Fingerprint, ForgetMode, Lease, Outcome, Ownership, RecordId,
    RecordedStep, Release, ScopeDigest, Store,
};

pub(crate) fn step_claim(id: RecordId) -> Claim {
    let scope = ScopeDigest::from_bytes([2; 32]);
    Claim::new(id, scope, Fingerprint::from_bytes([3; 32]))
}

pub(crate) async fn lease_of(store: &impl Store, claim: &Claim) -> Lease {
    match store.claim(claim).await.unwrap() {
        Claimed::Acquired(lease) => lease,
        other => panic!("{other:?}"),
    }
}

/// Steps whose names and results are not simple.
pub(crate) fn two_steps() -> [RecordedStep; 2] {
    let large: Vec<u8> = (0..=u8::MAX).cycle().take(64 << 10).collect();
    [
        RecordedStep::new("charge: 12:\0 \u{e9}", large),
        RecordedStep::new("a".repeat(3000), ""),
    ]
}

async fn record_both(store: &impl Store, lease: &Lease) {
    for step in two_steps() {
        for _ in 0..2 {
            let recorded = store.record_step(lease, &step).await.unwrap();
            assert_eq!(recorded, Ownership::Held);
        }
    }
    let again = RecordedStep::new(&*two_steps()[0].name, "another result");
    let recorded = store.record_step(lease, &again).await.unwrap();
    assert_eq!(recorded, Ownership::Held);
}

/// Steps stay as long as their operation may run again, and not longer. `kept` returns how many
/// there are of a record.
pub(crate) async fn steps_go_with_their_record(
    store: &impl Store,
    kept: impl AsyncFn(RecordId) -> i64,
) {
    assert!(store.keeps_steps());
    let lost = async |lease: &Lease| {
        let step = RecordedStep::new("late", "result");
        let recorded = store.record_step(lease, &step).await.unwrap();
        assert_eq!(recorded, Ownership::Lost);
    };
    for by_forgetting in [false, true] {
        let id = RecordId::from_bytes(rand::random());
        let first = lease_of(store, &step_claim(id)).await;
        record_both(store, &first).await;
        assert_eq!(kept(id).await, 2);
        // The same claim again, as a driver may send it.
        assert_eq!(lease_of(store, &first.claim).await.steps, two_steps());

        for how in [Release::MayRunAgain, Release::OutcomeUnknown] {
            let lease = lease_of(store, &first.claim).await;
            let nonce = lease.claim.nonce;
            let released = store.release(&id, &nonce, how).await.unwrap();
            assert_eq!(released, Ownership::Held);
            lost(&lease).await;
            assert_eq!(kept(id).await, 2);
        }
        let mut short = step_claim(id);
        short.lease = Duration::from_millis(1);
        let second = lease_of(store, &short).await;
        assert_eq!(second.steps, two_steps());
        lost(&first).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
        // A lapsed owner that nobody has overtaken records steps.
        let late = RecordedStep::new("mail", "\"sent\"");
        let recorded = store.record_step(&second, &late).await.unwrap();
        assert_eq!(recorded, Ownership::Held);
        let last = lease_of(store, &step_claim(id)).await;
        let [charge, mail] = two_steps();
        assert_eq!(last.steps, [charge, mail, late]);
        lost(&second).await;

        if by_forgetting {
            store.forget(&id, ForgetMode::Forced).await.unwrap();
        } else {
            let paid = Completion::new(StatusCode::OK, "paid", SystemTime::now());
            let outcome = Outcome::Completed(Arc::new(paid));
            let completed = store.complete(&last, &outcome).await.unwrap();
            assert_eq!(completed, Ownership::Held);
        }
        lost(&last).await;
        assert_eq!(kept(id).await, 0);
    }
    a_new_operation_has_none(store, &kept).await;
}

/// A record past its end begins anew under its id.
async fn a_new_operation_has_none(store: &impl Store, kept: &impl AsyncFn(RecordId) -> i64) {
    let mut brief = step_claim(RecordId::from_bytes(rand::random()));
    (brief.lease, brief.retention) = (Duration::from_millis(50), Duration::from_millis(50));
    let before = lease_of(store, &brief).await;
    record_both(store, &before).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    let lease = lease_of(store, &step_claim(brief.id)).await;
    assert_eq!((lease.attempt, lease.steps.len()), (1, 0));
    assert_eq!(kept(brief.id).await, 0);
    let nonce = lease.claim.nonce;
    let release = store.release(&brief.id, &nonce, Release::MayRunAgain);
    release.await.unwrap();
    let lease = lease_of(store, &step_claim(brief.id)).await;
    assert_eq!((lease.attempt, lease.steps.len()), (2, 0));
}
