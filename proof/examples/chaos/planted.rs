//! This store wraps another store. It writes down completions, and breaks one rule
//! of the store contract if the run asks for that. The checker must notice each
//! broken rule.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tower_idempotency::store::{AnyStore, FencingToken, Nonce, RecordId};
use tower_idempotency::store::{
    Claim, Claimed, Lease, Outcome, Ownership, Record, RecordState, Release, Store, StoreError,
    Subscription,
};

use super::handler::execution;
use super::journal::Journal;

/// A planted fault breaks one rule of the store's contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Planted {
    /// A claim succeeds although another owner's lease lives.
    SharesLiveLeases,
    /// A claim succeeds although the record is completed.
    RunsAgain,
    /// A completion is confirmed but not stored.
    ForgetsCompletions,
    /// A completion releases the record, so that the operation may run again.
    ReleasesCompletions,
    /// A completion expires as soon as it is stored.
    KeepsNothing,
    /// A replay returns another response than the recorded one.
    ChangesAnswers,
    /// An owner that was overtaken is told that its completion counts.
    LetsTheOvertakenComplete,
    /// A lease never lapses.
    NeverLapses,
    /// A completed record is reported as in flight.
    HidesCompletions,
    /// A request with another fingerprint is taken for the same request.
    IgnoresFingerprints,
    /// Every token is the same.
    RepeatsTokens,
    /// Every attempt is numbered as the first.
    CountsNoAttempts,
    /// Some keys share a record.
    MixesRecords,
    /// A completion is sealed: its response is not kept.
    SealsCompletions,
}

impl Planted {
    pub(crate) const ALL: [Self; 14] = [
        Self::SharesLiveLeases,
        Self::RunsAgain,
        Self::ForgetsCompletions,
        Self::ReleasesCompletions,
        Self::KeepsNothing,
        Self::ChangesAnswers,
        Self::LetsTheOvertakenComplete,
        Self::NeverLapses,
        Self::HidesCompletions,
        Self::IgnoresFingerprints,
        Self::RepeatsTokens,
        Self::CountsNoAttempts,
        Self::MixesRecords,
        Self::SealsCompletions,
    ];

    pub(crate) fn name(self) -> String {
        let mut name = String::new();
        for letter in format!("{self:?}").chars() {
            if letter.is_uppercase() && !name.is_empty() {
                name.push('-');
            }
            name.push(letter.to_ascii_lowercase());
        }
        name
    }

    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|own| own.name() == name)
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Watched {
    pub(crate) store: AnyStore,
    pub(crate) journal: Arc<Journal>,
    pub(crate) planted: Option<Planted>,
}

impl Watched {
    fn is(&self, planted: Planted) -> bool {
        self.planted == Some(planted)
    }

    fn id(&self, id: &RecordId) -> RecordId {
        let mut bytes = *id.as_bytes();
        if self.is(Planted::MixesRecords) {
            bytes = [bytes[0] % 8; 32];
        }
        RecordId::from_bytes(bytes)
    }

    fn lease(&self, lease: &Lease) -> Lease {
        let mut own = lease.clone();
        own.claim = self.claimed_as(&lease.claim);
        own
    }

    fn claimed_as(&self, claim: &Claim) -> Claim {
        let mut own = claim.clone();
        own.id = self.id(&claim.id);
        if self.is(Planted::NeverLapses) {
            own.lease = Duration::from_secs(3600);
        }
        if self.is(Planted::IgnoresFingerprints) || self.is(Planted::MixesRecords) {
            own.fingerprint = tower_idempotency::store::Fingerprint::from_bytes([7; 32]);
        }
        own
    }

    fn acquired(&self, claim: &Claim, mut lease: Lease) -> Claimed {
        lease.claim = claim.clone();
        if self.is(Planted::RepeatsTokens) {
            lease.token = FencingToken::new(1).expect("a small number");
        }
        if self.is(Planted::CountsNoAttempts) {
            lease.attempt = 1;
        }
        Claimed::Acquired(lease)
    }

