//! The option `on_in_flight` on a store whose subscriptions resolve although
//! nothing has changed, as the contract of stores allows.

use std::future::{pending, ready};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tower::Layer;
use tower_idempotency::options::OnInFlight;
use tower_idempotency::store::{
    Claim, Claimed, Lease, Outcome, Ownership, Release, Store, StoreError, Subscription,
};
use tower_idempotency::store::{Nonce, RecordId};

use crate::support::store::{Op, Steered};
use crate::support::{Gate, Runs, held_back, post, send, with_policy};

const SECOND: Duration = Duration::from_secs(1);
/// A waiter that asks again and again without a pause never lets the paused
/// clock move, so this many claims fail the test.
const FAR_TOO_OFTEN: usize = 1000;

#[derive(Clone)]
struct Early {
    store: Steered,
    subscriptions: Runs,
    /// The subscription with this number, from 1. With `None` the store gives
    /// one that resolves when it should.
    gives: Arc<dyn Fn(usize) -> Option<Subscription> + Send + Sync>,
}

impl Early {
    fn new(gives: impl Fn(usize) -> Option<Subscription> + Send + Sync + 'static) -> Self {
        Self {
            store: Steered::new(),
            subscriptions: Runs::default(),
            gives: Arc::new(gives),
        }
    }
}

impl Store for Early {
    async fn claim(&self, claim: &Claim) -> Result<Claimed, StoreError> {
        assert!(self.store.calls(Op::Claim) < FAR_TOO_OFTEN);
        self.store.claim(claim).await
    }
    async fn renew(&self, lease: &Lease) -> Result<Ownership, StoreError> {
        self.store.renew(lease).await
    }
    async fn complete(&self, lease: &Lease, outcome: &Outcome) -> Result<Ownership, StoreError> {
        self.store.complete(lease, outcome).await
    }
    async fn release(
        &self,
        id: &RecordId,
        nonce: &Nonce,
        how: Release,
    ) -> Result<Ownership, StoreError> {
        self.store.release(id, nonce, how).await
    }
    async fn subscribe(&self, id: &RecordId) -> Result<Subscription, StoreError> {
        match (self.gives)(self.subscriptions.begin()) {
            Some(early) => Ok(early),
            None => self.store.subscribe(id).await,
        }
    }
}

/// In an earlier version a waiter sent its next claim as soon as the store had
/// responded to the last one, for as long as the waiter waited.
#[tokio::test(start_paused = true)]
async fn a_store_whose_subscriptions_resolve_at_once_is_not_asked_without_pause() {
    let early = Early::new(|_| Some(Subscription::new(ready(()))));
    let (runs, gate) = (Runs::default(), Gate::closed());
    let layer = with_policy(&early, |options| {
        options.on_in_flight(OnInFlight::Wait(SECOND))
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

/// In an earlier version a waiter that nothing slowed down never came to the
/// step that returns the response.
#[tokio::test(start_paused = true)]
async fn a_waiter_that_is_woken_for_nothing_is_given_the_answer_all_the_same() {
    let always: fn(usize) -> Option<Subscription> = |_| Some(Subscription::new(ready(())));
    for early in [
        always,
        |_| Some(Subscription::after(Duration::from_millis(1))),
        |nth| (nth == 1).then(|| Subscription::new(ready(()))),
    ] {
        let early = Early::new(early);
        let (runs, gate) = (Runs::default(), Gate::closed());
        let layer = with_policy(&early, |options| {
            options.on_in_flight(OnInFlight::Wait(SECOND * 60))
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

/// Ten wake-ups in a row that come too early are taken for those of other requests. After each
/// one more, the waiter pauses for 20 ms before it asks again.
#[tokio::test(start_paused = true)]
async fn only_the_eleventh_early_wake_up_in_a_row_costs_a_pause() {
    type Gives = fn(usize) -> Subscription;
    fn at_once() -> Subscription {
        Subscription::new(ready(()))
    }
    fn after_20_ms() -> Subscription {
        Subscription::after(Duration::from_millis(20))
    }
    fn never() -> Subscription {
        Subscription::new(pending())
    }
    // What the waiter subscribes to in turn, the subscription that never resolves, and how many
    // milliseconds pass until then.
    let cases: [(Gives, usize, u64); 5] = [
        (|nth| if nth < 11 { at_once() } else { never() }, 11, 0),
        (|nth| if nth < 12 { at_once() } else { never() }, 12, 20),
        (|nth| if nth < 14 { at_once() } else { never() }, 14, 60),
        (
            |nth| match nth {
                11 => after_20_ms(),
                22 => never(),
                _ => at_once(),
            },
            22,
            20,
        ),
        (
            |nth| if nth < 16 { after_20_ms() } else { never() },
            16,
            300,
        ),
    ];
    for (gives, last, millis) in cases {
        let early = Early::new(move |nth| Some(gives(nth)));
        let (runs, gate) = (Runs::default(), Gate::closed());
        let layer = with_policy(&early, |options| {
            options
                .lease(SECOND * 300)
                .on_in_flight(OnInFlight::Wait(SECOND * 60))
        });
        let app = layer.layer(held_back(&runs, &gate));
        let ask = || {
            let app = app.clone();
            tokio::spawn(async move { send(&app, post("k", "{}")).await })
        };
        let first = ask();
        gate.begun().await;
        let asked = Instant::now();
        let waiter = ask();
        while early.subscriptions.count() < last {
            sleep(Duration::from_millis(1)).await;
        }
        let passed = asked.elapsed().as_millis();
        // Of the test's own pauses.
        let late = 0..=2;
        assert!(
            late.contains(&(passed - u128::from(millis))),
            "{passed} ms of {millis}"
        );
        waiter.abort();
        first.abort();
    }
}
