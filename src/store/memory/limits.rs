//! How much a memory store may hold, and how much it holds.

/// About the number of bytes that a record takes beside its completion: its
/// entries in the map and in a queue, and its own fields.
pub(super) const RECORD_BYTES: usize = 320;

#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) max_records: usize,
    pub(super) max_bytes: usize,
    pub(super) when_full: WhenFull,
}

/// What a full [`MemoryStore`](crate::MemoryStore) does with a new operation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum WhenFull {
    /// Forgets the oldest tombstone, or else the oldest completion: the operation
    /// of that key may run again.
    #[default]
    Evict,
    /// Rejects the new operation with `over-capacity`. Operations that have begun
    /// are still recorded, so the store can exceed its cap of bytes by their
    /// completions.
    Refuse,
}

/// What a [`MemoryStore`](crate::MemoryStore) holds at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct MemoryStats {
    /// All records. An expired record counts until it is removed, which happens
    /// as others are added.
    pub records: usize,
    /// About the number of bytes that the records take.
    pub bytes: usize,
    /// Records of operations that are in flight, or whose outcome is unknown.
    pub in_flight: usize,
    /// Records with a completion.
    pub completed: usize,
    /// Records of operations that are done without a completion.
    pub sealed: usize,
    /// Tombstones: records whose operation may run again.
    pub released: usize,
}
