//! The store never acquires a record that this version cannot read.

use std::time::{Duration, SystemTime};

use http::StatusCode;
use tower_idempotency::PostgresStore;
use tower_idempotency::store::Completion;
use tower_idempotency::store::{
    Claim, ForgetMode, Forgotten, Lease, Outcome, Release, Store, StoreErrorKind,
};

use super::{Fresh, acquire, claim_of, id};

/// Without the table's checks, another program may write anything.
const WITHOUT_CHECKS: &str = "
    DO $$ DECLARE c record; BEGIN
        FOR c IN SELECT conname FROM pg_constraint
            WHERE conrelid = '{t}'::regclass AND contype = 'c'
        LOOP EXECUTE 'ALTER TABLE {t} DROP CONSTRAINT ' || c.conname; END LOOP;
    END $$";

async fn completed(store: &PostgresStore) -> Lease {
    let lease = acquire(store, &claim_of(id())).await;
    let mut completion = Completion::new(StatusCode::CREATED, "paid", SystemTime::now());
    completion.headers.insert("x-id", "1".parse().unwrap());
    let outcome = Outcome::Completed(completion.into());
    store.complete(&lease, &outcome).await.unwrap();
    lease
}

#[tokio::test]
async fn a_record_that_cannot_be_read_is_an_error_and_stays_as_it_is() {
    let fresh = Fresh::new().await;
    fresh.run(WITHOUT_CHECKS).await;
    let store = fresh.store().await;
    let expired = "expires_at = clock_timestamp() - interval '1 s'";
    let changes = [
        "format = 2",
        "format = 0, state = 5",
        &format!("format = 2, {expired}"),
        "state = 9",
        &format!("state = 0, {expired}"),
        "state = 1, lapses_at = clock_timestamp(), fingerprint = '\\x00'",
        "state = 1, lapses_at = clock_timestamp(), fingerprint = NULL",
        "fingerprint = fingerprint || '\\x00'",
        "answer = substr(answer, 1, length(answer) - 1)",
        "answer = answer || '\\x00'",
        "answer = answer || '\\x00', answer_length = answer_length + 1",
        "answer = set_byte(answer, 12, 0)",
        "answer = '', answer_length = 0",
        "answer = NULL",
        "answer_sha256 = '\\x00'",
        "answer_sha256 = NULL",
        "answer_length = NULL",
        "status = 200",
        "status = NULL",
        "began_at = 'infinity'",
        "completed_at = NULL",
        "kept_for = NULL",
        "token = -1",
        "token = 9007199254740992",
    ];
    for change in changes {
        let lease = completed(&store).await;
        let seen = store
            .look_up(&lease.claim.id)
            .await
            .unwrap()
            .unwrap()
            .version();
        let where_it_is = format!("WHERE id = '\\x{}'", lease.claim.id);
        let change_it = format!("UPDATE {{t}} SET {change} {where_it_is}");
        assert_eq!(fresh.run(&change_it).await, 1);
        let image = format!("SELECT hashtextextended(t::text, 0) FROM {{t}} t {where_it_is}");
        let before = fresh.count(&image).await;
        let mut by_hand = claim_of(lease.claim.id);
        by_hand.by_hand = Some(seen);
        for claim in [claim_of(lease.claim.id), by_hand, lease.claim.clone()] {
            let error = store.claim(&claim).await.expect_err(change);
            assert_eq!(error.kind(), StoreErrorKind::Unreadable, "{change}");
        }
        let error = store.look_up(&lease.claim.id).await.expect_err(change);
        assert_eq!(error.kind(), StoreErrorKind::Unreadable, "{change}");
        assert_eq!(fresh.count(&image).await, before, "{change}");
    }
}

#[tokio::test]
async fn a_record_of_another_format_is_changed_by_nobody_but_by_force() {
    let fresh = Fresh::new().await;
    let store = fresh.store().await;
    let lease = acquire(&store, &claim_of(id())).await;
    fresh.run("UPDATE {t} SET format = 2").await;
    let Claim { id, nonce, .. } = lease.claim;
    let outcome = Outcome::Sealed {
        retention: Duration::from_secs(60),
    };
    let errors = [
        store.renew(&lease).await.unwrap_err(),
        store.complete(&lease, &outcome).await.unwrap_err(),
        store
            .release(&id, &nonce, Release::MayRunAgain)
            .await
            .unwrap_err(),
        store
            .forget(&id, ForgetMode::UnlessAlive)
            .await
            .unwrap_err(),
    ];
    for error in errors {
        assert_eq!(error.kind(), StoreErrorKind::Unreadable);
    }
    assert_eq!(
        fresh
            .count("SELECT count(*) FROM {t} WHERE format = 2 AND state = 1")
            .await,
        1
    );
    assert_eq!(
        store.forget(&id, ForgetMode::Forced).await.unwrap(),
        Forgotten::Gone
    );
}

#[tokio::test]
async fn an_acquisition_beyond_the_last_token_changes_nothing() {
    let fresh = Fresh::new().await;
    let store = fresh.store().await;
    let claim = claim_of(id());
    acquire(&store, &claim).await;
    store
        .release(&claim.id, &claim.nonce, Release::MayRunAgain)
        .await
        .unwrap();
    fresh.run("UPDATE {t} SET token = 9007199254740991").await;
    let error = store.claim(&claim_of(claim.id)).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Unreadable);
    // The server's error detail quotes the row, so the detail must not appear in
    // the error.
    assert!(!format!("{error:?}").contains("Failing row"), "{error:?}");
    assert_eq!(
        fresh
            .count("SELECT count(*) FROM {t} WHERE state = 5")
            .await,
        1
    );
}
