//! The sums of bytes and records, when a record takes the place of an expired or a forgotten one.

use super::*;

/// The bytes of the store, and what each caller holds of it.
fn held(bench: &Bench) -> (usize, Vec<(ScopeDigest, [usize; 3])>) {
    let mut callers = bench.records.accounts.all();
    callers.sort_unstable();
    (bench.stats().bytes, callers)
}

fn claimed_once() -> Bench {
    let bench = Bench::new();
    bench.acquire(&claim(1));
    bench
}

static LARGE: [u8; 50_000] = [0; 50_000];

fn completed_once() -> Bench {
    let bench = Bench::new();
    bench.run(1);
    bench
}

#[test]
fn a_claim_gives_back_the_bytes_of_the_expired_completion_that_it_replaces() {
    let bench = completed_once();
    bench.advance(HOUR * 2);
    bench.acquire(&claim(1));
    assert_eq!(held(&bench), held(&claimed_once()));
}

#[test]
fn a_completion_that_is_late_counts_once() {
    // The record has expired.
    let bench = Bench::new();
    let lease = bench.acquire(&claim(1));
    assert_eq!(bench.complete(&lease), Ownership::Held);
    bench.advance(HOUR * 2);
    assert_eq!(bench.complete(&lease), Ownership::Held);
    assert_eq!(held(&bench), held(&completed_once()));
    // The record was forgotten.
    let bench = Bench::new();
    let lease = bench.acquire(&claim(1));
    let id = lease.claim.id;
    assert_eq!(
        bench.records.forget(&id, ForgetMode::Forced),
        Forgotten::Gone
    );
    assert_eq!(held(&bench), held(&Bench::new()));
    assert_eq!(bench.complete(&lease), Ownership::Held);
    assert_eq!(held(&bench), held(&completed_once()));
    assert_eq!(
        bench.records.forget(&id, ForgetMode::Forced),
        Forgotten::Gone
    );
    assert_eq!(held(&bench), held(&Bench::new()));
}

#[test]
fn a_late_completion_for_which_there_is_no_room_leaves_nothing_of_its_caller() {
    let bench = Bench::with(MemoryStore::builder().max_bytes(100_000));
    let lease = bench.acquire(&claim(1));
    let id = lease.claim.id;
    assert_eq!(
        bench.records.forget(&id, ForgetMode::Forced),
        Forgotten::Gone
    );
    // Records in flight can't be evicted.
    let mut others = Vec::new();
    for caller in 2.. {
        match bench.claim(&shares::by(caller, 0)) {
            Claimed::Acquired(lease) => others.push(lease),
            _ => break,
        }
    }
    let before = held(&bench);
    let large = completed(&LARGE);
    let error = bench.records.complete(&lease, &large).unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::TooLarge);
    assert_eq!(held(&bench), before);
}
