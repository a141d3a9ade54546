//! This module prints the result of all rounds as a table.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::time::Duration;

use super::checker::{RULES, Rule, Violation};
use super::faults::Fault;
use super::history::{End, Seen, Stage, What};
use super::memory::Memory;
use super::round::Round;

/// This many violating keys are printed with everything that happened under them.
const PRINTED: usize = 10;

#[derive(Debug, Default)]
pub(crate) struct Report {
    operations: u32,
    counts: BTreeMap<&'static str, BTreeMap<String, usize>>,
    excused: usize,
    longest_pause: Duration,
    memory: Memory,
    violations: BTreeMap<Rule, usize>,
    /// These are violating keys, each with everything that happened under the key.
    stories: Vec<String>,
    /// These violations belong to no key.
    others: Vec<String>,
}

impl Report {
    pub(crate) fn add(&mut self, operations: u32, round: &Round) {
        self.operations += operations;
        self.excused += round.excused;
        self.longest_pause = self.longest_pause.max(round.longest_pause);
        for execution in &round.executions {
            let end = execution
                .ended
                .map_or("still running", |(_, end)| name_of_end(end));
            self.count("executions", end);
        }
        for seen in &round.seen {
            let (what, kind) = name(seen);
            self.count(what, kind);
        }
        for (op, calls) in &round.faults.calls {
            let calls_of = self.counts.entry("store calls").or_default();
            *calls_of
                .entry(format!("{op:?}").to_lowercase())
                .or_default() += calls;
        }
        for ((op, fault), times) in &round.faults.faults {
            let op = format!("{op:?}").to_lowercase();
            let faults = self.counts.entry("store faults").or_default();
            *faults
                .entry(format!("{op}: {}", name_of_fault(*fault)))
                .or_default() += times;
        }
        for violation in &round.violations {
            self.violate(violation.clone(), round);
        }
    }

    pub(crate) fn remember(&mut self, memory: Memory) {
        if memory.has_grown() {
            *self.violations.entry(Rule::NothingIsLeft).or_default() += 1;
            self.others.push(format!("memory grew: {memory}"));
        }
        self.memory = memory;
    }

    pub(crate) fn is_content(&self) -> bool {
        self.violations.is_empty()
    }

    fn count(&mut self, what: &'static str, kind: impl Into<String>) {
        let kinds = self.counts.entry(what).or_default();
        *kinds.entry(kind.into()).or_default() += 1;
    }

    fn violate(&mut self, violation: Violation, round: &Round) {
        *self.violations.entry(violation.rule).or_default() += 1;
        let Some(operation) = violation.operation else {
            self.others.push(violation.why);
            return;
        };
        let title = format!("operation {operation}:");
        if self.stories.iter().any(|story| story.starts_with(&title))
            || self.stories.len() == PRINTED
        {
            return;
        }
        let mut story = title + "\n";
        let own = |other: &&Violation| other.operation == Some(operation);
        for Violation { rule, why, .. } in round.violations.iter().filter(own) {
            let rule = rule.to_string();
            story = [&story, "  ! ", rule.trim_end(), ": ", why, "\n"].concat();
        }
        self.stories.push(story + &history(operation, round));
    }

    pub(crate) fn print(&self, out: &mut impl Write) -> io::Result<()> {
        for other in self.others.iter().take(PRINTED) {
            writeln!(out, "! {other}")?;
        }
        for story in &self.stories {
            writeln!(out, "{story}")?;
        }
        writeln!(out, "{:<18}{:>9}", "operations", self.operations)?;
        for (what, kinds) in &self.counts {
            writeln!(out, "{what:<18}{:>9}", kinds.values().sum::<usize>())?;
            for (kind, count) in kinds {
                writeln!(out, "  {kind:<34}{count:>9}")?;
            }
        }
        writeln!(
            out,
            "overtakes excused {:>9}   (longest pause of the process: {:?})",
            self.excused, self.longest_pause
        )?;
        writeln!(out, "memory            {}", self.memory)?;
        writeln!(out)?;
        for rule in RULES {
            match self.violations.get(&rule) {
                None => writeln!(out, "{rule:<42}ok")?,
                Some(times) => writeln!(out, "{rule:<42}VIOLATED {times} times")?,
            }
        }
        Ok(())
    }
}