    fn found(&self, claim: &Claim, mut record: Record) -> Claimed {
        let lets_in = match record.state {
            RecordState::InFlight { .. } => self.is(Planted::SharesLiveLeases),
            RecordState::Completed { .. } => self.is(Planted::RunsAgain),
            _ => false,
        };
        if lets_in {
            let next = FencingToken::new(record.token.get() + 1).expect("a small number");
            return self.acquired(claim, Lease::new(claim, next, record.attempt + 1));
        }
        match &mut record.state {
            RecordState::Completed { completion, .. } if self.is(Planted::ChangesAnswers) => {
                let mut changed = (**completion).clone();
                let body = String::from_utf8_lossy(&changed.body).replace("thanks", "Thanks");
                changed.body = Bytes::from(body);
                *completion = Arc::new(changed);
            }
            RecordState::Completed { .. } if self.is(Planted::HidesCompletions) => {
                record.state = RecordState::InFlight {
                    fingerprint: claim.fingerprint,
                    lapses_in: Duration::from_secs(1),
                };
            }
            _ => {}
        }
        match &mut record.state {
            RecordState::InFlight { fingerprint, .. }
            | RecordState::Completed { fingerprint, .. }
                if self.is(Planted::IgnoresFingerprints) || self.is(Planted::MixesRecords) =>
            {
                *fingerprint = claim.fingerprint;
            }
            _ => {}
        }
        Claimed::Found(record)
    }

    async fn store_outcome(
        &self,
        lease: &Lease,
        outcome: &Outcome,
    ) -> Result<Ownership, StoreError> {
        let own = self.lease(lease);
        let sealed = |retention| Outcome::Sealed { retention };
        match self.planted {
            Some(Planted::ForgetsCompletions) => Ok(Ownership::Held),
            Some(Planted::ReleasesCompletions) => {
                let Claim { id, nonce, .. } = own.claim;
                self.store.release(&id, &nonce, Release::MayRunAgain).await
            }
            Some(Planted::KeepsNothing) => {
                let outcome = sealed(Duration::from_micros(1));
                self.store.complete(&own, &outcome).await
            }
            Some(Planted::SealsCompletions) => {
                let outcome = sealed(Duration::from_secs(3600));
                self.store.complete(&own, &outcome).await
            }
            Some(Planted::LetsTheOvertakenComplete) => {
                self.store.complete(&own, outcome).await?;
                Ok(Ownership::Held)
            }
            _ => self.store.complete(&own, outcome).await,
        }
    }
}

impl Store for Watched {
    async fn claim(&self, claim: &Claim) -> Result<Claimed, StoreError> {
        Ok(match self.store.claim(&self.claimed_as(claim)).await? {
            Claimed::Acquired(lease) => self.acquired(claim, lease),
            Claimed::Found(record) => self.found(claim, record),
            other => other,
        })
    }

    async fn renew(&self, lease: &Lease) -> Result<Ownership, StoreError> {
        self.store.renew(&self.lease(lease)).await
    }

    async fn complete(&self, lease: &Lease, outcome: &Outcome) -> Result<Ownership, StoreError> {
        let execution = execution(&lease.claim.id, lease.token);
        self.journal.completing(&execution);
        let tenure = self.store_outcome(lease, outcome).await?;
        match tenure {
            Ownership::Held => self.journal.completed(&execution),
            Ownership::Lost => self.journal.refused(&execution),
        }
        Ok(tenure)
    }

    async fn release(
        &self,
        id: &RecordId,
        nonce: &Nonce,
        how: Release,
    ) -> Result<Ownership, StoreError> {
        self.store.release(&self.id(id), nonce, how).await
    }

    async fn subscribe(&self, id: &RecordId) -> Result<Subscription, StoreError> {
        self.store.subscribe(&self.id(id)).await
    }
}
