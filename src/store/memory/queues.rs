//! The records in the order in which they expire.

use std::collections::VecDeque;
use std::time::Duration;

use crate::record::RecordId;

use super::clock::SinceStart;

/// How many expired records one operation removes.
pub(super) const REMOVED_PER_CALL: usize = 2;

/// The kind of a queue. To make room, records of a smaller kind are removed
/// first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ExpiryQueue(u8);

impl ExpiryQueue {
    pub(super) const RELEASED: ExpiryQueue = ExpiryQueue(0);
    pub(super) const DONE: ExpiryQueue = ExpiryQueue(1);
    pub(super) const ABANDONED: ExpiryQueue = ExpiryQueue(2);

    pub(super) fn bit(self) -> u8 {
        1 << self.0
    }
}

/// When a record expires, as was known when this entry was made. The record may
/// have changed since.
#[derive(Clone, Copy)]
pub(super) struct Expiry {
    pub(super) id: RecordId,
    pub(super) at: SinceStart,
}

/// An entry that was taken out, and the queue that it was in.
#[derive(Clone, Copy)]
pub(super) struct Expired {
    pub(super) line: ExpiryQueue,
    pub(super) retention: Duration,
    pub(super) due: Expiry,
}

/// One queue for each kind and each retention: records of one retention expire
/// in the order in which their retention began. So both ends of a queue take
/// constant time.
#[derive(Default)]
pub(super) struct Queues(Vec<Queue>);

struct Queue {
    line: ExpiryQueue,
    retention: Duration,
    due: Chunks,
}

impl Queues {
    pub(super) fn push(&mut self, line: ExpiryQueue, retention: Duration, due: Expiry) {
        let own = |queue: &Queue| queue.line == line && queue.retention == retention;
        let at = self.0.iter().position(own).unwrap_or_else(|| {
            self.0.push(Queue {
                line,
                retention,
                due: Chunks::default(),
            });
            self.0.len() - 1
        });
        self.0[at].due.push(due);
    }

    /// Takes out a few entries whose time has come.
    pub(super) fn take_expired(&mut self, now: SinceStart) -> [Option<Expired>; REMOVED_PER_CALL] {
        let mut over = [None; REMOVED_PER_CALL];
        let mut found = over.iter_mut();
        let Some(mut place) = found.next() else {
            return over;
        };
        for queue in &mut self.0 {
            while let Some(due) = queue.due.front().filter(|due| due.at <= now).copied() {
                queue.due.pop();
                *place = Some(queue.taken(due));
                match found.next() {
                    Some(next) => place = next,
                    None => return over,
                }
            }
        }
        over
    }

    /// Takes out the entry whose record is to be removed first; if `only_over`,
    /// only one whose time has come.
    pub(super) fn take_oldest(&mut self, now: SinceStart, only_over: bool) -> Option<Expired> {
        let queue = self
            .0
            .iter_mut()
            .filter_map(|queue| {
                let first = *queue.due.front()?;
                let over = first.at <= now;
                // When the retention began.
                let began = first.at.saturating_sub(queue.retention);
                (over || queue.line != ExpiryQueue::ABANDONED && !only_over)
                    .then_some(((!over, queue.line, began), queue))
            })
            .min_by_key(|(rank, _)| *rank)
            .map(|(_, queue)| queue)?;
        let due = queue.due.pop()?;
        Some(queue.taken(due))
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0
            .iter()
            .flat_map(|queue| &queue.due.0)
            .map(VecDeque::len)
            .sum()
    }
}

impl Queue {
    fn taken(&self, due: Expiry) -> Expired {
        Expired {
            line: self.line,
            retention: self.retention,
            due,
        }
    }
}

/// A queue in chunks, so that it does not move its entries when it grows.
#[derive(Default)]
struct Chunks(VecDeque<VecDeque<Expiry>>);

impl Chunks {
    const LEN: usize = 512;

    fn push(&mut self, due: Expiry) {
        match self.0.back_mut() {
            Some(last) if last.len() < Self::LEN => last.push_back(due),
            _ => {
                // The first chunk grows by itself: most queues are short.
                let mut chunk = if self.0.is_empty() {
                    VecDeque::new()
                } else {
                    VecDeque::with_capacity(Self::LEN)
                };
                chunk.push_back(due);
                self.0.push_back(chunk);
            }
        }
    }

    fn front(&self) -> Option<&Expiry> {
        self.0.front()?.front()
    }

    fn pop(&mut self) -> Option<Expiry> {
        let first = self.0.front_mut()?;
        let due = first.pop_front();
        if first.is_empty() {
            self.0.pop_front();
        }
        due
    }
}
