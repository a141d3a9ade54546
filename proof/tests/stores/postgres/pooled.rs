//! In these tests a pooler in transaction mode is between the store and the server, or the driver
//! keeps no prepared statements.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use tokio::task::{JoinSet, LocalSet};
use tower::{BoxError, Layer, ServiceExt, service_fn};
use tower_idempotency::exactly_once::SqlClaim;
use tower_idempotency::options::OnInFlight;
use tower_idempotency::store::{AnyStore, Claimed, Outcome, Store, StoreErrorKind};
use tower_idempotency::{IdempotencyLayer, PostgresStore, conformance, scope};

use super::pgbouncer::Pgbouncer;
use super::{acquire, claim_of, fresh, id, options, pool_with};
use crate::log::Log;

/// The pooler has to ignore one setting that the driver sends.
const IGNORES: &str = "ignore_startup_parameters = extra_float_digits";

/// The options of clients that say that they keep no statements, and of clients that say nothing.
fn both(options: &PgConnectOptions) -> [PgConnectOptions; 2] {
    [options.clone().statement_cache_capacity(0), options.clone()]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_contract_is_kept_behind_a_pooler() {
    let pgbouncer = Pgbouncer::start(IGNORES);
    for options in both(&pgbouncer.options()) {
        let table = fresh("t");
        let builder = |options: &PgConnectOptions| {
            PostgresStore::builder(pool_with(options.clone())).table(&table)
        };
        // A second migration of another process meets what the first one left in the pooler.
        for _ in 0..3 {
            builder(&options).migrate().await.unwrap();
        }
        let report = conformance::check(async || builder(&options).open().await.unwrap()).await;
        report.assert_passed();
    }
}

/// This is what the sidecar does with the URL in its file, and with `--migrate`.
#[tokio::test]
async fn a_url_that_leads_to_a_pooler_does_as_it_is() {
    let pgbouncer = Pgbouncer::start(IGNORES);
    for parameters in ["", "&statement-cache-capacity=0"] {
        let url = format!("{}?table={}{parameters}", pgbouncer.url(), fresh("t"));
        for _ in 0..3 {
            AnyStore::migrate(&url).await.unwrap();
        }
        let stores = [AnyStore::connect(&url).await, AnyStore::connect(&url).await];
        let [owner, other] = stores.map(Result::unwrap);
        for _ in 0..20 {
            let claim = claim_of(id());
            let Claimed::Acquired(lease) = owner.claim(&claim).await.unwrap() else {
                panic!("nobody else has it");
            };
            assert!(other.look_up(&claim.id).await.unwrap().is_some());
            let sealed = Outcome::Sealed {
                retention: Duration::from_secs(60),
            };
            other.complete(&lease, &sealed).await.unwrap();
        }
    }
}

/// One process of an application.
#[derive(Clone)]
struct Process {
    layer: IdempotencyLayer,
    pool: PgPool,
}

type Executed = Arc<Mutex<HashMap<String, u32>>>;

impl Process {
    async fn start(options: PgConnectOptions, table: &str) -> Self {
        let pool = PgPoolOptions::new()
            .max_connections(6)
            .connect_lazy_with(options);
        let store = PostgresStore::builder(pool.clone()).table(table);
        let layer = IdempotencyLayer::builder(store.open().await.unwrap(), scope::shared())
            .store_timeout(Duration::from_secs(10))
            .defaults(|options| options.on_in_flight(OnInFlight::Wait(Duration::from_secs(20))))
            .build()
            .unwrap();
        Self { layer, pool }
    }

    /// Sends a request. The handler commits the claim of every second key in a transaction of its
    /// own.
    async fn ask(self, key: String, executed: Executed) -> (StatusCode, Bytes) {
        let (pool, commits) = (self.pool, key.ends_with('1'));
        let service = service_fn(move |request: Request<Full<Bytes>>| {
            Box::pin(handle(pool.clone(), executed.clone(), commits, request)) as Answering
        });
        let request = Request::post("/")
            .header("idempotency-key", key)
            .body(Full::default());
        let service = self.layer.layer(service);
        let answer = service.oneshot(request.unwrap()).await.unwrap();
        let status = answer.status();
        (
            status,
            answer.into_body().collect().await.unwrap().to_bytes(),
        )
    }
}

type Answering = Pin<Box<dyn Future<Output = Result<Response<Full<Bytes>>, BoxError>> + Send>>;

async fn handle(
    pool: PgPool,
    executed: Executed,
    commits: bool,
    request: Request<Full<Bytes>>,
) -> Result<Response<Full<Bytes>>, BoxError> {
    let key = request.headers()["idempotency-key"].to_str()?.to_owned();
    *executed.lock().unwrap().entry(key.clone()).or_default() += 1;
    let answer = format!("{:x}", rand::random::<u64>());
    let answer = Response::new(Full::new(Bytes::from(answer)));
    if !commits {
        return Ok(answer);
    }
    let claim = SqlClaim::of(request.extensions())?;
    let mut transaction = pool.begin().await?;
    let effect = sqlx::query("SELECT $1::text").bind(key).persistent(false);
    effect.execute(&mut *transaction).await?;
    Ok(claim.commit(transaction, answer).await?)
}

/// Processes with and without prepared statements share a pooler, and another one reaches the
/// server directly.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_key_runs_once_with_a_pooler_and_without_one() {
    let pgbouncer = Pgbouncer::start(IGNORES);
    let table = fresh("t");
    let [plain, named] = both(&pgbouncer.options());
    PostgresStore::builder(pool_with(plain.clone()))
        .table(&table)
        .migrate()
        .await
        .unwrap();
    let mut processes = Vec::new();
    for options in [plain, named.clone(), named, options()] {
        processes.push(Process::start(options, &table).await);
    }
    let executed = Executed::default();
    let local = LocalSet::new();
    let _entered = local.enter();
    let mut asking = JoinSet::new();
    for key in 0..40 {
        for process in &processes {
            let (process, executed) = (process.clone(), executed.clone());
            asking.spawn_local(async move {
                let key = format!("key-{key:02}-{}", key % 2);
                (key.clone(), process.ask(key, executed).await)
            });
        }
    }
    let mut answers: HashMap<String, Vec<Bytes>> = HashMap::new();
    for (key, (status, body)) in local.run_until(asking.join_all()).await {
        assert_eq!(status, StatusCode::OK, "{key}: {body:?}");
        answers.entry(key).or_default().push(body);
    }
    assert_eq!(answers.len(), 40);
    for (key, bodies) in answers {
        assert_eq!(executed.lock().unwrap()[&key], 1, "{key}");
        assert_eq!(bodies.len(), 4);
        assert!(bodies.iter().all(|body| *body == bodies[0]), "{key}");
    }
}

