//! A process is killed while its steps write to the database of the records (G12).

use std::collections::BTreeSet;
use std::env;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use sqlx::Transaction;
use tower::BoxError;
use tower_idempotency::exactly_once::CommitError;

use super::Db;
use super::shop::*;

const TABLE: &str = "STEPS_OF_A_KILLED_PROCESS_TABLE";
const PLACE: &str = "STEPS_OF_A_KILLED_PROCESS_PLACE";
const FIRST: &str = "STEPS_OF_A_KILLED_PROCESS_FIRST";
const STOPS: &str = "STEPS_OF_A_KILLED_PROCESS_STOPS";

/// A handler whose step writes the key of its request into the ledger. The first response is not
/// recorded. `says` is told how far each step has come.
fn taking(shop: &Arc<Shop>, says: fn(&str, &str), stops: bool) -> Till {
    let lease = Duration::from_secs(2);
    let layer = shop
        .builder()
        .defaults(|options| options.steps(true).lease(lease));
    let shop = Arc::clone(shop);
    till(&layer.build().unwrap(), move |request| {
        let shop = Arc::clone(&shop);
        async move {
            let claim = claim(&request);
            let key = request.headers()["idempotency-key"].to_str()?.to_owned();
            let work = |mut transaction: Transaction<'static, Db>| {
                let (shop, key) = (Arc::clone(&shop), key.clone());
                async move {
                    let insert = format!("INSERT INTO {{ledger}} (entry) VALUES ('{key}')");
                    sqlx::query(shop.sql(&insert))
                        .execute(&mut *transaction)
                        .await?;
                    says("wrote", &key);
                    if stops {
                        std::future::pending::<()>().await;
                    }
                    Ok::<_, CommitError>((transaction, key))
                }
            };
            let taken = claim.step_in(&shop.handlers, "take", work).await?;
            says("stepped", &key);
            let status = match claim.context().attempt() {
                1 => StatusCode::SERVICE_UNAVAILABLE,
                _ => StatusCode::CREATED,
            };
            Ok::<_, BoxError>(answer(status, taken))
        }
    })
}

/// This is the process: it takes until it is killed, and says how far it has come.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_one_to_be_killed() {
    let [Ok(table), Ok(place), Ok(first), Ok(stops)] = [TABLE, PLACE, FIRST, STOPS].map(env::var)
    else {
        return;
    };
    // Whatever becomes of the test, and of the tasks here.
    std::thread::spawn(|| {
        std::thread::sleep(Duration::from_secs(90));
        eprintln!("nobody has killed the process");
        std::process::exit(1);
    });
    let first: usize = first.parse().unwrap();
    let pool = super::pool_at(&place);
    let shop = Shop::existing(table, pool.clone(), pool).await;
    let says = |how: &str, key: &str| {
        let mut out = std::io::stdout().lock();
        // A line of its own, also behind the words of the test's harness.
        write!(out, "\n{how} {key}\n").unwrap();
        out.flush().unwrap();
    };
    let till = taking(&shop, says, stops == "true");
    let mut lines = tokio::task::JoinSet::new();
    for line in 0..4 {
        let till = till.clone();
        lines.spawn(async move {
            for number in (first + line..).step_by(4) {
                ask(&till, &format!("order {number}")).await;
            }
        });
    }
    lines.join_all().await;
}

/// A process that does not outlive its test.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The keys that a process has named before it was killed.
#[derive(Default)]
struct Said {
    wrote: BTreeSet<String>,
    stepped: BTreeSet<String>,
}

/// Starts the process, and kills it once it has said so much.
fn killed_after(said: usize, shop: &Shop, first: usize, stops: bool) -> Said {
    let (_, module) = module_path!().split_once("::").unwrap();
    let child = Command::new(env::current_exe().unwrap())
        .args(["--exact", &format!("{module}::the_one_to_be_killed")])
        .arg("--nocapture")
        .env(TABLE, &shop.table)
        .env(PLACE, super::place_of(&shop.pool))
        .env(FIRST, first.to_string())
        .env(STOPS, stops.to_string())
        .stdout(Stdio::piped())
        .spawn();
    let mut child = Killed(child.unwrap());
    let (mut all, mut lines) = (Said::default(), 0);
    // What the process says before the signal reaches it counts too. It ends by itself in any case.
    for line in BufReader::new(child.0.stdout.take().unwrap()).lines() {
        match line.unwrap().split_once(' ') {
            Some(("wrote", key)) => all.wrote.insert(key.to_owned()),
            Some(("stepped", key)) => all.stepped.insert(key.to_owned()),
            _ => continue,
        };
        lines += 1;
        if lines == said {
            child.0.kill().unwrap();
        }
    }
    child.0.wait().unwrap();
    assert!(lines >= said, "it ended by itself after {lines}");
    all
}

/// Each step that somebody sees has its write, and each write its step.
async fn both_or_neither(shop: &Shop) {
    let difference = "SELECT (SELECT count(*) FROM {ledger}) - (SELECT count(*) FROM {t}_steps)";
    assert_eq!(shop.number(difference).await, 0);
}

/// A retry of every order goes on where the process was killed, once the lease has lapsed.
async fn each_is_taken_once(shop: &Arc<Shop>, orders: &BTreeSet<String>) {
    let till = taking(shop, |_, _| {}, false);
    for order in orders {
        until(async || {
            let got = ask(&till, order).await;
            assert!(got.0 != 201 || got.1 == *order, "{got:?}");
            got.0 == 201
        })
        .await;
    }
}

#[tokio::test]
async fn a_step_and_its_write_are_both_there_or_both_not_whenever_the_process_is_killed() {
    let shop = Shop::open().await;
    let mut orders = BTreeSet::new();
    for round in 0..3 {
        let said = killed_after(30 + 11 * round, &shop, 1000 * (round + 1), false);
        both_or_neither(&shop).await;
        for order in &said.stepped {
            let there = format!("SELECT count(*) FROM {{ledger}} WHERE entry = '{order}'");
            assert_eq!(shop.number(&there).await, 1, "{order}");
        }
        orders.extend(said.wrote);
    }
    each_is_taken_once(&shop, &orders).await;
    let entries = "SELECT count(DISTINCT entry) FROM {ledger}";
    let expected = i64::try_from(orders.len()).unwrap();
    assert_eq!(shop.number(entries).await, expected);
    assert_eq!(shop.entries().await, expected);
}

#[tokio::test]
async fn a_process_that_is_killed_inside_the_transaction_of_a_step_leaves_nothing_of_it() {
    let shop = Shop::open().await;
    let said = killed_after(1, &shop, 0, true);
    assert!(said.stepped.is_empty());
    both_or_neither(&shop).await;
    assert_eq!(shop.entries().await, 0);
    each_is_taken_once(&shop, &said.wrote).await;
    let expected = i64::try_from(said.wrote.len()).unwrap();
    assert_eq!(shop.entries().await, expected);
}
