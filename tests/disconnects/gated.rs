//! A store that makes the first call of one operation wait.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tower_idempotency::store::{
    Claim, Claimed, Lease, Outcome, Ownership, Record, Release, Store, StoreError,
};
use tower_idempotency::store::{Nonce, RecordId};

use crate::support::Gate;
use crate::support::store::{Op, Steered};
use crate::within;

/// A clone is another handle on the same store.
#[derive(Clone)]
pub(crate) struct Gated {
    pub(crate) store: Steered,
    op: Op,
    gate: Gate,
    met: Arc<AtomicBool>,
}

impl Gated {
    /// A store whose first call of `op` waits at the gate, and is carried out
    /// afterwards.
    pub(crate) fn at(op: Op) -> Self {
        Self {
            store: Steered::new(),
            op,
            gate: Gate::closed(),
            met: Arc::default(),
        }
    }

    /// Waits until that call has arrived at the gate.
    pub(crate) async fn met(&self) {
        within(self.gate.begun()).await;
    }

    pub(crate) fn open(&self) {
        self.gate.open();
    }

    async fn through(&self, op: Op) {
        if op == self.op && !self.met.swap(true, Ordering::SeqCst) {
            self.gate.pass().await;
        }
    }
}

impl Store for Gated {
    async fn claim(&self, claim: &Claim) -> Result<Claimed, StoreError> {
        self.through(Op::Claim).await;
        self.store.claim(claim).await
    }

    async fn renew(&self, lease: &Lease) -> Result<Ownership, StoreError> {
        self.through(Op::Renew).await;
        self.store.renew(lease).await
    }

    async fn complete(&self, lease: &Lease, outcome: &Outcome) -> Result<Ownership, StoreError> {
        self.through(Op::Complete).await;
        self.store.complete(lease, outcome).await
    }

    async fn release(
        &self,
        id: &RecordId,
        nonce: &Nonce,
        how: Release,
    ) -> Result<Ownership, StoreError> {
        self.through(Op::Release).await;
        self.store.release(id, nonce, how).await
    }

    async fn look_up(&self, id: &RecordId) -> Result<Option<Record>, StoreError> {
        self.through(Op::LookUp).await;
        self.store.look_up(id).await
    }
}
