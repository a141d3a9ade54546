//! The checker judges a history: it finds what the guarantees rule out and what
//! happened anyway.
//!
//! # The one exception
//!
//! Under `rerun` an owner that was paused for longer than its lease can be
//! overtaken (G1). The faults of the store alone never cause this. So an overtake
//! is excused only if the lease went unrenewed for its whole length, and the
//! process was measured not to run for a tenth of that length in the same time. An
//! execution that was overtaken in this way may run beside another execution, its
//! response may be discarded unread, and it does not count as the execution whose
//! completion was recorded.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::time::Duration;

use super::history::{Execution, LeftRecord, Overtake, Pause, Seen};
use super::one_key::OneKey;
use super::records::records_match;

/// `Run` holds everything that happened, and the options under which everything
/// happened.
#[derive(Clone, Debug)]
pub(crate) struct Run<'a> {
    pub(crate) protected: bool,
    pub(crate) lease: Duration,
    /// Responses longer than this are not kept.
    pub(crate) max_recorded: usize,
    /// Says whether a lapsed lease of this operation is refused.
    pub(crate) refuses: fn(u32) -> bool,
    pub(crate) executions: &'a [Execution],
    pub(crate) seen: &'a [Seen],
    pub(crate) overtakes: &'a [Overtake],
    /// These are the tokens of operations whose completion the store made
    /// difficult.
    pub(crate) troubled: &'a HashSet<u64>,
    pub(crate) pauses: &'a [Pause],
    pub(crate) records: &'a [LeftRecord],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Rule {
    OneAtATime,
    OnceRecordedNeverAgain,
    SameAnswer,
    NeverCancelled,
    TokensRise,
    AnswersAreTheirs,
    RefusalsAreTrue,
    AnswersArrive,
    RecordsMatch,
    NothingIsLeft,
}

pub(crate) const RULES: [Rule; 10] = [
    Rule::OneAtATime,
    Rule::OnceRecordedNeverAgain,
    Rule::SameAnswer,
    Rule::NeverCancelled,
    Rule::TokensRise,
    Rule::AnswersAreTheirs,
    Rule::RefusalsAreTrue,
    Rule::AnswersArrive,
    Rule::RecordsMatch,
    Rule::NothingIsLeft,
];

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::OneAtATime => "G1 one execution of a key at a time",
            Self::OnceRecordedNeverAgain => "G2 what is done does not run again",
            Self::SameAnswer => "G3 who saw an answer gets it again",
            Self::NeverCancelled => "G4 nobody cancels an operation",
            Self::TokensRise => "G5 later executions have higher tokens",
            Self::AnswersAreTheirs => "G6 answers are of their own request",
            Self::RefusalsAreTrue => "refusals say what is so",
            Self::AnswersArrive => "answers break off for a reason only",
            Self::RecordsMatch => "records match the ledger",
            Self::NothingIsLeft => "nothing is left over",
        })
    }
}

/// A violation is something that happened although a guarantee rules it out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Violation {
    pub(crate) rule: Rule,
    pub(crate) operation: Option<u32>,
    pub(crate) why: String,
}

/// Returns all violations of a run.
pub(crate) fn check(run: &Run<'_>) -> Vec<Violation> {
    let excused = excused(run);
    let mut operations: HashMap<u32, OneKey<'_>> = HashMap::new();
    for (number, execution) in run.executions.iter().enumerate() {
        let own = operations.entry(execution.operation).or_default();
        own.executions.push((number, execution));
    }
    for seen in run.seen {
        operations
            .entry(seen.operation)
            .or_default()
            .seen
            .push(seen);
    }
    let mut found = records_match(run);
    for (number, mut operation) in operations {
        operation.executions.sort_by_key(|(_, own)| own.begun.order);
        let mut add = |rule, why: Vec<String>| {
            found.extend(why.into_iter().map(|why| Violation {
                rule,
                operation: Some(number),
                why,
            }));
        };
        add(Rule::OneAtATime, operation.one_at_a_time(&excused));
        add(
            Rule::OnceRecordedNeverAgain,
            operation.never_again(&excused),
        );
        add(Rule::SameAnswer, operation.same_answer(run));
        add(Rule::NeverCancelled, operation.never_cancelled(&excused));
        add(Rule::AnswersAreTheirs, operation.answers_are_theirs(run));
        add(Rule::AnswersArrive, operation.answers_arrive(run, &excused));
        add(Rule::RefusalsAreTrue, operation.refusals_are_true(run));
        if run.protected {
            add(Rule::TokensRise, operation.tokens_rise());
        }
    }
    found.sort_by(|a, b| (a.operation, a.rule, &a.why).cmp(&(b.operation, b.rule, &b.why)));
    found
}

/// Returns the tokens of the owners that were overtaken because the process was
/// paused.
pub(crate) fn excused(run: &Run<'_>) -> HashSet<u64> {
    let lapsed = run.overtakes.iter().filter(|overtake| {
        overtake.unrenewed >= run.lease && {
            let since = overtake.at.at.saturating_sub(overtake.unrenewed);
            was_paused(run, since, overtake.at.at)
        }
    });
    lapsed.map(|overtake| overtake.from).collect()
}

/// Returns whether the process did not run for a tenth of a lease in sum, between
/// these times.
pub(crate) fn was_paused(run: &Run<'_>, from: Duration, to: Duration) -> bool {
    let within = |pause: &Pause| pause.to.min(to).saturating_sub(pause.from.max(from));
    run.pauses.iter().map(within).sum::<Duration>() >= run.lease / 10
}

#[cfg(test)]
#[path = "checker_tests.rs"]
mod tests;
