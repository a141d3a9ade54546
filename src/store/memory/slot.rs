//! One record, and its state at a moment.

use std::sync::{Arc, Weak};
use std::time::Duration;

use crate::record::{FencingToken, Fingerprint, Nonce, RecordId};
use crate::store::{Claim, OnLapsedLease, Record, RecordState};

use super::account::Account;
use super::clock::{Nanos, SinceStart};
use super::counts::{Counts, Kind};
use super::guard::Guard;
use super::kept::Kept;
use super::limits::RECORD_BYTES;
use super::queues::ExpiryQueue;
use super::slab::Place;
use super::table::Identified;

pub(super) struct Slot {
    pub(super) id: RecordId,
    /// The fingerprint of the last claim; a tombstone has none to compare with.
    pub(super) fingerprint: Fingerprint,
    /// The account of the record's caller.
    pub(super) account: Arc<Account>,
    pub(super) token: u64,
    /// When the lease lapses, or else when the record expires.
    pub(super) until: SinceStart,
    /// More attempts than `u32` has are not counted.
    pub(super) attempt: u32,
    /// Where the record's only entry in the queues is; `None` while the record can't expire.
    /// Without this an entry could outlive its record, and no cap would count it.
    pub(super) queued: Option<Place>,
    pub(super) state: State,
}

impl Identified for Slot {
    fn id(&self) -> &RecordId {
        &self.id
    }
}

pub(super) enum State {
    InFlight {
        nonce: Nonce,
        /// The guard lives, so the lease does not lapse.
        guarded: bool,
        /// The owner released the record as unknown: the lease has lapsed, and
        /// can't be renewed.
        unknown: bool,
        guard: Weak<Guard>,
        on_lapsed_lease: OnLapsedLease,
        retention: Nanos,
    },
    Done {
        nonce: Nonce,
        kept: Kept,
    },
    Sealed {
        nonce: Nonce,
    },
    Released,
}

impl State {
    pub(super) fn in_flight(claim: &Claim, guard: &Arc<Guard>) -> Self {
        State::InFlight {
            nonce: claim.nonce,
            guarded: true,
            unknown: false,
            guard: Arc::downgrade(guard),
            on_lapsed_lease: claim.on_lapsed_lease,
            retention: claim.retention.into(),
        }
    }

    /// The state after a completion by this nonce; `kept` is `None` for a sealed one.
    pub(super) fn done(nonce: Nonce, kept: Option<Kept>) -> Self {
        match kept {
            Some(kept) => State::Done { nonce, kept },
            None => State::Sealed { nonce },
        }
    }

    pub(super) fn kind(&self) -> Kind {
        match self {
            State::InFlight { .. } => Kind::InFlight,
            State::Done { .. } => Kind::Completed,
            State::Sealed { .. } => Kind::Sealed,
            State::Released => Kind::Released,
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
            State::InFlight { guarded, .. } => self.until <= now && !guarded,
            _ => false,
        }
    }

    /// Whether a claim can acquire the record, if `on_lapsed_lease` and the
    /// fingerprint allow.
    pub(super) fn is_claimable(&self, now: SinceStart) -> bool {
        self.kind() == Kind::Released || self.is_over(now) || self.is_lapsed(now)
    }

    /// The nonce that ended the record's operation with an outcome.
    pub(super) fn ended_by(&self) -> Option<&Nonce> {
        match &self.state {
            State::Done { nonce, .. } | State::Sealed { nonce } => Some(nonce),
            _ => None,
        }
    }

    /// How much of `Counts::bytes` is for this record.
    pub(super) fn bytes(&self) -> usize {
        match &self.state {
            State::Done { kept, .. } => RECORD_BYTES + kept.weight(),
            _ => RECORD_BYTES,
        }
    }

    pub(super) fn seen(&self, now: SinceStart) -> Seen {
        let fingerprint = self.fingerprint;
        Seen {
            token: token(self.token),
            attempt: u64::from(self.attempt),
            state: match &self.state {
                State::Done { kept, .. } => Err((fingerprint, kept.clone())),
                State::InFlight { .. } if self.is_lapsed(now) => {
                    Ok(RecordState::Lapsed { fingerprint })
                }
                State::InFlight { guarded, .. } => Ok(RecordState::InFlight {
                    fingerprint,
                    lapses_in: if *guarded {
                        Duration::MAX
                    } else {
                        self.until.saturating_sub(now).into()
                    },
                }),
                State::Sealed { .. } => Ok(RecordState::Sealed { fingerprint }),
                State::Released => Ok(RecordState::Released),
            },
        }
    }

    /// Returns when the record expires if it does not change before; `None` if it never expires.
    pub(super) fn end(&self) -> Option<SinceStart> {
        match &self.state {
            State::InFlight {
                retention,
                guarded: false,
                on_lapsed_lease: OnLapsedLease::Rerun,
                ..
            } => Some(self.until.saturating_add(*retention)),
            State::InFlight { .. } => None,
            State::Done { .. } | State::Sealed { .. } | State::Released => Some(self.until),
        }
    }

    pub(super) fn kind(&self) -> Kind {
        self.state.kind()
    }

    /// Changes the state of the record and returns the old one, for the caller to drop once the
    /// table is unlocked: dropping a completion may run any code.
    #[must_use]
    pub(super) fn change(&mut self, counts: &Counts, new: State) -> State {
        counts.replace(&self.account, self.kind(), new.kind());
        std::mem::replace(&mut self.state, new)
    }
}

/// What an operation has seen of a record while it was locked. The completion is unpacked later,
/// without a lock.
pub(super) struct Seen {
    token: FencingToken,
    attempt: u64,
    state: Result<RecordState, (Fingerprint, Kept)>,
}

impl Seen {
    pub(super) fn record(self) -> Record {
        let state = self.state.unwrap_or_else(|(fingerprint, kept)| {
            let completion = Arc::new(kept.unpack());
            RecordState::Completed {
                fingerprint,
                completion,
            }
        });
        Record::new(self.token, self.attempt, state)
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

#[cfg(all(test, not(shuttle), target_pointer_width = "64"))]
mod tests {
    /// `RECORD_BYTES` was measured with slots of this size.
    #[test]
    fn a_slot_has_152_bytes() {
        assert_eq!(size_of::<super::Slot>(), 152);
    }
}
