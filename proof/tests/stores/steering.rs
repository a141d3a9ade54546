//! Every store: an operator resolves a record as it was seen, and what moved on meanwhile stays as
//! it is; what is completed after it was forgotten still says where it came from.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::{Request, StatusCode};
use tokio::sync::Notify;
use tower_idempotency::options::OnLapsedLease;
use tower_idempotency::store::{
    AnyStore, Claim, Claimed, Completion, Fingerprint, ForgetMode, Forgotten, Lease, ListQuery,
    Origin, Outcome, Ownership, Record, RecordId, RecordState, RecordVersion, Release, ScopeDigest,
    Store, StoreError,
};
use tower_idempotency::store::{Nonce, RecordPage};
use tower_idempotency::{Audit, IdempotencyLayer, Resolved, scope};

use super::any::all;
use super::listing::every_page;

/// Stops each claim until it is let through, and passes all other operations on.
#[derive(Clone)]
struct Gated {
    store: Arc<AnyStore>,
    came: Arc<Notify>,
    open: Arc<Notify>,
}

impl Store for Gated {
    async fn claim(&self, claim: &Claim) -> Result<Claimed, StoreError> {
        self.came.notify_one();
        self.open.notified().await;
        self.store.claim(claim).await
    }

    async fn renew(&self, lease: &Lease) -> Result<Ownership, StoreError> {
        self.store.renew(lease).await
    }

    async fn complete(&self, lease: &Lease, outcome: &Outcome) -> Result<Ownership, StoreError> {
        self.store.complete(lease, outcome).await
    }

    async fn release(
        &self,
        id: &RecordId,
        nonce: &Nonce,
        how: Release,
    ) -> Result<Ownership, StoreError> {
        self.store.release(id, nonce, how).await
    }

    async fn look_up(&self, id: &RecordId) -> Result<Option<Record>, StoreError> {
        self.store.look_up(id).await
    }

    async fn forget(&self, id: &RecordId, mode: ForgetMode) -> Result<Forgotten, StoreError> {
        self.store.forget(id, mode).await
    }

    async fn list(&self, query: &ListQuery) -> Result<RecordPage, StoreError> {
        self.store.list(query).await
    }
}

fn paid() -> Outcome {
    let paid = Completion::new(StatusCode::CREATED, "paid", SystemTime::now());
    Outcome::Completed(Arc::new(paid))
}

async fn acquire(store: &AnyStore, claim: &Claim) -> Lease {
    match store.claim(claim).await.unwrap() {
        Claimed::Acquired(lease) => lease,
        other => panic!("{other:?}"),
    }
}

/// Begins an operation of this request, whose outcome nobody knows.
async fn in_doubt(store: &AnyStore, claim: &Claim) -> Lease {
    let lease = acquire(store, claim).await;
    let released = store.release(&claim.id, &claim.nonce, Release::OutcomeUnknown);
    assert_eq!(released.await.unwrap(), Ownership::Held);
    lease
}

fn again(claim: &Claim) -> Claim {
    let mut again = claim.clone();
    again.nonce = Nonce::random();
    again
}

/// What happens to a record between its look-up by `resolve` and the step that resolves it.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Meanwhile {
    /// The late owner records its own outcome.
    Completed,
    /// Somebody forgets the record, and the next operation of the key is in doubt too: it has the
    /// same attempt, and another token.
    BegunAnew,
    /// Another retry took the record over, and its outcome is unknown too.
    TakenOver,
    /// Somebody forgets the record: the key is free.
    Forgotten,
    /// The late owner says that the operation may run again.
    Released,
    Nothing,
}

