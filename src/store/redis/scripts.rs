//! The scripts: one for each operation, with its arguments and its reply.

use std::sync::LazyLock;
use std::time::Duration;

use redis::{Cmd, ErrorKind, RedisResult, ServerErrorKind, Value};

use super::errors::failed;
use super::link::Link;
use crate::record::{Nonce, Origin};
use crate::store::OnMismatch;
use crate::store::encoding::{EncodedCompletion, unreadable};
use crate::store::row::{FORMAT, OriginColumns, RecordRow, micros, recorded_step, state};
use crate::store::{
    Claim, Claimed, Forgotten, Lease, OnLapsedLease, Outcome, Ownership, Record, RecordedStep,
    Release, StoreError, StoreErrorKind,
};

macro_rules! script {
    ($name:ident, $($file:literal),+) => {
        pub(super) static $name: LazyLock<Script> =
            LazyLock::new(|| Script::new(concat!($(include_str!($file), "\n"),+)));
    };
}

script!(
    CLAIM,
    "claim_common.lua",
    "record.lua",
    "steps.lua",
    "claim.lua"
);
script!(RENEW, "record.lua", "renew.lua");
script!(
    COMPLETE,
    "complete_common.lua",
    "record.lua",
    "steps.lua",
    "complete.lua"
);
script!(RELEASE, "record.lua", "release.lua");
script!(RECORD_STEP, "record.lua", "steps.lua", "record_step.lua");
script!(LOOK_UP, "record.lua", "look_up.lua");
script!(FORGET, "record.lua", "forget.lua");

/// This script runs before there are records, so it does not contain the functions of
/// `record.lua`.
pub(super) static REHEARSE: LazyLock<Script> =
    LazyLock::new(|| Script::new(include_str!("rehearse.lua")));

pub(super) struct Script {
    text: &'static str,
    /// The SHA-1 of the text, by which the server finds a script that it has loaded.
    sha1: String,
}

impl Script {
    fn new(text: &'static str) -> Self {
        let sha1 = redis::Script::new(text).get_hash().to_owned();
        Self { text, sha1 }
    }

    /// Runs the script in one round trip, or in two if the server has not
    /// loaded it. The whole text then goes to the server of the key, so that
    /// the script need not be loaded on every node of a cluster.
    pub(super) async fn call(&self, link: &Link, key: &str, args: &[&[u8]]) -> RedisResult<Value> {
        match link.send(&command("EVALSHA", &self.sha1, key, args)).await {
            Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
                link.send(&command("EVAL", self.text, key, args)).await
            }
            answered => answered,
        }
    }

    pub(super) async fn run(
        &self,
        link: &Link,
        key: &str,
        args: &[&[u8]],
    ) -> Result<Reply, StoreError> {
        let answered = self.call(link, key, args).await;
        Reply::read(answered.map_err(|error| failed(error, link.is_cluster()))?)
    }
}

fn command(name: &str, script: &str, key: &str, args: &[&[u8]]) -> Cmd {
    let bytes = key.len() + script.len() + args.iter().map(|arg| arg.len()).sum::<usize>();
    let mut command = Cmd::with_capacity(4 + args.len(), bytes + 16);
    command.arg(name).arg(script).arg(1).arg(key);
    for arg in args {
        command.arg(*arg);
    }
    command
}

pub(super) struct ClaimArgs(String, String, String, Option<[String; 2]>);

impl ClaimArgs {
    pub(super) fn of(claim: &Claim) -> Self {
        Self(
            micros(claim.lease).to_string(),
            micros(claim.retention).to_string(),
            origin_of(&claim.origin),
            claim
                .by_hand
                .map(|seen| [seen.token.to_string(), seen.attempt.to_string()]),
        )
    }

    /// The script decides in the same way as [`Claim::takes_over`].
    pub(super) fn list<'a>(&'a self, claim: &'a Claim) -> Vec<&'a [u8]> {
        let refuses = claim.on_lapsed_lease == OnLapsedLease::Refuse;
        let mut args: Vec<&[u8]> = vec![
            claim.nonce.as_bytes(),
            claim.fingerprint.as_bytes(),
            self.0.as_bytes(),
            self.1.as_bytes(),
            flag(refuses),
            flag(claim.by_hand.is_some() || !refuses),
            flag(claim.on_mismatch == OnMismatch::Replay),
            claim.scope.as_bytes(),
            self.2.as_bytes(),
        ];
        args.extend(self.3.iter().flatten().map(String::as_bytes));
        args
    }
}

