//! In these tests the claim itself is made in the handler's transaction
//! (`ExactlyOnce::InTransaction`).

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use http::StatusCode;
use sqlx::Transaction;
use tokio::sync::Notify;
use tower::{BoxError, Layer, ServiceBuilder, ServiceExt, service_fn};
use tower_idempotency::exactly_once::{CommitError, CommitErrorKind, SqlClaim};
use tower_idempotency::options::{
    ExactlyOnce, OnDisconnect, OnInFlight, OnStoreError, RouteOptions,
};
use tower_idempotency::recording::Statuses;
use tower_idempotency::rejection::RejectionCode;
use tower_idempotency::store::Encryption;
use tower_idempotency::{Audit, IdempotencyContext, IdempotencyLayer, MemoryStore, scope};

use super::shop::*;
use super::{BEGUN_TWICE, Db};

pub(super) fn layer_of(shop: &Shop) -> IdempotencyLayer {
    layer_with(shop, |options| options)
}

pub(super) fn layer_with(
    shop: &Shop,
    change: impl FnOnce(RouteOptions) -> RouteOptions,
) -> IdempotencyLayer {
    let layer = shop.builder().defaults(inside).defaults(change);
    layer.build().unwrap()
}

pub(super) fn inside(options: RouteOptions) -> RouteOptions {
    options.exactly_once(ExactlyOnce::InTransaction)
}

impl Shop {
    /// Does all that a handler has to do in a transaction that begins with the claim.
    pub(super) async fn pay_inside(&self, claim: &SqlClaim<Db>) -> Result<Answer, CommitError> {
        let mut transaction = claim.begin(&self.handlers).await?;
        self.write(&mut transaction).await?;
        claim.commit(transaction, self.paid()).await
    }

    /// Returns a service that pays for every request in such a transaction.
    pub(super) fn till_inside(self: &Arc<Self>, layer: &IdempotencyLayer) -> Till {
        let shop = Arc::clone(self);
        till(layer, move |request| {
            let shop = Arc::clone(&shop);
            async move { shop.pay_inside(&claim(&request)).await }
        })
    }

    async fn records(&self) -> i64 {
        self.number("SELECT count(*) FROM {t}").await
    }
}

/// A handler that stops once it has written, until it is told to go on.
#[derive(Clone, Default)]
struct Gate {
    reached: Arc<Notify>,
    goes_on: Arc<Notify>,
}

impl Gate {
    fn till(&self, shop: &Arc<Shop>, layer: &IdempotencyLayer) -> Till {
        let (shop, gate) = (Arc::clone(shop), self.clone());
        till(layer, move |request| {
            let (shop, gate) = (Arc::clone(&shop), gate.clone());
            async move {
                let claim = claim(&request);
                let mut transaction = claim.begin(&shop.handlers).await?;
                shop.write(&mut transaction).await?;
                gate.reached.notify_one();
                gate.goes_on.notified().await;
                claim.commit(transaction, shop.paid()).await
            }
        })
    }
}

fn asked(till: &Till, key: &'static str) -> tokio::task::JoinHandle<Got> {
    let till = till.clone();
    tokio::spawn(async move { ask(&till, key).await })
}

#[tokio::test]
async fn effect_claim_and_answer_are_committed_together() {
    let shop = Shop::open().await;
    let layer = layer_of(&shop);
    let till = shop.till_inside(&layer);
    assert_eq!(ask(&till, "k").await, got(201, "paid 1"));
    let again = send(&till, "k").await;
    assert_eq!(again.headers()["idempotency-replayed"], "true");
    assert_eq!(whole(again).await, got(201, "paid 1"));
    assert_eq!(shop.entries().await, 1);
    let completed = "SELECT count(*) FROM {t} WHERE state = 3 AND attempt = 1";
    assert_eq!(shop.number(completed).await, 1);
    let counts = layer.counts();
    assert_eq!((counts.executed, counts.recorded), (1, 1));
    assert_eq!((counts.replayed, counts.released), (1, 0));
}

