//! The part of a lease that several hold: its owner, the handler's context and
//! the renewer.

use std::mem;
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

/// What a lease has until its owner is gone. A handler can keep the state of its lease for longer.
#[derive(Default)]
struct OfOwner {
    /// Keeps a lease of the memory store from lapsing while the guard lives.
    /// `None` once the operation has ended or has run for longer than
    /// `max_operation`, and on stores whose leases are renewed.
    guard: Option<LeaseGuard>,
    /// The operation's place among those in flight.
    in_flight: Option<Holding>,
}

/// What the owner, the handler's context and the renewer share of one lease.
pub(crate) struct LeaseState {
    lease: Lease,
    of_owner: Mutex<OfOwner>,
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
    /// The state of a lease whose guard was taken out of it.
    pub(crate) fn new(
        lease: Lease,
        guard: Option<LeaseGuard>,
        in_flight: Holding,
        is_observed: bool,
    ) -> Self {
        let in_flight = Some(in_flight);
        Self::with(lease, OfOwner { guard, in_flight }, true, is_observed)
    }

    /// The state of an operation whose handler makes the claim.
    #[cfg(feature = "_sql")]
    pub(crate) fn unstored(lease: Lease) -> Self {
        Self::with(lease, OfOwner::default(), false, false)
    }

    fn with(lease: Lease, of_owner: OfOwner, is_stored: bool, is_observed: bool) -> Self {
        Self {
            lease,
            of_owner: Mutex::new(of_owner),
            lost: AtomicBool::new(false),
            completed_elsewhere: AtomicBool::new(false),
            place: Mutex::new(None),
            is_stored,
            is_observed,
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
        self.of_owner.lock().guard.take()
    }

    /// Takes all out that the owner has, as [`take_guard`](Self::take_guard) does. The guard goes
    /// before the place among those in flight. `is_settled` says that the store knows the end of the
    /// operation.
    pub(super) fn leave_owner(&self, is_settled: bool) {
        let OfOwner { guard, in_flight } = mem::take(&mut *self.of_owner.lock());
        match guard {
            Some(guard) if is_settled => guard.settle(),
            guard => drop(guard),
        }
        drop(in_flight);
    }

    pub(super) fn is_guarded(&self) -> bool {
        self.of_owner.lock().guard.is_some()
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
