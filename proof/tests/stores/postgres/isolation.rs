//! These tests run the store beside transactions that work on a record, and run the
//! store's operations against each other.

use std::time::{Duration, Instant};

use sqlx::{Connection, PgConnection};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tower_idempotency::PostgresStore;
use tower_idempotency::store::RecordId;
use tower_idempotency::store::{
    Claim, Claimed, ForgetMode, Forgotten, Outcome, Ownership, RecordState, Release, Store,
    StoreErrorKind,
};

use super::{Fresh, acquire, claim_of, connection, id, options, pool_with};

const PROMPTLY: Duration = Duration::from_secs(2);

async fn promptly<T>(what: impl Future<Output = T>) -> T {
    timeout(PROMPTLY, what)
        .await
        .expect("it waits for somebody")
}

/// Begins a transaction and changes the record, as a handler's own transaction does
/// when it completes the record.
async fn begin_and_touch(fresh: &Fresh, level: &str, claim: &Claim) -> PgConnection {
    let mut handler = connection().await;
    sqlx::raw_sql(fresh.sql(&format!("BEGIN ISOLATION LEVEL {level}")))
        .execute(&mut handler)
        .await
        .unwrap();
    touch(fresh, &mut handler, claim).await;
    handler
}

async fn touch(fresh: &Fresh, handler: &mut PgConnection, claim: &Claim) {
    let touched =
        sqlx::query(fresh.sql("UPDATE {t} SET status = 200 WHERE id = $1 AND nonce = $2"))
            .bind(&claim.id.as_bytes()[..])
            .bind(&claim.nonce.as_bytes()[..])
            .execute(handler)
            .await
            .unwrap();
    assert_eq!(touched.rows_affected(), 1);
}

#[tokio::test]
async fn a_claim_does_not_wait_behind_a_transaction_that_has_locked_the_record() {
    let fresh = Fresh::new().await;
    let store = fresh.store().await;
    let mut claim = claim_of(id());
    for released in [
        None,
        Some(Release::OutcomeUnknown),
        Some(Release::MayRunAgain),
    ] {
        let owner = acquire(&store, &claim).await.claim;
        if let Some(how) = released {
            store.release(&claim.id, &claim.nonce, how).await.unwrap();
        }
        let handler = begin_and_touch(&fresh, "READ COMMITTED", &owner).await;
        let rival = claim_of(claim.id);
        let claimed = promptly(store.claim(&rival)).await.unwrap();
        let Claimed::Found(record) = claimed else {
            panic!("{claimed:?}")
        };
        let RecordState::InFlight {
            fingerprint,
            lapses_in,
        } = record.state
        else {
            panic!("{record:?}")
        };
        assert_eq!(fingerprint, rival.fingerprint);
        assert_eq!(lapses_in < Duration::from_secs(1), released.is_some());
        handler.close_hard().await.unwrap();
        // The server rolls the transaction back once the server notices the closed
        // connection.
        if released.is_some() {
            loop {
                if let Claimed::Acquired(_) = store.claim(&rival).await.unwrap() {
                    break;
                }
            }
        }
        claim = claim_of(id());
    }
}

#[tokio::test]
async fn a_renewal_neither_waits_for_a_transaction_nor_breaks_it() {
    let fresh = Fresh::new().await;
    let store = fresh.store().await;
    for level in ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"] {
        for touched_first in [false, true] {
            let lease = acquire(&store, &claim_of(id())).await;
            let mut handler = connection().await;
            sqlx::raw_sql(fresh.sql(&format!(
                "BEGIN ISOLATION LEVEL {level}; SELECT count(*) FROM {{t}}"
            )))
            .execute(&mut handler)
            .await
            .unwrap();
            if touched_first {
                touch(&fresh, &mut handler, &lease.claim).await;
            }
            // The first renewal inserts a row, and the second changes that row.
            for _ in 0..2 {
                let tenure = promptly(store.renew(&lease)).await.unwrap();
                assert_eq!(tenure, Ownership::Held);
            }
            touch(&fresh, &mut handler, &lease.claim).await;
            sqlx::raw_sql("COMMIT").execute(&mut handler).await.unwrap();
        }
    }
}

/// Renewals at the last moment meet takeovers at the first moment. An owner that is
/// told `Held` keeps the record for a whole lease from then on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_lease_is_taken_over_before_its_last_renewal_ends() {
    let mut levels = JoinSet::new();
    for level in ["read committed", "repeatable read", "serializable"] {
        let fresh = Fresh::new().await;
        levels.spawn(async move {
            let options = options().options([("default_transaction_isolation", level)]);
            let store = fresh.store_on(pool_with(options)).await;
            for round in 0..50 {
                renew_until_taken_over(&store, round).await;
            }
        });
    }
    levels.join_all().await;
}

async fn renew_until_taken_over(store: &PostgresStore, round: u64) {
    const LEASE: Duration = Duration::from_millis(30);
    let mut claim = claim_of(id());
    claim.lease = LEASE;
    let claimed = Instant::now();
    let lease = acquire(store, &claim).await;
    let owner = async {
        let mut last = claimed;
        // The first renewal comes well before the lease ends, and each later
        // renewal comes closer to the end.
        for late in 0..8 {
            let pause = Duration::from_micros(27_000 + late * 400 + round * 10);
            tokio::time::sleep_until((last + pause).into()).await;
            let sent = Instant::now();
            match store.renew(&lease).await {
                Ok(Ownership::Held) => last = sent,
                Ok(Ownership::Lost) => break,
                Err(error) => assert_eq!(error.kind(), StoreErrorKind::Contention),
            }
        }
        last
    };
    let rival = async {
        let mut rival = claim_of(claim.id);
        rival.lease = Duration::from_secs(30);
        tokio::time::sleep(Duration::from_micros(round * 100)).await;
        loop {
            match store.claim(&rival).await {
                Ok(Claimed::Acquired(_)) => return Instant::now(),
                Ok(_) => {}
                Err(error) => assert_eq!(error.kind(), StoreErrorKind::Contention),
            }
        }
    };
    let (renewed, taken) = tokio::join!(owner, rival);
    assert!(
        taken >= renewed + LEASE,
        "taken over {:?} after a renewal for {LEASE:?} was sent",
        taken.duration_since(renewed)
    );
    assert_eq!(store.renew(&lease).await.unwrap(), Ownership::Lost);
}

