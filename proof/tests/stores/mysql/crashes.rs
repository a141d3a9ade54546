//! Can a reader see what a crash takes back?

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use sqlx::MySqlPool;
use tower_idempotency::MySqlStore;
use tower_idempotency::store::{RecordState, Store};

use super::{acquired, claim, paid};
use crate::servers::Server;

/// `strace` holds each write of a server to its redo log back for two seconds, as a slow disk does.
struct SlowLog(Child);

impl SlowLog {
    fn of(server: &Server) -> Self {
        let mut strace = Command::new("strace")
            .args(["-f", "-o", "/dev/null", "-P"])
            .arg(server.directory().join("data/ib_logfile0"))
            .args([
                "-e",
                "trace=pwrite64",
                "-e",
                "inject=pwrite64:delay_enter=2000000",
                "-p",
            ])
            .arg(server.pid())
            .stderr(Stdio::piped())
            .spawn()
            .expect("strace is installed: see scripts/test");
        let mut said = BufReader::new(strace.stderr.take().unwrap()).lines();
        let attached = said.any(|line| line.is_ok_and(|line| line.contains("attached")));
        assert!(
            attached,
            "strace can't attach: run as root, or set kernel.yama.ptrace_scope = 0"
        );
        Self(strace)
    }
}

impl Drop for SlowLog {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Kills the server as soon as another session has found a completion, and returns whether the
/// record is in flight again.
async fn is_taken_back(settings: &[&str]) -> bool {
    let server = Server::start("mysql", settings);
    let open = async || {
        let pool = MySqlPool::connect(server.url()).await.unwrap();
        MySqlStore::open(pool).await.unwrap()
    };
    let pool = MySqlPool::connect(server.url()).await.unwrap();
    MySqlStore::builder(pool).migrate().await.unwrap();
    let (owner, reader) = (Arc::new(open().await), open().await);
    let lease = acquired(owner.claim(&claim(1)).await.unwrap());
    let slow = SlowLog::of(&server);
    let completing = tokio::spawn({
        let owner = Arc::clone(&owner);
        async move { owner.complete(&lease, &paid("paid")).await }
    });
    let state = async |store: &MySqlStore| {
        let record = store.look_up(&claim(1).id).await.unwrap();
        record.expect("there is a record").state
    };
    while !matches!(state(&reader).await, RecordState::Completed { .. }) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    server.kill();
    completing.abort();
    drop(slow);
    server.restart();
    matches!(state(&open().await).await, RecordState::InFlight { .. })
}

/// Both runs do the same. So the second one would find what the first one finds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_sees_what_a_crash_takes_back_only_without_a_binary_log() {
    assert!(is_taken_back(&["--skip-log-bin"]).await);
    assert!(!is_taken_back(&[]).await);
}
