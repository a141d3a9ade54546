use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::StatusCode;

use super::clock::Clock;
use super::limits::{CALLER_BYTES, COMPLETION_BYTES, FIELD_BYTES, RECORD_BYTES};
use super::records::Records;
use super::*;
use crate::record::{Completion, Fingerprint, ScopeDigest};
use crate::store::{ForgetMode, OnLapsedLease, RecordState, RecordVersion, StoreErrorKind};

mod caps;
mod fairness;
#[cfg(shuttle)]
mod interleavings;
mod listing;
mod model;
mod shares;
mod steps;
mod sums;
mod waiting;

const HOUR: Duration = Duration::from_secs(3600);

/// A store whose clock the test moves.
struct Bench {
    records: Arc<Records>,
    clock: Arc<AtomicU64>,
}

impl Bench {
    fn new() -> Self {
        Self::with(MemoryStore::builder())
    }

    fn with(limits: MemoryStoreBuilder) -> Self {
        let clock = Arc::new(AtomicU64::new(0));
        let records = Arc::new(Records::new(
            limits.limits,
            Clock::ByHand(Arc::clone(&clock)),
        ));
        Self { records, clock }
    }

    fn advance(&self, time: Duration) {
        let millis = u64::try_from(time.as_millis()).unwrap();
        self.clock.fetch_add(millis, Ordering::Relaxed);
    }

    fn claim(&self, claim: &Claim) -> Claimed {
        Records::claim(&self.records, claim)
    }

    fn acquire(&self, claim: &Claim) -> Lease {
        match self.claim(claim) {
            Claimed::Acquired(lease) => lease,
            other => panic!("not acquired: {other:?}"),
        }
    }

    fn found(&self, claim: &Claim) -> RecordState {
        match self.claim(claim) {
            Claimed::Found(record) => record.state,
            other => panic!("not found: {other:?}"),
        }
    }

    fn complete(&self, lease: &Lease) -> Ownership {
        self.end(lease, &completed(b"done"))
    }

    /// Ends an operation as the layer does: a completion for which there is no room is sealed.
    fn end(&self, lease: &Lease, outcome: &Outcome) -> Ownership {
        match self.records.complete(lease, outcome) {
            Err(error) if error.kind() == StoreErrorKind::TooLarge => {
                let sealed = outcome.clone().sealed();
                self.records.complete(lease, &sealed).unwrap()
            }
            ended => ended.unwrap(),
        }
    }

    /// Claims a record and completes it.
    fn run(&self, id: u8) {
        assert_eq!(self.complete(&self.acquire(&claim(id))), Ownership::Held);
    }

    fn release(&self, claim: &Claim) -> Ownership {
        self.records
            .release(&claim.id, &claim.nonce, Release::MayRunAgain)
    }

    fn has(&self, id: u8) -> bool {
        self.records.look_up(&claim(id).id).is_some()
    }

    fn stats(&self) -> MemoryStats {
        self.records.counts.stats()
    }

    /// How many records can expire.
    fn ending(&self) -> usize {
        self.records.slots.count(|slot| slot.end().is_some())
    }
}

fn claim(id: u8) -> Claim {
    Claim {
        lease: Duration::from_secs(30),
        retention: HOUR,
        ..Claim::new(
            RecordId::from_bytes([id; 32]),
            ScopeDigest::from_bytes([0; 32]),
            Fingerprint::from_bytes([0; 32]),
        )
    }
}

/// What so many records of one caller take, without completions.
const fn room(records: usize) -> usize {
    CALLER_BYTES + records * RECORD_BYTES
}

fn completed(body: &'static [u8]) -> Outcome {
    let mut completion = Completion::new(StatusCode::CREATED, body, SystemTime::UNIX_EPOCH);
    completion.retention = HOUR;
    Outcome::Completed(Arc::new(completion))
}

#[test]
fn a_completion_is_found_until_its_retention_ends() {
    let bench = Bench::new();
    let lease = bench.acquire(&claim(1));
    assert_eq!(lease.attempt, 1);
    assert!(matches!(
        bench.found(&claim(1)),
        RecordState::InFlight { .. }
    ));
    assert_eq!(bench.complete(&lease), Ownership::Held);
    bench.advance(HOUR.saturating_sub(Duration::from_millis(1)));
    let RecordState::Completed { completion, .. } = bench.found(&claim(1)) else {
        panic!()
    };
    assert_eq!(
        (completion.status, &completion.body[..]),
        (StatusCode::CREATED, &b"done"[..])
    );
    bench.advance(Duration::from_millis(1));
    assert!(!bench.has(1));
    assert_eq!(bench.acquire(&claim(1)).attempt, 1);
}

