//! Three handles on one store, as three processes would have them, and the calls that the rules
//! make.

use std::error::Error;
use std::fmt::Write as _;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::record::{Fingerprint, Nonce, RecordId, ScopeDigest};
use crate::store::{
    Claim, Claimed, DynStore, ForgetMode, Forgotten, Lease, ListQuery, Outcome, Ownership, Record,
    RecordPage, RecordVersion, RecordedStep, Release, StoreError, StoreErrorKind, Subscription,
};

use crate::conformance::expect::{Checked, Failure, broken, ensure, told};

/// How many calls run at once: fewer than a pool commonly has connections.
pub(crate) const CALLS: usize = 8;
/// A lease that does not lapse during a rule, even on a slow machine.
pub(crate) const LONG: Duration = Duration::from_secs(600);
/// A lease or a retention for whose end a rule waits.
pub(crate) const SHORT: Duration = Duration::from_millis(300);
/// A lease or a retention that a rule looks at before and after its end.
pub(crate) const SECOND: Duration = Duration::from_secs(1);
/// How long a rule waits for something that must happen.
pub(crate) const PATIENCE: Duration = Duration::from_secs(15);
/// How long after its end a lease or a record is certain to be over.
pub(crate) const SURELY: Duration = Duration::from_millis(1500);
/// How far two clocks may drift apart during a rule.
pub(crate) const SLACK: Duration = Duration::from_millis(10);
const PAUSE: Duration = Duration::from_millis(20);

/// Three handles on the same records, as three processes have them.
#[derive(Clone)]
pub(crate) struct Stores {
    pub(crate) a: Handle,
    pub(crate) b: Handle,
    pub(crate) c: Handle,
}

impl Stores {
    /// Any number of handles, in turn.
    pub(crate) fn in_turn(&self) -> impl Iterator<Item = Handle> + use<> {
        [self.a.clone(), self.b.clone(), self.c.clone()]
            .into_iter()
            .cycle()
    }
}

#[derive(Clone)]
pub(crate) struct Handle {
    pub(crate) store: Arc<dyn DynStore>,
    pub(crate) calls: Arc<Semaphore>,
}

impl Handle {
    /// Repeats a call that failed with `Contention`, which has changed nothing:
    /// rules run at the same time, so a store may be busy.
    async fn call<T, F>(&self, ask: impl Fn() -> F) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        let end = Instant::now() + PATIENCE;
        loop {
            let permit = self.calls.acquire().await.expect("it is never closed");
            let answer = ask().await;
            drop(permit);
            match answer {
                Err(error)
                    if error.kind() == StoreErrorKind::Contention && Instant::now() < end =>
                {
                    sleep(PAUSE).await;
                }
                answer => return answer,
            }
        }
    }

    /// Claims, and drops the guard of an acquired lease at once, so that the
    /// lease can lapse as if the owner were in another process.
    pub(crate) async fn claim(&self, claim: &Claim) -> Checked<Claimed> {
        let claimed = self.call(|| self.store.claim(claim)).await;
        match claimed.map_err(|error| failed("claim", &error))? {
            Claimed::Acquired(mut lease) => {
                drop(lease.take_guard());
                Ok(Claimed::Acquired(lease))
            }
            other => Ok(other),
        }
    }

    pub(crate) async fn renew(&self, lease: &Lease) -> Checked<Ownership> {
        let tenure = self.call(|| self.store.renew(lease)).await;
        tenure.map_err(|error| failed("renew", &error))
    }

    pub(crate) async fn complete(&self, lease: &Lease, outcome: &Outcome) -> Checked<Ownership> {
        let tenure = self.call(|| self.store.complete(lease, outcome)).await;
        tenure.map_err(|error| failed("complete", &error))
    }

    pub(crate) async fn release(&self, claim: &Claim, how: Release) -> Checked<Ownership> {
        let Claim { id, nonce, .. } = claim;
        let tenure = self.call(|| self.store.release(id, nonce, how)).await;
        tenure.map_err(|error| failed("release", &error))
    }

    pub(crate) async fn record_step(
        &self,
        lease: &Lease,
        step: &RecordedStep,
    ) -> Checked<Ownership> {
        let tenure = self.call(|| self.store.record_step(lease, step)).await;
        tenure.map_err(|error| optional("record_step", &error))
    }

    pub(crate) async fn look_up(&self, id: &RecordId) -> Checked<Option<Record>> {
        let found = self.call(|| self.store.look_up(id)).await;
        found.map_err(|error| optional("look_up", &error))
    }

    pub(crate) async fn forget(&self, id: &RecordId, mode: ForgetMode) -> Checked<Forgotten> {
        let forgotten = self.call(|| self.store.forget(id, mode)).await;
        forgotten.map_err(|error| optional("forget", &error))
    }

    pub(crate) async fn list(&self, query: &ListQuery) -> Checked<RecordPage> {
        let listed = self.try_list(query).await;
        listed.map_err(|error| optional("list", &error))
    }

    pub(crate) async fn try_list(&self, query: &ListQuery) -> Result<RecordPage, StoreError> {
        self.call(|| self.store.list(query)).await
    }

    pub(crate) async fn subscribe(&self, id: &RecordId) -> Checked<Subscription> {
        let subscription = self.call(|| self.store.subscribe(id)).await;
        subscription.map_err(|error| failed("subscribe", &error))
    }

    /// A claim that must acquire.
    pub(crate) async fn acquire(&self, what: &str, claim: &Claim) -> Checked<Lease> {
        match self.claim(claim).await? {
            Claimed::Acquired(lease) => Ok(lease),
            other => broken!("expected {what} to acquire, it got {}", told(&other)),
        }
    }

    /// A claim that must find a record.
    pub(crate) async fn find(&self, what: &str, claim: &Claim) -> Checked<Record> {
        match self.claim(claim).await? {
            Claimed::Found(record) => Ok(record),
            other => broken!("expected {what} to find a record, it got {}", told(&other)),
        }
    }

    /// Claims until it acquires, which it must within `PATIENCE`.
    pub(crate) async fn acquire_in_time(&self, what: &str, claim: &Claim) -> Checked<Lease> {
        let end = Instant::now() + PATIENCE;
        loop {
            match self.claim(claim).await? {
                Claimed::Acquired(lease) => return Ok(lease),
                other if end <= Instant::now() => broken!(
                    "expected {what} to acquire, after {PATIENCE:?} it still gets {}",
                    told(&other)
                ),
                _ => sleep(PAUSE).await,
            }
        }
    }

    /// Claims until it acquires, which must not be before `earliest`.
    pub(crate) async fn acquire_from_on(&self, claim: &Claim, earliest: Instant) -> Checked<Lease> {
        let end = earliest + PATIENCE;
        loop {
            match self.claim(claim).await? {
                Claimed::Acquired(lease) => {
                    let early = earliest.saturating_duration_since(Instant::now());
                    ensure!(
                        early <= SLACK,
                        "expected no other claim to acquire yet, one did, {early:?} early"
                    );
                    return Ok(lease);
                }
                other if end <= Instant::now() => broken!(
                    "expected another claim to acquire by now, {PATIENCE:?} late it gets {}",
                    told(&other)
                ),
                _ => sleep(PAUSE).await,
            }
        }
    }

    /// A record whose lease has lapsed.
    pub(crate) async fn lapsed(&self, claim: &Claim) -> Checked<Lease> {
        let mut lease = self
            .acquire(
                "the first claim",
                &Claim {
                    lease: BRIEF,
                    ..claim.clone()
                },
            )
            .await?;
        sleep(BRIEF + SURELY).await;
        lease.claim.lease = claim.lease;
        Ok(lease)
    }
}

