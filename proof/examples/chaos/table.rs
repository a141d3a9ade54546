//! This module prints the result of a run as a table.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::{self, Write};
use std::time::Duration;

use super::arguments::{Mode, Options};
use super::checker::{RULES, Rule, Run, Violation, is_late};
use super::history::{End, Execution, Saw};
use super::killer::Blows;

/// This many violations are printed in full.
const PRINTED: usize = 20;

/// `Promise` says which rules a run with this store must keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Promise {
    /// Records and ledger are in one database (G7), so the store must keep all
    /// rules.
    ExactlyOnce,
    /// A crash between the effect and its record can cause a second effect, but
    /// only one execution's completion counts.
    OnceRecorded,
    /// Records end with their process.
    UntilARestart,
}

impl Promise {
    fn of(options: &Options) -> Self {
        if options.is_sql() {
            Self::ExactlyOnce
        } else if options.store.starts_with("memory") {
            Self::UntilARestart
        } else {
            Self::OnceRecorded
        }
    }

    fn holds(self, rule: Rule) -> bool {
        match self {
            Self::ExactlyOnce => true,
            Self::OnceRecorded => rule != Rule::OneEntry,
            Self::UntilARestart => {
                [Rule::NothingLost, Rule::InTime, Rule::RefusalsAreTrue].contains(&rule)
            }
        }
    }
}

#[derive(Debug)]
pub(crate) struct Table {
    title: String,
    told: BTreeMap<String, usize>,
    promise: Promise,
    pub(crate) counts: Counts,
    pub(crate) violations: Vec<Violation>,
}

/// These counts are the outcome of a run; some must be zero, and others show that
/// faults happened often enough.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    operations: usize,
    clients: usize,
    attempts: usize,
    executions: usize,
    cuts: u64,
    pub(crate) struck: Blows,
    pub(crate) takeovers: usize,
    /// This many owners completed after they had been overtaken.
    pub(crate) late: usize,
    pub(crate) fenced: usize,
    pub(crate) duplicates: usize,
    /// Of the entries of keys with a duplicate, these count the ones whose owner
    /// died before its completion was recorded, and the ones of owners that were
    /// overtaken.
    crashed: usize,
    overtaken: usize,
    /// Keys with a response that names no entry.
    pub(crate) lost: usize,
    /// Keys of which a client had no response soon after the last fault, or none at all.
    pub(crate) unanswered: usize,
}

impl Counts {
    fn rows(&self) -> [(&'static str, String); 16] {
        let number = |number: usize| number.to_string();
        [
            ("operations", number(self.operations)),
            ("clients", number(self.clients)),
            ("attempts", number(self.attempts)),
            ("executions", number(self.executions)),
            ("servers killed", self.struck.kills.to_string()),
            ("servers frozen", self.struck.freezes.to_string()),
            ("database killed", self.struck.database_kills.to_string()),
            ("connections cut", self.cuts.to_string()),
            ("takeovers", number(self.takeovers)),
            ("late completions", number(self.late)),
            ("fenced writes", number(self.fenced)),
            ("duplicates", number(self.duplicates)),
            ("  after a crash", number(self.crashed)),
            ("  after a freeze", number(self.overtaken)),
            ("lost", number(self.lost)),
            ("late", number(self.unanswered)),
        ]
    }
}

impl Table {
    pub(crate) fn new(
        options: &Options,
        run: &Run,
        struck: Blows,
        cuts: u64,
        took: Duration,
        violations: Vec<Violation>,
    ) -> Self {
        let counts = count(run, struck, cuts, &violations);
        let mut told: BTreeMap<String, usize> = BTreeMap::new();
        for own in &run.attempts {
            let what = match &own.saw {
                Saw::Answer(answer) if answer.replayed => "answered, replayed".to_owned(),
                Saw::Answer(_) => "answered".to_owned(),
                Saw::Refused(code) => code.clone(),
                Saw::Failed(status) => format!("failed with {status}"),
                Saw::Cut => "cut off".to_owned(),
                Saw::Late => "left by the client".to_owned(),
            };
            *told.entry(what).or_default() += 1;
        }
        let title = format!(
            "{}, seed {}, {} servers, {}, {:.0} s",
            options.store.split(':').next().unwrap_or_default(),
            options.seed,
            options.servers(),
            match options.mode {
                Mode::Committed => format!("a lease of {} ms", options.lease.as_millis()),
                Mode::InTransaction => "claims in transactions".to_owned(),
            },
            took.as_secs_f64(),
        );
        Self {
            title,
            told,
            promise: Promise::of(options),
            counts,
            violations,
        }
    }

