//! This program measures what the layer costs a request over the wire, between a server
//! in a process of its own and a client on one kept connection. A request's body has
//! 1 KiB, a response's 256 B.
//!
//! ```text
//! cargo run -p proof --profile bench --bin wire                     instructions, by callgrind
//! cargo run -p proof --profile bench --bin wire -- --check          no row above the figures of figures.txt
//! cargo run -p proof --profile bench --bin wire -- --profile first  the functions beyond a no-op layer
//! cargo run -p proof --profile bench --bin wire -- --load           CPU time a request, under load by wrk
//! cargo run -p proof --profile bench --bin wire -- --proxies        CPU time of the sidecar, next to nginx
//! ```
//!
//! `--profile bench` compiles as `--release` does, with line numbers for the profile.
//! Instructions are the same whatever else the machine does. The compression of SHA-256
//! is counted apart: callgrind's processor lacks the instructions for it.

use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

mod arguments;
mod callgrind;
mod client;
mod figures;
mod load;
mod process;
mod profile;
mod rows;
mod server;
mod serving;

use arguments::{Invocation, USAGE};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

fn main() -> ExitCode {
    let invocation = match Invocation::parse(lexopt::Parser::from_env()) {
        Ok(invocation) => invocation,
        Err(wrong) => {
            eprint!("wire: {wrong}\n\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match run(invocation) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("wire: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(invocation: Invocation) -> Result<(), BoxError> {
    match invocation {
        Invocation::Help => say(USAGE),
        Invocation::Serve => {
            server::serve();
            Ok(())
        }
        Invocation::Load(load, svg) => {
            let rounds = load::measure(load)?;
            write_picture(svg, || load::picture(&rounds))?;
            say(&load::table(load, &rounds)?)
        }
        Invocation::Proxies(load) => say(&load::proxies::measure(load)?),
        Invocation::Profile(server, kind) => say(&profile::profile(&server, kind)?),
        Invocation::Count(peers, svg) => {
            let rows = rows::count(peers)?;
            write_picture(svg, || rows::picture(&rows))?;
            say(&rows::table(&rows))
        }
        Invocation::Check => {
            let rows = rows::count(false)?;
            say(&rows::table(&rows))?;
            figures::check(&rows)
        }
        Invocation::Update => {
            let rows = rows::count(false)?;
            say(&rows::table(&rows))?;
            figures::update(&rows)
        }
    }
}

fn write_picture(file: Option<PathBuf>, draw: impl FnOnce() -> String) -> Result<(), BoxError> {
    if let Some(file) = file {
        fs::write(file, draw())?;
    }
    Ok(())
}

fn say(text: &str) -> Result<(), BoxError> {
    Ok(io::stdout().write_all(text.as_bytes())?)
}
