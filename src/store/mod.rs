//! The contract between the layer and a store of records, and the stores that
//! this crate has.
//!
//! Public: [`Store`] and the types of its operations ([`Claim`], [`Lease`],
//! [`Record`] and what they contain), [`AnyStore`], the options of each store,
//! `Encryption`, and `EncodedCompletion` for stores of one's own.
//!
//! May use: `limits`, `record`, `runtime`, `error`.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

pub use crate::record::{
    Completion, FencingToken, Fingerprint, Nonce, Origin, ParseError, RecordId, ScopeDigest,
    TraceContext,
};

mod any;
mod claim;
#[cfg(feature = "at-rest")]
pub(crate) mod encoding;
#[cfg(feature = "encryption")]
pub(crate) mod encrypted;
mod erased;
mod error;
#[cfg(feature = "memory")]
pub(crate) mod guard;
mod lease;
mod list;
#[cfg(any(feature = "redis", feature = "_sql"))]
pub(crate) mod listed_row;
#[cfg(feature = "memory")]
pub(crate) mod memory;
#[cfg(any(feature = "redis", feature = "postgres"))]
pub(crate) mod notify;
mod record;
#[cfg(any(feature = "redis", feature = "postgres", feature = "mysql"))]
mod redial;
#[cfg(feature = "redis")]
pub(crate) mod redis;
#[cfg(any(feature = "redis", feature = "_sql"))]
pub(crate) mod row;
#[cfg(feature = "_sql")]
pub(crate) mod sql;
mod step;
mod subscription;
#[cfg(any(feature = "redis", feature = "postgres", feature = "mysql"))]
mod tls;
mod version;

pub use any::AnyStore;
pub use claim::{Claim, Claimed, OnLapsedLease, OnMismatch};
#[cfg(feature = "at-rest")]
pub use encoding::EncodedCompletion;
#[cfg(feature = "encryption")]
pub use encrypted::Encryption;
pub use erased::Transactional;
pub(crate) use erased::{DynStore, ErasedStore, StoreFuture, erased};
pub use error::{StoreError, StoreErrorKind};
pub(crate) use lease::{Grant, LeaseGuard};
pub use lease::{Lease, Outcome, Ownership, Release};
pub use list::{Cursor, ListQuery, ListedRecord, ListedState, RecordPage};
#[cfg(feature = "memory")]
pub use memory::{MemoryStats, MemoryStoreBuilder, WhenFull};
pub use record::{ForgetMode, Forgotten, Record, RecordState};
#[cfg(feature = "redis")]
pub use redis::{RedisConnection, RedisStoreBuilder};
#[cfg(feature = "_sql")]
pub use sql::{SqlStore, SqlStoreBuilder};
pub use step::RecordedStep;
pub use subscription::Subscription;
pub use version::RecordVersion;

/// How often a waiter looks at its record, if its store does not say when the
/// record changes.
pub(crate) const POLL: Duration = Duration::from_millis(250);

