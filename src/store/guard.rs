//! The guards of leases, as a store of this process counts them.

use std::sync::Weak;
use std::time::Duration;

use crate::record::RecordId;

/// A store whose records count the guards of their leases.
pub(crate) trait CountsGuards: Send + Sync {
    /// A guard is dropped whose operation has not ended, as far as the guard knows.
    fn lost(&self, guard: &Guard);
}

/// Lives as long as the lease that a claim was given. While it lives, the lease
/// does not lapse.
pub(crate) struct Guard {
    pub(super) store: Weak<dyn CountsGuards>,
    pub(super) id: RecordId,
    /// The token of the lease. Another acquisition of the record has another one.
    pub(super) token: u64,
    /// How long the record stays after the guard is dropped. `None` if the record stays until
    /// someone resolves it.
    pub(super) stays: Option<Duration>,
    pub(super) is_settled: bool,
}

impl Guard {
    /// Drops the guard of an operation that has ended: the drop has nothing to look for.
    pub(super) fn settle(mut self) {
        self.is_settled = true;
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if !self.is_settled
            && let Some(store) = self.store.upgrade()
        {
            store.lost(self);
        }
    }
}
