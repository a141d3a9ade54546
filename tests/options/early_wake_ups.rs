//! `on_in_flight` on a store whose subscriptions resolve though nothing has
//! changed, as the contract of stores allows.

use std::future::ready;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tower::Layer;
use tower_idempotency::store::{
    Claim, Claimed, Lease, Outcome, Release, Store, StoreError, Subscription, Tenure,
};
use tower_idempotency::{Nonce, OnInFlight, RecordId};

use crate::support::store::{Op, Steered};
use crate::support::{Gate, Runs, held_back, post, send, with_policy};

const SECOND: Duration = Duration::from_secs(1);
/// No clock moves under one who asks again and again: that fails the test here.
const FAR_TOO_OFTEN: usize = 1000;

#[derive(Clone)]
struct Early {
    store: Steered,
    subscription: fn() -> Subscription,
}

impl Early {
    fn new(subscription: fn() -> Subscription) -> Self {
        Self {
            store: Steered::new(),
            subscription,
        }
    }
}

impl Store for Early {
    async fn claim(&self, claim: &Claim) -> Result<Claimed, StoreError> {
        assert!(self.store.calls(Op::Claim) < FAR_TOO_OFTEN);
        self.store.claim(claim).await
    }
    async fn renew(&self, lease: &Lease) -> Result<Tenure, StoreError> {
        self.store.renew(lease).await
    }
    async fn complete(&self, lease: &Lease, outcome: &Outcome) -> Result<Tenure, StoreError> {
        self.store.complete(lease, outcome).await
    }
    async fn release(
        &self,
        id: &RecordId,
        nonce: &Nonce,
        how: Release,
    ) -> Result<Tenure, StoreError> {
        self.store.release(id, nonce, how).await
    }
    async fn subscribe(&self, _: &RecordId) -> Result<Subscription, StoreError> {
        Ok((self.subscription)())
    }
}

/// It was asked as fast as it answered, for as long as the wait.
#[tokio::test(start_paused = true)]
async fn a_store_whose_subscriptions_resolve_at_once_is_not_asked_without_pause() {
    let early = Early::new(|| Subscription::new(ready(())));
    let (runs, gate) = (Runs::default(), Gate::closed());
    let layer = with_policy(&early, |policy| {
        policy.on_in_flight(OnInFlight::Wait(SECOND))
    });
    let app = layer.layer(held_back(&runs, &gate));
    let first = tokio::spawn({
        let app = app.clone();
        async move { send(&app, post("k", "{}")).await }
    });
    gate.begun().await;
    let asked = Instant::now();
    let seen = send(&app, post("k", "{}")).await;
    assert_eq!(seen.refusal(), "409 in-flight");
    assert!(asked.elapsed() < SECOND + SECOND / 10);
    let claims = early.store.calls(Op::Claim);
    assert!(claims < 100, "{claims}");
    gate.open();
    first.await.unwrap().assert_fresh("run 1");
}

/// One that was woken for nothing took that for the outcome, or slept on.
#[tokio::test(start_paused = true)]
async fn a_waiter_that_is_woken_for_nothing_is_given_the_answer_all_the_same() {
    let subscriptions: [fn() -> Subscription; 2] = [
        || Subscription::new(ready(())),
        || Subscription::after(Duration::from_millis(1)),
    ];
    for subscription in subscriptions {
        let early = Early::new(subscription);
        let (runs, gate) = (Runs::default(), Gate::closed());
        let layer = with_policy(&early, |policy| {
            policy.on_in_flight(OnInFlight::Wait(SECOND * 60))
        });
        let app = layer.layer(held_back(&runs, &gate));
        let ask = || {
            let app = app.clone();
            tokio::spawn(async move { send(&app, post("k", "{}")).await })
        };
        let first = ask();
        gate.begun().await;
        let waiter = ask();
        sleep(SECOND).await;
        assert!(!waiter.is_finished());
        let opened = Instant::now();
        gate.open();
        let first = first.await.unwrap();
        waiter.await.unwrap().assert_replays(&first);
        assert!(opened.elapsed() < SECOND / 4);
        assert_eq!(runs.count(), 1);
    }
}
