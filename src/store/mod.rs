//! The contract between the layer and what keeps its records.

use std::any::Any;
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use crate::options::OnMismatch;
pub use crate::record::{Completion, FencingToken, Fingerprint, Nonce, RecordId, ScopeDigest};

mod any;
#[cfg(feature = "at-rest")]
pub(crate) mod encoding;
#[cfg(feature = "encryption")]
pub(crate) mod encrypted;
mod erased;
mod error;
#[cfg(feature = "memory")]
pub(crate) mod memory;
#[cfg(feature = "redis")]
pub(crate) mod notify;
#[cfg(feature = "redis")]
pub(crate) mod redis;
#[cfg(any(feature = "redis", feature = "_sql"))]
pub(crate) mod row;
#[cfg(feature = "_sql")]
pub(crate) mod sql;
mod subscription;

pub use any::AnyStore;
#[cfg(feature = "at-rest")]
pub use encoding::EncodedCompletion;
#[cfg(feature = "encryption")]
pub use encrypted::Encryption;
#[cfg(any(feature = "memory", feature = "encryption"))]
pub(crate) use erased::StoreFuture;
pub(crate) use erased::{DynStore, erased};
pub use error::{StoreError, StoreErrorKind};
#[cfg(feature = "memory")]
pub use memory::{MemoryStats, MemoryStoreBuilder, WhenFull};
#[cfg(feature = "redis")]
pub use redis::{RedisConnection, RedisStoreBuilder};
#[cfg(feature = "mysql")]
pub use sql::mysql::MySqlStoreBuilder;
#[cfg(feature = "postgres")]
pub use sql::postgres::PostgresStoreBuilder;
#[cfg(feature = "sqlite")]
pub use sql::sqlite::SqliteStoreBuilder;
pub use subscription::Subscription;

/// How often a record is looked at whose store does not say when it changes.
pub(crate) const POLL: Duration = Duration::from_millis(250);