    pub(crate) fn is_content(&self) -> bool {
        !self
            .violations
            .iter()
            .any(|own| self.promise.holds(own.rule))
    }

    pub(crate) fn print(&self, out: &mut impl Write) -> io::Result<()> {
        writeln!(out, "{}\n", self.title)?;
        for (what, number) in self.counts.rows() {
            writeln!(out, "{what:<20} {number:>9}")?;
        }
        writeln!(out, "\nwhat clients were told")?;
        for (what, number) in &self.told {
            writeln!(out, "  {what:<18} {number:>9}")?;
        }
        writeln!(out)?;
        for rule in RULES {
            let times = self
                .violations
                .iter()
                .filter(|own| own.rule == rule)
                .count();
            let verdict = match times {
                0 => "holds".to_owned(),
                times if self.promise.holds(rule) => format!("VIOLATED {times} times"),
                times => format!("not promised by this store: {times} times not so"),
            };
            writeln!(out, "{rule:<50} {verdict}")?;
        }
        for own in self.violations.iter().take(PRINTED) {
            writeln!(out, "  operation {}: {}", own.operation, own.why)?;
        }
        Ok(())
    }
}

fn count(run: &Run, struck: Blows, cuts: u64, violations: &[Violation]) -> Counts {
    let mut entries: HashMap<u32, usize> = HashMap::new();
    for own in &run.entries {
        *entries.entry(own.operation).or_default() += 1;
    }
    let mut executions: HashMap<u32, Vec<&Execution>> = HashMap::new();
    for own in &run.executions {
        executions.entry(own.operation).or_default().push(own);
    }
    let late = |all: &Vec<&Execution>| {
        let tried = |own: &&&Execution| {
            own.end == End::Refused || own.end == End::Completed && is_late(own, all)
        };
        all.iter().filter(tried).count()
    };
    // An execution that failed released its record, so the next execution took
    // nothing over.
    let taken_over = |all: &Vec<&Execution>| {
        let open = all.iter().filter(|own| own.end != End::Failed).count();
        open.saturating_sub(1)
    };
    let keys = |rule: Rule| {
        let of = violations.iter().filter(move |own| own.rule == rule);
        of.map(|own| own.operation).collect::<BTreeSet<u32>>().len()
    };
    let ends: HashMap<&str, End> = run
        .executions
        .iter()
        .map(|own| (own.name.as_str(), own.end))
        .collect();
    let doubled = run.entries.iter().filter(|own| entries[&own.operation] > 1);
    let ended = |end| {
        let by = doubled.clone();
        by.filter(|own| ends.get(own.execution.as_str()) == Some(&end))
            .count()
    };
    let refused = run.executions.iter().filter(|own| own.end == End::Refused);
    Counts {
        operations: run.operations as usize,
        clients: run.quests.len(),
        attempts: run.attempts.len(),
        executions: run.executions.len(),
        cuts,
        struck,
        takeovers: executions.values().map(taken_over).sum(),
        late: executions.values().map(late).sum(),
        fenced: refused.count(),
        duplicates: entries.values().map(|entries| entries - 1).sum(),
        crashed: ended(End::Unknown),
        overtaken: ended(End::Refused),
        lost: keys(Rule::NothingLost),
        unanswered: keys(Rule::InTime),
    }
}
