//! This module checks what is visible from outside, whichever process did what.

use std::collections::HashMap;

/// `Execution` is one run of a handler.
#[derive(Clone, Debug)]
pub(crate) struct Execution {
    pub(crate) process: usize,
    pub(crate) key: String,
    /// No other execution in any process has this id.
    pub(crate) id: String,
}

/// `Answer` is the final response of one attempt.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) key: String,
    /// The body of the response is the id of its execution.
    pub(crate) id: String,
    pub(crate) replayed: bool,
}

#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) executions: Vec<Execution>,
    pub(crate) answers: Vec<Answer>,
    /// This count includes the requests that were rejected as `in-flight`.
    pub(crate) requests: usize,
}

/// Returns the violations. Each key must have one execution (G1, G2) and as many
/// responses as attempts, all from that execution (G3); exactly one response must
/// not be a replay.
pub(crate) fn violations(found: &Found, keys: usize, attempts: usize) -> Vec<String> {
    let mut violations = Vec::new();
    let mut executions: HashMap<&str, Vec<&Execution>> = HashMap::new();
    for execution in &found.executions {
        let of_key = executions.entry(&execution.key).or_default();
        of_key.push(execution);
    }
    let mut answers: HashMap<&str, Vec<&Answer>> = HashMap::new();
    for answer in &found.answers {
        answers.entry(&answer.key).or_default().push(answer);
    }
    if (executions.len(), answers.len()) != (keys, keys) {
        violations.push(format!(
            "of {keys} keys {} executed and {} were answered",
            executions.len(),
            answers.len()
        ));
    }
    for (key, executions) in executions {
        if executions.len() != 1 {
            let times = executions.len();
            violations.push(format!("{key} executed {times} times: {executions:?}"));
        }
        let answers = answers.remove(key).unwrap_or_default();
        if answers.len() != attempts {
            violations.push(format!("{key} was answered {} times", answers.len()));
        }
        let foreign = answers
            .iter()
            .filter(|answer| answer.id != executions[0].id);
        if foreign.count() > 0 {
            violations.push(format!("{key} has more than one answer: {answers:?}"));
        }
        let first = answers.iter().filter(|answer| !answer.replayed).count();
        if first != 1 {
            violations.push(format!("{key} has {first} first answers"));
        }
    }
    for key in answers.keys() {
        violations.push(format!("{key} was answered and never executed"));
    }
    violations
}
