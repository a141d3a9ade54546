//! Values in chunks that never move, and lists of them: a value enters a list at the end and
//! leaves from any place in constant time.

use std::num::NonZeroU32;

/// Where a value is, for as long as it is in its slab.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place(NonZeroU32);

impl Place {
    /// A number above 0.
    pub(super) fn number(self) -> u32 {
        self.0.get()
    }

    pub(super) fn of_number(number: u32) -> Option<Self> {
        NonZeroU32::new(number).map(Self)
    }

    fn new(at: usize) -> Self {
        let number = u32::try_from(at + 1).ok().and_then(Self::of_number);
        number.expect("a process holds fewer records than that")
    }

    fn at(self) -> usize {
        self.0.get() as usize - 1
    }
}

/// Where a value is that is in one of many slabs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Address {
    pub(super) part: u32,
    pub(super) place: Place,
}

/// `CHUNK` values are in one chunk.
pub(super) struct Slab<T, const CHUNK: usize = 512> {
    chunks: Vec<Vec<Cell<T>>>,
    /// The first of the cells that are free; each of these names the next.
    free: Option<Place>,
}

enum Cell<T> {
    Full(T),
    Free(Option<Place>),
}

impl<T, const CHUNK: usize> Default for Slab<T, CHUNK> {
    fn default() -> Self {
        Self {
            chunks: Vec::new(),
            free: None,
        }
    }
}

impl<T, const CHUNK: usize> Slab<T, CHUNK> {
    pub(super) fn add(&mut self, value: T) -> Place {
        if let Some(place) = self.free {
            let reused = self.cell(place);
            if let Cell::Free(next) = std::mem::replace(reused, Cell::Full(value)) {
                self.free = next;
            }
            return place;
        }
        let last = self.chunks.last();
        if last.is_none_or(|last| last.len() == CHUNK) {
            // The first chunk grows by itself: many stores stay small.
            let size = if self.chunks.is_empty() { 0 } else { CHUNK };
            self.chunks.push(Vec::with_capacity(size));
        }
        let full = (self.chunks.len() - 1) * CHUNK;
        let last = self.chunks.last_mut().expect("a chunk has room");
        last.push(Cell::Full(value));
        Place::new(full + last.len() - 1)
    }

    /// Takes the value out, and leaves its place to another one.
    pub(super) fn remove(&mut self, place: Place) -> T {
        let next = Cell::Free(self.free.replace(place));
        match std::mem::replace(self.cell(place), next) {
            Cell::Full(value) => value,
            Cell::Free(_) => unreachable!("a place is used only while its value is there"),
        }
    }

    pub(super) fn get(&self, place: Place) -> &T {
        let value = self.find(place);
        value.expect("a place is used only while its value is there")
    }

    /// The value that is at this place now, if there is one.
    pub(super) fn find(&self, place: Place) -> Option<&T> {
        let at = place.at();
        match &self.chunks[at / CHUNK][at % CHUNK] {
            Cell::Full(value) => Some(value),
            Cell::Free(_) => None,
        }
    }

    /// The value at this number, counted from 0, and whether any number from here on may have one.
    pub(super) fn nth(&self, at: usize) -> (Option<&T>, bool) {
        let chunk = self.chunks.get(at / CHUNK);
        match chunk.and_then(|chunk| chunk.get(at % CHUNK)) {
            Some(Cell::Full(value)) => (Some(value), true),
            Some(Cell::Free(_)) => (None, true),
            None => (None, false),
        }
    }

    pub(super) fn get_mut(&mut self, place: Place) -> &mut T {
        match self.cell(place) {
            Cell::Full(value) => value,
            Cell::Free(_) => unreachable!("a place is used only while its value is there"),
        }
    }

    fn cell(&mut self, place: Place) -> &mut Cell<T> {
        let at = place.at();
        &mut self.chunks[at / CHUNK][at % CHUNK]
    }

    /// For how many values there is memory.
    #[cfg(test)]
    pub(super) fn room(&self) -> usize {
        self.chunks.iter().map(Vec::capacity).sum()
    }
}

/// The neighbours of a value in one list.
#[derive(Clone, Copy, Default)]
pub(super) struct Link {
    before: Option<Place>,
    pub(super) after: Option<Place>,
}

/// Values of one slab in the order in which they came. `link` is where a value keeps its
/// neighbours in this list.
#[derive(Clone, Copy, Default)]
pub(super) struct List {
    pub(super) first: Option<Place>,
    last: Option<Place>,
}

impl List {
    pub(super) fn push<T>(
        &mut self,
        slab: &mut Slab<T>,
        place: Place,
        link: impl Fn(&mut T) -> &mut Link,
    ) {
        *link(slab.get_mut(place)) = Link {
            before: self.last,
            after: None,
        };
        match self.last.replace(place) {
            Some(last) => link(slab.get_mut(last)).after = Some(place),
            None => self.first = Some(place),
        }
    }

    pub(super) fn remove<T>(
        &mut self,
        slab: &mut Slab<T>,
        place: Place,
        link: impl Fn(&mut T) -> &mut Link,
    ) {
        let Link { before, after } = *link(slab.get_mut(place));
        match before {
            Some(before) => link(slab.get_mut(before)).after = after,
            None => self.first = after,
        }
        match after {
            Some(after) => link(slab.get_mut(after)).before = before,
            None => self.last = before,
        }
    }

    pub(super) fn is_empty(self) -> bool {
        self.first.is_none()
    }
}