/// Keeps at most one record per [`RecordId`]. Each operation is one atomic step.
///
/// # Contract
///
/// - **Time is the store's clock**, read after any wait for a lock. Leases and
///   retentions reach the store as lengths, never as points in time.
/// - **One round trip.** Each operation takes one round trip, and a
///   [`claim`](Self::claim) that finds a completion writes nothing.
/// - **Claim** looks for the record and makes it in flight in one step: of any
///   number of claims at once, one is [`Acquired`](Claimed::Acquired). A claim
///   acquires the record where there is none, where there is a tombstone, and
///   where a lease has lapsed and [`Claim::takes_over`] is true. Each
///   acquisition gets a token above all tokens that the id ever had, and the
///   attempt after the last one. A claim [by hand](Claim::by_hand) acquires a
///   lapsed record of its version only, compared in the same step: it finds a
///   tombstone as that, and [nothing](Claim::found_nothing) where there is no
///   record. A claim with the nonce that already owns the
///   record gets the same lease again, because the client may have sent the
///   claim twice after the first result was lost.
/// - **Renew** sets the end of the lease to now plus `lease.claim.lease`, even
///   if the lease has lapsed, unless another claim took the record over. Renew
///   never makes a record.
/// - **Complete** stores the outcome if the record is in flight under the
///   lease's nonce, lapsed or not, or was released by that nonce as
///   [`OutcomeUnknown`](Release::OutcomeUnknown). It also stores the outcome if
///   there is no record, or a tombstone with no higher token: keeping the
///   outcome of a finished operation is worth more than the missing record. In
///   every other case another owner took over: [`Ownership::Lost`].
/// - **A completion comes back as it was stored**: status, headers, body,
///   trailers, times and retention to the microsecond, with the token and the
///   fingerprint of its claim. Otherwise an
///   [encrypted](crate::IdempotencyLayerBuilder) completion can't be decrypted.
/// - **Release** leaves a tombstone (token and attempt), or marks the outcome as
///   unknown, if the record is in flight under the nonce, lapsed or not, or was
///   released by that nonce as unknown. It never removes a completion and never
///   makes a record: in every other case it is [`Ownership::Lost`], as is a
///   second release to a tombstone. After a release, a renewal by the same nonce
///   is lost, and a claim with the same nonce is treated like any other claim.
/// - **Renew and complete by the nonce that completed the record** change
///   nothing and are [`Ownership::Held`].
/// - **Steps**, if the store [keeps](Self::keeps_steps) them, stay with the
///   record when its lease lapses, when another claim takes it over, and when it
///   is released, either way. A claim that acquires the record, whatever its
///   fingerprint, returns them in [`Lease::steps`], in the order in which they
///   were recorded; so does a claim repeated with the nonce that owns the record. They go when the record is
///   completed, sealed or forgotten, and when it expires.
/// - **A lapsed record does not vanish with its lease.** Under
///   [`OnLapsedLease::Rerun`] the store forgets it a retention later; under
///   [`OnLapsedLease::Refuse`] the record stays until someone resolves it.
/// - **Subscribe** returns a future that resolves after the next change of
///   the record: completed, sealed, released, forgotten, evicted, or its owner
///   vanished. The layer subscribes, *then* claims, and only the claim
///   decides. So a subscription may resolve too early, but it must not miss a
///   change that happens after `subscribe` returned. A change that every waiter
///   has to see, such as a completion, resolves all subscriptions of the record.
///   A release may resolve just one; if that one is dropped while the record can
///   still be claimed, it resolves the next one.
///
/// A future that a store returns may be dropped at any `await`. The layer gives
/// each call a deadline, and repeats a call with the same nonce.
///
/// # Implementing it
///
/// With plain `async fn`. `examples/custom_store.rs` is a complete store in one
/// file, and the module `conformance` (feature `conformance`) checks any store
/// against this contract, rule by rule. The following store keeps nothing and
/// rejects every claim:
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
    /// Makes the record in flight, or returns the record that is there.
    fn claim(&self, claim: &Claim) -> impl Future<Output = Result<Claimed, StoreError>> + Send;

    /// Sets the end of the lease to now plus its length.
    fn renew(&self, lease: &Lease) -> impl Future<Output = Result<Ownership, StoreError>> + Send;

    /// Ends the operation with an outcome.
    fn complete(
        &self,
        lease: &Lease,
        outcome: &Outcome,
    ) -> impl Future<Output = Result<Ownership, StoreError>> + Send;

    /// Ends the operation without an outcome.
    fn release(
        &self,
        id: &RecordId,
        nonce: &Nonce,
        how: Release,
    ) -> impl Future<Output = Result<Ownership, StoreError>> + Send;

    /// Adds the result of a step to the record, if the record is in flight under
    /// the lease's nonce, lapsed or not. In every other case, which includes a
    /// record that this nonce has completed or released: [`Ownership::Lost`]. If
    /// the record has a step of that name already, the call changes nothing and is
    /// [`Ownership::Held`], because the layer repeats a call whose result was lost.
    ///
    /// A layer records no more than [`max_steps`](crate::RouteOptions::max_steps)
    /// steps and [`max_steps_bytes`](crate::RouteOptions::max_steps_bytes), beside a
    /// few dozen bytes of its own for each step. A store that has no room for a step
    /// fails with [`Refused`](StoreErrorKind::Refused).
    ///
    /// The default is [`Unsupported`](StoreErrorKind::Unsupported).
    fn record_step(
        &self,
        lease: &Lease,
        step: &RecordedStep,
    ) -> impl Future<Output = Result<Ownership, StoreError>> + Send {
        let _ = (lease, step);
        async { Err(StoreError::unsupported("record_step")) }
    }

    /// Whether the store keeps steps: [`record_step`](Self::record_step) adds them, and
    /// claims return them. A layer with a route that [has
    /// steps](crate::RouteOptions::steps) is not built on another store. The
    /// default is `false`.
    fn keeps_steps(&self) -> bool {
        false
    }

    /// Returns the record without claiming it. The layer calls this while
    /// [`IdempotencyLayerBuilder::secrets`](crate::IdempotencyLayerBuilder::secrets)
    /// lists more than one secret, and to
    /// [resolve](crate::Records::resolve) records by hand.
    fn look_up(
        &self,
        id: &RecordId,
    ) -> impl Future<Output = Result<Option<Record>, StoreError>> + Send {
        let _ = id;
        async { Err(StoreError::unsupported("look_up")) }
    }

    /// Removes a record, for
    /// [`Records::forget`](crate::Records::forget). A record in
    /// flight whose lease has not lapsed is removed only if `mode`
    /// [is forced](ForgetMode::is_forced), and a record whose
    /// [version](RecordVersion) is not the one that `mode` has is not removed at
    /// all: the store compares in the step that removes.
    fn forget(
        &self,
        id: &RecordId,
        mode: ForgetMode,
    ) -> impl Future<Output = Result<Forgotten, StoreError>> + Send {
        let _ = (id, mode);
        async { Err(StoreError::unsupported("forget")) }
    }

    /// Returns one page of the records that a query asks for, for operators:
    /// [`Records::list`](crate::Records::list).
    ///
    /// - One page is one bounded step, however many records there are: a page
    ///   may be short, or empty, and still have a [`next`](RecordPage::next).
    /// - A record that fits the query from the first page to the last is in one
    ///   page at least. A record that changes meanwhile may be missed, or be in
    ///   two pages. An expired record is in none.
    /// - The order is the store's own.
    /// - A cursor that the store did not make is
    ///   [`InvalidCursor`](StoreErrorKind::InvalidCursor). A cursor of another
    ///   query is no error.
    ///
    /// The default is [`Unsupported`](StoreErrorKind::Unsupported).
    fn list(
        &self,
        query: &ListQuery,
    ) -> impl Future<Output = Result<RecordPage, StoreError>> + Send {
        let _ = query;
        async { Err(StoreError::unsupported("list")) }
    }

    /// Returns a future of the record's next change, whether the record exists
    /// yet or not: [`Subscription`] has an example. The default resolves after
    /// 250 ms, so that waiters of a store without notifications claim again
    /// every 250 ms.
    fn subscribe(
        &self,
        id: &RecordId,
    ) -> impl Future<Output = Result<Subscription, StoreError>> + Send {
        let _ = id;
        async { Ok(Subscription::after(POLL)) }
    }

    /// The size of the largest completion that the store can keep, in bytes, if there is a limit:
    /// of the body and of all headers and trailers. The layer seals what may be larger, and warns of
    /// a [`max_recorded_body`](crate::RouteOptions::max_recorded_body) beyond this limit. For a store
    /// that wraps another one: the limit of the inner store, less what the wrapper adds.
    ///
    /// A store that finds out later fails with [`StoreErrorKind::TooLarge`].
    fn largest_completion(&self) -> Option<usize> {
        None
    }

    /// The SQL store that this store passes its operations on to, if there is
    /// one: what lets `exactly_once::SqlClaim` record a completion in a
    /// handler's transaction (G7). The default is `None`: with it, a store that
    /// wraps an SQL store, say to count its operations, can't be used with
    /// `SqlClaim`. Such a store forwards this method:
    ///
    /// ```
    /// # use std::sync::atomic::{AtomicU64, Ordering};
    /// # use tower_idempotency::store::*;
    /// struct Counting<S> {
    ///     store: S,
    ///     claims: AtomicU64,
    /// }
    ///
    /// impl<S: Store> Store for Counting<S> {
    ///     async fn claim(&self, claim: &Claim) -> Result<Claimed, StoreError> {
    ///         self.claims.fetch_add(1, Ordering::Relaxed);
    ///         self.store.claim(claim).await
    ///     }
    ///     // renew, complete, release, record_step, keeps_steps, look_up, forget, list
    ///     // and subscribe likewise
    /// #   async fn renew(&self, lease: &Lease) -> Result<Ownership, StoreError> {
    /// #       self.store.renew(lease).await
    /// #   }
    /// #   async fn complete(&self, lease: &Lease, outcome: &Outcome) -> Result<Ownership, StoreError> {
    /// #       self.store.complete(lease, outcome).await
    /// #   }
    /// #   async fn release(&self, id: &RecordId, nonce: &Nonce, how: Release) -> Result<Ownership, StoreError> {
    /// #       self.store.release(id, nonce, how).await
    /// #   }
    ///
    ///     fn transactional(&self) -> Option<Transactional<'_>> {
    ///         self.store.transactional()
    ///     }
    /// }
    /// ```
    ///
    /// A completion inside a transaction is written by the SQL store itself: it
    /// does not pass through [`complete`](Self::complete) of the store around
    /// it. So a store that changes record ids, nonces or completions on their
    /// way must not forward this method.
    fn transactional(&self) -> Option<Transactional<'_>> {
        None
    }

    /// This store without its type, if the store knows a better way than a box
    /// for each call. A store that wraps another one does not forward this: the
    /// layer would then call the inner store alone.
    #[doc(hidden)]
    fn erase(&self) -> Option<ErasedStore> {
        None
    }
}

