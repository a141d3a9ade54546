//! What one caller may hold, and whose records go when there is no room (G11).

use super::*;

/// A claim of a record of its own, by one of many callers.
pub(super) fn by(caller: u32, key: u32) -> Claim {
    let mut id = [0; 32];
    id[..4].copy_from_slice(&caller.to_le_bytes());
    id[4..8].copy_from_slice(&key.to_le_bytes());
    let mut scope = [1; 32];
    scope[..4].copy_from_slice(&caller.to_le_bytes());
    Claim {
        id: RecordId::from_bytes(id),
        scope: ScopeDigest::from_bytes(scope),
        ..claim(0)
    }
}

/// In doubt for ever, unless someone resolves it.
fn in_doubt(bench: &Bench, claim: Claim) -> Claimed {
    let claim = Claim {
        on_lapsed_lease: OnLapsedLease::Refuse,
        ..claim
    };
    let claimed = bench.claim(&claim);
    if let Claimed::Acquired(_) = claimed {
        let unknown = Release::OutcomeUnknown;
        let released = bench.records.release(&claim.id, &claim.nonce, unknown);
        assert_eq!(released, Ownership::Held);
    }
    claimed
}

impl Bench {
    fn pay(&self, caller: u32, keys: impl IntoIterator<Item = u32>) {
        for key in keys {
            let lease = self.acquire(&by(caller, key));
            assert_eq!(self.complete(&lease), Ownership::Held);
        }
    }

    fn kept(&self, caller: u32, keys: impl IntoIterator<Item = u32>) -> usize {
        let keys = keys.into_iter();
        let ids = keys.map(|key| by(caller, key).id);
        ids.filter(|id| self.records.look_up(id).is_some()).count()
    }
}

/// How many a caller gets of what `take` takes, and what it is told then.
fn takes_all(take: impl Fn(u32) -> Claimed) -> (u32, Claimed) {
    let mut held = Vec::new();
    for key in 0.. {
        match take(key) {
            Claimed::Acquired(lease) => held.push(lease),
            full => return (key, full),
        }
    }
    unreachable!("it takes until it is refused")
}

#[test]
fn a_caller_that_floods_a_full_store_loses_its_own_records() {
    let bench = Bench::with(MemoryStore::builder().max_records(100));
    bench.pay(1, 0..30);
    bench.pay(2, 0..500);
    assert_eq!(bench.kept(1, 0..30), 30);
    assert_eq!(bench.kept(2, 430..500), 70);
    assert_eq!(bench.stats().evicted, 430);
    // A small caller has room, which the largest one makes.
    bench.pay(3, 0..20);
    assert_eq!((bench.kept(1, 0..30), bench.kept(3, 0..20)), (30, 20));
    assert_eq!(bench.kept(2, 0..500), 50);
    assert_eq!(bench.stats().callers, 3);
}

#[test]
fn a_flood_of_bytes_and_one_of_tombstones_stay_with_their_callers_too() {
    let large = || completed(&[0; 10_000]);
    let bench = Bench::with(MemoryStore::builder().max_bytes(500_000));
    bench.pay(1, 0..100);
    for key in 0..200 {
        bench.end(&bench.acquire(&by(2, key)), &large());
    }
    assert_eq!(bench.kept(1, 0..100), 100);
    for key in 0..5000 {
        let claim = by(3, key);
        bench.acquire(&claim);
        bench.release(&claim);
    }
    assert_eq!(bench.kept(1, 0..100), 100);
    assert!(bench.kept(2, 0..200) > 15, "its part is a third or so");
    assert!(bench.stats().bytes <= 500_000);
}

#[test]
fn what_is_in_doubt_can_t_take_the_whole_store() {
    for when_full in [WhenFull::Evict, WhenFull::Refuse] {
        let limits = MemoryStore::builder().max_records(160);
        let bench = Bench::with(limits.when_full(when_full));
        let (first, told) = takes_all(|key| in_doubt(&bench, by(1, key)));
        assert_eq!(first, 140, "seven eighths");
        assert!(matches!(told, Claimed::OverShare), "{told:?}");
        bench.pay(2, 0..10);
        assert_eq!(bench.kept(2, 0..10), 10);
        let stats = bench.stats();
        assert_eq!((stats.over_share, stats.refused, stats.evicted), (1, 0, 0));
        // An operator resolves one of them.
        let unknown = bench.records.look_up(&by(1, 0).id).unwrap();
        let resolved = Claim {
            by_hand: Some(unknown.version()),
            scope: ScopeDigest::from_bytes([0; 32]),
            ..by(1, 0)
        };
        assert_eq!(bench.complete(&bench.acquire(&resolved)), Ownership::Held);
    }
}

