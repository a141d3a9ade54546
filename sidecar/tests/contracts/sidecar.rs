//! This module runs the sidecar's program with a file.

use std::env;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{self, Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

/// This is the value of the variable that `env:IDEMPOTENCY_SECRET` names.
pub(crate) const SECRET: &str = "a secret of the contract tests, 32 bytes or more";
const STARTS_WITHIN: Duration = Duration::from_secs(20);

/// This is a running sidecar. It is killed when it is dropped.
pub(crate) struct Sidecar {
    address: SocketAddr,
    child: Child,
    _directory: Directory,
    log: Arc<Mutex<String>>,
}

impl Sidecar {
    pub(crate) fn start(file: &str) -> Self {
        let directory = Directory::fresh();
        let path = directory.path().join("sidecar.toml");
        fs::write(&path, file).unwrap();
        let mut child = command(&path).stderr(Stdio::piped()).spawn().unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let log = Arc::new(Mutex::new(String::new()));
        let (found, address) = mpsc::channel();
        let kept = Arc::clone(&log);
        thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                if let Some(address) = listening(&line) {
                    // The program prints its address once, and the receiver of a
                    // second address would be gone.
                    let _ = found.send(address);
                }
                let mut log = kept.lock().unwrap();
                log.push_str(&line);
                log.push('\n');
            }
        });
        let Ok(address) = address.recv_timeout(STARTS_WITHIN) else {
            let _ = child.kill();
            child.wait().unwrap();
            panic!("does not listen:\n{}", log.lock().unwrap());
        };
        Self {
            address,
            child,
            _directory: directory,
            log,
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns what the sidecar has logged.
    pub(crate) fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("the sidecar's log:\n{}", self.log());
        }
    }
}

/// Returns what `--check` prints for a contract file of this directory.
pub(crate) fn check(name: &str) -> String {
    let file = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/contracts")
        .join(name);
    checked(&file)
}

fn checked(file: &Path) -> String {
    let Output {
        status,
        stdout,
        stderr,
    } = command(file).arg("--check").output().unwrap();
    let stderr = String::from_utf8_lossy(&stderr);
    assert!(status.success(), "{}: {stderr}", file.display());
    String::from_utf8(stdout).unwrap()
}

fn command(file: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tower-idempotency-sidecar"));
    command
        .arg("--config")
        .arg(file)
        .env("RUST_LOG", "info,tower_idempotency=trace")
        .stdin(Stdio::null());
    // A variable with this prefix that nothing refers to is a mistake.
    if fs::read_to_string(file).is_ok_and(|text| text.contains("env:IDEMPOTENCY_SECRET")) {
        command.env("IDEMPOTENCY_SECRET", SECRET);
    }
    command
}

/// No other test uses this directory. It is removed when `Directory` is dropped.
pub(crate) struct Directory(PathBuf);

impl Directory {
    pub(crate) fn fresh() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = env::temp_dir().join(format!("contracts-{}-{count}", process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Returns the address from the log line that says where the sidecar listens.
fn listening(line: &str) -> Option<SocketAddr> {
    let (_, address) = line.split_once("listening address=")?;
    address.trim_end().parse().ok()
}
