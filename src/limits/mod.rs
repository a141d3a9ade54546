//! How much the protected requests of one layer may hold, in sum and for one caller (G11).
//!
//! Each [`Resource`] has a limit in sum, and each caller has a share of it. By default the share
//! of a caller is [seven times what is free](share): a caller that is alone reaches seven
//! eighths, and leaves the rest to whoever comes next; as others take their parts, the share of
//! each shrinks. What is held already is never taken back.
//!
//! Public items: none. May use: `record`, `runtime`.

mod account;
mod accounts;
mod turns;
mod unsent;

pub(crate) use account::{Account, Holding};
pub(crate) use accounts::Accounts;
pub(crate) use turns::Turns;
pub(crate) use unsent::{LetGo, Unsent};

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::sync::{Arc, Weak};
use std::time::Duration;

use crate::record::ScopeDigest;
use crate::runtime::atomic::{AtomicUsize, Ordering};
use crate::runtime::{Mutex, Notify, timeout};

/// What protected requests hold of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Resource {
    /// Requests, from their callers' names to the ends of their operations. A request that waits
    /// for another is a waiter instead.
    Operations,
    /// Bytes of request bodies, from when they are read until their handlers have responded, and of
    /// the steps of earlier attempts.
    RequestBytes,
    /// Bytes of responses that are read ahead of their clients, and kept to be recorded.
    ReadAheadBytes,
    /// Bytes of responses that were there as a whole, until their servers have sent them. They
    /// are taken whether there is room or not: clients that do not read make it.
    UnsentBytes,
    /// Requests that wait for the outcome of another.
    Waiters,
    /// Tasks that go on without a client.
    Background,
}

impl Resource {
    pub(crate) const ALL: [Self; 6] = [
        Self::Operations,
        Self::RequestBytes,
        Self::ReadAheadBytes,
        Self::UnsentBytes,
        Self::Waiters,
        Self::Background,
    ];

    /// The option that limits the sum.
    pub(crate) const fn option(self) -> &'static str {
        match self {
            Self::Operations => "max_in_flight_operations",
            Self::RequestBytes => "max_buffered_bytes",
            Self::ReadAheadBytes => "max_read_ahead",
            Self::UnsentBytes => "max_unsent_bytes",
            Self::Waiters => "max_waiting_requests",
            Self::Background => "max_background_operations",
        }
    }

    /// The option that limits one caller.
    pub(crate) const fn share_option(self) -> &'static str {
        match self {
            Self::Operations => "max_in_flight_per_caller",
            Self::RequestBytes => "max_buffered_bytes_per_caller",
            Self::ReadAheadBytes => "max_read_ahead_per_caller",
            Self::UnsentBytes => "max_unsent_bytes_per_caller",
            Self::Waiters => "max_waiting_per_caller",
            Self::Background => "max_background_per_caller",
        }
    }
}

/// How much of one resource may be held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limit {
    /// What all callers together may hold.
    pub(crate) sum: usize,
    /// What one caller may hold. `None`: seven times what is free.
    pub(crate) per_caller: Option<usize>,
}

impl Limit {
    /// The limits of a layer whose options set none.
    pub(crate) const DEFAULTS: [Self; Resource::ALL.len()] = [
        Self::of(10_000),
        Self::of(256 << 20),
        Self::of(256 << 20),
        Self::of(256 << 20),
        Self::of(1_000),
        Self::of(10_000),
    ];

    /// A limit in sum alone, with the share of a caller by the rule.
    pub(crate) const fn of(sum: usize) -> Self {
        Self {
            sum,
            per_caller: None,
        }
    }
}

/// The owner of the part of a resource that is used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Whose {
    /// The share of the caller that asks.
    Caller,
    /// What all callers have together.
    Service,
}

/// There is no more of a resource for a caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Full {
    pub(crate) of: Resource,
    pub(crate) whose: Whose,
}

/// How much one caller may hold of `limit.sum`, while all callers hold `total` of it.
///
/// The rule is that of the dynamic thresholds by which switches share their buffers: with `n`
/// callers that each take all that they may, each holds 7 / (7n + 1) of the sum, and the rest
/// stays free for the next one.
pub(crate) fn share(limit: Limit, total: usize) -> usize {
    let free = limit.sum.saturating_sub(total);
    limit.per_caller.unwrap_or_else(|| free.saturating_mul(7))
}

/// How much a caller that is alone may hold by the rule, if it takes little by little.
pub(crate) fn largest_share(sum: usize) -> usize {
    sum - sum.div_ceil(8)
}

