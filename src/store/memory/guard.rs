//! The guard of a lease: the lease does not lapse while its guard lives.

use std::sync::Arc;

use crate::store::guard::{CountsGuards, Guard};
use crate::store::{Claim, OnLapsedLease};

use super::records::Records;
use super::slot::State;

/// The guard of a lease with this token, which the record counts.
pub(super) fn guard(records: &Arc<Records>, claim: &Claim, token: u64) -> Guard {
    let records = Arc::downgrade(records);
    Guard {
        store: records,
        id: claim.id,
        token,
        stays: (claim.on_lapsed_lease == OnLapsedLease::Rerun)
            .then(|| claim.lease.saturating_add(claim.retention)),
        is_settled: false,
    }
}

impl CountsGuards for Records {
    /// The owner vanished without ending its operation: the record lapses, and is
    /// forgotten a retention later. Without this it would stay in flight for ever.
    fn lost(&self, guard: &Guard) {
        let now;
        let expired;
        {
            let mut locked = self.slots.lock(&guard.id);
            let Some((at, slot)) = locked.get(&guard.id) else {
                return;
            };
            now = self.clock.now();
            match &mut slot.state {
                State::InFlight { guards, .. } if slot.token == guard.token && *guards > 0 => {
                    *guards -= 1;
                    // The result of a claim that was sent again has a guard of its own.
                    if *guards > 0 {
                        return;
                    }
                }
                _ => return,
            }
            // A lease whose time is over already ends now. The guard kept it alive until here.
            slot.until = now.max(slot.until);
            let stays = guard.stays;
            expired = stays.map(|stays| self.enqueue(at, slot, stays.into(), now));
        }
        self.remove_expired(expired.unwrap_or_default(), now);
        self.waiters.wake_all(&guard.id);
    }
}