#[test]
fn tokens_grow_over_release_expiry_and_forgetting() {
    let bench = Bench::new();
    let first = claim(1);
    let mut last = bench.acquire(&first).token;
    assert_eq!(bench.release(&first), Ownership::Held);
    for step in 0..3 {
        let next = claim(1);
        let lease = bench.acquire(&next);
        assert!(lease.token > last, "{step}");
        last = lease.token;
        bench.complete(&lease);
        match step {
            0 => bench.advance(HOUR),
            1 => assert_eq!(
                bench.records.forget(&next.id, ForgetMode::UnlessAlive),
                Forgotten::Gone
            ),
            _ => assert!(MemoryStore::new().is_empty()),
        }
    }
}

#[test]
fn a_tombstone_counts_the_attempts() {
    let bench = Bench::new();
    for attempt in 1..=3 {
        let claim = claim(1);
        assert_eq!(bench.acquire(&claim).attempt, attempt);
        assert_eq!(bench.release(&claim), Ownership::Held);
        assert!(matches!(
            bench.records.look_up(&claim.id).unwrap().state,
            RecordState::Released
        ));
    }
    bench.advance(HOUR);
    assert_eq!(bench.acquire(&claim(1)).attempt, 1);
}

/// A claim that is sent again has a guard too, and a record that was acquired anew by the same nonce
/// has nothing to do with the guard of the lease before.
#[test]
fn a_lease_lapses_with_the_last_of_its_own_guards() {
    let bench = Bench::new();
    let own = claim(1);
    let (before, again) = (bench.acquire(&own), bench.acquire(&own));
    drop(before.clone());
    drop(before);
    assert_eq!(bench.ending(), 0);
    assert_eq!(bench.release(&own), Ownership::Held);
    let anew = bench.acquire(&own);
    drop(again);
    assert_eq!(bench.ending(), 0);
    drop(anew);
    assert_eq!(bench.ending(), 1);
}

#[test]
fn a_lease_does_not_lapse_while_its_guard_lives() {
    let bench = Bench::new();
    let lease = bench.acquire(&claim(1));
    bench.advance(HOUR * 100);
    assert!(matches!(
        bench.found(&claim(1)),
        RecordState::InFlight { .. }
    ));
    drop(lease);
    assert_eq!(bench.acquire(&claim(1)).attempt, 2);
}

#[test]
fn a_stale_owner_can_change_nothing() {
    let bench = Bench::new();
    let stale = bench.acquire(&claim(1)).without_guard();
    bench.advance(HOUR / 2);
    let owner = bench.acquire(&claim(1));
    assert!(owner.token > stale.token);
    assert_eq!(bench.records.renew(&stale), Ownership::Lost);
    assert_eq!(bench.release(&stale.claim), Ownership::Lost);
    assert_eq!(bench.complete(&stale), Ownership::Lost);
    assert_eq!(bench.complete(&owner), Ownership::Held);
    assert_eq!(bench.complete(&stale), Ownership::Lost);
    assert_eq!(bench.release(&stale.claim), Ownership::Lost);
    assert!(matches!(
        bench.found(&claim(1)),
        RecordState::Completed { .. }
    ));
}

#[test]
fn a_lapse_that_nobody_took_changes_nothing_for_its_owner() {
    let bench = Bench::new();
    let lease = bench.acquire(&claim(1)).without_guard();
    bench.advance(HOUR / 2);
    assert_eq!(bench.records.renew(&lease), Ownership::Held);
    assert!(matches!(
        bench.found(&claim(1)),
        RecordState::InFlight { .. }
    ));
    bench.advance(HOUR / 2);
    assert_eq!(bench.complete(&lease), Ownership::Held);
}

