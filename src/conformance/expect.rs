//! What the rules expect, and the texts for what came instead.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::record::Completion;
use crate::store::{Claimed, Lease, Ownership, Record, RecordState};

pub(crate) type Checked<T = ()> = Result<T, Failure>;

/// Why a rule failed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The store breaks the rule: what was expected, and what came.
    Broken(String),
    /// The store has no such operation.
    Unsupported(&'static str),
}

macro_rules! broken {
    ($($message:tt)+) => {
        return Err($crate::conformance::expect::Failure::Broken(format!($($message)+)))
    };
}
pub(crate) use broken;

macro_rules! ensure {
    ($holds:expr, $($message:tt)+) => {{
        let holds: bool = $holds;
        if !holds {
            $crate::conformance::expect::broken!($($message)+);
        }
    }};
}
pub(crate) use ensure;

pub(crate) fn held(what: &str, tenure: Ownership) -> Checked {
    ensure!(
        tenure == Ownership::Held,
        "expected {what} to be Held, it was Lost"
    );
    Ok(())
}

pub(crate) fn lost(what: &str, tenure: Ownership) -> Checked {
    ensure!(
        tenure == Ownership::Lost,
        "expected {what} to be Lost, it was Held"
    );
    Ok(())
}

/// Expects the record to be in flight under this lease, and to lapse within
/// this time.
pub(crate) fn in_flight(what: &str, record: &Record, lease: &Lease) -> Checked {
    is_of(what, record, lease)?;
    match &record.state {
        RecordState::InFlight {
            fingerprint,
            lapses_in,
        } => {
            ensure!(
                *fingerprint == lease.claim.fingerprint,
                "{what}: expected the fingerprint of the claim, it was another"
            );
            let end = *lapses_in;
            // `Duration::MAX` says that the owner lives in this process.
            ensure!(
                end <= lease.claim.lease || end == Duration::MAX,
                "{what}: expected a lease of {:?} at most, {end:?} are left of it",
                lease.claim.lease
            );
            Ok(())
        }
        other => broken!("{what}: expected it in flight, it is {}", state(other)),
    }
}

pub(crate) fn lapsed(what: &str, record: &Record, lease: &Lease) -> Checked {
    is_of(what, record, lease)?;
    match &record.state {
        RecordState::Lapsed { fingerprint } => {
            ensure!(
                *fingerprint == lease.claim.fingerprint,
                "{what}: expected the fingerprint of the claim, it was another"
            );
            Ok(())
        }
        other => broken!("{what}: expected it lapsed, it is {}", state(other)),
    }
}

pub(crate) fn sealed(what: &str, record: &Record, lease: &Lease) -> Checked {
    is_of(what, record, lease)?;
    match &record.state {
        RecordState::Sealed { fingerprint } => {
            ensure!(
                *fingerprint == lease.claim.fingerprint,
                "{what}: expected the fingerprint of the claim, it was another"
            );
            Ok(())
        }
        other => broken!("{what}: expected it sealed, it is {}", state(other)),
    }
}

/// Expects the record to be completed under this lease, with exactly this
/// completion.
pub(crate) fn completed(
    what: &str,
    record: &Record,
    lease: &Lease,
    answer: &Arc<Completion>,
) -> Checked {
    is_of(what, record, lease)?;
    match &record.state {
        RecordState::Completed {
            fingerprint,
            completion,
        } => {
            ensure!(
                *fingerprint == lease.claim.fingerprint,
                "{what}: expected the fingerprint of the claim, it was another"
            );
            same_answer(what, completion, answer)
        }
        other => broken!("{what}: expected it completed, it is {}", state(other)),
    }
}

fn is_of(what: &str, record: &Record, lease: &Lease) -> Checked {
    ensure!(
        (record.token, record.attempt) == (lease.token, lease.attempt),
        "{what}: expected token {} and attempt {}, they were {} and {}",
        lease.token,
        lease.attempt,
        record.token,
        record.attempt
    );
    Ok(())
}

fn same_answer(what: &str, kept: &Completion, given: &Completion) -> Checked {
    ensure!(
        kept.status == given.status,
        "{what}: expected the status {}, it was {}",
        given.status,
        kept.status
    );
    ensure!(
        kept.headers == given.headers,
        "{what}: expected the headers {:?}, they were {:?}",
        given.headers,
        kept.headers
    );
    if kept.body != given.body {
        let pairs = kept.body.iter().zip(&given.body);
        let differs = pairs.take_while(|(one, other)| one == other).count();
        broken!(
            "{what}: expected a body of {} bytes, it has {} and differs from byte {differs} on",
            given.body.len(),
            kept.body.len(),
        );
    }
    ensure!(
        kept.trailers == given.trailers,
        "{what}: expected the trailers {:?}, they were {:?}",
        given.trailers,
        kept.trailers
    );
    same_time(&format!("{what}, began_at"), kept.began_at, given.began_at)?;
    same_time(
        &format!("{what}, completed_at"),
        kept.completed_at,
        given.completed_at,
    )?;
    ensure!(
        kept.retention.abs_diff(given.retention) < Duration::from_micros(1)
            // No engine keeps a duration of so many years.
            || given.retention > CENTURY && kept.retention >= CENTURY,
        "{what}: expected a retention of {:?}, it was {:?}",
        given.retention,
        kept.retention
    );
    Ok(())
}

/// A hundred years of 365 days.
const CENTURY: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

fn same_time(what: &str, kept: SystemTime, given: SystemTime) -> Checked {
    let apart = kept
        .duration_since(given)
        .unwrap_or_else(|before| before.duration());
    ensure!(
        apart < Duration::from_micros(1),
        "{what}: expected the same time to the microsecond, it is {apart:?} off"
    );
    Ok(())
}

/// The result of a claim, in words.
pub(crate) fn told(claimed: &Claimed) -> String {
    match claimed {
        Claimed::Acquired(lease) => {
            format!("a lease (token {}, attempt {})", lease.token, lease.attempt)
        }
        Claimed::Found(record) => format!(
            "a record {} (token {}, attempt {})",
            state(&record.state),
            record.token,
            record.attempt
        ),
        Claimed::OverCapacity => "OverCapacity".to_owned(),
        Claimed::OverShare => "OverShare".to_owned(),
    }
}

pub(crate) fn state(state: &RecordState) -> String {
    match state {
        RecordState::InFlight { lapses_in, .. } => format!("in flight for {lapses_in:?}"),
        RecordState::Lapsed { .. } => "lapsed".to_owned(),
        RecordState::Completed { completion, .. } => {
            format!("completed with {}", completion.status)
        }
        RecordState::Sealed { .. } => "sealed".to_owned(),
        RecordState::Released => "released".to_owned(),
    }
}
