//! The store's operations against each other, in every order that a scheduler
//! comes up with: `RUSTFLAGS="--cfg shuttle" cargo test --lib interleavings`.

use shuttle::sync::atomic::{AtomicUsize, Ordering};
use shuttle::thread;

use super::*;

/// How many schedules each scenario is run under.
const RANDOM: usize = 3000;
const WITH_FEW_SWITCHES: usize = 3000;

fn explore(scenario: fn()) {
    shuttle::check_random(scenario, RANDOM);
    shuttle::check_pct(scenario, WITH_FEW_SWITCHES, 3);
}

/// Runs every one of these at once and waits for them.
fn at_once(threads: Vec<Box<dyn FnOnce() + Send>>) {
    let running: Vec<_> = threads.into_iter().map(thread::spawn).collect();
    for thread in running {
        thread.join().unwrap();
    }
}

fn bench(max_records: usize) -> Arc<Bench> {
    Arc::new(Bench::with(MemoryStore::builder().max_records(max_records)))
}

/// A claim whose lease is over at once: only its guard keeps the record.
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
                            assert_eq!(bench.complete(&lease), Tenure::Held);
                        }
                    }) as Box<dyn FnOnce() + Send>
                })
                .collect(),
        );
        assert_eq!(owners.load(Ordering::SeqCst), 1);
        assert_eq!((bench.stats().records, bench.stats().completed), (1, 1));
    });
}

/// G1 and G5: whoever holds a guard is the only owner, whatever its lease
/// says; whoever lets go can be followed, and then changes nothing.
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
                        assert_eq!(bench.shared.renew(&lease), Tenure::Held);
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

/// A completion and a takeover race for the record: one of them has it.
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
                if first.complete(&stale) == Tenure::Held {
                    completed.fetch_add(1, Ordering::SeqCst);
                }
            }),
            Box::new(move || {
                if let Claimed::Acquired(lease) = second.claim(&brief(1)) {
                    assert_eq!(lease.attempt, 2);
                    taken.fetch_add(1, Ordering::SeqCst);
                    assert_eq!(second.complete(&lease), Tenure::Held);
                }
            }),
        ]);
        let both = takes_over.load(Ordering::SeqCst) + completes.load(Ordering::SeqCst);
        assert_eq!(both, 1);
        assert_eq!(bench.stats().completed, 1);
    });
}

/// At its cap the store never forgets what runs, and its counts stay right.
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
                            assert_eq!(bench.shared.renew(&lease), Tenure::Held, "evicted");
                            assert_eq!(bench.complete(&lease), Tenure::Held);
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

/// Release, completion and the next claim: a completion that was
/// acknowledged is there, and one that was not is not.
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
                if second.complete(&lease) == Tenure::Held {
                    completed.fetch_add(1, Ordering::SeqCst);
                }
            }),
            Box::new(move || {
                let next = claim(1);
                if let Claimed::Acquired(lease) = third.claim(&next) {
                    assert_eq!(third.shared.renew(&lease), Tenure::Held);
                    third.release(&next);
                }
            }),
        ]);
        let kept = bench.stats().completed;
        assert_eq!(kept, completes.load(Ordering::SeqCst));
        assert_eq!(bench.stats().records, 1);
    });
}

/// A claim whose acknowledgement was lost is sent again while the guard of
/// the first is being dropped: whoever holds a guard at the end owns it.
#[test]
fn a_claim_that_is_sent_again_is_guarded_again() {
    explore(|| {
        let bench = bench(100);
        let own = brief(1);
        let lost = bench.acquire(&own);
        let (first, second) = (Arc::clone(&bench), Arc::clone(&bench));
        let again = thread::spawn(move || first.claim(&own));
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
        assert_eq!(bench.complete(&again), Tenure::Held);
    });
}
