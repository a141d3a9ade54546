//! Records in this process.

use std::collections::VecDeque;
use std::fmt;
use std::hash::{BuildHasher, Hasher};
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::error::ConfigError;
use crate::record::{Completion, FencingToken, Fingerprint, Nonce, RecordId};
use crate::store::{
    Claim, Claimed, Forgotten, Lease, OnLapsedLease, Outcome, Record, RecordState, Release, Store,
    StoreError, Tenure,
};

use self::sync::{AtomicBool, AtomicU64, AtomicUsize, DashMap, Entry, Mutex, Ordering};

/// What synchronises. Under `--cfg shuttle` every step of it is a point at
/// which the scheduler may run another thread.
mod sync {
    #[cfg(not(shuttle))]
    pub(super) use dashmap::{DashMap, Entry};
    #[cfg(shuttle)]
    pub(super) use shuttle::sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    };
    #[cfg(shuttle)]
    pub(super) use shuttle_dashmap::{DashMap, Entry};
    #[cfg(not(shuttle))]
    pub(super) use std::sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    };
}

/// About what a record takes beside its answer, in bytes: its place in the
/// map and in a queue, and its own fields.
const RECORD_BYTES: usize = 320;
/// About what one header takes beside its name and value, in bytes.
const FIELD_BYTES: usize = 96;
/// How many records that are past their end one operation removes.
const PACE: usize = 2;
/// Many small shards: one that grows is locked only briefly.
const SHARDS: usize = 128;

/// A [`Store`] in this process's memory, on [`DashMap`](dashmap::DashMap).
///
/// Records end with the process. A clone is another handle on the same
/// records. Held to a number of records and of bytes, see
/// [`builder`](Self::builder): at its cap the store forgets tombstones, then
/// completions, oldest first, and never a record in flight.
///
/// A lease does not lapse while the layer runs its operation, whatever blocks
/// the runtime: the store sees that its guard lives.
///
/// Expiry follows tokio's clock, so a test can pause and advance it:
///
/// ```
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() {
/// use std::time::Duration;
/// use tower_idempotency::store::{Claim, Claimed, Release, Store};
/// use tower_idempotency::{Fingerprint, MemoryStore, RecordId, ScopeDigest};
///
/// let store = MemoryStore::new();
/// let id = RecordId::from_bytes([1; 32]);
/// let claim = Claim::new(id, ScopeDigest::from_bytes([2; 32]), Fingerprint::from_bytes([3; 32]));
/// let Ok(Claimed::Acquired(lease)) = store.claim(&claim).await else { panic!() };
/// assert_eq!((lease.attempt, store.stats().in_flight), (1, 1));
///
/// store.release(&id, &claim.nonce, Release::Tombstone).await.unwrap();
/// tokio::time::advance(Duration::from_secs(24 * 60 * 60)).await;
/// assert!(store.look_up(&id).await.unwrap().is_none());
/// # }
/// ```
#[derive(Clone)]
pub struct MemoryStore {
    shared: Arc<Shared>,
}

/// What a full [`MemoryStore`] does with a new operation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum WhenFull {
    /// Forgets the oldest tombstone or completion for it: that key may run again.
    #[default]
    Evict,
    /// Refuses it: `over-capacity`. Operations already begun are still
    /// recorded, so the store can exceed its bytes by what they answer.
    Refuse,
}

/// What a [`MemoryStore`] holds, at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct MemoryStats {
    /// Records in all. Those past their end count until they are removed,
    /// which happens as others come.
    pub records: usize,
    /// About what they take, in bytes.
    pub bytes: usize,
    /// Records of operations that run, or whose outcome is unknown.
    pub in_flight: usize,
    /// Recorded answers.
    pub completed: usize,
    /// Operations that are done without a recorded answer.
    pub sealed: usize,
    /// Tombstones.
    pub released: usize,
}

/// Options of a [`MemoryStore`].
///
/// ```
/// use tower_idempotency::{MemoryStore, WhenFull};
///
/// let store = MemoryStore::builder()
///     .max_records(100_000)
///     .max_bytes(64 << 20)
///     .when_full(WhenFull::Refuse)
///     .build()?;
/// # Ok::<(), tower_idempotency::ConfigError>(())
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct MemoryStoreBuilder {
    max_records: usize,
    max_bytes: usize,
    when_full: WhenFull,
}

