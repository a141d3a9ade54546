//! G7: a handler that commits its claim in its own transaction. On SQLite, which needs no server;
//! `proof/tests/stores/once/` tests the same on every database.

use std::convert::Infallible;
use std::error::Error;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body::{Body, Frame};
use http_body_util::Full;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool};
use sqlx::{AssertSqlSafe, Sqlite};
use tokio::sync::Notify;
use tokio::task::yield_now;
use tower::util::BoxCloneSyncService;
use tower::{BoxError, Layer, ServiceExt, service_fn};
use tower_idempotency::exactly_once::{CommitError, CommitErrorKind, SqlClaim};
use tower_idempotency::options::{OnDisconnect, OnLapsedLease};
use tower_idempotency::steps::StepFaultKind;
use tower_idempotency::store::Store;
use tower_idempotency::{
    IdempotencyContext, IdempotencyLayer, ResponseBody, RouteOptions, SqliteStore,
};

use crate::support::{Seen, answer, builder, created, post};

type Asked = Request<Full<Bytes>>;
type Answer = Response<Full<Bytes>>;
type App = BoxCloneSyncService<Asked, Response<ResponseBody<Full<Bytes>>>, BoxError>;

/// After this time a test has failed that waits for what never comes.
const LIMIT: Duration = Duration::from_secs(60);

/// A database of the test's own, with the records and the effects of handlers.
struct Shop {
    directory: PathBuf,
    pool: SqlitePool,
    store: SqliteStore,
}

impl Shop {
    async fn open() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("tower-idempotency-g7-{}-{number}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&directory).unwrap();
        let options = SqliteConnectOptions::new()
            .filename(directory.join("app.db"))
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal);
        let pool = SqlitePool::connect_with(options).await.unwrap();
        let records = SqliteStore::builder(pool.clone()).table("records");
        records.migrate().await.unwrap();
        let store = records.open().await.unwrap();
        let shop = Self {
            directory,
            pool,
            store,
        };
        shop.run("CREATE TABLE ledger (entry TEXT)").await;
        shop
    }

    async fn run(&self, statement: &'static str) {
        sqlx::query(AssertSqlSafe(statement))
            .execute(&self.pool)
            .await
            .unwrap();
    }

    async fn entries(&self) -> i64 {
        sqlx::query_scalar("SELECT count(*) FROM ledger")
            .fetch_one(&self.pool)
            .await
            .unwrap()
    }

    fn layer(&self, change: impl FnOnce(RouteOptions) -> RouteOptions) -> IdempotencyLayer {
        builder(&self.store).defaults(change).build().unwrap()
    }

    /// A service whose handler writes and commits.
    fn paying(&self, layer: &IdempotencyLayer) -> App {
        let pool = self.pool.clone();
        app(layer, move |request| {
            let pool = pool.clone();
            async move { Ok(pay(&pool, &claim(&request)).await?) }
        })
    }
}

