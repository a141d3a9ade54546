//! What happened within the last minute, second by second.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tower_idempotency::observer::{Decision, Observer, StoreCall, StoreOperation};

/// How many seconds the desk shows.
pub(crate) const SECONDS: u64 = 60;
/// The seconds that are kept: those that are shown, the running one, and some for readers that are late.
const SLOTS: usize = 64;
/// The outcomes that are counted; the last is for those that this version does not know.
pub(crate) const OUTCOMES: [&str; 6] = [
    "executed",
    "replayed",
    "rejected",
    "unprotected",
    "observed",
    "other",
];
/// The calls of the store whose latencies are kept.
pub(crate) const CALLS: [&str; 2] = ["claim", "complete"];
/// Four for each power of two, up to 2^27 µs.
const BUCKETS: usize = 104;

/// Counts what a layer does, for the overview of its [`Desk`](crate::Desk). It keeps the last minute,
/// in about 60 KB, however much happens.
///
/// ```
/// use tower_idempotency::{IdempotencyLayer, MemoryStore, scope};
/// use tower_idempotency_desk::{Access, Desk, DeskObserver};
///
/// let observer = DeskObserver::new();
/// let layer = IdempotencyLayer::builder(MemoryStore::new(), scope::header("x-api-key"))
///     .observer(observer.clone())
///     .build()?;
/// let desk = Desk::builder(&layer, Access::loopback()).observer(observer).build();
/// # Ok::<(), tower_idempotency::ConfigError>(())
/// ```
#[derive(Clone)]
pub struct DeskObserver(Arc<Ring>);

struct Ring {
    began: Instant,
    slots: Box<[Slot]>,
}

/// One second. Nothing is decided by a number, so the numbers are relaxed atomics.
struct Slot {
    /// The number of the second, from 1; 0 while nothing was counted.
    second: AtomicU64,
    outcomes: [AtomicU32; OUTCOMES.len()],
    calls: AtomicU32,
    failed: AtomicU32,
    latencies: [[AtomicU32; BUCKETS]; CALLS.len()],
}

impl DeskObserver {
    /// An observer that has seen nothing.
    #[must_use]
    pub fn new() -> Self {
        let slot = |_| Slot {
            second: AtomicU64::new(0),
            outcomes: Default::default(),
            calls: AtomicU32::new(0),
            failed: AtomicU32::new(0),
            latencies: std::array::from_fn(|_| std::array::from_fn(|_| AtomicU32::new(0))),
        };
        Self(Arc::new(Ring {
            began: Instant::now(),
            slots: (0..SLOTS).map(slot).collect(),
        }))
    }

    pub(crate) fn last_minute(&self) -> Minute {
        self.0.minute(self.0.now())
    }
}

impl Default for DeskObserver {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for DeskObserver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeskObserver").finish_non_exhaustive()
    }
}

impl Observer for DeskObserver {
    fn decided(&self, decision: &Decision<'_>) {
        self.0.decided(self.0.now(), decision.outcome.as_str());
    }

    fn called_store(&self, call: &StoreCall) {
        let which = match call.operation {
            StoreOperation::Claim => Some(0),
            StoreOperation::Complete => Some(1),
            _ => None,
        };
        let ring = &self.0;
        ring.called(ring.now(), which, call.duration, call.result.is_error());
    }
}

impl Ring {
    fn now(&self) -> u64 {
        self.began.elapsed().as_secs() + 1
    }

    fn slot(&self, second: u64) -> &Slot {
        let slot = &self.slots[place(second)];
        let old = slot.second.load(Ordering::Relaxed);
        let (set, order) = (&slot.second, Ordering::Relaxed);
        // One thread alone clears the slot for a new second. What others count between the exchange and
        // the clearing is lost, which nobody can see in a picture.
        if old != second && set.compare_exchange(old, second, order, order).is_ok() {
            slot.clear();
        }
        slot
    }

    fn decided(&self, second: u64, outcome: &str) {
        let known = OUTCOMES.iter().position(|own| *own == outcome);
        let which = known.unwrap_or(OUTCOMES.len() - 1);
        add(&self.slot(second).outcomes[which]);
    }

    fn called(&self, second: u64, which: Option<usize>, took: Duration, has_failed: bool) {
        let slot = self.slot(second);
        add(&slot.calls);
        if has_failed {
            add(&slot.failed);
        }
        if let Some(which) = which {
            add(&slot.latencies[which][bucket(took)]);
        }
    }

    /// The whole seconds before this one.
    fn minute(&self, now: u64) -> Minute {
        let mut minute = Minute::default();
        let mut latencies = [[0_u64; BUCKETS]; CALLS.len()];
        for second in now.saturating_sub(SECONDS).max(1)..now {
            let slot = &self.slots[place(second)];
            if slot.second.load(Ordering::Relaxed) != second {
                minute.seconds.push([0; OUTCOMES.len()]);
                continue;
            }
            minute.seconds.push(slot.outcomes.each_ref().map(of));
            minute.calls += u64::from(of(&slot.calls));
            minute.failed += u64::from(of(&slot.failed));
            for (sum, own) in latencies.iter_mut().zip(&slot.latencies) {
                for (sum, own) in sum.iter_mut().zip(own) {
                    *sum += u64::from(of(own));
                }
            }
        }
        minute.latencies = latencies.map(|own| Latency::of(&own));
        minute
    }
}

