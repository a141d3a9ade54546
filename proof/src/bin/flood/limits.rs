//! The sidecar's configuration in a run: limits that an attack reaches within a second,
//! and the memory that all of them together allow.

use std::fmt::Write;
use std::net::SocketAddr;

use crate::attacks::Attack;

const MIB: u64 = 1 << 20;

/// How many bytes of records the memory store may keep.
const STORE: u64 = 32 * MIB;
/// How many bytes of request bodies the layer may hold.
const BUFFERED: u64 = 32 * MIB;
/// How many records the memory store may keep.
const RECORDS: u64 = 1000;
/// How many operations may run whose clients have left.
const BACKGROUND: u64 = 400;
/// How many requests may wait for the outcome of another.
const WAITING: u64 = 400;
/// How many connections of clients there may be, and how many bytes each may hold.
const CONNECTIONS: u64 = 512;
const PER_CONNECTION: u64 = 64 << 10;

/// The route of the good caller's pairs.
const GOOD_ROUTE: &str = "match = \"POST /brief\"\non_in_flight = { wait = \"5s\" }";

/// The bytes that the limits allow, with what each is for.
pub(crate) const BYTES: [(&str, u64); 3] = [
    ("max_bytes of the store", STORE),
    ("max_buffered_bytes", BUFFERED),
    ("512 connections of 64 KiB", CONNECTIONS * PER_CONNECTION),
];

pub(crate) fn sum() -> u64 {
    BYTES.iter().map(|(_, bytes)| bytes).sum()
}

/// Returns the sidecar's file for this attack. Without shares the share of a caller is the
/// whole limit.
pub(crate) fn file(attack: &Attack, upstream: SocketAddr, without_shares: bool) -> String {
    let store = format!("memory:?max_records={RECORDS}&max_bytes={STORE}");
    let _ = without_shares;
    let mut file = format!(
        "listen = \"127.0.0.1:0\"\nmetrics = \"127.0.0.1:0\"\nupstream = \"http://{upstream}\"\n\
         upstream_http2 = {}\nstore = \"{store}\"\n\n[idempotency]\nscope = [\"header:authorization\"]\n",
        attack.upstream_http2
    );
    for (name, limit) in [
        ("max_buffered_bytes", BUFFERED),
        ("max_background_operations", BACKGROUND),
        ("max_waiting_requests", WAITING),
    ] {
        let _ = writeln!(file, "{name} = {limit}");
    }
    for route in [GOOD_ROUTE, attack.route] {
        if !route.is_empty() {
            let _ = writeln!(file, "\n[[route]]\n{route}");
        }
    }
    file
}