#[test]
fn the_last_room_of_a_store_is_that_of_all_callers() {
    let bench = Bench::with(MemoryStore::builder().max_records(16));
    let (first, _) = takes_all(|key| bench.claim(&by(1, key)));
    assert_eq!(first, 14);
    let (second, _) = takes_all(|key| bench.claim(&by(2, key)));
    assert_eq!(second, 2);
    let full = bench.claim(&by(3, 0));
    assert!(matches!(full, Claimed::OverCapacity), "{full:?}");
    assert_eq!(bench.stats().refused, 2);
}

#[test]
fn a_tombstone_is_claimed_again_only_within_the_share() {
    let bench = Bench::with(MemoryStore::builder().max_records(16));
    for key in 0..16 {
        let claim = by(1, key);
        bench.acquire(&claim);
        bench.release(&claim);
    }
    let (held, told) = takes_all(|key| bench.claim(&by(1, key)));
    assert_eq!(held, 14);
    assert!(matches!(told, Claimed::OverShare), "{told:?}");
}

#[test]
fn a_store_that_refuses_keeps_an_eighth_of_its_room_for_others() {
    let limits = MemoryStore::builder().max_records(80);
    let bench = Bench::with(limits.when_full(WhenFull::Refuse));
    bench.pay(1, 0..70);
    let told = bench.claim(&by(1, 70));
    assert!(matches!(told, Claimed::OverShare), "{told:?}");
    bench.pay(2, 0..8);
    assert_eq!((bench.kept(1, 0..70), bench.kept(2, 0..8)), (70, 8));
    // Its records are over, and so it has its share again.
    bench.advance(HOUR);
    bench.pay(1, 100..170);
}

#[test]
fn a_claim_beyond_its_share_does_not_remove_a_backlog_of_expired_records() {
    let many = MemoryStore::builder().max_records(1600);
    let bench = Bench::with(many.clone());
    bench.pay(2, 0..200);
    let (held, _) = takes_all(|key| bench.claim(&by(1, key)));
    assert_eq!(held, 1400);
    bench.advance(HOUR);
    let before = bench.stats().records;
    assert!(matches!(bench.claim(&by(1, 1400)), Claimed::OverShare));
    // The records of the other caller are over, and have no part in the share.
    assert_eq!(bench.stats().records, before);

    let few_each = many.max_records_per_caller(10);
    let bench = Bench::with(few_each.when_full(WhenFull::Refuse));
    (2..120).for_each(|caller| bench.pay(caller, 0..10));
    let (held, _) = takes_all(|key| bench.claim(&by(1, key)));
    assert_eq!(held, 10);
    bench.advance(HOUR);
    let before = bench.stats().records;
    assert!(matches!(bench.claim(&by(1, 10)), Claimed::OverShare));
    assert_eq!(before - bench.stats().records, 32);
    // A caller whose own records are over has its share again, whoever else has more of them.
    let before = bench.stats().records;
    let _lease = bench.acquire(&by(119, 10));
    assert_eq!(bench.stats().records, before);
}

#[test]
fn where_all_callers_are_one_the_store_is_theirs_to_the_last_record() {
    for when_full in [WhenFull::Evict, WhenFull::Refuse] {
        let limits = MemoryStore::builder().max_records(80);
        let bench = Bench::with(limits.when_full(when_full));
        let everyone = |key| Claim {
            is_everyone: true,
            ..by(1, key)
        };
        let (held, told) = takes_all(|key| bench.claim(&everyone(key)));
        assert_eq!(held, 80);
        assert!(matches!(told, Claimed::OverCapacity), "{told:?}");
    }
}