#[tokio::test]
async fn a_record_that_moves_on_while_it_is_resolved_is_left_as_it_is() {
    for url in all() {
        AnyStore::migrate(&url).await.unwrap();
        let store = Arc::new(AnyStore::connect(&url).await.unwrap());
        let gated = Gated {
            store: Arc::clone(&store),
            came: Arc::default(),
            open: Arc::default(),
        };
        let layer = IdempotencyLayer::new(gated.clone(), scope::header("x-api-key")).unwrap();
        for (number, meanwhile) in [
            Meanwhile::Completed,
            Meanwhile::BegunAnew,
            Meanwhile::TakenOver,
            Meanwhile::Forgotten,
            Meanwhile::Released,
            Meanwhile::Nothing,
        ]
        .into_iter()
        .enumerate()
        {
            let at = format!("{} {meanwhile:?}", url.split(':').next().unwrap());
            for is_seen in [true, false] {
                let request = Request::post("/payments")
                    .header("x-api-key", "alice")
                    .header("idempotency-key", format!("k{number}{is_seen}"));
                let id = layer
                    .records()
                    .id_of(&request.body(()).unwrap().into_parts().0);
                let scope = ScopeDigest::from_bytes([1; 32]);
                let mut claim = Claim::new(id.unwrap(), scope, Fingerprint::from_bytes([2; 32]));
                claim.on_lapsed_lease = OnLapsedLease::Refuse;
                let owner = in_doubt(&store, &claim).await;
                let mut audit = Audit::new("bob", "the bank has booked it").unwrap();
                if is_seen {
                    let seen = store.look_up(&claim.id).await.unwrap().unwrap();
                    audit = audit.seen(seen.version());
                }
                let (acting, id) = (layer.clone(), claim.id);
                let resolving =
                    tokio::spawn(
                        async move { acting.records().resolve(&id, &paid(), &audit).await },
                    );
                gated.came.notified().await;
                let after = happens(&store, &claim, &owner, meanwhile).await;
                gated.open.notify_one();
                let resolved = resolving.await.unwrap().unwrap();
                let expected = match meanwhile {
                    Meanwhile::Nothing => Resolved::Recorded,
                    // With the same token, attempt and no outcome.
                    Meanwhile::Released | Meanwhile::Forgotten => Resolved::Absent,
                    _ if is_seen => Resolved::Moved,
                    Meanwhile::Completed => Resolved::Done,
                    _ => Resolved::InFlight,
                };
                assert_eq!(resolved, expected, "{at}");
                let found = store.look_up(&claim.id).await.unwrap();
                if meanwhile == Meanwhile::Nothing {
                    let found = found.unwrap();
                    assert!(found.version().done && found.attempt == 2, "{at}");
                    continue;
                }
                assert_eq!(found.map(|found| found.version()), after, "{at}");
                if meanwhile == Meanwhile::Forgotten {
                    let next = acquire(&store, &again(&claim)).await;
                    assert_eq!(next.attempt, 1, "{at}: the key is free");
                }
            }
        }
    }
}

/// Returns the version that the record has afterwards.
async fn happens(
    store: &AnyStore,
    claim: &Claim,
    owner: &Lease,
    meanwhile: Meanwhile,
) -> Option<RecordVersion> {
    match meanwhile {
        Meanwhile::Completed => {
            let late = store.complete(owner, &paid()).await.unwrap();
            assert_eq!(late, Ownership::Held);
        }
        Meanwhile::BegunAnew => {
            store.forget(&claim.id, ForgetMode::Forced).await.unwrap();
            let anew = in_doubt(store, &again(claim)).await;
            assert_eq!(anew.attempt, owner.attempt);
        }
        Meanwhile::TakenOver => {
            let mut retry = again(claim);
            retry.on_lapsed_lease = OnLapsedLease::Rerun;
            in_doubt(store, &retry).await;
        }
        Meanwhile::Forgotten => {
            store.forget(&claim.id, ForgetMode::Forced).await.unwrap();
        }
        Meanwhile::Released => {
            let late = store.release(&claim.id, &claim.nonce, Release::MayRunAgain);
            assert_eq!(late.await.unwrap(), Ownership::Held);
        }
        Meanwhile::Nothing => {}
    }
    let found = store.look_up(&claim.id).await.unwrap();
    found.map(|found| found.version())
}

#[tokio::test]
async fn what_is_completed_after_it_was_forgotten_has_the_origin_of_its_claim() {
    for url in all() {
        AnyStore::migrate(&url).await.unwrap();
        let store = AnyStore::connect(&url).await.unwrap();
        let kind = url.split(':').next().unwrap();
        let scope = ScopeDigest::from_bytes(rand::random());
        let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let origin = Origin::none()
            .route("POST /payments/{id}")
            .trace(trace.parse().unwrap());
        let retention = Duration::from_secs(3600);
        for outcome in [paid(), Outcome::Sealed { retention }] {
            // Where there is no record, and where its own tombstone stands.
            for is_tombstone in [false, true] {
                let id = RecordId::from_bytes(rand::random());
                let mut claim = Claim::new(id, scope, Fingerprint::from_bytes([2; 32]));
                claim.origin = origin.clone();
                let lease = acquire(&store, &claim).await;
                if is_tombstone {
                    let how = Release::MayRunAgain;
                    store.release(&id, &claim.nonce, how).await.unwrap();
                } else {
                    store.forget(&id, ForgetMode::Forced).await.unwrap();
                }
                let late = store.complete(&lease, &outcome).await.unwrap();
                assert_eq!(late, Ownership::Held, "{kind}");
                let found = store.look_up(&id).await.unwrap().unwrap();
                assert!(
                    matches!(
                        found.state,
                        RecordState::Completed { .. } | RecordState::Sealed { .. }
                    ),
                    "{kind}"
                );
                assert_eq!(
                    (found.scope, &found.origin),
                    (Some(scope), &origin),
                    "{kind}"
                );
                let listed = every_page(&store, &ListQuery::new().scope(scope)).await;
                let listed = listed.iter().find(|record| record.id == id);
                assert_eq!(listed.map(|record| &record.origin), Some(&origin), "{kind}");
            }
        }
    }
}