/// Keeps one record per id, each of whose changes is one atomic step.
///
/// # Contract
///
/// - **Time is the store's clock**, read after any wait for a lock. Leases and
///   retentions reach the store as lengths, never as points in time.
/// - **One round trip.** Each operation is one, and a [`claim`](Self::claim)
///   that finds a completion writes nothing.
/// - **Claim** makes a record in flight, atomically with looking: of any
///   number of claims at once, one is [`Acquired`](Claimed::Acquired). It
///   acquires where there is no record, where a tombstone stands, and where a
///   lease has lapsed, provided that [`Claim::takes_over`] says so. Each
///   acquisition has a token above all that the id ever had, and the attempt
///   after the last. Claiming again with the nonce that holds the record
///   gives the same lease: the first acknowledgement may have been lost.
/// - **Renew** puts the end of the lease one length ahead, that of the lease
///   it is given, lapsed or not, if nobody took over; it never recreates a
///   record.
/// - **Complete** stores the outcome if the record is in flight under this
///   nonce, lapsed or not. If there is no record, or a tombstone with no
///   higher token, it stores it all the same: the finished answer is worth
///   more than the gap. Otherwise another owner took over: [`Ownership::Lost`].
///   An outcome that was said to be unknown is in flight here.
/// - **What was completed comes back as it was**: the answer, its times and
///   retention to the microsecond, and the token and fingerprint of its claim.
///   An [encrypted](crate::IdempotencyLayerBuilder) answer can't be opened
///   otherwise.
/// - **Release** leaves a tombstone (token and attempt), or marks the outcome
///   unknown, if the record is in flight under this nonce, lapsed or not, or
///   was released as unknown by it. It never deletes a completion and never
///   makes a record: anything else is [`Ownership::Lost`], a release to a
///   tombstone that is sent again, too. What was released is not renewed any
///   more, by a renewal that was on its way, and a claim by its nonce does not
///   get the old lease back: it is a claim like any other.
/// - **Renew and complete by the nonce that completed** change nothing and
///   are [`Ownership::Held`].
/// - **A lapsed record does not vanish with its lease.** Under
///   [`OnLapsedLease::Rerun`] it is forgotten a retention later; under
///   [`OnLapsedLease::Refuse`] it stays until someone resolves it.
/// - **Subscribe** answers a future that resolves after the next change of
///   the record: completed, sealed, released, forgotten, evicted, or its owner
///   vanished. The layer subscribes, *then* claims, and only the claim
///   decides; so a subscription may resolve early, and must not miss what
///   changes once it was answered. A completion and whatever else every
///   waiter has to see resolves all of them. A release may resolve just one;
///   dropped while the record can still be claimed, that one passes its
///   wake-up on.
///
/// A future of a store may be dropped at any await. The layer gives each call
/// a deadline, and asks again by the same nonce.
///
/// # Implementing it
///
/// With plain `async fn`. `examples/custom_store.rs` is a whole store in one
/// file, and `conformance` (feature `conformance`) checks any store
/// against this contract, rule by rule. This one has no memory and refuses
/// everything:
///
/// ```
/// use tower_idempotency::store::{
///     Claim, Claimed, Lease, Outcome, Release, Store, StoreError, StoreErrorKind, Ownership,
/// };
/// use tower_idempotency::store::{Nonce, RecordId};
///
/// struct Down;
///
/// impl Store for Down {
///     async fn claim(&self, _: &Claim) -> Result<Claimed, StoreError> {
///         Err(StoreError::new(StoreErrorKind::NotSent, "closed for maintenance"))
///     }
///     async fn renew(&self, _: &Lease) -> Result<Ownership, StoreError> {
///         Ok(Ownership::Lost)
///     }
///     async fn complete(&self, _: &Lease, _: &Outcome) -> Result<Ownership, StoreError> {
///         Ok(Ownership::Lost)
///     }
///     async fn release(&self, _: &RecordId, _: &Nonce, _: Release) -> Result<Ownership, StoreError> {
///         Ok(Ownership::Lost)
///     }
/// }
/// ```
pub trait Store: Send + Sync + 'static {
    /// Makes the record in flight, or says what is there.
    fn claim(&self, claim: &Claim) -> impl Future<Output = Result<Claimed, StoreError>> + Send;

    /// Puts the end of the lease one length ahead of now.
    fn renew(&self, lease: &Lease) -> impl Future<Output = Result<Ownership, StoreError>> + Send;

    /// Ends the operation with an outcome.
    fn complete(
        &self,
        lease: &Lease,
        outcome: &Outcome,
    ) -> impl Future<Output = Result<Ownership, StoreError>> + Send;

    /// Ends the operation without one.
    fn release(
        &self,
        id: &RecordId,
        nonce: &Nonce,
        how: Release,
    ) -> impl Future<Output = Result<Ownership, StoreError>> + Send;

    /// What is there, without claiming. Needed while
    /// [`IdempotencyLayerBuilder::secrets`](crate::IdempotencyLayerBuilder::secrets) lists more than one,
    /// and to [resolve](crate::IdempotencyLayer::resolve) records by hand.
    fn look_up(
        &self,
        id: &RecordId,
    ) -> impl Future<Output = Result<Option<Record>, StoreError>> + Send {
        let _ = id;
        async { Err(StoreError::unsupported("look_up")) }
    }

    /// Removes a record, for [`IdempotencyLayer::forget`](crate::IdempotencyLayer::forget); a
    /// live one in flight only if `force` says so.
    fn forget(
        &self,
        id: &RecordId,
        force: bool,
    ) -> impl Future<Output = Result<Forgotten, StoreError>> + Send {
        let _ = (id, force);
        async { Err(StoreError::unsupported("forget")) }
    }

    /// The next change of a record, whether it is there yet or not: see
    /// [`Subscription`] for how it is used. The default resolves after 250 ms,
    /// so that waiting works on a store that can't tell, by claiming again.
    fn subscribe(
        &self,
        id: &RecordId,
    ) -> impl Future<Output = Result<Subscription, StoreError>> + Send {
        let _ = id;
        async { Ok(Subscription::after(POLL)) }
    }
}