impl Drop for Shop {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

fn app<F>(
    layer: &IdempotencyLayer,
    handler: impl Fn(Asked) -> F + Clone + Send + Sync + 'static,
) -> App
where
    F: Future<Output = Result<Answer, BoxError>> + Send + 'static,
{
    BoxCloneSyncService::new(layer.layer(service_fn(handler)))
}

fn claim(request: &Asked) -> SqlClaim<Sqlite> {
    SqlClaim::of(request.extensions()).expect("a protected request")
}

async fn pay(pool: &SqlitePool, claim: &SqlClaim<Sqlite>) -> Result<Answer, CommitError> {
    let mut transaction = pool.begin().await.unwrap();
    sqlx::query("INSERT INTO ledger (entry) VALUES ('paid')")
        .execute(&mut *transaction)
        .await
        .unwrap();
    claim.commit(transaction, created("paid")).await
}

async fn ask(app: &App, key: &str) -> Seen {
    Seen::whole(app.clone().oneshot(post(key, "{}")).await.unwrap()).await
}

#[tokio::test]
async fn a_committed_answer_is_sent_recorded_and_counted() {
    let shop = Shop::open().await;
    let layer = shop.layer(|options| {
        options
            .created_at_header("x-created")
            .expires_at_header("x-expires")
    });
    let app = shop.paying(&layer);
    let first = ask(&app, "k").await;
    first.assert_fresh("paid");
    let again = ask(&app, "k").await;
    again.assert_replays(&first);
    for name in ["x-created", "x-expires"] {
        assert!(first.header(name).is_some());
        assert_eq!(first.header(name), again.header(name));
    }
    let counts = layer.counts();
    let seen = (counts.executed, counts.recorded, counts.replayed);
    assert_eq!(seen, (1, 1, 1));
    assert_eq!((counts.released, counts.overtaken), (0, 0));
    assert_eq!(shop.entries().await, 1);
}

/// A response may hold the operation that it answers, and the operation holds what was committed: one
/// of them has to let go.
#[tokio::test]
async fn a_context_in_the_extensions_of_a_committed_answer_goes_with_the_answer() {
    #[derive(Clone)]
    struct Kept(
        #[expect(dead_code, reason = "it is kept")] IdempotencyContext,
        Arc<()>,
    );
    let shop = Shop::open().await;
    let (pool, own) = (shop.pool.clone(), Arc::new(()));
    let (layer, kept) = (shop.layer(|options| options), Arc::clone(&own));
    let app = app(&layer, move |request| {
        let (pool, own) = (pool.clone(), Arc::clone(&kept));
        async move {
            let claim = claim(&request);
            let mut response = created("paid");
            let kept = Kept(claim.context(), own);
            response.extensions_mut().insert(kept);
            let transaction = pool.begin().await?;
            Ok(claim.commit(transaction, response).await?)
        }
    });
    let response = app.clone().oneshot(post("k", "{}")).await.unwrap();
    let sent = response.extensions().get::<Kept>().unwrap();
    assert!(Arc::ptr_eq(&sent.1, &own), "layers further out see them");
    drop(Seen::whole(response).await);
    drop(app);
    assert_eq!(Arc::strong_count(&own), 1, "the operation keeps itself");
}

#[tokio::test]
async fn a_claim_is_committed_through_a_store_that_is_shared() {
    let shop = Shop::open().await;
    let layer = builder(&Arc::new(shop.store.clone())).build().unwrap();
    let app = shop.paying(&layer);
    let first = ask(&app, "k").await;
    first.assert_fresh("paid");
    ask(&app, "k").await.assert_replays(&first);
    assert_eq!(shop.entries().await, 1);
}

#[tokio::test]
async fn an_answer_that_is_too_large_is_committed_and_its_record_is_sealed() {
    let shop = Shop::open().await;
    for (most, retried) in [(4, 201), (3, 409)] {
        let layer = shop.layer(|options| options.max_recorded_body(most));
        let app = shop.paying(&layer);
        let key = format!("{most}");
        assert_eq!(ask(&app, &key).await.status, 201);
        assert_eq!(ask(&app, &key).await.status, retried);
        assert_eq!(layer.counts().sealed, u64::from(retried == 409));
    }
}

#[tokio::test]
async fn an_owner_that_was_overtaken_does_not_commit() {
    let shop = Shop::open().await;
    let layers = [shop.layer(|options| options), shop.layer(|options| options)];
    let other = shop.paying(&layers[1]);
    let pool = shop.pool.clone();
    let late = app(&layers[0], move |request| {
        let (pool, other) = (pool.clone(), other.clone());
        async move {
            let claim = claim(&request);
            sqlx::query("UPDATE records SET lapses_at = 0")
                .execute(&pool)
                .await?;
            assert_eq!(ask(&other, "k").await.status, 201);
            let error = pay(&pool, &claim).await.unwrap_err();
            assert_eq!(error.kind(), CommitErrorKind::Lost);
            Ok(answer(StatusCode::OK, "whatever"))
        }
    });
    assert_eq!(ask(&late, "k").await.refusal(), "409 in-flight");
    assert_eq!(layers[0].counts().overtaken, 1);
    assert_eq!(shop.entries().await, 1);
}

#[tokio::test]
async fn on_an_exactly_once_route_a_success_without_a_commit_is_an_error() {
    let shop = Shop::open().await;
    let layer = shop.layer(|options| {
        options
            .exactly_once(true)
            .on_lapsed_lease(OnLapsedLease::Refuse)
    });
    let of = |status: u16| {
        let status = StatusCode::from_u16(status).unwrap();
        app(&layer, move |_| async move { Ok(answer(status, "")) })
    };
    for (status, sent) in [(200, 500), (303, 500), (404, 404), (502, 502), (307, 307)] {
        let app = of(status);
        assert_eq!(ask(&app, &format!("{status}")).await.status, sent);
    }
    assert_eq!(ask(&of(200), "200").await.refusal(), "409 outcome-unknown");
    let counts = layer.counts();
    assert_eq!((counts.recorded, counts.outcome_unknown), (1, 2));
}

#[tokio::test]
async fn on_an_exactly_once_route_an_owner_that_was_overtaken_is_told_so() {
    let shop = Shop::open().await;
    let layers = [0, 1].map(|_| shop.layer(|options| options.exactly_once(true)));
    let other = shop.paying(&layers[1]);
    let pool = shop.pool.clone();
    let late = app(&layers[0], move |_| {
        let (pool, other) = (pool.clone(), other.clone());
        async move {
            sqlx::query("UPDATE records SET lapses_at = 0")
                .execute(&pool)
                .await?;
            assert_eq!(ask(&other, "k").await.status, 201);
            Ok(created("without a commit"))
        }
    });
    assert_eq!(ask(&late, "k").await.refusal(), "409 in-flight");
}

/// Pays, and returns while the `COMMIT` is under way. Whether the `COMMIT` succeeds is what
/// `ends` receives.
async fn leave_while_committing(pool: &SqlitePool, claim: &SqlClaim<Sqlite>, ends: Receiver<bool>) {
    let arrived = Arc::new(Notify::new());
    // The connection keeps its hook, so nobody else gets it.
    let options = SqliteConnectOptions::clone(&pool.connect_options());
    let own = SqlitePool::connect_with(options).await.unwrap();
    let mut transaction = own.begin().await.unwrap();
    let hook = {
        let arrived = Arc::clone(&arrived);
        move || {
            arrived.notify_one();
            ends.recv().unwrap_or(false)
        }
    };
    transaction
        .lock_handle()
        .await
        .unwrap()
        .set_commit_hook(hook);
    sqlx::query("INSERT INTO ledger (entry) VALUES ('paid')")
        .execute(&mut *transaction)
        .await
        .unwrap();
    tokio::select! {
        _ = claim.commit(transaction, created("paid")) => panic!("the COMMIT ended"),
        () = arrived.notified() => {}
    }
}

/// A service whose handler gives up while its `COMMIT` is under way, and does `then` before it
/// responds with 503.
fn leaving<F>(
    shop: &Shop,
    layer: &IdempotencyLayer,
    then: impl Fn(Sender<bool>) -> F + Clone + Send + Sync + 'static,
) -> App
where
    F: Future<Output = ()> + Send + 'static,
{
    let pool = shop.pool.clone();
    app(layer, move |request| {
        let (pool, then) = (pool.clone(), then.clone());
        async move {
            let (end, ends) = channel();
            leave_while_committing(&pool, &claim(&request), ends).await;
            then(end).await;
            Ok(answer(StatusCode::SERVICE_UNAVAILABLE, "gave up"))
        }
    })
}

#[tokio::test]
async fn a_commit_that_nobody_heard_of_is_found_and_counted() {
    let shop = Shop::open().await;
    let layer = shop.layer(|options| options);
    let app = leaving(&shop, &layer, async |end| end.send(true).unwrap());
    let first = ask(&app, "k").await;
    first.assert_fresh("paid");
    ask(&app, "k").await.assert_replays(&first);
    let counts = layer.counts();
    assert_eq!(
        (counts.executed, counts.recorded, counts.released),
        (1, 1, 0)
    );
    assert_eq!(shop.entries().await, 1);
}

#[tokio::test]
async fn a_commit_that_nobody_heard_of_and_that_was_rolled_back_may_run_again() {
    let shop = Shop::open().await;
    let layer = shop.layer(|options| options);
    let app = leaving(&shop, &layer, async |end| end.send(false).unwrap());
    assert_eq!(ask(&app, "k").await.text(), "gave up");
    let counts = layer.counts();
    assert_eq!(
        (counts.executed, counts.recorded, counts.released),
        (1, 0, 1)
    );
    assert_eq!(shop.entries().await, 0);
}

#[tokio::test]
async fn a_commit_that_nobody_heard_of_may_have_been_overtaken() {
    let shop = Shop::open().await;
    let layers = [shop.layer(|options| options), shop.layer(|options| options)];
    let other = shop.paying(&layers[1]);
    let pool = shop.pool.clone();
    let kept = Arc::new(Mutex::new(None));
    let context = Arc::clone(&kept);
    let late = app(&layers[0], move |request| {
        let (pool, other, context) = (pool.clone(), other.clone(), Arc::clone(&context));
        async move {
            let claim = claim(&request);
            let (end, ends) = channel();
            leave_while_committing(&pool, &claim, ends).await;
            end.send(false).unwrap();
            sqlx::query("UPDATE records SET lapses_at = 0")
                .execute(&pool)
                .await?;
            assert_eq!(ask(&other, "k").await.status, 201);
            assert!(!claim.context().is_lost());
            *context.lock().unwrap() = Some(claim.context());
            Ok(answer(StatusCode::OK, "whatever"))
        }
    });
    assert_eq!(ask(&late, "k").await.refusal(), "409 in-flight");
    assert!(kept.lock().unwrap().as_ref().unwrap().is_lost());
    let counts = layers[0].counts();
    assert_eq!((counts.overtaken, counts.released), (1, 0));
    assert_eq!(shop.entries().await, 1);
}

#[tokio::test]
async fn a_commit_that_is_under_way_for_too_long_is_left_in_flight() {
    let shop = Shop::open().await;
    let layer = builder(&shop.store)
        .store_timeout(Duration::from_millis(50))
        .build()
        .unwrap();
    let ends = Arc::new(Mutex::new(None));
    let app = leaving(&shop, &layer, {
        let ends = Arc::clone(&ends);
        move |end| {
            *ends.lock().unwrap() = Some(end);
            std::future::ready(())
        }
    });
    assert_eq!(ask(&app, "k").await.refusal(), "409 in-flight");
    let counts = layer.counts();
    assert_eq!((counts.in_doubt, counts.released), (1, 0));
    // The commit arrives late, and counts.
    ends.lock().unwrap().take().unwrap().send(true).unwrap();
    while shop.entries().await == 0 {
        yield_now().await;
    }
    let again = ask(&shop.paying(&layer), "k").await;
    assert!(again.is_replay());
    assert_eq!((again.status, again.text()), (201, "paid"));
}

/// A body without data that ends when this future does.
struct EndsWith(Pin<Box<dyn Future<Output = ()> + Send>>);

impl Body for EndsWith {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.as_mut().poll(cx).map(|()| None)
    }
}

