//! The accounts of a layer's callers, as its requests ask for them.

use std::array;
use std::sync::Arc;
use std::time::Duration;

use crate::limits::{Account, Limit, Limits, Resource};
use crate::record::ScopeDigest;
use crate::runtime::Mutex;

/// Finds the account of a caller. A caller that sends one request after another keeps its account
/// from one to the next, so that its requests neither make nor remove one.
pub(crate) struct Accounts {
    limits: Arc<Limits>,
    /// The account of every request, where all callers are one.
    everyone: Arc<Account>,
    /// The callers that were last asked for, at places that their digests say.
    recent: [Mutex<Option<Arc<Account>>>; 64],
}

impl Accounts {
    pub(crate) fn new(limits: Arc<Limits>) -> Self {
        Self {
            everyone: limits.account(None),
            limits,
            recent: array::from_fn(|_| Mutex::default()),
        }
    }

    /// The account of this caller; of `None` where all callers are one.
    pub(crate) fn of(&self, caller: Option<&ScopeDigest>) -> Arc<Account> {
        let Some(caller) = caller else {
            return Arc::clone(&self.everyone);
        };
        // The bytes of a digest are as good as random.
        let place = usize::from(caller.as_bytes()[1]) % self.recent.len();
        let mut recent = self.recent[place].lock();
        if let Some(account) = &*recent
            && account.caller() == Some(*caller)
        {
            return Arc::clone(account);
        }
        let account = self.limits.account(Some(caller));
        let last = recent.replace(Arc::clone(&account));
        drop(recent);
        // The drop of an account takes another lock.
        drop(last);
        account
    }

    /// Waits until there are no background tasks, or the time is over. Returns how many there
    /// still are.
    pub(crate) async fn drain(&self, limit: Duration) -> usize {
        self.limits.drain(limit).await
    }

    /// How much all callers hold.
    pub(crate) fn held(&self, of: Resource) -> usize {
        self.limits.total(of)
    }

    pub(crate) fn limit(&self, of: Resource) -> Limit {
        self.limits.limit(of)
    }

    #[cfg(all(test, shuttle))]
    pub(crate) fn limits(&self) -> &Limits {
        &self.limits
    }
}
