//! The contract of a store as rules, and a check of any store against them.
//!
//! Run these rules in a test of every [`Store`] that you write. [`check`] runs
//! all rules, each on records of its own, and its [`Report`] says for each
//! broken rule what was expected and what came. May use: `store` and what is
//! below it.
//!
//! ```
//! use tower_idempotency::MemoryStore;
//! use tower_idempotency::conformance;
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() {
//! // In a test: #[tokio::test(start_paused = true)]
//! let store = MemoryStore::new();
//! let report = conformance::check(async || store.clone()).await;
//! report.assert_passed();
//! # }
//! ```
//!
//! # A store of one's own
//!
//! - **`open` gives another handle on the same records**, as another process
//!   would have it: a client and a pool of connections of its own, the same
//!   table. It is called three times, and each rule works with all three.
//!   A store in this process gives clones.
//! - **Time.** A store elsewhere has a clock of its own: use
//!   `#[tokio::test(flavor = "multi_thread")]`, and the rules take some
//!   seconds of real time, most of them at once. A store in this process that
//!   reads tokio's clock takes next to none with `start_paused = true`; one
//!   that reads another clock must not have it paused.
//! - **A slow machine fails no rule.** Where a rule needs a lease that lives
//!   it takes a long one; where it needs one that has lapsed, it waits well
//!   beyond; and what must not happen yet is judged by when it was asked.
//! - **Records.** Ids are random, so one table serves any number of runs. Most
//!   of what is left in it is gone a day later. A few records stay, for they
//!   are under [`OnLapsedLease::Refuse`](crate::options::OnLapsedLease::Refuse) or kept
//!   for `Duration::MAX`: give the suite a table of its own.
//! - **Load.** There are never more than eight calls under way, so a pool of
//!   ten connections will do. A store that says
//!   [`Contention`](crate::store::StoreErrorKind::Contention) is asked again,
//!   for 15 seconds at most. Any other error is a broken rule.
//! - **`look_up` and `forget` are optional.** Rules about them are reported as
//!   not supported, and fail [`Report::assert_passed`] unless
//!   [excepted](Report::except) by name. Without `subscribe` a store is polled,
//!   which passes.
//! - **One rule at a time.** [`check_only`] looks into what a report says.
//!
//! What no rule can see: that a claim which finds a completion writes nothing,
//! that each call is one round trip, what survives a crash of the server, and
//! that the store's own clock is read after it waited for a lock. Test these
//! yourself.
//!
//! # The rules
//!
//! A rule's name does not change. A later version may have more of them.
//!
#![doc = include_str!("rules.md")]

use std::any::Any;
use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::store::{Store, erased};

mod answer;
mod claims;
mod completing;
mod dropping;
mod expect;
mod forgetting;
mod identity;
mod lapsing;
mod leases;
mod looking_up;
mod payloads;
mod releasing;
mod renewing;
mod report;
mod retention;
mod stage;
mod unknown;
mod waiting;

use self::expect::{Checked, Failure};
use self::stage::{CALLS, Handle, Stores};

pub use report::{Finding, Report, Verdict};

/// After which time a rule that hangs counts as broken.
const LIMIT: Duration = Duration::from_secs(120);

/// Checks a store against every rule.
///
/// `open` is called three times, and returns another handle on the same records
/// each time, as another process would have it: with a new pool of connections,
/// if the store has one.
pub async fn check<F, Fut, S>(open: F) -> Report
where
    F: Fn() -> Fut,
    Fut: Future<Output = S>,
    S: Store,
{
    run(open, rules()).await
}

/// Checks a store against some rules only, to look into what a [`Report`]
/// says.
///
/// # Panics
/// If there is no rule of such a name.
pub async fn check_only<F, Fut, S, R>(open: F, names: impl IntoIterator<Item = R>) -> Report
where
    F: Fn() -> Fut,
    Fut: Future<Output = S>,
    S: Store,
    R: AsRef<str>,
{
    let mut all = rules();
    let mut chosen = Vec::new();
    for name in names {
        let name = name.as_ref();
        let at = all.iter().position(|rule| rule.name == name);
        let at = at.unwrap_or_else(|| panic!("there is no rule `{name}`"));
        chosen.push(all.remove(at));
    }
    run(open, chosen).await
}

type Running = Pin<Box<dyn Future<Output = Checked> + Send>>;

struct Rule {
    name: &'static str,
    states: &'static str,
    run: Box<dyn FnOnce(Stores) -> Running + Send>,
}

fn rule<F, Fut>(name: &'static str, states: &'static str, run: F) -> Rule
where
    F: FnOnce(Stores) -> Fut + Send + 'static,
    Fut: Future<Output = Checked> + Send + 'static,
{
    Rule {
        name,
        states,
        run: Box::new(|stores| Box::pin(run(stores))),
    }
}

fn rules() -> Vec<Rule> {
    let chapters = chapters().into_iter();
    chapters.flat_map(|(_, rules)| rules).collect()
}

fn chapters() -> [(&'static str, Vec<Rule>); 14] {
    [
        ("Who gets a record", claims::rules()),
        ("What tells records and owners apart", identity::rules()),
        ("How long an owner has it", leases::rules()),
        ("Renewals", renewing::rules()),
        ("Completions", completing::rules()),
        ("Releases", releasing::rules()),
        ("Outcomes that nobody knows", unknown::rules()),
        ("How long a record stays", retention::rules()),
        ("How long a lapsed record stays", lapsing::rules()),
        ("What is kept of an answer", payloads::rules()),
        ("Waiting", waiting::rules()),
        ("Forgetting", forgetting::rules()),
        ("Looking up", looking_up::rules()),
        ("Lost answers and dropped calls", dropping::rules()),
    ]
}

async fn run<F, Fut, S>(open: F, rules: Vec<Rule>) -> Report
where
    F: Fn() -> Fut,
    Fut: Future<Output = S>,
    S: Store,
{
    let calls = Arc::new(Semaphore::new(CALLS));
    let handle = async || Handle {
        store: erased(open().await),
        calls: Arc::clone(&calls),
    };
    let stores = Stores {
        a: handle().await,
        b: handle().await,
        c: handle().await,
    };
    let mut findings = Vec::new();
    let mut tasks = JoinSet::new();
    let mut places = HashMap::new();
    for Rule { name, states, run } in rules {
        let running = tasks.spawn(timeout(LIMIT, run(stores.clone())));
        places.insert(running.id(), findings.len());
        // Until it has ended.
        let verdict = Verdict::Failed(String::new());
        findings.push(Finding {
            rule: name,
            states,
            verdict,
        });
    }
    while let Some(ended) = tasks.join_next_with_id().await {
        let (task, verdict) = match ended {
            Ok((task, Ok(Ok(())))) => (task, Verdict::Passed),
            Ok((task, Ok(Err(Failure::Broken(why))))) => (task, Verdict::Failed(why)),
            Ok((task, Ok(Err(Failure::Unsupported(what))))) => (task, Verdict::Unsupported(what)),
            Ok((task, Err(_))) => (
                task,
                Verdict::Failed(format!("it has not ended after {LIMIT:?}")),
            ),
            Err(error) => (
                error.id(),
                Verdict::Failed(panic_message(&*error.into_panic())),
            ),
        };
        findings[places[&task]].verdict = verdict;
    }
    Report::new(findings)
}

fn panic_message(payload: &(dyn Any + Send)) -> String {
    let message = payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    format!("it panicked: {}", message.unwrap_or("with no message"))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::fmt::Write;

    use super::*;

    #[test]
    fn the_documentation_lists_every_rule() {
        let mut list = String::new();
        let mut number = 0;
        for (title, rules) in chapters() {
            write!(list, "## {title}\n\n").unwrap();
            for Rule { name, states, .. } in rules {
                number += 1;
                writeln!(list, "{number}. **`{name}`**: {states}").unwrap();
            }
            list.push('\n');
        }
        assert_eq!(include_str!("rules.md").trim(), list.trim(), "\n{list}");
    }

    #[test]
    fn a_rule_has_a_name_of_its_own_in_kebab_case_and_one_sentence() {
        let mut names = HashSet::new();
        for Rule { name, states, .. } in rules() {
            assert!(names.insert(name), "{name} is there twice");
            let words = name.split('-').all(|word| {
                !word.is_empty()
                    && word
                        .chars()
                        .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit())
            });
            assert!(words, "{name}");
            assert!(states.ends_with('.') && !states.contains(". "), "{states}");
        }
    }
}
