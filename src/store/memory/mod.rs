//! A store that keeps its records in the memory of this process.

use std::fmt;
use std::future::ready;
use std::sync::Arc;

use crate::error::ConfigError;
use crate::record::response::RecordedResponse;
use crate::record::{Nonce, Origin, RecordId};
use crate::store::{
    Claim, Claimed, DynStore, ErasedStore, ForgetMode, Forgotten, Grant, Lease, ListQuery, Outcome,
    Ownership, Record, RecordPage, RecordedStep, Release, Store, StoreError, StoreFuture,
    Subscription, Transactional,
};

use self::clock::Clock;
use self::limits::Limits;
use self::records::Records;

mod account;
mod claiming;
mod clock;
mod completing;
mod counts;
mod eviction;
mod guard;
mod id_hasher;
mod kept;
mod limits;
mod listing;
mod origins;
mod queues;
mod ranks;
mod records;
mod slab;
mod slot;
mod stepping;
mod steps;
mod sync;
mod table;
mod waiter;
mod waiters;

pub use self::limits::{MemoryStats, WhenFull};

/// A [`Store`] in this process's memory.
///
/// The records end with the process. A clone is another handle on the same records.
///
/// The number of records and their bytes are limited (see [`builder`](Self::builder)). At a limit
/// the store forgets the oldest tombstone or, if there is none, the oldest completion; it never
/// forgets a record in flight.
///
/// A lease does not lapse while the layer runs its operation, also if something blocks the
/// runtime: the store sees that the guard of the lease lives.
///
/// Expiry follows tokio's clock, so a test can pause and advance it:
///
/// ```
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() {
/// use std::time::Duration;
/// use tower_idempotency::store::{Claim, Claimed, Release, Store};
/// use tower_idempotency::MemoryStore;
/// use tower_idempotency::store::{Fingerprint, RecordId, ScopeDigest};
///
/// let store = MemoryStore::new();
/// let id = RecordId::from_bytes([1; 32]);
/// let claim = Claim::new(id, ScopeDigest::from_bytes([2; 32]), Fingerprint::from_bytes([3; 32]));
/// let Ok(Claimed::Acquired(lease)) = store.claim(&claim).await else { panic!() };
/// assert_eq!((lease.attempt, store.stats().in_flight), (1, 1));
///
/// store.release(&id, &claim.nonce, Release::MayRunAgain).await.unwrap();
/// tokio::time::advance(Duration::from_secs(24 * 60 * 60)).await;
/// assert!(store.look_up(&id).await.unwrap().is_none());
/// # }
/// ```
#[derive(Clone)]
pub struct MemoryStore {
    records: Arc<Records>,
}

/// Options of a [`MemoryStore`].
///
/// ```
/// use tower_idempotency::MemoryStore;
/// use tower_idempotency::store::WhenFull;
///
/// let store = MemoryStore::builder()
///     .max_records(100_000)
///     .max_bytes(64 << 20)
///     .when_full(WhenFull::Refuse)
///     .build()?;
/// # Ok::<(), tower_idempotency::ConfigError>(())
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct MemoryStoreBuilder {
    limits: Limits,
}

impl MemoryStoreBuilder {
    /// The largest number of records. Default: 1 000 000.
    pub fn max_records(mut self, records: usize) -> Self {
        self.limits.max_records = records;
        self
    }

    /// About how many bytes the records may take. Default: 256 MiB.
    pub fn max_bytes(mut self, bytes: usize) -> Self {
        self.limits.max_bytes = bytes;
        self
    }

    /// The largest number of records of one caller, at most `max_records`. A caller at this limit
    /// loses its own records for new ones; what is in flight or in doubt can't be lost, so beyond
    /// it the caller is rejected with `over-capacity`.
    ///
    /// By default a caller may hold seven times as many records as are free, of what can't be
    /// evicted: alone up to seven eighths of all. A store that [refuses](WhenFull::Refuse) counts
    /// all records so, another one those in flight or in doubt. Where the scope says that
    /// [all callers are one](crate::scope::shared), a caller has no share.
    pub fn max_records_per_caller(mut self, records: usize) -> Self {
        self.limits.max_records_per_caller = Some(records);
        self
    }

    /// About how many bytes the records of one caller may take, at most `max_bytes`. Works like
    /// [`max_records_per_caller`](Self::max_records_per_caller).
    pub fn max_bytes_per_caller(mut self, bytes: usize) -> Self {
        self.limits.max_bytes_per_caller = Some(bytes);
        self
    }

    /// What the store does at a limit. Default: [`WhenFull::Evict`].
    pub fn when_full(mut self, when_full: WhenFull) -> Self {
        self.limits.when_full = when_full;
        self
    }

    /// Makes the store.
    ///
    /// # Errors
    /// If a limit leaves no room for a single record, or a limit of one caller is above that of all.
    pub fn build(self) -> Result<MemoryStore, ConfigError> {
        self.limits.check()?;
        Ok(MemoryStore::with(self, Clock::tokio()))
    }
}

impl MemoryStore {
    /// Makes a store with the default limits: a million records and 256 MiB.
    #[must_use]
    pub fn new() -> Self {
        Self::with(Self::builder(), Clock::tokio())
    }

    /// Returns the options of a store, such as other limits.
    pub fn builder() -> MemoryStoreBuilder {
        MemoryStoreBuilder {
            limits: Limits {
                max_records: 1_000_000,
                max_bytes: 256 << 20,
                max_records_per_caller: None,
                max_bytes_per_caller: None,
                when_full: WhenFull::default(),
            },
        }
    }

    fn with(builder: MemoryStoreBuilder, clock: Clock) -> Self {
        Self {
            records: Arc::new(Records::new(builder.limits, clock)),
        }
    }

    /// The number of records.
    #[must_use]
    pub fn len(&self) -> usize {
        self.stats().records
    }

    /// Whether there are no records.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns how many records there are in each state, and about how many bytes they take.
    #[must_use]
    pub fn stats(&self) -> MemoryStats {
        self.records.counts.stats()
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryStore")
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}

/// No operation has an `await`, so no guard of the map is held over one.
impl Store for MemoryStore {
    async fn claim(&self, claim: &Claim) -> Result<Claimed, StoreError> {
        Ok(Records::claim(&self.records, claim))
    }

    async fn renew(&self, lease: &Lease) -> Result<Ownership, StoreError> {
        Ok(self.records.renew(lease))
    }

    async fn complete(&self, lease: &Lease, outcome: &Outcome) -> Result<Ownership, StoreError> {
        self.records.complete(lease, outcome)
    }

    async fn release(
        &self,
        id: &RecordId,
        nonce: &Nonce,
        how: Release,
    ) -> Result<Ownership, StoreError> {
        Ok(self.records.release(id, nonce, how))
    }

    async fn record_step(
        &self,
        lease: &Lease,
        step: &RecordedStep,
    ) -> Result<Ownership, StoreError> {
        self.records.record_step(lease, step)
    }

    fn keeps_steps(&self) -> bool {
        true
    }

    async fn look_up(&self, id: &RecordId) -> Result<Option<Record>, StoreError> {
        Ok(self.records.look_up(id))
    }

    async fn forget(&self, id: &RecordId, mode: ForgetMode) -> Result<Forgotten, StoreError> {
        Ok(self.records.forget(id, mode))
    }

    async fn list(&self, query: &ListQuery) -> Result<RecordPage, StoreError> {
        self.records.list(query)
    }

    async fn subscribe(&self, id: &RecordId) -> Result<Subscription, StoreError> {
        Ok(Records::subscribe(&self.records, id))
    }

    fn erase(&self) -> Option<ErasedStore> {
        Some(ErasedStore(Arc::new(AtOnce(self.clone()))))
    }
}

/// The same operations for the layer, with results that are there at once instead of futures.
struct AtOnce(MemoryStore);

impl DynStore for AtOnce {
    fn claim<'a>(&'a self, claim: &'a Claim) -> StoreFuture<'a, Claimed> {
        StoreFuture::Now(Some(Records::claim(&self.0.records, claim)))
    }

    fn claim_at_once<'a>(
        &self,
        claim: &Claim,
        origin: &dyn Fn() -> &'a Origin,
    ) -> Option<Result<Grant, Claimed>> {
        Some(Records::claim_with(&self.0.records, claim, origin))
    }

    fn renew<'a>(&'a self, lease: &'a Lease) -> StoreFuture<'a, Ownership> {
        StoreFuture::Now(Some(self.0.records.renew(lease)))
    }

    fn complete<'a>(
        &'a self,
        lease: &'a Lease,
        outcome: &'a Outcome,
    ) -> StoreFuture<'a, Ownership> {
        at_once(self.0.records.complete(lease, outcome))
    }

    fn complete_at_once(
        &self,
        lease: &Lease,
        response: &RecordedResponse<'_>,
    ) -> Option<Ownership> {
        self.0.records.complete_response(lease, response).ok()
    }

    fn release<'a>(
        &'a self,
        id: &'a RecordId,
        nonce: &'a Nonce,
        how: Release,
    ) -> StoreFuture<'a, Ownership> {
        StoreFuture::Now(Some(self.0.records.release(id, nonce, how)))
    }

    fn record_step<'a>(
        &'a self,
        lease: &'a Lease,
        step: &'a RecordedStep,
    ) -> StoreFuture<'a, Ownership> {
        at_once(self.0.records.record_step(lease, step))
    }

    fn keeps_steps(&self) -> bool {
        true
    }

    fn look_up<'a>(&'a self, id: &'a RecordId) -> StoreFuture<'a, Option<Record>> {
        StoreFuture::Now(Some(self.0.records.look_up(id)))
    }

    fn forget<'a>(&'a self, id: &'a RecordId, mode: ForgetMode) -> StoreFuture<'a, Forgotten> {
        StoreFuture::Now(Some(self.0.records.forget(id, mode)))
    }

    fn list<'a>(&'a self, query: &'a ListQuery) -> StoreFuture<'a, RecordPage> {
        at_once(self.0.records.list(query))
    }

    fn subscribe<'a>(&'a self, id: &'a RecordId) -> StoreFuture<'a, Subscription> {
        StoreFuture::Now(Some(Records::subscribe(&self.0.records, id)))
    }

    fn size(&self) -> Option<(usize, usize)> {
        let counts = &self.0.records.counts;
        let MemoryStats { records, bytes, .. } = counts.stats();
        Some((records, bytes))
    }

    fn transactional(&self) -> Option<Transactional<'_>> {
        None
    }
}

fn at_once<'a, T: Send + 'a>(result: Result<T, StoreError>) -> StoreFuture<'a, T> {
    match result {
        Ok(answer) => StoreFuture::Now(Some(answer)),
        Err(error) => StoreFuture::Later(Box::pin(ready(Err(error)))),
    }
}

#[cfg(test)]
mod tests;
