//! This program shows that one caller cannot take the service from another (G11).
//! It runs the sidecar, and one attack after the other. Beside each attack a good
//! caller sends first requests, replays and requests without a key at a steady rate.
//!
//! ```text
//! cargo run -p proof --release --bin flood                       every attack
//! cargo run -p proof --release --bin flood -- --short            the short form, which scripts/test runs
//! cargo run -p proof --release --bin flood -- --without shares   which has to fail
//! ```
//!
//! The sidecar is a process of its own, so that its memory can be read. The upstream
//! (`upstream.rs`), the good caller (`good.rs`) and the attacks (`attacks/`) are
//! threads of this program. The attacks use the address 127.0.0.2 and the good caller
//! 127.0.0.1, so that the sidecar can tell their connections apart. `judge.rs` says
//! what a row of the table must show.

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

mod arguments;
mod attacks;
mod good;
mod judge;
mod limits;
mod row;
mod sidecar;
mod table;
mod upstream;
mod wire;

use arguments::{Invocation, USAGE};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

fn main() -> ExitCode {
    let shown = io::stderr().is_terminal();
    let arguments = lexopt::Parser::from_env();
    ExitCode::from(flood(
        arguments,
        shown,
        &mut io::stdout(),
        &mut io::stderr(),
    ))
}

/// Runs the program and returns its exit status.
fn flood(
    arguments: lexopt::Parser,
    shows_progress: bool,
    out: &mut impl Write,
    err: &mut impl Write,
) -> u8 {
    let (said, status) = match Invocation::parse(arguments) {
        Err(wrong) => (write!(err, "flood: {wrong}\n\n{USAGE}"), 2),
        Ok(Invocation::Help) => (write!(out, "{USAGE}"), 0),
        Ok(Invocation::List) => (table::list(out), 0),
        Ok(Invocation::Run(options)) => match row::all(&options, shows_progress, err) {
            Err(error) => (writeln!(err, "flood: {error}"), 1),
            Ok(rows) => {
                let fails = rows.iter().any(|row| !row.faults().is_empty());
                (table::print(out, &options, &rows), u8::from(fails))
            }
        },
    };
    // A program that cannot print its result fails.
    if said.is_ok() { status } else { 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the exit status, and what the program printed on stdout and stderr.
    fn program(arguments: &[&str]) -> (u8, String, String) {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let arguments = lexopt::Parser::from_args(arguments.iter().copied());
        let status = flood(arguments, false, &mut out, &mut err);
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (status, text(out), text(err))
    }

    #[test]
    fn wrong_arguments_end_in_status_2_and_the_usage() {
        for arguments in [
            &["--forever"][..],
            &["--seconds"],
            &["--seconds", "0"],
            &["--seconds", "many"],
            &["--only", "rain"],
            &["--only", ""],
            &["--without", "luck"],
            &["--short=yes"],
            &["streams"],
        ] {
            let (status, out, err) = program(arguments);
            assert_eq!((status, out.as_str()), (2, ""), "{arguments:?}");
            assert!(err.starts_with("flood: "), "{err}");
            assert!(err.contains("Usage: flood [--short]"), "{err}");
        }
    }

    #[test]
    fn help_and_the_list_of_attacks_need_no_sidecar() {
        let (status, out, _) = program(&["--help"]);
        assert_eq!((status, out.as_str()), (0, USAGE));
        let (status, out, _) = program(&["--list"]);
        assert_eq!(status, 0);
        for attack in &attacks::ALL {
            assert!(out.contains(attack.name), "{out}");
        }
    }
}
