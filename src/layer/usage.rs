//! What requests hold of a layer at one moment.

use crate::limits::{Limit, Resource};
use crate::request::core::Core;

/// What requests hold of a layer at one moment: made by
/// [`IdempotencyLayer::usage`](crate::IdempotencyLayer::usage).
///
/// ```
/// use tower_idempotency::{IdempotencyLayer, MemoryStore, scope};
///
/// let layer = IdempotencyLayer::builder(MemoryStore::new(), scope::shared())
///     .max_waiting_requests(100)
///     .build()?;
/// let usage = layer.usage();
/// let waiting = usage.limit("max_waiting_requests").unwrap();
/// assert_eq!((waiting.held, waiting.limit), (0, 100));
/// assert_eq!(usage.store.unwrap().records, 0);
/// # Ok::<(), tower_idempotency::ConfigError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Usage {
    /// What is held of each limit.
    pub limits: [LimitUsage; Resource::ALL.len()],
    /// What the store holds. `None` unless it is a [`MemoryStore`](crate::MemoryStore): the layer
    /// does not count the records of a server.
    pub store: Option<StoreUsage>,
}

/// What is held of one limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LimitUsage {
    /// The option that sets the limit, such as `max_in_flight_operations`.
    pub option: &'static str,
    /// What all callers hold, in requests or in bytes. It can exceed the limit where operations
    /// have begun that go on (G4).
    pub held: usize,
    /// What all callers together may hold.
    pub limit: usize,
    /// What one caller may hold. `None`: seven times what is free.
    pub per_caller: Option<usize>,
}

/// What a store holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StoreUsage {
    /// The number of records in the store.
    pub records: usize,
    /// About the number of bytes that these records take.
    pub bytes: usize,
}

impl Usage {
    pub(crate) fn of(core: &Core) -> Self {
        let accounts = &core.accounts;
        let limits = Resource::ALL.map(|of| {
            let Limit { sum, per_caller } = accounts.limit(of);
            LimitUsage {
                option: of.option(),
                held: accounts.held(of),
                limit: sum,
                per_caller,
            }
        });
        let store = core.leases.store.size();
        Self {
            limits,
            store: store.map(|(records, bytes)| StoreUsage { records, bytes }),
        }
    }

    /// What is held of the limit that this option sets.
    #[must_use]
    pub fn limit(&self, option: &str) -> Option<&LimitUsage> {
        self.limits.iter().find(|limit| limit.option == option)
    }
}
