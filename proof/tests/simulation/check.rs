//! These rules must hold for every log, whatever broke.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use crate::log::{Answer, Event, What};
use crate::plan::{MAX_RECORDED_BODY, Plan};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rule {
    /// One execution runs at a time; under `refuse` there are never two.
    G1,
    /// A recorded operation never runs again.
    G2,
    /// A response is recorded before it is delivered, so every retry gets the same
    /// response.
    G3,
    /// An operation that began comes to its end, whether its client waits or not.
    G4,
    /// Stale owners can change nothing, and tokens grow.
    G5,
    /// A record is released or completed according to how its handler ended.
    Judged,
    /// In the end every client has a final response, and no record is in flight.
    Ends,
    /// Where nothing breaks, no lease lapses.
    Calm,
    /// The layer rejects only for reasons that exist in the simulation.
    Answers,
}

#[derive(Debug)]
pub(crate) struct Violation {
    pub(crate) rule: Rule,
    at: Duration,
    says: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:.4} {:?}: {}",
            self.at.as_secs_f64(),
            self.rule,
            self.says
        )
    }
}

/// Returns everything that is wrong in what happened until `end`.
pub(crate) fn check(plan: &Plan, events: &[Event], end: Duration) -> Vec<Violation> {
    let mut seen = Seen {
        plan: Some(plan),
        ..Seen::default()
    };
    for event in events {
        seen.now = event.at;
        seen.see(event);
    }
    seen.now = end;
    seen.end();
    seen.violations
}

#[derive(Default)]
struct Seen<'a> {
    plan: Option<&'a Plan>,
    now: Duration,
    violations: Vec<Violation>,
    /// These are the ends of the leases, by record and token, as the store reported
    /// them.
    leases: BTreeMap<(&'a str, u64), Duration>,
    /// These are the records by token. The store gives each token only once.
    records: BTreeMap<u64, &'a str>,
    last_token: BTreeMap<&'a str, u64>,
    /// These are the token and the outcome that completed each record.
    completed: BTreeMap<&'a str, (u64, &'a str)>,
    may_run_again: BTreeSet<u64>,
    /// These are the executions by key, in order.
    executions: BTreeMap<&'a str, Vec<Execution<'a>>>,
    /// By number: each request's key, and the response that the request must get.
    requests: BTreeMap<u64, (&'a str, Option<&'a Answer>)>,
    /// By key: the recorded response that a client got.
    answered: BTreeMap<&'a str, &'a Answer>,
    content: u64,
}

struct Execution<'a> {
    number: u64,
    token: Option<u64>,
    host: &'a str,
    /// The execution ends by this time, unless its host crashes.
    ends_by: Duration,
    end: End,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    NotYet,
    /// The execution's host crashed.
    Crashed,
    With(u16),
    Panicked,
}

