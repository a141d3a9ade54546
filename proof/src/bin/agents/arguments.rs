//! This module reads the arguments of the program.

use lexopt::ValueExt as _;
use lexopt::prelude::{Long, Short};

pub(crate) const USAGE: &str = "\
Usage: agents [--short] [--purchases N] [--sidecar] [--without layer] …

Agents buy in a shop behind MCP, over a network that cuts, from servers that are killed.
Checks that each purchase has one order.

  --short           300 purchases of 40 agents, 3 kills
  --purchases N     how many purchases; default: 10000
  --agents N        how many agents buy at the same time; default: 200
  --servers N       how many servers; default: 3
  --kills N         how often a server is killed with SIGKILL; default: 30
  --cuts PERCENT    how many of 100 answers are cut at a random byte; default: 60
  --seed S          what is random comes from this number; default: 1
  --sidecar         the shop is a server of the official SDK for Python, behind sidecars; these are
                    killed, and the shop is not
  --without layer   the shop without the layer: the program has to fail
  --help            print this

Status 0 if each purchase has one order and its agent knows that order, 1 if not, 2 for wrong
arguments.
";

/// What the arguments ask for.
#[derive(Debug)]
pub(crate) enum Invocation {
    Help,
    Run(Options),
}

#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) purchases: u32,
    pub(crate) agents: u32,
    pub(crate) servers: u32,
    pub(crate) kills: u32,
    /// In percent.
    pub(crate) cuts: u32,
    pub(crate) seed: u64,
    pub(crate) with_layer: bool,
    pub(crate) with_sidecar: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            purchases: 10_000,
            agents: 200,
            servers: 3,
            kills: 30,
            cuts: 60,
            seed: 1,
            with_layer: true,
            with_sidecar: false,
        }
    }
}

impl Options {
    /// The form that `scripts/test` runs: a program that is not optimized needs less than a
    /// minute for it.
    fn short() -> Self {
        Self {
            purchases: 300,
            agents: 40,
            kills: 3,
            ..Self::default()
        }
    }
}

impl Invocation {
    pub(crate) fn parse(mut arguments: lexopt::Parser) -> Result<Self, lexopt::Error> {
        let mut options = Options::default();
        while let Some(argument) = arguments.next()? {
            match argument {
                Long("help") | Short('h') => return Ok(Self::Help),
                Long("short") => {
                    options = Options {
                        seed: options.seed,
                        with_layer: options.with_layer,
                        with_sidecar: options.with_sidecar,
                        ..Options::short()
                    };
                }
                Long("purchases") => options.purchases = number(&mut arguments, 1, 1_000_000)?,
                Long("agents") => options.agents = number(&mut arguments, 1, 10_000)?,
                Long("servers") => options.servers = number(&mut arguments, 1, 16)?,
                Long("kills") => options.kills = number(&mut arguments, 0, 10_000)?,
                Long("cuts") => options.cuts = number(&mut arguments, 0, 95)?,
                Long("seed") => options.seed = arguments.value()?.parse()?,
                Long("sidecar") => options.with_sidecar = true,
                Long("without") => {
                    let what = arguments.value()?.string()?;
                    if what != "layer" {
                        return Err(format!("--without takes layer, not `{what}`").into());
                    }
                    options.with_layer = false;
                }
                other => return Err(other.unexpected()),
            }
        }
        if options.with_sidecar && !options.with_layer {
            return Err("a sidecar is not without the layer".into());
        }
        Ok(Self::Run(options))
    }
}

fn number(arguments: &mut lexopt::Parser, least: u32, most: u32) -> Result<u32, lexopt::Error> {
    let value = arguments.value()?.string()?;
    match value.parse() {
        Ok(number) if (least..=most).contains(&number) => Ok(number),
        _ => Err(format!("not a number from {least} to {most}: `{value}`").into()),
    }
}
