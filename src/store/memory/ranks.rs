//! The callers that have something to lose, in the order of how much they hold.

use std::sync::Arc;

use super::account::{Account, Measure};
use super::slab::{Link, List, Place, Slab};

/// How many classes there are: four for each power of two.
const CLASSES: usize = 4 * usize::BITS as usize;

/// The class of a caller that holds so much. Two callers of one class differ by less than a
/// quarter.
fn class(held: usize) -> usize {
    let Some(power) = held.checked_ilog2() else {
        return 0;
    };
    let quarters = if power >= 2 {
        held >> (power - 2)
    } else {
        held << (2 - power)
    };
    4 * power as usize + (quarters & 3)
}

/// The callers with records that can be evicted. A seat is a caller's place here.
#[derive(Default)]
pub(super) struct Callers {
    seats: Slab<Seat>,
    ranks: [Ranks; 2],
}

pub(super) struct Seat {
    account: Arc<Account>,
    /// The caller's tombstones and its other records that are done, the oldest first.
    pub(super) oldest: [List; 2],
    class: [u8; 2],
    in_rank: [Link; 2],
}

impl Callers {
    /// The seat of this caller, which it gets with the first record that can be evicted.
    pub(super) fn seat(&mut self, account: &Arc<Account>) -> Place {
        if let Some(seat) = account.seat() {
            return seat;
        }
        let class = Measure::BOTH.map(|of| small(class(account.held(of))));
        let seat = self.seats.add(Seat {
            account: Arc::clone(account),
            oldest: Default::default(),
            class,
            in_rank: Default::default(),
        });
        account.set_seat(Some(seat));
        for of in Measure::BOTH {
            self.ranks[of as usize].push(&mut self.seats, seat, of);
        }
        seat
    }

    pub(super) fn get(&self, seat: Place) -> &Seat {
        self.seats.get(seat)
    }

    pub(super) fn get_mut(&mut self, seat: Place) -> &mut Seat {
        self.seats.get_mut(seat)
    }

    /// Puts a caller where it belongs by what it holds now; it leaves if it has nothing to lose.
    pub(super) fn rank(&mut self, seat: Place) {
        let Seat {
            account, oldest, ..
        } = self.seats.get(seat);
        if oldest.iter().all(|list| list.is_empty()) {
            account.set_seat(None);
            for of in Measure::BOTH {
                self.ranks[of as usize].remove(&mut self.seats, seat, of);
            }
            self.seats.remove(seat);
            return;
        }
        let held = Measure::BOTH.map(|of| small(class(account.held(of))));
        for of in Measure::BOTH {
            if self.seats.get(seat).class[of as usize] != held[of as usize] {
                self.ranks[of as usize].remove(&mut self.seats, seat, of);
                self.seats.get_mut(seat).class[of as usize] = held[of as usize];
                self.ranks[of as usize].push(&mut self.seats, seat, of);
            }
        }
    }

    /// A caller of those that hold the most, by the classes, and how much it holds. `None`: no
    /// caller has anything to lose.
    ///
    /// A claim counts for its caller without a lock of this order. So a caller can hold more
    /// than its rank says, by what it has claimed since an operation of it ended last.
    pub(super) fn largest(&mut self, of: Measure) -> Option<(Place, usize)> {
        loop {
            let top = self.ranks[of as usize].highest()?;
            let first = self.ranks[of as usize].lists[top].first?;
            // A caller can also hold less: a record in flight was forgotten.
            self.rank(first);
            if self.ranks[of as usize].lists[top].first == Some(first) {
                return Some((first, self.get(first).account.held(of)));
            }
        }
    }
}

fn small(class: usize) -> u8 {
    u8::try_from(class).expect("there are 256 classes")
}

/// The callers by class.
struct Ranks {
    lists: Vec<List>,
    /// A bit for each class that has a caller.
    filled: [u64; CLASSES / 64],
}

impl Default for Ranks {
    fn default() -> Self {
        Self {
            lists: vec![List::default(); CLASSES],
            filled: Default::default(),
        }
    }
}

impl Ranks {
    fn push(&mut self, seats: &mut Slab<Seat>, seat: Place, of: Measure) {
        let class = usize::from(seats.get(seat).class[of as usize]);
        self.lists[class].push(seats, seat, |seat| &mut seat.in_rank[of as usize]);
        self.filled[class / 64] |= 1 << (class % 64);
    }

    fn remove(&mut self, seats: &mut Slab<Seat>, seat: Place, of: Measure) {
        let class = usize::from(seats.get(seat).class[of as usize]);
        self.lists[class].remove(seats, seat, |seat| &mut seat.in_rank[of as usize]);
        if self.lists[class].is_empty() {
            self.filled[class / 64] &= !(1 << (class % 64));
        }
    }

    fn highest(&self) -> Option<usize> {
        let words = self.filled.iter().enumerate().rev();
        let (at, word) = words.into_iter().find(|(_, word)| **word != 0)?;
        Some(64 * at + word.ilog2() as usize)
    }
}

#[cfg(all(test, not(shuttle)))]
mod tests {
    use super::*;

    #[test]
    fn a_class_has_no_two_numbers_that_differ_by_a_quarter() {
        let mut smallest = 0;
        for held in 0..100_000_usize {
            if class(held) != class(smallest) {
                assert!(class(held) > class(smallest), "{held}");
                smallest = held;
            }
            assert!(4 * held < 5 * smallest.max(1), "{smallest} and {held}");
        }
        assert_eq!(class(usize::MAX), CLASSES - 1);
    }
}
