//! These tests check what an application is told if something is missing when it
//! starts.

use std::error::Error;
use std::fmt::Write;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use tower_idempotency::PostgresStore;
use tower_idempotency::store::{
    Claimed, ForgetMode, Outcome, Ownership, RecordState, Release, Store, StoreError,
    StoreErrorKind,
};

use super::{Fresh, acquire, claim_of, fresh, id, options, pool, pool_with, url};

/// Returns everything that a log line could say about the error.
pub(super) fn told(error: &StoreError) -> String {
    let mut told = format!("{error:?}");
    let mut next: Option<&dyn Error> = Some(error);
    while let Some(error) = next {
        write!(told, ": {error}").unwrap();
        next = error.source();
    }
    told
}

async fn refusal(pool: PgPool, table: &str) -> (StoreErrorKind, String) {
    let error = PostgresStore::builder(pool)
        .table(table)
        .open()
        .await
        .unwrap_err();
    (error.kind(), told(&error))
}

async fn is_refused(pool: PgPool, table: &str, because: &[&str]) {
    let (kind, told) = refusal(pool, table).await;
    assert_eq!(kind, StoreErrorKind::Refused, "{told}");
    for part in because {
        assert!(told.contains(part), "{told} has no {part:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_processes_migrate_at_once() {
    for round in 0..3 {
        let schema = fresh("s");
        let table = format!("{schema}.records");
        sqlx::raw_sql(sqlx::AssertSqlSafe(format!("CREATE SCHEMA {schema}")))
            .execute(&mut super::connection().await)
            .await
            .unwrap();
        let level = ["read committed", "repeatable read", "serializable"][round];
        let migrating: Vec<_> = (0..10)
            .map(|_| {
                let options = options().options([("default_transaction_isolation", level)]);
                let builder = PostgresStore::builder(pool_with(options)).table(&table);
                tokio::spawn(async move { builder.migrate().await })
            })
            .collect();
        for migrated in migrating {
            migrated.await.unwrap().unwrap();
        }
        let builder = PostgresStore::builder(pool()).table(&table);
        builder.migrate().await.unwrap();
        let store = builder.open().await.unwrap();
        acquire(&store, &claim_of(id())).await;
    }
}

#[tokio::test]
async fn what_is_missing_is_named_with_its_remedy() {
    let missing = fresh("t");
    is_refused(
        pool(),
        &missing,
        &[&missing, "migrate()", "docs/sql/postgres.sql"],
    )
    .await;
    is_refused(pool(), "nowhere.records", &["nowhere.records", "migrate()"]).await;
    let error = PostgresStore::builder(pool())
        .table("nowhere.records")
        .migrate()
        .await
        .unwrap_err();
    assert!(
        told(&error).contains("\"nowhere\" does not exist"),
        "{}",
        told(&error)
    );

    let fresh = Fresh::new().await;
    fresh
        .run("DROP FUNCTION {t}_renew; DROP TABLE {t}_waiters")
        .await;
    let names = [
        format!("{}_renew()", fresh.table),
        format!("{}_waiters", fresh.table),
    ];
    is_refused(pool(), &fresh.table, &[&names[0], &names[1], "migrate()"]).await;
    // `migrate` creates what is missing.
    PostgresStore::builder(pool())
        .table(&fresh.table)
        .migrate()
        .await
        .unwrap();
    fresh.store().await;
}

#[tokio::test]
async fn a_table_of_another_version_or_of_somebody_else_is_left_alone() {
    let fresh = Fresh::new().await;
    for (comment, because) in [
        ("'tower-idempotency schema 2'", "of schema 2"),
        ("NULL", "not tower-idempotency's"),
    ] {
        fresh
            .run(&format!("COMMENT ON TABLE {{t}} IS {comment}"))
            .await;
        is_refused(pool(), &fresh.table, &[&fresh.table, because]).await;
        let builder = PostgresStore::builder(pool()).table(&fresh.table);
        let error = builder.migrate().await.unwrap_err();
        assert_eq!(error.kind(), StoreErrorKind::Refused);
        assert!(told(&error).contains(because));
    }
}

#[tokio::test]
async fn a_missing_table_later_says_what_to_do() {
    let fresh = Fresh::new().await;
    let store = fresh.store().await;
    acquire(&store, &claim_of(id())).await;
    fresh.run("DROP TABLE {t}").await;
    let error = store.claim(&claim_of(id())).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Refused);
    let told = told(&error);
    assert!(
        told.contains(&fresh.table) && told.contains("migrate()"),
        "{told}"
    );
}

#[tokio::test]
async fn a_role_with_the_rights_that_the_docs_name_can_do_everything() {
    let fresh = Fresh::new().await;
    let role = super::fresh("r");
    fresh.run(&format!("CREATE ROLE {role}")).await;
    let as_role = || pool_with(options().options([("role", &role)]));
    is_refused(
        as_role(),
        &fresh.table,
        &["no right to", "UPDATE on", &fresh.table],
    )
    .await;
    fresh
        .run(&format!(
            "GRANT SELECT, INSERT, UPDATE, DELETE ON {{t}}, {{t}}_renewals, {{t}}_steps, \
             {{t}}_waiters TO {role}"
        ))
        .await;
    // Every process may call `migrate`, also a process without the right to create
    // anything.
    let builder = PostgresStore::builder(as_role()).table(&fresh.table);
    builder.migrate().await.unwrap();
    let store = builder.open().await.unwrap();
    let lease = acquire(&store, &claim_of(id())).await;
    let claim = lease.claim.clone();
    assert_eq!(store.renew(&lease).await.unwrap(), Ownership::Held);
    drop(store.subscribe(&claim.id).await.unwrap());
    let released = store
        .release(&claim.id, &claim.nonce, Release::MayRunAgain)
        .await;
    assert_eq!(released.unwrap(), Ownership::Held);
    let retention = Duration::from_secs(60);
    let lease = acquire(&store, &claim_of(claim.id)).await;
    let completed = store.complete(&lease, &Outcome::Sealed { retention }).await;
    assert_eq!(completed.unwrap(), Ownership::Held);
    store.look_up(&claim.id).await.unwrap();
    store.forget(&claim.id, ForgetMode::Forced).await.unwrap();
    store.purge().await.unwrap();
    drop(store);
    fresh
        .run(&format!("DROP OWNED BY {role}; DROP ROLE {role}"))
        .await;
}

#[tokio::test]
async fn a_read_only_database_is_said_when_the_application_starts_or_later() {
    let fresh = Fresh::new().await;
    let read_only = options().options([("default_transaction_read_only", "on")]);
    is_refused(
        pool_with(read_only.clone()),
        &fresh.table,
        &["read-only", "primary"],
    )
    .await;

    let pool = PgPoolOptions::new()
        .max_connections(1)
        .connect_lazy_with(options());
    let store = fresh.store_on(pool.clone()).await;
    let claim = claim_of(id());
    let lease = acquire(&store, &claim).await;
    // The store makes a new connection, which is read-only as well.
    pool.set_connect_options(read_only);
    sqlx::raw_sql("SET default_transaction_read_only = on")
        .execute(&pool)
        .await
        .unwrap();
    let error = store.claim(&claim_of(id())).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Refused);
    assert!(told(&error).contains("read-only") && told(&error).contains("primary"));
    assert_eq!(
        store.renew(&lease).await.unwrap_err().kind(),
        StoreErrorKind::Refused
    );
    // A claim that needs no writing still works.
    let Claimed::Found(record) = store.claim(&claim_of(claim.id)).await.unwrap() else {
        panic!()
    };
    assert!(matches!(record.state, RecordState::InFlight { .. }));
}