#[tokio::test]
async fn an_operation_whose_commit_the_layer_hears_of_late_is_counted_once() {
    let shop = Shop::open().await;
    let layer = builder(&shop.store)
        .store_timeout(Duration::from_millis(50))
        .build()
        .unwrap();
    let [begun, go, done] = [(); 3].map(|()| Arc::new(Notify::new()));
    let app = app(&layer, {
        let (pool, go, done) = (shop.pool.clone(), Arc::clone(&go), Arc::clone(&done));
        move |request| {
            let (pool, claim) = (pool.clone(), claim(&request));
            let [begun, go, done] = [&begun, &go, &done].map(Arc::clone);
            let begins = Arc::clone(&begun);
            let body = EndsWith(Box::pin(async move {
                begins.notify_one();
                go.notified().await;
            }));
            tokio::spawn(async move {
                let transaction = pool.begin().await.unwrap();
                let late = claim.commit(transaction, Response::new(body)).await;
                late.unwrap();
                done.notify_one();
            });
            async move {
                begun.notified().await;
                Ok(answer(StatusCode::SERVICE_UNAVAILABLE, "gave up"))
            }
        }
    });
    assert_eq!(ask(&app, "k").await.refusal(), "409 in-flight");
    assert_eq!(layer.counts().in_doubt, 1);
    go.notify_one();
    done.notified().await;
    assert!(ask(&app, "k").await.is_replay());
    let counts = layer.counts();
    assert_eq!(
        (counts.executed, counts.in_doubt, counts.recorded),
        (1, 1, 0)
    );
}

