//! The sidecar as a process.

use std::env;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rlimit::Resource;

use crate::BoxError;

/// How many open files the sidecar may have: what most systems let a process have.
const FILES: u64 = 1024;
const NAME: &str = "tower-idempotency-sidecar";
const COMES_UP_WITHIN: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub(crate) struct Sidecar {
    child: Child,
    pub(crate) address: SocketAddr,
    pub(crate) metrics: SocketAddr,
}

/// Returns the path of the sidecar's program. Cargo builds the program where cargo runs
/// this one.
pub(crate) fn program(named: Option<&Path>) -> Result<PathBuf, BoxError> {
    if let Some(named) = named {
        return Ok(named.to_owned());
    }
    if let Some(cargo) = env::var_os("CARGO") {
        let mut build = Command::new(cargo);
        build.args(["build", "--quiet", "--package", NAME]);
        if !cfg!(debug_assertions) {
            build.arg("--release");
        }
        if !build.status()?.success() {
            return Err("the sidecar cannot be built".into());
        }
    }
    let program = env::current_exe()?.with_file_name(NAME);
    if !program.exists() {
        return Err(format!("{} is missing: name it with --sidecar", program.display()).into());
    }
    Ok(program)
}

impl Sidecar {
    /// Starts the program with a file of this text, and waits until it listens.
    pub(crate) fn start(program: &Path, config: &str) -> Result<Self, BoxError> {
        let file = env::temp_dir().join(format!("flood-{}.toml", std::process::id()));
        fs::write(&file, config)?;
        // The process inherits the limit of its open files from this one.
        let (own, most) = Resource::NOFILE.get()?;
        Resource::NOFILE.set(FILES.min(most), most)?;
        let child = Command::new(program)
            .arg("--config")
            .arg(&file)
            .env("RUST_LOG", "info")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn();
        Resource::NOFILE.set(own, most)?;
        let mut child = child?;
        let addresses = addresses(&mut child);
        fs::remove_file(&file)?;
        match addresses {
            Ok((address, metrics)) => Ok(Self {
                child,
                address,
                metrics,
            }),
            Err(error) => {
                let _ = child.kill();
                let _ = child.wait();
                Err(format!("{error}\n\nthe sidecar's file:\n{config}").into())
            }
        }
    }

    /// Whether the process still runs.
    pub(crate) fn is_alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// How many bytes of memory the process uses now.
    pub(crate) fn rss(&self) -> Option<u64> {
        self.status("VmRSS:")
    }

    /// How many bytes of memory the process used at most so far.
    pub(crate) fn peak(&self) -> Option<u64> {
        self.status("VmHWM:")
    }

    fn status(&self, name: &str) -> Option<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
        Some(kib << 10)
    }
}

/// The processes of a run end with it.
impl Drop for Sidecar {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Returns the addresses that the program logs, and reads its log until it ends.
fn addresses(child: &mut Child) -> Result<(SocketAddr, SocketAddr), BoxError> {
    let log = child.stderr.take().ok_or("the log is a pipe")?;
    let (send, lines) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(log).lines().map_while(Result::ok) {
            let _ = send.send(line);
        }
    });
    let until = Instant::now() + COMES_UP_WITHIN;
    let (mut listens, mut metrics) = (None, None);
    let mut said = String::new();
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let Ok(line) = lines.recv_timeout(left) else {
            return Err(format!("the sidecar did not come up: {said}").into());
        };
        if let Some((before, address)) = line.split_once(" address=") {
            let own = if before.ends_with("listening") {
                &mut listens
            } else {
                &mut metrics
            };
            *own = address.trim().parse().ok();
        }
        if let (Some(listens), Some(metrics)) = (listens, metrics) {
            return Ok((listens, metrics));
        }
        said.push_str(&line);
        said.push('\n');
    }
}
