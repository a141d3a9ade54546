//! The records by their ids, in many small parts with a lock each.
//!
//! A part has a table of places, four bytes each, and the records themselves in chunks. So a part grows
//! by moving its places alone, and no record is moved or has its id twice.

use std::hash::BuildHasher;

use hashbrown::HashTable;

use crate::record::RecordId;
use crate::runtime::{Mutex, MutexGuard};

use super::id_hasher::IdHasher;
use super::slab::{Address, Place, Slab};
use super::sync::parts;

/// What is found by an id.
pub(super) trait Identified {
    fn id(&self) -> &RecordId;
}

pub(super) struct Table<T> {
    parts: Box<[Mutex<Part<T>>]>,
    hasher: IdHasher,
}

struct Part<T> {
    places: HashTable<Place>,
    slots: Slab<T, 32>,
}

/// The part of a record, locked.
pub(super) struct Locked<'a, T> {
    part: MutexGuard<'a, Part<T>>,
    number: u32,
    hash: u64,
    hasher: &'a IdHasher,
}

impl<T: Identified> Table<T> {
    pub(super) fn new(max_records: usize) -> Self {
        Self {
            parts: (0..parts(max_records))
                .map(|_| {
                    Mutex::new(Part {
                        places: HashTable::new(),
                        slots: Slab::default(),
                    })
                })
                .collect(),
            hasher: IdHasher::random(),
        }
    }

    pub(super) fn lock(&self, id: &RecordId) -> Locked<'_, T> {
        let hash = self.hasher.hash_one(id);
        // The table of a part takes the lowest and the highest bits.
        let number = (hash >> 32) as usize & (self.parts.len() - 1);
        self.locked(number, hash)
    }

    /// Locks the part of a record that was at this address, and returns the record if it is what
    /// `is` says: another one can be there since.
    pub(super) fn lock_at(
        &self,
        address: Address,
        is: impl FnOnce(&T) -> bool,
    ) -> Option<Locked<'_, T>> {
        let mut locked = self.locked(address.part as usize, 0);
        let slot = locked.part.slots.find(address.place);
        let slot = slot.filter(|slot| is(slot))?;
        locked.hash = self.hasher.hash_one(slot.id());
        Some(locked)
    }

    /// Calls `visit` for the records of one part from a place on, at most `most` of them, until
    /// `visit` has enough. Returns the part and the place at which to go on; `None` after the last
    /// one.
    pub(super) fn visit(
        &self,
        (number, mut at): (u32, u32),
        most: usize,
        mut visit: impl FnMut(&T) -> bool,
    ) -> Option<(u32, u32)> {
        let part = self.parts.get(number as usize)?.lock();
        for _ in 0..most {
            let (slot, may_follow) = part.slots.nth(at as usize);
            if !may_follow {
                let next = number + 1;
                return ((next as usize) < self.parts.len()).then_some((next, 0));
            }
            at += 1;
            if slot.is_some_and(|slot| !visit(slot)) {
                break;
            }
        }
        Some((number, at))
    }

    fn locked(&self, number: usize, hash: u64) -> Locked<'_, T> {
        Locked {
            part: self.parts[number].lock(),
            number: u32::try_from(number).expect("there are not so many parts"),
            hash,
            hasher: &self.hasher,
        }
    }

    /// How many records there are of those that `which` says.
    #[cfg(test)]
    pub(super) fn count(&self, which: impl Fn(&T) -> bool) -> usize {
        let of_part = |part: &Mutex<Part<T>>| {
            let part = part.lock();
            let slots = part.places.iter().map(|place| part.slots.get(*place));
            slots.filter(|slot| which(slot)).count()
        };
        self.parts.iter().map(of_part).sum()
    }
}

impl<T: Identified> Locked<'_, T> {
    pub(super) fn get(&mut self, id: &RecordId) -> Option<(Address, &mut T)> {
        let Part { places, slots } = &mut *self.part;
        let is = |place: &Place| slots.get(*place).id() == id;
        let place = *places.find(self.hash, is)?;
        let part = self.number;
        Some((Address { part, place }, slots.get_mut(place)))
    }

    /// Adds a record that is not there.
    pub(super) fn insert(&mut self, slot: T) -> (Address, &mut T) {
        let Part { places, slots } = &mut *self.part;
        let place = slots.add(slot);
        let hash = |place: &Place| self.hasher.hash_one(slots.get(*place).id());
        places.insert_unique(self.hash, place, hash);
        let part = self.number;
        (Address { part, place }, slots.get_mut(place))
    }

    /// Takes a record out that is there. It is for the caller to drop once the part is unlocked:
    /// dropping a completion may run any code.
    #[must_use]
    pub(super) fn remove(&mut self, address: Address) -> T {
        let is = |place: &Place| *place == address.place;
        let entry = self.part.places.find_entry(self.hash, is);
        entry.expect("the record is there").remove();
        self.part.slots.remove(address.place)
    }
}
