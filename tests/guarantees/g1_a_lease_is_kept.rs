//! G1: what renews the lease of a running operation, and for how long.

use http::Response;
use tokio::time::sleep;
use tower::{Layer, ServiceExt};
use tower_idempotency::options::OnOversize;

use crate::owners::{First, LEASE, Owners, SECOND, begin};
use crate::support::body::Script;
use crate::support::store::{Fault, Op, Steered};
use crate::support::{Runs, Seen, builder, handler, post, protected, send, with_policy};

#[tokio::test(start_paused = true)]
async fn renewals_keep_the_lease_of_a_long_operation_alive() {
    for store in [Steered::unguarded(), Steered::new()] {
        let owners = Owners::new();
        let app = protected(&store).layer(owners.service(First::Answers));
        let first = begin(&app);
        owners.gate.begun().await;
        for _ in 0..50 {
            sleep(LEASE / 10).await;
            let retry = send(&app, post("k", "{}")).await;
            assert_eq!(retry.refusal(), "409 in-flight");
        }
        owners.gate.open();
        let first = Seen::whole(first.await.unwrap().unwrap()).await;
        first.assert_fresh("run 1");
        assert!(!owners.context(1).is_lost());
        send(&app, post("k", "{}")).await.assert_replays(&first);
    }
}

#[tokio::test(start_paused = true)]
async fn a_lease_is_renewed_after_a_third_of_it_and_not_once_its_operation_ended() {
    let store = Steered::unguarded();
    let owners = Owners::new();
    let app = protected(&store).layer(owners.service(First::Answers));
    let first = begin(&app);
    owners.gate.begun().await;
    sleep(LEASE / 3 - SECOND).await;
    assert_eq!(store.calls(Op::Renew), 0);
    sleep(LEASE / 6 + SECOND).await;
    assert_eq!(store.calls(Op::Renew), 1);
    sleep(LEASE * 2).await;
    let renewals = store.calls(Op::Renew);
    assert!((5..=7).contains(&renewals), "{renewals}");
    owners.gate.open();
    first.await.unwrap().unwrap();
    sleep(LEASE * 10).await;
    assert_eq!(store.calls(Op::Renew), renewals);
}

/// The renewals are sent at the same time. One after the other they would be
/// too late.
#[tokio::test(start_paused = true)]
async fn leases_of_many_operations_are_kept_by_a_store_that_answers_late() {
    let store = Steered::unguarded();
    store.make(Op::Renew, Fault::Late(SECOND * 2 - SECOND / 10));
    let owners = Owners::new();
    let layer = with_policy(&store, |options| options.lease(SECOND * 6));
    let app = layer.layer(owners.service(First::Answers));
    let keys: Vec<_> = (0..200).map(|key| format!("key {key}")).collect();
    for key in &keys {
        tokio::spawn(app.clone().oneshot(post(key, "{}")));
        owners.gate.begun().await;
    }
    for _ in 0..10 {
        sleep(SECOND * 3).await;
        for key in &keys {
            let retry = send(&app, post(key, "{}")).await;
            assert_eq!(retry.refusal(), "409 in-flight", "{key}");
        }
    }
    assert_eq!(owners.count(), keys.len());
}

