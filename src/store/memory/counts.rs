//! The number of records in each state, and their bytes.

use super::limits::{Limits, MemoryStats, RECORD_BYTES};
use super::sync::{AtomicUsize, Ordering};

/// The state of a record, as it is counted.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    InFlight,
    Completed,
    Sealed,
    Released,
}

#[derive(Default)]
pub(super) struct Counts {
    records: AtomicUsize,
    pub(super) bytes: AtomicUsize,
    completed: AtomicUsize,
    sealed: AtomicUsize,
    released: AtomicUsize,
}

impl Counts {
    /// Counts one more record in flight, if there is room for it.
    pub(super) fn reserve(&self, limits: &Limits) -> bool {
        let records = self.records.fetch_add(1, Ordering::Relaxed) + 1;
        let bytes = self.bytes.fetch_add(RECORD_BYTES, Ordering::Relaxed) + RECORD_BYTES;
        let fits = records <= limits.max_records && bytes <= limits.max_bytes;
        if !fits {
            self.records.fetch_sub(1, Ordering::Relaxed);
            self.bytes.fetch_sub(RECORD_BYTES, Ordering::Relaxed);
        }
        fits
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

    /// Counts a record that replaces another.
    pub(super) fn replace(&self, old: (Kind, usize), new: (Kind, usize)) {
        // The difference wraps around, because the new record may be smaller; so does the
        // addition, and the sum is right.
        let more = new.1.wrapping_sub(old.1);
        self.bytes.fetch_add(more, Ordering::Relaxed);
        if let Some(count) = self.of(new.0) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        if let Some(count) = self.of(old.0) {
            count.fetch_sub(1, Ordering::Relaxed);
        }
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

    pub(super) fn stats(&self) -> MemoryStats {
        let read = |count: &AtomicUsize| count.load(Ordering::Relaxed);
        let records = read(&self.records);
        let (completed, sealed, released) = (
            read(&self.completed),
            read(&self.sealed),
            read(&self.released),
        );
        MemoryStats {
            records,
            bytes: read(&self.bytes),
            in_flight: records.saturating_sub(completed + sealed + released),
            completed,
            sealed,
            released,
        }
    }
}
