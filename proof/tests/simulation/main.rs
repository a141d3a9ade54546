//! These tests run apps, clients and a store in a simulated network. Each seed
//! breaks the network in its own way, and the check asks whether G1 to G5 held.
//!
//! `SIMULATION_SEEDS=5000` runs that many seeds; `SIMULATION_SEED=17` runs that one
//! seed and prints what happened. A test that fails names its seed.

mod app;
mod check;
mod client;
mod log;
mod occurrences;
mod plan;
mod remote;
mod simulate;
mod store;
mod wire;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use self::check::{Rule, Violation, check};
use self::log::Event;
use self::occurrences::Occurrences;
use self::plan::{Plan, Sabotage};
use self::simulate::simulate;

/// This many seeds run, unless the environment says otherwise.
const SEEDS: u64 = 500;
/// A planted fault must be found within this many seeds.
const SEEDS_TO_NOTICE: u64 = 60;

fn number(variable: &str) -> Option<u64> {
    let value = std::env::var(variable).ok()?;
    Some(
        value
            .parse()
            .unwrap_or_else(|_| panic!("{variable} must be a number")),
    )
}

/// Returns what is wrong with one seed, and everything that happened.
fn run(plan: &Plan) -> (Vec<Violation>, Vec<Event>) {
    let (events, end) = simulate(plan);
    (check(plan, &events, end), events)
}

fn report(plan: &Plan, violations: &[Violation], events: &[Event]) -> String {
    let log = log::text(events);
    let wrong: Vec<_> = violations.iter().map(ToString::to_string).collect();
    let wrong = wrong.join(
        "
    ",
    );
    format!(
        "{plan:#?}\n{log}\nSIMULATION_SEED={} goes wrong:\n    {wrong}\n",
        plan.seed
    )
}

/// Runs seeds on all cores, until the first few fail.
fn run_all(seeds: u64, seen: &Mutex<Occurrences>) -> Vec<(u64, String)> {
    let next = AtomicU64::new(0);
    let failed = Mutex::new(Vec::new());
    let worker = || {
        while failed.lock().unwrap().len() < 5 {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds {
                return;
            }
            let plan = Plan::new(seed);
            let report = match catch_unwind(AssertUnwindSafe(|| run(&plan))) {
                Ok((violations, events)) => {
                    seen.lock().unwrap().count(&events);
                    if violations.is_empty() {
                        continue;
                    }
                    report(&plan, &violations, &events)
                }
                Err(_) => format!("{plan:#?}\nSIMULATION_SEED={seed} panics"),
            };
            failed.lock().unwrap().push((seed, report));
        }
    };
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(2, usize::from) {
            scope.spawn(worker);
        }
    });
    let mut failed = failed.into_inner().unwrap();
    failed.sort();
    failed
}

#[test]
fn the_guarantees_hold_in_a_network_that_breaks() {
    if let Some(seed) = number("SIMULATION_SEED") {
        let plan = Plan::new(seed);
        let (violations, events) = run(&plan);
        println!("{}", report(&plan, &violations, &events));
        assert!(violations.is_empty(), "see above");
        return;
    }
    let seeds = number("SIMULATION_SEEDS").unwrap_or(SEEDS);
    let seen = Mutex::default();
    let failed = run_all(seeds, &seen);
    let numbers: Vec<_> = failed.iter().map(|(seed, _)| seed).collect();
    if let Some((_, report)) = failed.first() {
        panic!("{report}\nseeds that fail, among those tried: {numbers:?}");
    }
    let seen = seen.into_inner().unwrap();
    println!("in {seeds} seeds: {seen:#?}");
    if seeds >= SEEDS {
        seen.assert_everything_occurred();
    }
}

#[test]
fn a_seed_always_tells_the_same_story() {
    for seed in 0..20 {
        let plan = Plan::new(seed);
        let [one, other] = [run(&plan), run(&plan)].map(|(_, events)| log::text(&events));
        assert!(
            one == other,
            "SIMULATION_SEED={seed}:\n{one}\nand then\n{other}"
        );
    }
}

/// Checks that `sabotage` breaks `rule` in one of the first seeds.
#[track_caller]
fn assert_noticed(sabotage: Sabotage, rule: Rule) {
    let noticed = (0..SEEDS_TO_NOTICE).find(|seed| {
        let plan = Plan::new(*seed).with(sabotage);
        run(&plan).0.iter().any(|violation| violation.rule == rule)
    });
    assert!(
        noticed.is_some(),
        "{sabotage:?} breaks {rule:?}, and nobody noticed"
    );
}

#[test]
fn apps_without_the_layer_break_g1_and_g3() {
    assert_noticed(Sabotage::NoLayer, Rule::G1);
    assert_noticed(Sabotage::NoLayer, Rule::G3);
}

#[test]
fn a_store_that_gives_away_live_leases_breaks_g1() {
    assert_noticed(Sabotage::TakesLiveLeases, Rule::G1);
}

#[test]
fn a_store_that_gives_away_completed_records_breaks_g2_and_g3() {
    assert_noticed(Sabotage::ForgetsCompletions, Rule::G2);
    assert_noticed(Sabotage::ForgetsCompletions, Rule::G3);
}

#[test]
fn an_answer_that_was_not_stored_breaks_g3() {
    assert_noticed(Sabotage::StoresNothing, Rule::G3);
}

#[test]
fn a_finished_operation_that_is_released_breaks_g3() {
    assert_noticed(Sabotage::ReleasesInstead, Rule::G3);
}

#[test]
fn a_store_that_lets_anyone_complete_breaks_g5() {
    assert_noticed(Sabotage::AnyoneCompletes, Rule::G5);
}

#[test]
fn a_store_that_repeats_tokens_breaks_g5() {
    assert_noticed(Sabotage::RepeatsTokens, Rule::G5);
}

#[test]
fn a_store_whose_leases_never_lapse_leaves_clients_without_answers() {
    assert_noticed(Sabotage::LeasesNeverLapse, Rule::Ends);
}

#[test]
fn leases_that_are_not_renewed_lapse_where_nothing_breaks() {
    assert_noticed(Sabotage::RenewsNothing, Rule::Calm);
    assert_noticed(Sabotage::ShortLeases, Rule::Calm);
}
