//! A store that may become reachable only after the sidecar has started.

use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use tower_idempotency::store::{
    AnyStore, Claim, Claimed, ForgetMode, Forgotten, Lease, ListQuery, Nonce, Outcome, Ownership,
    Record, RecordId, RecordPage, RecordedStep, Release, Store, StoreError, StoreErrorKind,
    Subscription,
};

/// How long the start waits for the store before the sidecar serves without it.
const PATIENCE: Duration = Duration::from_secs(5);
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// The store after the first attempt to connect.
pub(crate) enum Connected {
    Now(AnyStore),
    Later(LateStore),
}

/// Connects to the store behind `url`. If it can't be reached, returns a store that passes calls on
/// as soon as a later attempt has succeeded.
///
/// # Errors
/// If the store refuses the connection, which a later attempt would not change.
pub(crate) async fn connect(url: &str) -> Result<Connected, StoreError> {
    let error = match timeout(PATIENCE, AnyStore::connect(url)).await {
        Ok(Ok(store)) => return Ok(Connected::Now(store)),
        Ok(Err(error)) => error,
        Err(elapsed) => StoreError::new(StoreErrorKind::Unknown, elapsed),
    };
    // A server may come up later, or have time later. It will not change a password.
    let may_pass = [
        StoreErrorKind::NotSent,
        StoreErrorKind::Unknown,
        StoreErrorKind::Contention,
    ];
    if !may_pass.contains(&error.kind()) {
        return Err(error);
    }
    warn!(
        error = &error as &dyn std::error::Error,
        "the store can't be reached; it is tried again while the process runs"
    );
    let late = LateStore::default();
    tokio::spawn(keep_trying(url.to_owned(), Arc::downgrade(&late.0)));
    Ok(Connected::Later(late))
}

/// Connects again and again until it succeeds. `store` is weak, so that this task ends when the
/// sidecar was dropped.
async fn keep_trying(url: String, store: Weak<OnceLock<AnyStore>>) {
    let mut pause = FIRST_PAUSE;
    loop {
        sleep(pause).await;
        if store.strong_count() == 0 {
            return;
        }
        match AnyStore::connect(&url).await {
            Ok(connected) => {
                if let Some(store) = store.upgrade() {
                    let _ = store.set(connected);
                    info!("the store is reached");
                }
                return;
            }
            Err(error) => warn!(
                error = &error as &dyn std::error::Error,
                "the store still can't be used"
            ),
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Fails every call with `NotSent` until the store is connected.
#[derive(Clone, Debug, Default)]
pub(crate) struct LateStore(Arc<OnceLock<AnyStore>>);

impl LateStore {
    fn store(&self) -> Result<&AnyStore, StoreError> {
        self.0
            .get()
            .ok_or_else(|| StoreError::new(StoreErrorKind::NotSent, "not connected yet"))
    }
}

impl Store for LateStore {
    async fn claim(&self, claim: &Claim) -> Result<Claimed, StoreError> {
        self.store()?.claim(claim).await
    }

    async fn renew(&self, lease: &Lease) -> Result<Ownership, StoreError> {
        self.store()?.renew(lease).await
    }

    async fn complete(&self, lease: &Lease, outcome: &Outcome) -> Result<Ownership, StoreError> {
        self.store()?.complete(lease, outcome).await
    }

    async fn release(
        &self,
        id: &RecordId,
        nonce: &Nonce,
        how: Release,
    ) -> Result<Ownership, StoreError> {
        self.store()?.release(id, nonce, how).await
    }

    async fn record_step(
        &self,
        lease: &Lease,
        step: &RecordedStep,
    ) -> Result<Ownership, StoreError> {
        self.store()?.record_step(lease, step).await
    }

    /// `false` until the store is reached: a layer is built before that.
    fn keeps_steps(&self) -> bool {
        self.0.get().is_some_and(Store::keeps_steps)
    }

    async fn look_up(&self, id: &RecordId) -> Result<Option<Record>, StoreError> {
        self.store()?.look_up(id).await
    }

    async fn forget(&self, id: &RecordId, mode: ForgetMode) -> Result<Forgotten, StoreError> {
        self.store()?.forget(id, mode).await
    }

    async fn list(&self, query: &ListQuery) -> Result<RecordPage, StoreError> {
        self.store()?.list(query).await
    }

    async fn subscribe(&self, id: &RecordId) -> Result<Subscription, StoreError> {
        self.store()?.subscribe(id).await
    }

    fn largest_completion(&self) -> Option<usize> {
        self.0.get().and_then(Store::largest_completion)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_store_that_comes_late_is_used_from_then_on() {
        let late = LateStore::default();
        let other = late.clone();
        let id = RecordId::from_bytes([7; 32]);
        let error = late.look_up(&id).await.unwrap_err();
        assert_eq!(error.kind(), StoreErrorKind::NotSent);
        keep_trying("memory:".to_owned(), Arc::downgrade(&late.0)).await;
        assert!(other.look_up(&id).await.unwrap().is_none());
        let page = other.list(&ListQuery::new()).await.unwrap();
        assert!(page.records.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_a_store_that_nobody_wants() {
        let late = LateStore::default();
        let store = Arc::downgrade(&late.0);
        drop(late);
        keep_trying("other:".to_owned(), store).await;
    }

    #[cfg(feature = "sqlite")]
    #[tokio::test]
    async fn a_store_that_comes_late_has_the_limits_of_its_engine() {
        let name = format!("late-store-{}.db", std::process::id());
        let file = std::env::temp_dir().join(name);
        let url = format!("sqlite:{}", file.display());
        AnyStore::migrate(&url).await.unwrap();
        let late = LateStore::default();
        assert_eq!(late.largest_completion(), None);
        keep_trying(url, Arc::downgrade(&late.0)).await;
        assert!(late.largest_completion().is_some());
        std::fs::remove_file(file).unwrap();
    }
}
