//! This module decides which calls of the store go wrong, and how.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use rand::RngExt;
use rand::rngs::StdRng;
use tower_idempotency::store::Nonce;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Op {
    Claim,
    Renew,
    Complete,
    Release,
}

impl Op {
    /// Returns how many faults in a row one lease gets.
    fn bears(self) -> u8 {
        match self {
            // Renewals are frequent enough that a lease survives one failed
            // renewal, but not two.
            Self::Claim | Self::Renew | Self::Release => 1,
            Self::Complete => 3,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    /// The call fails and was not carried out.
    NotSent,
    Busy,
    /// The call is carried out, and its result is replaced by an error.
    AnswerLost,
    /// The call is not carried out and never returns.
    Stalls,
    /// The call is carried out and never returns.
    AnswerStalls,
    /// The call is carried out when nobody waits for it any more.
    ArrivesLate,
    /// The call is slow, but faster than the layer's timeout.
    Slow,
}

const FAULTS: [Fault; 7] = [
    Fault::NotSent,
    Fault::Busy,
    Fault::AnswerLost,
    Fault::Stalls,
    Fault::AnswerStalls,
    Fault::ArrivesLate,
    Fault::Slow,
];

/// `Faults` draws the faults and counts them.
#[derive(Debug)]
pub(crate) struct Faults {
    draws: StdRng,
    healed: bool,
    in_a_row: HashMap<(Op, Nonce), u8>,
    pub(crate) counted: Counted,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Counted {
    pub(crate) calls: BTreeMap<Op, usize>,
    pub(crate) faults: BTreeMap<(Op, Fault), usize>,
}

impl Faults {
    pub(crate) fn new(draws: StdRng) -> Self {
        Self {
            draws,
            healed: false,
            in_a_row: HashMap::new(),
            counted: Counted::default(),
        }
    }

    /// Stops all faults.
    pub(crate) fn heal(&mut self) {
        self.healed = true;
    }

    /// Draws the fault of this call, and how long the call waits if the call is
    /// slow.
    pub(crate) fn draw(&mut self, op: Op, nonce: Nonce) -> (Option<Fault>, Duration) {
        *self.counted.calls.entry(op).or_default() += 1;
        let wait = Duration::from_millis(self.draws.random_range(2..60));
        let in_a_row = self.in_a_row.entry((op, nonce)).or_default();
        let likely = if op == Op::Claim { 0.04 } else { 0.12 };
        if self.healed || *in_a_row >= op.bears() || !self.draws.random_bool(likely) {
            *in_a_row = 0;
            return (None, wait);
        }
        *in_a_row += 1;
        let fault = FAULTS[self.draws.random_range(0..FAULTS.len())];
        *self.counted.faults.entry((op, fault)).or_default() += 1;
        (Some(fault), wait)
    }
}
