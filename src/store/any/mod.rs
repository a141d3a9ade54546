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
/// | `memory:` | `MemoryStore` | `max_records`, `max_bytes` (`1000`, `256MiB`), `when_full` (`evict`, `refuse`) |
/// | `sqlite:FILE` | `SqliteStore` | `table`, `max_connections` |
/// | `postgres://…` | `PostgresStore` | `table`, `max_connections` |
/// | `mysql://…` | `MySqlStore` | `table`, `max_connections` |
/// | `redis://…`, or several with commas between for a cluster | `RedisStore` | `prefix` |
///
/// The rest of a URL is for the driver to read. Each kind needs the feature of
/// its name. An SQL store also needs its table: [`migrate`](Self::migrate)
/// creates it.
///
/// No part of a URL is shown in an error or a log, since it may hold a
/// password.
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
    /// The store behind a URL, reached and found in order.
    ///
    /// # Errors
    /// [`Refused`](super::StoreErrorKind::Refused) if the URL can't work, its
    /// feature is off, or what is there lacks something;
    /// [`NotSent`](super::StoreErrorKind::NotSent) if the store can't be
    /// reached. The source of the error says what to do.
    pub async fn connect(url: &str) -> Result<Self, StoreError> {
        engines::connect(Address::parse(url)?).await
    }

    /// Creates what the store behind a URL needs before it can be used: the
    /// table of an SQL store. Changes nothing where it is there already, and
    /// where none is needed. Any number of processes may do this at once.
    ///
    /// # Errors
    /// As of [`connect`](Self::connect).
    pub async fn migrate(url: &str) -> Result<(), StoreError> {
        engines::migrate(Address::parse(url)?).await
    }

    /// What can be said of a URL without asking what is behind it.
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