impl<'a> Seen<'a> {
    fn plan(&self) -> &'a Plan {
        self.plan.expect("set before the first event")
    }

    fn found(&mut self, rule: Rule, says: String) {
        let at = self.now;
        self.violations.push(Violation { rule, at, says });
    }

    fn see(&mut self, event: &'a Event) {
        match &event.what {
            What::Fault(_) | What::Restarted | What::Failed { .. } | What::Lost { .. } => {}
            What::Crashed => self.crash(&event.host),
            What::Began {
                key,
                execution,
                token,
                lasts,
                ..
            } => {
                self.begin(key, *execution, *token);
                self.executions.entry(key).or_default().push(Execution {
                    number: *execution,
                    token: *token,
                    host: &event.host,
                    ends_by: self.now + *lasts + Duration::from_secs(1),
                    end: End::NotYet,
                });
            }
            What::Ended { execution, status } => {
                let mut all = self.executions.values_mut().flatten();
                if let Some(known) = all.find(|known| known.number == *execution) {
                    known.end = status.map_or(End::Panicked, End::With);
                }
            }
            What::Acquired {
                record,
                token,
                until,
                takes_over,
                ..
            } => self.acquire(record, *token, *until, *takes_over),
            What::Renewed {
                record,
                token,
                until,
            } => {
                self.acts_as_owner(record, *token, "renews");
                self.leases.insert((record, *token), *until);
            }
            What::Completed {
                record,
                token,
                outcome,
            } => self.complete(record, *token, outcome),
            What::Released {
                record,
                token,
                may_run_again,
            } => {
                self.acts_as_owner(record, *token, "releases");
                self.release(*token, *may_run_again);
                self.leases.remove(&(record.as_str(), *token));
                if *may_run_again {
                    self.may_run_again.insert(*token);
                }
            }
            What::Asked { key, request, .. } => {
                let promised = self.answered.get(key.as_str()).copied();
                self.requests.insert(*request, (key, promised));
            }
            What::Answered { request, answer } => self.answer(*request, answer),
            What::Satisfied => self.content += 1,
        }
    }

    fn crash(&mut self, host: &str) {
        for execution in self.executions.values_mut().flatten() {
            if execution.host == host && execution.end == End::NotYet {
                execution.end = End::Crashed;
            }
        }
    }

    fn begin(&mut self, key: &'a str, number: u64, token: Option<u64>) {
        let mut wrong = Vec::new();
        for earlier in self.executions.get(key).into_iter().flatten() {
            let first = earlier.number;
            if token == earlier.token && token.is_some() {
                wrong.push(format!(
                    "executions {first} and {number} of {key} have one token"
                ));
            }
            let released = earlier
                .token
                .is_some_and(|token| self.may_run_again.contains(&token));
            if self.plan().refuse && !released {
                wrong.push(format!(
                    "execution {number} of {key} begins, though {first} did and was not released"
                ));
            }
            if token.is_none() && earlier.end == End::NotYet {
                wrong.push(format!(
                    "execution {number} of {key} begins while {first} runs"
                ));
            }
        }
        let record = token.and_then(|token| self.records.get(&token).copied());
        if let (Some(record), Some(token)) = (record, token) {
            for ((_, other), until) in self.leases.range((record, 0)..=(record, u64::MAX)) {
                if *other != token && *until > self.now {
                    wrong.push(format!(
                        "execution {number} of {key} begins with token {token}, while the lease of \
                         {other} lives until {:.4}",
                        until.as_secs_f64()
                    ));
                }
            }
            if let Some((by, _)) = self.completed.get(record) {
                let says = format!("execution {number} of {key} begins, though {by} completed it");
                self.found(Rule::G2, says);
            }
        } else if token.is_some() {
            wrong.push(format!(
                "execution {number} of {key} has a token that nobody gave"
            ));
        }
        for says in wrong {
            self.found(Rule::G1, says);
        }
    }

    fn acquire(&mut self, record: &'a str, token: u64, until: Duration, takes_over: bool) {
        if let Some(last) = self.last_token.insert(record, token)
            && last >= token
        {
            self.found(
                Rule::G5,
                format!("[{record}] gets token {token} after {last}"),
            );
        }
        if takes_over && self.plan().calm {
            self.found(Rule::Calm, format!("[{record}] is taken over by {token}"));
        }
        self.records.insert(token, record);
        self.leases.insert((record, token), until);
    }

    /// Checks that the owner was not overtaken, and that its record is not
    /// completed.
    fn acts_as_owner(&mut self, record: &'a str, token: u64, does: &str) {
        let last = self.last_token.get(record).copied().unwrap_or(token);
        if last > token {
            self.found(
                Rule::G5,
                format!("[{record}] {token} {does}, though {last} has taken over"),
            );
        }
        let until = self.leases.get(&(record, token));
        if self.plan().calm && until.is_some_and(|until| *until < self.now) {
            let says = format!("[{record}] {token} {does}, though its lease has lapsed");
            self.found(Rule::Calm, says);
        }
        if let Some((by, _)) = self.completed.get(record) {
            let says = format!("[{record}] {token} {does}, though {by} completed it");
            self.found(Rule::G5, says);
        }
    }

    fn execution_under(&self, token: u64) -> Option<&Execution<'a>> {
        let mut all = self.executions.values().flatten();
        all.find(|execution| execution.token == Some(token))
    }

    fn release(&mut self, token: u64, may_run_again: bool) {
        // The layer may release a claim before the handler begins.
        let Some(execution) = self.execution_under(token) else {
            return;
        };
        let (number, refuse) = (execution.number, self.plan().refuse);
        let end = execution.end;
        let right = match end {
            End::NotYet | End::Crashed => false,
            End::With(status) => status >= 500 && may_run_again,
            End::Panicked => may_run_again != refuse,
        };
        if !right {
            let how = if may_run_again {
                "to run again"
            } else {
                "as unknown"
            };
            let says = format!("execution {number} is released {how}, its end: {end:?}");
            self.found(Rule::Judged, says);
        }
    }

    fn complete(&mut self, record: &'a str, token: u64, outcome: &'a str) {
        self.acts_as_owner(record, token, "completes");
        let end = self.execution_under(token).map(|execution| execution.end);
        if !matches!(end, Some(End::With(..500))) {
            let says = format!("{token} completes an execution whose end is {end:?}");
            self.found(Rule::Judged, says);
        }
        self.leases.remove(&(record, token));
        self.completed.entry(record).or_insert((token, outcome));
    }

    fn answer(&mut self, request: u64, answer: &'a Answer) {
        let (key, promised) = self.requests[&request];
        let code = answer.code.as_deref();
        let fits = match code {
            None => answer.execution.is_some(),
            Some("in-flight" | "store-unavailable" | "response-unavailable") => true,
            Some("outcome-unknown") => self.plan().refuse,
            Some(_) => false,
        };
        if !fits {
            self.found(
                Rule::Answers,
                format!("request {request} is answered {answer}"),
            );
        }
        if let Some(number) = answer.execution
            && !self
                .executions
                .get(key)
                .is_some_and(|all| all.iter().any(|one| one.number == number))
        {
            self.found(
                Rule::Answers,
                format!("request {request} for {key} is answered {answer}"),
            );
        }
        if let Some(promised) = promised
            && !keeps(promised, answer)
        {
            let says = format!("request {request} for {key} is answered {answer}, not {promised}");
            self.found(Rule::G3, says);
        }
        if answer.is_recorded() {
            let first = *self.answered.entry(key).or_insert(answer);
            if !same(first, answer) && promised.is_none() {
                self.found(
                    Rule::G3,
                    format!("{key} has two answers, {first} and {answer}"),
                );
            }
        }
    }

    fn end(&mut self) {
        let (now, plan) = (self.now, self.plan());
        if self.content < plan.clients {
            let says = format!(
                "{} of {} clients have all answers",
                self.content, plan.clients
            );
            self.found(Rule::Ends, says);
        }
        let live: Vec<_> = self
            .leases
            .iter()
            .filter(|(_, until)| **until > now)
            .collect();
        let live: Vec<_> = live
            .into_iter()
            .map(|((record, token), _)| format!("[{record}] {token}"))
            .collect();
        if !live.is_empty() {
            self.found(Rule::Ends, format!("still in flight: {}", live.join(", ")));
        }
        let stuck =
            |execution: &&Execution<'_>| execution.end == End::NotYet && execution.ends_by < now;
        let stuck = self.executions.values().flatten().filter(stuck);
        let stuck: Vec<_> = stuck
            .map(|execution| execution.number.to_string())
            .collect();
        if !stuck.is_empty() {
            self.found(Rule::G4, format!("never ended: {}", stuck.join(", ")));
        }
    }
}

fn same(one: &Answer, other: &Answer) -> bool {
    (one.status, one.execution, &one.body) == (other.status, other.execution, &other.body)
}

/// Returns whether `later` is correct after a client has seen the whole of `first`.
fn keeps(first: &Answer, later: &Answer) -> bool {
    let sealed = first.body.len() > MAX_RECORDED_BODY;
    match later.code.as_deref() {
        Some("store-unavailable") => true,
        Some("response-unavailable") => sealed,
        _ => same(first, later) && later.replayed && !sealed,
    }
}
