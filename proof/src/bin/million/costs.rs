//! What is measured: CPU time in batches, and memory.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use crate::BATCH;

/// What one batch took.
#[derive(Clone, Copy)]
struct Batch {
    /// CPU time of the thread.
    nanos: u32,
    met: Met,
}

/// What a thread has met that costs it CPU time.
#[derive(Clone, Copy, Default)]
struct Met {
    /// How often it waited: for a lock of the store or of the allocator.
    waits: u32,
    /// How often another thread was given its processor, and its caches.
    preemptions: u32,
    /// How many pages it was given.
    faults: u32,
}

/// The batches of one measurement.
#[derive(Default)]
pub(crate) struct Costs {
    batches: Vec<Batch>,
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
        let (met, before) = (Met::so_far(), cpu());
        batch();
        let took = cpu().saturating_sub(before).as_nanos();
        self.batches.push(Batch {
            nanos: u32::try_from(took).unwrap_or(u32::MAX),
            met: Met::so_far().since(met),
        });
    }

    /// Both together.
    pub(crate) fn and(mut self, other: Self) -> Self {
        self.batches.extend(other.batches);
        self.wall = self.wall.max(other.wall);
        self
    }

    /// Prints a row; with a number of operations also how many of them there were in a second.
    pub(crate) fn print(mut self, name: &str, threads: u64, operations: Option<u64>) {
        self.batches.sort_unstable_by_key(|batch| batch.nanos);
        let last = self.batches.len() - 1;
        let of = |thousandth: usize| u64::from(self.batches[last * thousandth / 1000].nanos);
        let [half, most, nearly] = [500, 990, 999].map(|at| of(at) / BATCH);
        let rate = operations.map_or(String::new(), |operations| {
            let a_second = u128::from(operations) * 1_000_000_000 / self.wall.as_nanos().max(1);
            format!("{a_second:>12}")
        });
        let longest = of(1000) / 1000;
        // The slowest thousandth is compared with all.
        let slow = &self.batches[last * 999 / 1000..];
        let met = |what: fn(&Met) -> u32| {
            let mean = |batches: &[Batch]| {
                let sum: u64 = batches
                    .iter()
                    .map(|batch| u64::from(what(&batch.met)))
                    .sum();
                let hundredths = 100 * sum / batches.len() as u64;
                format!("{}.{:02}", hundredths / 100, hundredths % 100)
            };
            format!("{}>{}", mean(&self.batches), mean(slow))
        };
        let met = [
            |own: &Met| own.waits,
            |own: &Met| own.preemptions,
            |own: &Met| own.faults,
        ]
        .map(met);
        let [waits, preemptions, faults] = met;
        println!(
            "{name:<24}{threads:>7}{half:>7}{most:>8}{nearly:>8}{longest:>15}{waits:>11}{preemptions:>11}{faults:>13}{rate}"
        );
    }
}

impl Met {
    /// Linux counts it for each thread.
    fn so_far() -> Self {
        let read = |file: &str| std::fs::read_to_string(format!("/proc/thread-self/{file}"));
        let status = read("status").expect("Linux tells it");
        let number = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|number| number.trim().parse().ok())
        };
        let stat = read("stat").expect("Linux tells it");
        let after_name = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
        let faults = after_name.split_whitespace().nth(7);
        Self {
            waits: number("voluntary_ctxt_switches:").unwrap_or(0),
            preemptions: number("nonvoluntary_ctxt_switches:").unwrap_or(0),
            faults: faults.and_then(|faults| faults.parse().ok()).unwrap_or(0),
        }
    }

    fn since(self, before: Self) -> Self {
        Self {
            waits: self.waits - before.waits,
            preemptions: self.preemptions - before.preemptions,
            faults: self.faults - before.faults,
        }
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
