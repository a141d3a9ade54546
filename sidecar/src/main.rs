//! The program `tower-idempotency-sidecar`. `docs/sidecar.md` of this package describes it.

mod records;

use std::error::Error;
use std::ffi::OsString;
use std::future::Future;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use lexopt::prelude::{Long, Short, Value};
use tower_idempotency::config::Config;
use tower_idempotency::for_sidecar::in_force;
use tower_idempotency_sidecar::Sidecar;
use tracing::{error, info};

use crate::log::log;

mod log;
mod suggest;

const HELP: &str = "\
Makes the operations of an HTTP service safe to retry: a proxy in front of it.

Usage: tower-idempotency-sidecar --config FILE [--check | --migrate | --print-config]
       tower-idempotency-sidecar suggest --from http://HOST:PORT
       tower-idempotency-sidecar --config FILE records list | show | resolve | forget

  --config FILE   what to do, in TOML, or in JSON if its name ends in .json
  --check         read the file, print what it promises to clients, and end
  --migrate       create what the store needs (an SQL store's table), and end
  --print-config  print what is in force and where it comes from, without secrets,
                  and end
  suggest --from  print a configuration for what a sidecar with `mode = \"observe\"` has
                  seen; HOST:PORT is where it serves `metrics`
  --help          print this (`records --help`: what can be done with records)
  --version       print the version

Variables set entries too, over the file or without one: IDEMPOTENCY_UPSTREAM,
IDEMPOTENCY_LIMITS__KEEP_ALIVE.

RUST_LOG says what is logged, such as `debug`. Default: info.

SIGHUP has it read the files of certificates and keys again.

Exit status: 0 done, or shut down by SIGTERM, SIGINT or SIGQUIT; 1 the file, the
store, a certificate or an address can't be used; 2 wrong arguments.
";

/// What the arguments ask the program to do.
enum Invocation {
    Help,
    Version,
    Do(Task, Option<PathBuf>),
    Suggest(String),
    Records(Box<records::Command>),
}

#[derive(Clone, Copy)]
enum Task {
    Serve,
    Check,
    Migrate,
    PrintConfig,
}

fn main() -> ExitCode {
    let invocation = match invocation(lexopt::Parser::from_env()) {
        Ok(invocation) => invocation,
        Err(error) => {
            complain(&format!("{error}\n\n{HELP}"));
            return ExitCode::from(2);
        }
    };
    let done = match invocation {
        Invocation::Help => print(HELP),
        Invocation::Version => print(&format!(
            "tower-idempotency-sidecar {}\n",
            env!("CARGO_PKG_VERSION")
        )),
        Invocation::Suggest(from) => suggest::suggestion(&from).and_then(|text| print(&text)),
        Invocation::Do(task, file) => run(task, file.as_deref()),
        Invocation::Records(command) => match with_records(&command) {
            Ok(status) => return status,
            Err(error) => Err(error),
        },
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&format!("{}\n", chain(&*error)));
            ExitCode::FAILURE
        }
    }
}

fn invocation(mut arguments: lexopt::Parser) -> Result<Invocation, lexopt::Error> {
    let mut config = None;
    let mut task = Task::Serve;
    while let Some(argument) = arguments.next()? {
        let chosen = match argument {
            Long("config") | Short('c') => {
                config = Some(PathBuf::from(arguments.value()?));
                continue;
            }
            Value(task) if task == "suggest" => return suggest_from(&mut arguments),
            Long("check") => Task::Check,
            Long("migrate") => Task::Migrate,
            Long("print-config") => Task::PrintConfig,
            Long("help") | Short('h') => return Ok(Invocation::Help),
            Long("version") | Short('V') => return Ok(Invocation::Version),
            Value(word) if word == "records" && matches!(task, Task::Serve) => {
                let command = records::command(arguments, config)?;
                if !matches!(command.action, records::Action::Help) {
                    require_config(command.config.as_ref())?;
                }
                return Ok(Invocation::Records(Box::new(command)));
            }
            other => return Err(other.unexpected()),
        };
        match task {
            Task::Serve => task = chosen,
            Task::Check | Task::Migrate | Task::PrintConfig => {
                return Err("--check, --migrate and --print-config are one task each".into());
            }
        }
    }
    require_config(config.as_ref())?;
    Ok(Invocation::Do(task, config))
}

fn require_config(file: Option<&PathBuf>) -> Result<(), lexopt::Error> {
    let is_entry =
        |(name, _): (OsString, OsString)| name.as_encoded_bytes().starts_with(b"IDEMPOTENCY_");
    if file.is_none() && !std::env::vars_os().any(is_entry) {
        return Err("--config FILE is missing, and no variable begins with IDEMPOTENCY_".into());
    }
    Ok(())
}

