//! The checker judges a run: it compares the ledger, the history of all clients and
//! the journals of all servers with the guarantees.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::time::Duration;

use super::calm::Calm;
use super::history::{Answer, Attempt, Broken, End, Entry, Execution, Quest, Saw};
use super::linearizability::linearizable;

/// `Run` holds everything that happened.
#[derive(Clone, Debug, Default)]
pub(crate) struct Run {
    pub(crate) operations: u32,
    /// Each response must come within this time once nothing is broken.
    pub(crate) patience: Duration,
    pub(crate) entries: Vec<Entry>,
    pub(crate) attempts: Vec<Attempt>,
    pub(crate) quests: Vec<Quest>,
    pub(crate) executions: Vec<Execution>,
    pub(crate) broken: Vec<Broken>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Rule {
    OneEntry,
    NothingLost,
    SameBytes,
    InTime,
    OverIsOver,
    LateIsRefused,
    OtherBodies,
    RefusalsAreTrue,
    TokensRise,
    Linearizable,
}

pub(crate) const RULES: [Rule; 10] = [
    Rule::OneEntry,
    Rule::NothingLost,
    Rule::SameBytes,
    Rule::InTime,
    Rule::OverIsOver,
    Rule::LateIsRefused,
    Rule::OtherBodies,
    Rule::RefusalsAreTrue,
    Rule::TokensRise,
    Rule::Linearizable,
];

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::OneEntry => "a key has one entry in the ledger",
            Self::NothingLost => "an answer names an entry that is there",
            Self::SameBytes => "all answers of a key are the same bytes",
            Self::InTime => "a key is answered soon after the last fault",
            Self::OverIsOver => "what was answered neither runs nor is in flight",
            Self::LateIsRefused => "a late completion is refused",
            Self::OtherBodies => "another body under the key never succeeds",
            Self::RefusalsAreTrue => "refusals say what is so",
            Self::TokensRise => "later executions have higher tokens",
            Self::Linearizable => "small keys are linearizable",
        })
    }
}

/// A violation is something that happened although a rule forbids it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Violation {
    pub(crate) rule: Rule,
    pub(crate) operation: u32,
    pub(crate) why: String,
}

/// Returns all violations of a run.
pub(crate) fn check(run: &Run) -> Vec<Violation> {
    let mut keys: BTreeMap<u32, Key<'_>> = (0..run.operations)
        .map(|number| (number, Key::default()))
        .collect();
    for own in &run.entries {
        keys.entry(own.operation).or_default().entries.push(own);
    }
    for own in &run.attempts {
        keys.entry(own.operation).or_default().attempts.push(own);
    }
    for own in &run.quests {
        keys.entry(own.operation).or_default().quests.push(own);
    }
    for own in &run.executions {
        keys.entry(own.operation).or_default().executions.push(own);
    }
    let calm = Calm::after(&run.broken, run.patience);
    let mut found = Vec::new();
    for (operation, mut key) in keys {
        key.attempts.sort_by_key(|own| own.sent);
        let mut add = |rule, why: Vec<String>| {
            found.extend(why.into_iter().map(|why| Violation {
                rule,
                operation,
                why,
            }));
        };
        add(Rule::OneEntry, key.one_entry());
        add(Rule::NothingLost, key.nothing_lost(operation));
        add(Rule::SameBytes, key.same_bytes());
        add(Rule::InTime, key.in_time(&calm));
        add(Rule::OverIsOver, key.over_is_over());
        add(Rule::LateIsRefused, key.late_is_refused());
        add(Rule::OtherBodies, key.other_bodies());
        add(Rule::RefusalsAreTrue, key.refusals_are_true());
        add(Rule::TokensRise, key.tokens_rise());
        if linearizable(&key.attempts, &key.entries) == Some(false) {
            let why = "no order of its requests explains what they were told".to_owned();
            add(Rule::Linearizable, vec![why]);
        }
    }
    found.sort();
    found
}

/// `Key` holds what happened under one key.
#[derive(Default)]
struct Key<'a> {
    entries: Vec<&'a Entry>,
    attempts: Vec<&'a Attempt>,
    quests: Vec<&'a Quest>,
    /// The executions are sorted by when they began.
    executions: Vec<&'a Execution>,
}

impl<'a> Key<'a> {
    fn answers(&self) -> impl Iterator<Item = (&'a Attempt, &'a Answer)> {
        self.attempts.iter().filter_map(|own| match &own.saw {
            Saw::Answer(answer) => Some((*own, answer)),
            _ => None,
        })
    }

    fn one_entry(&self) -> Vec<String> {
        let of: Vec<_> = self.entries.iter().map(|own| &own.execution).collect();
        match of.len() {
            1 => Vec::new(),
            0 => vec!["no entry".to_owned()],
            entries => vec![format!("{entries} entries: {of:?}")],
        }
    }

