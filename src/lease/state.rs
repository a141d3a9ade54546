//! The part of a lease that several hold: its owner, the handler's context and
//! the renewer.

use std::sync::Arc;
use std::time::Duration;

use crate::lease::{Ended, Leases};
use crate::limits::{Account, Holding};
use crate::runtime::Mutex;
use crate::runtime::atomic::{AtomicBool, Ordering};
use crate::store::{Lease, LeaseGuard};

/// What has acquired a lease, and shares its state with the owner and the renewer: so the lease needs
/// no allocation of its own.
pub(crate) trait Leased: Send + Sync {
    fn state(&self) -> &LeaseState;
    fn leases(&self) -> &Arc<Leases>;
    /// The account of the caller.
    fn account(&self) -> &Arc<Account>;
    fn max_operation(&self) -> Duration;
    /// The span of the request that the operation began in, for tasks that go on
    /// after the request's future is gone.
    fn span(&self) -> &tracing::Span;
}

/// What the owner, the handler's context and the renewer share of one lease.
pub(crate) struct LeaseState {
    lease: Lease,
    /// Keeps a lease of the memory store from lapsing while the guard lives.
    /// `None` once the operation has ended or has run for longer than
    /// `max_operation`, and on stores whose leases are renewed.
    guard: Mutex<Option<LeaseGuard>>,
    /// The operation's place among those in flight, until its owner is gone. A handler can keep
    /// this state for longer.
    in_flight: Mutex<Option<Holding>>,
    /// Whether another owner has taken over, as far as this process knows.
    lost: AtomicBool,
    /// Whether the handler has completed the record in its own transaction.
    completed_elsewhere: AtomicBool,
    /// The lease's place in the renewer, once the renewer watches the lease, or never will.
    place: Mutex<Option<usize>>,
    /// Whether the store has the lease, so that it is renewed and ended there. Where the handler makes
    /// the claim, the store has nothing before the handler's commit.
    is_stored: bool,
    /// Whether the layer only observes the operation: nobody takes over what runs anyway.
    is_observed: bool,
    /// How the operation has ended, once it has.
    ended: Mutex<Option<Ended>>,
}

impl LeaseState {
    pub(crate) fn new(lease: Lease, in_flight: Holding, is_observed: bool) -> Self {
        let state = Self::with(lease, Some(in_flight), true);
        Self {
            is_observed,
            ..state
        }
    }

    /// The state of an operation whose handler makes the claim.
    #[cfg(feature = "_sql")]
    pub(crate) fn unstored(lease: Lease) -> Self {
        Self::with(lease, None, false)
    }

    fn with(mut lease: Lease, in_flight: Option<Holding>, is_stored: bool) -> Self {
        let guard = lease.take_guard();
        Self {
            lease,
            guard: Mutex::new(guard),
            in_flight: Mutex::new(in_flight),
            lost: AtomicBool::new(false),
            completed_elsewhere: AtomicBool::new(false),
            place: Mutex::new(None),
            is_stored,
            is_observed: false,
            ended: Mutex::new(None),
        }
    }

    pub(crate) fn lease(&self) -> &Lease {
        &self.lease
    }

    pub(crate) fn is_stored(&self) -> bool {
        self.is_stored
    }

    pub(super) fn is_observed(&self) -> bool {
        self.is_observed
    }

    /// The renewer's own lock is taken within this one, never the other way round.
    pub(super) fn place(&self) -> &Mutex<Option<usize>> {
        &self.place
    }

    /// Takes the guard out, so that the caller drops the guard when this lock is
    /// free again: the guard's destructor takes a lock of the store.
    pub(super) fn take_guard(&self) -> Option<LeaseGuard> {
        self.guard.lock().take()
    }

    /// Takes the place out, for the owner that is gone.
    pub(super) fn take_in_flight(&self) -> Option<Holding> {
        self.in_flight.lock().take()
    }

    pub(super) fn is_guarded(&self) -> bool {
        self.guard.lock().is_some()
    }

    /// Says how the operation has ended. `false` if that was said before, which stays.
    pub(super) fn set_ended(&self, ended: Ended) -> bool {
        let mut first = self.ended.lock();
        let is_first = first.is_none();
        first.get_or_insert(ended);
        is_first
    }

    pub(crate) fn ended(&self) -> Option<Ended> {
        *self.ended.lock()
    }

    /// Says that another owner has taken over.
    pub(crate) fn lose(&self) {
        // Relaxed: the flag is all that is said, and no other data goes with it.
        self.lost.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Relaxed)
    }

    /// Says that the handler has completed the record itself. The owner releases
    /// nothing from then on.
    #[cfg(feature = "_sql")]
    pub(crate) fn complete_elsewhere(&self) {
        // Release, with the acquire below: an owner that sees the flag also sees
        // the handler's commit, whichever thread drops the owner.
        self.completed_elsewhere.store(true, Ordering::Release);
    }

    pub(crate) fn is_completed_elsewhere(&self) -> bool {
        self.completed_elsewhere.load(Ordering::Acquire)
    }
}