impl MemoryStoreBuilder {
    /// The largest number of records. Default: 1 000 000.
    pub fn max_records(mut self, records: usize) -> Self {
        self.max_records = records;
        self
    }

    /// About how many bytes the records may take. Default: 256 MiB.
    pub fn max_bytes(mut self, bytes: usize) -> Self {
        self.max_bytes = bytes;
        self
    }

    /// What to do at a cap. Default: [`WhenFull::Evict`].
    pub fn when_full(mut self, when_full: WhenFull) -> Self {
        self.when_full = when_full;
        self
    }

    /// The store.
    ///
    /// # Errors
    /// If a cap leaves no room for a single record.
    pub fn build(self) -> Result<MemoryStore, ConfigError> {
        if self.max_records == 0 {
            return Err(ConfigError::new("max_records", "must be at least 1"));
        }
        if self.max_bytes < RECORD_BYTES {
            let message = format!("must be at least {RECORD_BYTES}, which one empty record takes");
            return Err(ConfigError::new("max_bytes", message));
        }
        Ok(MemoryStore::with(self, Clock::tokio()))
    }
}

impl MemoryStore {
    /// With the default caps: a million records, 256 MiB.
    #[must_use]
    pub fn new() -> Self {
        Self::with(Self::builder(), Clock::tokio())
    }

    /// With other caps.
    pub fn builder() -> MemoryStoreBuilder {
        MemoryStoreBuilder {
            max_records: 1_000_000,
            max_bytes: 256 << 20,
            when_full: WhenFull::default(),
        }
    }

    fn with(limits: MemoryStoreBuilder, clock: Clock) -> Self {
        let since_epoch = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        // Below 2⁵³ until the year 2255.
        let micros = u64::try_from(since_epoch.as_micros()).unwrap_or(0);
        Self {
            shared: Arc::new(Shared {
                records: DashMap::with_hasher_and_shard_amount(IdHasher::random(), SHARDS),
                queues: Mutex::default(),
                counts: Counts::default(),
                last_token: AtomicU64::new(micros),
                limits,
                clock,
            }),
        }
    }

