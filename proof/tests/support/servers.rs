//! These are real servers: shared ones whose addresses are in the environment, and
//! servers of a single test, which may damage them.

#![allow(dead_code, reason = "each program uses a part of it")]

use std::env;
use std::path::{Path, PathBuf};
use std::process::{self, Command};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Returns the address of a server that all tests share.
pub(crate) fn url(name: &str) -> String {
    match env::var(name) {
        Ok(url) if !url.is_empty() => url,
        _ => panic!(
            "{name} is not set: run `scripts/test`, or `eval \"$(scripts/servers start)\"`, or set {name} \
             to the URL of a server"
        ),
    }
}

/// Returns a new directory. It lies in the directory of the shared servers if there
/// is one, so that stopping these servers removes it as well.
pub(crate) fn fresh_directory(name: &str) -> PathBuf {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    env::var_os("TEST_SERVERS_DIR")
        .map_or_else(env::temp_dir, PathBuf::from)
        .join(format!("{name}-{}-{count}", process::id()))
}

/// This server belongs to one test. It is stopped when it is dropped.
#[derive(Debug)]
pub(crate) struct Server {
    kind: &'static str,
    directory: PathBuf,
    url: String,
}

impl Server {
    /// Starts a server. Each of `settings` is a line of the server's configuration.
    pub(crate) fn start(kind: &'static str, settings: &[&str]) -> Self {
        let directory = fresh_directory(kind);
        let url = start_one(kind, &directory, settings);
        Self {
            kind,
            directory,
            url,
        }
    }

    /// Starts a server of the same kind that follows this one.
    pub(crate) fn replica(&self) -> Self {
        let directory = fresh_directory(self.kind);
        let start = ["start-replica", self.kind];
        let url = run(script().args(start).args([&directory, &self.directory]));
        Self {
            kind: self.kind,
            directory,
            url,
        }
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Returns the directory of the server's data, log and settings.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Returns the id of the server's process.
    pub(crate) fn pid(&self) -> String {
        let pid = std::fs::read_to_string(self.directory.join("pid")).unwrap();
        pid.trim().to_owned()
    }

    /// Ends the server as a crash does: SIGKILL to all of its processes.
    pub(crate) fn kill(&self) {
        self.script("kill");
    }

    /// Starts the server again on its data and on the same port.
    pub(crate) fn restart(&self) {
        assert_eq!(start_one(self.kind, &self.directory, &[]), self.url);
    }

    /// Freezes the server: it keeps its connections and does not respond.
    pub(crate) fn freeze(&self) {
        self.script("freeze");
    }

    pub(crate) fn thaw(&self) {
        self.script("thaw");
    }

    fn script(&self, command: &str) {
        run(script().arg(command).arg(&self.directory));
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // If the server cannot be stopped, its directory still says which server it
        // is.
        let _ = script().arg("stop").arg(&self.directory).status();
    }
}

fn start_one(kind: &str, directory: &Path, settings: &[&str]) -> String {
    run(script()
        .args(["start-one", kind])
        .arg(directory)
        .args(settings))
}

fn script() -> Command {
    Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts/servers"))
}

/// Runs the script, and returns what the script prints on standard output. Errors
/// of the script go to standard error.
fn run(script: &mut Command) -> String {
    let output = script.stderr(process::Stdio::inherit()).output();
    let output = output.expect("scripts/servers runs");
    assert!(output.status.success(), "{script:?} failed");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}
