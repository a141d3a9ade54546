//! The locks, atomics and map of the memory store. Under `--cfg shuttle` each of
//! their steps is a point where the scheduler may run another thread.

#[cfg(not(shuttle))]
pub(super) use dashmap::Entry;
#[cfg(shuttle)]
pub(super) use shuttle_dashmap::Entry;

pub(super) use crate::runtime::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

#[cfg(not(shuttle))]
use super::id_hasher::IdHasher;
use crate::record::RecordId;

#[cfg(not(shuttle))]
pub(super) type Map<T> = dashmap::DashMap<RecordId, T, IdHasher>;
#[cfg(shuttle)]
pub(super) type Map<T> = shuttle_dashmap::DashMap<RecordId, T>;

/// The map has many small shards, because a shard is locked while it grows, and a small shard
/// grows fast.
#[cfg(not(shuttle))]
const SHARDS: usize = 128;

#[cfg(not(shuttle))]
pub(super) fn map<T>() -> Map<T> {
    Map::with_hasher_and_shard_amount(IdHasher::random(), SHARDS)
}

#[cfg(shuttle)]
pub(super) fn map<T>() -> Map<T> {
    Map::new()
}
