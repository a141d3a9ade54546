//! These tests check what is in the file after a process has ended.

use std::collections::BTreeSet;
use std::env;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use tower_idempotency::store::{Claimed, Record, RecordState, Release, Store};

use super::{Directory, acquire, answer, claim, connect, id, pool_of};

fn body(record: &Record) -> &[u8] {
    match &record.state {
        RecordState::Completed { completion, .. } => &completion.body,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_restart_keeps_everything() {
    let directory = Directory::new();
    let store = connect(&directory.file()).await;
    let lease = acquire(&store, &claim(1)).await;
    store.complete(&lease, &answer("paid")).await.unwrap();
    let running = acquire(&store, &claim(2)).await;
    let released = acquire(&store, &claim(3)).await;
    let how = Release::MayRunAgain;
    store
        .release(&id(3), &released.claim.nonce, how)
        .await
        .unwrap();
    drop(store);

    let store = connect(&directory.file()).await;
    let Claimed::Found(record) = store.claim(&claim(1)).await.unwrap() else {
        panic!("it would run again");
    };
    assert_eq!(body(&record), b"paid");
    assert_eq!(record.token, lease.token);
    let Claimed::Found(record) = store.claim(&claim(2)).await.unwrap() else {
        panic!("two would run");
    };
    assert!(matches!(record.state, RecordState::InFlight { .. }));
    // The store knows the owner by its nonce.
    let again = acquire(&store, &running.claim).await;
    assert_eq!((again.token, again.attempt), (running.token, 1));
    let next = acquire(&store, &claim(3)).await;
    assert_eq!(next.attempt, 2);
    assert!(next.token > released.token);
}

const FILE: &str = "SQLITE_STORE_OF_THE_ONE_TO_BE_KILLED";
const FIRST: &str = "SQLITE_STORE_FIRST_NUMBER";

/// This process claims and completes for ever, and prints each confirmed step.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_one_to_be_killed() {
    let (Ok(file), Ok(first)) = (env::var(FILE), env::var(FIRST)) else {
        return;
    };
    let first: u32 = first.parse().unwrap();
    let store = connect(file.as_ref()).await;
    let mut lines = tokio::task::JoinSet::new();
    for line in 0..8 {
        let store = store.clone();
        lines.spawn(async move {
            for number in (first + line..).step_by(8) {
                let lease = acquire(&store, &claim(number)).await;
                say(&format!("claimed {number}"));
                let text = format!("answer {number} ").repeat(200);
                store.complete(&lease, &answer(text)).await.unwrap();
                say(&format!("completed {number}"));
            }
        });
    }
    lines.join_all().await;
}

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").unwrap();
    out.flush().unwrap();
}

/// `Said` holds the steps that such a process printed.
#[derive(Default)]
struct Said {
    claimed: BTreeSet<u32>,
    completed: BTreeSet<u32>,
}

impl Said {
    /// Starts the process, and kills it once it has printed this many lines, if it
    /// still runs then.
    fn hear(&mut self, mut command: Command, file: &Path, first: u32, lines: usize) {
        let mut child = command
            .env(FILE, file)
            .env(FIRST, first.to_string())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut said = 0;
        // Lines that the process prints before the signal reaches it count too.
        for line in BufReader::new(child.stdout.take().unwrap()).lines() {
            match line.unwrap().split_once(' ') {
                Some(("claimed", number)) => self.claimed.insert(number.parse().unwrap()),
                Some(("completed", number)) => self.completed.insert(number.parse().unwrap()),
                _ => continue,
            };
            said += 1;
            if said == lines {
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
        assert!(said >= 50, "it ended by itself after {said}");
    }

    async fn is_there(&self, file: &Path) {
        let store = connect(file).await;
        for number in &self.completed {
            let record = store.look_up(&id(*number)).await.unwrap();
            let record = record.unwrap_or_else(|| panic!("{number} would run again"));
            let expected = format!("answer {number} ").repeat(200);
            assert_eq!(body(&record), expected.as_bytes());
        }
        for number in self.claimed.difference(&self.completed) {
            let found = store.claim(&claim(*number)).await.unwrap();
            assert!(matches!(found, Claimed::Found(_)), "{number}: {found:?}");
        }
        let check: String = sqlx::query_scalar("PRAGMA integrity_check")
            .fetch_one(&pool_of(file).await)
            .await
            .unwrap();
        assert_eq!(check, "ok");
    }
}

fn the_one_to_be_killed_alone(command: &mut Command) {
    command.args([
        "--exact",
        "sqlite::crashes::the_one_to_be_killed",
        "--nocapture",
    ]);
}

#[tokio::test]
async fn a_killed_process_has_said_nothing_that_is_not_there() {
    let directory = Directory::new();
    let mut said = Said::default();
    for round in 0..5 {
        let mut command = Command::new(env::current_exe().unwrap());
        the_one_to_be_killed_alone(&mut command);
        let lines = 100 + 37 * round as usize;
        said.hear(command, &directory.file(), round * 1_000_000, lines);
    }
    said.is_there(&directory.file()).await;
}

/// Here a write fails only at its commit, after the statement has already returned
/// its result.
#[cfg(unix)]
#[tokio::test]
async fn what_could_not_be_committed_was_not_said_either() {
    let directory = Directory::new();
    let mut said = Said::default();
    let mut command = Command::new("sh");
    // No file may grow beyond two or four megabytes. SQLite does not move anything
    // out of its log before the log has that size.
    let limited = "trap '' XFSZ; ulimit -f 4000; exec \"$0\" \"$@\"";
    command
        .args(["-c", limited])
        .arg(env::current_exe().unwrap());
    the_one_to_be_killed_alone(&mut command);
    said.hear(command, &directory.file(), 0, 10_000);
    assert!(said.claimed.len() < 5_000, "it never failed");
    said.is_there(&directory.file()).await;
}
