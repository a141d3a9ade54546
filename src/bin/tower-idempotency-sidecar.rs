//! The sidecar as a program: `docs/sidecar.md`.

use std::error::Error;
use std::ffi::OsString;
use std::future::Future;
use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::process::ExitCode;

use lexopt::prelude::{Long, Short};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tower_idempotency::AnyStore;
use tower_idempotency::config::Config;
use tower_idempotency::sidecar::Sidecar;
use tracing::{error, info};
use tracing_subscriber::EnvFilter;

const HELP: &str = "\
Makes the operations of an HTTP service safe to retry: a proxy in front of it.

Usage: tower-idempotency-sidecar --config FILE [--check | --migrate]

  --config FILE  what to do, in TOML, or in JSON if its name ends in .json
  --check        read the file, print what it promises to clients, and end
  --migrate      create what the store needs (an SQL store's table), and end
  --help         print this
  --version      print the version

RUST_LOG says what is logged, such as `debug`. Default: info.

Exit status: 0 done, or shut down by SIGTERM or SIGINT; 1 the file, the store
or an address can't be used; 2 wrong arguments.
";

/// What to do, and with which file.
enum Task {
    Help,
    Version,
    Serve(PathBuf),
    Check(PathBuf),
    Migrate(PathBuf),
}

fn main() -> ExitCode {
    let task = match task(std::env::args_os()) {
        Ok(task) => task,
        Err(error) => {
            eprintln!("error: {error}\n\n{HELP}");
            return ExitCode::from(2);
        }
    };
    match run(task) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", chain(&*error));
            ExitCode::FAILURE
        }
    }
}

fn task(arguments: impl IntoIterator<Item = OsString>) -> Result<Task, lexopt::Error> {
    let mut parser = lexopt::Parser::from_iter(arguments);
    let mut config = None;
    let mut task: Option<(&str, fn(PathBuf) -> Task)> = None;
    while let Some(argument) = parser.next()? {
        let chosen: (&str, fn(PathBuf) -> Task) = match argument {
            Long("config") | Short('c') => {
                config = Some(PathBuf::from(parser.value()?));
                continue;
            }
            Long("check") => ("--check", Task::Check),
            Long("migrate") => ("--migrate", Task::Migrate),
            Long("help") | Short('h') => return Ok(Task::Help),
            Long("version") | Short('V') => return Ok(Task::Version),
            other => return Err(other.unexpected()),
        };
        if let Some((earlier, _)) = task.replace(chosen) {
            return Err(format!("{earlier} and {} are two tasks", chosen.0).into());
        }
    }
    let config = config.ok_or("--config FILE is missing")?;
    Ok(task.map_or(Task::Serve as fn(PathBuf) -> Task, |(_, task)| task)(
        config,
    ))
}

fn run(task: Task) -> Result<(), Box<dyn Error>> {
    match task {
        Task::Help => print!("{HELP}"),
        Task::Version => println!("tower-idempotency-sidecar {}", env!("CARGO_PKG_VERSION")),
        Task::Check(file) => {
            let _ = Config::read(file)?; // TODO contract
        }
        Task::Migrate(file) => {
            let config = Config::read(file)?;
            let store = config.store().ok_or("the file names no `store`")?;
            runtime()?.block_on(AnyStore::migrate(store))?;
        }
        Task::Serve(file) => {
            let config = Config::read(file)?;
            log();
            runtime()?.block_on(serve(&config))?;
        }
    }
    Ok(())
}

fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
}

fn log() {
    let filter = EnvFilter::builder()
        .with_default_directive(tracing::Level::INFO.into())
        .from_env_lossy();
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .init();
}

async fn serve(config: &Config) -> Result<(), Box<dyn Error>> {
    // From here on a signal is no sudden end.
    let shutdown = signals()?;
    let sidecar = Sidecar::new(config).await?;
    info!(address = %sidecar.local_addr()?, "listening");
    if let Some(address) = sidecar.metrics_addr()? {
        info!(%address, "metrics");
    }
    sidecar.serve(shutdown).await;
    info!("shut down");
    Ok(())
}

/// The first SIGTERM or SIGINT; a second one ends the process.
fn signals() -> std::io::Result<impl Future<Output = ()>> {
    async fn either(terminate: &mut Signal, interrupt: &mut Signal) {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    }
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        either(&mut terminate, &mut interrupt).await;
        tokio::spawn(async move {
            either(&mut terminate, &mut interrupt).await;
            error!("ended by a second signal");
            std::process::exit(1);
        });
    })
}

/// An error with all its causes.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