fn with_records(command: &records::Command) -> Result<ExitCode, Box<dyn Error>> {
    if matches!(command.action, records::Action::Help) {
        print(records::HELP)?;
        return Ok(ExitCode::SUCCESS);
    }
    let config = Config::read_with_environment(command.config.as_deref(), std::env::vars_os())?;
    // What is said about changes does not depend on RUST_LOG.
    let audit = "idempotency::audit=info".parse()?;
    log(tracing::Level::WARN, |filter| filter.add_directive(audit));
    runtime()?.block_on(async {
        let layer = Sidecar::layer(&config).await?;
        records::run(&layer, command.json, &command.action).await
    })
}

fn suggest_from(arguments: &mut lexopt::Parser) -> Result<Invocation, lexopt::Error> {
    let from = match arguments.next()? {
        Some(Long("from")) => arguments.value()?.to_string_lossy().into_owned(),
        Some(other) => return Err(other.unexpected()),
        None => return Err("suggest needs --from http://HOST:PORT".into()),
    };
    match arguments.next()? {
        None => Ok(Invocation::Suggest(from)),
        Some(other) => Err(other.unexpected()),
    }
}

fn run(task: Task, file: Option<&Path>) -> Result<(), Box<dyn Error>> {
    let config = Config::read_with_environment(file, std::env::vars_os())?;
    match task {
        Task::Check => print(&Sidecar::contract(&config)?.markdown()),
        Task::PrintConfig => print(&in_force(&config)),
        Task::Migrate => Ok(runtime()?.block_on(Sidecar::migrate(&config))?),
        Task::Serve => {
            log(tracing::Level::INFO, |filter| filter);
            runtime()?.block_on(serve(&config))
        }
    }
}

/// Unlike `print!`, does not panic when the reader has closed the pipe.
fn print(text: &str) -> Result<(), Box<dyn Error>> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// Unlike `eprint!`, does not panic when nobody reads stderr any more.
fn complain(text: &str) {
    let _ = write!(std::io::stderr(), "error: {text}");
}

fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
}

async fn serve(config: &Config) -> Result<(), Box<dyn Error>> {
    // The handlers are installed first, so that a signal during the start ends the process in order.
    let shutdown = signals()?;
    let mut hangups = Signals::hangup()?;
    let sidecar = Sidecar::new(config).await?;
    info!(address = %sidecar.listens_on(), "listening");
    if let Some(address) = sidecar.serves_metrics_on() {
        info!(%address, "metrics");
    }
    let certificates = sidecar.certificates();
    let reloads = async move {
        loop {
            hangups.next().await;
            info!("SIGHUP: reading certificates again");
            certificates.reload();
        }
    };
    tokio::select! {
        () = sidecar.serve(shutdown) => {}
        () = reloads => {}
    }
    info!("shut down");
    Ok(())
}

/// Completes at the first signal that asks for an end. A second signal ends the process at once.
fn signals() -> std::io::Result<impl Future<Output = ()>> {
    let mut signals = Signals::ends()?;
    Ok(async move {
        signals.next().await;
        tokio::spawn(async move {
            signals.next().await;
            error!("ended by a second signal");
            std::process::exit(1);
        });
    })
}

#[cfg(unix)]
struct Signals(Vec<tokio::signal::unix::Signal>);

#[cfg(unix)]
impl Signals {
    /// The signals that ask for an end.
    fn ends() -> std::io::Result<Self> {
        use tokio::signal::unix::SignalKind;
        Self::of(&[
            SignalKind::terminate(),
            SignalKind::interrupt(),
            SignalKind::quit(),
        ])
    }

    /// The signal that asks for the certificates to be read again.
    fn hangup() -> std::io::Result<Self> {
        Self::of(&[tokio::signal::unix::SignalKind::hangup()])
    }

    fn of(kinds: &[tokio::signal::unix::SignalKind]) -> std::io::Result<Self> {
        let signals = kinds.iter().map(|kind| tokio::signal::unix::signal(*kind));
        Ok(Self(signals.collect::<std::io::Result<_>>()?))
    }

    async fn next(&mut self) {
        std::future::poll_fn(|cx| {
            // All are polled, so that each of them can wake this task.
            let received = self
                .0
                .iter_mut()
                .map(|signal| signal.poll_recv(cx).is_ready());
            if received.fold(false, |any, ready| any | ready) {
                std::task::Poll::Ready(())
            } else {
                std::task::Poll::Pending
            }
        })
        .await;
    }
}

/// Other systems than Unix have Ctrl-C alone.
#[cfg(not(unix))]
struct Signals {
    is_end: bool,
}

#[cfg(not(unix))]
impl Signals {
    fn ends() -> std::io::Result<Self> {
        Ok(Self { is_end: true })
    }

    fn hangup() -> std::io::Result<Self> {
        Ok(Self { is_end: false })
    }

    async fn next(&mut self) {
        if !self.is_end || tokio::signal::ctrl_c().await.is_err() {
            std::future::pending().await
        }
    }
}

/// The text of an error and of all its causes.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
