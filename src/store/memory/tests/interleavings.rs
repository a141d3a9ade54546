//! Runs operations of the store at once, under a scheduler that tries many orders of their steps:
//! `RUSTFLAGS="--cfg shuttle" cargo test --lib interleavings`.

use std::pin::Pin;
use std::task::{Context, Waker};

use shuttle::future::block_on;
use shuttle::rand::{Rng, thread_rng};
use shuttle::sync::atomic::{AtomicUsize, Ordering};
use shuttle::thread;

use super::*;
use crate::store::{ForgetMode, Subscription};

/// How many schedules each scenario is run under.
const RANDOM: usize = 3000;
const WITH_FEW_SWITCHES: usize = 3000;

fn explore(scenario: fn()) {
    shuttle::check_random(scenario, RANDOM);
    shuttle::check_pct(scenario, WITH_FEW_SWITCHES, 3);
}

/// Runs all threads at once and waits for their ends.
fn at_once(threads: Vec<Box<dyn FnOnce() + Send>>) {
    let running: Vec<_> = threads.into_iter().map(thread::spawn).collect();
    for thread in running {
        thread.join().unwrap();
    }
}

fn bench(max_records: usize) -> Arc<Bench> {
    Arc::new(Bench::with(MemoryStore::builder().max_records(max_records)))
}

/// Returns a claim whose lease ends at once, so that only its guard keeps the lease from lapsing.
fn brief(id: u8) -> Claim {
    Claim {
        lease: Duration::ZERO,
        ..claim(id)
    }
}

#[test]
fn of_claims_at_once_one_acquires() {
    explore(|| {
        let bench = bench(100);
        let owners = Arc::new(AtomicUsize::new(0));
        at_once(
            (0..3)
                .map(|_| {
                    let (bench, owners) = (Arc::clone(&bench), Arc::clone(&owners));
                    Box::new(move || {
                        if let Claimed::Acquired(lease) = bench.claim(&claim(1)) {
                            owners.fetch_add(1, Ordering::SeqCst);
                            assert_eq!(bench.complete(&lease), Ownership::Held);
                        }
                    }) as Box<dyn FnOnce() + Send>
                })
                .collect(),
        );
        assert_eq!(owners.load(Ordering::SeqCst), 1);
        assert_eq!((bench.stats().records, bench.stats().completed), (1, 1));
    });
}

/// G1 and G5: the holder of a guard is the only owner, also if its lease is over. After the guard
/// is dropped another owner can take over, and then the first owner changes nothing.
#[test]
fn a_guard_keeps_every_other_owner_out() {
    explore(|| {
        let bench = bench(100);
        let holding = Arc::new(AtomicUsize::new(0));
        at_once(
            (0..3)
                .map(|thread| {
                    let (bench, holding) = (Arc::clone(&bench), Arc::clone(&holding));
                    Box::new(move || {
                        let own = brief(1);
                        let Claimed::Acquired(lease) = bench.claim(&own) else {
                            return;
                        };
                        assert_eq!(holding.fetch_add(1, Ordering::SeqCst), 0, "two owners");
                        assert_eq!(bench.records.renew(&lease), Ownership::Held);
                        holding.fetch_sub(1, Ordering::SeqCst);
                        if thread == 0 {
                            bench.release(&own);
                        }
                        drop(lease);
                    }) as Box<dyn FnOnce() + Send>
                })
                .collect(),
        );
        assert_eq!(bench.stats().records, 1);
    });
}

/// A completion and a takeover race for the record, and exactly one of them succeeds.
#[test]
fn a_completion_and_a_takeover_exclude_each_other() {
    explore(|| {
        let bench = bench(100);
        let stale = bench.acquire(&brief(1)).without_guard();
        let takes_over = Arc::new(AtomicUsize::new(0));
        let completes = Arc::new(AtomicUsize::new(0));
        let (first, second) = (Arc::clone(&bench), Arc::clone(&bench));
        let (taken, completed) = (Arc::clone(&takes_over), Arc::clone(&completes));
        at_once(vec![
            Box::new(move || {
                if first.complete(&stale) == Ownership::Held {
                    completed.fetch_add(1, Ordering::SeqCst);
                }
            }),
            Box::new(move || {
                if let Claimed::Acquired(lease) = second.claim(&brief(1)) {
                    assert_eq!(lease.attempt, 2);
                    taken.fetch_add(1, Ordering::SeqCst);
                    assert_eq!(second.complete(&lease), Ownership::Held);
                }
            }),
        ]);
        let both = takes_over.load(Ordering::SeqCst) + completes.load(Ordering::SeqCst);
        assert_eq!(both, 1);
        assert_eq!(bench.stats().completed, 1);
    });
}