#[test]
fn lapsed_records_of_another_fingerprint_are_not_taken_over() {
    let bench = Bench::new();
    drop(bench.acquire(&claim(1)));
    bench.advance(HOUR / 2);
    let mut other = claim(1);
    other.fingerprint = Fingerprint::from_bytes([9; 32]);
    let RecordState::Lapsed { fingerprint } = bench.found(&other) else {
        panic!()
    };
    assert_eq!(fingerprint, claim(1).fingerprint);
    other.on_mismatch = crate::store::OnMismatch::Replay;
    assert_eq!(bench.acquire(&other).attempt, 2);
}

#[test]
fn under_refuse_a_lapsed_record_stays_until_someone_resolves_it() {
    let bench = Bench::new();
    let mut refuse = claim(1);
    refuse.on_lapsed_lease = OnLapsedLease::Refuse;
    drop(bench.acquire(&refuse));
    bench.advance(HOUR * 24 * 365);
    refuse.nonce = Nonce::random();
    assert!(matches!(bench.found(&refuse), RecordState::Lapsed { .. }));
    for id in 2..40 {
        bench.run(id);
    }
    assert!(bench.has(1));
    assert_eq!(
        bench.records.forget(&refuse.id, ForgetMode::UnlessAlive),
        Forgotten::Gone
    );
    assert_eq!(bench.acquire(&refuse).attempt, 1);
}

/// The version of a record in flight under this lease.
fn version(lease: &Lease) -> RecordVersion {
    RecordVersion {
        token: lease.token,
        attempt: lease.attempt,
        done: false,
    }
}

#[test]
fn an_unknown_outcome_is_a_lapse_at_once() {
    let bench = Bench::new();
    let mut refuse = claim(1);
    refuse.on_lapsed_lease = OnLapsedLease::Refuse;
    let lease = bench.acquire(&refuse);
    let unknown = bench
        .records
        .release(&refuse.id, &refuse.nonce, Release::OutcomeUnknown);
    assert_eq!(unknown, Ownership::Held);
    let mut next = claim(1);
    next.on_lapsed_lease = OnLapsedLease::Refuse;
    assert!(matches!(bench.found(&next), RecordState::Lapsed { .. }));
    // Neither a late renewal nor a repeated claim makes the record in flight again.
    assert_eq!(bench.records.renew(&lease), Ownership::Lost);
    assert!(matches!(bench.found(&refuse), RecordState::Lapsed { .. }));
    assert_eq!(bench.stats().in_flight, 1);
    // A claim by hand resolves the record, under another nonce.
    next.by_hand = Some(version(&lease));
    let by_hand = bench.acquire(&next);
    assert_eq!(bench.complete(&by_hand), Ownership::Held);
    assert_eq!(bench.complete(&lease), Ownership::Lost);
}

#[test]
fn an_abandoned_record_is_forgotten_a_retention_after_its_lapse() {
    let bench = Bench::new();
    drop(bench.acquire(&claim(1)));
    bench.advance(HOUR);
    bench.run(2);
    assert!(bench.has(1));
    bench.advance(Duration::from_secs(30));
    assert!(!bench.has(1));
    bench.run(3);
    assert_eq!(bench.stats().records, 2, "its memory is free again");
}

#[test]
fn a_renewal_without_a_guard_keeps_a_record_from_being_forgotten() {
    let bench = Bench::new();
    let lease = bench.acquire(&claim(1)).without_guard();
    bench.advance(HOUR);
    assert_eq!(bench.records.renew(&lease), Ownership::Held);
    bench.advance(Duration::from_secs(40));
    bench.run(2);
    assert!(bench.has(1));
    bench.advance(HOUR * 3);
    bench.run(3);
    assert_eq!(bench.stats().in_flight, 0);
}

#[test]
fn the_nonce_that_claims_again_gets_its_lease_again() {
    let bench = Bench::new();
    let claim_once = claim(1);
    let first = bench.acquire(&claim_once);
    let again = bench.acquire(&claim_once);
    assert_eq!((first.token, first.attempt), (again.token, again.attempt));
    drop((first, again));
    bench.advance(HOUR / 2);
    let after_a_lapse = bench.acquire(&claim_once);
    assert_eq!(after_a_lapse.attempt, 1);
    bench.advance(HOUR / 2);
    assert!(matches!(
        bench.found(&claim(1)),
        RecordState::InFlight { .. }
    ));
    assert_eq!(bench.complete(&after_a_lapse), Ownership::Held);
    assert!(matches!(
        bench.found(&claim_once),
        RecordState::Completed { .. }
    ));
}

