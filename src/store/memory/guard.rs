//! The guard of a lease: the lease does not lapse while its guard lives.

use std::sync::{Arc, Weak};

use crate::record::RecordId;
use crate::store::{Claim, OnLapsedLease};

use super::clock::Nanos;
use super::records::Records;
use super::slot::State;
use super::sync::{AtomicBool, Ordering};

/// Lives as long as the lease that a claim was given. While it lives, the lease
/// does not lapse.
pub(super) struct Guard {
    store: Weak<Records>,
    id: RecordId,
    /// How long the record stays after the guard is dropped. `None` if the record stays until
    /// someone resolves it.
    stays: Option<Nanos>,
    /// The operation has ended, so the drop of the guard changes nothing.
    settled: AtomicBool,
}

impl Guard {
    /// Tells the guard that its operation has ended.
    pub(super) fn settle(guard: &Weak<Self>) {
        if let Some(guard) = guard.upgrade() {
            guard.settled.store(true, Ordering::Relaxed);
        }
    }

    pub(super) fn new(records: &Arc<Records>, claim: &Claim) -> Arc<Self> {
        Arc::new(Guard {
            store: Arc::downgrade(records),
            id: claim.id,
            stays: (claim.on_lapsed_lease == OnLapsedLease::Rerun)
                .then(|| Nanos::from(claim.lease).saturating_add(claim.retention.into())),
            settled: AtomicBool::new(false),
        })
    }
}

impl Drop for Guard {
    /// The owner vanished without ending its operation: the record lapses, and is
    /// forgotten a retention later. Without this it would stay in flight for ever.
    fn drop(&mut self) {
        if self.settled.load(Ordering::Relaxed) {
            return;
        }
        let Some(store) = self.store.upgrade() else {
            return;
        };
        let now;
        let expired;
        {
            let mut locked = store.slots.lock(&self.id);
            let Some((at, slot)) = locked.get(&self.id) else {
                return;
            };
            now = store.clock.now();
            match &mut slot.state {
                State::InFlight { guarded, guard, .. } if std::ptr::eq(guard.as_ptr(), self) => {
                    // A lease whose time is over already ends now. The guard kept it alive until
                    // here.
                    *guarded = false;
                    slot.until = now.max(slot.until);
                }
                _ => return,
            }
            let stays = self.stays;
            expired = stays.map(|stays| store.enqueue(at, slot, stays, now));
        }
        store.remove_expired(expired.unwrap_or_default(), now);
        store.waiters.wake_all(&self.id);
    }
}
