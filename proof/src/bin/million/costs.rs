//! What is measured: CPU time in batches, and memory.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use crate::BATCH;

/// The CPU time of each batch, in nanoseconds.
#[derive(Default)]
pub(crate) struct Costs {
    batches: Vec<u32>,
    pub(crate) wall: Duration,
}

impl Costs {
    /// For so many batches: what is measured itself takes its memory before.
    pub(crate) fn of(batches: u64) -> Self {
        Self {
            batches: Vec::with_capacity(usize::try_from(batches).expect("a number of batches")),
            wall: Duration::ZERO,
        }
    }

    /// Measures the CPU time of this thread for one batch.
    pub(crate) fn measure(&mut self, batch: impl FnOnce()) {
        let before = cpu();
        batch();
        let took = cpu().saturating_sub(before).as_nanos();
        self.batches.push(u32::try_from(took).unwrap_or(u32::MAX));
    }

    /// Both together.
    pub(crate) fn and(mut self, other: Self) -> Self {
        self.batches.extend(other.batches);
        self.wall = self.wall.max(other.wall);
        self
    }

    /// Prints a row; with a number of operations also how many of them there were in a second.
    pub(crate) fn print(mut self, name: &str, threads: u64, operations: Option<u64>) {
        self.batches.sort_unstable();
        let last = self.batches.len() - 1;
        let of = |thousandth: usize| u64::from(self.batches[last * thousandth / 1000]);
        let [half, most, nearly] = [500, 990, 999].map(|at| of(at) / BATCH);
        let rate = operations.map_or(String::new(), |operations| {
            let a_second = u128::from(operations) * 1_000_000_000 / self.wall.as_nanos().max(1);
            format!("{a_second:>12}")
        });
        let longest = of(1000) / 1000;
        println!("{name:<24}{threads:>7}{half:>7}{most:>8}{nearly:>8}{longest:>15}{rate}");
    }
}

fn cpu() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::try_from(time).expect("CPU time is not negative")
}

/// The memory that this process has, in bytes.
pub(crate) fn resident() -> usize {
    let pages = std::fs::read_to_string("/proc/self/statm").expect("Linux tells it");
    let resident = pages.split(' ').nth(1).and_then(|pages| pages.parse().ok());
    resident.map_or(0, |pages: usize| pages * 4096)
}
