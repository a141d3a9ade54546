//! The operations of the store, each one atomic step on the map.

use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::record::{Nonce, RecordId};
use crate::runtime::Instant;
use crate::store::{
    Claim, Claimed, Forgotten, Lease, OnLapsedLease, Outcome, Ownership, Record, Release,
};

use super::counts::Counts;
use super::queues::{Due, Line, Queues, Taken};
use super::slot::{Kind, Slot, State, token};
use super::sync::{AtomicBool, AtomicU64, Entry, Map, Mutex, Ordering, map};
use super::waiters::Waiters;
use super::{MemoryStoreBuilder, RECORD_BYTES, WhenFull};

/// About what one header takes beside its name and value, in bytes.
const FIELD_BYTES: usize = 96;
/// How many records that are past their end one operation removes.
pub(super) const PACE: usize = 2;
/// Time since the store was made.
pub(super) type Moment = Duration;

pub(super) enum Clock {
    Tokio(Instant),
    #[cfg(test)]
    ByHand(Arc<std::sync::atomic::AtomicU64>),
}

impl Clock {
    pub(super) fn tokio() -> Self {
        Clock::Tokio(Instant::now())
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
    /// Told of a change once neither a guard of the map nor the lock of the
    /// queues is held.
    pub(super) waiters: Waiters,
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
            waiters: Waiters::new(),
            last_token: AtomicU64::new(micros),
            limits,
            clock,
        }
    }

    pub(super) fn claim(shared: &Arc<Self>, claim: &Claim) -> Claimed {
        loop {
            match shared.records.entry(claim.id) {
                Entry::Occupied(mut found) => {
                    let (claimed, gone) = Self::claim_found(shared, found.get_mut(), claim);
                    drop(found);
                    drop(gone);
                    return claimed;
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
            if !shared.evict_one(shared.limits.when_full == WhenFull::Refuse) {
                return Claimed::OverCapacity;
            }
        }
    }

    /// The answer, and what was in the place of the record before.
    fn claim_found(shared: &Arc<Self>, slot: &mut Slot, claim: &Claim) -> (Claimed, Option<Slot>) {
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
                    unknown: false,
                    ..
                } if *nonce == claim.nonce => {
                    *lapses_at = now.saturating_add(claim.lease);
                    *guarded = true;
                    let held = guard.upgrade().unwrap_or_else(|| {
                        let another = Guard::new(shared, claim);
                        *guard = Arc::downgrade(&another);
                        another
                    });
                    return (acquired(claim, slot.token, slot.attempt, held), None);
                }
                State::Released { .. } => slot.attempt + 1,
                State::InFlight { fingerprint, .. } => {
                    let takes_over = claim.takes_over(fingerprint);
                    if !(takes_over && slot.is_lapsed(now)) {
                        return (Claimed::Found(slot.record(now)), None);
                    }
                    slot.attempt + 1
                }
                State::Done { .. } => return (Claimed::Found(slot.record(now)), None),
            }
        };
        let guard = Guard::new(shared, claim);
        let token = shared.next_token();
        let new = Slot::in_flight(claim, token, attempt, now, &guard);
        let gone = shared.counts.replace(slot, new);
        (acquired(claim, token, attempt, guard), Some(gone))
    }

    pub(super) fn renew(&self, lease: &Lease) -> Ownership {
        let Some(mut slot) = self.records.get_mut(&lease.claim.id) else {
            return Ownership::Lost;
        };
        let now = self.clock.now();
        if slot.is_over(now) {
            return Ownership::Lost;
        }
        match &mut slot.state {
            State::InFlight {
                nonce,
                lapses_at,
                unknown: false,
                ..
            } if *nonce == lease.claim.nonce => {
                *lapses_at = now.saturating_add(lease.claim.lease);
                Ownership::Held
            }
            State::Done { nonce, .. } if *nonce == lease.claim.nonce => Ownership::Held,
            _ => Ownership::Lost,
        }
    }

    pub(super) fn complete(&self, lease: &Lease, outcome: &Outcome) -> Ownership {
        let id = lease.claim.id;
        let token = lease.token.get();
        let now;
        let done;
        let enters;
        let mut gone = None;
        match self.records.entry(id) {
            Entry::Occupied(mut found) => {
                let slot = found.get_mut();
                now = self.clock.now();
                match &slot.state {
                    State::InFlight { nonce, guard, .. } if *nonce == lease.claim.nonce => {
                        Guard::settle(guard);
                    }
                    _ if slot.is_over(now) && slot.token <= token => {}
                    State::Released { .. } if slot.token <= token => {}
                    State::Done { nonce, .. } if *nonce == lease.claim.nonce => {
                        return Ownership::Held;
                    }
                    _ => return Ownership::Lost,
                }
                done = self.done(lease, outcome, now);
                gone = Some(self.counts.replace(slot, done.slot));
                enters = slot.enters(Line::DONE);
            }
            Entry::Vacant(place) => {
                now = self.clock.now();
                done = self.done(lease, outcome, now);
                self.counts.add(&done.slot);
                let mut slot = Box::new(done.slot);
                enters = slot.enters(Line::DONE);
                place.insert(slot);
            }
        }
        drop(gone);
        // Before it stands in a queue itself, so that it makes room only at
        // the cost of others.
        let full = || self.counts.bytes.load(Ordering::Relaxed) > self.limits.max_bytes;
        if self.limits.when_full == WhenFull::Evict {
            while full() && self.evict_one(false) {}
            if full() {
                self.seal(&id, token);
            }
        }
        let due = Due { id, at: done.at };
        self.enqueue(enters.then_some((Line::DONE, done.retention, due)), now);
        self.waiters.wake_all(&id);
        Ownership::Held
    }

    /// Lets go of an answer that there is no room for, and keeps that its
    /// operation is done (G2).
    fn seal(&self, id: &RecordId, token: u64) {
        let mut gone = None;
        if let Some(mut slot) = self.records.get_mut(id)
            && slot.token == token
            && let State::Done {
                fingerprint,
                nonce,
                expires_at,
                ..
            } = slot.state
        {
            let sealed = Slot {
                token,
                attempt: slot.attempt,
                bytes: RECORD_BYTES,
                queued: slot.queued,
                state: State::Done {
                    fingerprint,
                    nonce,
                    completion: None,
                    expires_at,
                },
            };
            gone = Some(self.counts.replace(&mut slot, sealed));
        }
        drop(gone);
    }

    pub(super) fn release(&self, id: &RecordId, nonce: &Nonce, how: Release) -> Ownership {
        let now;
        let kept;
        let line;
        let enters;
        {
            let Some(mut slot) = self.records.get_mut(id) else {
                return Ownership::Lost;
            };
            now = self.clock.now();
            if slot.is_over(now) {
                return Ownership::Lost;
            }
            let State::InFlight {
                nonce: owner,
                lapses_at,
                guarded,
                unknown,
                guard,
                retention,
                on_lapsed_lease,
                ..
            } = &mut slot.state
            else {
                return Ownership::Lost;
            };
            if owner != nonce {
                return Ownership::Lost;
            }
            Guard::settle(guard);
            kept = *retention;
            if how == Release::OutcomeUnknown {
                *lapses_at = now;
                *guarded = false;
                *unknown = true;
                *guard = Weak::new();
                line = Line::ABANDONED;
                // Under `refuse` it stays until someone resolves it.
                enters = *on_lapsed_lease == OnLapsedLease::Rerun && slot.enters(line);
            } else {
                let tombstone = Slot {
                    token: slot.token,
                    attempt: slot.attempt,
                    bytes: RECORD_BYTES,
                    queued: 0,
                    state: State::Released {
                        expires_at: now.saturating_add(kept),
                    },
                };
                // It was in flight, and held nothing foreign.
                drop(self.counts.replace(&mut slot, tombstone));
                line = Line::RELEASED;
                enters = slot.enters(line);
            }
        }
        let at = now.saturating_add(kept);
        let due = Due { id: *id, at };
        self.enqueue(enters.then_some((line, kept, due)), now);
        match how {
            // Only one of them can have it.
            Release::MayRunAgain => self.waiters.wake_one(id),
            Release::OutcomeUnknown => self.waiters.wake_all(id),
        }
        Ownership::Held
    }

    pub(super) fn look_up(&self, id: &RecordId) -> Option<Record> {
        let slot = self.records.get(id)?;
        let now = self.clock.now();
        (!slot.is_over(now)).then(|| slot.record(now))
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
        if answer == Forgotten::Gone {
            self.waiters.wake_all(id);
        }
        answer
    }

    /// Whether a claim can acquire it at this moment.
    pub(super) fn is_claimable(&self, id: &RecordId) -> bool {
        let slot = self.records.get(id);
        slot.is_none_or(|slot| slot.is_claimable(self.clock.now()))
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
        // No eviction makes room for more than all of it.
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
                queued: 0,
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
    fn enqueue(&self, entry: Option<(Line, Duration, Due)>, now: Moment) {
        let taken = {
            let mut queues = self.lock_queues();
            if let Some((line, retention, due)) = entry {
                queues.push(line, retention, due);
            }
            queues.take_due(now)
        };
        for taken in taken.into_iter().flatten() {
            self.remove_taken(taken, now, false);
        }
    }

    /// Forgets one record for another: one past its end, else, unless
    /// `only_over`, the oldest tombstone, else the oldest completion. Never
    /// one in flight.
    fn evict_one(&self, only_over: bool) -> bool {
        loop {
            let now = self.clock.now();
            let Some(taken) = self.lock_queues().take_oldest(now, only_over) else {
                return false;
            };
            if self.remove_taken(taken, now, !only_over) {
                return true;
            }
        }
    }

    /// Removes the record that this entry was made for, if its end has come or
    /// it goes `early`. If it has gone on since, the entry goes back to wait
    /// for its new end, or ends if the record is something else by now.
    fn remove_taken(&self, taken: Taken, now: Moment, early: bool) -> bool {
        let Taken {
            line,
            retention,
            due,
        } = taken;
        let mut waits = None;
        let removed = self.records.remove_if_mut(&due.id, |_, slot| {
            let end = slot.end().filter(|_| slot.kind().line() == line);
            match end {
                None => {
                    slot.queued &= !line.bit();
                    false
                }
                Some(end) if end <= now || early && end <= due.at => {
                    self.counts.remove(slot);
                    true
                }
                Some(end) => {
                    waits = Some(end);
                    false
                }
            }
        });
        if let Some(at) = waits {
            self.lock_queues()
                .push(line, retention, Due { id: due.id, at });
        }
        if removed.is_some() {
            self.waiters.wake_all(&due.id);
        }
        removed.is_some()
    }

    #[cfg(test)]
    pub(super) fn queued(&self) -> usize {
        self.lock_queues().len()
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
    /// Its operation has ended: nothing is left for it to see to.
    fn settle(guard: &Weak<Self>) {
        if let Some(guard) = guard.upgrade() {
            guard.settled.store(true, Ordering::Relaxed);
        }
    }

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
        let enters;
        {
            let Some(mut slot) = store.records.get_mut(&self.id) else {
                return;
            };
            now = store.clock.now();
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
            enters = self.stays.is_some() && slot.enters(Line::ABANDONED);
        }
        if let Some(stays) = self.stays {
            let at = now.saturating_add(stays);
            let due = Due { id: self.id, at };
            store.enqueue(enters.then_some((Line::ABANDONED, stays, due)), now);
        }
        store.waiters.wake_all(&self.id);
    }
}