/// At its limit the store never forgets a record in flight, and its counts stay right.
#[test]
fn eviction_spares_what_is_in_flight() {
    explore(|| {
        let bench = bench(2);
        at_once(
            (1..=3)
                .map(|id| {
                    let bench = Arc::clone(&bench);
                    Box::new(move || {
                        if let Claimed::Acquired(lease) = bench.claim(&claim(id)) {
                            assert_eq!(bench.records.renew(&lease), Ownership::Held, "evicted");
                            assert_eq!(bench.complete(&lease), Ownership::Held);
                        }
                    }) as Box<dyn FnOnce() + Send>
                })
                .collect(),
        );
        let stats = bench.stats();
        assert_eq!((stats.in_flight, stats.records), (0, stats.completed));
        let held = (1..=3).filter(|id| bench.has(*id)).count();
        assert_eq!(held, stats.records);
        assert!(held <= 2);
    });
}

/// Two callers complete at once where the store has room for one of the two, and each has an
/// older record. Whatever goes is done, and what is counted is what is there.
#[test]
fn callers_that_complete_at_a_full_store_count_what_is_there() {
    use super::shares::by;
    const BODY: &[u8] = &[0; 600];
    explore(|| {
        let most = 2 * room(2) + 3 * (COMPLETION_BYTES + BODY.len());
        let bench = Arc::new(Bench::with(MemoryStore::builder().max_bytes(most)));
        for caller in [1, 2] {
            bench.end(&bench.acquire(&by(caller, 0)), &completed(BODY));
        }
        at_once(
            [1, 2]
                .map(|caller| {
                    let bench = Arc::clone(&bench);
                    Box::new(move || {
                        let lease = bench.acquire(&by(caller, 1));
                        assert_eq!(bench.end(&lease, &completed(BODY)), Ownership::Held);
                        assert!(bench.records.look_up(&by(caller, 1).id).is_some());
                    }) as Box<dyn FnOnce() + Send>
                })
                .into(),
        );
        let stats = bench.stats();
        assert!(stats.bytes <= most, "{stats:?}");
        assert_eq!(stats.in_flight, 0);
        let accounts = bench.records.accounts.all();
        let sums = accounts.iter().fold([0; 3], |[a, b, c], (_, held)| {
            [a + held[0], b + held[1], c + held[2]]
        });
        assert_eq!(sums, [stats.records, stats.bytes, 0]);
        assert_eq!(stats.records, bench.records.slots.count(|_| true));
        assert_eq!(bench.records.queued().0, stats.records);
    });
}

/// A release, a completion and another claim run at once. A completion whose result was `Held` is
/// in the store, and a completion whose result was `Lost` is not.
#[test]
fn a_release_never_undoes_a_completion() {
    explore(|| {
        let bench = bench(100);
        let own = claim(1);
        let lease = bench.acquire(&own);
        let (first, second, third) = (Arc::clone(&bench), Arc::clone(&bench), Arc::clone(&bench));
        let completes = Arc::new(AtomicUsize::new(0));
        let completed = Arc::clone(&completes);
        at_once(vec![
            Box::new(move || {
                first.release(&own);
            }),
            Box::new(move || {
                if second.complete(&lease) == Ownership::Held {
                    completed.fetch_add(1, Ordering::SeqCst);
                }
            }),
            Box::new(move || {
                let next = claim(1);
                if let Claimed::Acquired(lease) = third.claim(&next) {
                    assert_eq!(third.records.renew(&lease), Ownership::Held);
                    third.release(&next);
                }
            }),
        ]);
        let kept = bench.stats().completed;
        assert_eq!(kept, completes.load(Ordering::SeqCst));
        assert_eq!(bench.stats().records, 1);
    });
}

