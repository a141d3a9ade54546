//! A table of an earlier version is upgraded while programs of that version use it, and lists are
//! read by indexes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sqlx::{AssertSqlSafe, Row};
use tower_idempotency::PostgresStore;
use tower_idempotency::store::{
    Claimed, ListQuery, Origin, RecordState, RecordedStep, Release, Store, StoreErrorKind,
};

use super::{Fresh, acquire, claim_of, fresh, id, pool};

/// The script of a version before.
const EARLIER: &str = include_str!("revision_2.sql");

const CLAIM: &str =
    "SELECT * FROM {t}_claim($1, $2, $3, 30000000, 3600000000, false, false, false)";

/// What a program of the earlier version does: it claims, and completes.
async fn operate(table: &Fresh, id: &[u8]) {
    let nonce: [u8; 16] = rand::random();
    let row = sqlx::query(table.sql(CLAIM))
        .bind(id)
        .bind(&nonce[..])
        .bind(&[3_u8; 32][..])
        .fetch_one(&table.pool)
        .await
        .unwrap();
    assert!(row.get::<bool, _>("acquired"));
    let complete = "SELECT {t}_complete($1, $2, $3, 1, $4, 3600000000, 3600000000, 200::smallint, \
                    0, 0, 'x', 1, '\\x00')";
    let done: bool = sqlx::query_scalar(table.sql(complete))
        .bind(id)
        .bind(&nonce[..])
        .bind(row.get::<i64, _>("token"))
        .bind(&[3_u8; 32][..])
        .fetch_one(&table.pool)
        .await
        .unwrap();
    assert!(done);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_is_upgraded_while_programs_of_the_earlier_version_use_it() {
    let table = Arc::new(Fresh {
        table: fresh("t"),
        pool: pool(),
        _server: None,
    });
    let script = EARLIER.replace("idempotency_records", &table.table);
    sqlx::raw_sql(AssertSqlSafe(script))
        .execute(&table.pool)
        .await
        .unwrap();
    let old = id();
    operate(&table, old.as_bytes()).await;

    let builder = PostgresStore::builder(table.pool.clone()).table(&table.table);
    let refused = builder.clone().open().await.unwrap_err();
    assert_eq!(refused.kind(), StoreErrorKind::Refused);

    let ends = Arc::new(AtomicBool::new(false));
    let traffic: Vec<_> = (0..3)
        .map(|_| {
            let (table, ends) = (Arc::clone(&table), Arc::clone(&ends));
            tokio::spawn(async move {
                let mut operations = 0;
                while !ends.load(Ordering::Relaxed) {
                    operate(&table, id().as_bytes()).await;
                    operations += 1;
                }
                operations
            })
        })
        .collect();
    // Several new programs start at once.
    let migrations: Vec<_> = (0..3)
        .map(|_| {
            tokio::spawn({
                let builder = builder.clone();
                async move { builder.migrate().await }
            })
        })
        .collect();
    for migration in migrations {
        migration.await.unwrap().unwrap();
    }
    let store = builder.open().await.unwrap();
    let mut claim = claim_of(id());
    claim.origin = Origin::none().route("POST /a");
    assert!(matches!(
        store.claim(&claim).await.unwrap(),
        Claimed::Acquired(_)
    ));
    let valid = "SELECT count(*) FROM pg_index WHERE indrelid = '{t}'::regclass AND indisvalid";
    for _ in 0..100 {
        if table.count(valid).await == 4 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(table.count(valid).await, 4);
    ends.store(true, Ordering::Relaxed);
    for operations in traffic {
        assert!(operations.await.unwrap() > 0);
    }

    let record = store.look_up(&claim.id).await.unwrap().unwrap();
    assert_eq!(record.origin.route.as_deref(), Some("POST /a"));
    let before = store.claim(&claim_of(old)).await;
    // Its answer is none, so that it can't be read; that it is there can be.
    assert_eq!(before.unwrap_err().kind(), StoreErrorKind::Unreadable);
    let mut query = ListQuery::new();
    let listed = loop {
        let page = store.list(&query).await.unwrap();
        if let Some(listed) = page.records.into_iter().find(|record| record.id == old) {
            break listed;
        }
        query = query.cursor(
            page.next
                .expect("a record of the earlier version is listed"),
        );
    };
    assert_eq!((&listed.origin, listed.scope), (&Origin::none(), None));
    assert!(listed.claimed_at.is_some());
    assert!(matches!(record.state, RecordState::InFlight { .. }));
}

/// A program without steps takes over a record with some, and another one completes a record.
#[tokio::test]
async fn a_program_without_steps_leaves_them_to_the_next_attempt() {
    let table = Fresh::new().await;
    let store = table.store().await;
    let mut claim = claim_of(id());
    claim.lease = Duration::from_millis(1);
    let lease = acquire(&store, &claim).await;
    let step = RecordedStep::new("charge", "1");
    store.record_step(&lease, &step).await.unwrap();
    tokio::time::sleep(Duration::from_millis(5)).await;

    let nonce: [u8; 16] = rand::random();
    let take_over = CLAIM.replace("30000000", "1");
    let row = sqlx::query(table.sql(&take_over))
        .bind(&claim.id.as_bytes()[..])
        .bind(&nonce[..])
        .bind(&claim.fingerprint.as_bytes()[..])
        .fetch_one(&table.pool)
        .await
        .unwrap();
    assert_eq!((row.get("acquired"), row.get("attempt")), (true, 2_i64));
    tokio::time::sleep(Duration::from_millis(5)).await;
    let next = acquire(&store, &claim_of(claim.id)).await;
    assert_eq!((next.attempt, &next.steps[..]), (3, &[step][..]));

    let release = store.release(&claim.id, &next.claim.nonce, Release::MayRunAgain);
    release.await.unwrap();
    operate(&table, claim.id.as_bytes()).await;
    assert_eq!(table.count("SELECT count(*) FROM {t}_steps").await, 0);
}

#[tokio::test]
async fn a_page_is_read_by_an_index_without_a_sort() {
    let table = Fresh::new().await;
    table
        .run(
            "INSERT INTO {t} (id, format, state, nonce, token, attempt, fingerprint, lapses_at,
                 retention, expires_at, scope)
             SELECT sha256(n::text::bytea), 1, CASE WHEN n % 100 = 0 THEN 2 ELSE 3 END, '', n, 1,
                 sha256(''), now(), 0, now() + interval '1 hour',
                 sha256((n % 5)::text::bytea)
             FROM generate_series(1, 20000) n",
        )
        .await;
    table.run("ANALYZE {t}").await;
    for (which, index) in [
        ("id > '' ORDER BY id", "_pkey"),
        (
            "state = 2 AND token >= 5 AND (token > 5 OR id > '') ORDER BY token, id",
            "_by_state",
        ),
        (
            "scope = sha256('3') AND token >= 5 AND (token > 5 OR id > '') ORDER BY token, id",
            "_by_scope",
        ),
    ] {
        let explain = format!("EXPLAIN SELECT id FROM {{t}} WHERE {which} LIMIT 500");
        let plan = sqlx::query_scalar(table.sql(&explain));
        let plan: Vec<String> = plan.fetch_all(&table.pool).await.unwrap();
        let plan = plan.join("\n");
        assert!(plan.contains(index) && !plan.contains("Sort"), "{plan}");
    }
}