#[test]
fn who_completed_may_say_so_again_and_nothing_deletes_a_completion() {
    let bench = Bench::new();
    let lease = bench.acquire(&claim(1));
    assert_eq!(bench.complete(&lease), Ownership::Held);
    assert_eq!(bench.end(&lease, &completed(b"other")), Ownership::Held);
    assert_eq!(bench.records.renew(&lease), Ownership::Held);
    assert_eq!(bench.release(&lease.claim), Ownership::Lost);
    let RecordState::Completed { completion, .. } = bench.found(&claim(1)) else {
        panic!()
    };
    assert_eq!(&completion.body[..], b"done");
}

#[test]
fn a_completion_outlives_the_loss_of_its_record_unless_a_higher_token_is_known() {
    let bench = Bench::new();
    let lease = bench.acquire(&claim(1));
    assert_eq!(
        bench.records.forget(&lease.claim.id, ForgetMode::Forced),
        Forgotten::Gone
    );
    assert_eq!(bench.records.renew(&lease), Ownership::Lost);
    assert_eq!(bench.complete(&lease), Ownership::Held);
    assert!(bench.has(1));
    assert_eq!(bench.stats().completed, 1);

    let released = claim(2);
    let lease = bench.acquire(&released);
    bench.release(&released);
    assert_eq!(bench.complete(&lease), Ownership::Held, "its own tombstone");

    let first = bench.acquire(&claim(3));
    bench.records.forget(&first.claim.id, ForgetMode::Forced);
    let second = claim(3);
    bench.acquire(&second);
    bench.release(&second);
    assert_eq!(bench.complete(&first), Ownership::Lost, "a later tombstone");
}

#[test]
fn what_is_alive_in_flight_is_forgotten_only_by_force() {
    let bench = Bench::new();
    let lease = bench.acquire(&claim(1));
    let id = lease.claim.id;
    assert_eq!(
        bench.records.forget(&id, ForgetMode::UnlessAlive),
        Forgotten::InFlight
    );
    assert_eq!(
        bench.records.forget(&id, ForgetMode::Forced),
        Forgotten::Gone
    );
    assert_eq!(
        bench.records.forget(&id, ForgetMode::Forced),
        Forgotten::Absent
    );
    assert_eq!(bench.stats(), MemoryStats::default());
}

#[test]
fn a_full_store_forgets_tombstones_first_then_the_oldest_completion() {
    let bench = Bench::with(MemoryStore::builder().max_records(3));
    bench.run(1);
    bench.advance(Duration::from_secs(1));
    bench.run(2);
    let released = claim(3);
    bench.acquire(&released);
    bench.release(&released);
    bench.run(4);
    assert_eq!(
        [1, 2, 3, 4].map(|id| bench.has(id)),
        [true, true, false, true]
    );
    bench.run(5);
    assert_eq!(
        [1, 2, 4, 5].map(|id| bench.has(id)),
        [false, true, true, true]
    );
    assert_eq!(bench.stats().records, 3);
}

#[test]
fn the_oldest_is_the_one_completed_first_whatever_its_retention() {
    let bench = Bench::with(MemoryStore::builder().max_records(2));
    let mut long = Completion::new(StatusCode::OK, "", SystemTime::UNIX_EPOCH);
    long.retention = HOUR * 1000;
    let lease = bench.acquire(&claim(1));
    bench.end(&lease, &Outcome::Completed(Arc::new(long)));
    bench.advance(Duration::from_secs(1));
    bench.run(2);
    bench.run(3);
    assert_eq!([1, 2, 3].map(|id| bench.has(id)), [false, true, true]);
}

#[test]
fn a_store_full_of_operations_in_flight_refuses() {
    let bench = Bench::with(MemoryStore::builder().max_records(2));
    let held = [bench.acquire(&claim(1)), bench.acquire(&claim(2))];
    assert!(matches!(bench.claim(&claim(3)), Claimed::OverCapacity));
    assert!(matches!(
        bench.found(&claim(1)),
        RecordState::InFlight { .. }
    ));
    assert_eq!(bench.complete(&held[0]), Ownership::Held);
    bench.acquire(&claim(3));
    assert_eq!([1, 2, 3].map(|id| bench.has(id)), [false, true, true]);
}