/// What this mode leaves is a record like any other.
#[tokio::test]
async fn layers_of_every_mode_replay_the_record_and_operators_find_it() {
    let shop = Shop::open().await;
    let layer = shop.builder().defaults(inside);
    let layer = layer.route("POST /payments", |options| options);
    let layer = layer.build().unwrap();
    assert_eq!(
        ask(&shop.till_inside(&layer), "k").await,
        got(201, "paid 1")
    );
    for mode in [ExactlyOnce::No, ExactlyOnce::Committed] {
        let other = shop
            .builder()
            .defaults(|options| options.exactly_once(mode));
        let other = other.build().unwrap();
        assert_eq!(ask(&shop.till(&other), "k").await, got(201, "paid 1"));
    }
    let page = layer
        .records()
        .list(&tower_idempotency::store::ListQuery::new())
        .await
        .unwrap();
    let [listed] = &page.records[..] else {
        panic!("{page:?}")
    };
    assert_eq!(listed.origin.route.as_deref(), Some("POST /payments"));
    assert!(listed.scope.is_some());
    let audit = Audit::new("alice", "a test").unwrap();
    layer.records().forget(&listed.id, &audit).await.unwrap();
    assert_eq!(
        ask(&shop.till_inside(&layer), "k").await,
        got(201, "paid 2")
    );
}

#[tokio::test]
async fn while_a_transaction_runs_nothing_is_stored_and_a_duplicate_is_told_at_once() {
    let shop = Shop::open().await;
    let layer = layer_of(&shop);
    let gate = Gate::default();
    let till = gate.till(&shop, &layer);
    let first = asked(&till, "k");
    gate.reached.notified().await;
    let began = Instant::now();
    for _ in 0..3 {
        assert_refused(&ask(&till, "k").await, 409, "in-flight");
    }
    assert!(
        began.elapsed() < Duration::from_secs(2),
        "{:?}",
        began.elapsed()
    );
    assert_eq!((shop.records().await, shop.entries().await), (0, 0));
    gate.goes_on.notify_one();
    assert_eq!(first.await.unwrap(), got(201, "paid 1"));
    assert_eq!(ask(&till, "k").await, got(201, "paid 1"));
    let counts = layer.counts();
    assert_eq!((counts.executed, counts.replayed), (1, 1));
    assert_eq!(counts.rejected(RejectionCode::InFlight), 3);
    assert_eq!(shop.entries().await, 1);
}

