//! What steps count for, and what becomes of their bytes.

use super::*;
use crate::store::RecordedStep;
use crate::store::memory::steps::weight;

fn step(name: &str, bytes: usize) -> RecordedStep {
    RecordedStep::new(name, vec![b'1'; bytes])
}

impl Bench {
    #[track_caller]
    fn step(&self, lease: &Lease, step: &RecordedStep) -> Ownership {
        self.records.record_step(lease, step).unwrap()
    }

    /// The bytes of steps that can't be evicted: of all callers, and of the one with this lease.
    fn unevictable(&self, lease: &Lease) -> [usize; 2] {
        let mut locked = self.records.slots.lock(&lease.claim.id);
        let account = locked
            .get(&lease.claim.id)
            .map(|(_, slot)| slot.account.clone());
        let own = account.map_or(0, |account| account.unevictable_bytes());
        [self.records.counts.unevictable_bytes(), own]
    }
}

#[test]
fn steps_count_while_their_record_has_them_and_not_after_that() {
    let bench = Bench::new();
    let first = claim(1);
    let lease = bench.acquire(&first);
    let (empty, in_flight) = (bench.stats().bytes, bench.unevictable(&lease));
    let steps = [step("reserve", 100), step("charge", 0), step("ship", 5_000)];
    for step in &steps {
        assert_eq!(bench.step(&lease, step), Ownership::Held);
        assert_eq!(bench.step(&lease, step), Ownership::Held);
    }
    let more: usize = steps.iter().map(weight).sum();
    assert_eq!(bench.stats().bytes, empty + more);
    assert_eq!(
        bench.unevictable(&lease),
        in_flight.map(|bytes| bytes + more)
    );
    // The steps of a tombstone can be evicted with it.
    bench.release(&first);
    assert_eq!(bench.stats().bytes, empty + more);
    assert_eq!(bench.unevictable(&lease), [0, 0]);
    let lease = bench.acquire(&Claim {
        nonce: Nonce::random(),
        ..first.clone()
    });
    assert_eq!(lease.steps, steps);
    assert_eq!(
        bench.unevictable(&lease),
        in_flight.map(|bytes| bytes + more)
    );
    assert_eq!(bench.stats().bytes, empty + more);
    let forgets = || bench.records.forget(&first.id, ForgetMode::Forced);
    assert_eq!(bench.complete(&lease), Ownership::Held);
    let other = Bench::new();
    other.run(1);
    assert_eq!(bench.stats().bytes, other.stats().bytes);
    assert_eq!(bench.unevictable(&lease), [0, 0]);
    assert_eq!(forgets(), Forgotten::Gone);
    let lease = bench.acquire(&first);
    assert!(lease.steps.is_empty());
    assert_eq!(bench.step(&lease, &steps[2]), Ownership::Held);
    assert_eq!(forgets(), Forgotten::Gone);
    assert_eq!(
        (bench.stats().bytes, bench.unevictable(&lease)),
        (0, [0, 0])
    );
}

#[test]
fn steps_make_room_by_eviction_and_are_refused_beyond_it() {
    let bench = Bench::with(MemoryStore::builder().max_bytes(100_000));
    let lease = bench.acquire(&claim(1));
    for key in 2..20 {
        bench.end(&bench.acquire(&claim(key)), &completed(&[0; 2_000]));
    }
    let mut names = 0..;
    let error = loop {
        let name = names.next().unwrap().to_string();
        match bench.records.record_step(&lease, &step(&name, 1_000)) {
            Ok(ownership) => assert_eq!(ownership, Ownership::Held),
            Err(error) => break error,
        }
        assert!(bench.stats().bytes <= 100_000);
    };
    assert_eq!(error.kind(), StoreErrorKind::Refused);
    assert!(bench.stats().completed < 18, "{:?}", bench.stats());
    // What was refused counts nowhere.
    let before = (bench.stats().bytes, bench.unevictable(&lease));
    assert!(
        bench
            .records
            .record_step(&lease, &step("more", 1_000))
            .is_err()
    );
    assert_eq!((bench.stats().bytes, bench.unevictable(&lease)), before);
    assert_eq!(bench.complete(&lease), Ownership::Held);
}

/// One caller's steps leave room for those of others (G11).
#[test]
fn one_caller_can_t_fill_a_store_with_steps() {
    for when_full in [WhenFull::Evict, WhenFull::Refuse] {
        let limits = MemoryStore::builder().max_bytes(1_000_000);
        let bench = Bench::with(limits.when_full(when_full));
        let greedy: Vec<_> = (0..100)
            .map(|key| bench.acquire(&shares::by(1, key)))
            .collect();
        let mut refused = 0;
        for lease in &greedy {
            let recorded = bench.records.record_step(lease, &step("large", 60_000));
            refused += usize::from(recorded.is_err());
        }
        assert!((80..95).contains(&refused), "{when_full:?}: {refused}");
        let modest = bench.acquire(&shares::by(2, 0));
        assert_eq!(bench.step(&modest, &step("small", 10_000)), Ownership::Held);
        // A cap of each caller's own.
        let limits = MemoryStore::builder().max_bytes(1_000_000);
        let limits = limits.max_bytes_per_caller(50_000).when_full(when_full);
        let bench = Bench::with(limits);
        let lease = bench.acquire(&shares::by(1, 0));
        let error = bench.records.record_step(&lease, &step("large", 60_000));
        assert_eq!(error.unwrap_err().kind(), StoreErrorKind::Refused);
        assert_eq!(bench.step(&lease, &step("small", 10_000)), Ownership::Held);
    }
}
