//! What happened, as the clients, the servers and the ledger tell it. All
//! times are microseconds of this machine's clock, which all processes share.

use std::collections::HashMap;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use sha2::{Digest, Sha256};

use super::BoxError;
use super::plan::Body;

pub(crate) type Micros = u64;

pub(crate) fn now() -> Micros {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |now| u64::try_from(now.as_micros()).unwrap_or(u64::MAX))
}

/// One line of the ledger: the effect of an operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) operation: u32,
    pub(crate) body: Body,
    pub(crate) execution: String,
}

/// One request, to whatever end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Attempt {
    pub(crate) operation: u32,
    pub(crate) client: usize,
    pub(crate) body: Body,
    pub(crate) sent: Micros,
    pub(crate) ended: Micros,
    pub(crate) saw: Saw,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Saw {
    /// A 2xx.
    Answer(Answer),
    /// A rejection of the layer, by its code.
    Refused(String),
    /// Another status: something in the server did not work, and says so.
    Failed(u16),
    /// The connection ended before the answer did.
    Cut,
    /// The client had waited for long enough.
    Late,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    /// Which execution it comes from.
    pub(crate) entry: String,
    pub(crate) operation: u32,
    pub(crate) digest: [u8; 32],
    pub(crate) replayed: bool,
}

pub(crate) fn digest(status: u16, body: &[u8]) -> [u8; 32] {
    let mut digest = Sha256::new();
    digest.update(status.to_be_bytes());
    digest.update(body);
    digest.finalize().into()
}

/// One client's way to its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Quest {
    pub(crate) operation: u32,
    pub(crate) client: usize,
    pub(crate) begun: Micros,
    /// When it had an answer or, with another body, was refused for good.
    pub(crate) settled: Option<Micros>,
    pub(crate) gave_up: Micros,
}

/// Something was broken from then to then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Broken {
    pub(crate) from: Micros,
    pub(crate) to: Micros,
}

/// What a server wrote down of one execution.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Execution {
    pub(crate) name: String,
    pub(crate) operation: u32,
    pub(crate) token: u64,
    pub(crate) attempt: u64,
    pub(crate) began: Micros,
    /// When it last set out to complete.
    pub(crate) completing: Option<Micros>,
    pub(crate) end: End,
}

impl Execution {
    /// Whether it ran under a claim, so that its token says something.
    pub(crate) fn is_layered(&self) -> bool {
        !self.name.starts_with("unprotected-")
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// Its server was killed, or does not know.
    Unknown,
    Completed,
    /// Another execution has taken over.
    Refused,
    Failed,
}

/// Reads what all servers wrote into a directory.
pub(crate) fn executions(journals: &Path) -> Result<Vec<Execution>, BoxError> {
    let mut executions = Vec::new();
    for file in std::fs::read_dir(journals)? {
        let text = std::fs::read_to_string(file?.path())?;
        executions.extend(parse(&text));
    }
    executions.sort_by_key(|own: &Execution| own.began);
    Ok(executions)
}

fn parse(text: &str) -> Vec<Execution> {
    let mut executions: Vec<Execution> = Vec::new();
    let mut by_name = HashMap::new();
    // What was cut off by a kill is no line.
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    for line in whole.lines() {
        let words: Vec<_> = line.split(' ').collect();
        let number = |at: usize| words.get(at).and_then(|word: &&str| word.parse().ok());
        let (Some(at), Some(name)) = (number(1), words.get(2)) else {
            continue;
        };
        if words[0] == "began" {
            let (Some(operation), Some(token), Some(attempt)) = (number(3), number(4), number(5))
            else {
                continue;
            };
            by_name.insert(*name, executions.len());
            executions.push(Execution {
                name: (*name).to_owned(),
                operation: u32::try_from(operation).unwrap_or(u32::MAX),
                token,
                attempt,
                began: at,
                completing: None,
                end: End::Unknown,
            });
            continue;
        }
        let Some(execution) = by_name.get(name).map(|at| &mut executions[*at]) else {
            continue;
        };
        match words[0] {
            "completing" => execution.completing = Some(at),
            "completed" => execution.end = End::Completed,
            "refused" => execution.end = End::Refused,
            "failed" => execution.end = End::Failed,
            _ => {}
        }
    }
    executions
}

#[cfg(test)]
mod tests {
    use super::{End, parse};

    #[test]
    fn a_journal_that_a_kill_cut_off_is_read_up_to_its_last_whole_line() {
        let text =
            "began 10 a-7 3 7 1\ncompleting 12 a-7\nbegan 11 b-8 4 8 2\nrefused 14 b-8\ncompl";
        let executions = parse(text);
        assert_eq!(executions.len(), 2);
        let (a, b) = (&executions[0], &executions[1]);
        assert_eq!((a.operation, a.token, a.attempt), (3, 7, 1));
        assert_eq!((a.completing, a.end), (Some(12), End::Unknown));
        assert_eq!((b.attempt, b.end), (2, End::Refused));
    }
}
