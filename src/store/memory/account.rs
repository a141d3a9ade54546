//! What each caller holds of a memory store.

use std::borrow::Borrow;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use crate::record::ScopeDigest;
use crate::store::Claim;

use super::counts::{Counts, Kind};
use super::limits::{CALLER_BYTES, RECORD_BYTES};
use super::slab::Place;
use super::sync::{AtomicU32, AtomicUsize, Entry, Map, Ordering, map, parts};

/// What a store can be full of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Measure {
    Records,
    Bytes,
}

impl Measure {
    pub(super) const BOTH: [Self; 2] = [Self::Records, Self::Bytes];
}

/// What one caller holds. Every record belongs to the caller whose claim made it: the id of a
/// record is a digest of its caller, too, so no other caller ever claims that record.
pub(super) struct Account {
    scope: ScopeDigest,
    /// All callers are one, and have no shares.
    pub(super) is_everyone: bool,
    /// Records, and bytes, by [`Measure`].
    held: [AtomicUsize; 2],
    /// Records in flight or in doubt, which can't be evicted.
    in_flight: AtomicUsize,
    /// Bytes of the steps of these.
    steps: AtomicUsize,
    /// The number of the caller's place among those that have something to lose; 0 for none.
    /// Read and changed only while the queues are locked.
    seat: AtomicU32,
}

impl Account {
    fn new(claim: &Claim) -> Self {
        Self {
            scope: claim.scope,
            is_everyone: claim.is_everyone,
            held: [AtomicUsize::new(0), AtomicUsize::new(CALLER_BYTES)],
            in_flight: AtomicUsize::new(0),
            steps: AtomicUsize::new(0),
            seat: AtomicU32::new(0),
        }
    }

    pub(super) fn scope(&self) -> &ScopeDigest {
        &self.scope
    }

    /// How much the caller holds.
    pub(super) fn held(&self, of: Measure) -> usize {
        // Relaxed, here and below: these are numbers, with which no other data goes.
        self.held[of as usize].load(Ordering::Relaxed)
    }

    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// The bytes of what can't be evicted.
    pub(super) fn unevictable_bytes(&self) -> usize {
        self.in_flight() * RECORD_BYTES + self.steps.load(Ordering::Relaxed)
    }

    pub(super) fn hold_steps(&self, bytes: usize) {
        self.steps.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn drop_steps(&self, bytes: usize) {
        self.steps.fetch_sub(bytes, Ordering::Relaxed);
    }

    pub(super) fn seat(&self) -> Option<Place> {
        Place::of_number(self.seat.load(Ordering::Relaxed))
    }

    pub(super) fn set_seat(&self, seat: Option<Place>) {
        let number = seat.map_or(0, Place::number);
        self.seat.store(number, Ordering::Relaxed);
    }

    fn add(&self, kind: Kind, bytes: usize) {
        self.held[0].fetch_add(1, Ordering::Relaxed);
        self.grow(bytes);
        if kind == Kind::InFlight {
            self.in_flight.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Adds to the bytes. The number may wrap around, and stands for a smaller one then.
    pub(super) fn grow(&self, more: usize) {
        self.held[1].fetch_add(more, Ordering::Relaxed);
    }

    pub(super) fn shrink(&self, less: usize) {
        self.held[1].fetch_sub(less, Ordering::Relaxed);
    }

    pub(super) fn changes(&self, old: Kind, new: Kind) {
        match (old == Kind::InFlight, new == Kind::InFlight) {
            (true, false) => self.in_flight.fetch_sub(1, Ordering::Relaxed),
            (false, true) => self.in_flight.fetch_add(1, Ordering::Relaxed),
            _ => 0,
        };
    }
}

/// The accounts of all callers that have a record. An account is its own key, so that the digest of
/// a caller is in memory once.
pub(super) struct Accounts(Map<ByScope, ()>);

#[derive(Clone)]
struct ByScope(Arc<Account>);

impl Borrow<ScopeDigest> for ByScope {
    fn borrow(&self) -> &ScopeDigest {
        &self.0.scope
    }
}

impl PartialEq for ByScope {
    fn eq(&self, other: &Self) -> bool {
        self.0.scope == other.0.scope
    }
}

impl Eq for ByScope {}

/// As a [`ScopeDigest`], by which accounts are found.
impl Hash for ByScope {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.scope.hash(state);
    }
}

impl Accounts {
    pub(super) fn new(max_records: usize) -> Self {
        Self(map(parts(max_records)))
    }

    /// Counts one more record for the caller of a claim: in the account alone, not in the sums.
    ///
    /// The record is counted while the account's shard is locked: otherwise `leave` could
    /// remove the account before that.
    pub(super) fn join(
        &self,
        claim: &Claim,
        kind: Kind,
        bytes: usize,
        sums: &Counts,
    ) -> Arc<Account> {
        if let Some(known) = self.0.get(&claim.scope) {
            let account = &known.key().0;
            account.add(kind, bytes);
            return Arc::clone(account);
        }
        let new = ByScope(Arc::new(Account::new(claim)));
        match self.0.entry(new.clone()) {
            // Another claim of this caller was first.
            Entry::Occupied(known) => {
                let account = &known.key().0;
                account.add(kind, bytes);
                Arc::clone(account)
            }
            Entry::Vacant(place) => {
                new.0.add(kind, bytes);
                sums.callers.fetch_add(1, Ordering::Relaxed);
                sums.bytes.fetch_add(CALLER_BYTES, Ordering::Relaxed);
                place.insert(());
                new.0
            }
        }
    }

    /// Takes a record of this caller out of its account. The account ends with its last record.
    pub(super) fn leave(&self, account: &Arc<Account>, kind: Kind, bytes: usize, sums: &Counts) {
        account.shrink(bytes);
        if kind == Kind::InFlight {
            account.in_flight.fetch_sub(1, Ordering::Relaxed);
        }
        if account.held[0].fetch_sub(1, Ordering::Relaxed) > 1 {
            return;
        }
        let removed = self.0.remove_if(&account.scope, |known, ()| {
            Arc::ptr_eq(&known.0, account) && account.held(Measure::Records) == 0
        });
        if removed.is_some() {
            sums.callers.fetch_sub(1, Ordering::Relaxed);
            sums.bytes.fetch_sub(CALLER_BYTES, Ordering::Relaxed);
        }
    }

    /// What each caller holds: records, bytes, and records in flight.
    #[cfg(test)]
    pub(super) fn all(&self) -> Vec<(ScopeDigest, [usize; 3])> {
        let held = |account: &Account| {
            let [records, bytes] = Measure::BOTH.map(|of| account.held(of));
            [records, bytes, account.in_flight()]
        };
        let each = self.0.iter();
        each.map(|known| (known.key().0.scope, held(&known.key().0)))
            .collect()
    }
}