/// The future of an operation is not polled while its client reads nothing, or
/// if a task puts the future aside.
#[tokio::test(start_paused = true)]
async fn a_lease_is_renewed_while_nobody_polls_its_operation() {
    let store = Steered::unguarded();
    let owners = Owners::new();
    let app = protected(&store).layer(owners.service(First::Answers));
    let mut first = Box::pin(app.clone().oneshot(post("k", "{}")));
    assert!(tokio::time::timeout(SECOND, &mut first).await.is_err());
    sleep(LEASE * 3).await;
    let retry = send(&app, post("k", "{}")).await;
    assert_eq!(retry.refusal(), "409 in-flight");
    owners.gate.open();
    Seen::whole(first.await.unwrap())
        .await
        .assert_fresh("run 1");
    assert_eq!(owners.count(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_renewal_that_panics_is_tried_again() {
    let store = Steered::unguarded();
    let owners = Owners::new();
    let app = protected(&store).layer(owners.service(First::Answers));
    let first = begin(&app);
    owners.gate.begun().await;
    store.make(Op::Renew, Fault::Panics);
    sleep(LEASE / 2).await;
    assert!(store.calls(Op::Renew) >= 1);
    store.heal(Op::Renew);
    for _ in 0..6 {
        sleep(LEASE / 2).await;
        let retry = send(&app, post("k", "{}")).await;
        assert_eq!(retry.refusal(), "409 in-flight");
    }
    owners.gate.open();
    assert_eq!(first.await.unwrap().unwrap().status(), 201);
}

/// A server may have several runtimes and lose one of them. Here it loses the
/// runtime of the first operation, on which the renewer runs.
fn leases_are_kept_without_the_first_runtime(in_the_middle_of_renewals: bool) {
    let runtime = || {
        tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap()
    };
    let (gone, stays) = (runtime(), runtime());
    let store = stays.block_on(async { Steered::unguarded() });
    let owners = Owners::new();
    // The timeout is so long that no renewal is given up.
    let layer = builder(&store).store_timeout(LEASE * 100).build().unwrap();
    let app = layer.layer(owners.service(First::Answers));
    gone.block_on(async {
        tokio::spawn(app.clone().oneshot(post("other", "{}")));
        owners.gate.begun().await;
    });
    let first = {
        let _entered = stays.enter();
        begin(&app)
    };
    stays.block_on(owners.gate.begun());
    if in_the_middle_of_renewals {
        store.make(Op::Renew, Fault::Stalls);
        gone.block_on(async { sleep(LEASE / 2 + SECOND).await });
        assert_eq!(store.calls(Op::Renew), 2, "one of each operation");
        store.heal(Op::Renew);
    }
    gone.shutdown_background();
    stays.block_on(async {
        for _ in 0..6 {
            sleep(LEASE / 2).await;
            let retry = tokio::time::timeout(SECOND, send(&app, post("k", "{}"))).await;
            let retry = retry.expect("overtaken: its lease was not renewed");
            assert_eq!(retry.refusal(), "409 in-flight");
        }
        owners.gate.open();
        assert_eq!(first.await.unwrap().unwrap().status(), 201);
    });
}

#[test]
fn leases_are_renewed_after_the_runtime_that_saw_the_first_operation_has_gone() {
    leases_are_kept_without_the_first_runtime(false);
}

#[test]
fn leases_are_renewed_after_a_runtime_has_gone_in_the_middle_of_renewals() {
    leases_are_kept_without_the_first_runtime(true);
}

#[tokio::test(start_paused = true)]
async fn max_operation_ends_renewals() {
    for (store, free_by) in [
        // The last renewal is sent before `max_operation` is over, and its
        // lease lapses a whole lease later.
        (Steered::unguarded(), LEASE * 2 + LEASE),
        // The guard that keeps the lease alive in this store is dropped.
        (Steered::new(), LEASE * 2 + LEASE / 6),
    ] {
        let owners = Owners::new();
        let layer = with_policy(&store, |options| {
            options.lease(LEASE).max_operation(LEASE * 2)
        });
        let app = layer.layer(owners.service(First::Answers));
        let first = begin(&app);
        owners.gate.begun().await;
        sleep(LEASE * 2 - SECOND).await;
        let retry = send(&app, post("k", "{}")).await;
        assert_eq!(retry.refusal(), "409 in-flight");

        sleep(free_by - LEASE * 2 + SECOND * 2).await;
        let second = begin(&app);
        owners.gate.begun().await;
        assert_eq!(owners.context(2).attempt(), 2);
        owners.gate.open();
        let first = Seen::whole(first.await.unwrap().unwrap()).await;
        assert_eq!(first.refusal(), "409 in-flight");
        owners.gate.open();
        assert_eq!(second.await.unwrap().unwrap().status(), 201);
    }
}

#[tokio::test(start_paused = true)]
async fn an_operation_that_ran_for_too_long_and_was_not_overtaken_is_recorded() {
    for store in [Steered::unguarded(), Steered::new()] {
        let owners = Owners::new();
        let layer = with_policy(&store, |options| options.max_operation(LEASE));
        let app = layer.layer(owners.service(First::Answers));
        let first = begin(&app);
        owners.gate.begun().await;
        sleep(LEASE * 4).await;
        owners.gate.open();
        let first = Seen::whole(first.await.unwrap().unwrap()).await;
        first.assert_fresh("run 1");
        send(&app, post("k", "{}")).await.assert_replays(&first);
    }
}

/// A response that is too large to record is delivered as fast as its client
/// reads, and its operation runs until then.
#[tokio::test(start_paused = true)]
async fn an_answer_that_nobody_reads_holds_its_key_no_longer_than_max_operation() {
    for store in [Steered::unguarded(), Steered::new()] {
        let runs = Runs::default();
        let layer = with_policy(&store, |options| {
            options
                .oversize(OnOversize::Rerun)
                .max_recorded_body(3)
                .max_operation(LEASE * 2)
        });
        // The response is larger than what the layer reads ahead of a client
        // that does not read.
        let app = layer.layer(handler(&runs, |_, _| {
            Response::new(Script::frames(vec![vec![b'x'; 64 << 10]; 3]))
        }));
        let unread = app.clone().oneshot(post("k", "{}")).await.unwrap();
        for _ in 0..5 {
            sleep(LEASE / 3).await;
            let retry = send(&app, post("k", "{}")).await;
            assert_eq!(retry.refusal(), "409 in-flight");
        }
        sleep(LEASE * 2).await;
        let second = send(&app, post("k", "{}")).await;
        assert_eq!((runs.count(), second.body.len()), (2, 3 * (64 << 10)));
        drop(unread);
    }
}