/// The body of an `impl Store` that passes every operation on to another store:
/// `forward_store!(self => self.inner)`.
macro_rules! forward_store {
    ($this:ident => $store:expr) => {
        async fn claim(&$this, claim: &$crate::store::Claim) -> Result<$crate::store::Claimed, $crate::store::StoreError> {
            $store.claim(claim).await
        }

        async fn renew(&$this, lease: &$crate::store::Lease) -> Result<$crate::store::Ownership, $crate::store::StoreError> {
            $store.renew(lease).await
        }

        async fn complete(
            &$this,
            lease: &$crate::store::Lease,
            outcome: &$crate::store::Outcome,
        ) -> Result<$crate::store::Ownership, $crate::store::StoreError> {
            $store.complete(lease, outcome).await
        }

        async fn release(
            &$this,
            id: &$crate::store::RecordId,
            nonce: &$crate::store::Nonce,
            how: $crate::store::Release,
        ) -> Result<$crate::store::Ownership, $crate::store::StoreError> {
            $store.release(id, nonce, how).await
        }

        async fn record_step(
            &$this,
            lease: &$crate::store::Lease,
            step: &$crate::store::RecordedStep,
        ) -> Result<$crate::store::Ownership, $crate::store::StoreError> {
            $store.record_step(lease, step).await
        }

        fn keeps_steps(&$this) -> bool {
            $store.keeps_steps()
        }

        async fn look_up(
            &$this,
            id: &$crate::store::RecordId,
        ) -> Result<Option<$crate::store::Record>, $crate::store::StoreError> {
            $store.look_up(id).await
        }

        async fn forget(
            &$this,
            id: &$crate::store::RecordId,
            mode: $crate::store::ForgetMode,
        ) -> Result<$crate::store::Forgotten, $crate::store::StoreError> {
            $store.forget(id, mode).await
        }

        async fn list(
            &$this,
            query: &$crate::store::ListQuery,
        ) -> Result<$crate::store::RecordPage, $crate::store::StoreError> {
            $store.list(query).await
        }

        async fn subscribe(
            &$this,
            id: &$crate::store::RecordId,
        ) -> Result<$crate::store::Subscription, $crate::store::StoreError> {
            $store.subscribe(id).await
        }

        fn largest_completion(&$this) -> Option<usize> {
            $store.largest_completion()
        }
    };
}
pub(crate) use forward_store;

impl<T: Store> Store for Arc<T> {
    forward_store!(self => (**self));

    fn transactional(&self) -> Option<Transactional<'_>> {
        (**self).transactional()
    }

    fn erase(&self) -> Option<ErasedStore> {
        (**self).erase()
    }
}
