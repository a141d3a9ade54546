//! This module reads the arguments of a run.

use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::planted::Planted;

pub(crate) const USAGE: &str = "\
Usage: chaos [--store STORE] [--operations N] [--kills N] …

Servers that are killed and frozen, a network that cuts, a database that crashes,
clients that retry. Checks that each operation took effect once.

  --store STORE        postgres, mysql, redis: a server of the run's own, which is killed too;
                       sqlite: a file of its own; memory: in one server;
                       or the URL of a store, which is left alone. Default: postgres
  --operations N       how many keys; default: 2000
  --kills N            how often a server is killed with -9; default: 10
  --freezes N          how often one is frozen for longer than its lease; default: as often
  --database-kills N   how often the database is; default: 1 for each 20 kills, at least 1;
                       mysql: 20, since only a kill at the right moment shows what it loses
  --setting LINE       a line of that server's configuration (may be repeated)
  --servers N          how many servers; default: 4 (SQLite: 2, memory: 1)
  --at-once N          how many keys at once, each with one to eight clients; default: 48
  --lease-ms N         default: 1000
  --seed S             what is random comes from this number; default: 1
  --mode MODE          committed: the layer claims before the handler; in_transaction: the handler claims
                       in its transaction, and a key may wait for a second after a fault, not for a
                       lease (PostgreSQL, MariaDB and SQLite). Default: committed
  --without WHAT       claim, fence or transaction: turns that protection off (may be repeated);
                       lock: the handler has written before its claim is made (--mode in_transaction)
  --break RULE         a store that breaks one rule: to see that the checker sees
  --help               print this

Status 0 if everything was as promised, 1 if not, 2 for wrong arguments.";

/// These protections stand between a retry and a second effect.
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is turned off by itself"
)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Protections {
    /// The layer claims each key.
    pub(crate) claim: bool,
    /// An owner that was overtaken gives up.
    pub(crate) fence: bool,
    /// The handler commits the ledger's entry and the response together.
    pub(crate) transaction: bool,
    /// A handler that makes the claim writes under its lock.
    pub(crate) lock: bool,
}

/// Where the claim is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Mode {
    Committed,
    InTransaction,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Options {
    pub(crate) help: bool,
    pub(crate) store: String,
    pub(crate) operations: u32,
    pub(crate) kills: u32,
    pub(crate) freezes: Option<u32>,
    pub(crate) database_kills: Option<u32>,
    pub(crate) settings: Vec<String>,
    pub(crate) servers: Option<usize>,
    pub(crate) at_once: usize,
    pub(crate) lease: Duration,
    /// When nothing is broken, a response may take this long in addition to a
    /// lease, if there are leases.
    pub(crate) grace: Option<Duration>,
    pub(crate) seed: u64,
    pub(crate) mode: Mode,
    pub(crate) protections: Protections,
    pub(crate) planted: Option<Planted>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            help: false,
            store: "postgres".to_owned(),
            operations: 2000,
            kills: 10,
            freezes: None,
            database_kills: None,
            settings: Vec::new(),
            servers: None,
            at_once: 48,
            lease: Duration::from_secs(1),
            grace: None,
            seed: 1,
            mode: Mode::Committed,
            protections: Protections {
                claim: true,
                fence: true,
                transaction: true,
                lock: true,
            },
            planted: None,
        }
    }
}

