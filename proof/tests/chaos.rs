//! These tests are short chaos runs. With all protections, each operation takes
//! effect once although everything breaks. Without one protection, or with a store
//! that breaks a rule, the checker reports the expected violation. The checker's
//! own tests stand beside the checker and run here.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

#[expect(dead_code, reason = "it has a `main` of its own")]
#[path = "../examples/chaos.rs"]
mod chaos;

use chaos::arguments::{Mode, Options, Protections};
use chaos::checker::Rule;
use chaos::planted::Planted;
use chaos::server;
use chaos::table::Table;

/// The runs take turns, so that each run has the machine to itself.
static ALONE: Mutex<()> = Mutex::new(());

const ALL: Protections = Protections {
    claim: true,
    fence: true,
    transaction: true,
    lock: true,
};

fn chaos(options: Options) -> Table {
    let server = ["--ignored", "--exact", "serves", "--nocapture"];
    let server: Vec<_> = server.iter().map(|own| (*own).to_owned()).collect();
    let table = chaos::run(&options, &server, false).unwrap();
    table.print(&mut std::io::stdout()).unwrap();
    table
}

fn alone<T>(run: impl FnOnce() -> T) -> T {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    run()
}

/// Returns the rules that were broken, each once.
fn broken(table: &Table) -> Vec<Rule> {
    let mut rules: Vec<_> = table.violations.iter().map(|own| own.rule).collect();
    rules.sort();
    rules.dedup();
    rules
}

/// The runs below start this program again with this test, which is one of their
/// servers.
#[test]
#[ignore = "is run by the other tests"]
fn serves() {
    let setup = std::env::var(server::VARIABLE).expect("this is run by the other tests");
    server::serve(&setup).unwrap();
}

#[test]
fn each_operation_takes_effect_once_while_servers_and_their_database_are_killed() {
    let table = alone(|| {
        chaos(Options {
            store: "postgres".to_owned(),
            operations: 2000,
            kills: 10,
            freezes: Some(6),
            database_kills: Some(1),
            servers: Some(3),
            at_once: 24,
            lease: Duration::from_millis(1500),
            // A debug build on a busy machine needs seconds for a connection.
            grace: Some(Duration::from_secs(25)),
            seed: 7,
            ..Options::default()
        })
    });
    assert_eq!(table.violations, []);
    let counts = table.counts;
    assert_eq!(counts.struck.kills, 10);
    assert_eq!(counts.struck.freezes, 6);
    assert_eq!(counts.struck.database_kills, 1);
    assert_eq!(
        (counts.duplicates, counts.lost, counts.unanswered),
        (0, 0, 0)
    );
    assert!(counts.takeovers > 0, "nobody was overtaken");
    assert!(counts.fenced > 0, "nobody was refused");
}

/// The claim is made in the handler's transaction: no lease has to lapse after a crash.
#[test]
fn each_operation_takes_effect_once_where_the_claim_is_in_its_transaction() {
    let table = alone(|| {
        chaos(Options {
            store: "postgres".to_owned(),
            operations: 2000,
            kills: 10,
            freezes: Some(6),
            database_kills: Some(1),
            servers: Some(3),
            at_once: 24,
            mode: Mode::InTransaction,
            // A debug build on a busy machine needs seconds for a connection.
            grace: Some(Duration::from_secs(15)),
            seed: 7,
            ..Options::default()
        })
    });
    assert_eq!(table.violations, []);
    let counts = table.counts;
    assert_eq!((counts.struck.kills, counts.struck.database_kills), (10, 1));
    assert_eq!(
        (counts.duplicates, counts.lost, counts.unanswered),
        (0, 0, 0)
    );
    assert!(counts.takeovers > 0, "no operation was begun anew");
}

#[test]
fn without_the_lock_duplicates_are_found() {
    let table = alone(|| {
        chaos(Options {
            store: url("TEST_POSTGRES_URL"),
            operations: 300,
            kills: 0,
            freezes: Some(0),
            servers: Some(3),
            at_once: 24,
            mode: Mode::InTransaction,
            grace: Some(Duration::from_secs(25)),
            seed: 3,
            protections: Protections { lock: false, ..ALL },
            ..Options::default()
        })
    });
    assert!(!table.is_content());
    assert!(
        broken(&table).contains(&Rule::OneEntry),
        "{:?}",
        broken(&table)
    );
}

/// `mariadbd` shows other sessions a commit that is not on its disk yet, unless a binary log makes
/// it prepare the commit first. Then a kill takes back what a client was told.
#[test]
fn what_a_client_was_told_outlives_each_kill_of_mariadb() {
    let table = alone(|| {
        chaos(Options {
            store: "mysql".to_owned(),
            operations: 600,
            kills: 0,
            freezes: Some(0),
            database_kills: Some(8),
            servers: Some(2),
            at_once: 24,
            lease: Duration::from_millis(1500),
            grace: Some(Duration::from_secs(25)),
            seed: 11,
            ..Options::default()
        })
    });
    assert_eq!(table.violations, []);
    let counts = table.counts;
    assert_eq!(counts.struck.database_kills, 8);
    assert_eq!(
        (counts.duplicates, counts.lost, counts.unanswered),
        (0, 0, 0)
    );
}

/// These runs use the database that all tests share, so they never kill the
/// database.
fn without(protections: Protections, kills: u32, freezes: u32) -> Table {
    alone(|| {
        chaos(Options {
            store: url("TEST_POSTGRES_URL"),
            operations: 300,
            kills,
            freezes: Some(freezes),
            servers: Some(3),
            at_once: 24,
            grace: Some(Duration::from_secs(25)),
            seed: 3,
            protections,
            ..Options::default()
        })
    })
}

