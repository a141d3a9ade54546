//! What a memory store costs with ten million records: its memory, and the time of each operation.
//!
//! ```text
//! cargo run -p proof --release --bin million                      ten million records
//! cargo run -p proof --release --bin million -- --records 1000000
//! cargo run -p proof --release --bin million -- --per-caller 1    each record has a caller of its own
//! ```
//!
//! A record has three headers and 256 bytes of body. Time is the CPU time of the thread, in batches
//! of 250 operations: on a machine that is busy with other work, the time of a clock would say more of that
//! work. A pause is within one batch, so the longest batch bounds the longest pause.
//! A row also says what the thread met in a batch on the mean, and in the slowest thousandth of batches: waits for a
//! lock, turns of other threads, and pages that it was given.
//! `load.rs` has what fills the store, and `costs.rs` what is measured.

use std::io::{self, IsTerminal};
use std::process::ExitCode;
use std::sync::Barrier;
use std::thread;
use std::time::Instant;

use indicatif::{ProgressBar, ProgressDrawTarget};
use tower_idempotency::MemoryStore;

mod costs;
mod load;

use costs::{Costs, resident};
use load::{Load, replay};

const BATCH: u64 = 250;

const USAGE: &str = "\
usage: million [--records NUMBER] [--per-caller NUMBER]

  --records NUMBER      how many records fill the store (default: 10000000)
  --per-caller NUMBER   how many records each caller has (default: 1000)
";

fn main() -> ExitCode {
    match arguments() {
        Ok(Some((records, per_caller))) => {
            run(records, per_caller);
            ExitCode::SUCCESS
        }
        Ok(None) => {
            print!("{USAGE}");
            ExitCode::SUCCESS
        }
        Err(wrong) => {
            eprint!("million: {wrong}\n\n{USAGE}");
            ExitCode::from(2)
        }
    }
}

fn arguments() -> Result<Option<(u64, u64)>, lexopt::Error> {
    use lexopt::prelude::*;
    let (mut records, mut per_caller) = (10_000_000, 1000);
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next()? {
        match argument {
            Long("records") => records = parser.value()?.parse()?,
            Long("per-caller") => per_caller = parser.value()?.parse()?,
            Short('h') | Long("help") => return Ok(None),
            other => return Err(other.unexpected()),
        }
    }
    if records < 20 * BATCH || per_caller == 0 {
        return Err(format!("at least {} records, and one for each caller", 20 * BATCH).into());
    }
    Ok(Some((records, per_caller)))
}

/// One measurement: what it is called, the program's work, and on how many threads.
struct Step<'a> {
    name: &'a str,
    operations: u64,
    threads: u64,
}

fn run(records: u64, per_caller: u64) {
    let load = Load { per_caller };
    let most = usize::try_from(records).expect("a number of records");
    let store = MemoryStore::builder()
        .max_records(most)
        .max_bytes(most * 8192)
        .build()
        .expect("the limits are right");
    let before = resident();
    println!(
        "                                    CPU ns an operation        longest batch   met by a batch, all > the slowest thousandth    wall"
    );
    println!(
        "                        threads    p50     p99   p99.9      µs of CPU      waits  preempted       faults    op/s"
    );
    let part = (records / 20).next_multiple_of(2 * BATCH);
    let grown = records.next_multiple_of(BATCH) - 2 * part;
    let memory = |when: &str| {
        let stats = store.stats();
        let each = |bytes: usize| bytes / stats.records.max(1);
        let used = resident().saturating_sub(before);
        println!(
            "{when}: {} records of {} callers, {} bytes of RSS each, {} counted ({} % of it)",
            stats.records,
            stats.callers,
            each(used),
            each(stats.bytes),
            100 * stats.bytes / used.max(1),
        );
    };
    let first = |name, from: u64, step: (u64, u64)| {
        let (operations, threads) = step;
        let each = operations / threads;
        let costs = measured(
            &Step {
                name,
                operations,
                threads,
            },
            |thread, bar| {
                load.first(
                    &store,
                    from + thread * each..from + (thread + 1) * each,
                    bar,
                )
            },
        );
        costs.0.print(&format!("{name}: claim"), threads, None);
        costs
            .1
            .print(&format!("{name}: complete"), threads, Some(operations));
    };
    first("growing", 0, (grown, 1));
    first("growing", grown, (part, 1));
    first("growing", grown + part, (part, 2));
    memory("grown");
    for threads in [1, 2] {
        for (name, keys) in [("replay, any key", records), ("replay, one hot key", 1)] {
            let operations = 4 * part;
            let costs = measured(
                &Step {
                    name,
                    operations,
                    threads,
                },
                |thread, bar| {
                    (
                        Costs::default(),
                        replay(&load, &store, thread, keys, operations / threads, bar),
                    )
                },
            );
            costs.1.print(name, threads, Some(operations));
        }
    }
    memory("some replayed");
    first("full", records + BATCH, (4 * part, 1));
    first("full", records + BATCH + 4 * part, (4 * part, 2));
    memory("full for long");
    assert!(store.stats().evicted > 0, "the store was full");
}

/// Runs the work of one step on its threads at once, and adds up what they measured. This thread is
/// one of them: so a step with one thread allocates where the step before has freed.
fn measured(
    step: &Step<'_>,
    work: impl Fn(u64, &ProgressBar) -> (Costs, Costs) + Sync,
) -> (Costs, Costs) {
    let target = if io::stderr().is_terminal() {
        ProgressDrawTarget::stderr()
    } else {
        ProgressDrawTarget::hidden()
    };
    let bar = ProgressBar::with_draw_target(Some(step.operations), target);
    bar.set_prefix(step.name.to_owned());
    let ready = Barrier::new(usize::try_from(step.threads).expect("a few threads"));
    let (ready, bar, work) = (&ready, &bar, &work);
    let all = thread::scope(|scope| {
        let timed = move |thread| {
            ready.wait();
            let began = Instant::now();
            let mut costs = work(thread, bar);
            costs.0.wall = began.elapsed();
            costs.1.wall = costs.0.wall;
            costs
        };
        let threads: Vec<_> = (1..step.threads)
            .map(|thread| scope.spawn(move || timed(thread)))
            .collect();
        threads.into_iter().fold(timed(0), |own, thread| {
            let other = thread.join().expect("it ended");
            (own.0.and(other.0), own.1.and(other.1))
        })
    });
    bar.finish_and_clear();
    all
}
