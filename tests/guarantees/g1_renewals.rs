//! G1: renewals that come in time, though some stall or cross what else is
//! said to the store.

use std::time::Duration;

use tokio::time::sleep;
use tower::Layer;

use crate::owners::{First, Owners, SECOND, begin};
use crate::support::store::{Fault, Op, Steered};
use crate::support::{Seen, builder, post, send, with_policy};

/// It counted from when the claim was answered, while the lease counts from
/// when it was made: between the two the key was free to be taken over.
#[tokio::test(start_paused = true)]
async fn the_first_renewal_counts_from_when_the_claim_was_sent() {
    let store = Steered::unguarded();
    let owners = Owners::new();
    let layer = with_policy(&store, |options| options.lease(SECOND * 2));
    let app = layer.layer(owners.service(First::Answers));
    store.make(Op::Claim, Fault::Late(SECOND * 3 / 2));
    let first = begin(&app);
    owners.gate.begun().await;
    store.heal(Op::Claim);
    for _ in 0..100 {
        sleep(SECOND / 20).await;
        let retry = send(&app, post("k", "{}")).await;
        assert_eq!(retry.refusal(), "409 in-flight");
    }
    owners.gate.open();
    let first = Seen::whole(first.await.unwrap().unwrap()).await;
    first.assert_fresh("run 1");
    assert_eq!(owners.count(), 1);
}

/// It had `store_timeout`, and the lease lapsed before the next was sent.
#[tokio::test(start_paused = true)]
async fn a_renewal_that_stalls_leaves_time_for_the_next() {
    let store = Steered::unguarded();
    let owners = Owners::new();
    let layer = builder(&store)
        .store_timeout(SECOND * 10)
        .defaults(|options| options.lease(SECOND * 6))
        .build()
        .unwrap();
    let app = layer.layer(owners.service(First::Answers));
    let first = begin(&app);
    owners.gate.begun().await;
    store.make(Op::Renew, Fault::Stalls);
    sleep(SECOND * 3).await;
    assert_eq!(store.calls(Op::Renew), 1, "it is under way");
    store.heal(Op::Renew);
    for _ in 0..60 {
        sleep(SECOND / 4).await;
        let retry = send(&app, post("k", "{}")).await;
        assert_eq!(retry.refusal(), "409 in-flight");
    }
    owners.gate.open();
    let first = Seen::whole(first.await.unwrap().unwrap()).await;
    first.assert_fresh("run 1");
    assert_eq!(owners.count(), 1);
}

/// The store had no lease of its any more, which the owner took for another's,
/// and its client was told `in-flight` in the place of the answer.
#[tokio::test(start_paused = true)]
async fn a_renewal_that_crosses_a_release_does_not_make_its_owner_one_overtaken() {
    let millis = Duration::from_millis;
    for (ends, renewed, renewals) in [
        // It would be due while the release is on its way.
        (millis(900), None, 0),
        // It is sent before the release, and arrives after it.
        (millis(1200), Some(Fault::ArrivesLate(SECOND / 2)), 1),
    ] {
        let store = Steered::unguarded();
        store.make(Op::Release, Fault::Late(SECOND));
        if let Some(fault) = renewed {
            store.make(Op::Renew, fault);
        }
        let owners = Owners::new();
        let layer = with_policy(&store, |options| options.lease(SECOND * 3));
        let app = layer.layer(owners.service(First::Transient));
        let first = begin(&app);
        owners.gate.begun().await;
        sleep(ends).await;
        owners.gate.open();
        let first = Seen::whole(first.await.unwrap().unwrap()).await;
        assert_eq!((first.status, first.text()), (503, "later"));
        assert!(!owners.context(1).is_lost());
        assert_eq!(store.calls(Op::Renew), renewals);
    }
}