#[test]
fn when_told_to_refuse_a_full_store_forgets_nothing() {
    let limits = MemoryStore::builder()
        .max_records(1)
        .when_full(WhenFull::Refuse);
    let bench = Bench::with(limits);
    bench.run(1);
    assert!(matches!(bench.claim(&claim(2)), Claimed::OverCapacity));
    assert!(bench.has(1));
}

#[test]
fn bytes_are_capped_too() {
    let most = room(4) + 3 * (COMPLETION_BYTES + 1000);
    let limits = MemoryStore::builder().max_bytes(most);
    let bench = Bench::with(limits);
    for id in 1..=3 {
        let lease = bench.acquire(&claim(id));
        bench.end(&lease, &completed(&[0; 1000]));
    }
    assert_eq!(bench.stats().completed, 3);
    let lease = bench.acquire(&claim(4));
    bench.end(&lease, &completed(&[0; 1000]));
    assert_eq!(
        [1, 2, 3, 4].map(|id| bench.has(id)),
        [false, true, true, true]
    );
    assert!(bench.stats().bytes <= most);
}

#[test]
fn an_answer_that_no_eviction_makes_room_for_is_sealed() {
    let bench = Bench::with(MemoryStore::builder().max_bytes(room(2)));
    let lease = bench.acquire(&claim(1));
    assert_eq!(bench.end(&lease, &completed(&[0; 5000])), Ownership::Held);
    assert!(matches!(bench.found(&claim(1)), RecordState::Sealed { .. }));
    assert_eq!(bench.stats().sealed, 1);
}

#[test]
fn sealed_records_are_kept_for_their_retention() {
    let bench = Bench::new();
    let lease = bench.acquire(&claim(1));
    bench.end(&lease, &Outcome::Sealed { retention: HOUR });
    assert!(matches!(bench.found(&claim(1)), RecordState::Sealed { .. }));
    bench.advance(HOUR);
    assert_eq!(bench.acquire(&claim(1)).attempt, 1);
}

/// A key that is claimed and released many times takes the room of one record.
#[test]
fn releases_of_one_key_do_not_add_up() {
    let bench = Bench::new();
    for _ in 0..1000 {
        let claim = claim(1);
        let lease = bench.acquire(&claim);
        bench.release(&claim);
        drop(lease);
        bench.advance(Duration::from_millis(5));
    }
    assert_eq!(bench.records.queued(), (1, 1));
    // The retention of the record began with its last release.
    bench.advance(HOUR.saturating_sub(Duration::from_secs(1)));
    bench.run(2);
    assert!(bench.has(1));
    bench.advance(Duration::from_secs(1));
    bench.run(3);
    bench.run(4);
    assert_eq!(bench.stats().released, 0);
}

#[test]
fn a_store_that_refuses_has_room_again_once_records_are_over() {
    let limits = MemoryStore::builder()
        .max_records(2)
        .when_full(WhenFull::Refuse);
    let bench = Bench::with(limits);
    bench.run(1);
    bench.run(2);
    bench.advance(HOUR.saturating_sub(Duration::from_millis(1)));
    assert!(matches!(bench.claim(&claim(3)), Claimed::OverCapacity));
    bench.advance(Duration::from_millis(1));
    bench.run(3);
    bench.run(4);
    assert!(matches!(bench.claim(&claim(5)), Claimed::OverCapacity));
}

#[test]
fn an_answer_beside_operations_in_flight_is_sealed_rather_than_forgotten() {
    let bench = Bench::with(MemoryStore::builder().max_bytes(room(5)));
    let held: Vec<_> = (1..=4).map(|id| bench.acquire(&claim(id))).collect();
    let outcome = completed(&[0; 1000]);
    assert_eq!(bench.end(&held[0], &outcome), Ownership::Held);
    assert!(matches!(bench.found(&claim(1)), RecordState::Sealed { .. }));
    assert_eq!(bench.stats().bytes, room(4));
}

/// Every expired record is removed while other records are added.
#[test]
fn expired_records_are_removed_as_others_come() {
    let bench = Bench::new();
    let mut id = 0_u32;
    let mut next = || {
        id += 1;
        let mut bytes = [7; 32];
        bytes[..4].copy_from_slice(&id.to_le_bytes());
        Claim {
            id: RecordId::from_bytes(bytes),
            ..claim(0)
        }
    };
    for _ in 0..3000 {
        bench.complete(&bench.acquire(&next()));
    }
    let full = bench.stats();
    assert_eq!(full.completed, 3000);
    bench.advance(HOUR);
    for _ in 0..3000 {
        bench.complete(&bench.acquire(&next()));
        assert!(bench.stats().records <= 3001);
    }
    assert_eq!(bench.stats().records, 3000);
    assert_eq!(bench.stats().bytes, full.bytes);
}