impl Slot {
    fn clear(&self) {
        let all = self.outcomes.iter().chain([&self.calls, &self.failed]);
        for own in all.chain(self.latencies.iter().flatten()) {
            own.store(0, Ordering::Relaxed);
        }
    }
}

fn place(second: u64) -> usize {
    usize::try_from(second % SLOTS as u64).expect("less than the number of slots")
}

fn add(counter: &AtomicU32) {
    counter.fetch_add(1, Ordering::Relaxed);
}

fn of(counter: &AtomicU32) -> u32 {
    counter.load(Ordering::Relaxed)
}

/// The bucket of a duration: the four of a power of two are as wide as each other.
fn bucket(took: Duration) -> usize {
    let micros = u32::try_from(took.as_micros()).unwrap_or(u32::MAX);
    let Some(power) = micros.checked_ilog2().filter(|power| *power >= 2) else {
        return micros as usize;
    };
    let quarter = micros >> (power - 2) & 3;
    (((power - 1) * 4 + quarter) as usize).min(BUCKETS - 1)
}

/// The longest duration of a bucket.
fn longest(bucket: usize) -> Duration {
    let bucket = bucket as u64;
    let micros = match bucket {
        0..4 => bucket,
        _ => ((bucket % 4 + 5) << (bucket / 4 - 1)) - 1,
    };
    Duration::from_micros(micros)
}

/// What happened within a minute.
#[derive(Debug, Default)]
pub(crate) struct Minute {
    /// The requests of each second by outcome, the oldest second first.
    pub(crate) seconds: Vec<[u32; OUTCOMES.len()]>,
    pub(crate) calls: u64,
    /// The calls that failed or timed out.
    pub(crate) failed: u64,
    pub(crate) latencies: [Latency; CALLS.len()],
}

impl Minute {
    /// The requests with this outcome.
    pub(crate) fn of(&self, outcome: usize) -> u64 {
        self.seconds.iter().map(|own| u64::from(own[outcome])).sum()
    }
}

/// How long calls took: half of them, and 99 of 100, took no longer than this. Within a quarter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Latency {
    pub(crate) count: u64,
    pub(crate) half: Duration,
    pub(crate) most: Duration,
}

impl Latency {
    fn of(buckets: &[u64; BUCKETS]) -> Self {
        let count: u64 = buckets.iter().sum();
        let up_to = |rank: u64| {
            let mut seen = 0;
            let found = buckets.iter().position(|own| {
                seen += own;
                seen >= rank
            });
            found.map_or(Duration::ZERO, longest)
        };
        if count == 0 {
            return Self::default();
        }
        Self {
            count,
            half: up_to(count.div_ceil(2)),
            most: up_to((count * 99).div_ceil(100)),
        }
    }
}

#[cfg(test)]
mod tests {
    use tower_idempotency::observer::{RequestOutcome, Would};

    use super::*;

    #[test]
    fn a_minute_has_its_own_seconds_alone() {
        let DeskObserver(ring) = DeskObserver::new();
        for second in 1..=200 {
            for _ in 0..second {
                ring.decided(second, "replayed");
            }
            for would in [Would::Execute, Would::Replay] {
                ring.decided(second, RequestOutcome::Observed(would).as_str());
            }
            ring.decided(second, "of a later version");
        }
        let minute = ring.minute(200);
        assert_eq!(minute.seconds.len(), 60);
        assert_eq!(minute.seconds[0], [0, 140, 0, 0, 2, 1]);
        assert_eq!(minute.seconds[59], [0, 199, 0, 0, 2, 1]);
        assert_eq!((minute.of(1), minute.of(5)), ((140..200).sum(), 60));
        // Nothing has happened since.
        assert_eq!(ring.minute(261).of(1), 0);
        assert_eq!(ring.minute(1).seconds.len(), 0);
    }

    #[test]
    fn a_bucket_is_at_most_a_quarter_wide_and_has_what_falls_into_it() {
        let mut before = None;
        for micros in (0..5000).chain((5000..60_000_000).step_by(9973)) {
            let took = Duration::from_micros(micros);
            let bucket = bucket(took);
            assert!(
                longest(bucket) >= took
                    && longest(bucket) <= took * 5 / 4 + Duration::from_micros(1)
            );
            assert!(before <= Some(bucket));
            before = Some(bucket);
        }
        assert_eq!(bucket(Duration::MAX), BUCKETS - 1);
    }

    #[test]
    fn latencies_are_of_the_calls_that_were_made() {
        let DeskObserver(ring) = DeskObserver::new();
        for millis in 1..=100 {
            ring.called(5, Some(0), Duration::from_millis(millis), millis == 7);
            ring.called(5, None, Duration::from_secs(9), false);
        }
        let minute = ring.minute(6);
        assert_eq!((minute.calls, minute.failed), (200, 1));
        let [claims, completions] = minute.latencies;
        assert_eq!((claims.count, completions), (100, Latency::default()));
        for (found, right) in [(claims.half, 50), (claims.most, 99)] {
            let right = Duration::from_millis(right);
            assert!(found >= right && found <= right * 5 / 4, "{found:?}");
        }
    }
}
