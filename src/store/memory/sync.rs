//! The locks, atomics and map of the memory store. Under `--cfg shuttle` each of
//! their steps is a point where the scheduler may run another thread.

use std::hash::Hash;

#[cfg(not(shuttle))]
pub(super) use dashmap::Entry;
#[cfg(shuttle)]
pub(super) use shuttle_dashmap::Entry;

pub(super) use crate::runtime::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};

#[cfg(not(shuttle))]
use super::id_hasher::IdHasher;

/// A map of digests: of records' ids, or of callers.
#[cfg(not(shuttle))]
pub(super) type Map<K, T> = dashmap::DashMap<K, T, IdHasher>;
#[cfg(shuttle)]
pub(super) type Map<K, T> = shuttle_dashmap::DashMap<K, T>;

/// The map has many small shards, because a shard is locked while it grows, and a small shard
/// grows fast.
#[cfg(not(shuttle))]
const SHARDS: usize = 128;

#[cfg(not(shuttle))]
pub(super) fn map<K: Eq + Hash, T>() -> Map<K, T> {
    Map::with_hasher_and_shard_amount(IdHasher::random(), SHARDS)
}

#[cfg(shuttle)]
pub(super) fn map<K: Clone + Eq + Hash, T>() -> Map<K, T> {
    Map::new()
}