#[test]
fn without_the_claim_duplicates_are_found() {
    let protections = Protections {
        claim: false,
        ..ALL
    };
    let table = without(protections, 0, 0);
    assert!(!table.is_content());
    let broken = broken(&table);
    for rule in [Rule::OneEntry, Rule::SameBytes, Rule::OverIsOver] {
        assert!(broken.contains(&rule), "{rule} in {broken:?}");
    }
}

#[test]
fn without_the_fence_late_completions_are_found() {
    let protections = Protections {
        fence: false,
        ..ALL
    };
    let table = without(protections, 0, 8);
    assert!(!table.is_content());
    let broken = broken(&table);
    for rule in [Rule::OneEntry, Rule::LateIsRefused] {
        assert!(broken.contains(&rule), "{rule} in {broken:?}");
    }
}

#[test]
fn without_the_transaction_what_crashes_in_the_gap_is_found() {
    let protections = Protections {
        transaction: false,
        ..ALL
    };
    let table = without(protections, 10, 8);
    assert!(!table.is_content());
    let broken = broken(&table);
    assert!(broken.contains(&Rule::OneEntry), "{broken:?}");
    // The record itself is correct.
    assert!(!broken.contains(&Rule::LateIsRefused), "{broken:?}");
}

#[test]
fn a_store_that_breaks_a_rule_is_found_by_what_comes_of_it() {
    let found = |planted| {
        let (rule, operations, kills, freezes) = match planted {
            Planted::SharesLiveLeases | Planted::ForgetsCompletions => (Rule::OneEntry, 120, 0, 0),
            Planted::ReleasesCompletions | Planted::KeepsNothing => (Rule::OverIsOver, 120, 0, 0),
            // In these runs clients ask until they give up, so few operations are
            // enough.
            Planted::RunsAgain | Planted::HidesCompletions => (Rule::OverIsOver, 24, 0, 0),
            Planted::ChangesAnswers => (Rule::SameBytes, 120, 0, 0),
            Planted::LetsTheOvertakenComplete => (Rule::LateIsRefused, 200, 0, 6),
            Planted::NeverLapses => (Rule::InTime, 120, 4, 0),
            Planted::IgnoresFingerprints => (Rule::OtherBodies, 120, 0, 0),
            Planted::RepeatsTokens | Planted::CountsNoAttempts => (Rule::TokensRise, 200, 0, 6),
            Planted::MixesRecords => (Rule::NothingLost, 120, 0, 0),
            Planted::SealsCompletions => (Rule::RefusalsAreTrue, 120, 0, 0),
        };
        let table = on_redis(Some(planted), operations, kills, freezes);
        let broken = broken(&table);
        (!broken.contains(&rule)).then(|| format!("{planted:?}: {rule} is not in {broken:?}"))
    };
    let missed = alone(|| {
        std::thread::scope(|threads| {
            let (some, others) = Planted::ALL.split_at(Planted::ALL.len() / 2);
            let find = |planted: &[Planted]| -> Vec<String> {
                planted.iter().filter_map(|own| found(*own)).collect()
            };
            let some = threads.spawn(move || find(some));
            let mut missed = find(others);
            missed.extend(some.join().unwrap());
            missed
        })
    });
    assert_eq!(missed, Vec::<String>::new());
}

#[test]
fn a_store_that_breaks_none_is_content_where_nothing_crashes() {
    let table = alone(|| on_redis(None, 120, 0, 0));
    assert_eq!(table.violations, []);
}

fn on_redis(planted: Option<Planted>, operations: u32, kills: u32, freezes: u32) -> Table {
    chaos(Options {
        store: url("TEST_REDIS_URL"),
        operations,
        kills,
        freezes: Some(freezes),
        servers: Some(2),
        at_once: 24,
        // The lease without a planted fault is long, so that a busy machine causes
        // no lapse.
        lease: Duration::from_secs(match planted {
            None => 20,
            Some(_) if freezes > 0 => 1,
            Some(_) => 2,
        }),
        grace: Some(Duration::from_secs(if planted.is_none() { 25 } else { 2 })),
        seed: 5,
        planted,
        ..Options::default()
    })
}

fn url(name: &str) -> String {
    match std::env::var(name) {
        Ok(url) if !url.is_empty() => url,
        _ => panic!("{name} is not set: run `scripts/test`, or see scripts/servers"),
    }
}

/// Returns the exit status, and what the program printed on stdout and stderr.
fn program(arguments: &[&str]) -> (u8, String, String) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let arguments = arguments.iter().map(|own| (*own).to_owned());
    let status = chaos::chaos(arguments, false, &mut out, &mut err);
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status, text(out), text(err))
}

#[test]
fn wrong_arguments_end_in_status_2_and_the_usage() {
    for arguments in [
        &["--forever"][..],
        &["--store"],
        &["--store", "paper"],
        &["--operations", "0"],
        &["--kills", "many"],
        &["--lease-ms", "5"],
        &["--without", "luck"],
        &["--mode", "perhaps"],
        &["--mode", "in_transaction", "--store", "memory"],
        &["--break", "everything"],
        &["3000"],
    ] {
        let (status, out, err) = program(arguments);
        assert_eq!((status, out.as_str()), (2, ""), "{arguments:?}");
        assert!(err.starts_with("chaos: "), "{err}");
        assert!(err.contains("Usage: chaos [--store STORE]"), "{err}");
    }
    let (status, out, _) = program(&["--help"]);
    assert_eq!(status, 0);
    assert!(out.starts_with("Usage: chaos"));
}
