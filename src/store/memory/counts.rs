//! The number of records in each state, and their bytes.

use super::limits::{Limits, MemoryStats, RECORD_BYTES};
use super::slot::{Kind, Slot};
use super::sync::{AtomicUsize, Ordering};

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

    pub(super) fn add(&self, slot: &Slot) {
        self.records.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(slot.bytes, Ordering::Relaxed);
        if let Some(count) = self.of(slot.kind()) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn remove(&self, slot: &Slot) {
        self.records.fetch_sub(1, Ordering::Relaxed);
        self.bytes.fetch_sub(slot.bytes, Ordering::Relaxed);
        if let Some(count) = self.of(slot.kind()) {
            count.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Replaces a record, and returns the old one, for the caller to drop once the
    /// map is unlocked: dropping a completion may run any code.
    #[must_use]
    pub(super) fn replace(&self, slot: &mut Slot, mut new: Slot) -> Slot {
        new.queued = slot.queued;
        // Modulo 2⁶⁴: the new record may be smaller.
        let more = new.bytes.wrapping_sub(slot.bytes);
        self.bytes.fetch_add(more, Ordering::Relaxed);
        if let Some(count) = self.of(new.kind()) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        if let Some(count) = self.of(slot.kind()) {
            count.fetch_sub(1, Ordering::Relaxed);
        }
        std::mem::replace(slot, new)
    }

    /// Records in flight have no counter: they are the rest of all records.
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
