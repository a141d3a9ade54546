//! One record, and its state at a moment.

use std::sync::{Arc, Weak};
use std::time::Duration;

use crate::record::{Completion, FencingToken, Fingerprint, Nonce};
use crate::store::{Claim, OnLapsedLease, Record, RecordState};

use super::account::Account;
use super::clock::SinceStart;
use super::counts::{Counts, Kind};
use super::guard::Guard;
use super::queues::ExpiryQueue;
use super::slab::Place;

pub(super) struct Slot {
    /// The account of the record's caller.
    pub(super) account: Arc<Account>,
    pub(super) token: u64,
    pub(super) attempt: u64,
    /// How much of `Counts::bytes` is for this record.
    pub(super) bytes: usize,
    /// Where the record's only entry in the queues is; `None` while the record can't expire.
    /// Without this an entry could outlive its record, and no cap would count it.
    pub(super) queued: Option<Place>,
    pub(super) state: State,
}

pub(super) enum State {
    InFlight {
        fingerprint: Fingerprint,
        nonce: Nonce,
        lapses_at: SinceStart,
        /// The guard lives, so the lease does not lapse.
        guarded: bool,
        /// The owner released the record as unknown: the lease has lapsed, and
        /// can't be renewed.
        unknown: bool,
        guard: Weak<Guard>,
        on_lapsed_lease: OnLapsedLease,
        retention: Duration,
    },
    Done {
        fingerprint: Fingerprint,
        nonce: Nonce,
        /// `None` if the record is sealed.
        completion: Option<Arc<Completion>>,
        expires_at: SinceStart,
    },
    Released {
        expires_at: SinceStart,
    },
}

impl State {
    pub(super) fn in_flight(claim: &Claim, now: SinceStart, guard: &Arc<Guard>) -> Self {
        State::InFlight {
            fingerprint: claim.fingerprint,
            nonce: claim.nonce,
            lapses_at: now.saturating_add(claim.lease),
            guarded: true,
            unknown: false,
            guard: Arc::downgrade(guard),
            on_lapsed_lease: claim.on_lapsed_lease,
            retention: claim.retention,
        }
    }

    pub(super) fn kind(&self) -> Kind {
        match self {
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

impl Slot {
    /// Whether the record has expired: every operation treats it as absent.
    pub(super) fn is_over(&self, now: SinceStart) -> bool {
        self.end().is_some_and(|end| end <= now)
    }

    pub(super) fn is_lapsed(&self, now: SinceStart) -> bool {
        match &self.state {
            State::InFlight {
                lapses_at, guarded, ..
            } => *lapses_at <= now && !guarded,
            _ => false,
        }
    }

    /// Whether a claim can acquire the record, if `on_lapsed_lease` and the
    /// fingerprint allow.
    pub(super) fn is_claimable(&self, now: SinceStart) -> bool {
        self.kind() == Kind::Released || self.is_over(now) || self.is_lapsed(now)
    }

    pub(super) fn record(&self, now: SinceStart) -> Record {
        Record::new(token(self.token), self.attempt, self.state_at(now))
    }

    fn state_at(&self, now: SinceStart) -> RecordState {
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

    /// Returns when the record expires if it does not change before; `None` if it never expires.
    pub(super) fn end(&self) -> Option<SinceStart> {
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

    pub(super) fn kind(&self) -> Kind {
        self.state.kind()
    }

    /// Changes the state of the record and returns the old one, for the caller to drop once the
    /// map is unlocked: dropping a completion may run any code.
    #[must_use]
    pub(super) fn change(&mut self, counts: &Counts, new: State) -> State {
        counts.replace(&self.account, self.kind(), new.kind());
        std::mem::replace(&mut self.state, new)
    }
}

pub(super) fn token(token: u64) -> FencingToken {
    FencingToken::new(token).expect("a counter of microseconds stays below 2^53")
}

impl Kind {
    pub(super) fn line(self) -> ExpiryQueue {
        match self {
            Kind::InFlight => ExpiryQueue::Abandoned,
            Kind::Completed | Kind::Sealed => ExpiryQueue::Done,
            Kind::Released => ExpiryQueue::Released,
        }
    }
}
