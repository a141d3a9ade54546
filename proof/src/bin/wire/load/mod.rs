//! This module measures the processor's time that servers take under load by wrk. Each
//! server is a process of its own with one thread on one processor. Rounds alternate between
//! the servers, the kinds of requests and the client's place; a ratio is taken within one
//! round, so that what slows the machine down slows both sides.

mod cpu;
pub(crate) mod proxies;
mod table;
mod wrk;

use std::process::Command;

use crate::BoxError;
use crate::client::{Connection, Kind, Protocol};
use crate::process::Server;
use crate::rows::build_peers;

pub(crate) use table::{picture, table};

/// What a run of this measurement is like.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    pub(crate) rounds: usize,
    pub(crate) connections: usize,
    /// Records that a store holds before the first round.
    pub(crate) records: u64,
    pub(crate) response_bytes: usize,
}

/// What each round measures: a name, and the kind of request that a server is sent.
const ROWS: [(&str, &str, Kind); 9] = [
    ("bare", "axum-bare", Kind::Bare),
    ("no-op layer", "axum-no-op", Kind::NoOp),
    ("not protected", "axum-layered", Kind::NotProtected),
    ("first", "axum-layered", Kind::First),
    ("replay", "axum-layered", Kind::Replay),
    ("idempotent: bare", "bare", Kind::Bare),
    (
        "idempotent: not protected",
        "idempotent",
        Kind::NotProtected,
    ),
    ("idempotent: first", "idempotent", Kind::First),
    ("idempotent: replay", "idempotent", Kind::Replay),
];

/// The processor that runs the servers.
const SERVERS: &str = "0";

/// Where wrk runs. On the servers' processor, the client runs when the server waits, and a
/// server pays for its own work alone. On another one, a server also pays for waking up the
/// client, more often the slower the server is.
const CLIENTS: [(&str, &str); 2] = [
    ("the client on the server's processor", SERVERS),
    ("the client on another processor", "1"),
];

/// One row's part of a round.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sample {
    /// Microseconds of a processor for each request.
    micros: f64,
    /// The part of them that the kernel took.
    in_kernel: f64,
    /// Pages that the process was given, for each request.
    faults: f64,
    per_second: f64,
}

/// All rows, for each place of the client.
type Round = [[Sample; ROWS.len()]; CLIENTS.len()];

/// Measures all rows.
pub(crate) fn measure(load: Load) -> Result<Vec<Round>, BoxError> {
    let mut servers: Vec<(&str, Server)> = Vec::new();
    let (own, peers) = (std::env::current_exe()?, build_peers()?);
    for (_, app, _) in ROWS {
        if servers.iter().any(|(name, _)| *name == app) {
            continue;
        }
        let mut command = on_processor(SERVERS);
        if app.starts_with("axum") {
            command.arg(&own).args(["serve", app]);
        } else {
            command.arg(&peers).arg(app);
        }
        command.env("WIRE_UNDER_LOAD", "yes");
        command.env("WIRE_RESPONSE_BYTES", load.response_bytes.to_string());
        servers.push((app, Server::start(&mut command)?));
    }
    for (app, server) in &servers {
        fill(app, server, load.records)?;
    }
    let mut rounds: Vec<Round> = Vec::new();
    // The first round warms up, and does not count.
    for round in 0..=load.rounds {
        let mut samples = Round::default();
        for at in 0..ROWS.len() {
            // Each round begins with another row, so that no row always runs first.
            let row = (at + round) % ROWS.len();
            let (_, app, kind) = ROWS[row];
            let server = servers.iter().find(|(name, _)| *name == app);
            let (_, server) = server.expect("all were started above");
            for (place, (_, client)) in CLIENTS.iter().enumerate() {
                let begun = cpu::of(server.id())?;
                let keys = wrk::Keys::of_round(round * CLIENTS.len() + place);
                let sent = wrk::send(client, server.address(app)?, kind, keys, load.connections)?;
                samples[place][row] = cpu::of(server.id())?.since(&begun, &sent);
            }
        }
        if round > 0 {
            rounds.push(samples);
        }
    }
    Ok(rounds)
}

/// A command that runs on one processor, before everything else where that is permitted: other
/// programs that take turns with a server empty its caches.
fn on_processor(processor: &str) -> Command {
    let first = ["--fifo", "10"];
    let is_permitted = Command::new("chrt").args(first).arg("true").status();
    let mut command = if is_permitted.is_ok_and(|status| status.success()) {
        let mut command = Command::new("chrt");
        command.args(first).arg("taskset");
        command
    } else {
        Command::new("taskset")
    };
    command.args(["--cpu-list", processor]);
    command
}

/// Gives the server's store as many records as a run begins with, and the record that is replayed.
fn fill(app: &str, server: &Server, records: u64) -> Result<(), BoxError> {
    let mut connection = Connection::open(Protocol::Http1, server.address(app)?)?;
    connection.exchange(Kind::Replay, 0)?;
    if matches!(app, "axum-layered" | "idempotent") {
        for number in 0..records {
            connection.exchange(Kind::First, number)?;
        }
    }
    Ok(())
}
