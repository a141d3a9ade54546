//! This module finds what the guarantees rule out for one key of one caller.

use std::collections::HashSet;

use super::checker::{Run, was_paused};
use super::history::{Asked, End, Execution, Moment, Seen, What, WholeAnswer};
use super::records::is_sealed;

/// `OneKey` is what happened under one key of one caller.
#[derive(Default)]
pub(crate) struct OneKey<'a> {
    /// The executions come with their numbers, and are sorted by when they began.
    pub(crate) executions: Vec<(usize, &'a Execution)>,
    pub(crate) seen: Vec<&'a Seen>,
}

impl<'a> OneKey<'a> {
    fn answers(&self) -> impl Iterator<Item = (&'a Seen, &'a WholeAnswer)> {
        self.seen.iter().filter_map(|seen| match &seen.what {
            What::Answer(answer) => Some((*seen, answer)),
            _ => None,
        })
    }

    fn begun_after(&self, moment: Moment) -> impl Iterator<Item = usize> {
        let after = move |own: &&(usize, &Execution)| own.1.begun.order > moment.order;
        self.executions.iter().filter(after).map(|own| own.0)
    }

    pub(crate) fn one_at_a_time(&self, excused: &HashSet<u64>) -> Vec<String> {
        let mut wrong = Vec::new();
        for (at, (first, execution)) in self.executions.iter().enumerate() {
            for (second, other) in &self.executions[at + 1..] {
                let over = |(end, _): (Moment, _)| end.order < other.begun.order;
                if !execution.ended.is_some_and(over) && !excused.contains(&execution.token) {
                    wrong.push(format!("execution {second} began while {first} ran"));
                }
            }
        }
        wrong
    }

    pub(crate) fn never_again(&self, excused: &HashSet<u64>) -> Vec<String> {
        let mut wrong = Vec::new();
        for (number, execution) in &self.executions {
            if let Some(done) = execution.done()
                && !excused.contains(&execution.token)
            {
                wrong.extend(
                    self.begun_after(done)
                        .map(|again| format!("execution {again} began after {number} was done")),
                );
            }
        }
        for (seen, answer) in self.answers().filter(|(_, answer)| answer.is_recorded()) {
            wrong.extend(self.begun_after(seen.ended).map(|again| {
                format!(
                    "execution {again} began after client {} saw the whole recorded answer of {:?}",
                    seen.client, answer.execution
                )
            }));
        }
        wrong
    }

    pub(crate) fn same_answer(&self, run: &Run<'_>) -> Vec<String> {
        let mut recorded = self.answers().filter(|(_, answer)| answer.is_recorded());
        let Some((_, first)) = recorded.next() else {
            return Vec::new();
        };
        let mut wrong: Vec<_> = recorded
            .filter(|(_, answer)| answer.digest != first.digest)
            .map(|(seen, answer)| {
                format!(
                    "client {} saw an answer of {:?}, another client one of {:?}",
                    seen.client, answer.execution, first.execution
                )
            })
            .collect();
        wrong.extend(self.refused_after_the_answer(run));
        wrong
    }

    /// A request that is sent after some client has seen the whole response gets
    /// that response, not a rejection.
    fn refused_after_the_answer(&self, run: &Run<'_>) -> Vec<String> {
        let recorded = self.answers().filter(|(_, answer)| answer.is_recorded());
        let Some((answered, answer)) = recorded.min_by_key(|(seen, _)| seen.ended.order) else {
            return Vec::new();
        };
        let execution = answer
            .execution
            .and_then(|own| run.executions.get(own as usize));
        let sealed = execution.is_some_and(|own| is_sealed(run, own));
        let mut wrong = Vec::new();
        for seen in &self.seen {
            if let What::Refused { code, .. } = &seen.what
                && seen.asked == answered.asked
                && seen.sent.order > answered.ended.order
                && code != "store-unavailable"
                && !(sealed && code == "response-unavailable")
            {
                wrong.push(format!(
                    "client {} was told {code} after client {} saw the whole answer",
                    seen.client, answered.client
                ));
            }
        }
        wrong
    }

    /// An execution that was overtaken may be dropped, because its response is
    /// discarded.
    pub(crate) fn never_cancelled(&self, excused: &HashSet<u64>) -> Vec<String> {
        let dropped = |own: &&(usize, &Execution)| {
            own.1.ended.is_none_or(|(_, end)| end == End::Dropped)
                && !(own.1.lost && excused.contains(&own.1.token))
        };
        let all = self.executions.iter().filter(dropped);
        all.map(|(number, _)| format!("execution {number} did not come to its own end"))
            .collect()
    }