#[test]
fn fifty_claims_at_once_acquire_once() {
    let store = MemoryStore::new();
    let acquired = AtomicU64::new(0);
    let start = std::sync::Barrier::new(50);
    std::thread::scope(|scope| {
        for _ in 0..50 {
            scope.spawn(|| {
                start.wait();
                let claimed = Records::claim(&store.records, &claim(1));
                if let Claimed::Acquired(lease) = claimed {
                    acquired.fetch_add(1, Ordering::Relaxed);
                    std::mem::forget(lease);
                }
            });
        }
    });
    assert_eq!(acquired.into_inner(), 1);
}

/// Several threads use few ids and a small limit. In the end the counts must be those of the
/// records.
#[test]
fn counts_are_right_after_any_scramble() {
    let store = MemoryStore::builder()
        .max_records(20)
        .max_bytes(room(20))
        .build()
        .unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4_u8 {
            let records = &store.records;
            scope.spawn(move || {
                for step in 0..4000_u32 {
                    let id = u8::try_from(step.wrapping_mul(7) % 60).unwrap() ^ thread;
                    let claim = claim(id);
                    let Claimed::Acquired(lease) = Records::claim(records, &claim) else {
                        continue;
                    };
                    match step % 4 {
                        0 => drop(records.complete(&lease, &completed(b"a"))),
                        1 => drop(records.release(&claim.id, &claim.nonce, Release::MayRunAgain)),
                        2 => drop(records.complete(&lease, &Outcome::Sealed { retention: HOUR })),
                        _ => drop(records.forget(&claim.id, ForgetMode::Forced)),
                    }
                }
            });
        }
    });
    let stats = store.stats();
    assert!(stats.records <= 20 && stats.in_flight == 0, "{stats:?}");
    for id in 0..64 {
        store.records.forget(&claim(id).id, ForgetMode::Forced);
    }
    let stats = store.stats();
    let left = (stats.records, stats.bytes, stats.completed, stats.callers);
    assert_eq!(left, (0, 0, 0, 0));
}

#[test]
fn wrong_caps_are_config_errors() {
    let wrong = |limits: MemoryStoreBuilder| limits.build().unwrap_err().option();
    assert_eq!(wrong(MemoryStore::builder().max_records(0)), "max_records");
    assert_eq!(
        wrong(MemoryStore::builder().max_bytes(room(1) - 1)),
        "max_bytes"
    );
    let smallest = MemoryStore::builder().max_bytes(room(1));
    assert!(smallest.max_records(1).build().is_ok());
    let defaults = MemoryStore::builder().limits;
    assert_eq!(
        (defaults.max_records, defaults.max_bytes),
        (1_000_000, 256 << 20)
    );
}

#[test]
fn ids_spread_over_the_map_even_if_they_differ_in_one_bit() {
    use std::hash::BuildHasher;
    let hasher = super::id_hasher::IdHasher::random();
    let mut seen = std::collections::HashSet::new();
    for bit in 0..64 {
        let mut bytes = [0; 32];
        bytes[bit / 8] = 1 << (bit % 8);
        seen.insert(hasher.hash_one(RecordId::from_bytes(bytes)));
        seen.insert(hasher.hash_one(&bytes[..8]));
    }
    assert!(seen.len() >= 64);
    assert_ne!(
        super::id_hasher::IdHasher::random().hash_one(RecordId::from_bytes([1; 32])),
        hasher.hash_one(RecordId::from_bytes([1; 32]))
    );
}

#[test]
fn debug_shows_counts_and_nothing_else() {
    let store = MemoryStore::default();
    assert!(store.is_empty());
    drop(Records::claim(&store.records, &claim(1)));
    let shown = format!("{store:?}");
    assert!(
        shown.contains("records: 1") && !shown.contains("0101"),
        "{shown}"
    );
    assert_eq!((store.len(), store.is_empty()), (1, false));
}
