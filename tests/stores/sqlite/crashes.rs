//! What is there after the end of a process.

use std::collections::BTreeSet;
use std::env;
use std::io::{BufRead, BufReader, Write};
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
    let how = Release::Tombstone;
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
    // Its owner is known by its nonce.
    let again = acquire(&store, &running.claim).await;
    assert_eq!((again.token, again.attempt), (running.token, 1));
    let next = acquire(&store, &claim(3)).await;
    assert_eq!(next.attempt, 2);
    assert!(next.token > released.token);
}

const FILE: &str = "SQLITE_STORE_OF_THE_ONE_TO_BE_KILLED";
const FIRST: &str = "SQLITE_STORE_FIRST_NUMBER";

/// Claims and completes for ever, and says what it was answered.
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

#[tokio::test]
async fn a_killed_process_has_said_nothing_that_is_not_there() {
    let directory = Directory::new();
    let mut claimed = BTreeSet::new();
    let mut completed = BTreeSet::new();
    for round in 0..5 {
        let mut child = Command::new(env::current_exe().unwrap())
            .args([
                "--exact",
                "sqlite::crashes::the_one_to_be_killed",
                "--nocapture",
            ])
            .env(FILE, directory.file())
            .env(FIRST, (round * 1_000_000).to_string())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut said = 0;
        // What is said before the signal reaches it counts too.
        while let Some(Ok(line)) = lines.next() {
            match line.split_once(' ') {
                Some(("claimed", number)) => claimed.insert(number.parse::<u32>().unwrap()),
                Some(("completed", number)) => completed.insert(number.parse().unwrap()),
                _ => continue,
            };
            said += 1;
            if said == 100 + 37 * round {
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
        assert!(said >= 100, "it ended by itself after {said}");
    }

    let store = connect(&directory.file()).await;
    for number in &completed {
        let record = store.look_up(&id(*number)).await.unwrap();
        let record = record.unwrap_or_else(|| panic!("{number} would run again"));
        assert_eq!(
            body(&record),
            format!("answer {number} ").repeat(200).as_bytes()
        );
    }
    for number in claimed.difference(&completed) {
        let found = store.claim(&claim(*number)).await.unwrap();
        assert!(matches!(found, Claimed::Found(_)), "{number}: {found:?}");
    }
    let pool = pool_of(&directory.file()).await;
    let check: String = sqlx::query_scalar("PRAGMA integrity_check")
        .fetch_one(&pool)
        .await
        .unwrap();
    assert_eq!(check, "ok");
}
