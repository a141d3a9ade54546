//! This module runs the tests on SQLite.

use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions};
use sqlx::{Pool, Sqlite};
use tower::BoxError;
use tower_idempotency::exactly_once::{CommitError, CommitErrorKind};
use tower_idempotency::store::{
    AnyStore, Claim, Claimed, Lease, Nonce, Outcome, Ownership, RecordId, Release, StoreError,
    Transactional,
};
use tower_idempotency::{IdempotencyLayer, IdempotencyLayerBuilder, SqliteStore, scope};

use crate::servers;

#[path = "shop.rs"]
mod shop;

#[path = "committing.rs"]
mod committing;
#[path = "inside.rs"]
mod inside;
#[path = "inside_records.rs"]
mod inside_records;
#[path = "refusals.rs"]
mod refusals;
#[path = "routes.rs"]
mod routes;
#[path = "step_in.rs"]
mod step_in;
#[path = "step_killed.rs"]
mod step_killed;
#[path = "syncs.rs"]
mod syncs;

use shop::*;

type Db = Sqlite;
type Store = SqliteStore;

/// SQLite can't tell the first transaction from another writer.
const BEGUN_TWICE: CommitErrorKind = CommitErrorKind::Retry;
const LEDGER: &str = "CREATE TABLE {ledger} (entry TEXT NOT NULL)";
const LAPSE: &str = "UPDATE {t} SET lapses_at = 0";
/// How often a commit syncs: the log, after the frame that ends the commit.
const SYNCS: i64 = 1;
/// Whether nothing else syncs, and each commit does.
const SYNCS_ALONE: bool = true;

/// Returns a pool on a database of the test's own.
async fn pool() -> Pool<Db> {
    pool_of(8)
}

fn pool_of(connections: u32) -> Pool<Db> {
    let directory = servers::fresh_directory("once");
    std::fs::create_dir_all(&directory).unwrap();
    pool_on(&directory.join("app.db"), connections)
}

fn pool_on(file: &Path, connections: u32) -> Pool<Db> {
    let options = SqliteConnectOptions::new()
        .filename(file)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal);
    let pool = SqlitePoolOptions::new().max_connections(connections);
    pool.connect_lazy_with(options)
}

/// What another process needs to know to open the same database.
fn place_of(pool: &Pool<Db>) -> String {
    let options = pool.connect_options();
    options.get_filename().to_str().unwrap().to_owned()
}

fn pool_at(place: &str) -> Pool<Db> {
    pool_on(place.as_ref(), 8)
}

async fn store(pool: &Pool<Db>, table: &str) -> Store {
    let builder = SqliteStore::builder(pool.clone()).table(table);
    builder.migrate().await.unwrap();
    builder.open().await.unwrap()
}

async fn named_records() -> Arc<Shop> {
    let pool = pool().await;
    Shop::named("records".to_owned(), pool.clone(), pool).await
}

/// Lets the handler write in one file while the records are in another, and returns
/// the error.
async fn told_of(other: Arc<Shop>) -> String {
    let shop = named_records().await;
    let layer = shop.builder().build().unwrap();
    let till = {
        let (shop, other) = (Arc::clone(&shop), Arc::clone(&other));
        till(&layer, move |request| {
            let (shop, other) = (Arc::clone(&shop), Arc::clone(&other));
            async move {
                let mut elsewhere = other.begin().await;
                other.write(&mut elsewhere).await.unwrap();
                let claim = claim(&request);
                let error = claim.commit(elsewhere, shop.paid()).await.unwrap_err();
                assert_eq!(error.kind(), CommitErrorKind::Failed, "{error:?}");
                let why = error.source().unwrap();
                let why = why.source().unwrap_or(why).to_string();
                Ok::<_, BoxError>(answer(StatusCode::INTERNAL_SERVER_ERROR, why))
            }
        })
    };
    let (status, why) = ask(&till, "k").await;
    assert_eq!(status, 500, "{why}");
    assert_eq!(other.entries().await, 0);
    why
}

#[tokio::test]
async fn a_transaction_in_another_database_is_told_so() {
    let without_records = Shop::open().await;
    let why = told_of(without_records).await;
    assert!(
        why.contains("no such table: records") && why.contains("migrate"),
        "{why}"
    );
    let with_others = named_records().await;
    let why = told_of(with_others).await;
    assert!(why.contains("not in the database of the records"), "{why}");
}

/// This store wraps another store, as an application's own store may do.
struct Around<S>(S);

impl<S: tower_idempotency::store::Store> tower_idempotency::store::Store for Around<S> {
    async fn claim(&self, claim: &Claim) -> Result<Claimed, StoreError> {
        self.0.claim(claim).await
    }

    async fn renew(&self, lease: &Lease) -> Result<Ownership, StoreError> {
        self.0.renew(lease).await
    }

    async fn complete(&self, lease: &Lease, outcome: &Outcome) -> Result<Ownership, StoreError> {
        self.0.complete(lease, outcome).await
    }

