//! This module compares what the store holds in the end with the ledger.

use std::collections::{HashMap, HashSet};

use super::checker::{Rule, Run, Violation, excused};
use super::history::{Execution, LeftRecord, LeftState};

/// Returns whether the record keeps only the fact that the execution is done.
pub(crate) fn is_sealed(run: &Run<'_>, execution: &Execution) -> bool {
    let length = execution.answer.map_or(0, |answer| answer.length);
    execution.done().is_some() && (length > run.max_recorded || !execution.is_whole())
}

/// Each record must match what the ledger says of the execution with its token, and
/// each execution that must have left a record must have one.
pub(crate) fn records_match(run: &Run<'_>) -> Vec<Violation> {
    let mut found = Vec::new();
    if !run.protected {
        return found;
    }
    let of_token: HashMap<u64, &Execution> =
        run.executions.iter().map(|own| (own.token, own)).collect();
    let mut add = |execution: Option<&Execution>, why: String| {
        found.push(Violation {
            rule: Rule::RecordsMatch,
            operation: execution.map(|own| own.operation),
            why,
        });
    };
    for LeftRecord { token, state } in run.records {
        let execution = of_token.get(token).copied();
        let refuses = |own: &Execution| (run.refuses)(own.operation);
        let matches = match (state, execution) {
            (LeftState::Released, None) => true,
            (LeftState::Released, Some(own)) => {
                own.done().is_none() && !(own.is_unknown() && refuses(own))
            }
            (LeftState::InFlight, _) | (_, None) => false,
            (LeftState::Lapsed, Some(own)) => own.is_unknown() && refuses(own),
            (LeftState::Sealed, Some(own)) => is_sealed(run, own),
            (LeftState::Completed(digest), Some(own)) => {
                own.done().is_some()
                    && !is_sealed(run, own)
                    && own.answer.is_some_and(|answer| answer.digest == *digest)
            }
        };
        if !matches {
            add(
                execution,
                format!("the record of token {token} is {}", state.name()),
            );
        }
    }
    let kept: HashSet<u64> = run.records.iter().map(|record| record.token).collect();
    let excused = excused(run);
    for execution in run.executions {
        let leaves = execution.done().is_some() && !excused.contains(&execution.token)
            || execution.is_unknown() && (run.refuses)(execution.operation);
        if leaves && !kept.contains(&execution.token) {
            let why = format!("token {} left no record", execution.token);
            add(Some(execution), why);
        }
    }
    found
}

impl LeftState {
    fn name(self) -> &'static str {
        match self {
            Self::InFlight => "in flight",
            Self::Lapsed => "lapsed",
            Self::Completed(_) => "completed",
            Self::Sealed => "sealed",
            Self::Released => "released",
        }
    }
}
