//! The plan says which client asks for what and when something breaks. The seed
//! decides the plan; real processes decide which events coincide.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use serde::{Deserialize, Serialize};

use super::arguments::Options;

/// Returns random draws that depend only on the seed and on the purpose of the
/// draws.
pub(crate) fn draws(seed: u64, purpose: u8, of: u64, and: u64) -> StdRng {
    let mut whole = [purpose; 32];
    for (part, number) in whole.chunks_mut(8).zip([seed, of, and]) {
        part.copy_from_slice(&number.to_le_bytes());
    }
    StdRng::from_seed(whole)
}

/// `Body` is which of two requests is sent under a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) enum Body {
    Own,
    /// A client with a bug sends another body.
    Other,
}

impl Body {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Own => "own",
            Self::Other => "other",
        }
    }

    pub(crate) fn named(name: &str) -> Option<Self> {
        [Self::Own, Self::Other]
            .into_iter()
            .find(|body| body.name() == name)
    }
}

/// Returns the body of each client of one key.
pub(crate) fn clients(seed: u64, operation: u32) -> Vec<Body> {
    let mut draws = draws(seed, b'o', operation.into(), 0);
    let number = match draws.random_range(0..20) {
        0..11 => 1,
        11..15 => 2,
        15..17 => 3,
        _ => draws.random_range(4..=8),
    };
    let mut bodies = vec![Body::Own; number];
    if number > 1 && draws.random_bool(0.2) {
        let others = draws.random_range(1..number);
        bodies[..others].fill(Body::Other);
        bodies.shuffle(&mut draws);
    }
    bodies
}

/// Returns how long an execution works before the execution commits.
pub(crate) fn works_for(seed: u64, operation: u32, attempt: u64) -> Duration {
    let mut draws = draws(seed, b'w', operation.into(), attempt);
    Duration::from_millis(match draws.random_range(0..10) {
        0..6 => draws.random_range(0..5),
        6..9 => draws.random_range(5..30),
        // These executions are long enough that a freeze always meets one.
        _ => draws.random_range(100..400),
    })
}

/// A blow is one thing that breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Blow {
    Kill(usize),
    Freeze(usize),
    KillDatabase,
}

/// A blow falls before a planned operation begins, so that the speed of the machine
/// does not decide the number of blows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Planned {
    pub(crate) before: u32,
    pub(crate) blow: Blow,
    /// The blow falls this long after its operation was reached, into whatever the
    /// servers do at that time.
    pub(crate) after: Duration,
    /// The fault lasts this long; a freeze lasts one lease longer.
    pub(crate) lasts: Duration,
}

pub(crate) fn blows(options: &Options) -> Vec<Planned> {
    let mut draws = draws(options.seed, b'b', 0, 0);
    let servers = options.servers();
    let kinds = [
        (options.kills, Blow::Kill as fn(usize) -> Blow),
        (options.freezes(), Blow::Freeze),
        (options.database_kills(), |_| Blow::KillDatabase),
    ];
    let mut blows = Vec::new();
    for (times, kind) in kinds {
        blows.extend((0..times).map(|_| kind(draws.random_range(0..servers))));
    }
    blows.shuffle(&mut draws);
    let of = blows.len() as u64 + 1;
    let planned = blows.into_iter().zip(1_u64..).map(|(blow, nth)| Planned {
        before: u32::try_from(u64::from(options.operations) * nth / of).unwrap_or(u32::MAX),
        blow,
        after: Duration::from_millis(draws.random_range(0..60)),
        lasts: Duration::from_millis(draws.random_range(100..600)),
    });
    planned.collect()
}
