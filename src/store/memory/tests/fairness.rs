//! Compares evictions with a simple model: who loses a record when there is no room, and which.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::shares::by;
use super::*;

const MOST_RECORDS: usize = 24;
const MOST_BYTES: usize = 20_000;

/// A record of the model. The order of the ended ones is that in which they ended.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Plain {
    InFlight,
    Released { ended: usize },
    Done { ended: usize, bytes: usize },
}

#[derive(Default)]
struct Model {
    records: BTreeMap<(u32, u32), Plain>,
    ended: usize,
}

impl Model {
    fn of(&self, caller: u32) -> impl Iterator<Item = (&(u32, u32), &Plain)> {
        self.records.range((caller, 0)..(caller + 1, 0))
    }

    /// How much a caller holds, and how much of it has ended.
    fn held(&self, caller: u32, by_bytes: bool) -> (usize, usize) {
        let each = |plain: &Plain| match plain {
            _ if !by_bytes => 1,
            Plain::Done { bytes, .. } => RECORD_BYTES + bytes,
            _ => RECORD_BYTES,
        };
        let all: usize = self.of(caller).map(|(_, plain)| each(plain)).sum();
        let own = if by_bytes && all > 0 { CALLER_BYTES } else { 0 };
        let in_flight = self
            .of(caller)
            .filter(|(_, plain)| **plain == Plain::InFlight);
        let in_flight: usize = in_flight.map(|(_, plain)| each(plain)).sum();
        (all + own, all + own - in_flight)
    }

    /// The record that a caller loses first.
    fn oldest(&self, caller: u32) -> Option<(u32, u32)> {
        let rank = |plain: &Plain| match *plain {
            Plain::InFlight => None,
            Plain::Released { ended } => Some((0, ended)),
            Plain::Done { ended, .. } => Some((1, ended)),
        };
        let ranked = self
            .of(caller)
            .filter_map(|(id, plain)| Some((rank(plain)?, *id)));
        ranked.min().map(|(_, id)| id)
    }

    /// Removes what the store evicted for a caller that asks for so much more, and checks that each
    /// of the records rightly went.
    ///
    /// The store orders callers by classes of a quarter, and counts what is in flight late. So the
    /// one that loses holds at least four fifths of what any caller holds of ended records.
    fn evict(&mut self, mut lost: Vec<(u32, u32)>, asks: u32, more: usize, by_bytes: bool) {
        while !lost.is_empty() {
            let wanted = self.held(asks, by_bytes).0 + more;
            let largest = self.largest(by_bytes);
            // Of several callers that lose records at once, the largest one was the first, unless
            // the one that asks would have held more.
            let rank = |id: &(u32, u32)| match self.held(id.0, by_bytes).0 {
                _ if id.0 == asks => (wanted, false),
                held => (held, true),
            };
            let loser = lost.iter().max_by_key(|id| rank(id)).unwrap().0;
            let id = self.oldest(loser).expect("what is in flight stays");
            let at = lost.iter().position(|lost| *lost == id);
            lost.remove(at.expect("the oldest of its caller goes"));
            let held = self.held(loser, by_bytes).0;
            if loser == asks {
                assert!(4 * largest < 5 * wanted, "{largest} is more than {wanted}");
            } else {
                assert!(
                    held >= wanted,
                    "{held} is less than the {wanted} of who asks"
                );
                assert!(5 * held > 4 * largest, "{held} is not the most, {largest}");
            }
            self.records.remove(&id);
        }
    }

    fn largest(&self, by_bytes: bool) -> usize {
        let callers = (0..CALLERS).filter(|caller| self.oldest(*caller).is_some());
        callers
            .map(|caller| self.held(caller, by_bytes).1)
            .max()
            .unwrap_or(0)
    }
}

const CALLERS: u32 = 5;

#[derive(Clone, Debug)]
enum Step {
    Claim { caller: u32, key: u32 },
    Complete { at: usize, bytes: usize },
    Release { at: usize },
    Forget { caller: u32, key: u32 },
}

fn step() -> impl Strategy<Value = Step> {
    let caller = || prop_oneof![3 => Just(0), 2 => 0..CALLERS];
    prop_oneof![
        8 => (caller(), 0..40_u32).prop_map(|(caller, key)| Step::Claim { caller, key }),
        5 => (0..20_usize, 0..1500_usize).prop_map(|(at, bytes)| Step::Complete { at, bytes }),
        2 => (0..20_usize).prop_map(|at| Step::Release { at }),
        1 => (caller(), 0..40_u32).prop_map(|(caller, key)| Step::Forget { caller, key }),
    ]
}

