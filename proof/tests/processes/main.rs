//! Three processes share one store. Each process is a real HTTP server with the
//! layer in front of its handlers. Clients send the same keys to all three
//! processes at once, and each key executes once, in one process.

#[path = "../support/servers.rs"]
mod servers;

mod check;
mod clients;
mod process;

use std::time::Instant;

use check::{Execution, Found, violations};
use process::Process;
use servers::{fresh_directory, url};

const PROCESSES: usize = 3;
const KEYS: usize = 5_000;
/// Each key has this many attempts, spread over the processes.
const ATTEMPTS: usize = 6;

#[tokio::test(flavor = "multi_thread")]
async fn three_processes_on_one_redis_execute_each_key_once() {
    once_each(&with(&url("TEST_REDIS_URL"), "prefix=processes:")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn three_processes_on_a_redis_cluster_execute_each_key_once() {
    once_each(&with(&url("TEST_REDIS_CLUSTER_URL"), "prefix=processes:")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn three_processes_on_one_postgres_execute_each_key_once() {
    once_each(&with(&url("TEST_POSTGRES_URL"), "table=processes")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn three_processes_on_one_mysql_execute_each_key_once() {
    once_each(&with(&url("TEST_MYSQL_URL"), "table=processes")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn three_processes_on_one_sqlite_file_execute_each_key_once() {
    let directory = fresh_directory("sqlite");
    std::fs::create_dir_all(&directory).unwrap();
    once_each(&format!(
        "sqlite:{}",
        directory.join("records.db").display()
    ))
    .await;
    std::fs::remove_dir_all(&directory).unwrap();
}

/// This test shows that the check notices keys that execute more than once.
#[tokio::test(flavor = "multi_thread")]
async fn three_processes_with_a_store_each_are_found_out() {
    let keys = 100;
    let found = hammer("memory:", keys).await;
    let violations = violations(&found, keys, ATTEMPTS);
    let more_than_once = violations
        .iter()
        .filter(|violation| violation.contains("executed 3 times"));
    assert_eq!(more_than_once.count(), keys, "{violations:#?}");
}

/// The tests above start this program again with this test, which is one of their
/// processes.
#[test]
#[ignore = "is run by the other tests"]
fn serves() {
    process::serve();
}

/// The tests take turns, so that each test has the machine to itself.
static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

async fn once_each(url: &str) {
    let _turn = TURN.lock().await;
    let begun = Instant::now();
    let found = hammer(url, KEYS).await;
    let seconds = begun.elapsed().as_secs_f64();
    let engine = url.split(':').next().unwrap();
    println!(
        "{engine}: {KEYS} keys, {} attempts, {} requests, {} executions, {seconds:.1} s",
        found.answers.len(),
        found.requests,
        found.executions.len(),
    );
    let violations = violations(&found, KEYS, ATTEMPTS);
    assert!(
        violations.is_empty(),
        "{} violations: {:#?}",
        violations.len(),
        &violations[..violations.len().min(20)]
    );
    // The scheduler decides how the processes share the work, but each process must
    // take part.
    for process in 0..PROCESSES {
        let took_part = |execution: &Execution| execution.process == process;
        assert!(
            found.executions.iter().any(took_part),
            "process {process} executed nothing"
        );
    }
}

async fn hammer(url: &str, keys: usize) -> Found {
    let mut processes = Vec::new();
    for number in 0..PROCESSES {
        processes.push(Process::start(number, url));
    }
    let mut ports = Vec::new();
    for process in &mut processes {
        ports.push(process.port().await);
    }
    let (answers, requests) = clients::attempt(&ports, keys, ATTEMPTS).await;
    let mut executions = Vec::new();
    for process in processes {
        executions.extend(process.stop().await);
    }
    Found {
        executions,
        answers,
        requests,
    }
}

fn with(url: &str, parameter: &str) -> String {
    let separator = if url.contains('?') { '&' } else { '?' };
    format!("{url}{separator}{parameter}")
}
