//! This store fails, loses its results, stalls and is late, at random, and writes
//! down what happens to leases. Its leases lapse as in a store on another machine:
//! only renewals keep them alive.
//!
//! The faults are limited, so that no lease of a living owner lapses: after as many
//! faults in a row as `Op::bears` says, the next call of that kind for that lease
//! is carried out and returns at once.

use std::collections::{HashMap, HashSet};
use std::future::{Future, pending};
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use rand::rngs::StdRng;
use tokio::task::yield_now;
use tokio::time::sleep;
use tower_idempotency::MemoryStore;
use tower_idempotency::store::{
    Claim, Claimed, Lease, Outcome, Ownership, Record, RecordState, Release, Store, StoreError,
    StoreErrorKind,
};
use tower_idempotency::store::{MemoryStats, Nonce, RecordId};

use super::faults::{Counted, Fault, Faults, Op};
use super::history::{Clock, LeftRecord, LeftState, Moment, Overtake, digest};

/// A clone is another handle on the same store.
#[derive(Clone, Debug)]
pub(crate) struct Faulty(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    memory: MemoryStore,
    clock: Clock,
    told: Mutex<Told>,
    /// This many calls will be carried out later.
    late: AtomicUsize,
}

#[derive(Debug)]
struct Told {
    faults: Faults,
    owners: HashMap<RecordId, Owner>,
    /// This many owners have not ended.
    open: usize,
    /// A completion was requested for these tokens.
    completing: HashSet<u64>,
    account: Account,
}

#[derive(Debug)]
struct Owner {
    token: u64,
    nonce: Nonce,
    renewed: Moment,
    open: bool,
}

/// The account says what happened to leases.
#[derive(Clone, Debug, Default)]
pub(crate) struct Account {
    pub(crate) overtakes: Vec<Overtake>,
    /// These are the tokens of operations whose completion took more than one try.
    pub(crate) troubled: HashSet<u64>,
}

impl Faulty {
    pub(crate) fn new(clock: Clock, draws: StdRng) -> Self {
        let memory = MemoryStore::builder()
            .max_records(usize::MAX)
            .max_bytes(usize::MAX)
            .build()
            .expect("there is room for a record");
        Self(Arc::new(Shared {
            memory,
            clock,
            told: Mutex::new(Told {
                faults: Faults::new(draws),
                owners: HashMap::new(),
                open: 0,
                completing: HashSet::new(),
                account: Account::default(),
            }),
            late: AtomicUsize::new(0),
        }))
    }

    /// Stops all faults.
    pub(crate) fn heal(&self) {
        self.0.told().faults.heal();
    }

    /// Returns how many leases have not ended.
    pub(crate) fn open(&self) -> usize {
        self.0.told().open
    }

    /// Waits until no late call is left. Each late call is under way for less than
    /// half a second.
    pub(crate) async fn wait_for_late_calls(&self) {
        while self.0.late.load(Ordering::SeqCst) > 0 {
            sleep(Duration::from_millis(5)).await;
        }
    }

    pub(crate) fn faults(&self) -> Counted {
        self.0.told().faults.counted.clone()
    }

    pub(crate) fn account(&self) -> Account {
        self.0.told().account.clone()
    }

    pub(crate) fn stats(&self) -> MemoryStats {
        self.0.memory.stats()
    }

    /// Returns what the store holds, of all that was ever claimed.
    pub(crate) fn records(&self) -> Vec<LeftRecord> {
        let told = self.0.told();
        let look_up = |id| at_once(self.0.memory.look_up(id)).ok().flatten();
        told.owners.keys().filter_map(look_up).map(left).collect()
    }

    /// Returns how many other handles on the store exist.
    pub(crate) fn others(&self) -> usize {
        Arc::strong_count(&self.0) - 1
    }

    async fn through<T: Send + 'static>(
        &self,
        op: Op,
        nonce: Nonce,
        carry_out: impl FnOnce(&Shared) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let shared = &self.0;
        let failed = |kind| Err(StoreError::new(kind, "as planned"));
        let (fault, wait) = shared.told().faults.draw(op, nonce);
        match fault {
            None => carry_out(shared),
            Some(Fault::NotSent) => {
                yield_now().await;
                failed(StoreErrorKind::NotSent)
            }
            Some(Fault::Busy) => failed(StoreErrorKind::Contention),
            Some(Fault::AnswerLost) => {
                carry_out(shared)?;
                failed(StoreErrorKind::Unknown)
            }
            Some(Fault::Stalls) => pending().await,
            Some(Fault::AnswerStalls) => {
                carry_out(shared)?;
                pending().await
            }
            Some(Fault::ArrivesLate) => {
                shared.late.fetch_add(1, Ordering::SeqCst);
                let shared = Arc::clone(shared);
                tokio::spawn(async move {
                    sleep(wait * 5).await;
                    // Nobody waits for the result of a late call.
                    let _ = carry_out(&shared);
                    shared.late.fetch_sub(1, Ordering::SeqCst);
                });
                pending().await
            }
            Some(Fault::Slow) => {
                sleep(wait / 2).await;
                let answer = carry_out(shared);
                sleep(wait / 2).await;
                answer
            }
        }
    }
}