struct Run {
    bench: Bench,
    model: Model,
    leases: Vec<((u32, u32), Lease)>,
    by_bytes: bool,
}

impl Run {
    fn new(by_bytes: bool) -> Self {
        let limits = MemoryStore::builder();
        Self {
            bench: Bench::with(if by_bytes {
                limits.max_bytes(MOST_BYTES)
            } else {
                limits.max_records(MOST_RECORDS)
            }),
            model: Model::default(),
            leases: Vec::new(),
            by_bytes,
        }
    }

    /// What the store lost.
    fn lost(&self, besides: (u32, u32)) -> Vec<(u32, u32)> {
        let gone = |id: &&(u32, u32)| {
            **id != besides && self.bench.records.look_up(&by(id.0, id.1).id).is_none()
        };
        self.model.records.keys().filter(gone).copied().collect()
    }

    fn take(&mut self, step: &Step) {
        match *step {
            Step::Claim { caller, key } => {
                let claimed = self.bench.claim(&by(caller, key));
                let id = (caller, key);
                let known = self.model.records.get(&id).copied();
                let more = match self.model.held(caller, self.by_bytes).0 {
                    _ if !self.by_bytes => 1,
                    0 => room(1),
                    _ => RECORD_BYTES,
                };
                self.model.evict(self.lost(id), caller, more, self.by_bytes);
                match claimed {
                    Claimed::Acquired(lease) => {
                        assert!(matches!(known, None | Some(Plain::Released { .. })));
                        self.model.records.insert(id, Plain::InFlight);
                        self.leases.push((id, lease));
                    }
                    Claimed::Found(_) => {
                        assert!(matches!(known, Some(Plain::InFlight | Plain::Done { .. })));
                    }
                    Claimed::OverShare => assert!(self.has_its_share(caller, more)),
                    Claimed::OverCapacity => {
                        let ended = |caller| self.model.oldest(caller).is_some();
                        assert!(!(0..CALLERS).any(ended), "there is something to evict");
                    }
                }
            }
            Step::Complete { at, bytes } => {
                let Some((id, lease)) = self.take_lease(at) else {
                    return;
                };
                let outcome = completed(&[0; 1500][..bytes]);
                let bytes = COMPLETION_BYTES + bytes;
                let told = self.bench.records.complete(&lease, &outcome);
                self.model.evict(self.lost(id), id.0, bytes, self.by_bytes);
                self.model.ended += 1;
                let ended = self.model.ended;
                let done = match told {
                    Ok(ownership) => {
                        assert_eq!(ownership, Ownership::Held);
                        Plain::Done { ended, bytes }
                    }
                    Err(error) => {
                        assert_eq!(error.kind(), StoreErrorKind::TooLarge);
                        assert!(self.has_its_share(id.0, bytes));
                        let sealed = Outcome::Sealed { retention: HOUR };
                        self.bench.records.complete(&lease, &sealed).unwrap();
                        Plain::Done { ended, bytes: 0 }
                    }
                };
                self.model.records.insert(id, done);
            }
            Step::Release { at } => {
                let Some((id, lease)) = self.take_lease(at) else {
                    return;
                };
                assert_eq!(self.bench.release(&lease.claim), Ownership::Held);
                self.model.ended += 1;
                let ended = self.model.ended;
                self.model.records.insert(id, Plain::Released { ended });
            }
            Step::Forget { caller, key } => {
                let id = by(caller, key).id;
                self.bench.records.forget(&id, ForgetMode::Forced);
                self.model.records.remove(&(caller, key));
                self.leases.retain(|(of, _)| *of != (caller, key));
            }
        }
        self.check_sums();
    }

    fn take_lease(&mut self, at: usize) -> Option<((u32, u32), Lease)> {
        (at < self.leases.len()).then(|| self.leases.swap_remove(at))
    }

