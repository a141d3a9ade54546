//! The operations of the store, each one atomic step on the map.

use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::record::{Nonce, RecordId};
use crate::runtime::Mutex;
use crate::store::{
    Claim, Claimed, ForgetMode, Forgotten, Lease, OnLapsedLease, Outcome, Ownership, Record,
    Release,
};

use super::clock::{Clock, SinceStart};
use super::counts::Counts;
use super::counts::Kind;
use super::guard::Guard;
use super::limits::{Limits, RECORD_BYTES, WhenFull};
use super::queues::{Expired, Queues};
use super::slot::{Slot, State, token};
use super::sync::{AtomicU64, Entry, Map, Ordering, map};
use super::waiters::Waiters;

/// An estimate of the bytes that one header takes besides its name and value.
const FIELD_BYTES: usize = 96;
/// The records of one store.
pub(super) struct Records {
    /// A guard of this map locks a shard. While one is held, no waiter is woken: a waker
    /// could lead back to this shard, and deadlock.
    pub(super) slots: Map<Box<Slot>>,
    /// Locked within a shard, never the other way round.
    pub(super) queues: Mutex<Queues>,
    pub(super) counts: Counts,
    pub(super) waiters: Waiters,
    /// One counter for all ids: a token is above those of records that were
    /// forgotten long ago. It begins with the clock in microseconds: a token is
    /// above those of an earlier process.
    last_token: AtomicU64,
    pub(super) limits: Limits,
    pub(super) clock: Clock,
}

impl Records {
    pub(super) fn new(limits: Limits, clock: Clock) -> Self {
        let since_epoch = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        // The number of microseconds stays below 2⁵³ until the year 2255.
        let micros = u64::try_from(since_epoch.as_micros()).unwrap_or(0);
        Self {
            slots: map(),
            queues: Mutex::default(),
            counts: Counts::default(),
            waiters: Waiters::new(),
            last_token: AtomicU64::new(micros),
            limits,
            clock,
        }
    }

    pub(super) fn claim(records: &Arc<Self>, claim: &Claim) -> Claimed {
        loop {
            match records.slots.entry(claim.id) {
                Entry::Occupied(mut found) => {
                    let (claimed, gone) = Self::claim_found(records, found.get_mut(), claim);
                    drop(found);
                    drop(gone);
                    return claimed;
                }
                Entry::Vacant(place) => {
                    if records.counts.reserve(&records.limits) {
                        let guard = Guard::new(records, claim);
                        let now = records.clock.now();
                        let token = records.next_token();
                        place.insert(Box::new(Slot::in_flight(claim, token, 1, now, &guard)));
                        return acquired(claim, token, 1, guard);
                    }
                }
            }
            // No guard of the map is held here: `evict_one` locks other shards.
            if !records.evict_one(records.limits.when_full == WhenFull::Refuse, None) {
                return Claimed::OverCapacity;
            }
        }
    }

    /// Claims a record that exists. Also returns the record that the claim
    /// replaced, for the caller to drop once the map is unlocked: dropping a
    /// completion may run any code.
    fn claim_found(records: &Arc<Self>, slot: &mut Slot, claim: &Claim) -> (Claimed, Option<Slot>) {
        let now = records.clock.now();
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
                    records.dequeue(slot.queued.take());
                    let held = guard.upgrade().unwrap_or_else(|| {
                        let another = Guard::new(records, claim);
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
        let guard = Guard::new(records, claim);
        let token = records.next_token();
        let new = Slot::in_flight(claim, token, attempt, now, &guard);
        records.dequeue(slot.queued.take());
        let gone = slot.replace(&records.counts, new);
        (acquired(claim, token, attempt, guard), Some(gone))
    }

    pub(super) fn renew(&self, lease: &Lease) -> Ownership {
        let Some(mut slot) = self.slots.get_mut(&lease.claim.id) else {
            return Ownership::Lost;
        };
        let now = self.clock.now();
        if slot.is_over(now) {
            return Ownership::Lost;
        }
        let mut expired = Expired::default();
        let ownership = match &mut slot.state {
            State::InFlight {
                nonce,
                lapses_at,
                retention,
                unknown: false,
                ..
            } if *nonce == lease.claim.nonce => {
                *lapses_at = now.saturating_add(lease.claim.lease);
                let stays = lease.claim.lease.saturating_add(*retention);
                if slot.queued.is_some() {
                    expired = self.enqueue(lease.claim.id, &mut slot, stays, now);
                }
                Ownership::Held
            }
            State::Done { nonce, .. } if *nonce == lease.claim.nonce => Ownership::Held,
            _ => Ownership::Lost,
        };
        drop(slot);
        self.remove_expired(expired, now);
        ownership
    }

    pub(super) fn complete(&self, lease: &Lease, outcome: &Outcome) -> Ownership {
        let id = lease.claim.id;
        let token = lease.token.get();
        let now;
        let expired;
        let mut gone = None;
        match self.slots.entry(id) {
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
                let (done, retention) = self.done(lease, outcome, now);
                gone = Some(slot.replace(&self.counts, done));
                expired = self.enqueue(id, slot, retention, now);
            }
            Entry::Vacant(place) => {
                now = self.clock.now();
                let (done, retention) = self.done(lease, outcome, now);
                self.counts.add(done.kind(), done.bytes);
                let mut slot = Box::new(done);
                expired = self.enqueue(id, &mut slot, retention, now);
                place.insert(slot);
            }
        }
        drop(gone);
        self.remove_expired(expired, now);
        let full = || self.counts.bytes.load(Ordering::Relaxed) > self.limits.max_bytes;
        if self.limits.when_full == WhenFull::Evict {
            while full() && self.evict_one(false, Some(&id)) {}
            if full() {
                self.seal(&id, token);
            }
        }
        self.waiters.wake_all(&id);
        Ownership::Held
    }

    /// Drops the completion of a record if there is no room for it. The record
    /// stays sealed: its operation does not run again (G2).
    fn seal(&self, id: &RecordId, token: u64) {
        let mut gone = None;
        if let Some(mut slot) = self.slots.get_mut(id)
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
            gone = Some(slot.replace(&self.counts, sealed));
        }
        drop(gone);
    }

