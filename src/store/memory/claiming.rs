//! Claims: the step that makes a record in flight, or finds out what is there.

use std::sync::Arc;

use crate::limits::Whose;
use crate::store::{Claim, Claimed, Lease};

use super::account::Account;
use super::counts::Kind;
use super::eviction::{Full, REMOVED_FOR_SHARE};
use super::guard::Guard;
use super::limits::RECORD_BYTES;
use super::records::Records;
use super::slot::{Slot, State, token};
use super::sync::Entry;

/// A claim for which room has to be made.
struct NoRoom {
    full: Full,
    account: Arc<Account>,
}

impl Records {
    pub(super) fn claim(records: &Arc<Self>, claim: &Claim) -> Claimed {
        let mut left = REMOVED_FOR_SHARE;
        loop {
            let no_room = match records.slots.entry(claim.id) {
                Entry::Occupied(mut found) => {
                    let claimed = Self::claim_found(records, found.get_mut(), claim);
                    drop(found);
                    match claimed {
                        Ok((claimed, gone)) => {
                            drop(gone);
                            return claimed;
                        }
                        Err(no_room) => no_room,
                    }
                }
                Entry::Vacant(place) => match records.admit(claim) {
                    Ok(account) => {
                        let guard = Guard::new(records, claim);
                        let now = records.clock.now();
                        let token = records.next_token();
                        place.insert(Box::new(Slot {
                            account,
                            token,
                            attempt: 1,
                            bytes: RECORD_BYTES,
                            queued: None,
                            state: State::in_flight(claim, now, &guard),
                        }));
                        return acquired(claim, token, 1, guard);
                    }
                    Err(no_room) => no_room,
                },
            };
            // No guard of the map is held here: `evict_one` locks other shards.
            let removed = match no_room.full {
                Full::Share if left == 0 => Err(Whose::Caller),
                full => records.evict_one(full, &no_room.account),
            };
            left -= usize::from(matches!(no_room.full, Full::Share) && removed.is_ok());
            if let Err(whose) = removed {
                records.counts.count_refused(whose);
                return match whose {
                    Whose::Caller => Claimed::OverShare,
                    Whose::Service => Claimed::OverCapacity,
                };
            }
        }
    }

    /// Counts a new record of the claim's caller, if there is room for it.
    fn admit(&self, claim: &Claim) -> Result<Arc<Account>, NoRoom> {
        let counts = &self.counts;
        // The record counts for its caller first: two claims of one caller at the same moment
        // can't both have the last of its share.
        let account = self
            .accounts
            .join(claim, Kind::InFlight, RECORD_BYTES, counts);
        let checked = self.check_share(&account, account.in_flight());
        let full = match checked.map(|()| counts.reserve(&self.limits)) {
            Ok(Ok(())) => return Ok(account),
            Ok(Err(of)) => Full::Store(of, account.held(of)),
            Err(full) => full,
        };
        self.accounts
            .leave(&account, Kind::InFlight, RECORD_BYTES, counts);
        Err(NoRoom { full, account })
    }

    /// Claims a record that exists. Also returns the state that the claim
    /// replaced, for the caller to drop once the map is unlocked: dropping a
    /// completion may run any code.
    fn claim_found(
        records: &Arc<Self>,
        slot: &mut Slot,
        claim: &Claim,
    ) -> Result<(Claimed, Option<State>), NoRoom> {
        let now = records.clock.now();
        let attempt = if slot.is_over(now) {
            1
        } else {
            match &mut slot.state {
                State::InFlight {
                    nonce,
                    lapses_at,
                    guarded,
                    guard,
                    unknown: false,
                    ..
                } if *nonce == claim.nonce => {
                    *lapses_at = now.saturating_add(claim.lease);
                    *guarded = true;
                    records.dequeue(slot.queued.take());
                    let held = guard.upgrade().unwrap_or_else(|| {
                        let another = Guard::new(records, claim);
                        *guard = Arc::downgrade(&another);
                        another
                    });
                    return Ok((acquired(claim, slot.token, slot.attempt, held), None));
                }
                State::Released { .. } => slot.attempt + 1,
                State::InFlight { fingerprint, .. } => {
                    let takes_over = claim.takes_over(fingerprint);
                    if !(takes_over && slot.is_lapsed(now)) {
                        return Ok((Claimed::Found(slot.record(now)), None));
                    }
                    slot.attempt + 1
                }
                State::Done { .. } => return Ok((Claimed::Found(slot.record(now)), None)),
            }
        };
        // What was in flight already counts as such; anything else could be evicted until now.
        if slot.kind() != Kind::InFlight && records.limits.evicts() {
            let in_flight = slot.account.in_flight() + 1;
            records
                .check_share(&slot.account, in_flight)
                .map_err(|full| NoRoom {
                    full,
                    account: Arc::clone(&slot.account),
                })?;
        }
        let guard = Guard::new(records, claim);
        let token = records.next_token();
        records.dequeue(slot.queued.take());
        records
            .counts
            .shrink(&slot.account, slot.bytes - RECORD_BYTES);
        (slot.token, slot.attempt, slot.bytes) = (token, attempt, RECORD_BYTES);
        let gone = slot.change(&records.counts, State::in_flight(claim, now, &guard));
        Ok((acquired(claim, token, attempt, guard), Some(gone)))
    }
}

fn acquired(claim: &Claim, number: u64, attempt: u64, guard: Arc<Guard>) -> Claimed {
    Claimed::Acquired(Lease::new(claim, token(number), attempt).guarded_by(guard))
}