#[tokio::test]
async fn a_handler_that_is_dropped_after_its_commit_releases_nothing() {
    let shop = Shop::open().await;
    let layer = shop.layer(|options| options.on_disconnect(OnDisconnect::Cancel));
    let paid = Arc::new(Notify::new());
    let stays = app(&layer, {
        let (pool, paid) = (shop.pool.clone(), Arc::clone(&paid));
        move |request| {
            let (pool, paid) = (pool.clone(), Arc::clone(&paid));
            async move {
                pay(&pool, &claim(&request)).await?;
                paid.notify_one();
                std::future::pending().await
            }
        }
    });
    tokio::select! {
        _ = ask(&stays, "k") => panic!("the handler stays"),
        () = paid.notified() => {}
    }
    let counts = layer.counts();
    let ended = (counts.recorded, counts.released, counts.outcome_unknown);
    assert_eq!(ended, (1, 0, 0));
    assert!(ask(&stays, "k").await.is_replay());
}

#[tokio::test]
async fn a_commit_wakes_those_who_wait_for_the_outcome() {
    let shop = Shop::open().await;
    let layer = shop.layer(|options| options);
    // As long as the clock stands still, nothing but a change resolves a subscription. It stands
    // still for as long as this task blocks.
    tokio::time::pause();
    let (done, is_done) = channel();
    let stopped = tokio::task::spawn_blocking(move || is_done.recv_timeout(LIMIT).is_ok());
    let (store, pool) = (shop.store.clone(), shop.pool.clone());
    let app = app(&layer, move |request| {
        let (store, pool, done) = (store.clone(), pool.clone(), done.clone());
        async move {
            let claim = claim(&request);
            let changed = store.subscribe(&claim.context().record_id()).await?;
            tokio::spawn(async move {
                changed.await;
                let _ = done.send(());
            });
            Ok(pay(&pool, &claim).await?)
        }
    });
    assert_eq!(ask(&app, "k").await.status, 201);
    assert!(stopped.await.unwrap(), "no waiter was woken");
}