/// A lease that has lapsed before another call can look at it.
const BRIEF: Duration = Duration::from_millis(50);

fn failed(operation: &str, error: &StoreError) -> Failure {
    let mut chain = format!("{operation} failed: {error}");
    let mut source = error.source();
    while let Some(cause) = source {
        write!(chain, ": {cause}").expect("a string takes all");
        source = cause.source();
    }
    Failure::Broken(chain)
}

fn optional(operation: &'static str, error: &StoreError) -> Failure {
    if error.kind() == StoreErrorKind::Unsupported {
        return Failure::Unsupported(operation);
    }
    failed(operation, error)
}

/// A claim of a new record, with a long lease.
pub(crate) fn request() -> Claim {
    let id = RecordId::from_bytes(random());
    let scope = ScopeDigest::from_bytes(random());
    let mut claim = Claim::new(id, scope, Fingerprint::from_bytes(random()));
    claim.lease = LONG;
    claim
}

/// Another claim for the same request.
pub(crate) fn rival(claim: &Claim) -> Claim {
    Claim {
        nonce: Nonce::random(),
        ..claim.clone()
    }
}

/// A claim by hand of a record as it was seen in flight under this lease.
pub(crate) fn by_hand(seen: &Lease) -> Claim {
    let seen_as = RecordVersion {
        token: seen.token,
        attempt: seen.attempt,
        done: false,
    };
    Claim {
        by_hand: Some(seen_as),
        ..rival(&seen.claim)
    }
}

/// Another claim for another request under the same id.
pub(crate) fn other_request(claim: &Claim) -> Claim {
    Claim {
        fingerprint: Fingerprint::from_bytes(random()),
        ..rival(claim)
    }
}

pub(crate) fn random() -> [u8; 32] {
    rand::random()
}

/// Runs all futures at once, as tasks.
pub(crate) async fn at_once<T, F>(futures: impl IntoIterator<Item = F>) -> Checked<Vec<T>>
where
    T: Send + 'static,
    F: Future<Output = Checked<T>> + Send + 'static,
{
    let mut tasks: JoinSet<Checked<T>> = futures.into_iter().collect();
    let mut outputs = Vec::new();
    while let Some(output) = tasks.join_next().await {
        match output {
            Ok(output) => outputs.push(output?),
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }
    Ok(outputs)
}

/// Runs two futures at once.
pub(crate) async fn both<T, U>(
    one: impl Future<Output = Checked<T>> + Send + 'static,
    other: impl Future<Output = Checked<U>>,
) -> Checked<(T, U)>
where
    T: Send + 'static,
{
    let mut tasks = JoinSet::new();
    tasks.spawn(one);
    let other = other.await?;
    match tasks.join_next().await.expect("one was spawned") {
        Ok(one) => Ok((one?, other)),
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}
