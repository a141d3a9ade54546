//! A table of an earlier version is upgraded while programs of that version use it, and lists are
//! read by indexes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sqlx::mysql::MySqlPoolOptions;
use sqlx::{AssertSqlSafe, Row};
use tower_idempotency::MySqlStore;
use tower_idempotency::store::{
    Claim, Claimed, Fingerprint, ForgetMode, Forgotten, Lease, ListQuery, ListedState, Nonce,
    Origin, Ownership, RecordId, Store,
};

use super::{Place, claim, run, table, url};
use crate::steps::{lease_of, step_claim, two_steps};

const HOUR: Duration = Duration::from_secs(3600);

/// The script of the version before.
const EARLIER: &str = include_str!("earlier.sql");
/// What a later version without steps makes besides.
const BEFORE_STEPS: &str = include_str!("before_steps.sql");

/// Runs the script for this table, as a program of the earlier version does at each start.
async fn migrate_earlier(pool: &sqlx::MySqlPool, table: &str) {
    migrate_by(EARLIER, pool, table).await;
}

async fn migrate_by(script: &str, pool: &sqlx::MySqlPool, table: &str) {
    let (_, text) = script.split_once("\nDELIMITER //\n").unwrap();
    let (text, _) = text.split_once("\nDELIMITER ;\n").unwrap();
    for statement in text.split("\n//\n").filter(|text| !text.trim().is_empty()) {
        run(pool, &statement.replace("idempotency_records", table)).await;
    }
}

