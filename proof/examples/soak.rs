//! This program runs many clients and a real server in one process, with many
//! faults. The layer's guarantees must hold all the time, and a checker that knows
//! everything that happened says whether they held.
//!
//! ```text
//! cargo run --release -p proof --example soak -- --operations 200000 --seed 7
//! cargo run --release -p proof --example soak -- --unprotected      what happens without the layer
//! ```
//!
//! Clients share keys, retry, and leave at any byte. Handlers panic, fail, break
//! off, stream, and take longer than their lease. The store fails, stalls and loses
//! its replies (`soak/store.rs`). Each execution goes into a ledger, and what each
//! client saw goes into a history; `soak/checker.rs` judges both.
//!
//! The seed decides everything that is random: each client of each operation, each
//! execution and the store have their own random draws. The same seed still does
//! not repeat a run exactly, because real sockets and threads decide which events
//! coincide.

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use indicatif::{ProgressBar, ProgressStyle};

#[path = "soak/checker.rs"]
mod checker;
#[path = "soak/clients.rs"]
mod clients;
#[path = "soak/faults.rs"]
mod faults;
#[path = "soak/handler.rs"]
mod handler;
#[path = "soak/history.rs"]
mod history;
#[path = "soak/ledger.rs"]
mod ledger;
#[path = "soak/memory.rs"]
mod memory;
#[path = "soak/one_key.rs"]
mod one_key;
#[path = "soak/plan.rs"]
mod plan;
#[path = "soak/records.rs"]
mod records;
#[path = "soak/report.rs"]
mod report;
#[path = "soak/round.rs"]
mod round;
#[path = "soak/server.rs"]
mod server;
#[path = "soak/store.rs"]
mod store;
#[path = "soak/wire.rs"]
mod wire;

use handler::BoxError;
use memory::Memory;
use report::Report;
use round::Round;

/// At most this many operations share a store. The limit keeps their history in
/// memory, and there are at least two rounds so that what one round leaves behind
/// shows in the next.
const ROUND: u32 = 10_000;

const USAGE: &str = "\
Usage: soak [--operations N] [--seed S] [--unprotected]

Puts the layer under load and faults, and checks all that happened.

  --operations N  how many operations, each asked for several times; default: 20000
  --seed S        what is random comes from this number; default: 1
  --unprotected   without the layer: to see that the checker sees
  --help          print this

Status 0 if everything was as promised, 1 if not, 2 for wrong arguments.";

#[derive(Debug, PartialEq, Eq)]
struct Options {
    help: bool,
    operations: u32,
    seed: u64,
    unprotected: bool,
}

impl Options {
    fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut options = Self {
            help: false,
            operations: 20_000,
            seed: 1,
            unprotected: false,
        };
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--help" | "-h" => options.help = true,
                "--unprotected" => options.unprotected = true,
                "--operations" => {
                    let number = arguments.next().unwrap_or_default();
                    options.operations = number
                        .parse()
                        .ok()
                        .filter(|number| (1..=100_000_000).contains(number))
                        .ok_or_else(|| {
                            format!(
                                "--operations takes a number from 1 to 100000000, not `{number}`"
                            )
                        })?;
                }
                "--seed" => {
                    let number = arguments.next().unwrap_or_default();
                    options.seed = number
                        .parse()
                        .map_err(|_| format!("--seed takes a number from 0, not `{number}`"))?;
                }
                _ => return Err(format!("unknown argument `{argument}`")),
            }
        }
        Ok(options)
    }
}

fn main() -> ExitCode {
    let arguments = std::env::args_os().skip(1);
    let arguments = arguments.map(|own| own.to_string_lossy().into_owned());
    let shown = io::stderr().is_terminal();
    ExitCode::from(soak(arguments, shown, &mut io::stdout(), &mut io::stderr()))
}

/// Runs the program and returns its exit status. The program prints its results to
/// `out` and its errors to `err`.
pub(crate) fn soak(
    arguments: impl Iterator<Item = String>,
    shows_progress: bool,
    out: &mut impl Write,
    err: &mut impl Write,
) -> u8 {
    let (said, status) = match Options::parse(arguments) {
        Err(wrong) => (writeln!(err, "soak: {wrong}\n\n{USAGE}"), 2),
        Ok(options) if options.help => (writeln!(out, "{USAGE}"), 0),
        Ok(options) => match run(&options, shows_progress) {
            Err(error) => (writeln!(err, "soak: {error}"), 1),
            Ok(report) => (report.print(out), u8::from(!report.is_content())),
        },
    };
    // A program that cannot print its result fails.
    if said.is_ok() { status } else { 1 }
}

fn run(options: &Options, shows_progress: bool) -> Result<Report, BoxError> {
    let runtime = tokio::runtime::Runtime::new()?;
    let mut report = Report::default();
    let mut memory = Memory::default();
    let progress = if shows_progress {
        progress(options.operations)
    } else {
        ProgressBar::hidden()
    };
    let round = options.operations.div_ceil(2).min(ROUND);
    let mut begun = 0;
    while begun < options.operations {
        let end = options.operations.min(begun + round);
        let bar = progress.clone();
        let done = move || bar.inc(1);
        let round = Round::run(options.seed, begun..end, !options.unprotected, done);
        report.add(end - begun, &runtime.block_on(round)?);
        memory.after_a_round();
        begun = end;
    }
    progress.finish_and_clear();
    report.remember(memory);
    Ok(report)
}

fn progress(operations: u32) -> ProgressBar {
    let style = "{bar:40} {pos}/{len} operations, {per_sec}, {eta} to go";
    let progress = ProgressBar::new(operations.into());
    progress.with_style(ProgressStyle::with_template(style).expect("a template"))
}
