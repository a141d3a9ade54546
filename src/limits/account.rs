//! What one caller holds.

use std::future::Future;
use std::sync::{Arc, Weak};

use crate::limits::unsent::{Unsent, UnsentBodies};
use crate::limits::{Full, Limits, Own, Resource, Whose, may_take};
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
    /// The part of `held` for which there was no room. It counts in no sum, so that no other caller
    /// is refused for it.
    beyond: [AtomicUsize; Resource::ALL.len()],
    unsent: UnsentBodies,
}

/// How many clients one response lets go, at most, to have room.
const LET_GO: usize = 16;

impl Account {
    pub(super) fn new(limits: &Arc<Limits>, caller: Option<ScopeDigest>) -> Self {
        Self {
            limits: Arc::clone(limits),
            caller,
            held: Default::default(),
            beyond: Default::default(),
            unsent: UnsentBodies::default(),
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

    /// Takes so much of a resource, whether there is room or not: what has begun goes on. What
    /// there is no room for counts for this caller alone.
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
            beyond: 0,
        }
    }

    /// Whether there is room for one more. Nothing is taken.
    pub(crate) fn has_room(&self, of: Resource) -> Result<(), Full> {
        self.may_take(of, 1)
    }

    fn may_take(&self, of: Resource, amount: usize) -> Result<(), Full> {
        // Relaxed: the answer may be outdated as soon as it is given.
        let own = self.own(of, self.held(of).load(Ordering::Relaxed));
        may_take(self.limits.limit(of), self.limits.within(of), own, amount)
            .map_err(|whose| Full { of, whose })
    }

    /// What the caller holds, of which so much is `held`. `None` where all callers are one.
    fn own(&self, of: Resource, held: usize) -> Option<Own> {
        let beyond = self.beyond[of as usize].load(Ordering::Relaxed);
        self.caller.map(|_| Own { held, beyond })
    }

    /// Whether there is room for one more operation, as far as its response is concerned: a caller
    /// whose clients read nothing begins none (G11).
    pub(crate) fn may_respond(&self) -> Result<(), Full> {
        let of = Resource::UnsentBytes;
        if self.held(of).load(Ordering::Relaxed) == 0 {
            return Ok(());
        }
        self.has_room(of)
    }

    /// Takes the bytes of a response that is there as a whole. A response is never refused, so room
    /// is made by letting clients go that have not yet read older responses of this caller.
    pub(crate) fn take_unsent(self: &Arc<Self>, bytes: usize) -> Holding {
        let mut tries = LET_GO;
        while self.may_take(Resource::UnsentBytes, bytes).is_err() {
            if tries == 0 || !self.unsent.let_one_go() {
                break;
            }
            tries -= 1;
        }
        self.take_anyway(Resource::UnsentBytes, bytes)
    }

    /// From here on the client of this response is let go if its caller needs the room.
    pub(crate) fn waits(&self, response: Weak<dyn Unsent>) {
        self.unsent.add(response);
    }

    /// Whether servers should be given copies of responses. A server keeps what it was given, and a
    /// part of a response keeps all of it: a client that is let go would give nothing back.
    pub(crate) fn gives_copies(&self) -> bool {
        [Resource::UnsentBytes, Resource::ReadAheadBytes]
            .into_iter()
            .any(|of| {
                let limit = self.limits.limit(of);
                let most = limit.per_caller.unwrap_or(limit.sum);
                self.held(of).load(Ordering::Relaxed) > most / 8
            })
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
        let own = self.own(of, before);
        let limit = self.limits.limit(of);
        let mut full = Whose::Service;
        let added =
            self.limits
                .held(of)
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |total| {
                    let within = self.limits.without_beyond(of, total);
                    may_take(limit, within, own, amount)
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

    /// Returns how much there was no room for.
    fn add_anyway(&self, of: Resource, amount: usize) -> usize {
        if self.add(of, amount).is_ok() {
            return 0;
        }
        // Where all callers are one there is no other who would be refused for it.
        let beyond = if self.caller.is_some() { amount } else { 0 };
        // First as what is beyond the sum: otherwise the sum would be full for a moment, and
        // another caller refused.
        self.beyond[of as usize].fetch_add(beyond, Ordering::Relaxed);
        self.limits.beyond[of as usize].fetch_add(beyond, Ordering::Relaxed);
        self.held(of).fetch_add(amount, Ordering::Relaxed);
        self.limits.held(of).fetch_add(amount, Ordering::Relaxed);
        beyond
    }

    fn give_back(&self, of: Resource, amount: usize, beyond: usize) {
        self.held(of).fetch_sub(amount, Ordering::Relaxed);
        // Release, with the acquire in `Limits::drain`: whoever sees that there are no background
        // tasks also sees what those tasks did.
        let before = self.limits.held(of).fetch_sub(amount, Ordering::AcqRel);
        if of == Resource::Background && before == amount {
            self.limits.no_background.notify_waiters();
        }
        if beyond == 0 {
            return;
        }
        self.limits.beyond[of as usize].fetch_sub(beyond, Ordering::Relaxed);
        self.beyond[of as usize].fetch_sub(beyond, Ordering::Relaxed);
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
    /// The part of `amount` for which there was no room.
    beyond: usize,
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
        self.beyond += self.account.add_anyway(self.of, more);
        self.amount += more;
    }

    /// Gives so much back, or all that is held if that is less.
    pub(crate) fn shrink(&mut self, by: usize) {
        let by = by.min(self.amount);
        if by == 0 {
            return;
        }
        let beyond = by.min(self.beyond);
        self.account.give_back(self.of, by, beyond);
        self.amount -= by;
        self.beyond -= beyond;
    }

    pub(crate) fn amount(&self) -> usize {
        self.amount
    }
}

impl Drop for Holding {
    fn drop(&mut self) {
        self.shrink(self.amount);
    }
}
