//! Which changes wake which waiters.

use std::pin::Pin;
use std::sync::Mutex;
use std::sync::atomic::AtomicUsize;
use std::task::{Context, Poll, Wake, Waker};

use super::*;
use crate::store::{ForgetMode, Subscription};

/// A waker that counts how often it was woken.
#[derive(Default)]
struct Counting(AtomicUsize);

impl Wake for Counting {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// A waiter whose subscription was polled once.
struct Waiting {
    subscription: Subscription,
    wakes: Arc<Counting>,
}

impl Waiting {
    fn poll(&mut self) -> Poll<()> {
        let waker = Waker::from(Arc::clone(&self.wakes));
        Pin::new(&mut self.subscription).poll(&mut Context::from_waker(&waker))
    }

    fn is_woken(&mut self) -> bool {
        let wakes = self.wakes.0.load(Ordering::Relaxed);
        assert!(wakes <= 1, "woken twice");
        assert_eq!(self.poll().is_ready(), wakes == 1);
        wakes == 1
    }
}

fn woken<const N: usize>(waiting: &mut [Waiting; N]) -> [bool; N] {
    waiting.each_mut().map(Waiting::is_woken)
}

impl Bench {
    fn subscribe(&self, id: u8) -> Subscription {
        Records::subscribe(&self.records, &claim(id).id)
    }

    fn wait(&self, id: u8) -> Waiting {
        let mut waiting = Waiting {
            subscription: self.subscribe(id),
            wakes: Arc::default(),
        };
        assert!(waiting.poll().is_pending());
        waiting
    }

    fn release_as(&self, claim: &Claim, how: Release) {
        let tenure = self.records.release(&claim.id, &claim.nonce, how);
        assert_eq!(tenure, Ownership::Held);
    }

