//! This module holds the engines that the benchmark measures.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::StatusCode;
use sqlx::mysql::MySqlPoolOptions;
use sqlx::postgres::PgPoolOptions;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use tower_idempotency::store::{
    Claim, Claimed, Lease, Outcome, Ownership, RecordedStep, Release, Store,
};
use tower_idempotency::store::{Completion, Fingerprint, Nonce, RecordId, ScopeDigest};
use tower_idempotency::{MySqlStore, PostgresStore, RedisStore, SqliteStore};

use crate::{Round, timed};

type Call = Pin<Box<dyn Future<Output = ()> + Send>>;

pub(crate) struct Engine {
    pub(crate) name: &'static str,
    store: Arc<dyn Under>,
    no_op: Box<dyn Fn() -> Call>,
    /// The engine's own durable write of one row, with a key of 32 bytes and [`ROW`] bytes.
    write: Box<dyn Fn() -> Call>,
    /// Returns how many scripts the server has run so far, and the microseconds that they took.
    scripts: Option<Box<dyn Fn() -> Count>>,
}

type Count = Pin<Box<dyn Future<Output = [f64; 2]> + Send>>;

/// The size of a recorded response, and of the row that the engine itself writes.
const ROW: usize = 256;

/// This trait is `Store` without its associated types, so that engines fit into one
/// list.
trait Under: Send + Sync {
    fn claim(self: Arc<Self>, claim: Claim) -> Pin<Box<dyn Future<Output = Claimed> + Send>>;
    fn complete(self: Arc<Self>, lease: Lease, outcome: Outcome) -> Call;
    fn release(self: Arc<Self>, lease: Lease) -> Call;
    fn record_step(self: Arc<Self>, lease: Lease, step: RecordedStep) -> Call;
}

impl<S: Store> Under for S {
    fn claim(self: Arc<Self>, claim: Claim) -> Pin<Box<dyn Future<Output = Claimed> + Send>> {
        Box::pin(async move { Store::claim(&*self, &claim).await.unwrap() })
    }

    fn complete(self: Arc<Self>, lease: Lease, outcome: Outcome) -> Call {
        Box::pin(async move {
            let tenure = Store::complete(&*self, &lease, &outcome).await;
            assert_eq!(tenure.unwrap(), Ownership::Held);
        })
    }

    fn release(self: Arc<Self>, lease: Lease) -> Call {
        Box::pin(async move {
            let claim = &lease.claim;
            let tenure =
                Store::release(&*self, &claim.id, &claim.nonce, Release::MayRunAgain).await;
            assert_eq!(tenure.unwrap(), Ownership::Held);
        })
    }

    fn record_step(self: Arc<Self>, lease: Lease, step: RecordedStep) -> Call {
        Box::pin(async move {
            let tenure = Store::record_step(&*self, &lease, &step).await;
            assert_eq!(tenure.unwrap(), Ownership::Held);
        })
    }
}

impl Engine {
    fn new(
        name: &'static str,
        store: impl Store,
        no_op: impl Fn() -> Call + 'static,
        write: impl Fn() -> Call + 'static,
    ) -> Self {
        Self {
            name,
            store: Arc::new(store),
            no_op: Box::new(no_op),
            write: Box::new(write),
            scripts: None,
        }
    }

    /// Runs a batch, and returns what the server counted for each script of the batch.
    async fn counted<T>(&self, batch: impl Future<Output = T>) -> (T, Option<f64>) {
        let Some(scripts) = &self.scripts else {
            return (batch.await, None);
        };
        let [ran, took] = scripts().await;
        let done = batch.await;
        let [ran_by_now, taken_by_now] = scripts().await;
        (done, Some((taken_by_now - took) / (ran_by_now - ran)))
    }