    pub(super) fn release(&self, id: &RecordId, nonce: &Nonce, how: Release) -> Ownership {
        let now;
        let mut expired = Expired::default();
        {
            let Some(mut slot) = self.slots.get_mut(id) else {
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
            let kept = *retention;
            if how == Release::OutcomeUnknown {
                *lapses_at = now;
                *guarded = false;
                *unknown = true;
                *guard = Weak::new();
                // Under `Refuse` the record stays until someone resolves it.
                if *on_lapsed_lease == OnLapsedLease::Rerun {
                    expired = self.enqueue(*id, &mut slot, kept, now);
                }
            } else {
                let tombstone = Slot {
                    token: slot.token,
                    attempt: slot.attempt,
                    bytes: RECORD_BYTES,
                    queued: None,
                    state: State::Released {
                        expires_at: now.saturating_add(kept),
                    },
                };
                // A record in flight has no completion: it may be dropped here.
                drop(slot.replace(&self.counts, tombstone));
                expired = self.enqueue(*id, &mut slot, kept, now);
            }
        }
        self.remove_expired(expired, now);
        match how {
            // Only one waiter can claim the record.
            Release::MayRunAgain => self.waiters.wake_one(id),
            Release::OutcomeUnknown => self.waiters.wake_all(id),
        }
        Ownership::Held
    }

    pub(super) fn look_up(&self, id: &RecordId) -> Option<Record> {
        let slot = self.slots.get(id)?;
        let now = self.clock.now();
        (!slot.is_over(now)).then(|| slot.record(now))
    }

    pub(super) fn forget(&self, id: &RecordId, mode: ForgetMode) -> Forgotten {
        let mut answer = Forgotten::Absent;
        self.slots.remove_if(id, |_, slot| {
            let now = self.clock.now();
            let alive = slot.kind() == Kind::InFlight && !slot.is_lapsed(now);
            answer = match (slot.is_over(now), alive && mode == ForgetMode::UnlessAlive) {
                (true, _) => Forgotten::Absent,
                (false, true) => Forgotten::InFlight,
                (false, false) => Forgotten::Gone,
            };
            let goes = answer != Forgotten::InFlight;
            if goes {
                self.counts.remove(slot.kind(), slot.bytes);
                self.dequeue(slot.queued);
            }
            goes
        });
        if answer == Forgotten::Gone {
            self.waiters.wake_all(id);
        }
        answer
    }

    /// Whether a claim can acquire the record at this moment.
    pub(super) fn is_claimable(&self, id: &RecordId) -> bool {
        let slot = self.slots.get(id);
        slot.is_none_or(|slot| slot.is_claimable(self.clock.now()))
    }

    fn next_token(&self) -> u64 {
        self.last_token.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// The record of a finished operation, and its retention.
    fn done(&self, lease: &Lease, outcome: &Outcome, now: SinceStart) -> (Slot, Duration) {
        let (completion, retention) = match outcome {
            Outcome::Completed(completion) => (Some(completion), completion.retention),
            Outcome::Sealed { retention } => (None, *retention),
        };
        let weight = completion.map_or(0, |completion| {
            let trailers = completion.trailers.as_ref().map_or(0, http::HeaderMap::len);
            completion.weight() + (completion.headers.len() + trailers) * FIELD_BYTES
        });
        // A completion larger than the cap would evict every other in vain.
        let fits = RECORD_BYTES + weight <= self.limits.max_bytes;
        let completion = completion.filter(|_| fits).cloned();
        let done = Slot {
            token: lease.token.get(),
            attempt: lease.attempt,
            bytes: RECORD_BYTES + if fits { weight } else { 0 },
            queued: None,
            state: State::Done {
                fingerprint: lease.claim.fingerprint,
                nonce: lease.claim.nonce,
                completion,
                expires_at: now.saturating_add(retention),
            },
        };
        (done, retention)
    }
}

fn acquired(claim: &Claim, number: u64, attempt: u64, guard: Arc<Guard>) -> Claimed {
    Claimed::Acquired(Lease::new(claim, token(number), attempt).guarded_by(guard))
}
