//! One record, and its state at a moment.

use std::mem;
use std::sync::Arc;
use std::time::Duration;

use crate::record::{FencingToken, Fingerprint, Nonce, RecordId, ScopeDigest, TraceContext};
use crate::store::{Claim, OnLapsedLease, Record, RecordState, RecordVersion};

use super::account::Account;
use super::clock::{Nanos, SinceStart};
use super::counts::{Counts, Kind};
use super::kept::Kept;
use super::limits::RECORD_BYTES;
use super::origins::{KeptOrigin, RouteNumber, Routes};
use super::queues::ExpiryQueue;
use super::slab::Place;
use super::steps::Steps;
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
        /// How many guards of the lease live: with one, the lease does not lapse.
        guards: u32,
        /// The owner released the record as unknown: the lease has lapsed, and
        /// can't be renewed.
        unknown: bool,
        on_lapsed_lease: OnLapsedLease,
        retention: Nanos,
        // The fields of a `KeptOrigin`, which as a whole would leave no place for the steps.
        trace: Option<Box<TraceContext>>,
        route: Option<RouteNumber>,
        steps: Steps,
    },
    Done {
        nonce: Nonce,
        /// The claim's origin too.
        kept: Kept,
    },
    Sealed {
        nonce: Nonce,
        origin: KeptOrigin,
        completed: SinceStart,
    },
    Released {
        origin: KeptOrigin,
        steps: Steps,
    },
}

impl State {
    /// In flight, with one guard.
    pub(super) fn in_flight(claim: &Claim, origin: KeptOrigin, steps: Steps) -> Self {
        State::InFlight {
            nonce: claim.nonce,
            guards: 1,
            unknown: false,
            on_lapsed_lease: claim.on_lapsed_lease,
            retention: claim.retention.into(),
            trace: origin.trace,
            route: origin.route,
            steps,
        }
    }

    /// Where the record comes from. `Err`: the completion that has it.
    pub(super) fn origin(&self) -> Result<KeptOrigin, Kept> {
        match self {
            State::Done { kept, .. } => Err(kept.clone()),
            State::InFlight { trace, route, .. } => Ok(KeptOrigin {
                trace: trace.clone(),
                route: *route,
            }),
            State::Sealed { origin, .. } | State::Released { origin, .. } => Ok(origin.clone()),
        }
    }

    /// Takes the steps out, for a claim that takes the record over.
    pub(super) fn take_steps(&mut self) -> Steps {
        match self {
            State::InFlight { steps, .. } | State::Released { steps, .. } => mem::take(steps),
            State::Done { .. } | State::Sealed { .. } => Steps::default(),
        }
    }

    pub(super) fn kind(&self) -> Kind {
        match self {
            State::InFlight { .. } => Kind::InFlight,
            State::Done { .. } => Kind::Completed,
            State::Sealed { .. } => Kind::Sealed,
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
            State::InFlight { guards, .. } => self.until <= now && *guards == 0,
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
            State::Done { nonce, .. } | State::Sealed { nonce, .. } => Some(nonce),
            _ => None,
        }
    }

    /// How much of `Counts::bytes` is for this record.
    pub(super) fn bytes(&self) -> usize {
        match &self.state {
            State::Done { kept, .. } => RECORD_BYTES + kept.weight(),
            State::InFlight { steps, .. } | State::Released { steps, .. } => {
                RECORD_BYTES + steps.weight()
            }
            State::Sealed { .. } => RECORD_BYTES,
        }
    }

    /// How many bytes the record would have that can't be evicted, if a claim took it over.
    pub(super) fn bytes_in_flight(&self) -> usize {
        match &self.state {
            State::Done { .. } => RECORD_BYTES,
            _ => self.bytes(),
        }
    }

    pub(super) fn seen(&self, now: SinceStart) -> Seen {
        let fingerprint = self.fingerprint;
        let state = match &self.state {
            State::Done { .. } => None,
            State::InFlight { .. } if self.is_lapsed(now) => {
                Some(RecordState::Lapsed { fingerprint })
            }
            State::InFlight { guards, .. } => Some(RecordState::InFlight {
                fingerprint,
                lapses_in: if *guards > 0 {
                    Duration::MAX
                } else {
                    self.until.saturating_sub(now).into()
                },
            }),
            State::Sealed { .. } => Some(RecordState::Sealed { fingerprint }),
            State::Released { .. } => Some(RecordState::Released),
        };
        let seen = |origin| (state.expect("the record has no completion"), origin);
        Seen {
            token: token(self.token),
            attempt: u64::from(self.attempt),
            scope: *self.account.scope(),
            state: self
                .state
                .origin()
                .map(seen)
                .map_err(|kept| (fingerprint, kept)),
        }
    }

    pub(super) fn version(&self) -> RecordVersion {
        RecordVersion {
            token: token(self.token),
            attempt: u64::from(self.attempt),
            done: self.ended_by().is_some(),
        }
    }

    /// Returns when the record expires if it does not change before; `None` if it never expires.
    pub(super) fn end(&self) -> Option<SinceStart> {
        match &self.state {
            State::InFlight {
                retention,
                guards: 0,
                on_lapsed_lease: OnLapsedLease::Rerun,
                ..
            } => Some(self.until.saturating_add(*retention)),
            State::InFlight { .. } => None,
            State::Done { .. } | State::Sealed { .. } | State::Released { .. } => Some(self.until),
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
        mem::replace(&mut self.state, new)
    }
}

/// What an operation has seen of a record while it was locked. The completion is unpacked later,
/// without a lock.
pub(super) struct Seen {
    token: FencingToken,
    attempt: u64,
    scope: ScopeDigest,
    /// `Err` for a completed record.
    state: Result<(RecordState, KeptOrigin), (Fingerprint, Kept)>,
}

impl Seen {
    pub(super) fn record(self, routes: &Routes) -> Record {
        let (state, origin) = self.state.unwrap_or_else(|(fingerprint, kept)| {
            let (completion, origin) = kept.unpack();
            let state = RecordState::Completed {
                fingerprint,
                completion: Arc::new(completion),
            };
            (state, origin)
        });
        let mut record = Record::new(self.token, self.attempt, state);
        record.scope = Some(self.scope);
        record.origin = routes.origin(origin);
        record.claimed_at = self.token.claimed_at();
        record
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