    /// The number of records.
    #[must_use]
    pub fn len(&self) -> usize {
        self.stats().records
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many records there are in each state, and what they take.
    #[must_use]
    pub fn stats(&self) -> MemoryStats {
        self.shared.counts.stats()
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryStore")
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}

/// No operation awaits: a guard of the map never meets one.
impl Store for MemoryStore {
    async fn claim(&self, claim: &Claim) -> Result<Claimed, StoreError> {
        Ok(Shared::claim(&self.shared, claim))
    }

    async fn renew(&self, lease: &Lease) -> Result<Tenure, StoreError> {
        Ok(self.shared.renew(lease))
    }

    async fn complete(&self, lease: &Lease, outcome: &Outcome) -> Result<Tenure, StoreError> {
        Ok(self.shared.complete(lease, outcome))
    }

    async fn release(
        &self,
        id: &RecordId,
        nonce: &Nonce,
        how: Release,
    ) -> Result<Tenure, StoreError> {
        Ok(self.shared.release(id, nonce, how))
    }

    async fn look_up(&self, id: &RecordId) -> Result<Option<Record>, StoreError> {
        Ok(self.shared.look_up(id))
    }

    async fn forget(&self, id: &RecordId, force: bool) -> Result<Forgotten, StoreError> {
        Ok(self.shared.forget(id, force))
    }
}

/// Time since the store was made.
type Moment = Duration;

enum Clock {
    Tokio(tokio::time::Instant),
    #[cfg(test)]
    ByHand(Arc<std::sync::atomic::AtomicU64>),
}

impl Clock {
    fn tokio() -> Self {
        Clock::Tokio(tokio::time::Instant::now())
    }

    fn now(&self) -> Moment {
        match self {
            Clock::Tokio(start) => start.elapsed(),
            #[cfg(test)]
            Clock::ByHand(millis) => {
                Duration::from_millis(millis.load(std::sync::atomic::Ordering::Relaxed))
            }
        }
    }
}

struct Shared {
    records: DashMap<RecordId, Box<Slot>, IdHasher>,
    /// Never locked while a guard of the map is held, nor the other way round.
    queues: Mutex<Queues>,
    counts: Counts,
    /// One counter for all ids, so that a token outgrows those of records
    /// long forgotten; seeded with the clock in µs, so that it outgrows those
    /// of a process before this one.
    last_token: AtomicU64,
    limits: MemoryStoreBuilder,
    clock: Clock,
}

struct Slot {
    token: u64,
    attempt: u64,
    /// What it counts for in `Counts::bytes`.
    bytes: usize,
    state: State,
}

enum State {
    InFlight {
        fingerprint: Fingerprint,
        nonce: Nonce,
        lapses_at: Moment,
        /// While it lives, the lease does not lapse.
        guard: Weak<Guard>,
        on_lapsed_lease: OnLapsedLease,
        retention: Duration,
    },
    Done {
        fingerprint: Fingerprint,
        nonce: Nonce,
        /// `None`: sealed.
        completion: Option<Arc<Completion>>,
        expires_at: Moment,
    },
    Released {
        expires_at: Moment,
    },
}

impl Slot {
    fn in_flight(claim: &Claim, token: u64, attempt: u64, now: Moment, guard: &Arc<Guard>) -> Self {
        Slot {
            token,
            attempt,
            bytes: RECORD_BYTES,
            state: State::InFlight {
                fingerprint: claim.fingerprint,
                nonce: claim.nonce,
                lapses_at: now.saturating_add(claim.lease),
                guard: Arc::downgrade(guard),
                on_lapsed_lease: claim.on_lapsed_lease,
                retention: claim.retention,
            },
        }
    }

    /// Past its end: as good as absent.
    fn is_over(&self, now: Moment) -> bool {
        match &self.state {
            State::Done { expires_at, .. } | State::Released { expires_at } => *expires_at <= now,
            State::InFlight {
                lapses_at,
                retention,
                on_lapsed_lease: OnLapsedLease::Rerun,
                ..
            } => self.is_lapsed(now) && lapses_at.saturating_add(*retention) <= now,
            State::InFlight { .. } => false,
        }
    }

    fn is_lapsed(&self, now: Moment) -> bool {
        match &self.state {
            State::InFlight {
                lapses_at, guard, ..
            } => *lapses_at <= now && guard.strong_count() == 0,
            _ => false,
        }
    }

    fn record_state(&self, now: Moment) -> RecordState {
        match &self.state {
            State::InFlight { fingerprint, .. } if self.is_lapsed(now) => RecordState::Lapsed {
                fingerprint: *fingerprint,
            },
            State::InFlight {
                fingerprint,
                lapses_at,
                ..
            } => RecordState::InFlight {
                fingerprint: *fingerprint,
                lapses_in: lapses_at.saturating_sub(now),
            },
            State::Done {
                fingerprint,
                completion: Some(completion),
                ..
            } => RecordState::Completed {
                fingerprint: *fingerprint,
                completion: Arc::clone(completion),
            },
            State::Done { fingerprint, .. } => RecordState::Sealed {
                fingerprint: *fingerprint,
            },
            State::Released { .. } => RecordState::Released,
        }
    }

    fn kind(&self) -> Kind {
        match &self.state {
            State::InFlight { .. } => Kind::InFlight,
            State::Done {
                completion: Some(_),
                ..
            } => Kind::Completed,
            State::Done { .. } => Kind::Sealed,
            State::Released { .. } => Kind::Released,
        }
    }
}

impl Shared {
    fn claim(shared: &Arc<Self>, claim: &Claim) -> Claimed {
        loop {
            match shared.records.entry(claim.id) {
                Entry::Occupied(mut found) => {
                    return Self::claim_found(shared, found.get_mut(), claim);
                }
                Entry::Vacant(place) => {
                    if shared.counts.reserve(&shared.limits) {
                        let guard = Guard::new(shared, claim);
                        let now = shared.clock.now();
                        let token = shared.next_token();
                        place.insert(Box::new(Slot::in_flight(claim, token, 1, now, &guard)));
                        return acquired(claim, token, 1, guard);
                    }
                }
            }
            // No guard of the map is held here.
            if shared.limits.when_full == WhenFull::Refuse || !shared.evict_one() {
                return Claimed::OverCapacity;
            }
        }
    }

    fn claim_found(shared: &Arc<Self>, slot: &mut Slot, claim: &Claim) -> Claimed {
        let now = shared.clock.now();
        let attempt = if slot.is_over(now) {
            1
        } else {
            match &mut slot.state {
                State::InFlight {
                    nonce,
                    lapses_at,
                    guard,
                    ..
                } if *nonce == claim.nonce => {
                    *lapses_at = now.saturating_add(claim.lease);
                    let held = guard.upgrade().unwrap_or_else(|| {
                        let new = Guard::new(shared, claim);
                        *guard = Arc::downgrade(&new);
                        new
                    });
                    return acquired(claim, slot.token, slot.attempt, held);
                }
                State::Released { .. } => slot.attempt + 1,
                State::InFlight { fingerprint, .. } => {
                    let takes_over = claim.takes_over(fingerprint);
                    if !(takes_over && slot.is_lapsed(now)) {
                        return Claimed::Found(slot.record_state(now));
                    }
                    slot.attempt + 1
                }
                State::Done { .. } => return Claimed::Found(slot.record_state(now)),
            }
        };
        let guard = Guard::new(shared, claim);
        let token = shared.next_token();
        shared
            .counts
            .replace(slot, Slot::in_flight(claim, token, attempt, now, &guard));
        acquired(claim, token, attempt, guard)
    }

    fn renew(&self, lease: &Lease) -> Tenure {
        let Some(mut slot) = self.records.get_mut(&lease.claim.id) else {
            return Tenure::Lost;
        };
        let now = self.clock.now();
        if slot.is_over(now) {
            return Tenure::Lost;
        }
        match &mut slot.state {
            State::InFlight {
                nonce, lapses_at, ..
            } if *nonce == lease.claim.nonce => {
                *lapses_at = now.saturating_add(lease.claim.lease);
                Tenure::Held
            }
            State::Done { nonce, .. } if *nonce == lease.claim.nonce => Tenure::Held,
            _ => Tenure::Lost,
        }
    }

    fn complete(&self, lease: &Lease, outcome: &Outcome) -> Tenure {
        let id = lease.claim.id;
        let token = lease.token.get();
        let now;
        let done;
        match self.records.entry(id) {
            Entry::Occupied(mut found) => {
                let slot = found.get_mut();
                now = self.clock.now();
                match &slot.state {
                    State::InFlight { nonce, guard, .. } if *nonce == lease.claim.nonce => {
                        if let Some(guard) = guard.upgrade() {
                            guard.settled.store(true, Ordering::Relaxed);
                        }
                    }
                    _ if slot.is_over(now) && slot.token <= token => {}
                    State::Released { .. } if slot.token <= token => {}
                    State::Done { nonce, .. } if *nonce == lease.claim.nonce => {
                        return Tenure::Held;
                    }
                    _ => return Tenure::Lost,
                }
                done = self.done(lease, outcome, now);
                let slot_done = done.slot;
                self.counts.replace(slot, slot_done);
            }
            Entry::Vacant(place) => {
                now = self.clock.now();
                done = self.done(lease, outcome, now);
                self.counts.add(&done.slot);
                place.insert(Box::new(done.slot));
            }
        }
        self.enqueue(
            Line::DONE,
            done.retention,
            Due {
                id,
                token,
                at: done.at,
            },
            now,
        );
        while self.limits.when_full == WhenFull::Evict
            && self.counts.bytes.load(Ordering::Relaxed) > self.limits.max_bytes
        {
            if !self.evict_one() {
                break;
            }
        }
        Tenure::Held
    }

    fn release(&self, id: &RecordId, nonce: &Nonce, how: Release) -> Tenure {
        let now;
        let token;
        let kept;
        {
            let Some(mut slot) = self.records.get_mut(id) else {
                return Tenure::Lost;
            };
            now = self.clock.now();
            let State::InFlight {
                nonce: owner,
                lapses_at,
                guard,
                retention,
                ..
            } = &mut slot.state
            else {
                return Tenure::Lost;
            };
            if owner != nonce {
                return Tenure::Lost;
            }
            if how == Release::Unknown {
                // The guard stays unsettled: dropping it sees to it that the
                // record is forgotten in time, where it may be.
                *lapses_at = now;
                *guard = Weak::new();
                return Tenure::Held;
            }
            if let Some(guard) = guard.upgrade() {
                guard.settled.store(true, Ordering::Relaxed);
            }
            kept = *retention;
            token = slot.token;
            let tombstone = Slot {
                token,
                attempt: slot.attempt,
                bytes: RECORD_BYTES,
                state: State::Released {
                    expires_at: now.saturating_add(kept),
                },
            };
            self.counts.replace(&mut slot, tombstone);
        }
        let due = Due {
            id: *id,
            token,
            at: now.saturating_add(kept),
        };
        self.enqueue(Line::RELEASED, kept, due, now);
        Tenure::Held
    }

    fn look_up(&self, id: &RecordId) -> Option<Record> {
        let slot = self.records.get(id)?;
        let now = self.clock.now();
        (!slot.is_over(now))
            .then(|| Record::new(token(slot.token), slot.attempt, slot.record_state(now)))
    }

    fn forget(&self, id: &RecordId, force: bool) -> Forgotten {
        let mut answer = Forgotten::Absent;
        self.records.remove_if(id, |_, slot| {
            let now = self.clock.now();
            let alive = slot.kind() == Kind::InFlight && !slot.is_lapsed(now);
            answer = match (slot.is_over(now), alive && !force) {
                (true, _) => Forgotten::Absent,
                (false, true) => Forgotten::InFlight,
                (false, false) => Forgotten::Gone,
            };
            let goes = answer != Forgotten::InFlight;
            if goes {
                self.counts.remove(slot);
            }
            goes
        });
        answer
    }

    fn next_token(&self) -> u64 {
        self.last_token.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// The record of a finished operation, and when it ends.
    fn done(&self, lease: &Lease, outcome: &Outcome, now: Moment) -> Done {
        let (completion, retention) = match outcome {
            Outcome::Completed(completion) => (Some(completion), completion.retention),
            Outcome::Sealed { retention } => (None, *retention),
        };
        let weight = completion.map_or(0, |completion| {
            let trailers = completion.trailers.as_ref().map_or(0, http::HeaderMap::len);
            completion.weight() + (completion.headers.len() + trailers) * FIELD_BYTES
        });
        // An answer that no eviction makes room for is not kept, but that the
        // operation is done is (G2).
        let fits = RECORD_BYTES + weight <= self.limits.max_bytes;
        let completion = completion.filter(|_| fits).cloned();
        let at = now.saturating_add(retention);
        Done {
            at,
            retention,
            slot: Slot {
                token: lease.token.get(),
                attempt: lease.attempt,
                bytes: RECORD_BYTES + if fits { weight } else { 0 },
                state: State::Done {
                    fingerprint: lease.claim.fingerprint,
                    nonce: lease.claim.nonce,
                    completion,
                    expires_at: at,
                },
            },
        }
    }

    /// Remembers when a record ends, and removes a few whose end has come.
    fn enqueue(&self, line: Line, retention: Duration, due: Due, now: Moment) {
        let over = {
            let mut queues = self.lock_queues();
            queues.push(line, retention, due);
            queues.take_due(now)
        };
        for (line, due) in over.into_iter().flatten() {
            let removed = self.remove_due(line, &due, |slot| slot.is_over(now));
            // Renewed after its guard was gone, by a caller that keeps no guard.
            if !removed && line == Line::ABANDONED && self.is_lingering(&due) {
                let at = now.saturating_add(retention);
                self.lock_queues().push(line, retention, Due { at, ..due });
            }
        }
    }

    /// Whether this record is in flight still.
    fn is_lingering(&self, due: &Due) -> bool {
        let slot = self.records.get(&due.id);
        slot.is_some_and(|slot| slot.token == due.token && slot.kind() == Kind::InFlight)
    }

    /// Forgets one record for another: one past its end, else the oldest
    /// tombstone, else the oldest completion. Never one in flight.
    fn evict_one(&self) -> bool {
        loop {
            let now = self.clock.now();
            let Some((line, due)) = self.lock_queues().take_oldest(now) else {
                return false;
            };
            let goes = |slot: &Slot| slot.kind() != Kind::InFlight || slot.is_over(now);
            if self.remove_due(line, &due, goes) {
                return true;
            }
        }
    }

    /// Removes the record that this place in a queue stands for, unless it is
    /// another one by now.
    fn remove_due(&self, line: Line, due: &Due, goes: impl Fn(&Slot) -> bool) -> bool {
        self.records
            .remove_if(&due.id, |_, slot| {
                let same = slot.token == due.token && slot.kind().line() == line;
                let goes = same && goes(slot);
                if goes {
                    self.counts.remove(slot);
                }
                goes
            })
            .is_some()
    }

    fn lock_queues(&self) -> impl std::ops::DerefMut<Target = Queues> {
        self.queues
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

struct Done {
    slot: Slot,
    at: Moment,
    retention: Duration,
}

fn token(token: u64) -> FencingToken {
    FencingToken::new(token).expect("a counter of microseconds stays below 2^53")
}

fn acquired(claim: &Claim, number: u64, attempt: u64, guard: Arc<Guard>) -> Claimed {
    Claimed::Acquired(Lease::new(claim, token(number), attempt).guarded_by(guard))
}

/// Lives as long as the lease that a claim was given.
struct Guard {
    store: Weak<Shared>,
    id: RecordId,
    /// Of the claim, to find its record again: token and longest possible stay.
    stays: Option<Duration>,
    nonce: Nonce,
    settled: AtomicBool,
}

impl Guard {
    fn new(shared: &Arc<Shared>, claim: &Claim) -> Arc<Self> {
        Arc::new(Guard {
            store: Arc::downgrade(shared),
            id: claim.id,
            stays: (claim.on_lapsed_lease == OnLapsedLease::Rerun)
                .then(|| claim.lease.saturating_add(claim.retention)),
            nonce: claim.nonce,
            settled: AtomicBool::new(false),
        })
    }
}

impl Drop for Guard {
    /// An owner that vanished without a word: its record lapses, and is
    /// forgotten a retention later.
    fn drop(&mut self) {
        if self.settled.load(Ordering::Relaxed) {
            return;
        }
        let (Some(store), Some(stays)) = (self.store.upgrade(), self.stays) else {
            return;
        };
        let token = match store.records.get(&self.id) {
            Some(slot) => match &slot.state {
                State::InFlight { nonce, .. } if *nonce == self.nonce => slot.token,
                _ => return,
            },
            None => return,
        };
        let now = store.clock.now();
        let due = Due {
            id: self.id,
            token,
            at: now.saturating_add(stays),
        };
        store.enqueue(Line::ABANDONED, stays, due, now);
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    InFlight,
    Completed,
    Sealed,
    Released,
}

impl Kind {
    fn line(self) -> Line {
        match self {
            Kind::InFlight => Line::ABANDONED,
            Kind::Completed | Kind::Sealed => Line::DONE,
            Kind::Released => Line::RELEASED,
        }
    }
}

/// Which queue: smaller goes first when room is needed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Line(u8);

impl Line {
    const RELEASED: Line = Line(0);
    const DONE: Line = Line(1);
    const ABANDONED: Line = Line(2);
}

/// When a record ends. Stale when the record has gone on since.
#[derive(Clone, Copy)]
struct Due {
    id: RecordId,
    token: u64,
    at: Moment,
}

/// The records in the order of their ends: one queue per kind and distinct
/// retention, since records of one retention end in the order in which they
/// began to be kept. Both ends are O(1).
#[derive(Default)]
struct Queues(Vec<Queue>);

struct Queue {
    line: Line,
    retention: Duration,
    due: Chunks,
}

impl Queues {
    fn push(&mut self, line: Line, retention: Duration, due: Due) {
        let own = |queue: &Queue| queue.line == line && queue.retention == retention;
        let at = self.0.iter().position(own).unwrap_or_else(|| {
            self.0.push(Queue {
                line,
                retention,
                due: Chunks::default(),
            });
            self.0.len() - 1
        });
        self.0[at].due.push(due);
    }

    /// A few whose end has come.
    fn take_due(&mut self, now: Moment) -> [Option<(Line, Due)>; PACE] {
        let mut over = [None; PACE];
        let mut found = over.iter_mut();
        let Some(mut place) = found.next() else {
            return over;
        };
        for queue in &mut self.0 {
            while let Some(due) = queue.due.front().filter(|due| due.at <= now).copied() {
                queue.due.pop();
                *place = Some((queue.line, due));
                match found.next() {
                    Some(next) => place = next,
                    None => return over,
                }
            }
        }
        over
    }

    /// The one that is missed least.
    fn take_oldest(&mut self, now: Moment) -> Option<(Line, Due)> {
        let queue = self
            .0
            .iter_mut()
            .filter_map(|queue| {
                let first = *queue.due.front()?;
                let over = first.at <= now;
                // When it began to be kept: `at` less the retention.
                let began = first.at.saturating_sub(queue.retention);
                (over || queue.line != Line::ABANDONED)
                    .then_some(((!over, queue.line, began), queue))
            })
            .min_by_key(|(rank, _)| *rank)
            .map(|(_, queue)| queue)?;
        let due = queue.due.pop()?;
        Some((queue.line, due))
    }
}

/// A queue in chunks, so that it never moves what it holds when it grows.
#[derive(Default)]
struct Chunks(VecDeque<VecDeque<Due>>);

impl Chunks {
    const LEN: usize = 512;

    fn push(&mut self, due: Due) {
        match self.0.back_mut() {
            Some(last) if last.len() < Self::LEN => last.push_back(due),
            _ => {
                // The first chunk grows as needed: most queues are short.
                let mut chunk = if self.0.is_empty() {
                    VecDeque::new()
                } else {
                    VecDeque::with_capacity(Self::LEN)
                };
                chunk.push_back(due);
                self.0.push_back(chunk);
            }
        }
    }

    fn front(&self) -> Option<&Due> {
        self.0.front()?.front()
    }

    fn pop(&mut self) -> Option<Due> {
        let first = self.0.front_mut()?;
        let due = first.pop_front();
        if first.is_empty() {
            self.0.pop_front();
        }
        due
    }
}

#[derive(Default)]
struct Counts {
    records: AtomicUsize,
    bytes: AtomicUsize,
    completed: AtomicUsize,
    sealed: AtomicUsize,
    released: AtomicUsize,
}

impl Counts {
    /// Counts one more record in flight, if there is room for it.
    fn reserve(&self, limits: &MemoryStoreBuilder) -> bool {
        let records = self.records.fetch_add(1, Ordering::Relaxed) + 1;
        let bytes = self.bytes.fetch_add(RECORD_BYTES, Ordering::Relaxed) + RECORD_BYTES;
        let fits = records <= limits.max_records && bytes <= limits.max_bytes;
        if !fits {
            self.records.fetch_sub(1, Ordering::Relaxed);
            self.bytes.fetch_sub(RECORD_BYTES, Ordering::Relaxed);
        }
        fits
    }

    fn add(&self, slot: &Slot) {
        self.records.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(slot.bytes, Ordering::Relaxed);
        if let Some(count) = self.of(slot.kind()) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn remove(&self, slot: &Slot) {
        self.records.fetch_sub(1, Ordering::Relaxed);
        self.bytes.fetch_sub(slot.bytes, Ordering::Relaxed);
        if let Some(count) = self.of(slot.kind()) {
            count.fetch_sub(1, Ordering::Relaxed);
        }
    }

    fn replace(&self, slot: &mut Slot, new: Slot) {
        self.add(&new);
        self.remove(slot);
        *slot = new;
    }

    /// In flight are the records that are nothing else.
    fn of(&self, kind: Kind) -> Option<&AtomicUsize> {
        match kind {
            Kind::InFlight => None,
            Kind::Completed => Some(&self.completed),
            Kind::Sealed => Some(&self.sealed),
            Kind::Released => Some(&self.released),
        }
    }

    fn stats(&self) -> MemoryStats {
        let read = |count: &AtomicUsize| count.load(Ordering::Relaxed);
        let records = read(&self.records);
        let (completed, sealed, released) = (
            read(&self.completed),
            read(&self.sealed),
            read(&self.released),
        );
        MemoryStats {
            records,
            bytes: read(&self.bytes),
            in_flight: records.saturating_sub(completed + sealed + released),
            completed,
            sealed,
            released,
        }
    }
}

/// An id is a digest: its own bits, folded with a seed of this process, are a
/// hash that nobody outside can aim at.
#[derive(Clone)]
struct IdHasher {
    seed: u64,
    factor: u64,
    hash: u64,
}

impl IdHasher {
    fn random() -> Self {
        Self {
            seed: rand::random(),
            factor: rand::random::<u64>() | 1,
            hash: 0,
        }
    }
}

impl BuildHasher for IdHasher {
    type Hasher = Self;

    fn build_hasher(&self) -> Self {
        self.clone()
    }
}

impl Hasher for IdHasher {
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    fn write_u64(&mut self, word: u64) {
        let folded = u128::from(self.hash ^ word ^ self.seed) * u128::from(self.factor);
        #[expect(clippy::cast_possible_truncation, reason = "both halves are meant")]
        {
            self.hash = folded as u64 ^ (folded >> 64) as u64;
        }
    }

    fn finish(&self) -> u64 {
        self.hash
    }
}

#[cfg(test)]
mod tests;
