//! This module counts every kind of request at every server, a row each.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::BoxError;
use crate::callgrind::{Counter, Profile};
use crate::client::{Kind, Protocol};

/// A way to serve the application.
pub(crate) struct Way {
    pub(crate) name: &'static str,
    pub(crate) protocol: Protocol,
    /// What the names of its apps begin with.
    apps: &'static str,
}

pub(crate) const WAYS: [Way; 3] = [
    Way {
        name: "axum",
        protocol: Protocol::Http1,
        apps: "axum",
    },
    Way {
        name: "axum-h2",
        protocol: Protocol::Http2,
        apps: "axum",
    },
    Way {
        name: "hyper",
        protocol: Protocol::Http1,
        apps: "hyper",
    },
];

impl Way {
    pub(crate) fn app(&self, kind: Kind) -> String {
        let app = match kind {
            Kind::Bare | Kind::NoOp => kind.name(),
            _ => "layered",
        };
        format!("{}-{app}", self.apps)
    }
}

/// Instructions of a kind of request at a server.
pub(crate) struct Row {
    pub(crate) server: &'static str,
    pub(crate) kind: Kind,
    pub(crate) all: f64,
    pub(crate) without: f64,
    /// `without` of the bare app, served the same way.
    pub(crate) bare: f64,
}

/// Counts all rows, and those of the peers if `peers` says so.
pub(crate) fn count(peers: bool) -> Result<Vec<Row>, BoxError> {
    let mut counter = Counter::start(&std::env::current_exe()?, &["serve"])?;
    let mut rows: Vec<Row> = Vec::new();
    for way in &WAYS {
        let mut bare = None;
        for kind in Kind::ALL {
            let profile = counter.count(&way.app(kind), way.protocol, kind)?;
            rows.push(row(way.name, kind, &profile, &mut bare));
        }
    }
    if peers {
        // The compiler lays out this program on its own, so the peers are compared with the
        // bare app of the same program.
        let mut counter = Counter::start(&build_peers()?, &[])?;
        let mut bare = None;
        for kind in Kind::ALL {
            let app = match kind {
                Kind::Bare | Kind::NoOp => kind.name(),
                _ => "idempotent",
            };
            let profile = counter.count(app, Protocol::Http1, kind)?;
            rows.push(row("idempotent", kind, &profile, &mut bare));
        }
    }
    Ok(rows)
}

fn row(server: &'static str, kind: Kind, profile: &Profile, bare: &mut Option<f64>) -> Row {
    let without = profile.without_compression();
    Row {
        server,
        kind,
        all: profile.all(),
        without,
        // The bare app is counted first.
        bare: *bare.get_or_insert(without),
    }
}

/// The rows as a table.
pub(crate) fn table(rows: &[Row]) -> String {
    let mut table = format!(
        "{:10} {:14} {:>9} {:>16} {:>8}\n",
        "server", "kind", "all", "without SHA-256", "to bare"
    );
    for row in rows {
        let ratio = row.without / row.bare;
        let (server, kind) = (row.server, row.kind.name());
        let line = format!(
            "{server:10} {kind:14} {:>9.0} {:>16.0} {ratio:>8.3}\n",
            row.all, row.without
        );
        table.push_str(&line);
    }
    table
}

/// The ratios to bare as bars.
pub(crate) fn picture(rows: &[Row]) -> String {
    let mut groups: Vec<(String, Vec<f64>)> = Vec::new();
    for row in rows.iter().filter(|row| row.kind != Kind::Bare) {
        if groups.last().is_none_or(|(server, _)| server != row.server) {
            groups.push((row.server.to_owned(), Vec::new()));
        }
        let (_, ratios) = groups.last_mut().expect("a group was pushed above");
        ratios.push(row.without / row.bare);
    }
    let names = Kind::ALL[1..].iter().map(|kind| kind.name());
    let title = "Instructions of a request over the wire, as multiples of the bare application";
    proof::picture::bars(title, &names.collect::<Vec<_>>(), &groups)
}

/// Builds the program that serves the application behind other layers, and returns its path.
pub(crate) fn build_peers() -> Result<PathBuf, BoxError> {
    let package = Path::new(env!("CARGO_MANIFEST_DIR")).join("peers");
    let target = package.join("../../target");
    // Its dependency asks for a newer compiler than it needs.
    let status = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--release", "--ignore-rust-version"])
        .arg("--manifest-path")
        .arg(package.join("Cargo.toml"))
        .arg("--target-dir")
        .arg(&target)
        .status()?;
    if status.success() {
        Ok(target.join("release/peers"))
    } else {
        Err("proof/peers/ does not build".into())
    }
}