impl Options {
    pub(crate) fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut options = Self::default();
        while let Some(name) = arguments.next() {
            let mut value = || arguments.next().unwrap_or_default();
            match name.as_str() {
                "--help" | "-h" => options.help = true,
                "--store" => options.store = value(),
                "--operations" => options.operations = number(&name, &value(), 1)?,
                "--kills" => options.kills = number(&name, &value(), 0)?,
                "--freezes" => options.freezes = Some(number(&name, &value(), 0)?),
                "--database-kills" => options.database_kills = Some(number(&name, &value(), 0)?),
                "--setting" => options.settings.push(value()),
                "--servers" => options.servers = Some(number(&name, &value(), 1)?),
                "--at-once" => options.at_once = number(&name, &value(), 1)?,
                "--lease-ms" => {
                    options.lease = Duration::from_millis(number(&name, &value(), 100)?);
                }
                "--seed" => options.seed = number(&name, &value(), 0)?,
                "--without" => match value().as_str() {
                    "claim" => options.protections.claim = false,
                    "fence" => options.protections.fence = false,
                    "transaction" => options.protections.transaction = false,
                    "lock" => options.protections.lock = false,
                    other => {
                        return Err(format!(
                            "--without takes claim, fence, transaction or lock, not `{other}`"
                        ));
                    }
                },
                "--mode" => {
                    options.mode = match value().as_str() {
                        "committed" => Mode::Committed,
                        "in_transaction" => Mode::InTransaction,
                        other => {
                            return Err(format!(
                                "--mode takes committed or in_transaction, not `{other}`"
                            ));
                        }
                    };
                }
                "--break" => options.planted = Some(planted(&value())?),
                _ => return Err(format!("unknown argument `{name}`")),
            }
        }
        if !is_a_store(&options.store) {
            return Err(format!(
                "--store takes postgres, mysql, redis, sqlite, memory or a URL, not `{}`",
                options.store
            ));
        }
        if options.mode == Mode::InTransaction && !options.is_sql() {
            let store = &options.store;
            return Err(format!(
                "--mode in_transaction needs a database, not `{store}`"
            ));
        }
        Ok(options)
    }

    pub(crate) fn freezes(&self) -> u32 {
        // A frozen server's memory store is frozen too, so nobody can overtake its
        // owners.
        let most = if self.is("memory") { 0 } else { self.kills };
        self.freezes.unwrap_or(most)
    }

    /// Returns how often the database is killed. Only a server of the run's own can
    /// be killed.
    pub(crate) fn database_kills(&self) -> u32 {
        let most = match self.store.as_str() {
            "mysql" => 20,
            _ => (self.kills / 20).max(1),
        };
        let own = ["postgres", "mysql", "redis"].contains(&self.store.as_str());
        if own {
            self.database_kills.unwrap_or(most)
        } else {
            0
        }
    }

    pub(crate) fn servers(&self) -> usize {
        match self.servers {
            _ if self.is("memory") => 1,
            Some(servers) => servers,
            None if self.is("sqlite") => 2,
            None => 4,
        }
    }

    pub(crate) fn patience(&self) -> Duration {
        match self.mode {
            Mode::Committed => self.lease + self.grace.unwrap_or(Duration::from_secs(5)),
            // There is no lease that would have to lapse.
            Mode::InTransaction => self.grace.unwrap_or(Duration::from_secs(1)),
        }
    }

    /// Returns whether the records and the ledger are in one database, so that one
    /// transaction can change both (G7).
    pub(crate) fn is_sql(&self) -> bool {
        !self.is("memory") && !["redis", "valkey"].iter().any(|own| self.is(own))
    }

    fn is(&self, kind: &str) -> bool {
        self.store.starts_with(kind)
    }
}

fn is_a_store(store: &str) -> bool {
    store.contains(':') || ["postgres", "mysql", "redis", "sqlite", "memory"].contains(&store)
}

fn number<T: FromStr + PartialOrd + From<u8>>(
    name: &str,
    value: &str,
    least: u8,
) -> Result<T, String> {
    value
        .parse()
        .ok()
        .filter(|number| *number >= T::from(least))
        .ok_or_else(|| format!("{name} takes a number from {least}, not `{value}`"))
}

fn planted(name: &str) -> Result<Planted, String> {
    Planted::named(name).ok_or_else(|| {
        let names: Vec<_> = Planted::ALL.iter().map(|own| own.name()).collect();
        format!("--break takes one of {}, not `{name}`", names.join(", "))
    })
}