    fn nothing_lost(&self, operation: u32) -> Vec<String> {
        let there: HashSet<_> = self.entries.iter().map(|own| &own.execution).collect();
        let lost = self
            .answers()
            .filter(|(_, answer)| answer.operation != operation || !there.contains(&answer.entry));
        let mut lost: Vec<_> = lost
            .map(|(_, answer)| {
                let Answer {
                    entry, operation, ..
                } = answer;
                format!("an answer names entry {entry} of operation {operation}")
            })
            .collect();
        lost.dedup();
        lost
    }

    fn same_bytes(&self) -> Vec<String> {
        let of: HashMap<_, _> = self
            .answers()
            .map(|(_, answer)| (answer.digest, &answer.entry))
            .collect();
        if of.len() <= 1 {
            return Vec::new();
        }
        let mut of: Vec<_> = of.into_values().collect();
        of.sort();
        vec![format!("{} answers, from executions {of:?}", of.len())]
    }

    fn in_time(&self, calm: &Calm) -> Vec<String> {
        let late = self.quests.iter().filter_map(|own| {
            let until = own.settled.unwrap_or(own.gave_up);
            let waited = calm.waited_for(own.begun, until);
            let end = own.settled.map_or("no answer", |_| "an answer");
            (own.settled.is_none() || waited).then(|| {
                let seconds = Duration::from_micros(until - own.begun).as_secs_f64();
                format!("client {} had {end} after {seconds:.1} s", own.client)
            })
        });
        late.collect()
    }

    fn over_is_over(&self) -> Vec<String> {
        let Some(seen) = self.answers().map(|(own, _)| own.ended).min() else {
            return Vec::new();
        };
        let in_flight = self.attempts.iter().filter(|own| {
            own.sent > seen && matches!(&own.saw, Saw::Refused(code) if code == "in-flight")
        });
        let answered: Vec<_> = self.answers().map(|(_, answer)| &answer.entry).collect();
        let stood = self
            .executions
            .iter()
            .filter(|own| answered.contains(&&own.name));
        let token = stood.map(|own| own.token).min();
        // An execution with an older token was claimed earlier: its server was
        // frozen before the handler could begin. Its completion is refused, so this
        // execution is not a new one.
        let is_older = |own: &Execution| own.is_layered() && Some(own.token) < token;
        let again = self
            .executions
            .iter()
            .filter(|own| own.began > seen && !is_older(own));
        in_flight
            .map(|own| format!("client {} was told in-flight after an answer", own.client))
            .chain(again.map(|own| format!("execution {} began after an answer", own.name)))
            .collect()
    }

    fn late_is_refused(&self) -> Vec<String> {
        let late = self
            .executions
            .iter()
            .filter(|own| own.end == End::Completed && is_late(own, &self.executions));
        late.map(|own| format!("execution {} completed after it was overtaken", own.name))
            .collect()
    }

    fn other_bodies(&self) -> Vec<String> {
        let of: HashSet<_> = self.entries.iter().map(|own| own.body).collect();
        let wrong = self.answers().filter(|(own, _)| !of.contains(&own.body));
        let mut wrong: Vec<_> = wrong
            .map(|(own, answer)| {
                let body = own.body.name();
                format!("the {body} body was given the answer of {}", answer.entry)
            })
            .collect();
        wrong.dedup();
        wrong
    }

    fn refusals_are_true(&self) -> Vec<String> {
        let bodies: HashSet<_> = self.attempts.iter().map(|own| own.body).collect();
        let wrong = self.attempts.iter().filter_map(|own| match &own.saw {
            Saw::Refused(code) => match code.as_str() {
                "in-flight" | "store-unavailable" => None,
                "key-reused" if bodies.len() > 1 => None,
                _ => Some(code.clone()),
            },
            Saw::Failed(status) if *status != 503 => Some(status.to_string()),
            _ => None,
        });
        let mut wrong: Vec<_> = wrong
            .map(|told| format!("a client was told {told}"))
            .collect();
        wrong.dedup();
        wrong
    }

    fn tokens_rise(&self) -> Vec<String> {
        let mut by_attempt = self.executions.clone();
        by_attempt.sort_by_key(|own| (own.attempt, own.token));
        let wrong = by_attempt
            .windows(2)
            .filter(|two| two[0].token >= two[1].token || two[0].attempt >= two[1].attempt);
        wrong
            .map(|two| {
                let [a, b] = [two[0], two[1]];
                format!(
                    "attempt {} has token {}, attempt {} has token {}",
                    a.attempt, a.token, b.attempt, b.token
                )
            })
            .collect()
    }
}

/// Returns whether the execution tried to complete after another execution had
/// taken over.
pub(crate) fn is_late(own: &Execution, all: &[&Execution]) -> bool {
    let overtook = |other: &&&Execution| {
        other.token > own.token && own.completing.is_some_and(|at| at > other.began)
    };
    all.iter().any(|other| overtook(&other))
}

#[cfg(test)]
#[path = "checker_tests.rs"]
mod tests;
