//! These tests run the store on SQLite, which needs no server: each test has a file
//! of its own.

mod crashes;
mod purging;
mod setting_up;
mod steps;
mod unreadable;
mod waiting_for_nobody;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::SystemTime;

use http::StatusCode;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool};
use tower_idempotency::SqliteStore;
use tower_idempotency::conformance::check;
use tower_idempotency::store::{Claim, Claimed, Lease, Outcome, Store};
use tower_idempotency::store::{Completion, Fingerprint, RecordId, ScopeDigest};

/// The directory is removed when the test ends.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("tower-idempotency-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn file(&self) -> PathBuf {
        self.0.join("records.db")
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Returns an application's own pool, in WAL mode.
async fn pool_of(file: &Path) -> SqlitePool {
    let options = SqliteConnectOptions::new()
        .filename(file)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal);
    SqlitePool::connect_with(options).await.unwrap()
}

async fn connect(file: &Path) -> SqliteStore {
    SqliteStore::connect(file).await.unwrap()
}

fn id(number: u32) -> RecordId {
    let mut bytes = [7; 32];
    bytes[..4].copy_from_slice(&number.to_be_bytes());
    RecordId::from_bytes(bytes)
}

fn claim(number: u32) -> Claim {
    let fingerprint = Fingerprint::from_bytes([3; 32]);
    Claim::new(id(number), ScopeDigest::from_bytes([2; 32]), fingerprint)
}

fn answer(body: impl Into<bytes::Bytes>) -> Outcome {
    let completion = Completion::new(StatusCode::CREATED, body, SystemTime::now());
    Outcome::Completed(Arc::new(completion))
}

async fn acquire(store: &SqliteStore, claim: &Claim) -> Lease {
    match store.claim(claim).await.unwrap() {
        Claimed::Acquired(lease) => lease,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn it_keeps_every_rule_of_the_contract() {
    let directory = Directory::new();
    let file = directory.file();
    check(async || connect(&file).await).await.assert_passed();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn it_keeps_every_rule_in_an_applications_own_database() {
    let directory = Directory::new();
    let file = directory.file();
    let records = SqliteStore::builder(pool_of(&file).await).table("app_keys");
    records.migrate().await.unwrap();
    let open = async || {
        let pool = pool_of(&file).await;
        SqliteStore::builder(pool)
            .table("app_keys")
            .open()
            .await
            .unwrap()
    };
    check(open).await.assert_passed();
}
