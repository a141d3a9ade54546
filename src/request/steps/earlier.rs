//! The steps of earlier attempts, as a claim brings them.

use tracing::warn;

use crate::error::cause;
use crate::lease::ClaimSent;
use crate::limits::Resource;
use crate::options::OnMismatch;
use crate::rejection::Rejection;
use crate::request::operation::{Operation, ProtectedRequest};
use crate::request::steps::log::unpacked;
use crate::request::stop::Stop;
use crate::store::{Claim, Claimed, RecordedStep, Release};

impl ProtectedRequest {
    /// Passes on what a claim has acquired, unless its steps are of another request or there is no
    /// room for them. The claim is given back then, and the steps stay.
    pub(in crate::request) fn check_steps<T>(
        &self,
        claim: &Claim,
        acquired: T,
        steps_of: impl Fn(&T) -> &[RecordedStep],
    ) -> Result<T, Stop> {
        let steps = steps_of(&acquired);
        if steps.is_empty() || !self.options.steps {
            return Ok(acquired);
        }
        let stop = if self.are_of_another(steps, claim) {
            // A tombstone lets in any request. One that has steps has happened in part. Until the store
            // has answered the release, the record has the fingerprint of this request: see `found`.
            Rejection::key_reused().into()
        } else if let Err(full) = self.account().take(Resource::RequestBytes, size(steps)) {
            self.refuse(full)
        } else {
            return Ok(acquired);
        };
        drop(acquired);
        self.core.leases.release_later(
            self.account(),
            claim,
            Release::MayRunAgain,
            ClaimSent::Acquired,
        );
        Err(stop)
    }

    fn are_of_another(&self, steps: &[RecordedStep], claim: &Claim) -> bool {
        let is_other = |step: &RecordedStep| {
            unpacked(&step.result).is_some_and(|(_, asked)| asked != claim.fingerprint)
        };
        self.options.on_mismatch == OnMismatch::Reject && steps.iter().any(is_other)
    }
}

impl Operation {
    /// Keeps the steps that a lease came with, and counts them for the caller.
    pub(in crate::request) fn add_steps(&self, steps: Vec<RecordedStep>) {
        if steps.is_empty() || !self.options.steps {
            return;
        }
        // There was room for the steps when the lease was checked.
        let room = self
            .account()
            .take_anyway(Resource::RequestBytes, size(&steps));
        self.steps.add(steps, room);
    }

    /// Brings the steps of a record under an old secret, which this request may take over: claims
    /// that record too, and gives it back. A claim is the only call that returns steps.
    pub(in crate::request) async fn take_old_steps(&self, old: &Claim) -> Result<(), Stop> {
        if !self.options.steps || self.lease_state().is_none() {
            return Ok(());
        }
        let store = &self.core.leases.store;
        let sent = match store.claim(old).await {
            Ok(Claimed::Acquired(lease)) => {
                let lease = self.check_steps(old, lease, |lease| &lease.steps)?;
                self.add_steps(lease.steps);
                ClaimSent::Acquired
            }
            // Another request took the record over since this one looked.
            Ok(_) => return Err(Rejection::in_flight().into()),
            Err(error) => {
                let error = cause(&error);
                warn!(id = ?old.id, error, "the steps under an old secret were not read");
                ClaimSent::Maybe
            }
        };
        let how = Release::MayRunAgain;
        if let ClaimSent::Acquired = sent
            && store.release(&old.id, &old.nonce, how).await.is_ok()
        {
            return Ok(());
        }
        let leases = &self.core.leases;
        leases.release_later(self.account(), old, how, sent);
        match sent {
            ClaimSent::Acquired => Ok(()),
            ClaimSent::Maybe => Err(Rejection::store_unavailable().into()),
        }
    }
}

fn size(steps: &[RecordedStep]) -> usize {
    steps.iter().map(RecordedStep::size).sum()
}
