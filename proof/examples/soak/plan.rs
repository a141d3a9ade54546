//! The seed decides what an operation is and what its executions do.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::history::Asked;

/// The lease is short, so that slow handlers outlive it and renewals matter.
pub(crate) const LEASE: Duration = Duration::from_secs(1);
pub(crate) const STORE_TIMEOUT: Duration = Duration::from_millis(100);
/// Responses longer than this are sealed.
pub(crate) const MAX_RECORDED: usize = 4096;

/// Returns random draws that depend only on the seed and on the purpose of the
/// draws.
pub(crate) fn draws(seed: u64, purpose: u8, of: u64, and: u64) -> StdRng {
    let mut whole = [purpose; 32];
    for (part, number) in whole.chunks_mut(8).zip([seed, of, and]) {
        part.copy_from_slice(&number.to_le_bytes());
    }
    StdRng::from_seed(whole)
}

/// An operation is known by its number. Two callers share each key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Operation(pub(crate) u32);

impl Operation {
    pub(crate) fn caller(self) -> &'static str {
        ["alice", "bob"][self.0 as usize % 2]
    }

    pub(crate) fn key(self) -> String {
        format!("key-{}", self.0 / 2)
    }

    /// Returns the operation that a request's headers name.
    pub(crate) fn of(caller: &str, key: &str) -> Option<Self> {
        let second = match caller {
            "alice" => 0,
            "bob" => 1,
            _ => return None,
        };
        let key: u32 = key.strip_prefix("key-")?.parse().ok()?;
        key.checked_mul(2)?.checked_add(second).map(Self)
    }

    /// Returns whether the operation's route refuses a lapsed lease.
    pub(crate) fn refuses(self) -> bool {
        self.0 % 10 < 3
    }

    pub(crate) fn path(self) -> &'static str {
        if self.refuses() { "/refuse" } else { "/rerun" }
    }

    /// Returns the body of a request under the operation's key.
    pub(crate) fn body(self, asked: Asked) -> String {
        let what = match asked {
            Asked::Own => "what the key is for",
            Asked::Other | Asked::Crossed => "something else",
        };
        format!("{} {what}", self.0)
    }

    /// Returns what a body that came under the operation's key asks for.
    pub(crate) fn asked(self, body: &[u8]) -> Asked {
        [Asked::Own, Asked::Other]
            .into_iter()
            .find(|asked| self.body(*asked).as_bytes() == body)
            .unwrap_or(Asked::Crossed)
    }
}

/// `Behaviour` is what one execution does.
#[derive(Clone, Debug)]
pub(crate) struct Behaviour {
    pub(crate) works_for: Duration,
    pub(crate) then: Then,
}

#[derive(Clone, Debug)]
pub(crate) enum Then {
    Panic,
    Fail,
    Answer(Shape),
}

/// `Shape` says how a response is sent.
#[derive(Clone, Debug)]
pub(crate) struct Shape {
    pub(crate) status: u16,
    pub(crate) length: usize,
    pub(crate) pieces: usize,
    /// The handler pauses this long before each piece but the first.
    pub(crate) pause: Duration,
    pub(crate) with_length: bool,
    pub(crate) trailers: bool,
    pub(crate) breaks: Option<Breaks>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Breaks {
    WithAnError,
    WithAPanic,
}

impl Behaviour {
    /// Returns what the `nth` execution of an operation does, counted from 0. Later
    /// executions fail less often, so that every operation comes to an end.
    pub(crate) fn of(seed: u64, operation: Operation, nth: u64) -> Self {
        let mut draws = draws(seed, b'b', operation.0.into(), nth);
        let millis = |draws: &mut StdRng, range| Duration::from_millis(draws.random_range(range));
        let works_for = match draws.random_range(0..100) {
            0..40 => Duration::ZERO,
            40..97 => millis(&mut draws, 1..30),
            // This execution works for longer than its lease.
            _ => millis(&mut draws, 1100..2300),
        };
        let mut shape = Shape {
            status: 201,
            length: draws.random_range(0..800),
            pieces: 1,
            pause: Duration::ZERO,
            with_length: true,
            trailers: false,
            breaks: None,
        };
        let transient = if nth < 3 { 100 } else { 84 };
        let then = match draws.random_range(0..transient) {
            0..36 => Then::Answer(shape),
            36..40 => {
                shape.status = 422;
                Then::Answer(shape)
            }
            40..80 => {
                shape.pieces = draws.random_range(2..6);
                shape.length = draws.random_range(40..MAX_RECORDED);
                shape.pause = millis(&mut draws, 0..12);
                shape.with_length = draws.random_bool(0.4);
                shape.trailers = !shape.with_length && draws.random_bool(0.4);
                match draws.random_range(0..100) {
                    0..25 => {
                        shape.length = draws.random_range(MAX_RECORDED + 1..40_000);
                    }
                    25..40 => shape.breaks = Some(Breaks::WithAnError),
                    40..45 => shape.pause = millis(&mut draws, 300..500),
                    _ => {}
                }
                Then::Answer(shape)
            }
            80..84 => {
                // The length is exactly at the limit, or one byte above the limit.
                shape.length = MAX_RECORDED + draws.random_range(0..=1);
                shape.with_length = draws.random_bool(0.5);
                Then::Answer(shape)
            }
            84..91 => {
                shape.status = 503;
                Then::Answer(shape)
            }
            91..95 => Then::Panic,
            95..97 => Then::Fail,
            _ => {
                shape.pieces = 3;
                shape.length = shape.length.max(3);
                shape.with_length = draws.random_bool(0.5);
                shape.breaks = Some(Breaks::WithAPanic);
                Then::Answer(shape)
            }
        };
        Self { works_for, then }
    }
}