#[tokio::test]
async fn a_pooler_that_rejects_a_setting_of_the_driver_is_an_error_with_its_remedy() {
    let pgbouncer = Pgbouncer::start("");
    let error = PostgresStore::builder(pool_with(pgbouncer.options()))
        .migrate()
        .await
        .unwrap_err();
    let told = super::schema::told(&error);
    assert_eq!(error.kind(), StoreErrorKind::Refused, "{told}");
    for part in [
        "extra_float_digits",
        "ignore_startup_parameters = extra_float_digits",
    ] {
        assert!(told.contains(part), "{told}");
    }
}

/// A pooler that comes later, or that was not found out, shows by its first confusion of names.
#[tokio::test]
async fn a_name_that_another_client_took_makes_the_store_do_without_names() {
    let table = fresh("t");
    // One connection, so that the statement below takes a name on the store's own session.
    let pool = PgPoolOptions::new()
        .max_connections(1)
        .connect_lazy_with(options());
    let builder = PostgresStore::builder(pool.clone()).table(&table);
    builder.migrate().await.unwrap();
    let store = builder.open().await.unwrap();
    sqlx::raw_sql("PREPARE sqlx_s_1 AS SELECT 1")
        .execute(&pool)
        .await
        .unwrap();
    let log = Log::default();
    let listening = log.listen();
    let lease = acquire(&store, &claim_of(id())).await;
    drop(listening);
    assert_eq!(
        log.text().matches("statement-cache-capacity=0").count(),
        1,
        "{}",
        log.text()
    );
    let sealed = Outcome::Sealed {
        retention: Duration::from_secs(9),
    };
    store.complete(&lease, &sealed).await.unwrap();
    assert_eq!(
        prepared(&pool).await,
        1,
        "only the statement of the test has a name"
    );
}

async fn prepared(pool: &PgPool) -> i64 {
    let count = sqlx::query_scalar("SELECT count(*) FROM pg_prepared_statements");
    let count = count.persistent(false);
    count.fetch_one(pool).await.unwrap()
}

/// The memory of the session at the server, in bytes.
async fn memory(pool: &PgPool) -> i64 {
    let sum = "SELECT sum(total_bytes)::bigint FROM pg_backend_memory_contexts";
    let sum = sqlx::query_scalar(sum).persistent(false);
    sum.fetch_one(pool).await.unwrap()
}

#[tokio::test]
async fn a_client_that_keeps_no_statements_leaves_none_on_the_server() {
    let table = fresh("t");
    let pool = PgPoolOptions::new()
        .max_connections(1)
        .connect_lazy_with(options().statement_cache_capacity(0));
    let builder = PostgresStore::builder(pool.clone()).table(&table);
    builder.migrate().await.unwrap();
    let store = builder.open().await.unwrap();
    let operations = async |number| {
        for _ in 0..number {
            let lease = acquire(&store, &claim_of(id())).await;
            store.renew(&lease).await.unwrap();
            let sealed = Outcome::Sealed {
                retention: Duration::from_secs(60),
            };
            store.complete(&lease, &sealed).await.unwrap();
            for _ in 0..10 {
                store.claim(&claim_of(lease.claim.id)).await.unwrap();
            }
            store.look_up(&lease.claim.id).await.unwrap();
            store.purge().await.unwrap();
        }
    };
    operations(20).await;
    let before = memory(&pool).await;
    operations(40).await;
    let grown = memory(&pool).await - before;
    // A statement that stays takes 84 kB, so that one in a hundred would show.
    assert!(grown < 200_000, "{grown} bytes more after 600 operations");
    assert_eq!(prepared(&pool).await, 0);
}
