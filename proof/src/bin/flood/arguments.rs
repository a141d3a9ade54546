//! This module reads the arguments of the program.

use std::path::PathBuf;
use std::time::Duration;

use lexopt::ValueExt as _;
use lexopt::prelude::{Long, Short};

use crate::attacks::{self, Attack};

pub(crate) const USAGE: &str = "\
Usage: flood [--short] [--seconds N] [--only NAME]… [--without shares]

Runs the sidecar and attacks it, while a good caller sends requests at a steady rate.
Prints a row for each attack.

  --short           short periods: about 90 seconds for all attacks
  --seconds N       how long each attack lasts; default: 15, with --short 3
  --only NAME       this attack alone (may be repeated)
  --list            print the names of the attacks, and end
  --without shares  every share of one caller is the whole limit: the program has to fail
  --sidecar FILE    the sidecar's program; default: built by cargo, or beside this program
  --help            print this

Status 0 if the good caller kept its rate and all its replays beside each attack and the
sidecar kept to its memory, 1 if not, 2 for wrong arguments.
";

/// What the arguments ask for.
#[derive(Debug)]
pub(crate) enum Invocation {
    Help,
    List,
    Run(Options),
}

#[derive(Debug, Default)]
pub(crate) struct Options {
    pub(crate) short: bool,
    pub(crate) seconds: Option<u32>,
    pub(crate) only: Vec<String>,
    pub(crate) without_shares: bool,
    pub(crate) sidecar: Option<PathBuf>,
}

impl Invocation {
    pub(crate) fn parse(mut arguments: lexopt::Parser) -> Result<Self, lexopt::Error> {
        let mut options = Options::default();
        while let Some(argument) = arguments.next()? {
            match argument {
                Long("help") | Short('h') => return Ok(Self::Help),
                Long("list") => return Ok(Self::List),
                Long("short") => options.short = true,
                Long("seconds") => options.seconds = Some(seconds(&mut arguments)?),
                Long("only") => options.only.push(attack(&mut arguments)?),
                Long("without") => {
                    let what = arguments.value()?.string()?;
                    if what != "shares" {
                        return Err(format!("--without takes shares, not `{what}`").into());
                    }
                    options.without_shares = true;
                }
                Long("sidecar") => options.sidecar = Some(arguments.value()?.into()),
                other => return Err(other.unexpected()),
            }
        }
        Ok(Self::Run(options))
    }
}

impl Options {
    /// The attacks of this run, in the order of their list.
    pub(crate) fn attacks(&self) -> Vec<&'static Attack> {
        let is_asked =
            |own: &&Attack| self.only.is_empty() || self.only.iter().any(|name| name == own.name);
        attacks::ALL.iter().filter(is_asked).collect()
    }

    /// How long the good caller is alone before each attack, and after it.
    pub(crate) fn calm(&self) -> Duration {
        if self.short {
            Duration::from_secs(1)
        } else {
            Duration::from_secs(5)
        }
    }

    pub(crate) fn attack(&self) -> Duration {
        let usual = if self.short { 3 } else { 15 };
        Duration::from_secs(self.seconds.unwrap_or(usual).into())
    }
}

fn seconds(arguments: &mut lexopt::Parser) -> Result<u32, lexopt::Error> {
    let value = arguments.value()?.string()?;
    match value.parse() {
        Ok(seconds @ 1..=3600) => Ok(seconds),
        _ => Err(format!("--seconds takes a number from 1 to 3600, not `{value}`").into()),
    }
}

fn attack(arguments: &mut lexopt::Parser) -> Result<String, lexopt::Error> {
    let name = arguments.value()?.string()?;
    let names: Vec<_> = attacks::ALL.iter().map(|own| own.name).collect();
    if names.contains(&name.as_str()) {
        return Ok(name);
    }
    Err(format!("--only takes one of {}, not `{name}`", names.join(", ")).into())
}
