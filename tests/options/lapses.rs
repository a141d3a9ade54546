//! An `Observer` is told of a lease that lapses while its operation runs, and of no other.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::sleep;
use tower::{Layer, ServiceExt};
use tower_idempotency::MemoryStore;
use tower_idempotency::observer::{LapseCause, LeaseLapse, Observer};
use tower_idempotency::store::{ForgetMode, Store, StoreErrorKind};

use crate::support::store::{Fault, Op, Steered};
use crate::support::{Gate, Runs, builder, held_back, post};

const LEASE: Duration = Duration::from_secs(30);

#[derive(Clone, Default)]
struct Lapses(Arc<Mutex<Vec<(LapseCause, u64)>>>);

impl Lapses {
    /// Those since the last call.
    fn take(&self) -> Vec<(LapseCause, u64)> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }
}

impl Observer for Lapses {
    fn lease_lapsed(&self, lapse: &LeaseLapse<'_>) {
        self.0.lock().unwrap().push((lapse.cause, lapse.attempt));
    }
}

/// An operation that runs until the gate is opened.
async fn running(store: &(impl Store + Clone), max_operation: Duration) -> (Lapses, Gate) {
    let (lapses, gate) = (Lapses::default(), Gate::closed());
    let layer = builder(store)
        .observer(lapses.clone())
        .defaults(move |options| options.lease(LEASE).max_operation(max_operation))
        .build()
        .unwrap();
    let app = layer.layer(held_back(&Runs::default(), &gate));
    tokio::spawn(app.oneshot(post("k", "{}")));
    gate.begun().await;
    (lapses, gate)
}

#[tokio::test(start_paused = true)]
async fn renewals_that_fail_for_as_long_as_a_lease_are_told_once_until_one_holds() {
    let store = Steered::unguarded();
    let (lapses, _gate) = running(&store, 100 * LEASE).await;
    sleep(5 * LEASE).await;
    assert_eq!(lapses.take(), [], "it is renewed");
    for _ in 0..2 {
        store.make(Op::Renew, Fault::Fails(StoreErrorKind::NotSent));
        sleep(LEASE / 2).await;
        assert_eq!(lapses.take(), [], "it has not lapsed yet");
        sleep(3 * LEASE).await;
        assert_eq!(lapses.take(), [(LapseCause::NotRenewed, 1)]);
        store.heal(Op::Renew);
        sleep(LEASE).await;
    }
    assert_eq!(lapses.take(), []);
}

/// A lease that a store in this process guards ends with the guard, any other when its time is over.
#[tokio::test(start_paused = true)]
async fn an_operation_that_runs_too_long_is_told_when_its_lease_ends() {
    let (lapses, _gate) = running(&Steered::unguarded(), 3 * LEASE).await;
    let (guarded, _held) = running(&MemoryStore::new(), 3 * LEASE).await;
    sleep(3 * LEASE - Duration::from_secs(1)).await;
    assert_eq!((lapses.take(), guarded.take()), (vec![], vec![]));
    sleep(3 * LEASE).await;
    let told = vec![(LapseCause::MaxOperation, 1)];
    assert_eq!((lapses.take(), guarded.take()), (told.clone(), told));
}

/// It is lost, or it has ended: nothing lapses any more.
#[tokio::test(start_paused = true)]
async fn an_owner_that_was_overtaken_or_has_ended_is_told_of_no_lapse() {
    let store = Steered::unguarded();
    let (lapses, gate) = running(&store, 3 * LEASE).await;
    let id = store.claims()[0].id;
    let forgotten = store.memory.forget(&id, ForgetMode::Forced).await;
    forgotten.unwrap();
    sleep(10 * LEASE).await;
    assert_eq!(lapses.take(), []);
    gate.open();

    let store = Steered::unguarded();
    let (lapses, gate) = running(&store, 3 * LEASE).await;
    gate.open();
    sleep(10 * LEASE).await;
    assert_eq!(lapses.take(), []);
}
