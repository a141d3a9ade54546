//! When records end, in that order.

use std::collections::VecDeque;
use std::time::Duration;

use crate::record::RecordId;

use super::records::{Moment, PACE};

/// Which queue: smaller goes first when room is needed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Line(u8);

impl Line {
    pub(super) const RELEASED: Line = Line(0);
    pub(super) const DONE: Line = Line(1);
    pub(super) const ABANDONED: Line = Line(2);

    pub(super) fn bit(self) -> u8 {
        1 << self.0
    }
}

/// When a record ended as of when it was put here. It may have gone on since.
#[derive(Clone, Copy)]
pub(super) struct Due {
    pub(super) id: RecordId,
    pub(super) at: Moment,
}

/// One that was taken out, and the queue that it stood in.
#[derive(Clone, Copy)]
pub(super) struct Taken {
    pub(super) line: Line,
    pub(super) retention: Duration,
    pub(super) due: Due,
}

/// The records in the order of their ends: one queue per kind and distinct
/// retention, since records of one retention end in the order in which they
/// began to be kept. Both ends are O(1).
#[derive(Default)]
pub(super) struct Queues(Vec<Queue>);

struct Queue {
    line: Line,
    retention: Duration,
    due: Chunks,
}

impl Queues {
    pub(super) fn push(&mut self, line: Line, retention: Duration, due: Due) {
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

    /// A few whose end has come.
    pub(super) fn take_due(&mut self, now: Moment) -> [Option<Taken>; PACE] {
        let mut over = [None; PACE];
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

    /// The one that is missed least; if `only_over`, one whose end has come.
    pub(super) fn take_oldest(&mut self, now: Moment, only_over: bool) -> Option<Taken> {
        let queue = self
            .0
            .iter_mut()
            .filter_map(|queue| {
                let first = *queue.due.front()?;
                let over = first.at <= now;
                // When it began to be kept: `at` less the retention.
                let began = first.at.saturating_sub(queue.retention);
                (over || queue.line != Line::ABANDONED && !only_over)
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
    fn taken(&self, due: Due) -> Taken {
        Taken {
            line: self.line,
            retention: self.retention,
            due,
        }
    }
}

/// A queue in chunks, so that it never moves what it holds when it grows.
#[derive(Default)]
struct Chunks(VecDeque<VecDeque<Due>>);

impl Chunks {
    const LEN: usize = 512;

    fn push(&mut self, due: Due) {
        match self.0.back_mut() {
            Some(last) if last.len() < Self::LEN => last.push_back(due),
            _ => {
                // The first chunk grows as needed: most queues are short.
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

    fn front(&self) -> Option<&Due> {
        self.0.front()?.front()
    }

    fn pop(&mut self) -> Option<Due> {
        let first = self.0.front_mut()?;
        let due = first.pop_front();
        if first.is_empty() {
            self.0.pop_front();
        }
        due
    }
}