/// Returns everything that happened under one key, in order.
fn history(operation: u32, round: &Round) -> String {
    let mut lines = Vec::new();
    for (number, own) in round.executions.iter().enumerate() {
        if own.operation != operation {
            continue;
        }
        lines.push((
            own.begun,
            format!(
                "execution {number} begins: attempt {}, token {}, asked {:?}",
                own.attempt, own.token, own.asked
            ),
        ));
        if let Some((at, end)) = own.ended {
            let answer = own.answer.map_or(String::new(), |answer| {
                format!(", {} with {} bytes", answer.status, answer.length)
            });
            let lost = if own.lost { ", lost" } else { "" };
            let end = name_of_end(end);
            lines.push((at, format!("execution {number} ends: {end}{answer}{lost}")));
        }
    }
    for seen in round.seen.iter().filter(|seen| seen.operation == operation) {
        let client = seen.client;
        lines.push((seen.sent, format!("client {client} asks: {:?}", seen.asked)));
        let what = match &seen.what {
            What::Answer(answer) => format!(
                "the whole answer of {:?}: {}, replayed: {}, lacks: {:?}",
                answer.execution, answer.status, answer.replayed, answer.lacks
            ),
            other => format!("{other:?}"),
        };
        lines.push((seen.ended, format!("client {client} saw {what}")));
    }
    for overtake in &round.store.overtakes {
        let is_own = |token| {
            let of_token = round.executions.iter().find(|own| own.token == token);
            of_token.is_some_and(|own| own.operation == operation)
        };
        if is_own(overtake.from) || is_own(overtake.to) {
            let (from, to) = (overtake.from, overtake.to);
            let line = format!(
                "the store lets {to} take over from {from}, not renewed for {:?}",
                overtake.unrenewed
            );
            lines.push((overtake.at, line));
        }
    }
    lines.sort_by_key(|(moment, _)| moment.order);
    let lines = lines
        .iter()
        .map(|(moment, line)| format!("  {moment}  {line}\n"));
    lines.collect()
}

fn name(seen: &Seen) -> (&'static str, String) {
    match &seen.what {
        What::Answer(answer) => {
            let kind = match (&answer.lacks, answer.replayed) {
                (Some(lacks), _) => lacks,
                (None, true) => "replays",
                (None, false) if answer.is_recorded() => "first hand",
                (None, false) => "to be tried again",
            };
            ("whole answers", kind.to_owned())
        }
        What::Refused { status, code } => ("refusals", format!("{status} {code}")),
        What::Cut(Some(_)) => ("cut by the server", "in an answer".to_owned()),
        What::Cut(None) => ("cut by the server", "before an answer".to_owned()),
        What::Left(stage) => ("clients left", name_of_stage(*stage).to_owned()),
        What::Hung => ("no answer at all", "hung".to_owned()),
    }
}

fn name_of_end(end: End) -> &'static str {
    match end {
        End::Whole => "came to their end",
        End::BrokeOff => "broke off",
        End::BodyPanicked => "panicked in their answer",
        End::Panicked => "panicked",
        End::Failed => "failed",
        End::Dropped => "were dropped",
    }
}

fn name_of_stage(stage: Stage) -> &'static str {
    match stage {
        Stage::BeforeTheBody => "before the body was sent",
        Stage::WhileItRuns => "while it ran",
        Stage::AfterATimeout => "after a timeout",
        Stage::InTheAnswer => "in the answer",
        Stage::BeforeTheLastByte => "before the last byte",
    }
}

fn name_of_fault(fault: Fault) -> &'static str {
    match fault {
        Fault::NotSent => "not sent",
        Fault::Busy => "too busy",
        Fault::AnswerLost => "done, answer lost",
        Fault::Stalls => "stalled",
        Fault::AnswerStalls => "done, answer stalled",
        Fault::ArrivesLate => "arrived too late",
        Fault::Slow => "slow",
    }
}
