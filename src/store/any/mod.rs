//! A store by its URL.

use std::fmt;
use std::sync::Arc;

use super::{DynStore, ErasedStore, Store, StoreError, Transactional, erased, forward_store};

mod address;
mod engines;

use address::Address;

/// A store of any kind, chosen by a URL when the application starts.
///
/// | URL | store | parameters of this crate |
/// | --- | --- | --- |
/// | `memory:` | `MemoryStore` | `max_records`, `max_bytes` (`1000`, `256MiB`), `max_records_per_caller`, `max_bytes_per_caller`, `when_full` (`evict`, `refuse`) |
/// | `sqlite:FILE` | `SqliteStore` | `table`, `max_connections` |
/// | `postgres://…` | `PostgresStore` | `table`, `max_connections` |
/// | `mysql://…` | `MySqlStore` | `table`, `max_connections` |
/// | `redis://…`, `redis+cluster://…`, `redis+sentinel://…` | `RedisStore` | `prefix` |
///
/// The driver reads the rest of the URL. Each kind needs the feature of its
/// name. An SQL store also needs its table: [`migrate`](Self::migrate) creates
/// it.
///
/// A URL that asks for TLS needs the feature `tls`: `sslmode=verify-full` (PostgreSQL),
/// `ssl-mode=VERIFY_IDENTITY` (MySQL), or `rediss:` instead of `redis:`. `docs/stores.md` lists the
/// modes, and the parameters for the files of a CA, a certificate and a key. Where a connection to
/// another machine is not encrypted, opening the store logs a `WARN`.
///
/// No error and no log shows any part of a URL, which may contain a password, but for the names of
/// such files.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use tower_idempotency::{IdempotencyLayer, scope};
/// use tower_idempotency::store::AnyStore;
///
/// let url = "memory:?max_records=100000&max_bytes=64MiB&when_full=refuse";
/// AnyStore::migrate(url).await?;
/// let store = AnyStore::connect(url).await?;
/// let layer = IdempotencyLayer::new(store, scope::header("x-api-key"))?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct AnyStore {
    kind: &'static str,
    pub(super) store: Arc<dyn DynStore>,
}

impl AnyStore {
    /// Opens the store of a URL, and checks that it can be reached and used.
    ///
    /// # Errors
    /// [`Refused`](super::StoreErrorKind::Refused) if the URL, its user or
    /// its password is wrong, its feature is off, its file can't be opened, or
    /// a database, table, right or setting is missing;
    /// [`NotSent`](super::StoreErrorKind::NotSent) if the store can't be
    /// reached. The source of the error says what to do.
    pub async fn connect(url: &str) -> Result<Self, StoreError> {
        engines::connect(Address::parse(url)?).await
    }

    /// Creates the table of an SQL store. Changes nothing if the table is
    /// there, or if the store needs none. Any number of processes may call this
    /// at the same time.
    ///
    /// # Errors
    /// As of [`connect`](Self::connect).
    pub async fn migrate(url: &str) -> Result<(), StoreError> {
        engines::migrate(Address::parse(url)?).await
    }

    /// Checks a URL without connecting.
    #[cfg(feature = "config")]
    pub(crate) fn check(url: &str) -> Result<(), StoreError> {
        engines::check(Address::parse(url)?)
    }

    #[allow(dead_code, reason = "each engine that is on needs it")]
    fn new(kind: &'static str, store: impl Store) -> Self {
        Self {
            kind,
            store: erased(store),
        }
    }
}

impl fmt::Debug for AnyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AnyStore")
            .field("kind", &self.kind)
            .finish_non_exhaustive()
    }
}

impl Store for AnyStore {
    forward_store!(self => self.store);

    fn transactional(&self) -> Option<Transactional<'_>> {
        self.store.transactional()
    }

    fn erase(&self) -> Option<ErasedStore> {
        Some(ErasedStore(Arc::clone(&self.store)))
    }
}

#[cfg(test)]
mod tests;