/// What a program of the earlier version does.
async fn operate(pool: &sqlx::MySqlPool, table: &str, id: &[u8; 32]) -> i64 {
    let call = format!("CALL {table}_claim(?, ?, ?, 1, 3600000000, 0, 1, 0)");
    let nonce: [u8; 16] = rand::random();
    loop {
        let called = sqlx::query(AssertSqlSafe(call.clone()))
            .bind(&id[..])
            .bind(&nonce[..])
            .bind(&[0; 32][..])
            .fetch_all(pool)
            .await;
        match called {
            Ok(rows) => return rows[0].get("outcome"),
            // The table has changed since the snapshot of the transaction: it is tried again.
            Err(error) => assert!(error.to_string().contains("1412"), "{error}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_is_upgraded_while_programs_of_the_earlier_version_use_it() {
    let pool = MySqlPoolOptions::new().max_connections(8);
    let pool = pool.connect_with(url()).await.unwrap();
    let table = table();
    migrate_earlier(&pool, &table).await;
    assert_eq!(operate(&pool, &table, &[9; 32]).await, 1);
    let ends = Arc::new(AtomicBool::new(false));
    let traffic: Vec<_> = (0..3)
        .map(|_| {
            let (pool, table, ends) = (pool.clone(), table.clone(), Arc::clone(&ends));
            tokio::spawn(async move {
                let mut operations = 0;
                while !ends.load(Ordering::Relaxed) {
                    operate(&pool, &table, &rand::random()).await;
                    operations += 1;
                }
                operations
            })
        })
        .collect();
    // The columns and the indexes come while others write.
    for add in [
        "ADD COLUMN scope BINARY(32) NULL, ADD COLUMN route VARBINARY(255) NULL, \
         ADD COLUMN trace VARBINARY(55) NULL, ADD COLUMN origin_of BIGINT NULL, ALGORITHM=INSTANT",
        "ADD KEY by_state (state, token), ALGORITHM=INPLACE, LOCK=NONE",
        "ADD KEY by_scope (scope, token), ALGORITHM=INPLACE, LOCK=NONE",
    ] {
        run(&pool, &format!("ALTER TABLE {table} {add}")).await;
    }
    ends.store(true, Ordering::Relaxed);
    for operations in traffic {
        assert!(operations.await.unwrap() > 0);
    }

    let builder = MySqlStore::builder(pool.clone()).table(&table);
    builder.migrate().await.unwrap();
    let store = builder.open().await.unwrap();
    let mut own = claim(1);
    own.origin = Origin::none().route("POST /a");
    own.fingerprint = Fingerprint::from_bytes([0; 32]);
    own.lease = Duration::from_millis(1);
    assert!(matches!(
        store.claim(&own).await.unwrap(),
        Claimed::Acquired(_)
    ));
    let look_up = async || store.look_up(&own.id).await.unwrap().unwrap();
    assert_eq!(look_up().await.origin, own.origin);

    // A program of the earlier version starts again, puts its procedures back, and takes over.
    migrate_earlier(&pool, &table).await;
    tokio::time::sleep(Duration::from_millis(5)).await;
    assert_eq!(operate(&pool, &table, own.id.as_bytes()).await, 1);
    let page = store.list(&ListQuery::new()).await.unwrap();
    let listed = page.records.iter().find(|record| record.id == own.id);
    assert_eq!(
        listed.map(|record| (record.attempt, &record.origin)),
        Some((2, &Origin::none()))
    );
    assert_eq!(look_up().await.origin, Origin::none());
    assert!(matches!(
        store.claim(&claim(2)).await.unwrap(),
        Claimed::Acquired(_)
    ));
}

/// The names and arguments that each version calls are there, whichever of the two migrated last.
#[tokio::test]
async fn programs_of_both_versions_forget_whichever_migrated_last() {
    let pool = MySqlPoolOptions::new().max_connections(2);
    let pool = pool.connect_with(url()).await.unwrap();
    let table = table();
    let builder = MySqlStore::builder(pool.clone()).table(&table);
    builder.migrate().await.unwrap();
    let store = builder.open().await.unwrap();
    for last in ["this version", "the version before"] {
        if last == "the version before" {
            migrate_earlier(&pool, &table).await;
        }
        let id = rand::random::<[u8; 32]>();
        assert_eq!(operate(&pool, &table, &id).await, 1, "{last}");
        let forget = format!("CALL {table}_forget(?, 1)");
        let forgotten = sqlx::query(AssertSqlSafe(forget)).bind(&id[..]);
        let forgotten = forgotten.fetch_one(&pool).await.expect(last);
        assert_eq!(forgotten.get::<i64, _>("outcome"), 1, "{last}");

        let own = claim(3);
        let claimed = store.claim(&own).await.unwrap();
        assert!(matches!(claimed, Claimed::Acquired(_)), "{last}");
        let mut version = store.look_up(&own.id).await.unwrap().unwrap().version();
        version.attempt += 1;
        let forget = async |mode| store.forget(&own.id, mode).await.expect(last);
        let moved = forget(ForgetMode::ForcedUnchanged(version)).await;
        assert_eq!(moved, Forgotten::Moved, "{last}");
        assert_eq!(forget(ForgetMode::UnlessAlive).await, Forgotten::InFlight);
        version.attempt -= 1;
        let gone = forget(ForgetMode::ForcedUnchanged(version)).await;
        assert_eq!(gone, Forgotten::Gone, "{last}");
    }
}

/// A program without steps takes over a record with some, whichever of the two migrated last, and
/// another one completes a record.
#[tokio::test]
async fn a_program_without_steps_leaves_them_to_the_next_attempt() {
    let pool = MySqlPoolOptions::new().max_connections(2);
    let pool = pool.connect_with(url()).await.unwrap();
    let table = table();
    let builder = MySqlStore::builder(pool.clone()).table(&table);
    builder.migrate().await.unwrap();
    let store = builder.open().await.unwrap();
    for last in ["this version", "the version before"] {
        if last == "the version before" {
            migrate_earlier(&pool, &table).await;
        }
        let mut own = step_claim(RecordId::from_bytes(rand::random()));
        own.fingerprint = Fingerprint::from_bytes([0; 32]);
        own.lease = Duration::from_millis(1);
        let lease = lease_of(&store, &own).await;
        for step in two_steps() {
            store.record_step(&lease, &step).await.unwrap();
        }
        let lapse = async || tokio::time::sleep(Duration::from_millis(5)).await;
        lapse().await;
        assert_eq!(operate(&pool, &table, own.id.as_bytes()).await, 1, "{last}");
        lapse().await;
        own.nonce = Nonce::random();
        let next = lease_of(&store, &own).await;
        assert_eq!(next.attempt, 3, "{last}");
        assert_eq!(next.steps, two_steps(), "{last}");
        let completed = store.complete(&next, &super::paid("done")).await.unwrap();
        assert_eq!(completed, Ownership::Held);
        let count = format!("SELECT COUNT(*) FROM {table}_steps");
        let left: i64 = sqlx::query_scalar(AssertSqlSafe(count))
            .fetch_one(&pool)
            .await
            .unwrap();
        assert_eq!(left, 0, "{last}");
    }
}

/// An operation with steps, of whose record a program without steps disposes while its own
/// procedures are there.
struct Mixed {
    place: Place,
    own: Claim,
}

impl Mixed {
    /// Records a step. `retention` is that of the operation.
    async fn begin(retention: Duration) -> Self {
        let place = Place::new(2).await;
        migrate_by(BEFORE_STEPS, &place.pool, &place.table).await;
        let mut own = step_claim(RecordId::from_bytes(rand::random()));
        own.fingerprint = Fingerprint::from_bytes([0; 32]);
        (own.lease, own.retention) = (Duration::from_millis(1), retention);
        let lease = lease_of(&place.store, &own).await;
        place
            .store
            .record_step(&lease, &two_steps()[0])
            .await
            .unwrap();
        Self { place, own }
    }

    async fn claim(&mut self) -> Lease {
        tokio::time::sleep(Duration::from_millis(5)).await;
        self.own.nonce = Nonce::random();
        lease_of(&self.place.store, &self.own).await
    }

    /// Claims as the program without steps does.
    async fn claim_before_steps(&self) {
        tokio::time::sleep(Duration::from_millis(5)).await;
        let nonce: [u8; 16] = rand::random();
        let call = "CALL {t}_claim_v2(?, ?, ?, 1, 3600000000, 0, 1, 0, NULL, NULL, NULL)";
        let row = sqlx::query(AssertSqlSafe(self.place.sql(call)))
            .bind(&self.own.id.as_bytes()[..])
            .bind(&nonce[..])
            .bind(&[0; 32][..])
            .fetch_one(&self.place.pool);
        assert_eq!(row.await.unwrap().get::<i64, _>("outcome"), 1);
    }

    async fn call_before_steps(&self, call: &str) {
        let call = call.replace("{id}", &format!("x'{}'", self.own.id));
        self.place.run(&call).await;
    }

    async fn steps(&self) -> i64 {
        self.place.number("SELECT COUNT(*) FROM {t}_steps").await
    }
}

/// Two attempts of an operation of the same key and body, after another one with steps.
async fn the_next_operation_has_no_steps(mixed: &mut Mixed, attempts: [u64; 2]) {
    for attempt in attempts {
        let lease = mixed.claim().await;
        assert_eq!((lease.attempt, lease.steps.len()), (attempt, 0));
    }
    assert!(mixed.place.store.purge().await.is_ok());
    assert_eq!(mixed.steps().await, 0);
}

#[tokio::test]
async fn no_later_operation_gets_steps_of_a_record_that_was_forgotten() {
    let mixed = Mixed::begin(HOUR).await;
    let forgotten = mixed.place.store.forget(&mixed.own.id, ForgetMode::Forced);
    assert_eq!(forgotten.await.unwrap(), Forgotten::Gone);
    assert_eq!(mixed.steps().await, 0);

    for forget in [
        "CALL {t}_forget_v2({id}, 1, NULL, NULL, NULL)",
        "CALL {t}_forget({id}, 1)",
    ] {
        let mut mixed = Mixed::begin(HOUR).await;
        mixed.call_before_steps(forget).await;
        // The record may be made anew by either program.
        mixed.claim_before_steps().await;
        the_next_operation_has_no_steps(&mut mixed, [2, 3]).await;

        let mut mixed = Mixed::begin(HOUR).await;
        mixed.call_before_steps(forget).await;
        the_next_operation_has_no_steps(&mut mixed, [1, 2]).await;
    }
}

#[tokio::test]
async fn no_later_operation_gets_steps_of_a_record_that_was_past_its_end() {
    let mut mixed = Mixed::begin(Duration::from_millis(1)).await;
    mixed.claim_before_steps().await;
    mixed.own.retention = HOUR;
    the_next_operation_has_no_steps(&mut mixed, [2, 3]).await;

    let mut mixed = Mixed::begin(Duration::from_millis(1)).await;
    tokio::time::sleep(Duration::from_millis(5)).await;
    mixed.call_before_steps("CALL {t}_purge(500)").await;
    mixed.own.retention = HOUR;
    the_next_operation_has_no_steps(&mut mixed, [1, 2]).await;

    // By hand, too.
    let mut mixed = Mixed::begin(Duration::from_millis(1)).await;
    mixed.claim_before_steps().await;
    let found = mixed.place.store.look_up(&mixed.own.id).await.unwrap();
    mixed.own.by_hand = Some(found.unwrap().version());
    mixed.own.retention = HOUR;
    let lease = mixed.claim().await;
    assert_eq!((lease.attempt, lease.steps.len()), (2, 0));
}

/// A table of before gets columns and indexes from `migrate` too.
#[tokio::test]
async fn a_table_of_before_is_migrated_as_it_is() {
    let pool = MySqlPoolOptions::new().max_connections(2);
    let pool = pool.connect_with(url()).await.unwrap();
    let table = table();
    migrate_earlier(&pool, &table).await;
    assert_eq!(operate(&pool, &table, &[9; 32]).await, 1);
    let builder = MySqlStore::builder(pool).table(&table);
    builder.migrate().await.unwrap();
    let store = builder.open().await.unwrap();
    let query = ListQuery::new().state(ListedState::Lapsed);
    assert_eq!(store.list(&query).await.unwrap().records.len(), 1);
}

#[tokio::test]
async fn a_page_reads_few_records_of_many() {
    let place = Place::new(1).await;
    place
        .run(
            "INSERT INTO {t} (id, format, state, nonce, token, attempt, fingerprint, lapses_at,
                 retention, expires_at, scope)
             VALUES (UNHEX(SHA2('0', 256)), 1, 3, '', 1, 1, '', 0, 0, {now} + 3600000000, '')",
        )
        .await;
    for doubled in 1..15 {
        let more = "INSERT INTO {t} (id, format, state, nonce, token, attempt, fingerprint,
                 lapses_at, retention, expires_at, scope)
             SELECT UNHEX(SHA2(CONCAT(token, '-D'), 256)), 1, IF(token % 100 = 1, 2, 3), '',
                 token + (SELECT MAX(token) FROM {t}), 1, '', 0, 0, expires_at,
                 UNHEX(SHA2(token % 50, 256)) FROM {t}";
        place.run(&more.replace("-D", &format!("-{doubled}"))).await;
    }
    let reads = "SELECT SUM(variable_value) FROM information_schema.session_status \
                 WHERE variable_name IN ('HANDLER_READ_NEXT', 'HANDLER_READ_KEY', \
                     'HANDLER_READ_FIRST', 'HANDLER_READ_RND_NEXT')";
    for query in [
        ListQuery::new(),
        ListQuery::new().state(ListedState::Unknown),
        ListQuery::new().scope(claim(1).scope),
    ] {
        let before: f64 = sqlx::query_scalar(reads)
            .fetch_one(&place.pool)
            .await
            .unwrap();
        place.store.list(&query).await.unwrap();
        let after: f64 = sqlx::query_scalar(reads)
            .fetch_one(&place.pool)
            .await
            .unwrap();
        assert!(after - before < 6000.0, "{query:?}: {}", after - before);
    }
}