/// What one caller holds.
#[derive(Clone, Copy)]
struct Own {
    held: usize,
    /// The part of `held` that counts in no sum.
    beyond: usize,
}

/// Whether a caller that holds `own` may take so much more, while all callers hold `total` within
/// the sum. `own` is not limited (`None`) where all callers are one.
fn may_take(limit: Limit, total: usize, own: Option<Own>, amount: usize) -> Result<(), Whose> {
    if total.saturating_add(amount) > limit.sum {
        return Err(Whose::Service);
    }
    let is_over = |own: Own| {
        let total = total.saturating_add(own.beyond);
        own.held.saturating_add(amount) > share(limit, total)
    };
    if own.is_some_and(is_over) {
        return Err(Whose::Caller);
    }
    Ok(())
}

/// The callers that hold something, by their digests. Several maps, because each protected
/// request looks twice into one of them.
type Callers = [Mutex<HashMap<ScopeDigest, Weak<Account>>>; 32];

/// What may be held, what is held, and by whom.
#[derive(Debug)]
pub(crate) struct Limits {
    of_each: [Limit; Resource::ALL.len()],
    held: [AtomicUsize; Resource::ALL.len()],
    /// The part of `held` that counts for its callers alone.
    beyond: [AtomicUsize; Resource::ALL.len()],
    callers: Callers,
    /// Notified when the last background task ends.
    no_background: Notify,
}

impl Limits {
    pub(crate) fn new(limit: impl Fn(Resource) -> Limit) -> Arc<Self> {
        let hasher = RandomState::new();
        Arc::new(Self {
            of_each: Resource::ALL.map(limit),
            held: Default::default(),
            beyond: Default::default(),
            callers: std::array::from_fn(|_| Mutex::new(HashMap::with_hasher(hasher.clone()))),
            no_background: Notify::new(),
        })
    }

    /// The account of this caller: the same one for as long as the caller holds something.
    /// `None` where all callers are one; what they hold counts in the sum alone.
    pub(crate) fn account(self: &Arc<Self>, caller: Option<&ScopeDigest>) -> Arc<Account> {
        let Some(caller) = caller else {
            return Arc::new(Account::new(self, None));
        };
        // The account is looked for and made under one lock: two requests of a caller at the
        // same moment would otherwise have a share each.
        let mut callers = self.shard(caller).lock();
        let known = callers.get_mut(caller);
        if let Some(account) = known.as_ref().and_then(|known| known.upgrade()) {
            return account;
        }
        let account = Arc::new(Account::new(self, Some(*caller)));
        // An account that is just being dropped holds nothing any more, so it can be replaced.
        match known {
            Some(known) => *known = Arc::downgrade(&account),
            None => drop(callers.insert(*caller, Arc::downgrade(&account))),
        }
        account
    }

    fn shard(&self, caller: &ScopeDigest) -> &Mutex<HashMap<ScopeDigest, Weak<Account>>> {
        // The bytes of a digest are as good as random.
        &self.callers[usize::from(caller.as_bytes()[0]) % self.callers.len()]
    }

    fn limit(&self, of: Resource) -> Limit {
        self.of_each[of as usize]
    }

    fn held(&self, of: Resource) -> &AtomicUsize {
        &self.held[of as usize]
    }

    /// How much all callers hold.
    pub(crate) fn total(&self, of: Resource) -> usize {
        self.held(of).load(Ordering::Acquire)
    }

    /// How much all callers hold within the sum.
    fn within(&self, of: Resource) -> usize {
        self.without_beyond(of, self.held(of).load(Ordering::Relaxed))
    }

    fn without_beyond(&self, of: Resource, held: usize) -> usize {
        // What is beyond the sum is counted before it is held, and for longer.
        held.saturating_sub(self.beyond[of as usize].load(Ordering::Relaxed))
    }

    /// Waits until there are no background tasks, or the time is over. Returns how many there
    /// still are.
    pub(crate) async fn drain(&self, limit: Duration) -> usize {
        let held = self.held(Resource::Background);
        let drained = async {
            loop {
                // Asked for before the number is read: a last task that ends between the two
                // would notify nobody otherwise.
                let none = self.no_background.notified();
                if held.load(Ordering::Acquire) == 0 {
                    return;
                }
                none.await;
            }
        };
        match timeout(limit, drained).await {
            Ok(()) => 0,
            Err(_) => held.load(Ordering::Acquire),
        }
    }
}

#[cfg(test)]
impl Limits {
    /// How many callers have an account.
    pub(crate) fn callers(&self) -> usize {
        self.callers.iter().map(|shard| shard.lock().len()).sum()
    }
}

#[cfg(all(test, not(shuttle)))]
mod tests;
