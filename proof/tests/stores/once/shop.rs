//! This shop has its ledger in the database of the records. The ledger has no
//! unique constraint, so an effect that happens twice is visible.

#![allow(dead_code, reason = "each database uses a part of it")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use sqlx::{AssertSqlSafe, Transaction};
use tower::util::BoxCloneSyncService;
use tower::{BoxError, Layer, ServiceExt, service_fn};
use tower_idempotency::exactly_once::{CommitError, SqlClaim};
use tower_idempotency::{IdempotencyLayer, IdempotencyLayerBuilder, ResponseBody, scope};

use super::{Db, LEDGER, Pool, Store, pool, store};

pub(super) type Answer = Response<Full<Bytes>>;
pub(super) type Asked = Request<Full<Bytes>>;

/// A `Shop` has records and a ledger of its own test.
pub(super) struct Shop {
    pub(super) handlers: Pool<Db>,
    pub(super) pool: Pool<Db>,
    pub(super) store: Store,
    pub(super) table: String,
    ran: AtomicU32,
}

impl Shop {
    pub(super) async fn open() -> Arc<Self> {
        Self::on(pool().await).await
    }

    /// Opens a shop whose handlers share a pool with the store.
    pub(super) async fn on(pool: Pool<Db>) -> Arc<Self> {
        Self::with(pool.clone(), pool).await
    }

    /// Opens a shop whose handlers have a pool of their own.
    pub(super) async fn with(handlers: Pool<Db>, pool: Pool<Db>) -> Arc<Self> {
        static LAST: AtomicU32 = AtomicU32::new(0);
        let number = LAST.fetch_add(1, Ordering::Relaxed);
        let table = format!("o{number}_{:x}", rand::random::<u64>());
        Self::named(table, handlers, pool).await
    }

    pub(super) async fn named(table: String, handlers: Pool<Db>, pool: Pool<Db>) -> Arc<Self> {
        let shop = Self::existing(table, handlers, pool).await;
        shop.run(LEDGER).await;
        shop
    }

    /// Opens the shop of another process.
    pub(super) async fn existing(table: String, handlers: Pool<Db>, pool: Pool<Db>) -> Arc<Self> {
        let store = store(&pool, &table).await;
        Arc::new(Self {
            handlers,
            pool,
            store,
            table,
            ran: AtomicU32::new(0),
        })
    }

    /// Returns a statement. `{t}` and `{ledger}` stand for the names of the tables.
    pub(super) fn sql(&self, statement: &str) -> AssertSqlSafe<String> {
        let ledger = format!("{}_ledger", self.table);
        AssertSqlSafe(
            statement
                .replace("{t}", &self.table)
                .replace("{ledger}", &ledger),
        )
    }

    pub(super) async fn run(&self, statement: &str) {
        let run = sqlx::raw_sql(self.sql(statement)).execute(&self.pool);
        run.await.unwrap();
    }

    pub(super) async fn number(&self, query: &str) -> i64 {
        let number = sqlx::query_scalar(self.sql(query)).fetch_one(&self.pool);
        number.await.unwrap()
    }

    pub(super) async fn entries(&self) -> i64 {
        self.number("SELECT count(*) FROM {ledger}").await
    }

    /// Writes a handler's effect.
    pub(super) async fn write(
        &self,
        transaction: &mut Transaction<'_, Db>,
    ) -> Result<(), sqlx::Error> {
        let insert = self.sql("INSERT INTO {ledger} (entry) VALUES ('paid')");
        sqlx::query(insert).execute(&mut **transaction).await?;
        Ok(())
    }

    pub(super) async fn begin(&self) -> Transaction<'static, Db> {
        self.handlers.begin().await.unwrap()
    }

    /// Does all that a handler has to do: it begins, writes and commits.
    pub(super) async fn pay(&self, claim: &SqlClaim<Db>) -> Result<Answer, CommitError> {
        let mut transaction = self.begin().await;
        self.write(&mut transaction).await.unwrap();
        claim.commit(transaction, self.paid()).await
    }

    /// Returns a response that differs each time.
    pub(super) fn paid(&self) -> Answer {
        let number = self.ran.fetch_add(1, Ordering::SeqCst) + 1;
        answer(StatusCode::CREATED, format!("paid {number}"))
    }

    /// Returns a service that pays for every request.
    pub(super) fn till(self: &Arc<Self>, layer: &IdempotencyLayer) -> Till {
        let shop = Arc::clone(self);
        till(layer, move |request| {
            let shop = Arc::clone(&shop);
            async move { shop.pay(&claim(&request)).await }
        })
    }

    pub(super) fn builder(&self) -> IdempotencyLayerBuilder {
        IdempotencyLayer::builder(self.store.clone(), scope::shared())
    }

    /// Lets the lease of every record lapse, as if the owner had died.
    pub(super) async fn lapse(&self) {
        self.run(super::LAPSE).await;
    }
}

/// A till is the service to which clients send payments.
pub(super) type Till = BoxCloneSyncService<Asked, Sent, BoxError>;

/// Returns the handler behind the layer.
pub(super) fn till<F, E>(
    layer: &IdempotencyLayer,
    handler: impl Fn(Asked) -> F + Clone + Send + Sync + 'static,
) -> Till
where
    F: Future<Output = Result<Answer, E>> + Send + 'static,
    E: Into<BoxError> + Send + 'static,
{
    let service = layer.layer(service_fn(handler)).map_err(Into::into);
    BoxCloneSyncService::new(service)
}

pub(super) async fn ask(till: &Till, key: &str) -> Got {
    whole(send(till, key).await).await
}

pub(super) type Sent = Response<ResponseBody<Full<Bytes>>>;

pub(super) async fn send(till: &Till, key: &str) -> Sent {
    till.clone().oneshot(post(key)).await.unwrap()
}

pub(super) fn answer(status: StatusCode, body: impl Into<Bytes>) -> Answer {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response
}

pub(super) fn claim(request: &Asked) -> SqlClaim<Db> {
    SqlClaim::of(request.extensions()).expect("a protected request")
}

pub(super) fn post(key: &str) -> Asked {
    let mut request = Request::post("/payments").body(Full::default()).unwrap();
    let key = HeaderValue::from_str(key).unwrap();
    request.headers_mut().insert("idempotency-key", key);
    request
}

/// `Got` is a status and a body.
pub(super) type Got = (u16, String);

pub(super) fn got(status: u16, body: &str) -> Got {
    (status, body.to_owned())
}

pub(super) async fn whole<B>(response: Response<B>) -> Got
where
    B: http_body::Body<Data = Bytes>,
    B::Error: std::fmt::Debug,
{
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

pub(super) fn assert_refused(got: &Got, status: u16, reason: &str) {
    assert_eq!((got.0, &*code(got)), (status, reason), "{got:?}");
}

/// Returns the code of a rejection.
pub(super) fn code((_, body): &Got) -> String {
    let problem: serde_json::Value = serde_json::from_str(body).unwrap_or_default();
    problem["code"].as_str().unwrap_or(body).to_owned()
}

/// Waits until the condition holds.
pub(super) async fn until(mut is_so: impl AsyncFnMut() -> bool) {
    let waited = tokio::time::timeout(Duration::from_secs(20), async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    waited.await.expect("it never is");
}
