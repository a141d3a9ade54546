//! This module reads the arguments of the program.

use std::path::PathBuf;

use lexopt::ValueExt as _;
use lexopt::prelude::{Long, Short, Value};

use crate::client::Kind;
use crate::load::Load;

pub(crate) const USAGE: &str = "\
Usage: wire [--peers | --check | --update | --profile KIND [--server NAME]] [--svg FILE]
       wire --load | --proxies [--rounds N] [--connections N] [--records N] [--response BYTES] [--svg FILE]

Counts the instructions of a request over the wire, by callgrind.

  --peers         other idempotency layers too: builds proof/peers/ first
  --check         fail if a row has risen by more than 3 % over the figures that are checked in
  --update        write the figures that are to be checked in
  --profile KIND  print the functions that take the instructions beyond a no-op layer; KIND is
                  not-protected, first, replay or refused
  --server NAME   the server of the profile: axum (default), axum-h2 or hyper
  --load          the processor's time of a request instead, in whole servers under load by wrk,
                  beside other layers: needs wrk and two processors
  --proxies       the processor's time of the sidecar for a request, next to nginx: needs wrk and nginx
  --rounds N      default 9, of two seconds for each row
  --connections N default 16
  --records N     what each store holds at first; default 100000
  --response BYTES bytes of a response's body; default 256
  --svg FILE      draw the ratios as well
  --help          print this

Status 0, 1 if something failed or a row has risen, 2 for wrong arguments.
";

/// What the arguments ask for.
#[derive(Debug)]
pub(crate) enum Invocation {
    Help,
    /// Be the server that is measured.
    Serve,
    /// Whether to count the peers too, and the picture's file.
    Count(bool, Option<PathBuf>),
    Check,
    Update,
    Load(Load, Option<PathBuf>),
    Proxies(Load),
    Profile(String, Kind),
}

impl Invocation {
    pub(crate) fn parse(mut arguments: lexopt::Parser) -> Result<Self, lexopt::Error> {
        let mut invocation = Self::Count(false, None);
        let mut server = "axum".to_owned();
        let mut svg = None;
        let mut load = Load {
            rounds: 9,
            connections: 16,
            records: 100_000,
            response_bytes: 256,
        };
        while let Some(argument) = arguments.next()? {
            match argument {
                Long("help") | Short('h') => return Ok(Self::Help),
                // The server reads the names that follow itself.
                Value(word) if word == "serve" => return Ok(Self::Serve),
                Long("peers") => invocation = Self::Count(true, None),
                Long("check") => invocation = Self::Check,
                Long("update") => invocation = Self::Update,
                Long("profile") => {
                    invocation = Self::Profile(String::new(), kind(&arguments.value()?.string()?)?);
                }
                Long("load") => invocation = Self::Load(load, None),
                Long("proxies") => invocation = Self::Proxies(load),
                Long("svg") => svg = Some(arguments.value()?.into()),
                Long("rounds") => load.rounds = arguments.value()?.parse()?,
                Long("connections") => load.connections = arguments.value()?.parse()?,
                Long("records") => load.records = arguments.value()?.parse()?,
                Long("response") => load.response_bytes = arguments.value()?.parse()?,
                Long("server") => server = arguments.value()?.string()?,
                other => return Err(other.unexpected()),
            }
        }
        match &mut invocation {
            Self::Profile(of, _) => *of = server,
            Self::Load(of, file) => (*of, *file) = (load, svg),
            Self::Proxies(of) => *of = load,
            Self::Count(_, file) => *file = svg,
            _ => {}
        }
        Ok(invocation)
    }
}

fn kind(name: &str) -> Result<Kind, lexopt::Error> {
    let found = Kind::ALL.into_iter().find(|kind| kind.name() == name);
    found.ok_or_else(|| format!("there is no kind `{name}`").into())
}