impl<T: Store> Store for Arc<T> {
    async fn claim(&self, claim: &Claim) -> Result<Claimed, StoreError> {
        (**self).claim(claim).await
    }

    async fn renew(&self, lease: &Lease) -> Result<Ownership, StoreError> {
        (**self).renew(lease).await
    }

    async fn complete(&self, lease: &Lease, outcome: &Outcome) -> Result<Ownership, StoreError> {
        (**self).complete(lease, outcome).await
    }

    async fn release(
        &self,
        id: &RecordId,
        nonce: &Nonce,
        how: Release,
    ) -> Result<Ownership, StoreError> {
        (**self).release(id, nonce, how).await
    }

    async fn look_up(&self, id: &RecordId) -> Result<Option<Record>, StoreError> {
        (**self).look_up(id).await
    }

    async fn forget(&self, id: &RecordId, force: bool) -> Result<Forgotten, StoreError> {
        (**self).forget(id, force).await
    }

    async fn subscribe(&self, id: &RecordId) -> Result<Subscription, StoreError> {
        (**self).subscribe(id).await
    }
}

/// What a claim does that meets a lapsed lease.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnLapsedLease {
    /// Its request executes again.
    #[default]
    Rerun,
    /// Its request is refused (`outcome-unknown`) until someone resolves the
    /// record.
    Refuse,
}

/// One request for a record.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Claim {
    /// Which record.
    pub id: RecordId,
    /// Who asks, for caps per caller.
    pub scope: ScopeDigest,
    /// What is asked.
    pub fingerprint: Fingerprint,
    /// What will own the record.
    pub nonce: Nonce,
    /// How long the lease is.
    pub lease: Duration,
    /// How long after its end the record is kept, if it lapses or is released.
    pub retention: Duration,
    /// What to do with a lapsed lease.
    pub on_lapsed_lease: OnLapsedLease,
    /// Whether a lapsed record of another fingerprint may be taken over.
    pub on_mismatch: OnMismatch,
    /// Somebody knows how the operation ended: this takes over a lapsed record
    /// whatever `on_lapsed_lease` says. Should it lapse itself, that counts again.
    pub by_hand: bool,
}

impl Claim {
    /// A claim with a fresh nonce and the default policy: a lease of 30 s, a
    /// retention of 24 h, lapsed leases rerun.
    #[must_use]
    pub fn new(id: RecordId, scope: ScopeDigest, fingerprint: Fingerprint) -> Self {
        Self {
            id,
            scope,
            fingerprint,
            nonce: Nonce::random(),
            lease: Duration::from_secs(30),
            retention: Duration::from_secs(24 * 60 * 60),
            on_lapsed_lease: OnLapsedLease::Rerun,
            on_mismatch: OnMismatch::Reject,
            by_hand: false,
        }
    }

    /// Whether this claim takes over a lapsed record with that fingerprint.
    #[must_use]
    pub fn takes_over(&self, lapsed: &Fingerprint) -> bool {
        (self.by_hand || self.on_lapsed_lease == OnLapsedLease::Rerun)
            && (self.on_mismatch == OnMismatch::Replay || self.fingerprint == *lapsed)
    }
}

/// The answer to a [`Claim`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Claimed {
    /// The record is in flight, and this claim owns it.
    Acquired(Lease),
    /// Something is there already.
    Found(Record),
    /// There is no room for another record.
    OverCapacity,
}

/// A claim in hand.
#[derive(Clone)]
#[non_exhaustive]
pub struct Lease {
    /// The claim that acquired it.
    pub claim: Claim,
    /// Above every token that this record had before.
    pub token: FencingToken,
    /// 1 for the first acquisition of this record, 2 for the second, …
    pub attempt: u64,
    guard: Option<LeaseGuard>,
}

/// What keeps a lease from lapsing while it lives.
pub(crate) type LeaseGuard = Arc<dyn Any + Send + Sync>;

