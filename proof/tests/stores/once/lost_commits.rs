//! In these tests the result of a `COMMIT` is lost, or a connection ends before the
//! `COMMIT`.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use tower::{BoxError, Layer, ServiceBuilder, ServiceExt, service_fn};
use tower_idempotency::IdempotencyLayer;
use tower_idempotency::exactly_once::{CommitError, CommitErrorKind};
use tower_idempotency::options::OnLapsedLease;

use super::super::wire::{Cut, Wire};
use super::shop::*;
use super::{COMMIT, KILL, WHO, address, options_at, pool, pool_with};

/// Returns a shop whose handlers reach the database over a wire that can be cut.
pub(super) async fn shop() -> (Arc<Shop>, Wire) {
    let wire = Wire::to(address(), COMMIT).await;
    let handlers = pool_with(options_at(wire.port));
    (Shop::with(handlers, pool().await).await, wire)
}

/// The handlers pay, and respond with the kind of the commit's error.
fn telling(shop: &Arc<Shop>, layer: &IdempotencyLayer) -> Till {
    let shop = Arc::clone(shop);
    till(layer, move |request| {
        let shop = Arc::clone(&shop);
        async move {
            let paid = shop.pay(&claim(&request)).await;
            Ok::<_, BoxError>(paid.unwrap_or_else(|error| kind_of(&error)))
        }
    })
}

/// Tells the client the kind of a commit's error.
pub(super) fn kind_of(error: &CommitError) -> Answer {
    answer(
        StatusCode::SERVICE_UNAVAILABLE,
        format!("{:?}", error.kind()),
    )
}

#[tokio::test]
async fn a_commit_whose_answer_was_lost_is_found() {
    let (shop, wire) = shop().await;
    let till = telling(&shop, &shop.builder().build().unwrap());
    wire.cut(Cut::AfterIt);
    assert_eq!(ask(&till, "k").await, got(201, "paid 1"));
    assert!(wire.was_cut());
    assert_eq!(ask(&till, "k").await, got(201, "paid 1"));
    assert_eq!(shop.entries().await, 1);
}

#[tokio::test]
async fn a_commit_that_never_arrived_was_rolled_back_and_can_be_run_again() {
    for options in [OnLapsedLease::Rerun, OnLapsedLease::Refuse] {
        let (shop, wire) = shop().await;
        let layer = shop
            .builder()
            .defaults(move |own| own.on_lapsed_lease(options));
        let till = telling(&shop, &layer.build().unwrap());
        wire.cut(Cut::BeforeIt);
        assert_eq!(ask(&till, "k").await, got(503, "Retry"));
        assert_eq!(shop.entries().await, 0);
        assert_eq!(ask(&till, "k").await, got(201, "paid 2"));
        assert_eq!(shop.entries().await, 1);
    }
}

#[tokio::test]
async fn transact_runs_again_what_was_lost_with_its_connection() {
    let (shop, wire) = shop().await;
    let layer = shop.builder().build().unwrap();
    let till = {
        let shop = Arc::clone(&shop);
        till(&layer, move |request| {
            let shop = Arc::clone(&shop);
            async move {
                let work = |mut transaction| {
                    let shop = Arc::clone(&shop);
                    async move {
                        shop.write(&mut transaction).await?;
                        Ok((transaction, shop.paid()))
                    }
                };
                let claim = claim(&request);
                claim
                    .transact::<_, _, CommitError>(&shop.handlers, work)
                    .await
            }
        })
    };
    wire.cut(Cut::BeforeIt);
    assert_eq!(ask(&till, "k").await, got(201, "paid 2"));
    assert_eq!(shop.entries().await, 1);
}

