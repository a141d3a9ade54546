//! The history is what the clients, the servers and the ledger report. All times
//! are microseconds of this machine's clock, which all processes share.

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

/// An entry is one line of the ledger: the effect of an operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) operation: u32,
    pub(crate) body: Body,
    pub(crate) execution: String,
}

/// An attempt is one request and how the request ended.
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
    /// The client saw a 2xx response of the handler.
    Answer(Answer),
    /// The client saw a rejection of the layer, with this code.
    Refused(String),
    /// The client saw another status: something in the server failed and the server
    /// said so.
    Failed(u16),
    /// The connection ended before the response did.
    Cut,
    /// The client had waited longer than its timeout.
    Late,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    /// The response names the execution that it comes from.
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

/// A quest is all that one client did to get its response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Quest {
    pub(crate) operation: u32,
    pub(crate) client: usize,
    pub(crate) begun: Micros,
    /// The client had a response at this time, or its other body was finally
    /// rejected.
    pub(crate) settled: Option<Micros>,
    pub(crate) gave_up: Micros,
}

/// Something was broken between these two times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Broken {
    pub(crate) from: Micros,
    pub(crate) to: Micros,
}

/// An execution is what a server wrote down of one run of the handler.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Execution {
    pub(crate) name: String,
    pub(crate) operation: u32,
    pub(crate) token: u64,
    pub(crate) attempt: u64,
    pub(crate) began: Micros,
    /// The execution last began to complete its record at this time.
    pub(crate) completing: Option<Micros>,
    pub(crate) end: End,
}

impl Execution {
    /// Returns whether the handler ran under a claim, so that its token has a
    /// meaning.
    pub(crate) fn is_layered(&self) -> bool {
        !self.name.starts_with("unprotected-")
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The server was killed, or the server does not know how the execution ended.
    Unknown,
    Completed,
    /// The completion was refused, because another execution has taken over.
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
    // A kill can cut off the last line; such a line is ignored.
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
