//! Claims: the step that makes a record in flight, or finds out what is there.

use std::sync::Arc;

use crate::limits::Whose;
use crate::record::Origin;
use crate::store::guard::Guard;
use crate::store::{Claim, Claimed, Grant, Lease, LeaseGuard};

use super::account::Account;
use super::counts::Kind;
use super::eviction::{Full, REMOVED_FOR_SHARE};
use super::guard::guard;
use super::limits::RECORD_BYTES;
use super::records::Records;
use super::slot::{Seen, Slot, State, token};
use super::steps::Steps;

/// A claim for which room has to be made.
struct NoRoom {
    full: Full,
    account: Arc<Account>,
}

/// What a claim did while the record's part of the table was locked.
enum Step {
    /// Also the state that the claim replaced, to be dropped once the part is unlocked: dropping a
    /// completion may run any code.
    Acquired(Grant, Option<State>),
    Found(Seen),
    /// There is no record for a claim by hand.
    FoundNothing(Claimed),
    NoRoom(NoRoom),
}

impl Records {
    pub(super) fn claim(records: &Arc<Self>, claim: &Claim) -> Claimed {
        match Self::claim_with(records, claim, &|| &claim.origin) {
            Ok(grant) => Claimed::Acquired(Lease::of(claim.clone(), grant)),
            Err(claimed) => claimed,
        }
    }

    /// Sends a claim whose `origin` is asked for only if it acquires the record.
    #[expect(
        clippy::result_large_err,
        reason = "a record that was found is the answer to every replay: a box would cost it an allocation"
    )]
    pub(super) fn claim_with<'a>(
        records: &Arc<Self>,
        claim: &Claim,
        origin: &dyn Fn() -> &'a Origin,
    ) -> Result<Grant, Claimed> {
        let mut left = REMOVED_FOR_SHARE;
        loop {
            let no_room = match Self::claim_once(records, claim, origin) {
                Step::Acquired(grant, gone) => {
                    drop(gone);
                    return Ok(grant);
                }
                Step::Found(seen) => return Err(Claimed::Found(seen.record(&records.routes))),
                Step::FoundNothing(found) => return Err(found),
                Step::NoRoom(no_room) => no_room,
            };
            // Nothing is locked here: `evict_one` locks other parts.
            let removed = match no_room.full {
                Full::Share if left == 0 => Err(Whose::Caller),
                full => records.evict_one(full, &no_room.account),
            };
            left -= usize::from(matches!(no_room.full, Full::Share) && removed.is_ok());
            if let Err(whose) = removed {
                records.counts.count_refused(whose);
                return Err(match whose {
                    Whose::Caller => Claimed::OverShare,
                    Whose::Service => Claimed::OverCapacity,
                });
            }
        }
    }

    fn claim_once<'a>(records: &Arc<Self>, claim: &Claim, origin: &dyn Fn() -> &'a Origin) -> Step {
        let mut locked = records.slots.lock(&claim.id);
        if let Some((_, slot)) = locked.get(&claim.id) {
            return Self::claim_found(records, slot, claim, origin);
        }
        if let Some(found) = claim.found_nothing() {
            return Step::FoundNothing(found);
        }
        let account = match records.admit(claim) {
            Ok(account) => account,
            Err(no_room) => return Step::NoRoom(no_room),
        };
        let now = records.clock.now();
        let token = records.next_token(now);
        let grant = grant(token, 1, guard(records, claim, token));
        let origin = records.routes.keep(origin());
        locked.insert(Slot {
            id: claim.id,
            fingerprint: claim.fingerprint,
            account,
            token,
            until: now.saturating_add(claim.lease.into()),
            attempt: 1,
            queued: None,
            state: State::in_flight(claim, origin, Steps::default()),
        });
        Step::Acquired(grant, None)
    }

    /// Counts a new record of the claim's caller, if there is room for it.
    fn admit(&self, claim: &Claim) -> Result<Arc<Account>, NoRoom> {
        let counts = &self.counts;
        // The record counts for its caller first: two claims of one caller at the same moment
        // can't both have the last of its share.
        let account = self
            .accounts
            .join(claim, Kind::InFlight, RECORD_BYTES, counts);
        let checked = self.check_share(&account, [0, 0]);
        let full = match checked.map(|()| counts.reserve(&self.limits)) {
            Ok(Ok(())) => return Ok(account),
            Ok(Err(of)) => Full::Store(of, account.held(of)),
            Err(full) => full,
        };
        self.accounts
            .leave(&account, Kind::InFlight, RECORD_BYTES, counts);
        Err(NoRoom { full, account })
    }

    /// Claims a record that exists.
    fn claim_found<'a>(
        records: &Arc<Self>,
        slot: &mut Slot,
        claim: &Claim,
        origin: &dyn Fn() -> &'a Origin,
    ) -> Step {
        let now = records.clock.now();
        let takes_over = slot.is_lapsed(now) && claim.takes_over(slot.version(), &slot.fingerprint);
        let is_over = slot.is_over(now);
        let attempt = if is_over {
            if let Some(found) = claim.found_nothing() {
                return Step::FoundNothing(found);
            }
            1
        } else {
            match &mut slot.state {
                State::InFlight {
                    nonce,
                    guards,
                    steps,
                    unknown: false,
                    ..
                } if *nonce == claim.nonce => {
                    slot.until = now.saturating_add(claim.lease.into());
                    *guards += 1;
                    records.dequeue(slot.queued.take());
                    let another = guard(records, claim, slot.token);
                    let mut grant = grant(slot.token, slot.attempt, another);
                    grant.steps = steps.to_vec();
                    return Step::Acquired(grant, None);
                }
                State::Released { .. } if claim.by_hand.is_none() => slot.attempt.saturating_add(1),
                State::InFlight { .. } if takes_over => slot.attempt.saturating_add(1),
                _ => return Step::Found(slot.seen(now)),
            }
        };
        // What was in flight already counts as such; anything else could be evicted until now.
        if slot.kind() != Kind::InFlight && records.limits.evicts() {
            let more = [1, slot.bytes_in_flight()];
            if let Err(full) = records.check_share(&slot.account, more) {
                let account = Arc::clone(&slot.account);
                return Step::NoRoom(NoRoom { full, account });
            }
        }
        let token = records.next_token(now);
        let mut grant = grant(token, attempt, guard(records, claim, token));
        let origin = records.routes.keep(origin());
        records.dequeue(slot.queued.take());
        records.drop_steps(slot);
        let steps = if is_over {
            Steps::default()
        } else {
            slot.state.take_steps()
        };
        records.counts.hold_steps(&slot.account, steps.weight());
        // The steps that were taken out count as before.
        records
            .counts
            .shrink(&slot.account, slot.bytes() - RECORD_BYTES);
        (slot.token, slot.attempt) = (token, attempt);
        slot.fingerprint = claim.fingerprint;
        slot.until = now.saturating_add(claim.lease.into());
        grant.steps = steps.to_vec();
        let new = State::in_flight(claim, origin, steps);
        let gone = slot.change(&records.counts, new);
        Step::Acquired(grant, Some(gone))
    }
}

fn grant(number: u64, attempt: u32, own: Guard) -> Grant {
    Grant {
        token: token(number),
        attempt: attempt.into(),
        steps: Vec::new(),
        guard: LeaseGuard::Counted(own),
    }
}
