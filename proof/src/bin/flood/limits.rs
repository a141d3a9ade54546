//! The sidecar's configuration in a run: limits that an attack reaches within a second,
//! and the memory that all of them together allow.

use std::fmt::Write;
use std::net::SocketAddr;

use crate::attacks::Attack;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// A limit of the file, for all callers together.
pub(crate) struct Limit {
    table: Table,
    pub(crate) name: &'static str,
    pub(crate) value: u64,
    /// The option that says how much of it one caller, or one peer, may have.
    share: Option<&'static str>,
    /// The memory that one of it may take, in bytes. 0: another limit counts it.
    each: u64,
}

/// Where a limit stands in the file.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Table {
    /// In the store's URL.
    Store,
    Layer,
    /// The table `[limits]`.
    Proxy,
}

pub(crate) const LIMITS: [Limit; 12] = [
    Limit {
        table: Table::Store,
        name: "max_records",
        value: 2000,
        share: Some("max_records_per_caller"),
        each: 0,
    },
    Limit {
        table: Table::Store,
        name: "max_bytes",
        value: 32 * MIB,
        share: Some("max_bytes_per_caller"),
        each: 1,
    },
    Limit {
        table: Table::Layer,
        name: "max_buffered_bytes",
        value: 32 * MIB,
        share: Some("max_buffered_bytes_per_caller"),
        each: 1,
    },
    Limit {
        table: Table::Layer,
        name: "max_background_operations",
        value: 400,
        share: Some("max_background_per_caller"),
        each: 0,
    },
    Limit {
        table: Table::Layer,
        name: "max_waiting_requests",
        value: 400,
        share: Some("max_waiting_per_caller"),
        each: 0,
    },
    Limit {
        table: Table::Proxy,
        name: "max_connections",
        value: 512,
        share: Some("max_connections_per_peer"),
        each: 64 * KIB,
    },
    Limit {
        table: Table::Proxy,
        name: "max_metrics_connections",
        value: 64,
        share: None,
        each: 64 * KIB,
    },
    Limit {
        table: Table::Layer,
        name: "max_read_ahead",
        value: 32 * MIB,
        share: Some("max_read_ahead_per_caller"),
        each: 1,
    },
    Limit {
        table: Table::Layer,
        name: "max_unsent_bytes",
        value: 32 * MIB,
        share: Some("max_unsent_bytes_per_caller"),
        each: 1,
    },
    Limit {
        table: Table::Proxy,
        name: "max_upstream_requests",
        value: 256,
        share: Some("max_upstream_requests_per_caller"),
        each: 0,
    },
    Limit {
        table: Table::Proxy,
        name: "max_upstream_queue",
        value: 256,
        share: None,
        each: 0,
    },
    Limit {
        table: Table::Layer,
        name: "max_in_flight_operations",
        // No more than may run on without their clients, as by default.
        value: 400,
        share: Some("max_in_flight_per_caller"),
        each: 128 * KIB,
    },
];

impl Limit {
    /// The memory that all of it may take, in bytes.
    pub(crate) fn bytes(&self) -> u64 {
        self.value * self.each
    }

    /// The entries of the file for this limit.
    fn entries(&self, without_shares: bool) -> impl Iterator<Item = (&'static str, u64)> {
        let share = self.share.filter(|_| without_shares);
        let names = std::iter::once(self.name).chain(share);
        names.map(|name| (name, self.value))
    }
}

/// The memory that all limits together allow, in bytes.
pub(crate) fn sum() -> u64 {
    LIMITS.iter().map(Limit::bytes).sum()
}

/// The route of the good caller's pairs.
const GOOD_ROUTE: &str = "match = \"POST /brief\"\non_in_flight = { wait = \"5s\" }";

/// Returns the sidecar's file for this attack. Without shares the share of one caller is
/// the whole limit.
pub(crate) fn file(attack: &Attack, upstream: SocketAddr, without_shares: bool) -> String {
    let entries = |table: Table| {
        let own = LIMITS.iter().filter(move |own| own.table == table);
        own.flat_map(move |own| own.entries(without_shares))
    };
    let store: Vec<_> = entries(Table::Store)
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    let mut file = format!(
        "listen = \"127.0.0.1:0\"\nmetrics = \"127.0.0.1:0\"\nupstream = \"http://{upstream}\"\n\
         upstream_http2 = {}\nstore = \"memory:?{}\"\n\n[limits]\n",
        attack.upstream_http2,
        store.join("&")
    );
    for (name, value) in entries(Table::Proxy) {
        let _ = writeln!(file, "{name} = {value}");
    }
    file.push_str("\n[idempotency]\nscope = [\"header:authorization\"]\n");
    for (name, value) in entries(Table::Layer) {
        let _ = writeln!(file, "{name} = {value}");
    }
    for route in [GOOD_ROUTE, attack.route] {
        if !route.is_empty() {
            let _ = writeln!(file, "\n[[route]]\n{route}");
        }
    }
    file
}