/// The commit would drop the result of a step that is running, and nobody would be given the result
/// of one that comes after it.
#[tokio::test(flavor = "multi_thread")]
async fn a_commit_waits_for_every_step_and_ends_them() {
    let shop = Shop::open().await;
    let layer = shop.layer(|options| options.steps(true));
    let pool = shop.pool.clone();
    let service = app(&layer, move |request| {
        let pool = pool.clone();
        async move {
            let claim = claim(&request);
            let context = claim.context().clone();
            let charged = context.step("charge", async |_| {
                let open = pay(&pool, &claim).await.unwrap_err();
                assert_eq!(open.kind(), CommitErrorKind::Failed);
                let why = open.source().unwrap().to_string();
                assert!(
                    why.starts_with("a step of the operation is running"),
                    "{why}"
                );
                Ok::<_, Infallible>(7)
            });
            assert_eq!(charged.await?, 7);
            let answer = pay(&pool, &claim).await?;
            let late = context.step("mail", async |_| -> Result<(), Infallible> {
                unreachable!("the operation has ended");
            });
            let fault = late.await.unwrap_err();
            assert_eq!(fault.fault().unwrap().kind(), StepFaultKind::Ended);
            Ok(answer)
        }
    });
    let first = ask(&service, "k").await;
    assert_eq!((first.status, shop.entries().await), (201, 1));
    assert!(ask(&service, "k").await.is_replay());
}
