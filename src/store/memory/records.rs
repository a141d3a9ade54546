//! The operations of the store, each one atomic step on the map.

use std::sync::Weak;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::record::{Nonce, RecordId};
use crate::runtime::Mutex;
use crate::store::{ForgetMode, Forgotten, Lease, OnLapsedLease, Ownership, Record, Release};

use super::account::Accounts;
use super::clock::Clock;
use super::counts::{Counts, Kind};
use super::guard::Guard;
use super::limits::Limits;
use super::queues::{Expired, Queues};
use super::slot::{Slot, State};
use super::sync::{AtomicU64, Map, Ordering, map};
use super::waiters::Waiters;

/// The records of one store.
pub(super) struct Records {
    /// A guard of this map locks a shard. While one is held, no waiter is woken: a waker
    /// could lead back to this shard, and deadlock.
    pub(super) slots: Map<RecordId, Box<Slot>>,
    /// Locked within a shard of `slots`, never the other way round.
    pub(super) queues: Mutex<Queues>,
    /// A shard of these is locked within a shard of `slots`, never the other way round.
    pub(super) accounts: Accounts,
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
            accounts: Accounts::new(),
            counts: Counts::default(),
            waiters: Waiters::new(),
            last_token: AtomicU64::new(micros),
            limits,
            clock,
        }
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
                } else {
                    self.queues.lock().rank(&slot.account);
                }
            } else {
                let tombstone = State::Released {
                    expires_at: now.saturating_add(kept),
                };
                // A record in flight has no completion: it may be dropped here.
                drop(slot.change(&self.counts, tombstone));
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
                self.leave(slot);
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

    pub(super) fn next_token(&self) -> u64 {
        self.last_token.fetch_add(1, Ordering::Relaxed) + 1
    }
}
