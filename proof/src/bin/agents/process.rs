//! A `Process` is one of the servers, seen from outside.

use std::env;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use super::BoxError;
use super::server::{Setup, VARIABLE};

const COMES_UP_WITHIN: Duration = Duration::from_secs(60);
const SIDECAR: &str = "tower-idempotency-sidecar";

/// Where the SDK for Python is installed, and the shop that uses it.
const MODULES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/sdks/python");
const PYTHON_SHOP: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../sidecar/tests/contracts/sdks/mcp_shop.py"
);

/// What a process runs.
#[derive(Clone, Debug)]
pub(crate) enum Program {
    /// The shop of this program.
    Shop(Setup),
    /// The shop in Python, with its orders in this database.
    PythonShop(PathBuf),
    /// The sidecar, with this file.
    Sidecar { program: PathBuf, file: PathBuf },
}

#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    pub(crate) port: u16,
}

impl Process {
    pub(crate) async fn start(program: &Program) -> Result<Self, BoxError> {
        let mut command = program.command()?;
        let mut child = command.kill_on_drop(true).spawn()?;
        let (log, out) = (child.stderr.take(), child.stdout.take());
        let port = async {
            match program {
                Program::Sidecar { .. } => port(log, "listening address=127.0.0.1:").await,
                Program::Shop(_) | Program::PythonShop(_) => port(out, "").await,
            }
        };
        let port = timeout(COMES_UP_WITHIN, port).await;
        let port = port.map_err(|_| "a server does not come up")??;
        Ok(Self { child, port })
    }

    /// Sends SIGKILL, as the kernel's out-of-memory killer would.
    pub(crate) async fn kill(&mut self) -> Result<(), BoxError> {
        Ok(self.child.kill().await?)
    }
}

impl Program {
    /// The sidecar before the server at this port, with its records in `folder`.
    pub(crate) fn sidecar(folder: &Path, port: u16, config: &str) -> Result<Self, BoxError> {
        let program = env::current_exe()?.with_file_name(SIDECAR);
        if !program.exists() {
            let how = format!("cargo build -p {SIDECAR}");
            return Err(format!("{} is missing: {how}", program.display()).into());
        }
        let file = folder.join("sidecar.toml");
        let records = folder.join("records.db");
        let places = format!(
            "listen = \"127.0.0.1:0\"\nupstream = \"http://127.0.0.1:{port}\"\n\
             store = \"sqlite://{}\"\n",
            records.display()
        );
        fs::write(&file, places + config)?;
        Ok(Self::Sidecar { program, file })
    }

    fn command(&self) -> io::Result<Command> {
        let mut command = match self {
            Self::Shop(setup) => {
                let mut command = Command::new(env::current_exe()?);
                command.env(VARIABLE, serde_json::to_string(setup)?);
                command.stdin(Stdio::piped());
                command
            }
            Self::PythonShop(database) => {
                if !Path::new(MODULES).join("mcp").exists() {
                    return Err(io::Error::other(
                        "not installed: run `scripts/sdks install`",
                    ));
                }
                let mut command = Command::new("python3");
                command.arg(PYTHON_SHOP).arg(MODULES).arg(database);
                command.stdin(Stdio::null());
                command
            }
            Self::Sidecar { program, file } => {
                let mut command = Command::new(program);
                command.arg("--config").arg(file).env("RUST_LOG", "info");
                command.stdin(Stdio::null()).stderr(Stdio::piped());
                command
            }
        };
        command.stdout(Stdio::piped());
        Ok(command)
    }
}

/// The port on the line that has this text before it. What is printed later is read and dropped, so
/// that the process does not wait for room in the pipe.
async fn port(
    says: Option<impl AsyncRead + Unpin + Send + 'static>,
    before: &str,
) -> Result<u16, BoxError> {
    let mut lines = BufReader::new(says.ok_or("it is a pipe")?).lines();
    while let Some(line) = lines.next_line().await? {
        let Some((_, port)) = line.split_once(before) else {
            continue;
        };
        let port = port.trim().parse()?;
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        return Ok(port);
    }
    Err("a server ended before it came up".into())
}