/// There are more duplicates than connections, and all of the connections are free.
#[tokio::test]
async fn a_duplicate_that_waits_holds_no_connection_and_is_replayed() {
    let pool = super::pool().await;
    let options = pool.options().clone().max_connections(2);
    let handlers = options.connect_lazy_with((*pool.connect_options()).clone());
    let shop = Shop::with(handlers, pool).await;
    let wait = OnInFlight::Wait(Duration::from_secs(20));
    let layer = layer_with(&shop, |options| options.on_in_flight(wait));
    let gate = Gate::default();
    let till = gate.till(&shop, &layer);
    let first = asked(&till, "k");
    gate.reached.notified().await;
    let others: Vec<_> = (0..5).map(|_| asked(&till, "k")).collect();
    for _ in 0..20 {
        let asks = sqlx::query("SELECT 1").execute(&shop.handlers);
        let asks = tokio::time::timeout(Duration::from_secs(2), asks).await;
        asks.expect("a connection is free").unwrap();
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    gate.goes_on.notify_one();
    assert_eq!(first.await.unwrap(), got(201, "paid 1"));
    for other in others {
        assert_eq!(other.await.unwrap(), got(201, "paid 1"));
    }
    assert_eq!(shop.entries().await, 1);
    assert_eq!(layer.counts().executed, 1);
}

#[tokio::test]
async fn a_duplicate_does_not_wait_for_longer_than_its_route_says() {
    let shop = Shop::open().await;
    let wait = OnInFlight::Wait(Duration::from_millis(100));
    let layer = layer_with(&shop, |options| options.on_in_flight(wait));
    let gate = Gate::default();
    let till = gate.till(&shop, &layer);
    let first = asked(&till, "k");
    gate.reached.notified().await;
    let began = Instant::now();
    assert_refused(&ask(&till, "k").await, 409, "in-flight");
    assert!(began.elapsed() >= Duration::from_millis(100));
    gate.goes_on.notify_one();
    assert_eq!(first.await.unwrap(), got(201, "paid 1"));
}

/// Another request has committed after the layer looked and before the handler began.
#[tokio::test]
async fn a_handler_that_finds_the_operation_done_does_not_do_it_and_its_client_gets_the_answer() {
    let shop = Shop::open().await;
    let other = shop.till_inside(&layer_of(&shop));
    let layer = layer_of(&shop);
    let till = {
        let shop = Arc::clone(&shop);
        till(&layer, move |request| {
            let (shop, other) = (Arc::clone(&shop), other.clone());
            async move {
                assert_eq!(ask(&other, "k").await, got(201, "paid 1"));
                let error = shop.pay_inside(&claim(&request)).await.unwrap_err();
                assert_eq!(error.kind(), CommitErrorKind::Found, "{error:?}");
                Ok::<_, BoxError>(answer(StatusCode::OK, "whatever"))
            }
        })
    };
    let replayed = send(&till, "k").await;
    assert_eq!(replayed.headers()["idempotency-replayed"], "true");
    assert_eq!(whole(replayed).await, got(201, "paid 1"));
    assert_eq!(shop.entries().await, 1);
    assert_eq!((layer.counts().executed, layer.counts().replayed), (0, 1));
}

#[tokio::test]
async fn another_request_with_the_key_is_told_so() {
    let shop = Shop::open().await;
    let till = shop.till_inside(&layer_of(&shop));
    assert_eq!(ask(&till, "k").await, got(201, "paid 1"));
    let mut other = post("k");
    *other.body_mut() = "another".into();
    let refused = whole(till.oneshot(other).await.unwrap()).await;
    assert_refused(&refused, 422, "key-reused");
}

/// An owner of the old mode has a lease, which holds.
#[tokio::test]
async fn a_lease_of_another_mode_is_respected_until_it_lapses() {
    let shop = Shop::open().await;
    let old = shop.builder().build().unwrap();
    let (reached, goes_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let old = {
        let (shop, reached, goes_on) = (shop.clone(), reached.clone(), goes_on.clone());
        till(&old, move |request| {
            let (shop, reached, goes_on) = (shop.clone(), reached.clone(), goes_on.clone());
            async move {
                reached.notify_one();
                goes_on.notified().await;
                shop.pay(&claim(&request)).await
            }
        })
    };
    let layer = layer_of(&shop);
    let till = {
        let (shop, old) = (shop.clone(), old.clone());
        let (began, reached) = (Arc::new(AtomicU32::new(0)), reached.clone());
        till(&layer, move |request| {
            let (shop, old) = (shop.clone(), old.clone());
            let (began, reached) = (began.clone(), reached.clone());
            async move {
                // The claim comes between the look and the transaction.
                if began.fetch_add(1, Ordering::SeqCst) == 0 {
                    tokio::spawn(async move { ask(&old, "k").await });
                    reached.notified().await;
                }
                let claim = claim(&request);
                let paid = shop.pay_inside(&claim).await;
                if let Err(error) = &paid {
                    assert_eq!(error.kind(), CommitErrorKind::InFlight, "{error:?}");
                }
                paid
            }
        })
    };
    // The handler returned an error that no service of tower's knows: the layer rejects.
    assert_refused(&ask(&till, "k").await, 409, "in-flight");
    assert_refused(&ask(&till, "k").await, 409, "in-flight");
    shop.lapse().await;
    assert_eq!(ask(&till, "k").await, got(201, "paid 1"));
    // The old owner was overtaken, and can't commit.
    goes_on.notify_one();
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(shop.entries().await, 1);
    assert_eq!(ask(&till, "k").await, got(201, "paid 1"));
}

/// The old mode does not see a transaction of the new one, and one of both commits.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_modes_that_meet_on_a_key_one_commits() {
    let shop = Shop::open().await;
    let gate = Gate::default();
    let new = gate.till(&shop, &layer_of(&shop));
    let first = asked(&new, "k");
    gate.reached.notified().await;
    let old = shop.builder().store_timeout(Duration::from_millis(300));
    let old = shop.till(&old.build().unwrap());
    let (status, _) = ask(&old, "k").await;
    assert!([201, 409, 503].contains(&status), "{status}");
    gate.goes_on.notify_one();
    first.await.unwrap();
    until(async || ask(&old, "k").await.0 == 201).await;
    assert_eq!(shop.entries().await, 1);
}

type Ends = fn() -> Result<Answer, BoxError>;

#[tokio::test]
async fn what_is_not_committed_leaves_nothing_and_a_retry_runs_at_once() {
    let ends: [(Ends, Option<u16>); 4] = [
        (|| Ok(answer(StatusCode::BAD_GATEWAY, "later")), Some(502)),
        (
            || Ok(answer(StatusCode::NOT_FOUND, "no such account")),
            Some(404),
        ),
        (|| Err("broken".into()), None),
        (|| panic!("in the middle"), None),
    ];
    for (end, status) in ends {
        let shop = Shop::open().await;
        let layer = layer_of(&shop);
        let fails = {
            let shop = Arc::clone(&shop);
            till(&layer, move |request| {
                let shop = Arc::clone(&shop);
                async move {
                    let claim = claim(&request);
                    let mut transaction = claim.begin(&shop.handlers).await?;
                    shop.write(&mut transaction).await?;
                    drop(transaction);
                    end()
                }
            })
        };
        let first = tokio::spawn(fails.oneshot(post("k"))).await;
        let first = first.ok().and_then(Result::ok);
        assert_eq!(first.map(|sent| sent.status().as_u16()), status);
        assert_eq!((shop.entries().await, shop.records().await), (0, 0));
        let began = Instant::now();
        let pays = shop.till_inside(&layer);
        // sqlx rolls a dropped transaction back a moment later.
        until(async || ask(&pays, "k").await.0 == 201).await;
        assert!(
            began.elapsed() < Duration::from_secs(1),
            "{:?}",
            began.elapsed()
        );
        assert_eq!(shop.entries().await, 1);
        assert_eq!((layer.counts().released, layer.counts().recorded), (1, 1));
    }
}

#[tokio::test]
async fn a_success_without_a_commit_is_an_error_and_the_claim_is_closed() {
    let shop = Shop::open().await;
    let layer = layer_of(&shop);
    let kept = Arc::new(std::sync::Mutex::new(None));
    let till = {
        let kept = Arc::clone(&kept);
        till(&layer, move |request| {
            *kept.lock().unwrap() = Some(claim(&request));
            async move { Ok::<_, BoxError>(answer(StatusCode::OK, "")) }
        })
    };
    assert_refused(&ask(&till, "k").await, 500, "outcome-unknown");
    assert_eq!(shop.records().await, 0);
    let claim = kept.lock().unwrap().take().unwrap();
    let error = claim.begin(&shop.handlers).await.unwrap_err();
    assert_eq!(error.kind(), CommitErrorKind::Failed, "{error:?}");
    assert_eq!(
        ask(&shop.till_inside(&layer), "k").await,
        got(201, "paid 1")
    );
}

/// Runs a handler that misuses its claim, and checks that the claim can be used after that.
async fn told<F>(attempt: impl Fn(Arc<Shop>, SqlClaim<Db>) -> F + Clone + Send + Sync + 'static)
where
    F: Future<Output = (CommitError, CommitErrorKind)> + Send + 'static,
{
    let shop = Shop::open().await;
    let till = {
        let shop = Arc::clone(&shop);
        till(&layer_of(&shop), move |request| {
            let (shop, attempt) = (Arc::clone(&shop), attempt.clone());
            async move {
                let claim = claim(&request);
                let (error, kind) = attempt(shop.clone(), claim.clone()).await;
                assert_eq!(error.kind(), kind, "{error:?}");
                let names_begin = error.to_string().contains("SqlClaim::begin");
                assert_eq!(names_begin, kind != CommitErrorKind::Retry, "{error}");
                shop.pay_inside(&claim).await
            }
        })
    };
    assert_eq!(ask(&till, "k").await.0, 201);
    assert_eq!(shop.entries().await, 1);
}

#[tokio::test]
async fn a_commit_without_begin_is_named() {
    told(|shop, claim| async move {
        let mut transaction = shop.begin().await;
        shop.write(&mut transaction).await.unwrap();
        let error = claim.commit(transaction, shop.paid()).await;
        (error.unwrap_err(), CommitErrorKind::NotBegun)
    })
    .await;
}

#[tokio::test]
async fn a_transaction_that_the_claim_has_not_begun_is_named() {
    told(|shop, claim| async move {
        let begun = claim.begin(&shop.handlers).await.unwrap();
        begun.rollback().await.unwrap();
        let mut transaction = shop.begin().await;
        shop.write(&mut transaction).await.unwrap();
        let error = claim.commit(transaction, shop.paid()).await;
        (error.unwrap_err(), CommitErrorKind::NotBegun)
    })
    .await;
}

#[tokio::test]
async fn a_second_transaction_beside_the_first_is_named_and_after_it_begins() {
    told(|shop, claim| async move {
        let first = claim.begin(&shop.handlers).await.unwrap();
        let second = claim.begin(&shop.handlers).await;
        first.rollback().await.unwrap();
        (second.unwrap_err(), BEGUN_TWICE)
    })
    .await;
}

#[tokio::test]
async fn transact_begins_with_the_claim_and_runs_again_what_gave_way() {
    let shop = Shop::open().await;
    let tries = Arc::new(AtomicU32::new(0));
    let till = {
        let (shop, tries) = (Arc::clone(&shop), Arc::clone(&tries));
        till(&layer_of(&shop), move |request| {
            let (shop, tries) = (Arc::clone(&shop), Arc::clone(&tries));
            async move {
                let pool = shop.handlers.clone();
                let work = |mut transaction: Transaction<'static, Db>| {
                    let (shop, tries) = (Arc::clone(&shop), Arc::clone(&tries));
                    async move {
                        shop.write(&mut transaction).await?;
                        if tries.fetch_add(1, Ordering::SeqCst) < 2 {
                            // The transaction is dropped, as if its connection had broken.
                            return Err(sqlx::Error::WorkerCrashed.into());
                        }
                        Ok((transaction, shop.paid()))
                    }
                };
                let claim = claim(&request);
                claim.transact::<_, _, CommitError>(&pool, work).await
            }
        })
    };
    assert_eq!(ask(&till, "k").await, got(201, "paid 1"));
    assert_eq!(tries.load(Ordering::SeqCst), 3);
    assert_eq!(shop.entries().await, 1);
}

#[tokio::test]
async fn a_client_that_leaves_changes_nothing() {
    let shop = Shop::open().await;
    for (at, disconnect) in [OnDisconnect::Finish, OnDisconnect::Cancel]
        .into_iter()
        .enumerate()
    {
        let layer = layer_with(&shop, |options| options.on_disconnect(disconnect));
        let gate = Gate::default();
        let till = gate.till(&shop, &layer);
        let key = ["a", "b"][at];
        let leaves = asked(&till, key);
        gate.reached.notified().await;
        leaves.abort();
        let _ = leaves.await;
        gate.goes_on.notify_one();
        layer.drain(Duration::from_secs(20)).await;
        gate.goes_on.notify_one();
        until(async || {
            gate.goes_on.notify_one();
            ask(&till, key).await.0 == 201
        })
        .await;
        let entries = i64::try_from(at).unwrap() + 1;
        assert_eq!(shop.entries().await, entries, "{disconnect:?}");
    }
}

#[tokio::test]
async fn a_timeout_inside_the_layer_leaves_nothing_before_the_commit_and_all_after_it() {
    for commits in [false, true] {
        let shop = Shop::open().await;
        let layer = layer_of(&shop);
        let hangs = {
            let shop = Arc::clone(&shop);
            service_fn(move |request: Asked| {
                let shop = Arc::clone(&shop);
                async move {
                    let claim = claim(&request);
                    let mut transaction = claim.begin(&shop.handlers).await?;
                    shop.write(&mut transaction).await?;
                    if commits {
                        claim.commit(transaction, shop.paid()).await?;
                    }
                    std::future::pending::<Result<Answer, BoxError>>().await
                }
            })
        };
        let timeout = Duration::from_millis(500);
        let inner = ServiceBuilder::new().timeout(timeout).service(hangs);
        let till = Till::new(layer.layer(inner).map_err(Into::into));
        let first = till.oneshot(post("k")).await;
        assert_eq!(first.is_ok(), commits);
        let pays = shop.till_inside(&layer);
        until(async || ask(&pays, "k").await.0 == 201).await;
        assert_eq!(ask(&pays, "k").await, got(201, "paid 1"));
        assert_eq!(shop.entries().await, 1);
    }
}

#[tokio::test]
async fn an_encrypted_answer_is_read_again() {
    let shop = Shop::open().await;
    let layer = shop.builder().secrets(["a secret of more than 16 bytes"]);
    let layer = layer.encryption(Encryption::xchacha20_poly1305());
    let till = shop.till_inside(&layer.defaults(inside).build().unwrap());
    assert_eq!(ask(&till, "k").await, got(201, "paid 1"));
    assert_eq!(ask(&till, "k").await, got(201, "paid 1"));
    let kept: Vec<u8> = sqlx::query_scalar(shop.sql("SELECT answer FROM {t}"))
        .fetch_one(&shop.pool)
        .await
        .unwrap();
    assert!(!kept.windows(4).any(|bytes| bytes == b"paid"));
}

/// Processes that list the secrets in another order have the record under another id.
#[tokio::test]
async fn while_secrets_are_rotated_no_two_transactions_run_beside_each_other() {
    let shop = Shop::open().await;
    let (old, new) = ("an old secret of 16 bytes", "a new secret of 16 bytes");
    let layer = |secrets: &[&str]| {
        let secrets = secrets.iter().map(|secret| secret.as_bytes());
        let layer = shop.builder().secrets(secrets).defaults(inside);
        layer.build().unwrap()
    };
    let gate = Gate::default();
    let first = gate.till(&shop, &layer(&[old, new]));
    let second = shop.till_inside(&layer(&[new, old]));
    let running = asked(&first, "k");
    gate.reached.notified().await;
    assert_refused(&ask(&second, "k").await, 409, "in-flight");
    gate.goes_on.notify_one();
    assert_eq!(running.await.unwrap(), got(201, "paid 1"));
    assert_eq!(ask(&second, "k").await, got(201, "paid 1"));
    // The claims under the other secrets are not left behind.
    assert_eq!(shop.records().await, 1);
    assert_eq!(shop.entries().await, 1);
}

#[tokio::test]
async fn a_handler_is_told_that_attempts_leave_nothing_behind() {
    let shop = Shop::open().await;
    let layer = layer_of(&shop);
    let seen = Arc::new(std::sync::Mutex::new(Vec::new()));
    let till = {
        let (shop, seen) = (Arc::clone(&shop), Arc::clone(&seen));
        till(&layer, move |request: Asked| {
            let (shop, seen) = (Arc::clone(&shop), Arc::clone(&seen));
            async move {
                let context = request.extensions().get::<IdempotencyContext>().unwrap();
                let claim = claim(&request);
                let transaction = claim.begin(&shop.handlers).await?;
                let token = context.fencing_token();
                seen.lock().unwrap().push((context.attempt(), token));
                assert!(!context.is_rerun());
                drop(transaction);
                Ok::<_, BoxError>(answer(StatusCode::SERVICE_UNAVAILABLE, ""))
            }
        })
    };
    for _ in 0..2 {
        assert_eq!(ask(&till, "k").await.0, 503);
        // The dropped transaction is over by then.
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let seen = seen.lock().unwrap();
    assert_eq!((seen[0].0, seen[1].0), (1, 1));
    assert!(seen[0].1 < seen[1].1, "{seen:?}");
}

#[tokio::test]
async fn options_that_make_no_sense_beside_it_are_errors() {
    let shop = Shop::open().await;
    let wrong: [fn(RouteOptions) -> RouteOptions; 3] = [
        |options| options.on_store_error(OnStoreError::RunUnprotected),
        |options| options.mode(tower_idempotency::options::Mode::Observe),
        |options| options.in_doubt(Statuses::none().with([504])),
    ];
    for change in wrong {
        let layer = shop.builder().defaults(inside).defaults(change);
        let error = layer.build().unwrap_err();
        assert_eq!(error.option(), "exactly_once", "{error}");
    }
    let memory = IdempotencyLayer::builder(MemoryStore::new(), scope::shared());
    let error = memory.defaults(inside).build().unwrap_err();
    assert_eq!(error.option(), "exactly_once");
    assert!(
        error
            .to_string()
            .contains("needs a store in an SQL database"),
        "{error}"
    );
}
