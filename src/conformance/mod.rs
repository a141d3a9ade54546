//! The contract of a store as a list of rules, and a check that runs them on any store.
//!
//! Run these rules in a test of every [`Store`] that you write. [`check`] runs all rules, each on
//! records of its own, and its [`Report`] says for each broken rule what was expected and what
//! came instead.
//!
//! Public items: [`check`], [`check_only`], [`Report`], [`Finding`], [`Verdict`]. May use:
//! `store`, `record`.
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
//! - **`open` returns another handle on the same records**, as another process would have it: with
//!   a client and a pool of connections of its own, and the same table. `open` is called three
//!   times, and each rule works with all three handles. A store in the memory of this process
//!   returns clones.
//! - **Time.** A store on a server has a clock of its own: use
//!   `#[tokio::test(flavor = "multi_thread")]`. The rules then take some seconds of real time, and
//!   most rules run at the same time. A store in this process that reads tokio's clock can use
//!   `start_paused = true`, and then the rules take almost no time. A store that reads another
//!   clock must not use `start_paused`.
//! - **A slow machine breaks no rule.** A rule that needs a live lease takes a long one. A rule
//!   that needs a lapsed lease waits for much longer than the lease. A rule by which something
//!   must not happen before some time checks the time at which it made the call.
//! - **Records.** The ids are random, so any number of runs can use the same table. Most of the
//!   records that a run leaves expire within a day. A few records stay, because they have
//!   [`OnLapsedLease::Refuse`](crate::options::OnLapsedLease::Refuse) or are kept for
//!   `Duration::MAX`: give the rules a table of their own.
//! - **Load.** No more than eight calls run at the same time, so a pool of ten connections is
//!   enough. A call that fails with [`Contention`](crate::store::StoreErrorKind::Contention) is
//!   repeated for at most 15 seconds. Any other error breaks the rule.
//! - **`look_up`, `forget` and `list` are optional.** If a store does not support them, the rules
//!   about them are reported as not supported, and [`Report::assert_passed`] panics unless each is
//!   [excepted](Report::except) by name. `subscribe` is optional too: without it the store is
//!   polled, and the rules about waiting pass.
//! - **Steps are optional**, and the store says so itself: where
//!   [`keeps_steps`](crate::store::Store::keeps_steps) is `false`, the rules about steps are
//!   excepted.
//! - **Some rules only.** [`check_only`] runs the rules that you name, for example those that a
//!   report lists as broken.
//!
//! No rule can check that a claim which finds a completion writes nothing, that each call is one
//! round trip, that a page of a list is one bounded step however many records there are, that
//! records survive a crash of the server, and that the store reads its clock after it has waited
//! for a lock. Test these points yourself.
//!
//! # The rules
//!
//! The name of a rule does not change. A later version may have more rules.
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
mod listing;
mod looking_up;
mod payloads;
mod releasing;
mod renewing;
mod report;
mod retention;
mod stage;
mod steps;
mod unknown;
mod waiting;

use self::expect::{Checked, Failure};
use self::stage::{CALLS, Handle, Stores};

pub use report::{Finding, Report, Verdict};

/// The time after which a rule that has not ended counts as broken.
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

/// Checks a store against some rules only, for example those that a [`Report`] lists as broken.
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

fn chapters() -> [(&'static str, Vec<Rule>); 16] {
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
        ("Listing", listing::rules()),
        ("Lost answers and dropped calls", dropping::rules()),
        ("Steps", steps::rules()),
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
        // This verdict stands until the rule has ended.
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
    let report = Report::new(findings);
    if stores.a.store.keeps_steps() {
        return report;
    }
    let steps = steps::rules().into_iter().map(|rule| rule.name);
    let steps: Vec<_> = steps
        .filter(|name| {
            report
                .findings()
                .iter()
                .any(|finding| finding.rule == *name)
        })
        .collect();
    report.except(steps)
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
