use std::time::Duration;

use sqlx::ConnectOptions;
use sqlx::mysql::MySqlPoolOptions;
use tower_idempotency::MySqlStore;
use tower_idempotency::store::{Store, StoreErrorKind};

use super::{Place, claim, table, url};
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

    // A migration that fails in the middle has its connection closed.
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
    let sql = include_str!("../../../docs/sql/mysql.sql").replace("idempotency_records", &table);
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
