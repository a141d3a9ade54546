//! The number of records in each state, and their bytes.

use crate::limits::Whose;

use super::account::{Account, Measure};
use super::limits::{Limits, MemoryStats, RECORD_BYTES};
use super::sync::{AtomicU64, AtomicUsize, Ordering};

/// The state of a record, as it is counted.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    InFlight,
    Completed,
    Sealed,
    Released,
}

/// The sums over all callers, and what happened for lack of room.
#[derive(Default)]
pub(super) struct Counts {
    pub(super) records: AtomicUsize,
    pub(super) bytes: AtomicUsize,
    completed: AtomicUsize,
    sealed: AtomicUsize,
    released: AtomicUsize,
    /// Bytes of the steps of records in flight.
    steps: AtomicUsize,
    pub(super) callers: AtomicUsize,
    evicted: AtomicU64,
    refused: AtomicU64,
    over_share: AtomicU64,
    not_kept: AtomicU64,
}

impl Counts {
    /// Counts one more record in flight, if the sums have room for it.
    pub(super) fn reserve(&self, limits: &Limits) -> Result<(), Measure> {
        let records = self.records.fetch_add(1, Ordering::Relaxed) + 1;
        let bytes = self.bytes.fetch_add(RECORD_BYTES, Ordering::Relaxed) + RECORD_BYTES;
        let full = if records > limits.max_records {
            Measure::Records
        } else if bytes > limits.max_bytes {
            Measure::Bytes
        } else {
            return Ok(());
        };
        self.records.fetch_sub(1, Ordering::Relaxed);
        self.bytes.fetch_sub(RECORD_BYTES, Ordering::Relaxed);
        Err(full)
    }

    /// Counts more bytes of one caller, if the sum has room for them.
    pub(super) fn grow(&self, account: &Account, more: usize, limits: &Limits) -> bool {
        if self.bytes.fetch_add(more, Ordering::Relaxed) + more > limits.max_bytes {
            self.bytes.fetch_sub(more, Ordering::Relaxed);
            return false;
        }
        account.grow(more);
        true
    }

    /// Counts more bytes of one caller, whether there is room for them or not.
    pub(super) fn grow_anyway(&self, account: &Account, more: usize) {
        self.bytes.fetch_add(more, Ordering::Relaxed);
        account.grow(more);
    }

    pub(super) fn shrink(&self, account: &Account, less: usize) {
        if less == 0 {
            return;
        }
        self.bytes.fetch_sub(less, Ordering::Relaxed);
        account.shrink(less);
    }

    pub(super) fn add(&self, kind: Kind, bytes: usize) {
        self.records.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        if let Some(count) = self.of(kind) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn remove(&self, kind: Kind, bytes: usize) {
        self.records.fetch_sub(1, Ordering::Relaxed);
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        if let Some(count) = self.of(kind) {
            count.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Counts a record of one caller that replaces another; their bytes are counted apart.
    pub(super) fn replace(&self, account: &Account, old: Kind, new: Kind) {
        if let Some(count) = self.of(new) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        if let Some(count) = self.of(old) {
            count.fetch_sub(1, Ordering::Relaxed);
        }
        account.changes(old, new);
    }

    /// Returns the counter of a kind of record. Records in flight have no counter: their number is
    /// that of all records less the others.
    fn of(&self, kind: Kind) -> Option<&AtomicUsize> {
        match kind {
            Kind::InFlight => None,
            Kind::Completed => Some(&self.completed),
            Kind::Sealed => Some(&self.sealed),
            Kind::Released => Some(&self.released),
        }
    }

    /// How much all callers hold.
    pub(super) fn held(&self, of: Measure) -> usize {
        match of {
            Measure::Records => self.records.load(Ordering::Relaxed),
            Measure::Bytes => self.bytes.load(Ordering::Relaxed),
        }
    }

    pub(super) fn in_flight(&self) -> usize {
        let ended = [&self.completed, &self.sealed, &self.released];
        let ended: usize = ended
            .map(|count| count.load(Ordering::Relaxed))
            .iter()
            .sum();
        self.held(Measure::Records).saturating_sub(ended)
    }

    /// The bytes of what can't be evicted.
    pub(super) fn unevictable_bytes(&self) -> usize {
        self.in_flight() * RECORD_BYTES + self.steps.load(Ordering::Relaxed)
    }

    /// Counts the steps of a record in flight; as bytes of the store, they are counted apart.
    pub(super) fn hold_steps(&self, account: &Account, bytes: usize) {
        self.steps.fetch_add(bytes, Ordering::Relaxed);
        account.hold_steps(bytes);
    }

    pub(super) fn drop_steps(&self, account: &Account, bytes: usize) {
        // Most records have no steps, and processors share these numbers.
        if bytes == 0 {
            return;
        }
        self.steps.fetch_sub(bytes, Ordering::Relaxed);
        account.drop_steps(bytes);
    }

    pub(super) fn count_evicted(&self) {
        self.evicted.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn count_refused(&self, whose: Whose) {
        let count = match whose {
            Whose::Service => &self.refused,
            Whose::Caller => &self.over_share,
        };
        count.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn count_not_kept(&self) {
        self.not_kept.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn stats(&self) -> MemoryStats {
        let read = |count: &AtomicUsize| count.load(Ordering::Relaxed);
        let happened = |count: &AtomicU64| count.load(Ordering::Relaxed);
        MemoryStats {
            records: read(&self.records),
            bytes: read(&self.bytes),
            in_flight: self.in_flight(),
            completed: read(&self.completed),
            sealed: read(&self.sealed),
            released: read(&self.released),
            callers: read(&self.callers),
            evicted: happened(&self.evicted),
            refused: happened(&self.refused),
            over_share: happened(&self.over_share),
            not_kept: happened(&self.not_kept),
        }
    }
}
