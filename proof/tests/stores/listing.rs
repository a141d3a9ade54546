//! Every store lists what it keeps, and keeps where each execution came from.

use std::collections::BTreeMap;
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::StatusCode;
use tower_idempotency::store::{
    AnyStore, Claim, Claimed, Completion, Cursor, Fingerprint, Lease, ListQuery, ListedRecord,
    ListedState, Origin, Outcome, RecordId, Release, ScopeDigest, Store, StoreErrorKind,
};

use super::any::all;

const BRIEF: Duration = Duration::from_millis(50);
const STATES: [ListedState; 6] = ListedState::ALL;

pub(super) async fn every_page(store: &impl Store, query: &ListQuery) -> Vec<ListedRecord> {
    let mut query = query.clone();
    let mut found = Vec::new();
    loop {
        let page = store.list(&query).await.unwrap();
        assert!(page.records.len() <= usize::from(query.page_size()));
        found.extend(page.records);
        let Some(next) = page.next else { return found };
        // As a client sends it back.
        query = query.cursor(next.to_string().parse().unwrap());
    }
}

async fn acquire(store: &AnyStore, claim: &Claim) -> Lease {
    let Claimed::Acquired(lease) = store.claim(claim).await.unwrap() else {
        panic!("a new record is there already");
    };
    lease
}

/// Leaves a record in this state.
async fn leave(store: &AnyStore, claim: &Claim, state: ListedState) -> Option<Lease> {
    let lease = acquire(store, claim).await;
    let (id, nonce) = (&claim.id, &claim.nonce);
    match state {
        ListedState::InFlight => return Some(lease),
        ListedState::Unknown => {
            store
                .release(id, nonce, Release::OutcomeUnknown)
                .await
                .unwrap();
        }
        ListedState::Released => {
            store
                .release(id, nonce, Release::MayRunAgain)
                .await
                .unwrap();
        }
        ListedState::Sealed => {
            let retention = Duration::from_secs(3600);
            store
                .complete(&lease, &Outcome::Sealed { retention })
                .await
                .unwrap();
        }
        ListedState::Completed => {
            let paid = Completion::new(StatusCode::CREATED, "paid", SystemTime::now());
            store
                .complete(&lease, &Outcome::Completed(Arc::new(paid)))
                .await
                .unwrap();
        }
        _ => {}
    }
    None
}

