use std::error::Error;
use std::time::Duration;

use sqlx::MySqlPool;
use sqlx::mysql::{MySqlConnectOptions, MySqlPoolOptions};
use tower_idempotency::MySqlStore;
use tower_idempotency::store::{Store, StoreError, StoreErrorKind};

use super::{Place, claim, run, table, url};
use crate::nobody::nobody;

const PASSWORD: &str = "s3cret-pass";

/// Returns everything that a log line would say about the error.
pub(crate) fn text(error: &StoreError) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    assert!(!text.contains(PASSWORD), "{text}");
    assert!(!format!("{error:?}").contains(PASSWORD), "{error:?}");
    text
}

fn lazy(options: MySqlConnectOptions) -> MySqlPool {
    let pool = MySqlPoolOptions::new().acquire_timeout(Duration::from_secs(3));
    pool.connect_lazy_with(options)
}

async fn refused(pool: MySqlPool, table: &str, kind: StoreErrorKind, words: &[&str]) {
    let builder = MySqlStore::builder(pool).table(table);
    assert!(!format!("{builder:?}").contains(PASSWORD));
    let error = builder.open().await.unwrap_err();
    let text = text(&error);
    assert_eq!(error.kind(), kind, "{text}");
    for word in words {
        assert!(text.contains(word), "{word}: {text}");
    }
}

#[tokio::test]
async fn what_cannot_be_reached_is_said_when_the_store_is_opened() {
    let wrong = url().username("nobody-here").password(PASSWORD);
    let said = ["Access denied", "mend user and password"];
    refused(lazy(wrong), "t", StoreErrorKind::Refused, &said).await;
    let wrong = url().database("no_such_database");
    let said = ["no_such_database", "create the database"];
    refused(lazy(wrong), "t", StoreErrorKind::Refused, &said).await;
    let wrong = url().port(nobody().port()).password(PASSWORD);
    refused(lazy(wrong), "t", StoreErrorKind::NotSent, &["reached"]).await;
}

#[tokio::test]
async fn a_table_that_is_not_ours_is_named() {
    let place = Place::new(1).await;
    let pool = || place.pool.clone();
    let missing = table();
    let said = [missing.as_str(), "migrate()", "docs/sql/mysql.sql"];
    refused(pool(), &missing, StoreErrorKind::Refused, &said).await;
    refused(pool(), "no name", StoreErrorKind::Refused, &["no name"]).await;

    place
        .run("ALTER TABLE {t} COMMENT = 'tower-idempotency 2'")
        .await;
    let said = [place.table.as_str(), "`tower-idempotency 2`"];
    refused(pool(), &place.table, StoreErrorKind::Refused, &said).await;

    // The table existed when the store was opened.
    place.run("DROP TABLE {t}").await;
    let error = place.store.claim(&claim(1)).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Refused);
    assert!(text(&error).contains("migrate()"), "{}", text(&error));
    place.run("DROP PROCEDURE {t}_claim").await;
    let error = place.store.claim(&claim(1)).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Refused);
    assert!(text(&error).contains("migrate()"), "{}", text(&error));
}

#[tokio::test]
async fn a_user_or_a_session_that_may_not_write_is_told_so() {
    let place = Place::new(2).await;
    let user = place.table.clone();
    for statement in [
        format!("CREATE USER {user} IDENTIFIED BY '{PASSWORD}'"),
        format!("GRANT SELECT, EXECUTE ON *.* TO {user}"),
    ] {
        run(&place.pool, &statement).await;
    }
    let reader = url().username(&user).password(PASSWORD);
    let said = ["denied", "docs/stores.md"];
    refused(lazy(reader), &place.table, StoreErrorKind::Refused, &said).await;

    let reader = MySqlPoolOptions::new().after_connect(|connection, _| {
        Box::pin(async move {
            let set = "SET SESSION TRANSACTION READ ONLY";
            sqlx::raw_sql(set).execute(connection).await?;
            Ok(())
        })
    });
    let reader = reader.connect_lazy_with(url());
    let said = ["read-only: connect to the primary"];
    refused(reader, &place.table, StoreErrorKind::Refused, &said).await;
    run(&place.pool, &format!("DROP USER {user}")).await;
}

#[tokio::test]
async fn the_rights_that_the_docs_list_are_enough() {
    let place = Place::new(2).await;
    let user = format!("u{}", place.table);
    let database = url().get_database().unwrap().to_owned();
    for statement in [
        format!("CREATE USER {user} IDENTIFIED BY '{PASSWORD}'"),
        format!(
            "GRANT SELECT, INSERT, UPDATE, DELETE ON {database}.{} TO {user}",
            place.table
        ),
        format!(
            "GRANT SELECT, INSERT, UPDATE, DELETE ON {database}.{}_renewals TO {user}",
            place.table
        ),
        format!(
            "GRANT SELECT, INSERT, UPDATE, DELETE ON {database}.{}_steps TO {user}",
            place.table
        ),
        format!("GRANT EXECUTE ON {database}.* TO {user}"),
    ] {
        run(&place.pool, &statement).await;
    }
    let pool = lazy(url().username(&user).password(PASSWORD));
    let store = MySqlStore::builder(pool).table(&place.table).open().await;
    let store = store.unwrap();
    store.claim(&claim(1)).await.unwrap();
    store.purge().await.unwrap();
    assert!(!format!("{store:?}").contains(PASSWORD));
    run(&place.pool, &format!("DROP USER {user}")).await;
}
