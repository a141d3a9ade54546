//! An `Observer` is told of a lease that lapses while its operation runs, and of no other.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::StatusCode;
use http_body_util::BodyExt;
use tokio::time::sleep;
use tower::{Layer, ServiceExt};
use tower_idempotency::MemoryStore;
use tower_idempotency::observer::{
    Ending, LapseCause, LeaseLapse, Observer, OperationEnd, StoreCall, StoreOperation,
};
use tower_idempotency::options::Mode;
use tower_idempotency::recording::Statuses;
use tower_idempotency::store::{ForgetMode, Store, StoreErrorKind};

use crate::support::log::Log;
use crate::support::store::{Fault, Op, Steered};
use crate::support::{Gate, Runs, answer, builder, handler, held_back, post, send};

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
        .store_timeout(LEASE / 3)
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

/// After an outage of the store many leases lapse at once, and a slow observer must not cost those
/// that are alive theirs.
#[tokio::test(start_paused = true)]
async fn renewals_that_are_due_are_sent_before_observers_are_told_of_lapses() {
    #[derive(Clone)]
    struct Renewals(Steered, Arc<Mutex<Vec<usize>>>);
    impl Observer for Renewals {
        fn lease_lapsed(&self, _: &LeaseLapse<'_>) {
            self.1.lock().unwrap().push(self.0.calls(Op::Renew));
        }
    }
    let store = Steered::unguarded();
    store.make(Op::Renew, Fault::Fails(StoreErrorKind::NotSent));
    let told = Renewals(store.clone(), Arc::default());
    let layer = builder(&store)
        .observer(told.clone())
        .defaults(|options| options.lease(LEASE).max_operation(100 * LEASE))
        .build()
        .unwrap();
    let gate = Gate::closed();
    let app = layer.layer(held_back(&Runs::default(), &gate));
    tokio::spawn(app.oneshot(post("k", "{}")));
    gate.begun().await;
    let mut before = 0;
    while told.1.lock().unwrap().is_empty() {
        before = store.calls(Op::Renew);
        sleep(Duration::from_millis(10)).await;
    }
    assert!(before > 0, "renewals fail");
    assert_eq!(
        *told.1.lock().unwrap(),
        [before + 1],
        "that of the same look"
    );
}

/// A renewal that the store carries out keeps the lease, also if the answer comes after
/// `max_operation`.
#[tokio::test(start_paused = true)]
async fn a_renewal_under_way_at_max_operation_puts_the_lapse_off() {
    let store = Steered::unguarded();
    let second = Duration::from_secs(1);
    store.make(Op::Renew, Fault::Late(7 * second));
    // The third renewal leaves this process a lease after the operation began.
    let (lapses, _gate) = running(&store, LEASE + 4 * second).await;
    while store.calls(Op::Renew) < 3 {
        sleep(second).await;
    }
    sleep(LEASE - 4 * second).await;
    assert_eq!(lapses.take(), [], "the third has renewed it");
    sleep(10 * second).await;
    assert_eq!(store.calls(Op::Renew), 3);
    assert_eq!(lapses.take(), [(LapseCause::MaxOperation, 1)]);
}

/// How operations ended and whether they were only observed, and which renewals were sent.
#[derive(Clone, Default)]
struct Ends {
    ends: Arc<Mutex<Vec<(OperationEnd, bool)>>>,
    renewals: Arc<Mutex<Vec<StoreOperation>>>,
}

impl Observer for Ends {
    fn ended(&self, ending: &Ending<'_>) {
        let own = (ending.end, ending.is_observed);
        self.ends.lock().unwrap().push(own);
    }

    fn called_store(&self, call: &StoreCall) {
        use StoreOperation::{Renew, RenewObserved};
        if matches!(call.operation, Renew | RenewObserved) {
            self.renewals.lock().unwrap().push(call.operation);
        }
    }
}

/// Of an operation in doubt a last renewal is sent.
#[tokio::test(start_paused = true)]
async fn an_operation_in_doubt_is_watched_for_unless_it_is_only_observed() {
    for (mode, is_observed, renewal) in [
        (Mode::Protect, false, StoreOperation::Renew),
        (Mode::Observe, true, StoreOperation::RenewObserved),
    ] {
        let told = Ends::default();
        let layer = builder(&Steered::unguarded())
            .observer(told.clone())
            .defaults(|options| {
                let options = options.in_doubt(Statuses::none().with(504));
                options.mode(mode).lease(LEASE)
            })
            .build()
            .unwrap();
        let app = layer.layer(handler(&Runs::default(), |_, _| {
            answer(StatusCode::GATEWAY_TIMEOUT, "who knows")
        }));
        send(&app, post("k", "")).await;
        sleep(LEASE / 10).await;
        assert_eq!(
            *told.ends.lock().unwrap(),
            [(OperationEnd::InDoubt, is_observed)]
        );
        assert_eq!(*told.renewals.lock().unwrap(), [renewal]);
        assert_eq!(layer.counts().in_doubt, u64::from(!is_observed));
    }
}

/// It runs as it would without the layer, and so does its duplicate.
#[tokio::test(start_paused = true)]
async fn nobody_is_told_that_an_operation_that_is_only_observed_has_lapsed_or_was_overtaken() {
    #[derive(Clone, Default)]
    struct Told(Ends, Lapses);
    impl Observer for Told {
        fn ended(&self, ending: &Ending<'_>) {
            self.0.ended(ending);
        }

        fn called_store(&self, call: &StoreCall) {
            self.0.called_store(call);
        }

        fn lease_lapsed(&self, lapse: &LeaseLapse<'_>) {
            self.1.lease_lapsed(lapse);
        }
    }
    let store = Steered::unguarded();
    let (told, gate, log) = (Told::default(), Gate::closed(), Log::default());
    let listening = log.listen();
    let layer = builder(&store)
        .observer(told.clone())
        .defaults(|options| {
            options
                .mode(Mode::Observe)
                .lease(LEASE)
                .max_operation(3 * LEASE)
        })
        .build()
        .unwrap();
    let app = layer.layer(held_back(&Runs::default(), &gate));
    let send = || tokio::spawn(app.clone().oneshot(post("k", "")));
    let first = send();
    gate.begun().await;
    sleep(LEASE / 2).await;
    store.make(Op::Renew, Fault::Fails(StoreErrorKind::NotSent));
    sleep(LEASE / 2).await;
    store.heal(Op::Renew);
    sleep(9 * LEASE).await;
    assert!(store.calls(Op::Renew) > 3, "it was renewed");
    let second = send();
    gate.begun().await;
    assert_eq!(layer.counts().observed.execute, 2);
    gate.open();
    gate.open();
    for responds in [first, second] {
        responds
            .await
            .unwrap()
            .unwrap()
            .into_body()
            .collect()
            .await
            .unwrap();
    }
    sleep(LEASE).await;
    drop(listening);
    assert_eq!(told.1.take(), []);
    assert_eq!(
        *told.0.ends.lock().unwrap(),
        [(OperationEnd::Recorded, true)]
    );
    // An alarm on renewals is for leases that protect something.
    let renewals = told.0.renewals.lock().unwrap();
    assert!(renewals.len() > 3, "{renewals:?}");
    let is_own = |operation: &StoreOperation| *operation == StoreOperation::RenewObserved;
    assert!(renewals.iter().all(is_own), "{renewals:?}");
    let text = log.text();
    for line in ["lapsed", "taken over", "max_operation", "not renewed"] {
        assert!(!text.contains(line), "{text}");
    }
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