/// A claim whose result was lost is sent again while the guard of the first result is dropped. A
/// lease that has a guard at the end owns the record.
#[test]
fn a_claim_that_is_sent_again_is_guarded_again() {
    explore(|| {
        let bench = bench(100);
        let own = brief(1);
        let lost = bench.acquire(&own);
        let (first, second) = (Arc::clone(&bench), Arc::clone(&bench));
        let again = own.clone();
        let again = thread::spawn(move || first.claim(&again));
        let dropping = thread::spawn(move || {
            drop(lost);
            drop(second);
        });
        dropping.join().unwrap();
        let Claimed::Acquired(again) = again.join().unwrap() else {
            panic!("its own record")
        };
        assert!(matches!(
            bench.found(&brief(1)),
            RecordState::InFlight { .. }
        ));
        assert_eq!(bench.complete(&again), Ownership::Held);
    });
}

/// Ends an operation in a random way. Each way leaves a record that is done or can be claimed.
fn end_somehow(bench: &Bench, lease: Lease) {
    let Claim { id, nonce, .. } = lease.claim;
    match thread_rng().gen_range(0..6) {
        0 => drop(bench.complete(&lease)),
        1 => drop(bench.records.release(&id, &nonce, Release::OutcomeUnknown)),
        2 => drop(bench.records.forget(&id, ForgetMode::Forced)),
        3 => drop(lease),
        // Only this way wakes a single waiter instead of all.
        _ => drop(bench.records.release(&id, &nonce, Release::MayRunAgain)),
    }
}

/// Does what a waiting request does: it subscribes, claims and waits, until it acquires the
/// record. If it is not `patient`, it may give up at any of these steps.
fn wait_for_a_turn(bench: &Bench, patient: bool) -> Option<Lease> {
    let gives_up = || !patient && thread_rng().gen_bool(0.3);
    let mut turn = None;
    loop {
        let mut changed = Records::subscribe(&bench.records, &claim(1).id);
        if gives_up() {
            return None;
        }
        match bench.claim(&brief(1)) {
            Claimed::Acquired(lease) => return Some(lease),
            Claimed::Found(record) => match record.state {
                RecordState::InFlight { lapses_in, .. } => {
                    assert_eq!(lapses_in, Duration::MAX, "nobody sets a timer here");
                }
                _ => return None,
            },
            Claimed::OverCapacity | Claimed::OverShare => return None,
        }
        drop(turn.take());
        if gives_up() {
            // The subscription is polled before it is dropped, so that its waker may be called
            // meanwhile.
            let mut cx = Context::from_waker(Waker::noop());
            let _ = Pin::new(&mut changed).poll(&mut cx);
            return None;
        }
        block_on(&mut changed);
        if gives_up() {
            return None;
        }
        // A patient request keeps its old subscription until its next claim has a result; the
        // others drop the old one at once.
        turn = patient.then_some(changed);
    }
}

fn wait_in_turns(patience: [bool; 3]) {
    let bench = bench(100);
    let first = bench.acquire(&brief(1));
    let mut threads: Vec<Box<dyn FnOnce() + Send>> = Vec::new();
    for patient in patience {
        let bench = Arc::clone(&bench);
        threads.push(Box::new(move || {
            if let Some(lease) = wait_for_a_turn(&bench, patient) {
                end_somehow(&bench, lease);
            }
        }));
    }
    let owner = Arc::clone(&bench);
    threads.push(Box::new(move || end_somehow(&owner, first)));
    at_once(threads);
    assert_eq!(bench.records.waiters.counted(), (0, 0, 0));
}

/// If a thread waited for ever, the scheduler would report a deadlock.
#[test]
fn nobody_waits_for_ever() {
    explore(|| wait_in_turns([true, true, true]));
}

#[test]
fn nobody_waits_for_ever_for_one_that_was_woken_and_gave_up() {
    explore(|| wait_in_turns([false, false, true]));
}

/// A release wakes a waiter that is dropped at the same moment, before the wake-up or after it.
#[test]
fn a_wake_up_is_never_lost_with_the_one_it_was_for() {
    explore(|| {
        let bench = bench(100);
        let lease = bench.acquire(&claim(1));
        let subscribe = || Records::subscribe(&bench.records, &lease.claim.id);
        let (leaves, stays): (_, Subscription) = (subscribe(), subscribe());
        let owner = Arc::clone(&bench);
        at_once(vec![
            Box::new(move || drop(leaves)),
            Box::new(move || block_on(stays)),
            Box::new(move || {
                owner.release(&lease.claim);
            }),
        ]);
        assert_eq!(bench.records.waiters.counted(), (0, 0, 0));
    });
}