/// One statement that inserts or else selects may do neither: the row with which
/// the insert collides was not committed when the statement began.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_claim_of_a_race_gets_an_answer() {
    for level in ["read committed", "repeatable read", "serializable"] {
        let fresh = Fresh::new().await;
        let options = options().options([("default_transaction_isolation", level)]);
        let store = fresh.store_on(pool_with(options)).await;
        for _ in 0..60 {
            assert_eq!(race(&store, id()).await, 1);
        }
    }
}

/// Returns how many of eight claims acquire the record.
async fn race(store: &PostgresStore, id: RecordId) -> u32 {
    let racing: Vec<_> = (0..8)
        .map(|_| {
            let store = store.clone();
            tokio::spawn(async move { store.claim(&claim_of(id)).await })
        })
        .collect();
    let mut acquired = 0;
    for claimed in racing {
        match claimed.await.unwrap().unwrap() {
            Claimed::Acquired(_) => acquired += 1,
            Claimed::Found(record) => {
                assert!(matches!(record.state, RecordState::InFlight { .. }));
            }
            other => panic!("{other:?}"),
        }
    }
    acquired
}

/// The server returns the result of a call before the server commits the call.
#[tokio::test]
async fn what_fails_at_its_commit_was_not_stored() {
    let fresh = Fresh::new().await;
    let store = fresh.store().await;
    let lease = acquire(&store, &claim_of(id())).await;
    fresh
        .run(
            "CREATE FUNCTION {t}_no() RETURNS trigger LANGUAGE plpgsql AS \
             $$ BEGIN RAISE 'no' USING ERRCODE = 'disk_full'; END $$; \
             CREATE CONSTRAINT TRIGGER no AFTER UPDATE ON {t} DEFERRABLE INITIALLY DEFERRED \
             FOR EACH ROW EXECUTE FUNCTION {t}_no()",
        )
        .await;
    let sealed = Outcome::Sealed {
        retention: Duration::from_secs(60),
    };
    let error = store.complete(&lease, &sealed).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Refused);
    fresh.run("DROP TRIGGER no ON {t}").await;
    assert_eq!(
        store.complete(&lease, &sealed).await.unwrap(),
        Ownership::Held
    );
}

/// The store must notice a renewal that commits while another session waits to
/// remove the record, at every isolation level.
#[tokio::test]
async fn a_record_that_is_renewed_just_now_is_not_forgotten() {
    let fresh = Fresh::new().await;
    for level in ["read committed", "repeatable read", "serializable"] {
        let options = options().options([("default_transaction_isolation", level)]);
        let store = fresh.store_on(pool_with(options)).await;
        let claim = claim_of(id());
        let lease = acquire(&store, &claim).await;
        fresh
            .run(&format!(
                "UPDATE {{t}} SET lapses_at = clock_timestamp() - interval '1 s'
                  WHERE token = {}",
                lease.token.get()
            ))
            .await;
        let mut owner = connection().await;
        sqlx::raw_sql("BEGIN").execute(&mut owner).await.unwrap();
        sqlx::query(fresh.sql("SELECT {t}_renew($1, $2, 30000000)"))
            .bind(&claim.id.as_bytes()[..])
            .bind(&claim.nonce.as_bytes()[..])
            .execute(&mut owner)
            .await
            .unwrap();
        let forgetting = store.clone();
        let forgetting =
            tokio::spawn(
                async move { forgetting.forget(&claim.id, ForgetMode::UnlessAlive).await },
            );
        // This loop ends when the other session waits for the row.
        while fresh
            .count(
                "SELECT count(*) FROM pg_stat_activity
                  WHERE wait_event_type = 'Lock' AND query LIKE '%{t}_forget%'",
            )
            .await
            == 0
        {
            assert!(!forgetting.is_finished(), "{:?}", forgetting.await);
        }
        sqlx::raw_sql("COMMIT").execute(&mut owner).await.unwrap();
        let forgotten = promptly(forgetting).await.unwrap().unwrap();
        assert_eq!(forgotten, Forgotten::InFlight, "{level}");
        assert_eq!(
            store.renew(&lease).await.unwrap(),
            Ownership::Held,
            "{level}"
        );
    }
}

/// A renewal belongs to one acquisition, and not to a nonce.
#[tokio::test]
async fn what_is_left_of_renewals_shortens_no_later_lease() {
    let fresh = Fresh::new().await;
    let store = fresh.store().await;
    let claim = claim_of(id());
    let lease = acquire(&store, &claim).await;
    assert_eq!(store.renew(&lease).await.unwrap(), Ownership::Held);
    let brief = Outcome::Sealed {
        retention: Duration::from_micros(1),
    };
    store.complete(&lease, &brief).await.unwrap();
    fresh
        .run("UPDATE {t}_renewals SET lapses_at = 'epoch'")
        .await;
    assert_eq!(acquire(&store, &claim).await.attempt, 1);
    let rival = store.claim(&claim_of(claim.id)).await.unwrap();
    let Claimed::Found(record) = rival else {
        panic!("two owners: {rival:?}")
    };
    assert!(matches!(record.state, RecordState::InFlight { .. }));
}
