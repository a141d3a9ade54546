//! This module reads the arguments of the program.

use lexopt::ValueExt as _;
use lexopt::prelude::{Long, Short, Value};

use crate::client::Kind;

pub(crate) const USAGE: &str = "\
Usage: wire [--peers | --check | --update | --profile KIND [--server NAME]]

Counts the instructions of a request over the wire, by callgrind.

  --peers         other idempotency layers too: builds proof/peers/ first
  --check         fail if a row has risen by more than 3 % over the figures that are checked in
  --update        write the figures that are to be checked in
  --profile KIND  print the functions that take the instructions beyond a no-op layer; KIND is
                  not-protected, first, replay or refused
  --server NAME   the server of the profile: axum (default), axum-h2 or hyper
  --help          print this

Status 0, 1 if something failed or a row has risen, 2 for wrong arguments.
";

/// What the arguments ask for.
#[derive(Debug)]
pub(crate) enum Invocation {
    Help,
    /// Be the server that is measured.
    Serve,
    Count {
        peers: bool,
    },
    Check,
    Update,
    Profile(String, Kind),
}

impl Invocation {
    pub(crate) fn parse(mut arguments: lexopt::Parser) -> Result<Self, lexopt::Error> {
        let mut invocation = Self::Count { peers: false };
        let mut server = "axum".to_owned();
        while let Some(argument) = arguments.next()? {
            match argument {
                Long("help") | Short('h') => return Ok(Self::Help),
                Value(word) if word == "serve" => invocation = Self::Serve,
                Long("peers") => invocation = Self::Count { peers: true },
                Long("check") => invocation = Self::Check,
                Long("update") => invocation = Self::Update,
                Long("profile") => {
                    invocation = Self::Profile(String::new(), kind(&arguments.value()?.string()?)?);
                }
                Long("server") => server = arguments.value()?.string()?,
                other => return Err(other.unexpected()),
            }
        }
        if let Self::Profile(of, _) = &mut invocation {
            *of = server;
        }
        Ok(invocation)
    }
}

fn kind(name: &str) -> Result<Kind, lexopt::Error> {
    let found = Kind::ALL.into_iter().find(|kind| kind.name() == name);
    found.ok_or_else(|| format!("there is no kind `{name}`").into())
}
