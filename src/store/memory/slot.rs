//! One record, and what it is at a moment.

use std::sync::{Arc, Weak};
use std::time::Duration;

use crate::record::{Completion, FencingToken, Fingerprint, Nonce};
use crate::store::{Claim, OnLapsedLease, Record, RecordState};

use super::RECORD_BYTES;
use super::queues::Line;
use super::records::{Guard, Moment};

pub(super) struct Slot {
    pub(super) token: u64,
    pub(super) attempt: u64,
    /// What it counts for in `Counts::bytes`.
    pub(super) bytes: usize,
    /// The queues that it stands in, a bit for each, and in each only once:
    /// however often it is claimed and released, it takes no more room.
    pub(super) queued: u8,
    pub(super) state: State,
}

pub(super) enum State {
    InFlight {
        fingerprint: Fingerprint,
        nonce: Nonce,
        lapses_at: Moment,
        /// While its guard lives, the lease does not lapse.
        guarded: bool,
        /// Released as that: lapsed, and no longer to be renewed.
        unknown: bool,
        guard: Weak<Guard>,
        on_lapsed_lease: OnLapsedLease,
        retention: Duration,
    },
    Done {
        fingerprint: Fingerprint,
        nonce: Nonce,
        /// `None`: sealed.
        completion: Option<Arc<Completion>>,
        expires_at: Moment,
    },
    Released {
        expires_at: Moment,
    },
}

impl Slot {
    pub(super) fn in_flight(
        claim: &Claim,
        token: u64,
        attempt: u64,
        now: Moment,
        guard: &Arc<Guard>,
    ) -> Self {
        Slot {
            token,
            attempt,
            bytes: RECORD_BYTES,
            queued: 0,
            state: State::InFlight {
                fingerprint: claim.fingerprint,
                nonce: claim.nonce,
                lapses_at: now.saturating_add(claim.lease),
                guarded: true,
                unknown: false,
                guard: Arc::downgrade(guard),
                on_lapsed_lease: claim.on_lapsed_lease,
                retention: claim.retention,
            },
        }
    }

    /// Past its end: as good as absent.
    pub(super) fn is_over(&self, now: Moment) -> bool {
        self.end().is_some_and(|end| end <= now)
    }

    pub(super) fn is_lapsed(&self, now: Moment) -> bool {
        match &self.state {
            State::InFlight {
                lapses_at, guarded, ..
            } => *lapses_at <= now && !guarded,
            _ => false,
        }
    }

    /// Whether a claim can acquire it, if its lapse policy and fingerprint allow.
    pub(super) fn is_claimable(&self, now: Moment) -> bool {
        self.kind() == Kind::Released || self.is_over(now) || self.is_lapsed(now)
    }

    pub(super) fn record(&self, now: Moment) -> Record {
        Record::new(token(self.token), self.attempt, self.state_at(now))
    }

    fn state_at(&self, now: Moment) -> RecordState {
        match &self.state {
            State::InFlight { fingerprint, .. } if self.is_lapsed(now) => RecordState::Lapsed {
                fingerprint: *fingerprint,
            },
            State::InFlight {
                fingerprint,
                lapses_at,
                guarded,
                ..
            } => RecordState::InFlight {
                fingerprint: *fingerprint,
                lapses_in: if *guarded {
                    Duration::MAX
                } else {
                    lapses_at.saturating_sub(now)
                },
            },
            State::Done {
                fingerprint,
                completion: Some(completion),
                ..
            } => RecordState::Completed {
                fingerprint: *fingerprint,
                completion: Arc::clone(completion),
            },
            State::Done { fingerprint, .. } => RecordState::Sealed {
                fingerprint: *fingerprint,
            },
            State::Released { .. } => RecordState::Released,
        }
    }

    /// When it is over, unless it changes before; `None` if it is not going to be.
    pub(super) fn end(&self) -> Option<Moment> {
        match &self.state {
            State::Done { expires_at, .. } | State::Released { expires_at } => Some(*expires_at),
            State::InFlight {
                lapses_at,
                retention,
                guarded: false,
                on_lapsed_lease: OnLapsedLease::Rerun,
                ..
            } => Some(lapses_at.saturating_add(*retention)),
            State::InFlight { .. } => None,
        }
    }

    /// Whether it has to be put into this queue: it does not stand there yet.
    pub(super) fn enters(&mut self, line: Line) -> bool {
        let before = self.queued;
        self.queued |= line.bit();
        self.queued != before
    }

    pub(super) fn kind(&self) -> Kind {
        match &self.state {
            State::InFlight { .. } => Kind::InFlight,
            State::Done {
                completion: Some(_),
                ..
            } => Kind::Completed,
            State::Done { .. } => Kind::Sealed,
            State::Released { .. } => Kind::Released,
        }
    }
}

pub(super) fn token(token: u64) -> FencingToken {
    FencingToken::new(token).expect("a counter of microseconds stays below 2^53")
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    InFlight,
    Completed,
    Sealed,
    Released,
}

impl Kind {
    pub(super) fn line(self) -> Line {
        match self {
            Kind::InFlight => Line::ABANDONED,
            Kind::Completed | Kind::Sealed => Line::DONE,
            Kind::Released => Line::RELEASED,
        }
    }
}
