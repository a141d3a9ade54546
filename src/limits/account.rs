//! What one caller holds.

use std::future::Future;
use std::sync::Arc;

use crate::limits::{Full, Limits, Resource, Whose, may_take};
use crate::record::ScopeDigest;
use crate::runtime::atomic::{AtomicUsize, Ordering};
use crate::runtime::{Handle, JoinHandle};

/// What one caller holds of a layer. The account ends with the last [`Holding`] of the caller,
/// and once [`Accounts`](super::Accounts) have forgotten the caller for another.
#[derive(Debug)]
pub(crate) struct Account {
    limits: Arc<Limits>,
    /// `None` where all callers are one, and have no shares.
    caller: Option<ScopeDigest>,
    held: [AtomicUsize; Resource::ALL.len()],
}

impl Account {
    pub(super) fn new(limits: &Arc<Limits>, caller: Option<ScopeDigest>) -> Self {
        Self {
            limits: Arc::clone(limits),
            caller,
            held: Default::default(),
        }
    }

    /// Whether all callers are one, and have no shares.
    pub(crate) fn is_everyone(&self) -> bool {
        self.caller.is_none()
    }

    /// Takes so much of a resource, if the caller's share and the sum have room for it.
    pub(crate) fn take(self: &Arc<Self>, of: Resource, amount: usize) -> Result<Holding, Full> {
        let mut holding = self.nothing(of);
        holding.grow(amount)?;
        Ok(holding)
    }

    /// Takes so much of a resource, whether there is room or not: what has begun goes on.
    pub(crate) fn take_anyway(self: &Arc<Self>, of: Resource, amount: usize) -> Holding {
        let mut holding = self.nothing(of);
        holding.grow_anyway(amount);
        holding
    }

    /// A holding that can grow.
    pub(crate) fn nothing(self: &Arc<Self>, of: Resource) -> Holding {
        Holding {
            account: Arc::clone(self),
            of,
            amount: 0,
        }
    }

    /// Whether there is room for one more. Nothing is taken.
    pub(crate) fn has_room(&self, of: Resource) -> Result<(), Full> {
        // Relaxed: the answer may be outdated as soon as it is given.
        let total = self.limits.held(of).load(Ordering::Relaxed);
        let own = self.held(of).load(Ordering::Relaxed);
        let own = self.caller.map(|_| own);
        may_take(self.limits.limit(of), total, own, 1).map_err(|whose| Full { of, whose })
    }

    /// Spawns a task that counts as one without a client until it ends, or is dropped with its
    /// runtime.
    pub(crate) fn spawn<T: Send + 'static>(
        self: &Arc<Self>,
        runtime: &Handle,
        task: impl Future<Output = T> + Send + 'static,
    ) -> JoinHandle<T> {
        let counted = self.take_anyway(Resource::Background, 1);
        runtime.spawn(async move {
            let _counted = counted;
            task.await
        })
    }

    /// `None` where all callers are one.
    pub(crate) fn caller(&self) -> Option<ScopeDigest> {
        self.caller
    }

    fn held(&self, of: Resource) -> &AtomicUsize {
        &self.held[of as usize]
    }

    /// The amount counts for the caller first, so that two requests of one caller at the same
    /// moment can't both have the last of its share. The sum is checked and changed in one step:
    /// a request that is refused never takes room, for a moment, from one of another caller.
    ///
    /// A caller can hold more than its share by now, because its share has shrunk since. Then it
    /// keeps what it holds, and is refused only if it takes more.
    fn add(&self, of: Resource, amount: usize) -> Result<(), Full> {
        if amount == 0 {
            return Ok(());
        }
        // Relaxed, here and below: the numbers are all that counts, and no other data goes with
        // them.
        let before = self.held(of).fetch_add(amount, Ordering::Relaxed);
        let own = self.caller.map(|_| before);
        let limit = self.limits.limit(of);
        let mut full = Whose::Service;
        let added =
            self.limits
                .held(of)
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |total| {
                    may_take(limit, total, own, amount)
                        .map_err(|whose| full = whose)
                        .ok()?;
                    Some(total + amount)
                });
        if added.is_err() {
            self.held(of).fetch_sub(amount, Ordering::Relaxed);
            return Err(Full { of, whose: full });
        }
        Ok(())
    }

    fn add_anyway(&self, of: Resource, amount: usize) {
        self.held(of).fetch_add(amount, Ordering::Relaxed);
        self.limits.held(of).fetch_add(amount, Ordering::Relaxed);
    }

    fn give_back(&self, of: Resource, amount: usize) {
        self.held(of).fetch_sub(amount, Ordering::Relaxed);
        // Release, with the acquire in `Limits::drain`: whoever sees that there are no background
        // tasks also sees what those tasks did.
        let before = self.limits.held(of).fetch_sub(amount, Ordering::AcqRel);
        if of == Resource::Background && before == amount && amount > 0 {
            self.limits.no_background.notify_waiters();
        }
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        let Some(caller) = &self.caller else {
            return;
        };
        let mut callers = self.limits.shard(caller).lock();
        // Since the last pointer to this account went, the caller may have come back: its new
        // account stays.
        if callers
            .get(caller)
            .is_some_and(|own| own.strong_count() == 0)
        {
            callers.remove(caller);
        }
    }
}

/// What one request or task holds of one resource, until it is dropped.
#[derive(Debug)]
pub(crate) struct Holding {
    account: Arc<Account>,
    of: Resource,
    amount: usize,
}

impl Holding {
    /// Takes so much more, if there is room for it.
    pub(crate) fn grow(&mut self, more: usize) -> Result<(), Full> {
        self.account.add(self.of, more)?;
        self.amount += more;
        Ok(())
    }

    /// Takes so much more, whether there is room or not.
    pub(crate) fn grow_anyway(&mut self, more: usize) {
        self.account.add_anyway(self.of, more);
        self.amount += more;
    }

    /// Gives so much back, or all that is held if that is less.
    pub(crate) fn shrink(&mut self, by: usize) {
        let by = by.min(self.amount);
        self.account.give_back(self.of, by);
        self.amount -= by;
    }

    pub(crate) fn amount(&self) -> usize {
        self.amount
    }

    /// The account of the caller that holds it.
    pub(crate) fn account(&self) -> &Arc<Account> {
        &self.account
    }
}

impl Drop for Holding {
    fn drop(&mut self) {
        self.shrink(self.amount);
    }
}
