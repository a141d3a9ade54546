//! A `Process` is one of the servers, seen from outside: the run kills it, freezes
//! it and starts it again.

use std::env;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use super::BoxError;
use super::server::{Setup, VARIABLE};

const COMES_UP_WITHIN: Duration = Duration::from_secs(90);

#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    pub(crate) port: u16,
}

impl Process {
    /// `arguments` make this program look at its environment variable and start as
    /// a server.
    pub(crate) async fn start(setup: &Setup, arguments: &[String]) -> Result<Self, BoxError> {
        let mut child = Command::new(env::current_exe()?)
            .args(arguments)
            .env(VARIABLE, serde_json::to_string(setup)?)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let says = child.stdout.take().ok_or("it has a standard output")?;
        let mut says = BufReader::new(says).lines();
        let port = timeout(COMES_UP_WITHIN, async {
            while let Some(line) = says.next_line().await? {
                // The test harness prints lines of its own before this line.
                if let Some((_, port)) = line.split_once("port ") {
                    return Ok(port.parse()?);
                }
            }
            Err::<u16, BoxError>("a server ended before it came up".into())
        });
        let port = port.await.map_err(|_| "a server does not come up")??;
        Ok(Self { child, port })
    }

    /// Sends SIGKILL, as the kernel's out-of-memory killer would.
    pub(crate) async fn kill(&mut self) -> Result<(), BoxError> {
        Ok(self.child.kill().await?)
    }

    pub(crate) async fn freeze(&self) -> Result<(), BoxError> {
        self.signal("STOP").await
    }

    pub(crate) async fn thaw(&self) -> Result<(), BoxError> {
        self.signal("CONT").await
    }

    async fn signal(&self, name: &str) -> Result<(), BoxError> {
        let id = self.child.id().ok_or("a server has ended by itself")?;
        let sent = Command::new("kill")
            .args([format!("-{name}"), id.to_string()])
            .status()
            .await?;
        if sent.success() {
            return Ok(());
        }
        Err(format!("kill -{name} failed").into())
    }
}
