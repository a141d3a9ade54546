//! The contract of a store, as rules that any store can be checked against.

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

mod claims;
mod completing;
mod dropping;
mod expect;
mod forgetting;
mod leases;
mod payloads;
mod releasing;
mod report;
mod retention;
mod stage;
mod waiting;

use self::expect::{Checked, Failure};
use self::stage::{CALLS, Handle, Stores};

pub use report::{Finding, Report, Verdict};

/// What a rule that hangs is given.
const LIMIT: Duration = Duration::from_secs(120);

/// Checks a store against every rule.
///
/// `open` gives another handle on the same records each time, as another
/// process would have it: a new pool of connections, if there is one. It is
/// called three times.
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
    [
        claims::rules(),
        leases::rules(),
        completing::rules(),
        releasing::rules(),
        retention::rules(),
        payloads::rules(),
        waiting::rules(),
        forgetting::rules(),
        dropping::rules(),
    ]
    .into_iter()
    .flatten()
    .collect()
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
