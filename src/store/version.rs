//! What a person saw of a record, to be compared with what the record is now.

use std::fmt;
use std::str::FromStr;

use super::{ForgetMode, Forgotten, ListedRecord, ListedState, Record, RecordState};
use crate::record::{FencingToken, ParseError};

const WRONG: ParseError =
    ParseError("the version of a record: `TOKEN.ATTEMPT`, or `TOKEN.ATTEMPT.done`");

/// What of a record changes with every attempt, and when the operation is done. A person decides
/// about a record as it was shown; by its version a store finds out, in the step that acts, whether
/// the record has moved on since.
///
/// As text it is `TOKEN.ATTEMPT`, or `TOKEN.ATTEMPT.done` for a completed or a sealed record:
///
/// ```
/// use tower_idempotency::store::RecordVersion;
///
/// let version: RecordVersion = "1764511250123456.2.done".parse().unwrap();
/// assert_eq!((version.token.get(), version.attempt, version.done), (1764511250123456, 2, true));
/// assert_eq!(version.to_string(), "1764511250123456.2.done");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RecordVersion {
    /// The token of the last claim that acquired the record.
    pub token: FencingToken,
    /// The attempt of that claim.
    pub attempt: u64,
    /// Whether the operation is done: the record is completed or sealed. An owner that is late
    /// completes its record under the token that was seen before.
    pub done: bool,
}

impl fmt::Display for RecordVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let done = if self.done { ".done" } else { "" };
        write!(f, "{}.{}{done}", self.token, self.attempt)
    }
}

impl FromStr for RecordVersion {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let (numbers, done) = match text.strip_suffix(".done") {
            Some(numbers) => (numbers, true),
            None => (text, false),
        };
        let number = |digits: &str| {
            let is_number = digits.bytes().all(|byte| byte.is_ascii_digit());
            is_number.then(|| digits.parse::<u64>().ok()).flatten()
        };
        let (token, attempt) = numbers.split_once('.').ok_or(WRONG)?;
        let token = number(token).and_then(FencingToken::new);
        match (token, number(attempt)) {
            (Some(token), Some(attempt)) => Ok(Self {
                token,
                attempt,
                done,
            }),
            _ => Err(WRONG),
        }
    }
}

impl Record {
    /// The version of the record, as it was found.
    #[must_use]
    pub fn version(&self) -> RecordVersion {
        let done = matches!(
            self.state,
            RecordState::Completed { .. } | RecordState::Sealed { .. }
        );
        RecordVersion {
            token: self.token,
            attempt: self.attempt,
            done,
        }
    }
}

impl ListedRecord {
    /// The version of the record, as it was listed.
    #[must_use]
    pub fn version(&self) -> RecordVersion {
        RecordVersion {
            token: self.token,
            attempt: self.attempt,
            done: matches!(self.state, ListedState::Completed | ListedState::Sealed),
        }
    }
}

impl ForgetMode {
    /// What [`Store::forget`](super::Store::forget) does in this mode with a record of this
    /// version, alive (in flight, and its lease has not lapsed) or not. A store that decides in
    /// Rust, with the record locked, asks this.
    #[must_use]
    pub fn decide(self, found: RecordVersion, is_alive: bool) -> Forgotten {
        if self.version().is_some_and(|version| version != found) {
            Forgotten::Moved
        } else if is_alive && !self.is_forced() {
            Forgotten::InFlight
        } else {
            Forgotten::Gone
        }
    }

    /// Whether a record goes even if its owner is alive.
    #[must_use]
    pub fn is_forced(self) -> bool {
        matches!(self, Self::Forced | Self::ForcedUnchanged(_))
    }

    /// The version that a record must have to be removed, if only that one is meant.
    #[must_use]
    pub fn version(self) -> Option<RecordVersion> {
        match self {
            Self::UnlessAlive | Self::Forced => None,
            Self::Unchanged(version) | Self::ForcedUnchanged(version) => Some(version),
        }
    }

    /// Why a statement has removed nothing, by what is found afterwards.
    #[cfg(any(feature = "postgres", feature = "sqlite"))]
    pub(crate) fn refusal(self, found: Option<&Record>) -> Forgotten {
        let Some(found) = found else {
            return Forgotten::Absent;
        };
        let is_alive = matches!(found.state, RecordState::InFlight { .. });
        match self.decide(found.version(), is_alive) {
            // The lease lapsed after the statement.
            Forgotten::Gone => Forgotten::InFlight,
            refusal => refusal,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(text: &str) -> RecordVersion {
        text.parse().unwrap()
    }

    #[test]
    fn a_version_is_read_as_it_is_written_and_nothing_else_is_one() {
        for text in [
            "0.0",
            "1764511250123456.1",
            "9007199254740991.18446744073709551615.done",
        ] {
            assert_eq!(version(text).to_string(), text);
        }
        for wrong in [
            "",
            "1",
            ".",
            "1.",
            ".1",
            "1.1.",
            "1.1.Done",
            "1.1.done.done",
            "+1.1",
            "1.-1",
            " 1.1",
            "9007199254740992.1",
            "1.18446744073709551616",
            "1.1done",
            "1,1",
        ] {
            assert!(wrong.parse::<RecordVersion>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_record_is_forgotten_only_as_it_was_seen_and_alive_only_by_force() {
        use Forgotten::{Gone, InFlight, Moved};
        let seen = version("7.1");
        for (mode, same, alive) in [
            (ForgetMode::UnlessAlive, Gone, InFlight),
            (ForgetMode::Forced, Gone, Gone),
            (ForgetMode::Unchanged(seen), Gone, InFlight),
            (ForgetMode::ForcedUnchanged(seen), Gone, Gone),
        ] {
            assert_eq!(mode.decide(seen, false), same, "{mode:?}");
            assert_eq!(mode.decide(seen, true), alive, "{mode:?}");
            for other in ["8.1", "7.2", "7.1.done"] {
                let expected = if mode.version().is_some() {
                    Moved
                } else {
                    same
                };
                assert_eq!(
                    mode.decide(version(other), false),
                    expected,
                    "{mode:?} {other}"
                );
            }
        }
    }
}
