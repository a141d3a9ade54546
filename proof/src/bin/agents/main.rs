//! Agents buy in a shop that is a server of the Model Context Protocol (MCP), over a
//! network that cuts most answers, while the servers are killed. Each purchase must
//! have one order.
//!
//! ```text
//! cargo run -p proof --features agents --release --bin agents                      ten thousand purchases
//! cargo run -p proof --features agents --release --bin agents -- --short           the short form, which scripts/test runs
//! cargo run -p proof --features agents --release --bin agents -- --sidecar         the sidecar before a server in Python
//! cargo run -p proof --features agents --release --bin agents -- --without layer   which has to fail
//! ```
//!
//! An agent (`agent.rs`) is a client of rmcp, the official SDK for Rust. It sends a call
//! again whenever it does not know how the call ended: under a new JSON-RPC id, as the
//! revision 2026-07-28 of MCP says, and with the same key in the place that the Universal
//! Commerce Protocol names for it. `cutter.rs` is the network. The shop (`shop.rs`) runs in
//! processes of its own (`server.rs`), so that SIGKILL can end them; its orders and the
//! layer's records are in one SQLite database. A server of another language can't commit both
//! together, so a call whose sidecar was killed has an unknown outcome: the agent looks for its
//! order before it buys again. `check.rs` compares what the agents were
//! told with the orders.

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

mod agent;
mod arguments;
mod check;
mod cutter;
mod ledger;
mod process;
mod run;
mod server;
mod shop;
mod table;

use arguments::{Invocation, USAGE};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

fn main() -> ExitCode {
    if let Ok(setup) = std::env::var(server::VARIABLE) {
        return match server::serve(&setup) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("a server of agents: {error}");
                ExitCode::FAILURE
            }
        };
    }
    let shown = io::stderr().is_terminal();
    let arguments = lexopt::Parser::from_env();
    ExitCode::from(agents(
        arguments,
        shown,
        &mut io::stdout(),
        &mut io::stderr(),
    ))
}

/// Runs the program and returns its exit status.
fn agents(
    arguments: lexopt::Parser,
    shows_progress: bool,
    out: &mut impl Write,
    err: &mut impl Write,
) -> u8 {
    let (said, status) = match Invocation::parse(arguments) {
        Err(wrong) => (write!(err, "agents: {wrong}\n\n{USAGE}"), 2),
        Ok(Invocation::Help) => (write!(out, "{USAGE}"), 0),
        Ok(Invocation::Run(options)) => match run::run(&options, shows_progress) {
            Err(error) => (writeln!(err, "agents: {error}"), 1),
            Ok(outcome) => {
                let fails = !outcome.verdict.holds();
                (table::print(out, &options, &outcome), u8::from(fails))
            }
        },
    };
    // A program that cannot print its result fails.
    if said.is_ok() { status } else { 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(arguments: &[&str]) -> (u8, String, String) {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let arguments = lexopt::Parser::from_args(arguments.iter().copied());
        let status = agents(arguments, false, &mut out, &mut err);
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (status, text(out), text(err))
    }

    #[test]
    fn wrong_arguments_end_in_status_2_and_the_usage() {
        for arguments in [
            &["--agent", "7"][..],
            &["--agents"],
            &["--agents", "0"],
            &["--purchases", "many"],
            &["--cuts", "101"],
            &["--sidecar", "--without", "layer"],
            &["--without", "luck"],
            &["--short=yes"],
            &["shop"],
        ] {
            let (status, out, err) = program(arguments);
            assert_eq!((status, out.as_str()), (2, ""), "{arguments:?}");
            assert!(err.contains("Usage: agents [--short]"), "{err}");
        }
    }

    #[test]
    fn help_needs_no_server() {
        let (status, out, _) = program(&["--help"]);
        assert_eq!((status, out.as_str()), (0, USAGE));
    }
}