    pub(crate) fn tokens_rise(&self) -> Vec<String> {
        self.executions
            .windows(2)
            .filter(|pair| {
                let (first, second) = (pair[0].1, pair[1].1);
                first.token >= second.token || first.attempt >= second.attempt
            })
            .map(|pair| {
                format!(
                    "tokens or attempts of {} and {} don't rise",
                    pair[0].0, pair[1].0
                )
            })
            .collect()
    }

    pub(crate) fn answers_are_theirs(&self, run: &Run<'_>) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut first_hand = HashSet::new();
        for (number, execution) in &self.executions {
            if execution.asked == Asked::Crossed {
                wrong.push(format!("execution {number} was asked something else"));
            }
        }
        for (seen, answer) in self.answers() {
            let Some(number) = answer.execution else {
                // A 500 without an execution is the response of the panic layer.
                let panicked = self.executions.iter().any(|(_, own)| own.has_panicked());
                if answer.status != 500 || !panicked {
                    wrong.push(format!("client {} saw an answer of nobody", seen.client));
                }
                continue;
            };
            let execution = run.executions.get(number as usize);
            let is_its_own = execution.is_some_and(|own| {
                own.operation == seen.operation
                    && own.asked == seen.asked
                    && own.begun.order < seen.ended.order
                    && own.is_whole()
                    && own
                        .answer
                        .is_some_and(|meant| meant.digest == answer.digest)
            });
            if !is_its_own {
                wrong.push(format!(
                    "client {} saw as its own an answer of {number} that this did not give it",
                    seen.client
                ));
            }
            if !answer.replayed && !first_hand.insert(number) {
                wrong.push(format!("two clients got the answer of {number} first hand"));
            }
        }
        wrong
    }

    pub(crate) fn answers_arrive(&self, run: &Run<'_>, excused: &HashSet<u64>) -> Vec<String> {
        let mut wrong = Vec::new();
        for seen in &self.seen {
            let has_reason = |own: &Execution| {
                !own.is_whole() || run.troubled.contains(&own.token) || excused.contains(&own.token)
            };
            match seen.what {
                What::Hung => wrong.push(format!("client {} got no answer", seen.client)),
                What::Cut(Some(number))
                    if !run.executions.get(number as usize).is_some_and(has_reason) =>
                {
                    wrong.push(format!(
                        "the answer of {number} broke off before client {}",
                        seen.client
                    ));
                }
                What::Cut(None) => {
                    let ended_meanwhile = |own: &Execution| {
                        own.ended.is_none_or(|(end, _)| end.order > seen.sent.order)
                    };
                    let reason = |(_, own): &(usize, &Execution)| {
                        has_reason(own)
                            && own.begun.order < seen.ended.order
                            && ended_meanwhile(own)
                    };
                    if !self.executions.iter().any(reason) {
                        wrong.push(format!("client {} was cut off", seen.client));
                    }
                }
                _ => {}
            }
        }
        wrong
    }

    pub(crate) fn refusals_are_true(&self, run: &Run<'_>) -> Vec<String> {
        let mut wrong = Vec::new();
        for seen in &self.seen {
            let What::Refused { status, code } = &seen.what else {
                continue;
            };
            let before = |moment: Moment| moment.order < seen.ended.order;
            let mut ran = self.executions.iter().map(|(_, own)| *own);
            let is_true = match (*status, code.as_str()) {
                (409, "in-flight") => true,
                (503, "store-unavailable") => run.protected,
                (409, "response-unavailable") => {
                    ran.any(|own| own.done().is_some_and(before) && is_sealed(run, own))
                }
                (409, "outcome-unknown") => {
                    let since = seen.sent.at.saturating_sub(run.lease * 2);
                    (run.refuses)(seen.operation)
                        && (ran.any(|own| own.is_unknown() && before(own.begun))
                            || was_paused(run, since, seen.ended.at))
                }
                (422, "key-reused") => self
                    .seen
                    .iter()
                    .any(|other| other.asked != seen.asked && before(other.sent)),
                _ => false,
            };
            if !is_true {
                wrong.push(format!("client {} was told {status} {code}", seen.client));
            }
        }
        wrong
    }
}
