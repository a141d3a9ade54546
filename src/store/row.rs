//! A record as an engine keeps it, and what it means in the contract.

use std::sync::Arc;
use std::time::Duration;

#[cfg(any(feature = "postgres", feature = "sqlite"))]
use super::StoreErrorKind;
pub(crate) use super::encoding::micros;
use super::encoding::{EncodedCompletion, unreadable};
#[cfg(feature = "_sql")]
use super::{ForgetMode, RecordVersion};
use super::{Record, RecordState, RecordedStep, StoreError};
use crate::record::{FencingToken, Fingerprint, Origin, ScopeDigest};

/// The format that this version writes and reads.
pub(crate) const FORMAT: i64 = 1;

/// The states of a record, as every engine writes them: see docs/stores.md.
pub(crate) mod state {
    pub(crate) const IN_FLIGHT: i64 = 1;
    /// Released as `OutcomeUnknown`: treated as lapsed, and never renewed.
    pub(crate) const UNKNOWN: i64 = 2;
    pub(crate) const COMPLETED: i64 = 3;
    pub(crate) const SEALED: i64 = 4;
    pub(crate) const RELEASED: i64 = 5;
}

/// The token, the attempt and whether it is done of the record that is to be forgotten; all null if
/// no version is meant.
#[cfg(feature = "_sql")]
pub(crate) fn version_columns(mode: ForgetMode) -> [Option<i64>; 3] {
    let Some(version) = mode.version() else {
        return [None; 3];
    };
    let [token, attempt] = attempt_columns(version);
    [Some(token), Some(attempt), Some(i64::from(version.done))]
}

/// The token and the attempt of a version.
#[cfg(feature = "_sql")]
pub(crate) fn attempt_columns(version: RecordVersion) -> [i64; 2] {
    // An attempt above the largest number of a column is no record's.
    let attempt = i64::try_from(version.attempt).unwrap_or(-1);
    [version.token.get().cast_signed(), attempt]
}

/// The columns or fields of one record, unchecked.
#[derive(Debug)]
pub(crate) struct RecordRow {
    pub(crate) format: i64,
    pub(crate) state: i64,
    pub(crate) token: i64,
    pub(crate) attempt: i64,
    /// 32 bytes. May be empty in a tombstone.
    pub(crate) fingerprint: Vec<u8>,
    /// Microseconds until the lease lapses. Zero or less: it has lapsed.
    pub(crate) lapses_in: i64,
    /// The completion of a completed record.
    pub(crate) answer: Option<EncodedCompletion>,
    pub(crate) origin: OriginColumns,
}

/// Where a record's last attempt came from. A record of an earlier version has nothing of it.
#[derive(Debug, Default)]
pub(crate) struct OriginColumns {
    pub(crate) scope: Option<Vec<u8>>,
    pub(crate) route: Option<String>,
    pub(crate) trace: Option<String>,
}

impl OriginColumns {
    pub(crate) fn scope(&self) -> Option<ScopeDigest> {
        let bytes = self.scope.as_deref()?.try_into().ok()?;
        Some(ScopeDigest::from_bytes(bytes))
    }

    /// What can't be read is left out: an origin decides nothing.
    pub(crate) fn origin(&self) -> Origin {
        let mut origin = Origin::none();
        origin.route = self.route.as_deref().map(Into::into);
        origin.trace = self.trace.as_deref().and_then(|text| text.parse().ok());
        origin
    }
}

impl RecordRow {
    /// The record that these fields mean.
    ///
    /// # Errors
    /// [`StoreErrorKind::Unreadable`] if
    /// another program, or another version of this one, wrote something else.
    pub(crate) fn record(self) -> Result<Record, StoreError> {
        if self.format != FORMAT {
            return Err(unreadable(format!(
                "it is of format {}, this version reads format {FORMAT}",
                self.format
            )));
        }
        let (token, attempt) = (self.token()?, self.attempt()?);
        let state = if self.state == state::RELEASED {
            RecordState::Released
        } else {
            let fingerprint = self.fingerprint.try_into();
            let fingerprint =
                fingerprint.map_err(|_| unreadable("its fingerprint is not 32 bytes"))?;
            let fingerprint = Fingerprint::from_bytes(fingerprint);
            match (self.state, self.answer) {
                (state::IN_FLIGHT, _) => match u64::try_from(self.lapses_in) {
                    Ok(left) if left > 0 => RecordState::InFlight {
                        fingerprint,
                        lapses_in: Duration::from_micros(left),
                    },
                    _ => RecordState::Lapsed { fingerprint },
                },
                (state::UNKNOWN, _) => RecordState::Lapsed { fingerprint },
                (state::SEALED, _) => RecordState::Sealed { fingerprint },
                (state::COMPLETED, Some(answer)) => RecordState::Completed {
                    fingerprint,
                    completion: Arc::new(answer.completion()?),
                },
                (state::COMPLETED, None) => return Err(unreadable("its answer is missing")),
                (other, _) => return Err(unreadable(format!("it is in no known state ({other})"))),
            }
        };
        let mut record = Record::new(token, attempt, state);
        record.scope = self.origin.scope();
        record.origin = self.origin.origin();
        record.claimed_at = token.claimed_at();
        Ok(record)
    }

