use std::time::Duration;

use sqlx::ConnectOptions;
use sqlx::mysql::MySqlPoolOptions;
use tower_idempotency::MySqlStore;
use tower_idempotency::store::{Store, StoreErrorKind};

use super::{Place, claim, table, url};
use crate::log::Log;
use crate::mysql::refusals::text;

#[tokio::test(flavor = "multi_thread")]
async fn ten_processes_migrate_at_once() {
    let table = table();
    let tasks: Vec<_> = (0..10)
        .map(|_| {
            let table = table.clone();
            tokio::spawn(async move {
                let pool = MySqlPoolOptions::new().max_connections(2);
                let pool = pool.connect_with(url()).await.unwrap();
                let builder = MySqlStore::builder(pool).table(table);
                builder.migrate().await.unwrap();
                builder.open().await.unwrap()
            })
        })
        .collect();
    for task in tasks {
        let store = task.await.unwrap();
        store.claim(&claim(1)).await.unwrap();
    }
}

#[tokio::test]
async fn what_a_crash_left_half_done_is_mended() {
    let place = Place::new(1).await;
    let builder = || MySqlStore::builder(place.pool.clone()).table(&place.table);
    for lost in [
        "DROP PROCEDURE {t}_purge",
        "DROP PROCEDURE {t}_hold; DROP PROCEDURE {t}_claim; DROP PROCEDURE {t}_purge",
        "DROP TABLE {t}_renewals",
        "DROP TABLE {t}; DROP PROCEDURE {t}_renew",
    ] {
        place.run(lost).await;
        let error = builder().open().await.unwrap_err();
        assert_eq!(error.kind(), StoreErrorKind::Refused);
        assert!(text(&error).contains("migrate()"), "{}", text(&error));
        builder().migrate().await.unwrap();
        builder().open().await.unwrap();
    }
}

/// Replaces the purge by a procedure with this comment, whose result the store
/// cannot read.
async fn stand_in(place: &Place, comment: &str) {
    let procedure = "DROP PROCEDURE {t}_purge_v2; \
                     CREATE PROCEDURE {t}_purge_v2 (IN p INT) COMMENT 'COMMENT' SELECT -1 AS removed";
    place.run(&procedure.replace("'COMMENT'", comment)).await;
}

#[tokio::test]
async fn procedures_of_another_text_are_told_and_replaced() {
    let place = Place::new(1).await;
    let builder = || MySqlStore::builder(place.pool.clone()).table(&place.table);
    let opened = async || {
        let log = Log::default();
        let _listening = log.listen();
        builder().open().await.unwrap();
        log.text()
    };
    assert!(!opened().await.contains("WARN"));
    place.acquire(&claim(1)).await;

    for comment in [
        "'tower-idempotency 1'",
        "'tower-idempotency 1 0123456789abcdef'",
    ] {
        stand_in(&place, comment).await;
        let said = opened().await;
        assert!(said.contains("WARN"), "{said}");
        assert!(said.contains("migrate()"), "{said}");
        place.store.purge().await.unwrap_err();

        builder().migrate().await.unwrap();
        assert!(!opened().await.contains("WARN"));
        assert_eq!(place.store.purge().await.unwrap(), 0);
        place.store.look_up(&claim(1).id).await.unwrap().unwrap();
    }

    for comment in ["'tower-idempotency 10'", "'tower-idempotency 2 0123'", "''"] {
        stand_in(&place, comment).await;
        for error in [
            builder().migrate().await.unwrap_err(),
            builder().open().await.unwrap_err(),
        ] {
            assert_eq!(error.kind(), StoreErrorKind::Refused);
            assert!(text(&error).contains("_purge"), "{}", text(&error));
        }
    }
}

#[tokio::test]
async fn procedures_of_this_text_are_left_alone() {
    let place = Place::new(1).await;
    let query = "SELECT CONCAT(\"'\", CAST(routine_comment AS CHAR), \"'\") \
                 FROM information_schema.routines \
                 WHERE routine_schema = DATABASE() AND routine_name = '{t}_claim'";
    let comment: String = sqlx::query_scalar(sqlx::AssertSqlSafe(place.sql(query)))
        .fetch_one(&place.pool)
        .await
        .unwrap();
    stand_in(&place, &comment).await;
    let builder = MySqlStore::builder(place.pool.clone()).table(&place.table);
    builder.migrate().await.unwrap();
    place.store.purge().await.unwrap_err();
}

/// A migration drops each procedure for a moment.
#[tokio::test(flavor = "multi_thread")]
async fn calls_outlast_a_procedure_that_is_being_replaced() {
    let place = Place::new(4).await;
    let builder = || MySqlStore::builder(place.pool.clone()).table(&place.table);
    let store = place.store.clone();
    let (end, mut ended) = tokio::sync::oneshot::channel::<()>();
    let calls = tokio::spawn(async move {
        while ended.try_recv().is_err() {
            store.look_up(&claim(1).id).await.unwrap();
            store.claim(&claim(1)).await.unwrap();
        }
    });
    for _ in 0..20 {
        stand_in(&place, "'tower-idempotency 1'").await;
        builder().migrate().await.unwrap();
    }
    end.send(()).unwrap();
    calls.await.unwrap();
}

#[tokio::test]
async fn a_migration_keeps_records_and_leaves_neither_lock_nor_settings() {
    let place = Place::new(1).await;
    place.acquire(&claim(1)).await;
    let mode = "SELECT CHAR_LENGTH(@@SESSION.sql_mode)";
    let before = place.number(mode).await;
    let builder = MySqlStore::builder(place.pool.clone()).table(&place.table);
    builder.migrate().await.unwrap();
    assert_eq!(place.number(mode).await, before);
    assert_eq!(place.number("SELECT COUNT(*) FROM {t}").await, 1);

    // When a migration fails in the middle, the store closes the migration's
    // connection.
    place
        .run("DROP PROCEDURE {t}_purge; ALTER TABLE {t} COMMENT = 'another 7'")
        .await;
    let error = builder.migrate().await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Refused);
    assert!(text(&error).contains("another 7"), "{}", text(&error));
    for _ in 0..100 {
        let free = "SELECT IS_FREE_LOCK('tower-idempotency migration')";
        if place.number(free).await == 1 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("the lock is kept");
}

#[tokio::test]
async fn the_published_text_runs_in_the_client_program() {
    let place = Place::new(1).await;
    let options = url();
    let table = table();
    let sql = include_str!("../../../../docs/sql/mysql.sql").replace("idempotency_records", &table);
    let url = options.to_url_lossy();
    let mut program = tokio::process::Command::new("mariadb");
    program
        .env("MYSQL_PWD", url.password().unwrap_or_default())
        .arg("--no-defaults")
        .arg(format!("--host={}", options.get_host()))
        .arg(format!("--port={}", options.get_port()))
        .arg("--protocol=tcp")
        .arg(format!("--user={}", options.get_username()))
        .arg(options.get_database().unwrap());
    let mut run = program.stdin(std::process::Stdio::piped()).spawn().unwrap();
    let mut stdin = run.stdin.take().unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut stdin, sql.as_bytes())
        .await
        .unwrap();
    drop(stdin);
    assert!(run.wait().await.unwrap().success());
    let store = MySqlStore::builder(place.pool.clone()).table(&table);
    store.open().await.unwrap();
}