    async fn release(
        &self,
        id: &RecordId,
        nonce: &Nonce,
        how: Release,
    ) -> Result<Ownership, StoreError> {
        self.0.release(id, nonce, how).await
    }

    fn transactional(&self) -> Option<Transactional<'_>> {
        self.0.transactional()
    }
}

async fn commits_by(layer: IdempotencyLayerBuilder, shop: Arc<Shop>) {
    let layer = layer.defaults(|options| options.exactly_once(true));
    let till = shop.till(&layer.build().unwrap());
    assert_eq!(ask(&till, "k").await, got(201, "paid 1"));
    assert_eq!(ask(&till, "k").await, got(201, "paid 1"));
    assert_eq!(shop.entries().await, 1);
}

#[tokio::test]
async fn a_store_around_an_sql_store_commits_if_it_forwards_that() {
    let shop = Shop::open().await;
    let store = Arc::new(Around(Around(shop.store.clone())));
    commits_by(IdempotencyLayer::builder(store, scope::shared()), shop).await;
}

/// `Arc<AnyStore>` once hid its SQL store from the layer.
#[tokio::test]
async fn a_shared_store_of_any_kind_commits() {
    let shop = Shop::open().await;
    let file = shop.pool.connect_options();
    let file = file.get_filename().display();
    let url = format!("sqlite:{file}?table={}", shop.table);
    let store = Arc::new(AnyStore::connect(&url).await.unwrap());
    commits_by(IdempotencyLayer::builder(store, scope::shared()), shop).await;
}

/// The layer does not call the store between the claim and the commit, so one
/// connection is enough.
#[tokio::test]
async fn one_connection_is_enough() {
    let shop = Shop::on(pool_of(1)).await;
    let lease = Duration::from_millis(60);
    let layer = shop
        .builder()
        .defaults(|options| options.lease(lease).max_operation(lease));
    let till = shop.till(&layer.build().unwrap());
    assert_eq!(ask(&till, "k").await, got(201, "paid 1"));
    assert_eq!(ask(&till, "k").await, got(201, "paid 1"));
    assert_eq!(shop.entries().await, 1);
}

/// A transaction that begins as a reader cannot become a writer if anything has
/// been written since, such as a renewal by the layer.
#[tokio::test]
async fn a_deferred_transaction_that_others_overtook_is_to_be_run_again() {
    let shop = Shop::open().await;
    let layer = shop.builder().build().unwrap();
    let till = {
        let shop = Arc::clone(&shop);
        till(&layer, move |request| {
            let shop = Arc::clone(&shop);
            async move {
                let claim = claim(&request);
                let mut reader = shop.begin().await;
                let count = shop.sql("SELECT count(*) FROM {ledger}");
                sqlx::query(count).execute(&mut *reader).await.unwrap();
                shop.run("UPDATE {t} SET lapses_at = lapses_at + 1").await;
                let error = claim.commit(reader, shop.paid()).await.unwrap_err();
                assert_eq!(error.kind(), CommitErrorKind::Retry, "{error:?}");
                // The helper `transact` begins as a writer.
                let work = |mut transaction| {
                    let shop = Arc::clone(&shop);
                    async move {
                        shop.write(&mut transaction).await?;
                        Ok((transaction, shop.paid()))
                    }
                };
                claim.transact::<_, _, CommitError>(&shop.pool, work).await
            }
        })
    };
    assert_eq!(ask(&till, "k").await, got(201, "paid 2"));
    assert_eq!(shop.entries().await, 1);
}

/// Many handlers write at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writers_take_turns() {
    let shop = Shop::open().await;
    let till = shop.till(&shop.builder().build().unwrap());
    let asking: Vec<_> = (0..20)
        .map(|number| {
            let till = till.clone();
            tokio::spawn(async move { ask(&till, &number.to_string()).await.0 })
        })
        .collect();
    for one in asking {
        assert_eq!(one.await.unwrap(), 201);
    }
    assert_eq!(shop.entries().await, 20);
}

/// A connection to a file whose log keeps every commit.
async fn quiet() -> (Pool<Db>, ()) {
    let options = (*pool().await.connect_options()).clone();
    let options = options.pragma("wal_autocheckpoint", "0");
    let pool = SqlitePoolOptions::new().max_connections(1);
    (pool.connect_lazy_with(options), ())
}

/// How many commits are in the log, each of which SQLite syncs once with `synchronous = FULL`. A frame
/// that ends a commit has the size of the database in its header, and any other frame has zero.
async fn synced(shop: &Shop) -> i64 {
    let options = shop.pool.connect_options();
    let mut log = options.get_filename().as_os_str().to_owned();
    log.push("-wal");
    let log = std::fs::read(log).unwrap();
    let (header, frames) = log.split_at(32);
    let page = u32::from_be_bytes(header[8..12].try_into().unwrap());
    let frame = 24 + usize::try_from(page).unwrap();
    let commits = frames
        .chunks_exact(frame)
        .filter(|frame| frame[4..8] != [0; 4]);
    i64::try_from(commits.count()).unwrap()
}
