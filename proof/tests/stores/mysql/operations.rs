use std::time::Duration;

use sqlx::mysql::MySqlPoolOptions;
use tower_idempotency::MySqlStore;
use tower_idempotency::conformance;
use tower_idempotency::options::OnLapsedLease;
use tower_idempotency::store::{
    Claimed, ForgetMode, Forgotten, Outcome, Ownership, RecordState, Release, Store, StoreErrorKind,
};

use super::{Place, acquired, another, body, claim, found, is_in_flight, paid, run, url};

/// Runs records through all their states, as must work in any session.
async fn lives(place: &Place) {
    is_completed(place).await;
    is_released_and_sealed(place).await;
    is_resolved_by_hand(place).await;
    is_completed_though_forgotten(place).await;
    assert!(!place.has_open_transaction().await);
}

async fn is_completed(place: &Place) {
    let store = &place.store;
    let first = claim(1);
    assert!(store.look_up(&first.id).await.unwrap().is_none());
    let lease = place.acquire(&first).await;
    assert_eq!(lease.attempt, 1);
    let again = place.acquire(&first).await;
    assert_eq!((again.token, again.attempt), (lease.token, 1));
    match found(store.claim(&another(&first)).await.unwrap()).state {
        RecordState::InFlight { lapses_in, .. } => {
            assert!(lapses_in <= first.lease, "{lapses_in:?}");
            assert!(lapses_in > first.lease / 2, "{lapses_in:?}");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(store.renew(&lease).await.unwrap(), Ownership::Held);
    let stale = tower_idempotency::store::Lease::new(&another(&first), lease.token, 1);
    assert_eq!(store.renew(&stale).await.unwrap(), Ownership::Lost);
    assert_eq!(
        store.complete(&stale, &paid("x")).await.unwrap(),
        Ownership::Lost
    );
    assert_eq!(
        store.complete(&lease, &paid("one")).await.unwrap(),
        Ownership::Held
    );
    for _ in 0..2 {
        assert_eq!(
            body(store.claim(&another(&first)).await.unwrap()),
            "one",
            "a replay"
        );
        assert_eq!(
            store.complete(&lease, &paid("two")).await.unwrap(),
            Ownership::Held
        );
        assert_eq!(store.renew(&lease).await.unwrap(), Ownership::Held);
        let release = store.release(&first.id, &first.nonce, Release::MayRunAgain);
        assert_eq!(release.await.unwrap(), Ownership::Lost);
    }
    assert_eq!(
        store
            .forget(&first.id, ForgetMode::UnlessAlive)
            .await
            .unwrap(),
        Forgotten::Gone
    );
    assert_eq!(
        store
            .forget(&first.id, ForgetMode::UnlessAlive)
            .await
            .unwrap(),
        Forgotten::Absent
    );
}

async fn is_released_and_sealed(place: &Place) {
    let store = &place.store;
    let second = claim(2);
    let lease = place.acquire(&second).await;
    let release = store.release(&second.id, &second.nonce, Release::MayRunAgain);
    assert_eq!(release.await.unwrap(), Ownership::Held);
    assert_eq!(store.renew(&lease).await.unwrap(), Ownership::Lost);
    let record = store.look_up(&second.id).await.unwrap().unwrap();
    assert!(matches!(record.state, RecordState::Released));
    let next = place.acquire(&another(&second)).await;
    assert_eq!(next.attempt, 2);
    assert!(next.token > lease.token);
    assert_eq!(
        store.complete(&lease, &paid("late")).await.unwrap(),
        Ownership::Lost
    );
    assert_eq!(
        store
            .forget(&second.id, ForgetMode::UnlessAlive)
            .await
            .unwrap(),
        Forgotten::InFlight
    );
    let outcome = Outcome::Sealed {
        retention: Duration::from_secs(60),
    };
    assert_eq!(
        store.complete(&next, &outcome).await.unwrap(),
        Ownership::Held
    );
    let sealed = found(store.claim(&another(&second)).await.unwrap());
    assert!(matches!(sealed.state, RecordState::Sealed { .. }));
}

async fn is_resolved_by_hand(place: &Place) {
    let store = &place.store;
    let mut third = claim(3);
    third.on_lapsed_lease = OnLapsedLease::Refuse;
    let lease = place.acquire(&third).await;
    let release = store.release(&third.id, &third.nonce, Release::OutcomeUnknown);
    assert_eq!(release.await.unwrap(), Ownership::Held);
    assert_eq!(store.renew(&lease).await.unwrap(), Ownership::Lost);
    let record = found(store.claim(&another(&third)).await.unwrap());
    assert!(matches!(record.state, RecordState::Lapsed { .. }));
    let mut by_hand = another(&third);
    by_hand.by_hand = Some(record.version());
    let resolved = place.acquire(&by_hand).await;
    assert_eq!(resolved.attempt, 2);
    is_in_flight(store.claim(&another(&third)).await.unwrap());
    assert_eq!(
        store.complete(&lease, &paid("late")).await.unwrap(),
        Ownership::Lost
    );
}

async fn is_completed_though_forgotten(place: &Place) {
    let store = &place.store;
    // The record is gone, but the completion must still be stored.
    let fourth = claim(4);
    let lease = place.acquire(&fourth).await;
    assert_eq!(
        store.forget(&fourth.id, ForgetMode::Forced).await.unwrap(),
        Forgotten::Gone
    );
    assert_eq!(store.renew(&lease).await.unwrap(), Ownership::Lost);
    assert_eq!(
        store.complete(&lease, &paid("kept")).await.unwrap(),
        Ownership::Held
    );
    assert_eq!(body(store.claim(&another(&fourth)).await.unwrap()), "kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_store_keeps_every_rule_of_the_contract() {
    let place = Place::new(2).await;
    let open = || async {
        let pool = MySqlPoolOptions::new().max_connections(16);
        MySqlStore::builder(pool.connect_with(url()).await.unwrap())
            .table(&place.table)
            .open()
            .await
            .unwrap()
    };
    conformance::check(open).await.assert_passed();
}

#[tokio::test]
async fn a_record_lives_as_the_contract_says() {
    lives(&Place::new(1).await).await;
}

#[tokio::test]
async fn what_a_session_is_set_to_changes_nothing() {
    for settings in [
        "SET autocommit = 0",
        "SET SESSION TRANSACTION ISOLATION LEVEL SERIALIZABLE",
        "SET SESSION TRANSACTION ISOLATION LEVEL READ UNCOMMITTED",
        "SET time_zone = '+09:00'",
        "SET sql_mode = ''",
        "SET sql_mode = 'ANSI'",
        "SET sql_mode = 'TRADITIONAL,NO_BACKSLASH_ESCAPES'",
        "SET NAMES latin1, sql_safe_updates = 1, sql_select_limit = 1",
        "SET innodb_lock_wait_timeout = 1",
        "SET completion_type = 'CHAIN'",
        "SET completion_type = 'RELEASE'",
    ] {
        let pool =
            MySqlPoolOptions::new()
                .max_connections(1)
                .after_connect(move |connection, _| {
                    Box::pin(async move {
                        sqlx::raw_sql(settings).execute(connection).await?;
                        Ok(())
                    })
                });
        println!("{settings}");
        lives(&Place::on(pool.connect_with(url()).await.unwrap()).await).await;
    }
}

#[tokio::test]
async fn a_session_that_never_commits_sees_what_others_did_since() {
    let pool = MySqlPoolOptions::new().max_connections(1);
    let pool = pool.connect_with(url()).await.unwrap();
    let one = Place::on(pool).await;
    let lease = one.acquire(&claim(1)).await;
    one.run("SET autocommit = 0").await;
    // The session's snapshot begins here, unless the store ends the transaction.
    one.number("SELECT COUNT(*) FROM {t}").await;
    let other = MySqlPoolOptions::new().connect_with(url()).await.unwrap();
    let other = MySqlStore::builder(other)
        .table(&one.table)
        .open()
        .await
        .unwrap();
    other.complete(&lease, &paid("done")).await.unwrap();
    assert_eq!(
        body(one.store.claim(&another(&claim(1))).await.unwrap()),
        "done"
    );
}

#[tokio::test]
async fn what_a_session_left_uncommitted_is_not_made_durable() {
    let place = Place::new(1).await;
    let store = &place.store;
    place
        .run("CREATE TABLE {t}_orders (number INT) ENGINE = InnoDB")
        .await;
    let lease = place.acquire(&claim(1)).await;
    for operation in 0..7 {
        place
            .run("START TRANSACTION; INSERT INTO {t}_orders VALUES (1)")
            .await;
        match operation {
            0 => drop(store.look_up(&claim(9).id).await.unwrap()),
            1 => drop(store.claim(&claim(2)).await.unwrap()),
            2 => drop(store.claim(&another(&claim(2))).await.unwrap()),
            3 => assert_eq!(store.renew(&lease).await.unwrap(), Ownership::Held),
            4 => assert_eq!(
                store.complete(&lease, &paid("x")).await.unwrap(),
                Ownership::Held
            ),
            5 => {
                let nobodys = claim(9);
                let release = store.release(&nobodys.id, &nobodys.nonce, Release::MayRunAgain);
                assert_eq!(release.await.unwrap(), Ownership::Lost);
            }
            _ => assert_eq!(store.purge().await.unwrap(), 0),
        }
        let orders = place.number("SELECT COUNT(*) FROM {t}_orders").await;
        assert_eq!(orders, 0, "operation {operation}");
    }
    place
        .run("START TRANSACTION; INSERT INTO {t}_orders VALUES (1)")
        .await;
    store
        .forget(&claim(9).id, ForgetMode::Forced)
        .await
        .unwrap();
    assert_eq!(place.number("SELECT COUNT(*) FROM {t}_orders").await, 0);
}

#[tokio::test]
async fn every_byte_and_a_mebibyte_come_back() {
    let place = Place::new(1).await;
    let bytes: Vec<u8> = (0..=255).cycle().take(1 << 20).collect();
    for (id, bytes) in [(1, Vec::new()), (2, (0..=255).collect()), (3, bytes)] {
        let lease = place.acquire(&claim(id)).await;
        place
            .store
            .complete(&lease, &paid(bytes.clone()))
            .await
            .unwrap();
        assert_eq!(
            body(place.store.claim(&another(&claim(id))).await.unwrap()),
            bytes
        );
    }
}

#[tokio::test]
async fn a_renewed_lease_lapses_when_it_was_renewed_to() {
    let place = Place::new(1).await;
    let mut short = claim(1);
    short.lease = Duration::from_millis(1);
    short.retention = Duration::from_secs(60);
    let mut lease = place.acquire(&short).await;
    let long = another(&short);
    lease.claim.lease = Duration::from_secs(60);
    // The lease has lapsed by now, and no other process has claimed the record.
    assert_eq!(place.store.renew(&lease).await.unwrap(), Ownership::Held);
    is_in_flight(place.store.claim(&long).await.unwrap());
    // A claim with the same nonce also finds the renewed lease.
    assert_eq!(place.acquire(&short).await.attempt, 1);
    place
        .run("UPDATE {t}_renewals SET lapses_at = {now} - 1000")
        .await;
    assert_eq!(acquired(place.store.claim(&long).await.unwrap()).attempt, 2);
    assert_eq!(place.store.renew(&lease).await.unwrap(), Ownership::Lost);
}

/// Renewals of an earlier lease of the same nonce once made the new lease look
/// lapsed from its start.
#[tokio::test]
async fn a_nonce_that_claims_again_has_its_whole_lease() {
    for gone in [
        "DELETE FROM {t}",
        "UPDATE {t} SET expires_at = 1",
        "UPDATE {t} SET state = 5",
    ] {
        let place = Place::new(1).await;
        let first = claim(1);
        let lease = place.acquire(&first).await;
        place.store.renew(&lease).await.unwrap();
        place.store.complete(&lease, &paid("one")).await.unwrap();
        place
            .run("UPDATE {t}_renewals SET lapses_at = {now} - 1000")
            .await;
        place.run(gone).await;
        let again = place.acquire(&first).await;
        is_in_flight(place.store.claim(&another(&first)).await.unwrap());
        assert_eq!(place.store.renew(&again).await.unwrap(), Ownership::Held);
    }
}

#[tokio::test]
async fn past_its_end_a_record_is_as_good_as_absent() {
    let place = Place::new(1).await;
    for state in 1..=5 {
        let claim = claim(state);
        let lease = place.acquire(&claim).await;
        match state {
            1 => {}
            2 => drop(
                place
                    .store
                    .release(&claim.id, &claim.nonce, Release::OutcomeUnknown)
                    .await,
            ),
            3 => drop(place.store.complete(&lease, &paid("x")).await),
            4 => {
                let retention = Duration::from_secs(9);
                drop(
                    place
                        .store
                        .complete(&lease, &Outcome::Sealed { retention })
                        .await,
                );
            }
            _ => drop(
                place
                    .store
                    .release(&claim.id, &claim.nonce, Release::MayRunAgain)
                    .await,
            ),
        }
        place
            .run("UPDATE {t} SET expires_at = 1, lapses_at = 1, retention = 1")
            .await;
        assert!(place.store.look_up(&claim.id).await.unwrap().is_none());
        assert_eq!(place.store.renew(&lease).await.unwrap(), Ownership::Lost);
        let release = place
            .store
            .release(&claim.id, &claim.nonce, Release::MayRunAgain);
        assert_eq!(release.await.unwrap(), Ownership::Lost);
        let mut other = another(&claim);
        other.fingerprint = tower_idempotency::store::Fingerprint::from_bytes([1; 32]);
        let next = place.acquire(&other).await;
        assert_eq!(next.attempt, 1, "state {state}");
        assert!(next.token > lease.token);
    }
    assert_eq!(place.number("SELECT COUNT(*) FROM {t}").await, 5);
}

#[tokio::test]
async fn tokens_grow_though_the_clock_goes_back() {
    let place = Place::new(1).await;
    let first = claim(1);
    place.acquire(&first).await;
    place
        .run("UPDATE {t} SET token = 9007199254740000, state = 5")
        .await;
    let next = place.acquire(&another(&first)).await;
    assert_eq!(next.token.get(), 9_007_199_254_740_001);
    place
        .run("UPDATE {t} SET token = 9007199254740991, state = 5")
        .await;
    let beyond = place.store.claim(&another(&first)).await.unwrap_err();
    assert_eq!(beyond.kind(), StoreErrorKind::Unreadable);
}

#[tokio::test]
async fn a_table_can_be_in_another_database() {
    let place = Place::new(1).await;
    let elsewhere = format!("d{}", place.table);
    run(&place.pool, &format!("CREATE DATABASE {elsewhere}")).await;
    let table = format!("{elsewhere}.{}", place.table);
    let builder = MySqlStore::builder(place.pool.clone()).table(&table);
    builder.migrate().await.unwrap();
    let store = builder.open().await.unwrap();
    let claimed = store.claim(&claim(1)).await.unwrap();
    assert!(matches!(claimed, Claimed::Acquired(_)));
    assert_eq!(place.number("SELECT COUNT(*) FROM {t}").await, 0);
    run(&place.pool, &format!("DROP DATABASE {elsewhere}")).await;
}
