use tower_idempotency::store::{ForgetMode, Store, StoreErrorKind};

use super::{Place, another, claim, paid};

#[tokio::test]
async fn what_cannot_be_read_is_an_error_and_never_acquired() {
    for damage in [
        "format = 2",
        "format = 2, expires_at = 1",
        "state = 9",
        "state = 9, expires_at = 1",
        "state = 0",
        "token = -1",
        "attempt = -1",
        "answer = LEFT(answer, LENGTH(answer) - 1)",
        "answer = LEFT(answer, 1), answer_length = 1",
        "answer = CONCAT(answer, 'x')",
        "answer = CONCAT(answer, 'x'), answer_length = answer_length + 1",
        "answer = CONCAT(answer, 'x'), answer_length = answer_length + 1, \
         answer_sha256 = UNHEX(SHA2(answer, 256))",
        "answer = '', answer_length = 0, answer_sha256 = UNHEX(SHA2('', 256))",
        "answer_sha256 = REPEAT('x', 32)",
        "answer = NULL",
        "answer_length = NULL",
        "answer_sha256 = NULL",
        "status = NULL",
        "status = 200",
        "status = -1",
        "began_at = NULL",
        "kept_for = -1",
    ] {
        let place = Place::new(1).await;
        let lease = place.acquire(&claim(1)).await;
        place.store.complete(&lease, &paid("paid")).await.unwrap();
        place.run(&format!("UPDATE {{t}} SET {damage}")).await;
        let claimed = place.store.claim(&another(&claim(1))).await;
        let error = claimed.expect_err(damage);
        assert_eq!(error.kind(), StoreErrorKind::Unreadable, "{damage}");
        let looked_up = place.store.look_up(&claim(1).id).await;
        // An expired record counts as absent, so looking it up is no error.
        if !damage.starts_with("state = 9, expires_at") {
            let error = looked_up.expect_err(damage);
            assert_eq!(error.kind(), StoreErrorKind::Unreadable, "{damage}");
        }
    }
}

#[tokio::test]
async fn a_foreign_record_is_changed_by_nobody_but_by_force() {
    for foreign in [
        "format = 2",
        "format = 2, expires_at = 1",
        "state = 9",
        "state = 9, expires_at = 1",
    ] {
        let place = Place::new(1).await;
        let lease = place.acquire(&claim(1)).await;
        place.run(&format!("UPDATE {{t}} SET {foreign}")).await;
        let store = &place.store;
        let (id, nonce) = (&lease.claim.id, &lease.claim.nonce);
        let how = tower_idempotency::store::Release::OutcomeUnknown;
        let errors = [
            store.renew(&lease).await.unwrap_err(),
            store.complete(&lease, &paid("x")).await.unwrap_err(),
            store.release(id, nonce, how).await.unwrap_err(),
            store.forget(id, ForgetMode::UnlessAlive).await.unwrap_err(),
        ];
        for error in errors {
            assert_eq!(error.kind(), StoreErrorKind::Unreadable);
        }
        assert_eq!(store.purge().await.unwrap(), 0, "{foreign}");
        let foreign = foreign.replace(',', " AND");
        let changed = format!("SELECT COUNT(*) FROM {{t}} WHERE {foreign} AND status IS NULL");
        assert_eq!(place.number(&changed).await, 1);
        store.forget(id, ForgetMode::Forced).await.unwrap();
        place.acquire(&claim(1)).await;
    }
}
