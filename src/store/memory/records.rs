//! The operations of the store, each one atomic step on the map.

use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::record::{FencingToken, Nonce, RecordId};
use crate::store::{
    Claim, Claimed, Forgotten, Lease, OnLapsedLease, Outcome, Record, Release, Tenure,
};

use super::counts::Counts;
use super::queues::{Due, Line, Queues};
use super::slot::{Kind, Slot, State};
use super::sync::{AtomicBool, AtomicU64, Entry, Map, Mutex, Ordering, map};
use super::{MemoryStoreBuilder, RECORD_BYTES, WhenFull};

/// About what one header takes beside its name and value, in bytes.
const FIELD_BYTES: usize = 96;
/// How many records that are past their end one operation removes.
pub(super) const PACE: usize = 2;
/// Time since the store was made.
pub(super) type Moment = Duration;

pub(super) enum Clock {
    Tokio(tokio::time::Instant),
    #[cfg(test)]
    ByHand(Arc<std::sync::atomic::AtomicU64>),
}

impl Clock {
    pub(super) fn tokio() -> Self {
        Clock::Tokio(tokio::time::Instant::now())
    }

    pub(super) fn now(&self) -> Moment {
        match self {
            Clock::Tokio(start) => start.elapsed(),
            #[cfg(test)]
            Clock::ByHand(millis) => {
                Duration::from_millis(millis.load(std::sync::atomic::Ordering::Relaxed))
            }
        }
    }
}

pub(super) struct Shared {
    records: Map<Box<Slot>>,
    /// Never locked while a guard of the map is held, nor the other way round.
    queues: Mutex<Queues>,
    pub(super) counts: Counts,
    /// One counter for all ids, so that a token outgrows those of records
    /// long forgotten; seeded with the clock in µs, so that it outgrows those
    /// of a process before this one.
    last_token: AtomicU64,
    limits: MemoryStoreBuilder,
    clock: Clock,
}

impl Shared {
    pub(super) fn new(limits: MemoryStoreBuilder, clock: Clock) -> Self {
        let since_epoch = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        // Below 2⁵³ until the year 2255.
        let micros = u64::try_from(since_epoch.as_micros()).unwrap_or(0);
        Self {
            records: map(),
            queues: Mutex::default(),
            counts: Counts::default(),
            last_token: AtomicU64::new(micros),
            limits,
            clock,
        }
    }

    pub(super) fn claim(shared: &Arc<Self>, claim: &Claim) -> Claimed {
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
                    guarded,
                    guard,
                    ..
                } if *nonce == claim.nonce => {
                    *lapses_at = now.saturating_add(claim.lease);
                    *guarded = true;
                    let held = guard.upgrade().unwrap_or_else(|| {
                        let another = Guard::new(shared, claim);
                        *guard = Arc::downgrade(&another);
                        another
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

    pub(super) fn renew(&self, lease: &Lease) -> Tenure {
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

    pub(super) fn complete(&self, lease: &Lease, outcome: &Outcome) -> Tenure {
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

    pub(super) fn release(&self, id: &RecordId, nonce: &Nonce, how: Release) -> Tenure {
        let now;
        let token;
        let kept;
        let line;
        {
            let Some(mut slot) = self.records.get_mut(id) else {
                return Tenure::Lost;
            };
            now = self.clock.now();
            if slot.is_over(now) {
                return Tenure::Lost;
            }
            token = slot.token;
            let State::InFlight {
                nonce: owner,
                lapses_at,
                guarded,
                guard,
                retention,
                on_lapsed_lease,
                ..
            } = &mut slot.state
            else {
                return Tenure::Lost;
            };
            if owner != nonce {
                return Tenure::Lost;
            }
            if let Some(guard) = guard.upgrade() {
                guard.settled.store(true, Ordering::Relaxed);
            }
            kept = *retention;
            if how == Release::Unknown {
                *lapses_at = now;
                *guarded = false;
                *guard = Weak::new();
                if *on_lapsed_lease == OnLapsedLease::Refuse {
                    return Tenure::Held;
                }
                line = Line::ABANDONED;
            } else {
                let tombstone = Slot {
                    token,
                    attempt: slot.attempt,
                    bytes: RECORD_BYTES,
                    state: State::Released {
                        expires_at: now.saturating_add(kept),
                    },
                };
                self.counts.replace(&mut slot, tombstone);
                line = Line::RELEASED;
            }
        }
        let at = now.saturating_add(kept);
        self.enqueue(line, kept, Due { id: *id, token, at }, now);
        Tenure::Held
    }

    pub(super) fn look_up(&self, id: &RecordId) -> Option<Record> {
        let slot = self.records.get(id)?;
        let now = self.clock.now();
        (!slot.is_over(now))
            .then(|| Record::new(token(slot.token), slot.attempt, slot.record_state(now)))
    }

    pub(super) fn forget(&self, id: &RecordId, force: bool) -> Forgotten {
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
pub(super) struct Guard {
    store: Weak<Shared>,
    id: RecordId,
    /// How long its record stays at most once this is gone; for good if `None`.
    stays: Option<Duration>,
    settled: AtomicBool,
}

impl Guard {
    fn new(shared: &Arc<Shared>, claim: &Claim) -> Arc<Self> {
        Arc::new(Guard {
            store: Arc::downgrade(shared),
            id: claim.id,
            stays: (claim.on_lapsed_lease == OnLapsedLease::Rerun)
                .then(|| claim.lease.saturating_add(claim.retention)),
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
        let Some(store) = self.store.upgrade() else {
            return;
        };
        let now;
        let token;
        {
            let Some(mut slot) = store.records.get_mut(&self.id) else {
                return;
            };
            now = store.clock.now();
            token = slot.token;
            match &mut slot.state {
                State::InFlight {
                    lapses_at,
                    guarded,
                    guard,
                    ..
                } if std::ptr::eq(guard.as_ptr(), self) => {
                    // Until now it could not lapse.
                    *guarded = false;
                    *lapses_at = now.max(*lapses_at);
                }
                _ => return,
            }
        }
        let Some(stays) = self.stays else {
            return;
        };
        let due = Due {
            id: self.id,
            token,
            at: now.saturating_add(stays),
        };
        store.enqueue(Line::ABANDONED, stays, due, now);
    }
}
