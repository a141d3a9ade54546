//! The options `lease`, `max_operation`, `retention` and `on_lapsed_lease`, for
//! each route.

use std::time::Duration;

use tokio::time::sleep;
use tower::{Layer, ServiceExt};
use tower_idempotency::IdempotencyLayer;
use tower_idempotency::options::OnLapsedLease;

use crate::support::store::{Fault, Op, Steered};
use crate::support::{Gate, Runs, builder, counting, held_back, post, send, to};

const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const SECOND: Duration = Duration::from_secs(1);

#[tokio::test(start_paused = true)]
async fn an_answer_is_kept_for_the_retention_of_its_route() {
    let layer = builder(&Steered::new())
        .defaults(|options| options.retention(MINUTE))
        .route("/long", |options| options.retention(MINUTE * 3))
        .build()
        .unwrap();
    let app = layer.layer(counting(&Runs::default()));
    let ask = |target: &str| to(target, post(target, "{}"));
    let short = send(&app, ask("/short")).await;
    let long = send(&app, ask("/long")).await;
    sleep(MINUTE - SECOND).await;
    send(&app, ask("/short")).await.assert_replays(&short);
    sleep(SECOND).await;
    send(&app, ask("/short")).await.assert_fresh("run 3");
    sleep(MINUTE * 2 - SECOND).await;
    send(&app, ask("/long")).await.assert_replays(&long);
    sleep(SECOND).await;
    send(&app, ask("/long")).await.assert_fresh("run 4");
}

/// A layer with two routes: `/short` has leases of 10 s, `/long` has leases of
/// 50 s, and both are renewed for at most a minute.
fn layer(store: &Steered) -> IdempotencyLayer {
    builder(store)
        .defaults(|options| options.max_operation(MINUTE))
        .route("/short", |options| options.lease(SECOND * 10))
        .route("/long", |options| {
            options
                .lease(SECOND * 50)
                .on_lapsed_lease(OnLapsedLease::Refuse)
        })
        .build()
        .unwrap()
}

#[tokio::test(start_paused = true)]
async fn an_owner_that_is_cut_off_keeps_its_operation_for_the_lease_of_its_route() {
    let store = Steered::unguarded();
    store.make(Op::Renew, Fault::Stalls);
    let (runs, gate) = (Runs::default(), Gate::closed());
    let app = layer(&store).layer(held_back(&runs, &gate));
    let ask = |target: &str| to(target, post(target, "{}"));
    for target in ["/short", "/long"] {
        tokio::spawn(app.clone().oneshot(ask(target)));
        gate.begun().await;
    }
    sleep(SECOND * 9).await;
    for target in ["/short", "/long"] {
        let seen = send(&app, ask(target)).await;
        assert_eq!(seen.refusal(), "409 in-flight", "{target}");
    }
    sleep(SECOND).await;
    tokio::spawn(app.clone().oneshot(ask("/short")));
    gate.begun().await;
    assert_eq!(runs.count(), 3);
    let seen = send(&app, ask("/long")).await;
    assert_eq!(seen.refusal(), "409 in-flight");
    sleep(SECOND * 40).await;
    let seen = send(&app, ask("/long")).await;
    assert_eq!(seen.refusal(), "409 outcome-unknown");
    assert_eq!(runs.count(), 3);
}

#[tokio::test(start_paused = true)]
async fn leases_of_every_length_are_renewed_until_max_operation() {
    let store = Steered::unguarded();
    let (runs, gate) = (Runs::default(), Gate::closed());
    let app = layer(&store).layer(held_back(&runs, &gate));
    let ask = |target: &str| to(target, post(target, "{}"));
    for target in ["/short", "/long"] {
        tokio::spawn(app.clone().oneshot(ask(target)));
        gate.begun().await;
    }
    for _ in 0..11 {
        sleep(SECOND * 5).await;
        for target in ["/short", "/long"] {
            let seen = send(&app, ask(target)).await;
            assert_eq!(seen.refusal(), "409 in-flight", "{target}");
        }
    }
    sleep(SECOND * 5 + SECOND * 10).await;
    tokio::spawn(app.clone().oneshot(ask("/short")));
    gate.begun().await;
    assert_eq!(runs.count(), 3);
    sleep(SECOND * 40).await;
    let seen = send(&app, ask("/long")).await;
    assert_eq!(seen.refusal(), "409 outcome-unknown");
}

/// In an earlier version a claim whose result is unknown was released again and
/// again until its lease would have lapsed. A lease without an end never
/// lapses, so the drain never ended.
#[tokio::test(start_paused = true)]
async fn a_claim_of_unknown_fate_keeps_a_drain_busy_for_no_longer_than_a_day() {
    let store = Steered::new();
    store.make(Op::Claim, Fault::Stalls);
    let layer = builder(&store)
        .defaults(|options| options.lease(Duration::MAX).max_operation(Duration::MAX))
        .build()
        .unwrap();
    let app = layer.clone().layer(counting(&Runs::default()));
    let seen = send(&app, post("k", "{}")).await;
    assert_eq!(seen.refusal(), "503 store-unavailable");
    assert_eq!(layer.drain(DAY - MINUTE).await, 1);
    assert_eq!(layer.drain(MINUTE * 2).await, 0);
}
