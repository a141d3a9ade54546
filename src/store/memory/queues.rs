//! The records in the order in which they expire.

use std::time::Duration;

use crate::record::RecordId;

use super::clock::SinceStart;

/// How many expired records one operation removes.
const REMOVED_PER_CALL: usize = 2;

/// Expired records, for the caller to remove once its shard is unlocked.
#[derive(Default)]
#[must_use]
pub(super) struct Expired(pub(super) [Option<RecordId>; REMOVED_PER_CALL]);

/// The kind of a queue. To make room, records of a smaller kind are removed
/// first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum ExpiryQueue {
    Released,
    Done,
    Abandoned,
}

/// The entry of a record: when the record expires, at the latest.
#[derive(Clone, Copy)]
pub(super) struct Expiry {
    pub(super) id: RecordId,
    pub(super) at: SinceStart,
}

/// Where a record's entry is, for as long as the record has one.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Place(u32);

/// One queue for each kind and each retention: records of one retention expire
/// in the order in which their retention began. So an entry goes in at the end and
/// comes out at any place in constant time.
#[derive(Default)]
pub(super) struct Queues {
    queues: Vec<Queue>,
    entries: Entries,
}

struct Queue {
    line: ExpiryQueue,
    retention: Duration,
    first: Option<Place>,
    last: Option<Place>,
}

impl Queues {
    pub(super) fn push(&mut self, line: ExpiryQueue, retention: Duration, due: Expiry) -> Place {
        let own = |queue: &Queue| queue.line == line && queue.retention == retention;
        let is_empty = |queue: &Queue| queue.first.is_none();
        // An empty queue serves another retention: there are never more queues than entries.
        let queues = &mut self.queues;
        let at = (queues.iter().position(own))
            .or_else(|| queues.iter().position(is_empty))
            .unwrap_or(queues.len());
        if at == queues.len() || is_empty(&queues[at]) {
            let (first, last) = (None, None);
            let queue = Queue {
                line,
                retention,
                first,
                last,
            };
            if at == queues.len() {
                queues.push(queue);
            } else {
                queues[at] = queue;
            }
        }
        let queue = &mut queues[at];
        let place = self.entries.add(Entry {
            due,
            queue: u32::try_from(at).expect("there are fewer queues than entries"),
            before: queue.last,
            after: None,
        });
        match queue.last.replace(place) {
            Some(last) => self.entries.get_mut(last).after = Some(place),
            None => queue.first = Some(place),
        }
        place
    }

    pub(super) fn remove(&mut self, place: Place) {
        let Entry {
            queue,
            before,
            after,
            ..
        } = *self.entries.get(place);
        let queue = &mut self.queues[queue as usize];
        match before {
            Some(before) => self.entries.get_mut(before).after = after,
            None => queue.first = after,
        }
        match after {
            Some(after) => self.entries.get_mut(after).before = before,
            None => queue.last = before,
        }
        self.entries.free(place);
    }

    /// A few records whose time has come.
    pub(super) fn expired(&self, now: SinceStart) -> Expired {
        let mut over = [None; REMOVED_PER_CALL];
        let due = |queue| {
            self.entries_of(queue)
                .take_while(|entry| entry.due.at <= now)
        };
        let found = self.queues.iter().flat_map(due).map(|entry| entry.due.id);
        over.iter_mut()
            .zip(found)
            .for_each(|(place, id)| *place = Some(id));
        Expired(over)
    }

    /// The entry whose record is to be removed first, if not that of `kept`; if `only_over`,
    /// only one whose time has come.
    pub(super) fn oldest(
        &self,
        now: SinceStart,
        only_over: bool,
        kept: Option<&RecordId>,
    ) -> Option<(ExpiryQueue, Expiry)> {
        let candidate = |queue: &Queue| {
            let mut entries = self.entries_of(queue);
            let due = entries.find(|entry| Some(&entry.due.id) != kept)?.due;
            let over = due.at <= now;
            // When the retention began.
            let began = due.at.saturating_sub(queue.retention);
            (over || queue.line != ExpiryQueue::Abandoned && !only_over)
                .then_some(((!over, queue.line, began), (queue.line, due)))
        };
        let oldest = self.queues.iter().filter_map(candidate);
        oldest.min_by_key(|(rank, _)| *rank).map(|(_, found)| found)
    }

    fn entries_of(&self, queue: &Queue) -> impl Iterator<Item = &Entry> {
        let entry = |place: Option<Place>| Some(self.entries.get(place?));
        std::iter::successors(entry(queue.first), move |last| entry(last.after))
    }

    /// For how many entries there is memory.
    #[cfg(test)]
    pub(super) fn room(&self) -> usize {
        self.entries.chunks.iter().map(Vec::capacity).sum()
    }

    /// The number of entries, and of queues.
    #[cfg(test)]
    pub(super) fn len(&self) -> (usize, usize) {
        let entries = self
            .queues
            .iter()
            .map(|queue| self.entries_of(queue).count());
        (entries.sum(), self.queues.len())
    }
}

#[derive(Clone, Copy)]
struct Entry {
    due: Expiry,
    queue: u32,
    before: Option<Place>,
    after: Option<Place>,
}

/// The entries of all queues. They are kept in chunks, so that no entry moves when there are
/// more of them.
#[derive(Default)]
struct Entries {
    chunks: Vec<Vec<Entry>>,
    /// The first of the entries that are free; each of these has the next in `after`.
    free: Option<Place>,
}

impl Entries {
    const CHUNK: usize = 512;

    fn add(&mut self, entry: Entry) -> Place {
        if let Some(place) = self.free {
            let reused = self.get_mut(place);
            let next = reused.after;
            *reused = entry;
            self.free = next;
            return place;
        }
        if self
            .chunks
            .last()
            .is_none_or(|last| last.len() == Self::CHUNK)
        {
            // The first chunk grows by itself: many stores stay small.
            let size = if self.chunks.is_empty() {
                0
            } else {
                Self::CHUNK
            };
            self.chunks.push(Vec::with_capacity(size));
        }
        let full = (self.chunks.len() - 1) * Self::CHUNK;
        let last = self.chunks.last_mut().expect("a chunk has room");
        last.push(entry);
        let place = u32::try_from(full + last.len() - 1);
        Place(place.expect("a process holds fewer records than that"))
    }

    fn free(&mut self, place: Place) {
        let next = self.free.replace(place);
        self.get_mut(place).after = next;
    }

    fn get(&self, place: Place) -> &Entry {
        let at = place.0 as usize;
        &self.chunks[at / Self::CHUNK][at % Self::CHUNK]
    }

    fn get_mut(&mut self, place: Place) -> &mut Entry {
        let at = place.0 as usize;
        &mut self.chunks[at / Self::CHUNK][at % Self::CHUNK]
    }
}