impl Lease {
    /// What `claim` acquired.
    #[must_use]
    pub fn new(claim: &Claim, token: FencingToken, attempt: u64) -> Self {
        Self {
            claim: *claim,
            token,
            attempt,
            guard: None,
        }
    }

    /// Ties the lease to the life of `guard`: a store inside this process can
    /// promise that it does not lapse while the guard lives. The layer holds
    /// the guard for as long as the operation runs, and need not renew.
    #[must_use]
    pub fn guarded_by(mut self, guard: Arc<dyn Any + Send + Sync>) -> Self {
        self.guard = Some(guard);
        self
    }

    #[cfg(all(test, feature = "memory"))]
    pub(crate) fn without_guard(mut self) -> Self {
        self.guard = None;
        self
    }

    pub(crate) fn is_guarded(&self) -> bool {
        self.guard.is_some()
    }

    /// Takes the guard out: from when it is dropped the lease can lapse.
    pub(crate) fn take_guard(&mut self) -> Option<LeaseGuard> {
        self.guard.take()
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease")
            .field("id", &self.claim.id)
            .field("token", &self.token)
            .field("attempt", &self.attempt)
            .finish_non_exhaustive()
    }
}

/// How an operation ended.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Outcome {
    /// With an answer to replay.
    Completed(Arc<Completion>),
    /// Done, its answer not kept; never to run again while this is kept.
    Sealed {
        /// For how long.
        retention: Duration,
    },
}

/// What a record is.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum RecordState {
    /// Somebody runs the operation.
    InFlight {
        /// What was asked.
        fingerprint: Fingerprint,
        /// When its lease lapses unless renewed, from now.
        ///
        /// [`Duration::MAX`]: not by time. Its owner lives in this process,
        /// and if it vanishes, that is a change for [`Store::subscribe`].
        lapses_in: Duration,
    },
    /// Somebody ran the operation and let the lease lapse, or said that the
    /// outcome is unknown.
    Lapsed {
        /// What was asked.
        fingerprint: Fingerprint,
    },
    /// The operation is done.
    Completed {
        /// What was asked.
        fingerprint: Fingerprint,
        /// The answer.
        completion: Arc<Completion>,
    },
    /// The operation is done, its answer was not kept.
    Sealed {
        /// What was asked.
        fingerprint: Fingerprint,
    },
    /// The operation may run again. A claim never finds this: it acquires.
    Released,
}

/// A record that a claim or a look-up found.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Record {
    /// The token of its last claim.
    pub token: FencingToken,
    /// The attempt of its last claim.
    pub attempt: u64,
    /// What it is.
    pub state: RecordState,
}

impl Record {
    /// A record that a store found.
    #[must_use]
    pub fn new(token: FencingToken, attempt: u64, state: RecordState) -> Self {
        Self {
            token,
            attempt,
            state,
        }
    }

    /// The record, unless its answer is encrypted still: nobody is given that
    /// in the place of an answer.
    pub(crate) fn readable(self) -> Result<Self, StoreError> {
        match &self.state {
            RecordState::Completed { completion, .. } if completion.is_encrypted() => {
                let why = "its answer is encrypted: turn on `encryption`, with the secret it was \
                           written under";
                Err(StoreError::new(StoreErrorKind::Unreadable, why))
            }
            _ => Ok(self),
        }
    }
}

/// Whether the caller is the owner. Not an error: both are ordinary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ownership {
    /// It is, and what it asked for is done.
    Held,
    /// It is not (any more), and nothing was changed.
    Lost,
}

/// How an operation ends without an outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Release {
    /// A retry executes the operation again: a tombstone stays.
    MayRunAgain,
    /// Nobody knows whether the operation ran: as if its lease had lapsed now.
    OutcomeUnknown,
}

/// The answer to [`Store::forget`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Forgotten {
    /// The record is gone.
    Gone,
    /// There was none.
    Absent,
    /// It is in flight and alive; nothing was changed.
    InFlight,
}
