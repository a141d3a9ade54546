//! This module sends requests by wrk, as fast as the server responds.

use std::fs;
use std::net::SocketAddr;

use super::on_processor;
use crate::BoxError;
use crate::client::{BODY_IN, Kind};

/// How long wrk sends, in each row's part of a round.
const SECONDS: usize = 1;

pub(crate) struct Sent {
    pub(crate) requests: f64,
    pub(crate) per_second: f64,
}

/// Sends requests of one kind from the processor `client`.
pub(crate) fn send(
    client: &str,
    server: SocketAddr,
    kind: Kind,
    keys: Keys,
    connections: usize,
) -> Result<Sent, BoxError> {
    let script = std::env::temp_dir().join(format!("wire-{}.lua", std::process::id()));
    fs::write(&script, lua(kind, keys))?;
    let output = on_processor(client)
        .args(["wrk", "--threads", "1"])
        .args(["--connections", &connections.to_string()])
        .args(["--duration", &format!("{SECONDS}s"), "--script"])
        .arg(&script)
        .arg(format!("http://{server}/payments"))
        .output()
        .map_err(|error| format!("taskset and wrk: {error}"))?;
    fs::remove_file(&script)?;
    read(&String::from_utf8(output.stdout)?)
}

/// The first of the numbers that new keys are made of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Keys(u64);

impl Keys {
    /// No two rounds have the same keys, and no round those that a store was filled with.
    pub(crate) fn of_round(round: usize) -> Self {
        Self(1_000_000_000_000 + 1_000_000_000 * round as u64)
    }
}

/// The script that makes each request.
fn lua(kind: Kind, Keys(number): Keys) -> String {
    let (name, value) = kind.header(number);
    let (begin, _) = value.split_at(value.len() - 12);
    let value = match kind {
        Kind::Replay | Kind::Refused => format!("\"{value}\""),
        _ => format!("string.format(\"{begin}%012x\", number)"),
    };
    format!(
        "local number = {number}\n\
         local headers = {{\n\
         ['content-type'] = 'application/json', ['x-api-key'] = 'sk_live_0123456789abcdef',\n\
         ['user-agent'] = 'bench/1.0',\n\
         }}\n\
         local body = string.rep('x', {BODY_IN})\n\
         request = function()\n\
         number = number + 1\n\
         headers['{name}'] = {value}\n\
         return wrk.format('POST', nil, headers, body)\n\
         end\n"
    )
}

/// Reads what wrk has printed.
fn read(text: &str) -> Result<Sent, BoxError> {
    let failed = ["Non-2xx", "Socket errors"];
    if failed.iter().any(|word| text.contains(word)) {
        return Err(format!("requests have failed:\n{text}").into());
    }
    let number = |line: Option<&str>, at: usize| -> Option<f64> {
        line?.split_whitespace().nth(at)?.parse().ok()
    };
    let line = |word: &str| text.lines().find(|line| line.contains(word));
    Ok(Sent {
        requests: number(line(" requests in "), 0).ok_or_else(|| text.to_owned())?,
        per_second: number(line("Requests/sec:"), 1).ok_or_else(|| text.to_owned())?,
    })
}