    /// A refused caller has nothing to lose, and holds as much as any, or its share in flight.
    fn has_its_share(&self, caller: u32, more: usize) -> bool {
        let wanted = self.model.held(caller, self.by_bytes).0 + more;
        let in_flight = self.model.records.values();
        let in_flight = in_flight.filter(|plain| **plain == Plain::InFlight).count();
        let own = (self.model.of(caller)).filter(|(_, plain)| **plain == Plain::InFlight);
        let most = if self.by_bytes {
            MOST_BYTES / RECORD_BYTES
        } else {
            MOST_RECORDS
        };
        let over = own.count() + 1 > 7 * most.saturating_sub(in_flight);
        let nothing = self.model.oldest(caller).is_none();
        over || nothing && 4 * self.model.largest(self.by_bytes) < 5 * wanted
    }

    /// The sums of the store are those of its callers, and those of the model.
    fn check_sums(&self) {
        let stats = self.bench.stats();
        let accounts = self.bench.records.accounts.all();
        assert_eq!(accounts.len(), stats.callers);
        let mut sums = [0; 3];
        for (scope, held) in accounts {
            let caller = u32::from_le_bytes(scope.as_bytes()[..4].try_into().unwrap());
            let in_flight = (self.model.of(caller))
                .filter(|(_, plain)| **plain == Plain::InFlight)
                .count();
            let own = [false, true].map(|by_bytes| self.model.held(caller, by_bytes).0);
            assert_eq!(held, [own[0], own[1], in_flight], "of caller {caller}");
            for (sum, held) in sums.iter_mut().zip(held) {
                *sum += held;
            }
        }
        assert_eq!(sums, [stats.records, stats.bytes, stats.in_flight]);
        let most = if self.by_bytes {
            (stats.bytes, MOST_BYTES)
        } else {
            (stats.records, MOST_RECORDS)
        };
        assert!(most.0 <= most.1, "{stats:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_full_store_evicts_as_the_model_says(
        by_bytes in any::<bool>(),
        steps in prop::collection::vec(step(), 1..200),
    ) {
        let mut run = Run::new(by_bytes);
        for step in &steps {
            run.take(step);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, max_shrink_iters: 40, failure_persistence: None, ..ProptestConfig::default() })]

    /// Each of a thousand callers holds less than the one that floods. The store has room for
    /// eight times what the thousand may hold: one caller can have seven eighths in flight.
    #[test]
    fn of_a_thousand_callers_the_one_that_floods_alone_loses_records(
        by_bytes in any::<bool>(),
        steps in prop::collection::vec((0..1000_u32, 0..6_u8, 0..300_usize), 2000..4000),
    ) {
        const FLOODS: u32 = 5000;
        let limits = MemoryStore::builder();
        let bench = Bench::with(if by_bytes {
            limits.max_bytes(8 * 1000 * (room(2) + 2 * (COMPLETION_BYTES + 300)))
        } else {
            limits.max_records(8 * 1000 * 2)
        });
        let mut kept: BTreeMap<u32, Vec<(u32, u64)>> = BTreeMap::new();
        let mut flooded = 0;
        let mut now = 0;
        for (key, (caller, what, bytes)) in (0_u32..).zip(steps) {
            for _ in 0..20 {
                flooded += 1;
                let claim = by(FLOODS, flooded);
                // It may be refused once it has its share in flight.
                let Claimed::Acquired(lease) = bench.claim(&claim) else { continue };
                match what {
                    0 | 1 => drop(bench.release(&claim)),
                    2 => std::mem::forget(lease),
                    _ => drop(bench.end(&lease, &completed(&[0; 300][..bytes]))),
                }
            }
            bench.advance(Duration::from_secs(1));
            now += 1;
            let own = kept.entry(caller).or_default();
            own.retain(|(_, until)| *until > now);
            if own.len() < 2 {
                let lease = bench.acquire(&by(caller, key));
                let outcome = completed(&[0; 300][..bytes]);
                let ended = bench.records.complete(&lease, &outcome);
                prop_assert_eq!(ended.unwrap(), Ownership::Held);
                own.push((key, now + HOUR.as_secs()));
            }
        }
        for (caller, own) in kept {
            for (key, _) in own.into_iter().filter(|(_, until)| *until > now) {
                let record = bench.records.look_up(&by(caller, key).id);
                let is_kept = matches!(record, Some(Record { state: RecordState::Completed { .. }, .. }));
                prop_assert!(is_kept, "a record of {} is gone", caller);
            }
        }
        prop_assert!(bench.stats().evicted > 1000, "{:?}", bench.stats());
    }
}