/// The server still has the transaction open, and nobody can know whether the
/// `COMMIT` is on its way.
async fn in_doubt(cut: Cut) -> (Arc<Shop>, Wire, Till) {
    let (shop, wire) = shop().await;
    let layer = shop.builder().store_timeout(Duration::from_millis(300));
    let layer = layer.build().unwrap();
    let till = telling(&shop, &layer);
    wire.cut(cut);
    assert_refused(&ask(&till, "k").await, 409, "in-flight");
    assert_eq!(layer.counts().in_doubt, 1);
    // Other requests do not wait for the transaction either.
    for _ in 0..3 {
        let others = ask(&till, "k");
        let others = tokio::time::timeout(Duration::from_millis(250), others).await;
        assert_refused(
            &others.expect("no wait for the transaction"),
            409,
            "in-flight",
        );
    }
    assert_eq!(shop.entries().await, 0);
    (shop, wire, till)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_that_arrives_late_counts() {
    let (shop, wire, till) = in_doubt(Cut::Late).await;
    wire.mend();
    until(async || ask(&till, "k").await.0 == 201).await;
    assert_eq!(ask(&till, "k").await, got(201, "paid 1"));
    assert_eq!(shop.entries().await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_in_doubt_that_is_rolled_back_runs_again_once_its_lease_lapsed() {
    let (shop, wire, till) = in_doubt(Cut::Silently).await;
    wire.mend();
    shop.lapse().await;
    until(async || ask(&till, "k").await.0 == 201).await;
    assert_eq!(ask(&till, "k").await, got(201, "paid 2"));
    assert_eq!(shop.entries().await, 1);
}

/// The handler was told that nobody knows, and the database could be asked again before the
/// handler responded: its response says less than the layer knows by then.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_that_the_handler_gave_up_on_is_in_flight_for_its_client_and_runs_again_at_once() {
    for options in [OnLapsedLease::Rerun, OnLapsedLease::Refuse] {
        let (shop, wire) = shop().await;
        let layer = shop.builder().store_timeout(Duration::from_millis(300));
        let layer = layer.defaults(move |own| own.on_lapsed_lease(options));
        let till = {
            let (shop, wire) = (Arc::clone(&shop), wire.clone());
            till(&layer.build().unwrap(), move |request| {
                let (shop, wire) = (Arc::clone(&shop), wire.clone());
                async move {
                    let error = match shop.pay(&claim(&request)).await {
                        Ok(paid) => return Ok::<_, BoxError>(paid),
                        Err(error) => error,
                    };
                    assert_eq!(error.kind(), CommitErrorKind::Unknown, "{error:?}");
                    wire.mend();
                    Ok(answer(StatusCode::CONFLICT, "nobody knows".to_owned()))
                }
            })
        };
        wire.cut(Cut::Silently);
        assert_refused(&ask(&till, "k").await, 409, "in-flight");
        assert_eq!(shop.entries().await, 0);
        assert_eq!(ask(&till, "k").await, got(201, "paid 2"));
        assert_eq!(shop.entries().await, 1);
    }
}

/// The timeout drops the handler's future, so nothing in the handler waits for the
/// commit any more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_timeout_in_the_middle_of_a_commit_does_not_hide_it() {
    let (shop, wire) = shop().await;
    let layer = shop.builder().build().unwrap();
    let pays = {
        let shop = Arc::clone(&shop);
        service_fn(move |request: Asked| {
            let shop = Arc::clone(&shop);
            async move { shop.pay(&claim(&request)).await }
        })
    };
    let timeout = Duration::from_secs(1);
    let inner = ServiceBuilder::new().timeout(timeout).service(pays);
    let till = Till::new(layer.layer(inner).map_err(Into::into));
    wire.cut(Cut::Unanswered);
    assert_eq!(ask(&till, "k").await, got(201, "paid 1"));
    assert!(wire.was_cut());
    assert_eq!(layer.counts().recorded, 1);
    assert_eq!(ask(&till, "k").await, got(201, "paid 1"));
    assert_eq!(shop.entries().await, 1);
    wire.mend();
}

#[tokio::test]
async fn a_connection_that_is_killed_before_its_commit_leaves_nothing() {
    let shop = Shop::open().await;
    let layer = shop.builder().build().unwrap();
    let till = {
        let shop = Arc::clone(&shop);
        till(&layer, move |request| {
            let shop = Arc::clone(&shop);
            async move {
                let claim = claim(&request);
                let mut transaction = shop.begin().await;
                shop.write(&mut transaction).await.unwrap();
                let who = sqlx::query_scalar(WHO).fetch_one(&mut *transaction);
                let who: i64 = who.await.unwrap();
                shop.run(&KILL.replace("{id}", &who.to_string())).await;
                let error = claim.commit(transaction, shop.paid()).await.unwrap_err();
                assert_eq!(error.kind(), CommitErrorKind::Retry, "{error:?}");
                shop.pay(&claim).await
            }
        })
    };
    assert_eq!(ask(&till, "k").await, got(201, "paid 2"));
    assert_eq!(shop.entries().await, 1);
}
