//! Servers that are killed and frozen, connections that are cut, a database
//! that crashes, and clients that retry until they have an answer. Each
//! operation has to take effect once, in a ledger that would keep nothing out,
//! and a checker that knows everything that happened says whether it did.
//!
//! ```text
//! cargo run --release -p proof --example chaos -- --store postgres --operations 100000 --kills 200
//! cargo run --release -p proof --example chaos -- --store redis      where a crash can be a second effect
//! cargo run --release -p proof --example chaos -- --without fence    what happens without it
//! ```
//!
//! The servers are processes of this program's own (`chaos/server.rs`), each
//! behind a network that cuts (`chaos/proxy.rs`). Whoever kills and freezes
//! (`chaos/killer.rs`) follows a plan drawn from the seed, as clients do
//! (`chaos/plan.rs`). `chaos/checker.rs` judges. A run is still not repeated to
//! the bit: real processes decide what meets what.

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

/// The program: its status. What it has to say goes to `out` and `err`.
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
    // Who can't be told is not content.
    if said.is_ok() { status } else { 1 }
}

/// `server` are the arguments with which this program starts as a server.
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
