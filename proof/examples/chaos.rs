//! This program kills and freezes servers, cuts connections and crashes the
//! database, while clients retry until they have a response. Each operation must
//! take effect once in a ledger that does not refuse duplicates. A checker that
//! knows everything that happened says whether each operation did.
//!
//! ```text
//! cargo run --release -p proof --example chaos -- --store postgres --operations 100000 --kills 200
//! cargo run --release -p proof --example chaos -- --store redis      where a crash can cause a second effect
//! cargo run --release -p proof --example chaos -- --without fence    what happens without the fence
//! ```
//!
//! The servers are processes of this same program (`chaos/server.rs`). Each server
//! stands behind a proxy that cuts connections (`chaos/proxy.rs`). The seed decides
//! the plan (`chaos/plan.rs`) of the killer (`chaos/killer.rs`) and of the clients.
//! `chaos/checker.rs` judges the run. The same seed does not repeat a run exactly,
//! because real processes decide which events coincide.

use std::env;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use indicatif::{ProgressBar, ProgressStyle};

#[path = "chaos/arguments.rs"]
pub(crate) mod arguments;
#[path = "chaos/calm.rs"]
mod calm;
#[path = "chaos/checker.rs"]
pub(crate) mod checker;
#[path = "chaos/clients.rs"]
mod clients;
#[path = "chaos/handler.rs"]
mod handler;
#[path = "chaos/history.rs"]
mod history;
#[path = "chaos/journal.rs"]
mod journal;
#[path = "chaos/killer.rs"]
mod killer;
#[path = "chaos/ledger.rs"]
mod ledger;
#[path = "chaos/linearizability.rs"]
mod linearizability;
#[path = "chaos/plan.rs"]
mod plan;
#[path = "chaos/planted.rs"]
pub(crate) mod planted;
#[path = "chaos/process.rs"]
mod process;
#[path = "chaos/proxy.rs"]
mod proxy;
#[path = "chaos/run.rs"]
mod run;
#[path = "chaos/server.rs"]
pub(crate) mod server;
#[path = "../tests/support/servers.rs"]
mod servers;
#[path = "chaos/table.rs"]
pub(crate) mod table;
#[path = "chaos/transaction.rs"]
mod transaction;
#[path = "chaos/wire.rs"]
mod wire;

use arguments::{Options, USAGE};
use table::Table;

pub(crate) type BoxError = Box<dyn std::error::Error + Send + Sync>;

fn main() -> ExitCode {
    if let Ok(setup) = env::var(server::VARIABLE) {
        return match server::serve(&setup) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("chaos, as a server: {error}");
                ExitCode::FAILURE
            }
        };
    }
    let arguments = env::args_os().skip(1);
    let arguments = arguments.map(|own| own.to_string_lossy().into_owned());
    let shown = io::stderr().is_terminal();
    ExitCode::from(chaos(
        arguments,
        shown,
        &mut io::stdout(),
        &mut io::stderr(),
    ))
}

/// Runs the program and returns its exit status. The program prints its results to
/// `out` and its errors to `err`.
pub(crate) fn chaos(
    arguments: impl Iterator<Item = String>,
    shows_progress: bool,
    out: &mut impl Write,
    err: &mut impl Write,
) -> u8 {
    let (said, status) = match Options::parse(arguments) {
        Err(wrong) => (writeln!(err, "chaos: {wrong}\n\n{USAGE}"), 2),
        Ok(options) if options.help => (writeln!(out, "{USAGE}"), 0),
        Ok(options) => match run(&options, &[], shows_progress) {
            Err(error) => (writeln!(err, "chaos: {error}"), 1),
            Ok(table) => (table.print(out), u8::from(!table.is_content())),
        },
    };
    // A program that cannot print its result fails.
    if said.is_ok() { status } else { 1 }
}

/// `server` holds the arguments with which this program starts as a server.
pub(crate) fn run(
    options: &Options,
    server: &[String],
    shows_progress: bool,
) -> Result<Table, BoxError> {
    let progress = if shows_progress {
        progress(options.operations)
    } else {
        ProgressBar::hidden()
    };
    let bar = progress.clone();
    let runtime = tokio::runtime::Runtime::new()?;
    let table = runtime.block_on(run::run(options, server, move || bar.inc(1)));
    progress.finish_and_clear();
    table
}

fn progress(operations: u32) -> ProgressBar {
    let style = "{bar:40} {pos}/{len} operations, {per_sec}, {eta} to go";
    let progress = ProgressBar::new(operations.into());
    progress.with_style(ProgressStyle::with_template(style).expect("a template"))
}
