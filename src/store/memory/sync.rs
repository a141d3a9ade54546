//! The locks, atomics and map of the memory store. Under `--cfg shuttle` each of
//! their steps is a point where the scheduler may run another thread.

use std::hash::Hash;

#[cfg(not(shuttle))]
pub(super) use dashmap::Entry;
#[cfg(shuttle)]
pub(super) use shuttle_dashmap::Entry;

pub(super) use crate::runtime::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};

#[cfg(not(shuttle))]
use super::id_hasher::IdHasher;

/// A map of digests: of callers, or of the ids of records that someone waits for.
#[cfg(not(shuttle))]
pub(super) type Map<K, T> = dashmap::DashMap<K, T, IdHasher>;
#[cfg(shuttle)]
pub(super) type Map<K, T> = shuttle_dashmap::DashMap<K, T>;

/// A map with many small shards, because a shard is locked while it grows, and a small shard
/// grows fast.
#[cfg(not(shuttle))]
pub(super) fn map<K: Eq + Hash, T>(shards: usize) -> Map<K, T> {
    Map::with_hasher_and_shard_amount(IdHasher::random(), shards)
}

#[cfg(shuttle)]
pub(super) fn map<K: Clone + Eq + Hash, T>(_shards: usize) -> Map<K, T> {
    Map::new()
}

/// About how many records one part has when the store is full: its table has never more than twice
/// as many places to move at once, which takes a tenth of a millisecond.
const RECORDS_EACH: usize = 2048;

/// A store of any size has so many parts, so that threads seldom meet at one.
const FEWEST: usize = if cfg!(shuttle) { 2 } else { 64 };

/// A part takes some 100 bytes while it is empty.
const MOST: usize = 1 << 14;

/// How many parts a store of so many records has.
pub(super) fn parts(max_records: usize) -> usize {
    let parts = (max_records / RECORDS_EACH).clamp(FEWEST, MOST);
    if cfg!(shuttle) {
        FEWEST
    } else {
        parts.next_power_of_two()
    }
}