    /// Runs one batch of each operation.
    pub(crate) async fn round(&self, at_once: usize, calls: usize) -> Round {
        // The first batch wakes idle connections and is not counted. The no-op runs
        // once before and once after the operations that are compared with the
        // no-op.
        timed(at_once, calls, |_| (self.no_op)()).await;
        let before = timed(at_once, calls, |_| (self.no_op)()).await;
        let write = timed(at_once, calls, |_| (self.write)()).await;
        let claims: Vec<Claim> = (0..calls).map(|_| claim()).collect();
        let (claimed, claim_script) = self.counted(self.claim(at_once, &claims)).await;
        let mut completion =
            Completion::new(StatusCode::CREATED, vec![b'x'; ROW], SystemTime::now());
        let json = http::HeaderValue::from_static("application/json");
        completion.headers.insert(http::header::CONTENT_TYPE, json);
        completion.retention = Duration::from_secs(600);
        let outcome = Outcome::Completed(Arc::new(completion));
        let leases = claimed.1;
        let complete = timed(at_once, calls, |at| {
            Arc::clone(&self.store).complete(leases[at].clone(), outcome.clone())
        });
        let (complete, complete_script) = self.counted(complete).await;
        let replays = async {
            let turn = at_once.max(16);
            let (mut replays, mut no_ops) = (Duration::ZERO, Duration::ZERO);
            for first in (0..calls).step_by(turn) {
                no_ops += timed(at_once, turn, |_| (self.no_op)()).await;
                let replay = |at: usize| {
                    let mut again = claims[first + at].clone();
                    again.nonce = Nonce::random();
                    let again = Arc::clone(&self.store).claim(again);
                    Box::pin(async move { assert!(matches!(again.await, Claimed::Found(_))) })
                        as Call
                };
                replays += timed(at_once, turn, replay).await;
            }
            (replays, no_ops)
        };
        let ((replay, no_op_of_replays), replay_script) = self.counted(replays).await;
        let others: Vec<Claim> = (0..calls).map(|_| claim()).collect();
        let leases = self.claim(at_once, &others).await.1;
        let result = RecordedStep::new("charge-card", vec![b'x'; ROW]);
        let step = timed(at_once, calls, |at| {
            Arc::clone(&self.store).record_step(leases[at].clone(), result.clone())
        });
        let (step, step_script) = self.counted(step).await;
        let release = timed(at_once, calls, |at| {
            Arc::clone(&self.store).release(leases[at].clone())
        });
        let release = release.await;
        let after = timed(at_once, calls, |_| (self.no_op)()).await;
        Round {
            no_op: (before + after) / 2,
            no_op_of_replays,
            operations: [write, claimed.0, complete, replay, release, step],
            scripts: [
                None,
                claim_script,
                complete_script,
                replay_script,
                None,
                step_script,
            ],
        }
    }

    async fn claim(&self, at_once: usize, claims: &[Claim]) -> (Duration, Vec<Lease>) {
        let (given, mut leases) = tokio::sync::mpsc::unbounded_channel();
        let time = timed(at_once, claims.len(), |at| {
            let claimed = Arc::clone(&self.store).claim(claims[at].clone());
            let given = given.clone();
            Box::pin(async move {
                let Claimed::Acquired(lease) = claimed.await else {
                    panic!("a new record is there already");
                };
                given.send((at, lease)).unwrap();
            }) as Call
        });
        let time = time.await;
        drop(given);
        let mut sorted = Vec::new();
        while let Some(lease) = leases.recv().await {
            sorted.push(lease);
        }
        sorted.sort_by_key(|(at, _)| *at);
        (time, sorted.into_iter().map(|(_, lease)| lease).collect())
    }
}

fn claim() -> Claim {
    let id = RecordId::from_bytes(rand::random());
    let mut claim = Claim::new(
        id,
        ScopeDigest::from_bytes([1; 32]),
        Fingerprint::from_bytes([2; 32]),
    );
    claim.lease = Duration::from_secs(600);
    claim.retention = Duration::from_secs(600);
    claim
}

macro_rules! select_1 {
    ($pool:expr) => {{
        let pool = $pool.clone();
        move || {
            let pool = pool.clone();
            Box::pin(async move {
                sqlx::query("SELECT 1").execute(&pool).await.unwrap();
            }) as Call
        }
    }};
}

/// Makes a table of the engine's own, and returns the write of one row of it.
macro_rules! insert {
    ($pool:expr, $bytes:literal, $insert:literal) => {{
        let pool = $pool.clone();
        for statement in [
            "DROP TABLE IF EXISTS bench_rows",
            concat!(
                "CREATE TABLE bench_rows (id ",
                $bytes,
                " PRIMARY KEY, content ",
                $bytes,
                ")"
            ),
        ] {
            let statement = statement.replacen("BLOB P", "BINARY(32) P", 1);
            let statement = sqlx::AssertSqlSafe(statement);
            sqlx::raw_sql(statement).execute(&pool).await.unwrap();
        }
        move || {
            let pool = pool.clone();
            Box::pin(async move {
                let id = rand::random::<[u8; 32]>().to_vec();
                let insert = sqlx::query($insert).bind(id).bind(vec![b'x'; ROW]);
                insert.execute(&pool).await.unwrap();
            }) as Call
        }
    }};
}