#[test]
fn a_limit_of_one_caller_is_what_one_caller_has() {
    let most = MemoryStore::builder().max_records_per_caller(10);
    let bench = Bench::with(most.clone());
    bench.pay(1, 0..25);
    assert_eq!((bench.kept(1, 0..15), bench.kept(1, 15..25)), (0, 10));
    let (held, told) = takes_all(|key| bench.claim(&by(2, key)));
    assert_eq!(held, 10);
    assert!(matches!(told, Claimed::OverShare), "{told:?}");
    assert_eq!(bench.kept(1, 15..25), 10);

    let bench = Bench::with(most.when_full(WhenFull::Refuse));
    bench.pay(1, 0..10);
    assert!(matches!(bench.claim(&by(1, 10)), Claimed::OverShare));
    bench.pay(2, 0..10);

    let bytes =
        MemoryStore::builder().max_bytes_per_caller(room(3) + 2 * (COMPLETION_BYTES + 1000));
    let bench = Bench::with(bytes);
    for key in 0..3 {
        bench.end(&bench.acquire(&by(1, key)), &completed(&[0; 1000]));
    }
    assert_eq!((bench.kept(1, 0..1), bench.kept(1, 1..3)), (0, 2));
    // All of it is in flight.
    let all = MemoryStore::builder().max_records(80);
    let bench = Bench::with(all.max_records_per_caller(80));
    assert_eq!(takes_all(|key| bench.claim(&by(1, key))).0, 80);
}

#[test]
fn a_completion_without_room_is_not_kept_and_the_store_says_so() {
    let bench = Bench::with(MemoryStore::builder().max_bytes(20_000));
    bench.pay(1, 0..45);
    let lease = bench.acquire(&by(2, 0));
    // What it would hold is more than anybody has.
    let told = bench.records.complete(&lease, &completed(&[0; 15_000]));
    assert_eq!(told.unwrap_err().kind(), StoreErrorKind::TooLarge);
    assert_eq!(bench.kept(1, 0..45), 45);
    assert_eq!(bench.stats().not_kept, 1);
    assert!(matches!(
        bench.found(&by(2, 0)),
        RecordState::InFlight { .. }
    ));
    // Nothing has changed: the layer seals it, and the guard still counts.
    let sealed = Outcome::Sealed { retention: HOUR };
    assert_eq!(
        bench.records.complete(&lease, &sealed).unwrap(),
        Ownership::Held
    );
    assert_eq!(bench.kept(1, 0..45), 45);
    // A smaller one is kept, at the cost of who holds the most.
    let lease = bench.acquire(&by(3, 0));
    let told = bench.records.complete(&lease, &completed(&[0; 8000]));
    assert_eq!(told.unwrap(), Ownership::Held);
    assert!(bench.kept(1, 0..45) < 45);
}

#[test]
fn under_refuse_a_completion_is_kept_whatever_is_full() {
    let limits = MemoryStore::builder().max_bytes(room(2) + 500);
    let bench = Bench::with(limits.when_full(WhenFull::Refuse));
    let held = [1, 2].map(|key| bench.acquire(&by(1, key)));
    for lease in &held {
        let told = bench.records.complete(lease, &completed(&[0; 100]));
        assert_eq!(told.unwrap(), Ownership::Held);
    }
    assert_eq!(bench.stats().completed, 2);
    assert!(matches!(bench.claim(&by(2, 0)), Claimed::OverCapacity));
}

#[test]
fn limits_that_contradict_each_other_are_config_errors_with_both_numbers() {
    let error = |limits: MemoryStoreBuilder| limits.build().unwrap_err();
    let records = MemoryStore::builder().max_records(10);
    let wrong = error(records.clone().max_records_per_caller(11));
    assert_eq!(wrong.option(), "max_records_per_caller");
    let text = wrong.to_string();
    assert!(text.contains("11") && text.contains("10"), "{text}");
    let bytes = MemoryStore::builder().max_bytes(10_000);
    let wrong = error(bytes.max_bytes_per_caller(10_001));
    assert_eq!(wrong.option(), "max_bytes_per_caller");
    let text = wrong.to_string();
    assert!(text.contains("10001") && text.contains("10000"), "{text}");
    let none = error(records.clone().max_records_per_caller(0));
    assert_eq!(none.option(), "max_records_per_caller");
    let small = error(records.clone().max_bytes_per_caller(room(1) - 1));
    assert_eq!(small.option(), "max_bytes_per_caller");
    assert!(records.max_records_per_caller(10).build().is_ok());
}
