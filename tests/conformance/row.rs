//! One record of a [`BrokenStore`](crate::broken::BrokenStore).

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use tokio::time::Instant;
use tower_idempotency::store::{
    Claim, ListedRecord, ListedState, OnLapsedLease, Outcome, Record, RecordState, RecordedStep,
};
use tower_idempotency::store::{Completion, FencingToken, Nonce};

use crate::fault::Fault;

const CENTURY: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

#[derive(Clone)]
pub(crate) struct Row {
    pub(crate) token: u64,
    pub(crate) attempt: u64,
    pub(crate) claim: Claim,
    /// The nonces of the record's earlier owners.
    pub(crate) formers: Vec<Nonce>,
    pub(crate) steps: Vec<RecordedStep>,
    pub(crate) state: State,
    pub(crate) until: Option<Instant>,
    /// When the record's last claim and its first one were made.
    pub(crate) claimed: [Instant; 2],
}

#[derive(Clone)]
pub(crate) enum State {
    InFlight { lapses_at: Instant },
    Unknown,
    Completed(Arc<Completion>),
    Sealed,
    Released,
}

impl Row {
    pub(crate) fn is_lapsed(&self, now: Instant) -> bool {
        match self.state {
            State::InFlight { lapses_at } => lapses_at <= now,
            State::Unknown => true,
            _ => false,
        }
    }

    pub(crate) fn is_open(&self) -> bool {
        matches!(self.state, State::InFlight { .. } | State::Unknown)
    }

    pub(crate) fn is_done(&self) -> bool {
        matches!(self.state, State::Completed(_) | State::Sealed)
    }

    pub(crate) fn record(
        &self,
        now: Instant,
        fault: Option<Fault>,
        asker: Option<&Claim>,
    ) -> Record {
        let asker = asker.filter(|_| fault == Some(Fault::TellsTheAskersFingerprint));
        let fingerprint = asker.unwrap_or(&self.claim).fingerprint;
        let state = match &self.state {
            State::InFlight { lapses_at } if *lapses_at > now => RecordState::InFlight {
                fingerprint,
                lapses_in: *lapses_at - now,
            },
            State::InFlight { .. } | State::Unknown => RecordState::Lapsed { fingerprint },
            State::Completed(completion) => RecordState::Completed {
                fingerprint,
                completion: Arc::clone(completion),
            },
            State::Sealed => RecordState::Sealed { fingerprint },
            State::Released => RecordState::Released,
        };
        let told = match fault {
            Some(Fault::TellsAnotherToken) => self.token - 1,
            Some(Fault::RoundsTokens) => self.token / 1000 * 1000,
            _ => self.token,
        };
        Record::new(token(told), self.attempt, state)
    }
}

/// The place of a record in the order of a list: the oldest is first.
pub(crate) fn place(row: &Row) -> [u8; 40] {
    let mut place = [0; 40];
    place[..8].copy_from_slice(&row.token.to_be_bytes());
    place[8..].copy_from_slice(row.claim.id.as_bytes());
    place
}

pub(crate) fn listed(row: &Row, now: Instant, fault: Option<Fault>) -> ListedRecord {
    let state = match &row.state {
        State::InFlight { .. } if fault == Some(Fault::ListsWhatLapsedAsInFlight) => {
            ListedState::InFlight
        }
        State::InFlight { lapses_at } if *lapses_at <= now => ListedState::Lapsed,
        State::InFlight { .. } => ListedState::InFlight,
        State::Unknown => ListedState::Unknown,
        State::Completed(_) => ListedState::Completed,
        State::Sealed => ListedState::Sealed,
        State::Released => ListedState::Released,
    };
    let mut listed = ListedRecord::new(row.claim.id, state, token(row.token), row.attempt);
    listed.scope = Some(row.claim.scope);
    listed
}

pub(crate) fn token(token: u64) -> FencingToken {
    FencingToken::new(token).expect("below the limit")
}

pub(crate) fn after(start: Instant, length: Duration, fault: Option<Fault>) -> Instant {
    if fault == Some(Fault::OverflowsAtExtremes) {
        return start + length;
    }
    start + length.min(CENTURY)
}

/// When a record is removed whose lease lapses at `lapses_at`.
pub(crate) fn end_of_lapse(
    claim: &Claim,
    lapses_at: Instant,
    fault: Option<Fault>,
) -> Option<Instant> {
    match fault {
        Some(Fault::ForgetsAtTheLapse) => Some(lapses_at),
        Some(Fault::ForgetsWhatRefuses) => Some(after(lapses_at, claim.retention, fault)),
        _ => (claim.on_lapsed_lease == OnLapsedLease::Rerun)
            .then(|| after(lapses_at, claim.retention, fault)),
    }
}

/// The state that an outcome gives to its record, and when the record expires.
pub(crate) fn done(
    claim: &Claim,
    outcome: &Outcome,
    now: Instant,
    fault: Option<Fault>,
) -> (State, Option<Instant>) {
    let (state, mut retention) = match outcome {
        Outcome::Completed(completion) => (
            State::Completed(Arc::new(kept(completion, fault))),
            completion.retention,
        ),
        Outcome::Sealed { retention } if fault == Some(Fault::SealsAsEmptyAnswers) => {
            let empty = Completion::new(StatusCode::OK, "", SystemTime::now());
            (State::Completed(Arc::new(empty)), *retention)
        }
        Outcome::Sealed { retention } => (State::Sealed, *retention),
        other => panic!("{other:?} is new"),
    };
    if fault == Some(Fault::KeepsCompletionsForTheClaims) {
        retention = claim.retention;
    }
    if let (Some(Fault::FollowsTheCallersClock), Outcome::Completed(completion)) = (fault, outcome)
    {
        let end = completion.kept_until().unwrap_or_else(SystemTime::now);
        retention = end.duration_since(SystemTime::now()).unwrap_or_default();
    }
    let stays = fault == Some(Fault::KeepsCompletionsForGood);
    (state, (!stays).then(|| after(now, retention, fault)))
}

fn kept(completion: &Completion, fault: Option<Fault>) -> Completion {
    let mut kept = completion.clone();
    match fault {
        Some(Fault::TakesBodiesForText) => {
            // The fault: the body is converted as if it were UTF-8 text.
            kept.body = String::from_utf8_lossy(&kept.body).into_owned().into();
        }
        Some(Fault::CutsBodies) => kept.body = kept.body.slice(..kept.body.len().min(65_535)),
        Some(Fault::KeepsOneHeaderOfAName) => kept.headers = one_of_each(&kept.headers),
        Some(Fault::MixesTrailersIntoHeaders) => {
            for (name, value) in kept.trailers.take().iter().flatten() {
                kept.headers.append(name, value.clone());
            }
        }
        Some(Fault::ChangesStatuses) if kept.status.as_u16() > 599 => {
            kept.status = StatusCode::OK;
            kept.body = Bytes::new();
        }
        Some(Fault::RoundsTimes) => {
            let since = kept
                .completed_at
                .duration_since(UNIX_EPOCH)
                .unwrap_or_default();
            let millis = u64::try_from(since.as_millis()).unwrap_or(0);
            kept.completed_at = UNIX_EPOCH + Duration::from_millis(millis);
        }
        _ => {}
    }
    kept
}

fn one_of_each(headers: &HeaderMap) -> HeaderMap {
    let mut kept = HeaderMap::new();
    for (name, value) in headers {
        kept.insert(name, value.clone());
    }
    kept
}
