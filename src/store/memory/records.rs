//! The operations of the store, each one atomic step on the table.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::record::{Nonce, RecordId};
use crate::runtime::Mutex;
use crate::store::{ForgetMode, Forgotten, Lease, OnLapsedLease, Ownership, Record, Release};

use super::account::Accounts;
use super::clock::{Clock, Nanos, SinceStart};
use super::counts::{Counts, Kind};
use super::limits::Limits;
use super::origins::{KeptOrigin, Routes};
use super::queues::{Expired, Queues};
use super::slot::{Slot, State};
use super::sync::{AtomicU64, Ordering};
use super::table::Table;
use super::waiters::Waiters;

/// The records of one store.
pub(super) struct Records {
    /// While a part of this table is locked, no waiter is woken: a waker could lead back to this
    /// part, and deadlock.
    pub(super) slots: Table<Slot>,
    /// Locked within a part of `slots`, never the other way round.
    pub(super) queues: Mutex<Queues>,
    /// A shard of these is locked within a part of `slots`, never the other way round.
    pub(super) accounts: Accounts,
    pub(super) counts: Counts,
    pub(super) waiters: Waiters,
    pub(super) routes: Routes,
    /// One counter for all ids: a token is above those of records that were
    /// forgotten long ago.
    last_token: AtomicU64,
    /// The clock at the start, in microseconds: a token is above those of an earlier process.
    pub(super) first_token: u64,
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
            slots: Table::new(limits.max_records),
            queues: Mutex::default(),
            accounts: Accounts::new(limits.max_records),
            counts: Counts::default(),
            waiters: Waiters::new(),
            routes: Routes::new(),
            last_token: AtomicU64::new(micros),
            first_token: micros,
            limits,
            clock,
        }
    }

    pub(super) fn renew(&self, lease: &Lease) -> Ownership {
        let mut locked = self.slots.lock(&lease.claim.id);
        let Some((at, slot)) = locked.get(&lease.claim.id) else {
            return Ownership::Lost;
        };
        let now = self.clock.now();
        if slot.is_over(now) {
            return Ownership::Lost;
        }
        let mut expired = Expired::default();
        let has_ended_it = slot.ended_by() == Some(&lease.claim.nonce);
        let ownership = match &mut slot.state {
            State::InFlight {
                nonce,
                retention,
                unknown: false,
                ..
            } if *nonce == lease.claim.nonce => {
                let length = Nanos::from(lease.claim.lease);
                let stays = length.saturating_add(*retention);
                slot.until = now.saturating_add(length);
                if slot.queued.is_some() {
                    expired = self.enqueue(at, slot, stays, now);
                }
                Ownership::Held
            }
            _ if has_ended_it => Ownership::Held,
            _ => Ownership::Lost,
        };
        drop(locked);
        self.remove_expired(expired, now);
        ownership
    }

    pub(super) fn release(&self, id: &RecordId, nonce: &Nonce, how: Release) -> Ownership {
        let now;
        let mut expired = Expired::default();
        {
            let mut locked = self.slots.lock(id);
            let Some((at, slot)) = locked.get(id) else {
                return Ownership::Lost;
            };
            now = self.clock.now();
            if slot.is_over(now) {
                return Ownership::Lost;
            }
            let State::InFlight {
                nonce: owner,
                guards,
                unknown,
                retention,
                on_lapsed_lease,
                trace,
                route,
                steps,
                ..
            } = &mut slot.state
            else {
                return Ownership::Lost;
            };
            if owner != nonce {
                return Ownership::Lost;
            }
            let kept = *retention;
            let stays = *on_lapsed_lease == OnLapsedLease::Rerun;
            if how == Release::OutcomeUnknown {
                *guards = 0;
                *unknown = true;
                slot.until = now;
                // Under `Refuse` the record stays until someone resolves it.
                if stays {
                    expired = self.enqueue(at, slot, kept, now);
                } else {
                    self.queues.lock().rank(&slot.account);
                }
            } else {
                let (trace, route) = (trace.take(), *route);
                let origin = KeptOrigin { trace, route };
                let steps = std::mem::take(steps);
                // The steps of a tombstone can be evicted, with the tombstone.
                self.counts.drop_steps(&slot.account, steps.weight());
                // A record in flight has no completion: it may be dropped here.
                drop(slot.change(&self.counts, State::Released { origin, steps }));
                slot.until = now.saturating_add(kept);
                expired = self.enqueue(at, slot, kept, now);
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
        let seen = {
            let mut locked = self.slots.lock(id);
            let (_, slot) = locked.get(id)?;
            let now = self.clock.now();
            (!slot.is_over(now)).then(|| slot.seen(now))
        };
        seen.map(|seen| seen.record(&self.routes))
    }

    pub(super) fn forget(&self, id: &RecordId, mode: ForgetMode) -> Forgotten {
        let mut locked = self.slots.lock(id);
        let Some((at, slot)) = locked.get(id) else {
            return Forgotten::Absent;
        };
        let now = self.clock.now();
        let alive = slot.kind() == Kind::InFlight && !slot.is_lapsed(now);
        let is_over = slot.is_over(now);
        let refusal = mode.decide(slot.version(), alive);
        if !is_over && refusal != Forgotten::Gone {
            return refusal;
        }
        let removed = locked.remove(at);
        self.leave(&removed);
        drop(locked);
        drop(removed);
        if is_over {
            return Forgotten::Absent;
        }
        self.waiters.wake_all(id);
        Forgotten::Gone
    }

    /// Whether a claim can acquire the record at this moment.
    pub(super) fn is_claimable(&self, id: &RecordId) -> bool {
        let mut locked = self.slots.lock(id);
        let slot = locked.get(id);
        slot.is_none_or(|(_, slot)| slot.is_claimable(self.clock.now()))
    }

    /// The clock in microseconds, or one above the last token.
    pub(super) fn next_token(&self, now: SinceStart) -> u64 {
        let since = u64::try_from(Duration::from(now).as_micros()).unwrap_or(u64::MAX);
        let clock = self.first_token.saturating_add(since);
        let next = |last: u64| Some(clock.max(last + 1));
        let last = self
            .last_token
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
        clock.max(last.expect("there is always a next one") + 1)
    }

    /// The time of day at a moment. `None` if a `SystemTime` can't represent it.
    pub(super) fn wall(&self, at: SinceStart) -> Option<SystemTime> {
        let start = UNIX_EPOCH.checked_add(Duration::from_micros(self.first_token))?;
        start.checked_add(at.into())
    }
}