/// Reads the number of scripts that were called by their digest, and their time.
fn scripts(info: &str) -> [f64; 2] {
    let line = info
        .lines()
        .find_map(|line| line.strip_prefix("cmdstat_evalsha:"));
    let of = |name: &str| {
        let mut fields = line?.split(',').filter_map(|field| field.split_once('='));
        fields.find(|(own, _)| *own == name)?.1.parse().ok()
    };
    ["calls", "usec"].map(|name| of(name).unwrap_or(0.0))
}

/// Returns the engines whose address is in the environment. The pools do not ping a
/// connection before they lend the connection, so that no ping is measured.
pub(crate) async fn all() -> Vec<Engine> {
    let mut engines = Vec::new();
    let given = |name: &str| {
        let url = std::env::var(name).ok();
        if url.is_none() {
            eprintln!("{name} is not set: left out");
        }
        url
    };
    if let Some(url) = given("TEST_REDIS_URL") {
        let client = redis::Client::open(url).unwrap();
        let connection = client.get_connection_manager().await.unwrap();
        let (ping, set, info) = (connection.clone(), connection.clone(), connection.clone());
        let store = RedisStore::open(connection).await.unwrap();
        let ping = move || {
            let mut ping = ping.clone();
            Box::pin(async move { redis::cmd("PING").exec_async(&mut ping).await.unwrap() }) as Call
        };
        let mut redis = Engine::new("Redis", store, ping, move || {
            let mut connection = set.clone();
            Box::pin(async move {
                let mut set = redis::cmd("SET");
                set.arg(&rand::random::<[u8; 32]>()[..])
                    .arg(vec![b'x'; ROW]);
                set.arg("PX").arg(600_000);
                set.exec_async(&mut connection).await.unwrap();
            })
        });
        redis.scripts = Some(Box::new(move || {
            let mut connection = info.clone();
            Box::pin(async move {
                let mut info = redis::cmd("INFO");
                let info = info.arg("commandstats").query_async(&mut connection);
                let info: String = info.await.unwrap();
                scripts(&info)
            })
        }));
        engines.push(redis);
    }
    if let Some(url) = given("TEST_POSTGRES_URL") {
        let pool = PgPoolOptions::new()
            .max_connections(64)
            .test_before_acquire(false);
        let pool = pool.connect(&url).await.unwrap();
        let builder = PostgresStore::builder(pool.clone()).table("bench_records");
        builder.migrate().await.unwrap();
        engines.push(Engine::new(
            "PostgreSQL",
            builder.open().await.unwrap(),
            select_1!(pool),
            insert!(pool, "bytea", "INSERT INTO bench_rows VALUES ($1, $2)"),
        ));
    }
    if let Some(url) = given("TEST_MYSQL_URL") {
        let pool = MySqlPoolOptions::new()
            .max_connections(64)
            .test_before_acquire(false);
        let pool = pool.connect(&url).await.unwrap();
        let builder = MySqlStore::builder(pool.clone()).table("bench_records");
        builder.migrate().await.unwrap();
        engines.push(Engine::new(
            "MariaDB",
            builder.open().await.unwrap(),
            select_1!(pool),
            insert!(pool, "BLOB", "INSERT INTO bench_rows VALUES (?, ?)"),
        ));
    }
    let file = std::env::temp_dir().join(format!("bench-records-{}.db", std::process::id()));
    let options = SqliteConnectOptions::new()
        .filename(&file)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full);
    let pool = SqlitePoolOptions::new()
        .max_connections(8)
        .test_before_acquire(false);
    let pool = pool.connect_with(options).await.unwrap();
    let builder = SqliteStore::builder(pool.clone());
    builder.migrate().await.unwrap();
    engines.push(Engine::new(
        "SQLite",
        builder.open().await.unwrap(),
        select_1!(pool),
        insert!(pool, "BLOB", "INSERT INTO bench_rows VALUES (?, ?)"),
    ));
    engines
}
