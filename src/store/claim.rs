//! Claiming a record: the request, and the store's decision.

use std::time::Duration;

use super::{Lease, Record, RecordState, RecordVersion};
use crate::record::{Fingerprint, Nonce, Origin, RecordId, ScopeDigest};

/// What a claim does when the lease of the record that it finds has lapsed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnLapsedLease {
    /// The claim takes the record over: its request executes the operation
    /// again.
    #[default]
    Rerun,
    /// The claim finds [`Lapsed`](super::RecordState::Lapsed), and its request
    /// is rejected with `outcome-unknown` until someone resolves the record.
    Refuse,
}

/// What a key means that comes with another fingerprint: with another method,
/// path, query, header in `fingerprint_headers`, or body.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnMismatch {
    /// The caller reused the key by mistake: the request is rejected with
    /// `key-reused`.
    #[default]
    Reject,
    /// The key alone identifies the operation: the request is answered as one
    /// with the same fingerprint would be.
    Replay,
}

/// A request for a record, made before its operation executes.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Claim {
    /// The record.
    pub id: RecordId,
    /// Digest of the caller, so that a store can cap the records of each caller.
    pub scope: ScopeDigest,
    /// Digest of the HTTP request: method, target, chosen headers and body.
    pub fingerprint: Fingerprint,
    /// Identifies this claim. The record is owned by the nonce that acquired it.
    pub nonce: Nonce,
    /// Length of the lease.
    pub lease: Duration,
    /// For how long the record is kept after its lease lapsed, or after it was
    /// released.
    pub retention: Duration,
    /// Whether this claim takes over a lapsed record.
    pub on_lapsed_lease: OnLapsedLease,
    /// Whether this claim takes over a lapsed record that has another
    /// fingerprint.
    pub on_mismatch: OnMismatch,
    /// The record of which a person knows how its operation ended: this claim
    /// takes it over, once it has lapsed, whatever `on_lapsed_lease` says, and
    /// acquires nothing else. If the lease of this claim lapses too, later
    /// claims follow `on_lapsed_lease` again.
    pub by_hand: Option<RecordVersion>,
    /// All callers are one ([`scope::shared`](crate::scope::shared)), so this caller has no share
    /// of a store: it may use all of it.
    pub is_everyone: bool,
    /// Where the execution comes from, kept with the record.
    pub origin: Origin,
}

impl Claim {
    /// A claim with a random nonce, a lease of 30 seconds and a retention of 24
    /// hours, which takes over a lapsed record of the same fingerprint.
    #[must_use]
    pub fn new(id: RecordId, scope: ScopeDigest, fingerprint: Fingerprint) -> Self {
        Self {
            id,
            scope,
            fingerprint,
            nonce: Nonce::random(),
            lease: Duration::from_secs(30),
            retention: Duration::from_secs(24 * 60 * 60),
            on_lapsed_lease: OnLapsedLease::Rerun,
            on_mismatch: OnMismatch::Reject,
            by_hand: None,
            is_everyone: false,
            origin: Origin::none(),
        }
    }

    /// Whether this claim takes over a lapsed record of this version, with the
    /// fingerprint `lapsed`.
    #[must_use]
    pub fn takes_over(&self, version: RecordVersion, lapsed: &Fingerprint) -> bool {
        let may = match self.by_hand {
            Some(seen) => seen == version,
            None => self.on_lapsed_lease == OnLapsedLease::Rerun,
        };
        may && (self.on_mismatch == OnMismatch::Replay || self.fingerprint == *lapsed)
    }

    /// What a claim [by hand](Self::by_hand) finds where there is no record: the
    /// operation may run again. `None` for any other claim, which acquires the
    /// record.
    #[must_use]
    pub fn found_nothing(&self) -> Option<Claimed> {
        let seen = self.by_hand?;
        let record = Record::new(seen.token, seen.attempt, RecordState::Released);
        Some(Claimed::Found(record))
    }
}

/// What a store did with a [`Claim`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Claimed {
    /// The record is in flight, and the claim's nonce owns it.
    Acquired(Lease),
    /// The claim changed nothing, because of this record.
    Found(Record),
    /// The claim changed nothing, because the store has no room for another
    /// record.
    OverCapacity,
    /// The claim changed nothing, because its caller holds as many records as one caller may.
    OverShare,
}