    #[track_caller]
    fn assert_nobody_is_left(&self) {
        assert_eq!(self.records.waiters.counted(), (0, 0, 0));
    }
}

#[test]
fn a_completion_wakes_all_who_wait_for_it_and_nobody_else() {
    let bench = Bench::new();
    let lease = bench.acquire(&claim(1));
    let mut waiting = [bench.wait(1), bench.wait(1), bench.wait(2)];
    assert_eq!(bench.complete(&lease), Ownership::Held);
    assert_eq!(woken(&mut waiting), [true, true, false]);
    drop(waiting);
    bench.assert_nobody_is_left();
}

#[test]
fn a_seal_wakes_all() {
    let bench = Bench::new();
    let lease = bench.acquire(&claim(1));
    let mut waiting = [bench.wait(1), bench.wait(1)];
    let sealed = Outcome::Sealed { retention: HOUR };
    bench.end(&lease, &sealed);
    assert_eq!(woken(&mut waiting), [true, true]);
}

#[test]
fn a_completion_wakes_even_where_its_record_was_lost_or_released() {
    let bench = Bench::new();
    let lost = bench.acquire(&claim(1));
    bench.records.forget(&lost.claim.id, ForgetMode::Forced);
    let released = bench.acquire(&claim(2));
    bench.release(&released.claim);
    let mut waiting = [bench.wait(1), bench.wait(2)];
    bench.complete(&lost);
    bench.complete(&released);
    assert_eq!(woken(&mut waiting), [true, true]);
}

#[test]
fn what_changes_nothing_wakes_nobody() {
    let bench = Bench::new();
    let lease = bench.acquire(&claim(1));
    let mut waiting = [bench.wait(1)];
    let stranger = claim(1);
    bench.found(&stranger);
    assert_eq!(bench.release(&stranger), Ownership::Lost);
    assert_eq!(bench.records.renew(&lease), Ownership::Held);
    assert_eq!(
        bench.records.forget(&stranger.id, ForgetMode::UnlessAlive),
        Forgotten::InFlight
    );
    assert!(bench.has(1));
    assert_eq!(woken(&mut waiting), [false]);
}

#[test]
fn a_release_wakes_only_the_one_who_came_first() {
    let bench = Bench::new();
    let first = bench.acquire(&claim(1));
    let mut waiting = [bench.wait(1), bench.wait(1), bench.wait(1)];
    bench.release(&first.claim);
    assert_eq!(woken(&mut waiting), [true, false, false]);
    let second = bench.acquire(&claim(1));
    bench.release(&second.claim);
    assert_eq!(woken(&mut waiting), [true, true, false]);
}

#[test]
fn one_that_is_dropped_unused_passes_its_wake_up_on() {
    let bench = Bench::new();
    let lease = bench.acquire(&claim(1));
    let [mut first, mut second, third] = [bench.wait(1), bench.wait(1), bench.wait(1)];
    bench.release(&lease.claim);
    assert!(first.is_woken());
    drop(first);
    assert!(second.is_woken());
    // `second` is dropped after its wake-up and before its next poll.
    let mut waiting = [third];
    assert_eq!(woken(&mut waiting), [false]);
    drop(second);
    assert_eq!(woken(&mut waiting), [true]);
    drop(waiting);
    bench.assert_nobody_is_left();
}

#[test]
fn one_that_never_was_polled_passes_its_wake_up_on_as_well() {
    let bench = Bench::new();
    let lease = bench.acquire(&claim(1));
    let first = bench.subscribe(1);
    let mut second = bench.wait(1);
    bench.release(&lease.claim);
    assert!(!second.is_woken());
    drop(first);
    assert!(second.is_woken());
}

#[test]
fn one_that_claimed_passes_nothing_on() {
    let bench = Bench::new();
    let lease = bench.acquire(&claim(1));
    let [mut first, mut second] = [bench.wait(1), bench.wait(1)];
    bench.release(&lease.claim);
    assert!(first.is_woken());
    let own = bench.acquire(&claim(1));
    drop(first);
    assert!(!second.is_woken());
    assert_eq!(bench.complete(&own), Ownership::Held);
    assert!(second.is_woken());
}

/// A newcomer claims the record before the waiter that was woken. Then only the end of the
/// newcomer's operation wakes the next waiter.
#[test]
fn one_that_was_woken_too_late_passes_nothing_on() {
    let bench = Bench::new();
    let lease = bench.acquire(&claim(1));
    let [mut first, mut second] = [bench.wait(1), bench.wait(1)];
    bench.release(&lease.claim);
    assert!(first.is_woken());
    let newcomer = bench.acquire(&claim(1));
    for _ in 0..3 {
        let again = bench.wait(1);
        assert!(matches!(
            bench.found(&claim(1)),
            RecordState::InFlight { .. }
        ));
        drop(std::mem::replace(&mut first, again));
        assert!(!first.is_woken() && !second.is_woken());
    }
    bench.release(&newcomer.claim);
    assert!(second.is_woken() && !first.is_woken());
}

#[test]
fn one_that_was_never_woken_passes_nothing_on() {
    let bench = Bench::new();
    let lease = bench.acquire(&claim(1));
    let [first, mut second] = [bench.wait(1), bench.wait(1)];
    let [third, mut fourth] = [bench.wait(1), bench.wait(1)];
    drop(first);
    assert!(!second.is_woken());
    bench.release(&lease.claim);
    assert!(second.is_woken());
    // The record can be claimed now, but `second` has the wake-up, and `third` has none to pass
    // on.
    drop(third);
    assert!(!fourth.is_woken());
}

#[test]
fn a_wake_up_is_passed_on_for_a_lapsed_record_and_an_absent_one() {
    for forgotten in [false, true] {
        let bench = Bench::new();
        let lease = bench.acquire(&claim(1));
        let first = bench.wait(1);
        let id = lease.claim.id;
        drop(lease);
        bench.advance(HOUR / 2);
        if forgotten {
            bench.records.forget(&id, ForgetMode::UnlessAlive);
        }
        let mut second = bench.wait(1);
        drop(first);
        assert!(second.is_woken(), "{forgotten}");
    }
}

#[test]
fn a_wake_up_is_passed_on_for_a_tombstone_that_is_over() {
    let bench = Bench::new();
    let lease = bench.acquire(&claim(1));
    let [first, mut second] = [bench.wait(1), bench.wait(1)];
    bench.release(&lease.claim);
    bench.advance(HOUR * 2);
    drop(first);
    assert!(second.is_woken());
}

#[test]
fn an_unknown_outcome_wakes_all_whatever_the_policy() {
    for options in [OnLapsedLease::Rerun, OnLapsedLease::Refuse] {
        let bench = Bench::new();
        let mut own = claim(1);
        own.on_lapsed_lease = options;
        let _lease = bench.acquire(&own);
        let mut waiting = [bench.wait(1), bench.wait(1)];
        bench.release_as(&own, Release::OutcomeUnknown);
        assert_eq!(woken(&mut waiting), [true, true]);
    }
}

#[test]
fn forgetting_a_record_wakes_all() {
    let bench = Bench::new();
    let lease = bench.acquire(&claim(1));
    let mut waiting = [bench.wait(1), bench.wait(1)];
    assert_eq!(
        bench.records.forget(&lease.claim.id, ForgetMode::Forced),
        Forgotten::Gone
    );
    assert_eq!(woken(&mut waiting), [true, true]);
}

#[test]
fn eviction_wakes_all() {
    let bench = Bench::with(MemoryStore::builder().max_records(1));
    bench.run(1);
    let mut waiting = [bench.wait(1), bench.wait(1)];
    let _other = bench.acquire(&claim(2));
    assert!(!bench.has(1));
    assert_eq!(woken(&mut waiting), [true, true]);
}

#[test]
fn the_removal_of_what_has_expired_wakes_all() {
    let bench = Bench::new();
    bench.run(1);
    let mut waiting = [bench.wait(1), bench.wait(1)];
    bench.advance(HOUR);
    bench.run(2);
    assert_eq!(woken(&mut waiting), [true, true]);
}

#[test]
fn an_owner_that_vanishes_wakes_all_whatever_the_policy() {
    for options in [OnLapsedLease::Rerun, OnLapsedLease::Refuse] {
        let bench = Bench::new();
        let mut own = claim(1);
        own.on_lapsed_lease = options;
        let lease = bench.acquire(&own);
        let mut waiting = [bench.wait(1), bench.wait(1)];
        drop(lease);
        assert_eq!(woken(&mut waiting), [true, true]);
    }
}

/// A request that waits sets a timer by `lapses_in` of the record that its claim found.
#[test]
fn a_lease_lapses_by_time_only_once_its_owner_has_vanished() {
    let bench = Bench::new();
    let in_flight = || match bench.found(&claim(1)) {
        RecordState::InFlight { lapses_in, .. } => lapses_in,
        other => panic!("{other:?}"),
    };
    let lease = bench.acquire(&claim(1));
    assert_eq!(in_flight(), Duration::MAX);
    bench.advance(Duration::from_secs(20));
    let mut waiting = bench.wait(1);
    drop(lease);
    assert!(waiting.is_woken());
    assert_eq!(in_flight(), Duration::from_secs(10));
    bench.advance(Duration::from_secs(10));
    assert_eq!(bench.acquire(&claim(1)).attempt, 2);
}

#[test]
fn an_owner_that_goes_after_the_end_wakes_nobody() {
    let bench = Bench::new();
    let lease = bench.acquire(&claim(1));
    bench.complete(&lease);
    let mut waiting = bench.wait(1);
    drop(lease);
    assert!(!waiting.is_woken());
}

#[test]
fn a_change_between_subscription_and_claim_is_seen_by_the_claim() {
    let bench = Bench::new();
    let lease = bench.acquire(&claim(1));
    let mut waiting = bench.wait(1);
    bench.complete(&lease);
    assert!(matches!(
        bench.found(&claim(1)),
        RecordState::Completed { .. }
    ));
    assert!(
        waiting.is_woken(),
        "early for the next wait, which is no harm"
    );
}

#[test]
fn a_change_between_subscription_and_first_poll_is_not_missed() {
    let bench = Bench::new();
    let lease = bench.acquire(&claim(1));
    let mut subscription = bench.subscribe(1);
    bench.complete(&lease);
    let mut cx = Context::from_waker(Waker::noop());
    assert!(Pin::new(&mut subscription).poll(&mut cx).is_ready());
}

#[test]
fn the_waker_of_the_last_poll_is_the_one_that_is_woken() {
    let bench = Bench::new();
    let lease = bench.acquire(&claim(1));
    let mut moved = bench.wait(1);
    let before = std::mem::take(&mut moved.wakes);
    assert!(moved.poll().is_pending());
    bench.complete(&lease);
    assert!(moved.is_woken());
    assert_eq!(before.0.load(Ordering::Relaxed), 0);
}

#[test]
fn whoever_leaves_leaves_nothing_behind() {
    let bench = Bench::new();
    let lease = bench.acquire(&claim(1));
    let mut waiting: Vec<_> = (0..100).map(|turn| bench.wait(turn % 3)).collect();
    assert_eq!(bench.records.waiters.counted(), (100, 3, 100));
    // Waiters are removed from the middle, because each of them must be able to leave, not only
    // the first.
    for _ in 0..50 {
        waiting.remove(waiting.len() / 2);
    }
    assert_eq!(bench.records.waiters.counted(), (50, 3, 50));
    bench.release(&lease.claim);
    drop(waiting);
    bench.assert_nobody_is_left();
    assert_eq!(Arc::strong_count(&bench.records), 1);
}

/// A waker can hold the last handle on a task that waits for the same record.
#[test]
fn a_waker_that_drops_another_waiter_does_not_lock_itself_out() {
    struct Holding(#[expect(dead_code, reason = "held")] Mutex<Subscription>);
    impl Wake for Holding {
        fn wake(self: Arc<Self>) {}
    }
    let bench = Bench::new();
    let lease = bench.acquire(&claim(1));
    let polled = |waiting: &mut Subscription| {
        let held = Mutex::new(bench.subscribe(1));
        let waker = Waker::from(Arc::new(Holding(held)));
        let mut cx = Context::from_waker(&waker);
        assert!(Pin::new(waiting).poll(&mut cx).is_pending());
    };
    let [mut replaced, mut left, mut woken] = [(); 3].map(|()| bench.subscribe(1));
    polled(&mut replaced);
    let mut noop = Context::from_waker(Waker::noop());
    assert!(Pin::new(&mut replaced).poll(&mut noop).is_pending());
    polled(&mut left);
    drop(left);
    polled(&mut woken);
    bench.complete(&lease);
    drop((replaced, woken));
    bench.assert_nobody_is_left();
}

#[tokio::test(start_paused = true)]
async fn a_store_behind_handles_and_without_its_type_wakes_too() {
    let store = MemoryStore::new();
    let id = claim(1).id;
    let erased = crate::store::erased(store.clone());
    let behind = crate::store::erased(Arc::new(store.clone()));
    let mut waiting = Vec::new();
    for subscribed in [
        Arc::new(store.clone()).subscribe(&id).await,
        erased.subscribe(&id).await,
        behind.subscribe(&id).await,
    ] {
        waiting.push(subscribed.unwrap());
    }
    assert_eq!(store.records.waiters.counted().0, 3);
    let _lease = store.claim(&claim(1)).await.unwrap();
    assert_eq!(
        erased.forget(&id, ForgetMode::UnlessAlive).await.unwrap(),
        Forgotten::InFlight
    );
    assert_eq!(
        behind.forget(&id, ForgetMode::Forced).await.unwrap(),
        Forgotten::Gone
    );
    for woken in waiting {
        let limit = Duration::from_millis(1);
        tokio::time::timeout(limit, woken).await.unwrap();
    }
}

/// Each task waits until it acquires the record, and releases the record to the next task. Some
/// tasks give up after they were woken.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_a_hundred_who_wait_nobody_is_left_out() {
    let store = MemoryStore::new();
    let turns = Arc::new(AtomicUsize::new(0));
    let waiting: Vec<_> = (0..100)
        .map(|number| {
            let (store, turns) = (store.clone(), Arc::clone(&turns));
            tokio::spawn(async move {
                let own = claim(1);
                let mut turn = None;
                loop {
                    let mut changed = store.subscribe(&own.id).await.unwrap();
                    if let Claimed::Acquired(_lease) = store.claim(&own).await.unwrap() {
                        tokio::task::yield_now().await;
                        turns.fetch_add(1, Ordering::Relaxed);
                        let ended = store
                            .release(&own.id, &own.nonce, Release::MayRunAgain)
                            .await;
                        assert_eq!(ended.unwrap(), Ownership::Held);
                        return;
                    }
                    drop(turn.take());
                    (&mut changed).await;
                    if number % 4 == 0 {
                        return;
                    }
                    turn = Some(changed);
                }
            })
        })
        .collect();
    for task in waiting {
        let limit = Duration::from_secs(20);
        tokio::time::timeout(limit, task).await.unwrap().unwrap();
    }
    assert!(turns.load(Ordering::Relaxed) >= 75);
    assert_eq!(store.records.waiters.counted(), (0, 0, 0));
}