/// The span, or `-`, and the route. Nothing if there is neither.
fn origin_of(origin: &Origin) -> String {
    let trace = origin.trace.map(|trace| trace.to_string());
    match (trace, origin.kept_route()) {
        (None, None) => String::new(),
        (trace, route) => {
            let trace = trace.as_deref().unwrap_or("-");
            format!("{trace} {}", route.map_or("", |route| &**route))
        }
    }
}

/// Reads the fields `scope` and `origin`. The latter begins with the token that it belongs to.
pub(super) fn origin_columns(
    scope: Option<Vec<u8>>,
    origin: Option<Vec<u8>>,
    token: i64,
) -> OriginColumns {
    let origin = origin.and_then(|origin| String::from_utf8(origin).ok());
    let mut parts = origin.as_deref().unwrap_or_default().splitn(3, ' ');
    let is_own = parts.next().is_some_and(|of| of.parse() == Ok(token));
    let mut part = || parts.next().filter(|part| is_own && !part.is_empty());
    OriginColumns {
        scope,
        trace: part().map(str::to_owned),
        route: part().map(str::to_owned),
    }
}

pub(super) struct CompleteArgs {
    numbers: [String; 3],
    state: String,
    origin: String,
    answer: Option<(EncodedCompletion, [String; 4])>,
}

impl CompleteArgs {
    pub(super) fn of(lease: &Lease, outcome: &Outcome) -> Self {
        let (answer, retention) = match outcome {
            Outcome::Completed(completion) => {
                (EncodedCompletion::of(completion), completion.retention)
            }
            Outcome::Sealed { retention } => (None, *retention),
        };
        let state = match answer {
            Some(_) => state::COMPLETED,
            None => state::SEALED,
        };
        Self {
            numbers: [
                lease.token.to_string(),
                lease.attempt.to_string(),
                micros(retention).to_string(),
            ],
            state: state.to_string(),
            origin: origin_of(&lease.claim.origin),
            answer: answer.map(|answer| {
                let numbers = [
                    answer.status.to_string(),
                    answer.began_at.to_string(),
                    answer.completed_at.to_string(),
                    answer.length.to_string(),
                ];
                (answer, numbers)
            }),
        }
    }

    pub(super) fn list<'a>(&'a self, lease: &'a Lease) -> Vec<&'a [u8]> {
        let [token, attempt, kept_for] = &self.numbers;
        let mut args: Vec<&[u8]> = vec![
            lease.claim.nonce.as_bytes(),
            token.as_bytes(),
            attempt.as_bytes(),
            lease.claim.fingerprint.as_bytes(),
            self.state.as_bytes(),
            kept_for.as_bytes(),
        ];
        if let Some((answer, [status, began_at, completed_at, length])) = &self.answer {
            args.extend([
                status.as_bytes(),
                began_at.as_bytes(),
                completed_at.as_bytes(),
                &answer.answer,
                length.as_bytes(),
                &answer.checksum,
            ]);
        }
        args.extend([&lease.claim.scope.as_bytes()[..], self.origin.as_bytes()]);
        args
    }
}

pub(super) fn release_args(nonce: &Nonce, how: Release) -> [&[u8]; 2] {
    let state: &[u8] = match how {
        Release::MayRunAgain => b"5",
        Release::OutcomeUnknown => b"2",
    };
    [nonce.as_bytes(), state]
}

pub(super) fn flag(set: bool) -> &'static [u8] {
    if set { b"1" } else { b"0" }
}

/// The reply of a script: a word, and the fields that belong to it.
pub(super) struct Reply {
    word: Vec<u8>,
    rest: std::vec::IntoIter<Value>,
}

impl Reply {
    fn read(value: Value) -> Result<Self, StoreError> {
        let Value::Array(values) = value else {
            return Err(no_answer());
        };
        let mut rest = values.into_iter();
        let Some(Value::BulkString(word)) = rest.next() else {
            return Err(no_answer());
        };
        let mut answer = Self { word, rest };
        if answer.word == b"unreadable" {
            let why = answer.bytes().unwrap_or_default();
            let why = String::from_utf8_lossy(&why);
            let why: String = why.chars().take(200).collect();
            return Err(unreadable(why.escape_debug().to_string()));
        }
        Ok(answer)
    }