#[tokio::test]
async fn every_store_lists_its_records_by_state_caller_and_age_with_their_origins() {
    for url in all() {
        AnyStore::migrate(&url).await.unwrap();
        let store = AnyStore::connect(&url).await.unwrap();
        let kind = url.split(':').next().unwrap();
        let scope = ScopeDigest::from_bytes(rand::random());
        let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let origin = Origin::none()
            .route("POST /payments/{id}")
            .trace(trace.parse().unwrap());
        let (mut claims, mut leases) = (BTreeMap::new(), Vec::new());
        for state in STATES {
            let id = RecordId::from_bytes(rand::random());
            let mut claim = Claim::new(id, scope, Fingerprint::from_bytes([2; 32]));
            claim.origin = origin.clone();
            if state == ListedState::Lapsed {
                claim.lease = BRIEF;
            }
            leases.extend(leave(&store, &claim, state).await);
            claims.insert(id, state);
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
        let own = ListQuery::new().scope(scope);
        let pages = own.clone().limit(NonZeroU16::new(2).unwrap());
        let listed = every_page(&store, &pages).await;
        let states: BTreeMap<_, _> = listed.iter().map(|it| (it.id, it.state)).collect();
        assert_eq!(states, claims, "{kind}");
        assert_eq!(listed.len(), STATES.len(), "{kind}");
        for record in &listed {
            assert_eq!(record.origin, origin, "{kind} {}", record.state);
            assert_eq!((record.scope, record.attempt), (Some(scope), 1), "{kind}");
            let age = record.claimed_at.unwrap().elapsed().unwrap();
            assert!(
                age > BRIEF && age < Duration::from_secs(60),
                "{kind} {age:?}"
            );
            let found = store.look_up(&record.id).await.unwrap().unwrap();
            assert_eq!(
                (&found.origin, found.scope),
                (&origin, Some(scope)),
                "{kind}"
            );
            assert_eq!(found.claimed_at, record.claimed_at, "{kind}");
            let is_completed = record.state == ListedState::Completed;
            assert_eq!(
                record.status,
                is_completed.then_some(StatusCode::CREATED),
                "{kind}"
            );
            assert!(!is_completed || record.completed_at.is_some(), "{kind}");
        }
        for state in STATES {
            let found = every_page(&store, &own.clone().state(state)).await;
            let all_of_state = every_page(&store, &ListQuery::new().state(state)).await;
            let [one] = &found[..] else {
                panic!("{kind}: {} records {state}", found.len());
            };
            assert_eq!(claims[&one.id], state, "{kind}");
            assert!(
                all_of_state.iter().any(|it| it.id == one.id),
                "{kind} {state}"
            );
            assert!(
                all_of_state.iter().all(|it| it.state == state),
                "{kind} {state}"
            );
        }
        let young = own.clone().older_than(Duration::from_secs(600));
        assert!(every_page(&store, &young).await.is_empty(), "{kind}");
        let old = own.clone().older_than(BRIEF);
        assert_eq!(every_page(&store, &old).await.len(), STATES.len(), "{kind}");

        // A claim that finds the record is told where it came from.
        let completed = claims
            .iter()
            .find(|(_, state)| **state == ListedState::Completed);
        let retry = Claim::new(
            *completed.unwrap().0,
            scope,
            Fingerprint::from_bytes([2; 32]),
        );
        let Claimed::Found(found) = store.claim(&retry).await.unwrap() else {
            panic!("{kind}: not found");
        };
        assert_eq!(found.origin, origin, "{kind}");

        // The next attempt has an origin of its own.
        let released = claims
            .iter()
            .find(|(_, state)| **state == ListedState::Released);
        let mut next = Claim::new(
            *released.unwrap().0,
            scope,
            Fingerprint::from_bytes([2; 32]),
        );
        next.lease = Duration::from_secs(60);
        leases.push(acquire(&store, &next).await);
        let found = store.look_up(&next.id).await.unwrap().unwrap();
        assert_eq!((found.attempt, found.origin), (2, Origin::none()), "{kind}");

        let wrong = ListQuery::new().cursor(Cursor::from_bytes([1; 5]).unwrap());
        let error = store.list(&wrong).await.unwrap_err();
        assert_eq!(error.kind(), StoreErrorKind::InvalidCursor, "{kind}");
    }
}

/// Many records of one caller, in pages that end between any two of them.
#[tokio::test]
async fn a_list_in_small_pages_has_every_record_once() {
    for url in all() {
        AnyStore::migrate(&url).await.unwrap();
        let store = AnyStore::connect(&url).await.unwrap();
        let kind = url.split(':').next().unwrap();
        let scope = ScopeDigest::from_bytes(rand::random());
        let mut claims = std::collections::BTreeSet::new();
        for _ in 0..40 {
            let id = RecordId::from_bytes(rand::random());
            let claim = Claim::new(id, scope, Fingerprint::from_bytes([2; 32]));
            leave(&store, &claim, ListedState::Completed).await;
            claims.insert(id);
        }
        let completed = ListQuery::new().state(ListedState::Completed);
        for query in [ListQuery::new(), completed.clone(), completed.scope(scope)] {
            let listed = every_page(&store, &query.limit(NonZeroU16::new(7).unwrap())).await;
            let own = listed.iter().filter(|record| record.scope == Some(scope));
            let ids: Vec<_> = own.map(|record| record.id).collect();
            assert_eq!(ids.len(), claims.len(), "{kind}");
            assert_eq!(
                ids.into_iter().collect::<std::collections::BTreeSet<_>>(),
                claims
            );
        }
    }
}
