//! This module carries out one run, from the start of the first server to the
//! verdict.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::time::sleep;
use tower_idempotency::store::AnyStore;

use super::BoxError;
use super::arguments::Options;
use super::checker::{Run, check};
use super::clients::Clients;
use super::history::{executions, now};
use super::killer::{Faults, Killer, Place};
use super::ledger::Ledger;
use super::plan::blows;
use super::process::Process;
use super::proxy::Proxy;
use super::server::Setup;
use super::servers::{Server, fresh_directory};
use super::table::Table;

/// The directory is removed with its files when `Scratch` is dropped.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> std::io::Result<Self> {
        let own = Self(fresh_directory("chaos"));
        std::fs::create_dir_all(own.0.join("journals"))?;
        Ok(own)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // A directory that cannot be removed is left to the operating system's
        // cleaning of temporary files.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

pub(crate) async fn run(
    options: &Options,
    arguments: &[String],
    done: impl Fn() + Clone + Send + 'static,
) -> Result<Table, BoxError> {
    let began = Instant::now();
    let scratch = Scratch::new()?;
    let database = database(options).await?;
    let store = match (&database, options.store.as_str()) {
        (Some(database), _) => database.url().to_owned(),
        (None, "memory") => "memory:".to_owned(),
        (None, "sqlite") => format!("sqlite:{}", scratch.0.join("records.db").display()),
        (None, url) => url.to_owned(),
    };
    AnyStore::migrate(&store).await?;
    let id = now().to_string();
    let file = scratch.0.join("ledger");
    let ledger = Ledger::open(&store, &file).await?;
    ledger.create().await?;

    let setup = |server: usize| Setup {
        run: id.clone(),
        seed: options.seed,
        store: store.clone(),
        ledger: file.clone(),
        journal: journal(&scratch.0, server),
        lease: options.lease,
        mode: options.mode,
        protections: options.protections,
        insists: options.settings.is_empty(),
        planted: options.planted,
    };
    let places = (0..options.servers()).map(setup).collect();
    let places = Arc::new(places_for(places, options.seed, arguments).await?);
    let addresses: Vec<SocketAddr> = places.iter().map(|own| own.proxy.address).collect();
    let faults = Arc::new(Faults::default());
    let clients = Arc::new(Clients::new(&id, options, addresses, Arc::clone(&faults)));
    let killer = Killer {
        places: Arc::clone(&places),
        database: database.clone(),
        faults: Arc::clone(&faults),
        lease: options.lease,
        arguments: Arc::new(arguments.to_vec()),
    };
    let (begun, has_begun) = watch::channel(0);
    let (due, is_due) = watch::channel(0);
    let strikes = tokio::spawn(killer.strike(blows(options), has_begun, due));
    clients.run(options.operations, begun, is_due, done).await;
    let struck = strikes.await??;
    // Servers that were frozen may still send late requests to the store.
    sleep(Duration::from_millis(500)).await;
    clients.ask_again(options.operations).await;
    for place in places.iter() {
        place.process.lock().await.kill().await?;
    }

    let seen = std::mem::take(&mut *clients.seen());
    let happened = Run {
        operations: options.operations,
        patience: options.patience(),
        entries: ledger.entries(&id).await?,
        attempts: seen.attempts,
        quests: seen.quests,
        executions: executions(&scratch.0.join("journals"))?,
        broken: faults.all(),
    };
    let cuts = places.iter().map(|own| own.proxy.cuts()).sum();
    let violations = check(&happened);
    Ok(Table::new(
        options,
        &happened,
        struck,
        cuts,
        began.elapsed(),
        violations,
    ))
}

fn journal(scratch: &Path, server: usize) -> PathBuf {
    scratch.join("journals").join(server.to_string())
}

async fn places_for(
    setups: Vec<Setup>,
    seed: u64,
    arguments: &[String],
) -> Result<Vec<Place>, BoxError> {
    let mut places = Vec::new();
    for (number, setup) in setups.into_iter().enumerate() {
        let process = Process::start(&setup, arguments).await?;
        let proxy = Proxy::start(seed, number, process.port).await?;
        places.push(Place {
            setup,
            proxy,
            process: Arc::new(tokio::sync::Mutex::new(process)),
        });
    }
    Ok(places)
}

/// Starts a server of the run's own if the argument names only the kind of the
/// store.
async fn database(options: &Options) -> Result<Option<Arc<Server>>, BoxError> {
    let kind = match options.store.as_str() {
        "postgres" => "postgres",
        "mysql" => "mysql",
        "redis" => "redis",
        _ => return Ok(None),
    };
    let mut settings = options.settings.clone();
    if kind == "redis" && settings.is_empty() {
        // With this setting Redis has written to disk whatever it has confirmed.
        settings.push("appendfsync always".to_owned());
    }
    let start = move || {
        let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
        Server::start(kind, &settings)
    };
    let server = tokio::task::spawn_blocking(start).await?;
    Ok(Some(Arc::new(server)))
}
