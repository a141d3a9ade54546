//! This module measures how much memory the process holds between rounds.

use std::fmt;

/// All rounds after the first may add at most this many KiB. Rounds are alike, so
/// the memory that the first round leaves with the allocator serves the next
/// rounds, except for fragmentation; memory that still grows is a leak. With 200
/// 000 operations, a leak of 400 bytes per operation would show.
const MAY_GROW: u64 = 64 << 10;

/// These are resident sizes in KiB. There is none where there is no `/proc`.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    first: Option<u64>,
    last: Option<u64>,
}

impl Memory {
    /// Measures. Call this function when all that a round held has been dropped.
    pub(crate) fn after_a_round(&mut self) {
        self.last = resident();
        self.first = self.first.or(self.last);
    }

    pub(crate) fn has_grown(&self) -> bool {
        let both = self.first.zip(self.last);
        both.is_some_and(|(first, last)| last > first + MAY_GROW)
    }
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.first.zip(self.last) {
            Some((first, last)) => write!(
                f,
                "{} MiB after the first round, {} MiB after the last",
                first >> 10,
                last >> 10
            ),
            None => f.write_str("not known here"),
        }
    }
}

fn resident() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix(" kB")?.parse().ok()
}
