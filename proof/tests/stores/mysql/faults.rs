use std::time::Duration;

use tower_idempotency::store::{Store, StoreErrorKind};

use super::{Place, another, claim, paid};
use crate::mysql::refusals::text;

/// Replaces the procedure by one that writes and then fails with this code.
async fn failing(place: &Place, code: u16) {
    place.run("DROP PROCEDURE IF EXISTS {t}_claim_v3").await;
    let procedure = "CREATE PROCEDURE {t}_claim_v3 (a BLOB, b BLOB, c BLOB, d BIGINT, e BIGINT, \
                     f TINYINT, g TINYINT, h TINYINT, i BLOB, j BLOB, k BLOB) \
                     SQL SECURITY INVOKER \
                     BEGIN \
                       DECLARE EXIT HANDLER FOR SQLEXCEPTION BEGIN ROLLBACK; RESIGNAL; END; \
                       INSERT INTO {t}_calls VALUES (1); \
                       START TRANSACTION; \
                       UPDATE {t} SET token = token + 1; \
                       SIGNAL SQLSTATE 'HY000' SET MYSQL_ERRNO = {code}, MESSAGE_TEXT = 'so it is'; \
                     END";
    place
        .run(&procedure.replace("{code}", &code.to_string()))
        .await;
}

#[tokio::test]
async fn an_error_of_the_server_says_what_became_of_the_request_and_what_to_do() {
    use StoreErrorKind::{Contention, Refused, Unknown};
    let place = Place::new(1).await;
    let lease = place.acquire(&claim(1)).await;
    place
        .run("CREATE TABLE {t}_calls (n INT) ENGINE = InnoDB")
        .await;
    for (code, kind, calls, remedy) in [
        (1213, Contention, 8, ""),
        (1205, Contention, 1, ""),
        (1020, Contention, 8, ""),
        (3572, Contention, 1, ""),
        (1146, Refused, 1, "migrate()"),
        (1142, Refused, 1, "docs/stores.md"),
        (1370, Refused, 1, "docs/stores.md"),
        // These calls are sent once more, on a connection to the server to which the address
        // leads by now.
        (1290, Refused, 2, "read-only"),
        (1836, Refused, 2, "read-only"),
        (1047, Refused, 2, "another node"),
        (1021, Refused, 1, "no room"),
        (1114, Refused, 1, "no room"),
        (3675, Refused, 1, "no room"),
        (1665, Refused, 1, "binlog_format"),
        (1105, Unknown, 1, ""),
    ] {
        failing(&place, code).await;
        // The store makes new connections at most every 250 ms.
        tokio::time::sleep(Duration::from_millis(250)).await;
        place.run("DELETE FROM {t}_calls").await;
        let error = place.store.claim(&another(&claim(1))).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{}", text(&error));
        assert!(text(&error).contains(remedy), "{}", text(&error));
        let made = place.number("SELECT COUNT(*) FROM {t}_calls").await;
        assert_eq!(made, calls, "calls at {code}");
        assert!(!place.has_open_transaction().await);
    }
    assert_eq!(
        place.number("SELECT token FROM {t}").await,
        i64::try_from(lease.token.get()).unwrap()
    );
}

#[tokio::test]
async fn a_connection_lost_on_the_way_is_an_unknown_outcome() {
    let place = Place::new(2).await;
    place.run("DROP PROCEDURE {t}_claim_v3").await;
    place
        .run(
            "CREATE PROCEDURE {t}_claim_v3 (a BLOB, b BLOB, c BLOB, d BIGINT, e BIGINT, \
             f TINYINT, g TINYINT, h TINYINT, i BLOB, j BLOB, k BLOB) \
             BEGIN KILL CONNECTION CONNECTION_ID(); DO SLEEP(1); END",
        )
        .await;
    let error = place.store.claim(&claim(1)).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Unknown, "{}", text(&error));
    assert!(place.store.look_up(&claim(1).id).await.unwrap().is_none());
}

#[tokio::test]
async fn an_answer_that_no_packet_holds_is_too_large_with_a_remedy_or_unknown() {
    let place = Place::new(1).await;
    let room = place
        .number("SELECT CAST(@@GLOBAL.max_allowed_packet AS SIGNED)")
        .await;
    let lease = place.acquire(&claim(1)).await;
    let answer = paid(vec![1; usize::try_from(room).unwrap()]);
    // The server may close the connection before the client has sent the whole
    // packet.
    let error = place.store.complete(&lease, &answer).await.unwrap_err();
    match error.kind() {
        StoreErrorKind::TooLarge => assert!(text(&error).contains("max_allowed_packet")),
        kind => assert_eq!(kind, StoreErrorKind::Unknown),
    }
    super::is_in_flight(place.store.claim(&another(&claim(1))).await.unwrap());
}
