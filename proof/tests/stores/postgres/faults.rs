//! The meaning of the server's errors, for the request and for its connection.

use std::time::Duration;

use tower_idempotency::store::{Store, StoreErrorKind};

use super::{Fresh, acquire, claim_of, id};
use crate::mysql::refusals::text;

/// Replaces the function of renewals by one that counts its calls and then runs this
/// statement.
async fn failing(fresh: &Fresh, statement: &str) {
    let function = "DROP FUNCTION {t}_renew;
        CREATE FUNCTION {t}_renew(a bytea, b bytea, c bigint) RETURNS boolean
        LANGUAGE plpgsql AS $$ BEGIN
            PERFORM nextval('{t}_calls');
            {statement};
            RETURN true;
        END $$;
        SELECT setval('{t}_calls', 1, false)";
    fresh.run(&function.replace("{statement}", statement)).await;
}

#[tokio::test]
async fn an_error_of_the_server_says_what_became_of_the_request_and_what_to_do() {
    use StoreErrorKind::{Contention, Refused, Unknown};
    let fresh = Fresh::new().await;
    // A rollback does not take back a number of a sequence.
    fresh.run("CREATE SEQUENCE {t}_calls").await;
    let store = fresh.store().await;
    let lease = acquire(&store, &claim_of(id())).await;
    for (code, kind, calls, remedy) in [
        // These calls are sent once more, on a connection to the server to which the address
        // leads by now.
        ("25006", Refused, 2, "connect to the primary"),
        ("57P03", Contention, 2, "will be ready"),
        ("40001", Contention, 10, ""),
        ("57014", Contention, 1, "statement_timeout"),
        ("42501", Refused, 1, "docs/stores.md"),
        ("53100", Refused, 1, "disk"),
        ("XX000", Unknown, 1, ""),
    ] {
        failing(
            &fresh,
            &format!("RAISE 'so it is' USING ERRCODE = '{code}'"),
        )
        .await;
        // The store makes new connections at most every 250 ms.
        tokio::time::sleep(Duration::from_millis(250)).await;
        let error = store.renew(&lease).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{code}: {}", text(&error));
        assert!(text(&error).contains(remedy), "{}", text(&error));
        let made = "SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM {t}_calls";
        assert_eq!(fresh.count(made).await, calls, "calls at {code}");
    }
}

#[tokio::test]
async fn a_connection_that_the_server_ends_is_an_unknown_outcome_and_is_replaced() {
    let fresh = Fresh::new().await;
    fresh.run("CREATE SEQUENCE {t}_calls").await;
    let store = fresh.store().await;
    let lease = acquire(&store, &claim_of(id())).await;
    failing(&fresh, "PERFORM pg_terminate_backend(pg_backend_pid())").await;
    let error = store.renew(&lease).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Unknown, "{}", text(&error));
    assert!(store.look_up(&lease.claim.id).await.unwrap().is_some());
}
