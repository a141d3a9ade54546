//! How much a memory store may hold, and how much it holds.

use crate::error::ConfigError;
use crate::limits::Limit;

use super::account::Measure;

// The following numbers were measured, as the pages that a process takes for a full store with
// glibc's allocator; `tests/resident.rs` holds them to a tenth.

/// About the number of bytes that a record takes beside its completion: its own fields, its places
/// in a table and its entry in a queue. The table doubles when it grows, so
/// it has up to twice the room that it needs.
pub(super) const RECORD_BYTES: usize = 224;

/// About the number of bytes that a caller takes beside its records, while it has one.
pub(super) const CALLER_BYTES: usize = 200;

/// About the number of bytes that a completion takes beside its body, headers and trailers: its
/// other fields, and its allocation, which has a second one once it was replayed.
pub(super) const COMPLETION_BYTES: usize = 48;

/// About the number of bytes that a step takes beside its name and its result: its fields, in a
/// list that doubles when it grows, and the headers of two allocations.
pub(super) const STEP_BYTES: usize = 128;

/// The number of bytes that one header takes beside its name and value: their lengths.
pub(super) const FIELD_BYTES: usize = 4;

#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) max_records: usize,
    pub(super) max_bytes: usize,
    pub(super) max_records_per_caller: Option<usize>,
    pub(super) max_bytes_per_caller: Option<usize>,
    pub(super) when_full: WhenFull,
}

impl Limits {
    /// The limit in sum, and the share of a caller.
    pub(super) fn of(&self, measure: Measure) -> Limit {
        match measure {
            Measure::Records => Limit {
                sum: self.max_records,
                per_caller: self.max_records_per_caller,
            },
            Measure::Bytes => Limit {
                sum: self.max_bytes,
                per_caller: self.max_bytes_per_caller,
            },
        }
    }

    pub(super) fn evicts(&self) -> bool {
        self.when_full == WhenFull::Evict
    }

    /// The size of the largest completion that there is room for.
    pub(super) fn largest_completion(&self) -> usize {
        let most = self.max_bytes_per_caller.unwrap_or(self.max_bytes);
        most.saturating_sub(RECORD_BYTES + CALLER_BYTES)
    }

    pub(super) fn check(&self) -> Result<(), ConfigError> {
        const SMALLEST: usize = RECORD_BYTES + CALLER_BYTES;
        let options = [
            (
                "max_records",
                self.max_records,
                "max_records_per_caller",
                self.max_records_per_caller,
                1,
            ),
            (
                "max_bytes",
                self.max_bytes,
                "max_bytes_per_caller",
                self.max_bytes_per_caller,
                SMALLEST,
            ),
        ];
        for (option, sum, of_caller, share, smallest) in options {
            for (option, limit) in [(option, Some(sum)), (of_caller, share)] {
                if limit.is_some_and(|limit| limit < smallest) {
                    let message =
                        format!("must be at least {smallest}, which one empty record takes");
                    return Err(ConfigError::new(option, message));
                }
            }
            if let Some(share) = share.filter(|share| *share > sum) {
                let message =
                    format!("is {share}, more than the {sum} of `{option}` for all callers");
                return Err(ConfigError::new(of_caller, message));
            }
        }
        Ok(())
    }
}

/// What a full [`MemoryStore`](crate::MemoryStore) does with a new operation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum WhenFull {
    /// Forgets the oldest tombstone, or else the oldest completion, of the caller that holds the
    /// most: the operation of that key may run again. A caller that holds as much as any other
    /// one only loses records of its own.
    #[default]
    Evict,
    /// Rejects the new operation with `over-capacity`. Operations that have begun
    /// are still recorded, so the store can exceed its cap of bytes by their
    /// completions.
    Refuse,
}

/// What a [`MemoryStore`](crate::MemoryStore) holds at one moment, and what has happened since it
/// was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct MemoryStats {
    /// All records. An expired record counts until it is removed, which happens
    /// as others are added.
    pub records: usize,
    /// About the number of bytes that the records and their callers take.
    pub bytes: usize,
    /// Records of operations that are in flight, or whose outcome is unknown.
    pub in_flight: usize,
    /// Records with a completion.
    pub completed: usize,
    /// Records of operations that are done without a completion.
    pub sealed: usize,
    /// Tombstones: records whose operation may run again.
    pub released: usize,
    /// Callers that have a record.
    pub callers: usize,
    /// Records that were removed before their retention ended, to make room.
    pub evicted: u64,
    /// Claims that were refused because the store was full.
    pub refused: u64,
    /// Claims that were refused because their caller's share of the store was full.
    pub over_share: u64,
    /// Completions for which there was no room: their records are sealed.
    pub not_kept: u64,
}