    pub(crate) fn token(&self) -> Result<FencingToken, StoreError> {
        u64::try_from(self.token)
            .ok()
            .and_then(FencingToken::new)
            .ok_or_else(|| unreadable(format!("its token is {}", self.token)))
    }

    pub(crate) fn attempt(&self) -> Result<u64, StoreError> {
        u64::try_from(self.attempt)
            .map_err(|_| unreadable(format!("its attempt is {}", self.attempt)))
    }
}

/// The error of a claim that acquired its record and could not read the steps: to the layer an
/// unknown outcome, so that the layer releases the record.
#[cfg(any(feature = "postgres", feature = "sqlite"))]
pub(crate) fn steps_unread(error: StoreError) -> StoreError {
    StoreError::new(StoreErrorKind::Unknown, error)
}

/// A step as its record has it.
pub(crate) fn recorded_step(name: Vec<u8>, result: Vec<u8>) -> Result<RecordedStep, StoreError> {
    let name = String::from_utf8(name)
        .map_err(|_| unreadable("the name of one of its steps is no text"))?;
    Ok(RecordedStep::new(name, result))
}

#[cfg(test)]
mod tests {
    use std::error::Error;
    use std::time::SystemTime;

    use http::StatusCode;

    use super::*;
    use crate::record::Completion;

    fn row(state: i64) -> RecordRow {
        RecordRow {
            format: FORMAT,
            state,
            token: 7,
            attempt: 3,
            fingerprint: vec![5; 32],
            lapses_in: 1,
            answer: None,
            origin: OriginColumns::default(),
        }
    }

    fn answer() -> Option<EncodedCompletion> {
        EncodedCompletion::of(&Completion::new(StatusCode::OK, "", SystemTime::UNIX_EPOCH))
    }

    /// Docs/stores.md has these numbers, and other versions of this crate read them.
    #[test]
    fn each_state_has_its_published_number() {
        let fingerprint = Fingerprint::from_bytes([5; 32]);
        let of = |row: RecordRow| row.record().unwrap().state;
        let lapses_in = Duration::from_micros(1);
        assert!(matches!(
            of(row(1)),
            RecordState::InFlight { fingerprint: own, lapses_in: left }
                if own == fingerprint && left == lapses_in
        ));
        for lapsed in [0, -1] {
            let row = RecordRow {
                lapses_in: lapsed,
                ..row(1)
            };
            assert!(
                matches!(of(row), RecordState::Lapsed { fingerprint: own } if own == fingerprint)
            );
        }
        assert!(matches!(of(row(2)), RecordState::Lapsed { .. }));
        let completed = RecordRow {
            answer: answer(),
            ..row(3)
        };
        assert!(matches!(of(completed), RecordState::Completed { .. }));
        assert!(matches!(of(row(4)), RecordState::Sealed { .. }));
        let released = RecordRow {
            fingerprint: Vec::new(),
            ..row(5)
        };
        let released = released.record().unwrap();
        assert!(matches!(released.state, RecordState::Released));
        assert_eq!((released.token.get(), released.attempt), (7, 3));
    }

    #[test]
    fn what_another_program_wrote_is_named_and_not_read() {
        let wrong = |change: fn(&mut RecordRow), reason: &str| {
            let mut row = row(state::IN_FLIGHT);
            change(&mut row);
            let error = row.record().unwrap_err();
            let text = error.source().unwrap().to_string();
            assert!(text.contains(reason), "{text}");
        };
        wrong(|row| row.format = 0, "it is of format 0");
        wrong(|row| row.format = 2, "it is of format 2");
        wrong(|row| row.state = 0, "it is in no known state (0)");
        wrong(|row| row.state = 6, "it is in no known state (6)");
        wrong(|row| row.state = 3, "its answer is missing");
        wrong(|row| row.token = -1, "its token is -1");
        wrong(|row| row.attempt = -1, "its attempt is -1");
        wrong(|row| row.fingerprint.truncate(31), "not 32 bytes");
    }
}