impl Shared {
    fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // The account is written under the same lock as the step itself. Without that,
    // the account could have another order than the store.

    fn claim(&self, claim: &Claim) -> Result<Claimed, StoreError> {
        let mut told = self.told();
        let claimed = at_once(self.memory.claim(claim))?;
        let Claimed::Acquired(lease) = claimed else {
            return Ok(claimed);
        };
        let now = self.clock.now();
        let owner = Owner {
            token: lease.token.get(),
            nonce: claim.nonce,
            renewed: now,
            open: true,
        };
        let to = owner.token;
        let before = told.owners.insert(claim.id, owner);
        match before.filter(|before| before.open) {
            None => told.open += 1,
            Some(before) if before.token == to => {}
            Some(before) => told.account.overtakes.push(Overtake {
                from: before.token,
                to,
                at: now,
                unrenewed: now.at.saturating_sub(before.renewed.at),
            }),
        }
        // This lease has no guard, so nothing but renewals keeps it alive.
        let lease = Lease::new(&lease.claim, lease.token, lease.attempt);
        Ok(Claimed::Acquired(lease))
    }

    fn renew(&self, lease: &Lease) -> Result<Ownership, StoreError> {
        let mut told = self.told();
        let tenure = at_once(self.memory.renew(lease))?;
        if tenure == Ownership::Held
            && let Some(owner) = told.owners.get_mut(&lease.claim.id)
        {
            owner.renewed = self.clock.now();
        }
        Ok(tenure)
    }

    fn complete(&self, lease: &Lease, outcome: &Outcome) -> Result<Ownership, StoreError> {
        let mut told = self.told();
        let tenure = at_once(self.memory.complete(lease, outcome))?;
        told.close(tenure, &lease.claim.id, &lease.claim.nonce);
        Ok(tenure)
    }

    fn release(&self, id: &RecordId, nonce: &Nonce, how: Release) -> Result<Ownership, StoreError> {
        let mut told = self.told();
        let tenure = at_once(self.memory.release(id, nonce, how))?;
        told.close(tenure, id, nonce);
        Ok(tenure)
    }
}

impl Told {
    fn completing(&mut self, token: u64) {
        if !self.completing.insert(token) {
            self.account.troubled.insert(token);
        }
    }

    fn close(&mut self, tenure: Ownership, id: &RecordId, nonce: &Nonce) {
        if tenure == Ownership::Held
            && let Some(owner) = self.owners.get_mut(id)
            && owner.open
            && owner.nonce == *nonce
        {
            owner.open = false;
            self.open -= 1;
        }
    }
}

impl Store for Faulty {
    async fn claim(&self, claim: &Claim) -> Result<Claimed, StoreError> {
        let own = claim.clone();
        self.through(Op::Claim, claim.nonce, move |store| store.claim(&own))
            .await
    }

    async fn renew(&self, lease: &Lease) -> Result<Ownership, StoreError> {
        let own = lease.clone();
        self.through(Op::Renew, lease.claim.nonce, move |store| store.renew(&own))
            .await
    }

    async fn complete(&self, lease: &Lease, outcome: &Outcome) -> Result<Ownership, StoreError> {
        self.0.told().completing(lease.token.get());
        let (own, outcome) = (lease.clone(), outcome.clone());
        let nonce = lease.claim.nonce;
        self.through(Op::Complete, nonce, move |store| {
            store.complete(&own, &outcome)
        })
        .await
    }

    async fn release(
        &self,
        id: &RecordId,
        nonce: &Nonce,
        how: Release,
    ) -> Result<Ownership, StoreError> {
        let (id, own) = (*id, *nonce);
        self.through(Op::Release, *nonce, move |store| {
            store.release(&id, &own, how)
        })
        .await
    }
}

/// Polls the call once; the memory store is ready at the first poll.
fn at_once<T>(call: impl Future<Output = T>) -> T {
    match pin!(call).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(answer) => answer,
        Poll::Pending => unreachable!("no operation of the memory store awaits"),
    }
}

fn left(record: Record) -> LeftRecord {
    let state = match record.state {
        RecordState::InFlight { .. } => LeftState::InFlight,
        RecordState::Completed { completion, .. } => {
            let trailers = completion.trailers.iter().flatten();
            let trailers: Vec<_> = trailers
                .map(|(name, value)| {
                    let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
                    (name.to_string(), value)
                })
                .collect();
            let status = completion.status.as_u16();
            LeftState::Completed(digest(status, &completion.body, &trailers))
        }
        RecordState::Sealed { .. } => LeftState::Sealed,
        RecordState::Released => LeftState::Released,
        // `RecordState` may get more states, and none of them holds a response.
        _ => LeftState::Lapsed,
    };
    LeftRecord {
        token: record.token.get(),
        state,
    }
}
