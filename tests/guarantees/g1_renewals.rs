//! G1: renewals arrive in time, although some stall, or arrive in another order
//! than they were sent relative to a release.

use std::time::Duration;

use tokio::time::sleep;
use tower::{Layer, ServiceExt};
use tower_idempotency::store::{ForgetMode, Forgotten, Store, StoreErrorKind};

use crate::owners::{First, Owners, SECOND, begin};
use crate::support::log::Log;
use crate::support::store::{Fault, Op, Steered};
use crate::support::{Seen, builder, post, send, with_policy};

/// The lease counts from the time when the claim was made. In an earlier
/// version the first renewal counted from the time when the store had responded
/// to the claim, so the lease could lapse before that renewal.
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

/// In an earlier version a renewal could take the whole `store_timeout`, and
/// the lease lapsed before the next renewal was sent.
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

/// After the release the store no longer holds the lease. In an earlier version
/// the owner concluded from this that it was overtaken, and its client got
/// `in-flight` instead of the response.
#[tokio::test(start_paused = true)]
async fn a_renewal_that_crosses_a_release_does_not_make_its_owner_one_overtaken() {
    let millis = Duration::from_millis;
    for (ends, renewed, renewals) in [
        // The next renewal would be due while the release is on its way.
        (millis(900), None, 0),
        // The renewal is sent before the release and arrives after it.
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

/// A store that says `Lost` has said it all.
#[tokio::test(start_paused = true)]
async fn a_lease_that_was_lost_is_not_renewed_again() {
    let store = Steered::unguarded();
    let owners = Owners::new();
    let app = with_policy(&store, |options| options).layer(owners.service(First::Answers));
    let first = begin(&app);
    owners.gate.begun().await;
    let id = store.claims()[0].id;
    let forgotten = store.memory.forget(&id, ForgetMode::Forced).await;
    assert_eq!(forgotten.unwrap(), Forgotten::Gone);
    sleep(SECOND * 300).await;
    assert_eq!(store.calls(Op::Renew), 1);
    assert!(owners.context(1).is_lost());
    first.abort();
}

#[tokio::test(start_paused = true)]
async fn one_task_renews_the_leases_of_all_operations() {
    let store = Steered::unguarded();
    let owners = Owners::new();
    let app = with_policy(&store, |options| options).layer(owners.service(First::Answers));
    let alive = || {
        tokio::runtime::Handle::current()
            .metrics()
            .num_alive_tasks()
    };
    let mut running = Vec::new();
    for key in 0..20 {
        let request = post(&format!("k{key}"), "{}");
        running.push(tokio::spawn(app.clone().oneshot(request)));
        owners.gate.begun().await;
    }
    // Between two renewals.
    sleep(SECOND).await;
    assert_eq!(alive(), running.len() + 1);
    for first in running {
        owners.gate.open();
        assert_eq!(first.await.unwrap().unwrap().status(), 201);
    }
    sleep(SECOND * 30).await;
    assert_eq!(alive(), 0);
}

/// Its own renewals ended with `max_operation`. A completion that is tried again needs others.
#[tokio::test(start_paused = true)]
async fn while_a_late_completion_is_tried_again_its_lease_is_renewed() {
    let store = Steered::unguarded();
    let owners = Owners::new();
    let layer = with_policy(&store, |options| options.max_operation(SECOND * 60));
    let app = layer.layer(owners.service(First::Answers));
    let first = begin(&app);
    owners.gate.begun().await;
    sleep(SECOND * 66).await;
    store.make(Op::Complete, Fault::Fails(StoreErrorKind::NotSent));
    owners.gate.open();
    let first = Seen::whole(first.await.unwrap().unwrap()).await;
    assert_eq!(first.lacks(), Some("unrecorded"));
    for _ in 0..50 {
        sleep(SECOND).await;
        let retry = send(&app, post("k", "{}")).await;
        assert_eq!(retry.refusal(), "409 in-flight");
    }
    assert_eq!(owners.count(), 1);
    store.heal(Op::Complete);
    sleep(SECOND * 6).await;
    assert!(send(&app, post("k", "{}")).await.is_replay());
}

#[tokio::test(start_paused = true)]
async fn a_lease_is_renewed_whenever_a_third_of_it_is_over() {
    let store = Steered::unguarded();
    let owners = Owners::new();
    let layer = with_policy(&store, |options| options.lease(SECOND * 6));
    let app = layer.layer(owners.service(First::Answers));
    let first = begin(&app);
    owners.gate.begun().await;
    sleep(SECOND / 10).await;
    for renewals in 1..10 {
        sleep(SECOND * 2 - SECOND / 5).await;
        assert_eq!(store.calls(Op::Renew), renewals - 1);
        sleep(SECOND / 5).await;
        assert_eq!(store.calls(Op::Renew), renewals);
    }
    first.abort();
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_is_shorter_than_those_of_other_routes_is_renewed_in_time() {
    let store = Steered::unguarded();
    let owners = Owners::new();
    let layer = builder(&store)
        .defaults(|options| options.lease(SECOND * 300))
        .route("/payments", |options| options.lease(SECOND * 3))
        .route("/other", |options| options.lease(SECOND * 300))
        .build()
        .unwrap();
    let app = layer.layer(owners.service(First::Answers));
    let first = begin(&app);
    owners.gate.begun().await;
    for _ in 0..60 {
        sleep(SECOND).await;
        let retry = send(&app, post("k", "{}")).await;
        assert_eq!(retry.refusal(), "409 in-flight");
    }
    first.abort();
}

/// A renewal may take a third of the lease, and is then sent again.
#[tokio::test(start_paused = true)]
async fn a_renewal_has_a_third_of_the_lease_to_arrive() {
    let store = Steered::unguarded();
    let owners = Owners::new();
    let layer = builder(&store)
        .store_timeout(SECOND * 10)
        .defaults(|options| options.lease(SECOND * 6))
        // Leases are looked at twice a second.
        .route("/other", |options| options.lease(SECOND * 3))
        .build()
        .unwrap();
    let app = layer.layer(owners.service(First::Answers));
    store.make(Op::Renew, Fault::ArrivesLate(SECOND * 19 / 10));
    let first = begin(&app);
    owners.gate.begun().await;
    // Between two looks.
    sleep(SECOND / 4).await;
    for _ in 0..60 {
        sleep(SECOND).await;
        let retry = send(&app, post("k", "{}")).await;
        assert_eq!(retry.refusal(), "409 in-flight");
    }
    store.make(Op::Renew, Fault::Stalls);
    // The one that is on its way arrives, and the next never does.
    sleep(SECOND * 2).await;
    let calls = store.calls(Op::Renew);
    sleep(SECOND * 5 / 2).await;
    assert_eq!(store.calls(Op::Renew), calls + 1);
    first.abort();
}

#[tokio::test(start_paused = true)]
async fn a_renewal_that_fails_once_its_operation_has_ended_is_not_logged() {
    for (fails, logged) in [(SECOND / 10, true), (SECOND / 2, false)] {
        let log = Log::default();
        let _listening = log.listen();
        let store = Steered::unguarded();
        let owners = Owners::new();
        let layer = with_policy(&store, |options| options.lease(SECOND * 3));
        let app = layer.layer(owners.service(First::Answers));
        store.make(Op::Renew, Fault::FailsLate(fails));
        let first = begin(&app);
        owners.gate.begun().await;
        sleep(SECOND * 6 / 5).await;
        owners.gate.open();
        assert_eq!(first.await.unwrap().unwrap().status(), 201);
        sleep(SECOND).await;
        assert_eq!(store.calls(Op::Renew), 1);
        let text = log.text();
        assert_eq!(text.contains("was not renewed"), logged, "{text}");
    }
}
