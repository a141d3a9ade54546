//! These tests open a store, and check what it creates, what it verifies, and what
//! it reports.

use std::error::Error;
use std::fs;
use std::path::Path;
use std::time::Duration;

use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use tower_idempotency::SqliteStore;
use tower_idempotency::store::{
    AnyStore, ListQuery, Origin, RecordState, Store, StoreError, StoreErrorKind,
};

use super::{Directory, acquire, answer, claim, connect, id, pool_of};
use crate::log::Log;

/// Returns the kind of an error, and everything that the error says.
fn told(error: StoreError) -> (StoreErrorKind, String) {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    (error.kind(), text)
}

fn says(error: StoreError, kind: StoreErrorKind, words: &[&str]) {
    let (actual, text) = told(error);
    assert_eq!(actual, kind, "{text}");
    for word in words {
        assert!(text.contains(word), "`{word}` is not in: {text}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn any_number_of_processes_can_make_the_tables_at_once() {
    for _ in 0..5 {
        let directory = Directory::new();
        let mut opening = tokio::task::JoinSet::new();
        for _ in 0..10 {
            let file = directory.file();
            opening.spawn(async move { connect(&file).await });
        }
        let stores = opening.join_all().await;
        acquire(&stores[0], &claim(1)).await;
        stores[9].look_up(&id(1)).await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn making_the_tables_again_changes_nothing() {
    let directory = Directory::new();
    let store = connect(&directory.file()).await;
    acquire(&store, &claim(1)).await;
    let watching = SqlitePoolOptions::new()
        .max_connections(1)
        .connect_with(SqliteConnectOptions::new().filename(directory.file()))
        .await
        .unwrap();
    let version = async || -> i64 {
        let version = sqlx::query_scalar("PRAGMA data_version");
        version.fetch_one(&watching).await.unwrap()
    };
    let before = version().await;
    let pool = pool_of(&directory.file()).await;
    SqliteStore::builder(pool).migrate().await.unwrap();
    assert_eq!(version().await, before);
    store.look_up(&id(1)).await.unwrap().unwrap();
}

#[tokio::test]
async fn the_published_statements_make_what_a_store_needs() {
    let directory = Directory::new();
    let pool = pool_of(&directory.file()).await;
    let published = include_str!("../../../../docs/sql/sqlite.sql");
    for _ in 0..2 {
        sqlx::raw_sql(published).execute(&pool).await.unwrap();
    }
    let store = SqliteStore::open(pool).await.unwrap();
    acquire(&store, &claim(1)).await;
}

#[tokio::test]
async fn the_table_can_be_in_an_attached_database() {
    let directory = Directory::new();
    let attached = directory.0.join("attached.db");
    let attach = format!("ATTACH '{}' AS side", attached.display());
    let pool = SqlitePoolOptions::new()
        .after_connect(move |connection, _| {
            let attach = sqlx::AssertSqlSafe(attach.clone());
            Box::pin(async move { sqlx::raw_sql(attach).execute(connection).await.map(drop) })
        })
        .connect_with(
            SqliteConnectOptions::new()
                .filename(directory.file())
                .create_if_missing(true),
        )
        .await
        .unwrap();
    let records = SqliteStore::builder(pool.clone()).table("side.keys");
    records.migrate().await.unwrap();
    let store = records.open().await.unwrap();
    let lease = acquire(&store, &claim(1)).await;
    store.complete(&lease, &answer("paid")).await.unwrap();
    let names = "SELECT name FROM side.sqlite_schema WHERE name LIKE 'keys%' ORDER BY name";
    let names: Vec<String> = sqlx::query_scalar(names).fetch_all(&pool).await.unwrap();
    assert_eq!(
        names,
        [
            "keys",
            "keys_by_scope",
            "keys_by_state",
            "keys_expires_at",
            "keys_schema",
            "keys_steps",
            "keys_steps_of_done",
            "keys_steps_of_gone"
        ]
    );
}

#[tokio::test]
async fn a_missing_table_is_named_with_its_file_and_what_to_do() {
    let directory = Directory::new();
    let pool = pool_of(&directory.file()).await;
    let records = SqliteStore::builder(pool.clone()).table("app_keys");
    let error = records.clone().open().await.unwrap_err();
    says(
        error,
        StoreErrorKind::Refused,
        &["app_keys", "records.db", "migrate"],
    );

    // The same holds if the table vanishes later.
    records.migrate().await.unwrap();
    let store = records.open().await.unwrap();
    sqlx::raw_sql("DROP TABLE app_keys")
        .execute(&pool)
        .await
        .unwrap();
    let error = store.claim(&claim(1)).await.unwrap_err();
    says(error, StoreErrorKind::Refused, &["app_keys", "migrate"]);
}

#[tokio::test]
async fn a_table_of_another_version_is_refused() {
    let directory = Directory::new();
    drop(connect(&directory.file()).await);
    let pool = pool_of(&directory.file()).await;
    let renamed = "ALTER TABLE idempotency_records RENAME COLUMN kept_for TO kept";
    sqlx::raw_sql(renamed).execute(&pool).await.unwrap();
    let error = SqliteStore::open(pool.clone()).await.unwrap_err();
    says(
        error,
        StoreErrorKind::Refused,
        &["kept_for", "another version"],
    );
    let newer = "UPDATE idempotency_records_schema SET version = 2";
    sqlx::raw_sql(newer).execute(&pool).await.unwrap();
    for opened in [
        SqliteStore::connect(directory.file()).await,
        SqliteStore::open(pool).await,
    ] {
        let words = ["version 2", "records.db", "docs/stores.md"];
        says(opened.unwrap_err(), StoreErrorKind::Refused, &words);
    }
}

/// Returns the tables and indexes of a database, with their SQL.
async fn all_of(pool: &SqlitePool) -> Vec<String> {
    let names = "SELECT concat(name, sql) FROM sqlite_schema ORDER BY name";
    sqlx::query_scalar(names).fetch_all(pool).await.unwrap()
}

#[tokio::test]
async fn making_the_tables_changes_nothing_of_a_newer_version() {
    let directory = Directory::new();
    drop(connect(&directory.file()).await);
    let pool = pool_of(&directory.file()).await;
    let newer = "UPDATE idempotency_records_schema SET version = 2;
        DROP INDEX idempotency_records_expires_at";
    sqlx::raw_sql(newer).execute(&pool).await.unwrap();
    let before = all_of(&pool).await;
    let error = SqliteStore::builder(pool.clone()).migrate().await;
    let words = ["version 2", "records.db", "docs/stores.md"];
    says(error.unwrap_err(), StoreErrorKind::Refused, &words);
    assert_eq!(all_of(&pool).await, before);
}

#[tokio::test]
async fn making_the_tables_changes_nothing_of_another_programs() {
    for (foreign, missing) in [
        (
            "CREATE TABLE app_keys (id BLOB PRIMARY KEY, expires_at INTEGER)",
            "format",
        ),
        (
            "CREATE TABLE APP_KEYS (id BLOB PRIMARY KEY, expires_at INTEGER)",
            "format",
        ),
        ("CREATE TABLE app_keys_schema (name TEXT)", "version"),
    ] {
        let directory = Directory::new();
        let pool = pool_of(&directory.file()).await;
        sqlx::raw_sql(foreign).execute(&pool).await.unwrap();
        let before = all_of(&pool).await;
        let records = SqliteStore::builder(pool.clone()).table("app_keys");
        let error = records.migrate().await.unwrap_err();
        let words = ["app_keys", "records.db", missing, "another version"];
        says(error, StoreErrorKind::Refused, &words);
        assert_eq!(all_of(&pool).await, before);
    }
}

#[tokio::test]
async fn a_path_that_is_no_database_is_named() {
    let directory = Directory::new();
    let text = directory.0.join("notes.txt");
    fs::write(
        &text,
        "not a database, but long enough to be taken for one ".repeat(100),
    )
    .unwrap();
    let error = SqliteStore::connect(&text).await.unwrap_err();
    says(
        error,
        StoreErrorKind::Refused,
        &["notes.txt", "another file"],
    );
    let error = SqliteStore::connect(&directory.0).await.unwrap_err();
    says(
        error,
        StoreErrorKind::Refused,
        &["the path is that of a file"],
    );
    let lost = directory.0.join("missing").join("records.db");
    let error = SqliteStore::connect(&lost).await.unwrap_err();
    says(
        error,
        StoreErrorKind::Refused,
        &["missing", "in a directory which is there"],
    );
}

fn options(file: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new().filename(file)
}

#[tokio::test]
async fn a_database_that_cannot_be_written_is_refused_at_the_start() {
    let directory = Directory::new();
    drop(connect(&directory.file()).await);
    let read_only = options(&directory.file()).read_only(true);
    let pool = SqlitePool::connect_with(read_only).await.unwrap();
    let error = SqliteStore::open(pool).await.unwrap_err();
    says(
        error,
        StoreErrorKind::Refused,
        &["records.db", "readonly", "open it for writing"],
    );
}

#[tokio::test]
async fn a_full_disk_changes_nothing_and_says_so() {
    let directory = Directory::new();
    drop(connect(&directory.file()).await);
    let full = options(&directory.file()).pragma("max_page_count", "16");
    let store = SqliteStore::open(SqlitePool::connect_with(full).await.unwrap())
        .await
        .unwrap();
    let lease = acquire(&store, &claim(1)).await;
    let large = answer(vec![b'x'; 200_000]);
    let error = store.complete(&lease, &large).await.unwrap_err();
    says(error, StoreErrorKind::Refused, &["full", "make room"]);
    let record = store.look_up(&id(1)).await.unwrap().unwrap();
    assert!(matches!(record.state, RecordState::InFlight { .. }));
    // A smaller completion still fits and is stored.
    store.complete(&lease, &answer("paid")).await.unwrap();
}

#[tokio::test]
async fn a_database_in_memory_has_to_have_one_connection() {
    let directory = Directory::new();
    for pool in [
        SqlitePool::connect("sqlite::memory:").await.unwrap(),
        SqlitePool::connect_with(SqliteConnectOptions::new())
            .await
            .unwrap(),
        SqlitePool::connect_with(options(Path::new("")))
            .await
            .unwrap(),
    ] {
        let error = SqliteStore::builder(pool.clone())
            .migrate()
            .await
            .unwrap_err();
        says(
            error,
            StoreErrorKind::Refused,
            &["in memory", "MemoryStore"],
        );
        let error = SqliteStore::open(pool).await.unwrap_err();
        says(error, StoreErrorKind::Refused, &["max_connections(1)"]);
    }
    let error = SqliteStore::connect(":memory:").await.unwrap_err();
    says(error, StoreErrorKind::Refused, &["name a file"]);

    let log = Log::default();
    let _listening = log.listen();
    let one = SqlitePoolOptions::new().max_connections(1);
    let pool = one.clone().connect("sqlite::memory:").await.unwrap();
    let records = SqliteStore::builder(pool);
    records.migrate().await.unwrap();
    assert!(
        log.text().contains("ends with its connection"),
        "{}",
        log.text()
    );
    acquire(&records.open().await.unwrap(), &claim(1)).await;

    let log = Log::default();
    let _listening = log.listen();
    let one = one.idle_timeout(None).max_lifetime(None);
    let records = SqliteStore::builder(one.connect("sqlite::memory:").await.unwrap());
    records.migrate().await.unwrap();
    acquire(&records.open().await.unwrap(), &claim(1)).await;
    assert!(!log.text().contains("WARN"), "{}", log.text());
    drop(directory);
}

#[tokio::test]
async fn settings_that_lose_records_or_make_readers_wait_are_told() {
    let logged = async |with: fn(SqliteConnectOptions) -> SqliteConnectOptions| {
        let log = Log::default();
        let _listening = log.listen();
        let directory = Directory::new();
        let options = with(options(&directory.file()).create_if_missing(true));
        let records = SqliteStore::builder(SqlitePool::connect_with(options).await.unwrap());
        records.migrate().await.unwrap();
        records.open().await.unwrap();
        log.text()
    };
    let wal = |options: SqliteConnectOptions| options.journal_mode(SqliteJournalMode::Wal);
    let text = logged(wal).await;
    assert!(!text.contains("WARN"), "{text}");
    let text = logged(|options| options).await;
    assert!(text.contains("wait for each other"), "{text}");
    let text = logged(|options| options.journal_mode(SqliteJournalMode::Off)).await;
    assert!(text.contains("lose every record"), "{text}");
    let text = logged(|options| {
        let options = options.journal_mode(SqliteJournalMode::Wal);
        options.synchronous(SqliteSynchronous::Normal)
    });
    let text = text.await;
    assert!(text.contains("takes back the last records"), "{text}");
    let text = logged(|options| options.synchronous(SqliteSynchronous::Off)).await;
    assert!(text.contains("loss of power can damage"), "{text}");
}

#[tokio::test]
async fn a_pool_without_a_free_connection_has_sent_nothing() {
    let directory = Directory::new();
    drop(connect(&directory.file()).await);
    let pool = SqlitePoolOptions::new()
        .max_connections(1)
        .acquire_timeout(Duration::from_millis(50))
        .connect_with(options(&directory.file()))
        .await
        .unwrap();
    let store = SqliteStore::open(pool.clone()).await.unwrap();
    let _kept = pool.acquire().await.unwrap();
    let error = store.claim(&claim(1)).await.unwrap_err();
    says(
        error,
        StoreErrorKind::NotSent,
        &["every connection of the pool is in use"],
    );
}

#[cfg(unix)]
#[tokio::test]
async fn a_new_file_belongs_to_its_owner_alone_and_an_existing_one_stays_as_it_is() {
    use std::os::unix::fs::PermissionsExt;

    fn mode(file: &Path, suffix: &str) -> u32 {
        let file = format!("{}{suffix}", file.display());
        fs::metadata(file).unwrap().permissions().mode() & 0o777
    }

    let directory = Directory::new();
    let by_url = directory.0.join("url.db");
    let url = format!("sqlite:{}", by_url.display());
    AnyStore::migrate(&url).await.unwrap();
    assert_eq!(mode(&by_url, ""), 0o600);
    let stores = (
        connect(&directory.file()).await,
        AnyStore::connect(&url).await.unwrap(),
    );
    for file in [directory.file(), by_url] {
        for suffix in ["", "-wal", "-shm"] {
            assert_eq!(mode(&file, suffix), 0o600, "{}{suffix}", file.display());
        }
    }
    drop(stores);

    let shared = directory.0.join("shared.db");
    fs::write(&shared, "").unwrap();
    fs::set_permissions(&shared, fs::Permissions::from_mode(0o640)).unwrap();
    let store = connect(&shared).await;
    for suffix in ["", "-wal", "-shm"] {
        assert_eq!(mode(&shared, suffix), 0o640, "{suffix}");
    }
    drop(store);
}

/// A table of before the origins: its records are there, and a program of before goes on.
#[tokio::test]
async fn a_table_of_an_earlier_version_gets_the_columns_that_it_lacks() {
    let directory = Directory::new();
    let store = connect(&directory.file()).await;
    acquire(&store, &claim(1)).await;
    drop(store);
    let pool = pool_of(&directory.file()).await;
    for statement in [
        "DROP INDEX idempotency_records_by_state",
        "DROP INDEX idempotency_records_by_scope",
        "ALTER TABLE idempotency_records DROP COLUMN scope",
        "ALTER TABLE idempotency_records DROP COLUMN route",
        "ALTER TABLE idempotency_records DROP COLUMN trace",
        "ALTER TABLE idempotency_records DROP COLUMN origin_of",
    ] {
        sqlx::query(statement).execute(&pool).await.unwrap();
    }
    let error = SqliteStore::open(pool.clone()).await.unwrap_err();
    assert!(told(error).1.contains("docs/stores.md"));
    SqliteStore::builder(pool.clone()).migrate().await.unwrap();
    let store = SqliteStore::open(pool.clone()).await.unwrap();
    let listed = store.list(&ListQuery::new()).await.unwrap().records;
    assert_eq!((listed.len(), &listed[0].origin), (1, &Origin::none()));

    // A program of the earlier version takes a record over, and knows no origin.
    let mut later = claim(2);
    later.origin = Origin::none().route("POST /a");
    acquire(&store, &later).await;
    let taken = "UPDATE idempotency_records SET token = token + 1, attempt = 2 WHERE id = ?";
    sqlx::query(taken)
        .bind(&later.id.as_bytes()[..])
        .execute(&pool)
        .await
        .unwrap();
    let found = store.look_up(&later.id).await.unwrap().unwrap();
    assert_eq!((found.attempt, found.origin), (2, Origin::none()));
}

#[tokio::test]
async fn a_page_is_read_by_an_index_without_a_sort() {
    let directory = Directory::new();
    drop(connect(&directory.file()).await);
    let pool = pool_of(&directory.file()).await;
    for (which, index) in [
        (
            "id > x'' ORDER BY id",
            "sqlite_autoindex_idempotency_records_1",
        ),
        (
            "state = 2 AND state <> 3 AND token >= ?1 AND (token > ?1 OR id > ?2) ORDER BY token, id",
            "idempotency_records_by_state",
        ),
        (
            "scope = ?3 AND token >= ?1 AND (token > ?1 OR id > ?2) ORDER BY token, id",
            "idempotency_records_by_scope",
        ),
    ] {
        let explain = format!(
            "EXPLAIN QUERY PLAN SELECT token FROM idempotency_records WHERE {which} LIMIT 500"
        );
        let plan = sqlx::query_as::<_, (i64, i64, i64, String)>(sqlx::AssertSqlSafe(explain));
        let plan = plan.fetch_all(&pool).await.unwrap();
        let plan: Vec<_> = plan.into_iter().map(|row| row.3).collect();
        let plan = plan.join("; ");
        assert!(
            plan.contains(index) && !plan.contains("TEMP B-TREE"),
            "{plan}"
        );
    }
}