#[tokio::test]
async fn who_can_not_be_reached_is_said_without_a_credential() {
    const PASSWORD: &str = "p4ssw0rd-of-mine";
    let pool = |options: PgConnectOptions| {
        PgPoolOptions::new()
            .acquire_timeout(Duration::from_secs(5))
            .connect_lazy_with(options.password(PASSWORD))
    };
    let given = url();
    let refusals = [
        (options(), StoreErrorKind::Refused, "password"),
        (
            options().username("nobody_knows"),
            StoreErrorKind::Refused,
            "nobody_knows",
        ),
        (options().port(1), StoreErrorKind::NotSent, "refused"),
        (options().host("host.invalid"), StoreErrorKind::NotSent, ""),
    ];
    for (options, expected, because) in refusals {
        let (kind, told) = refusal(pool(options), "t").await;
        assert_eq!(kind, expected, "{told}");
        assert!(told.contains(because), "{told} has no {because:?}");
        assert!(!told.contains(PASSWORD) && !told.contains(&given), "{told}");
    }
    let missing = options().database("no_such_database");
    let (kind, told) = refusal(pool_with(missing), "t").await;
    assert_eq!(kind, StoreErrorKind::Refused, "{told}");
    assert!(
        told.contains("no_such_database") && told.contains("create the database"),
        "{told}"
    );

    let builder = PostgresStore::builder(pool(options()));
    assert!(!format!("{builder:?}").contains(PASSWORD));
    let fresh = Fresh::new().await;
    let store = fresh.store().await;
    let table = &fresh.table;
    let shown = format!("SqlStore {{ database: \"PostgreSQL\", table: Table({table:?}), .. }}");
    assert_eq!(format!("{store:?}"), shown);
}

/// The test looks for the text, which is the same for every invalid name.
#[tokio::test]
async fn a_name_that_is_none_is_refused() {
    let (kind, told) = refusal(pool(), "a; DROP TABLE b").await;
    assert_eq!(kind, StoreErrorKind::Refused, "{told}");
    assert!(told.contains("letters, digits and underscores"), "{told}");
}