    pub(super) fn claimed(mut self, claim: &Claim) -> Result<Claimed, StoreError> {
        match &*self.word {
            b"acquired" => {
                let (token, attempt) = (self.number("token")?, self.number("attempt")?);
                let lease = RecordRow {
                    format: 0,
                    state: 0,
                    token,
                    attempt,
                    fingerprint: Vec::new(),
                    lapses_in: 0,
                    answer: None,
                    origin: OriginColumns::default(),
                };
                let lease = Lease::new(claim, lease.token()?, lease.attempt()?);
                Ok(Claimed::Acquired(lease.with_steps(self.steps()?)))
            }
            b"found" => Ok(Claimed::Found(self.record()?)),
            b"absent" => claim.found_nothing().ok_or_else(no_answer),
            _ => Err(no_answer()),
        }
    }

    /// The steps at the end of the reply.
    fn steps(&mut self) -> Result<Vec<RecordedStep>, StoreError> {
        let mut steps = Vec::new();
        while let Some(name) = self.bytes() {
            let result = self.bytes();
            let result = result.ok_or_else(|| unreadable("the result of a step is missing"))?;
            steps.push(recorded_step(name, result)?);
        }
        Ok(steps)
    }

    pub(super) fn tenure(&self) -> Result<Ownership, StoreError> {
        match &*self.word {
            b"held" => Ok(Ownership::Held),
            b"lost" => Ok(Ownership::Lost),
            _ => Err(no_answer()),
        }
    }

    pub(super) fn looked_up(self) -> Result<Option<Record>, StoreError> {
        match &*self.word {
            b"absent" => Ok(None),
            b"found" => Ok(Some(self.record()?)),
            _ => Err(no_answer()),
        }
    }

    pub(super) fn forgotten(&self) -> Result<Forgotten, StoreError> {
        match &*self.word {
            b"gone" => Ok(Forgotten::Gone),
            b"absent" => Ok(Forgotten::Absent),
            b"in-flight" => Ok(Forgotten::InFlight),
            b"moved" => Ok(Forgotten::Moved),
            _ => Err(no_answer()),
        }
    }

    fn record(mut self) -> Result<Record, StoreError> {
        let mut stored = RecordRow {
            format: FORMAT,
            state: self.number("state")?,
            token: self.number("token")?,
            attempt: self.number("attempt")?,
            fingerprint: self.bytes().unwrap_or_default(),
            lapses_in: self.number("lapses_at")?,
            answer: None,
            origin: OriginColumns::default(),
        };
        stored.origin = origin_columns(self.bytes(), self.bytes(), stored.token);
        if stored.state == state::COMPLETED {
            // Skips nonce, retention and `refuse`, which only the scripts use.
            self.rest.nth(2);
            stored.answer = Some(self.answer()?);
        }
        stored.record()
    }

    fn answer(&mut self) -> Result<EncodedCompletion, StoreError> {
        let missing = |field: &str| unreadable(format!("its {field} is missing"));
        let status = self.number("status")?;
        let began_at = self.number("began_at")?;
        let completed_at = self.number("completed_at")?;
        let kept_for = u64::try_from(self.number("kept_for")?)
            .map_err(|_| unreadable("its kept_for is below zero"))?;
        let answer = self.bytes().ok_or_else(|| missing("answer"))?;
        let length = u64::try_from(self.number("answer_length")?)
            .map_err(|_| unreadable("its answer_length is below zero"))?;
        let checksum = self.bytes().ok_or_else(|| missing("answer_sha256"))?;
        Ok(EncodedCompletion {
            status: u16::try_from(status).map_err(|_| unreadable("its status is none"))?,
            began_at,
            completed_at,
            retention: Duration::from_micros(kept_for),
            answer,
            length,
            checksum: checksum
                .try_into()
                .map_err(|_| unreadable("its answer_sha256 is not 32 bytes"))?,
        })
    }

    fn bytes(&mut self) -> Option<Vec<u8>> {
        match self.rest.next() {
            Some(Value::BulkString(bytes)) => Some(bytes),
            _ => None,
        }
    }

    fn number(&mut self, field: &'static str) -> Result<i64, StoreError> {
        let number = match self.rest.next() {
            Some(Value::Int(number)) => Some(number),
            Some(Value::BulkString(text)) => digits(&text),
            _ => None,
        };
        number.ok_or_else(|| unreadable(format!("its {field} is no number")))
    }
}

pub(super) fn digits(text: &[u8]) -> Option<i64> {
    let unsigned = text.strip_prefix(b"-").unwrap_or(text);
    let is_number = unsigned.iter().all(u8::is_ascii_digit);
    is_number.then(|| std::str::from_utf8(text).ok()?.parse().ok())?
}

fn no_answer() -> StoreError {
    StoreError::new(
        StoreErrorKind::Unknown,
        "a script answered what it cannot: something between here and the server changes answers",
    )
}
