//! These tests hold for every handler.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use tokio::sync::Notify;
use tower::{BoxError, Layer, ServiceBuilder, ServiceExt, service_fn};
use tower_idempotency::exactly_once::CommitErrorKind;
use tower_idempotency::options::{OnDisconnect, OnInFlight};

use super::shop::*;

/// Returns a handler that pays for every request, and then runs `after`.
fn then<F>(shop: &Arc<Shop>, after: impl Fn(Answer) -> F + Clone + Send + Sync + 'static) -> Till
where
    F: Future<Output = Result<Answer, BoxError>> + Send + 'static,
{
    let layer = shop.builder().build().unwrap();
    let shop = Arc::clone(shop);
    till(&layer, move |request| {
        let (shop, after) = (Arc::clone(&shop), after.clone());
        async move { after(shop.pay(&claim(&request)).await?).await }
    })
}

#[tokio::test]
async fn effect_and_answer_are_committed_together() {
    let shop = Shop::open().await;
    let till = then(&shop, |paid| async { Ok(paid) });
    assert_eq!(ask(&till, "k").await, got(201, "paid 1"));
    assert_eq!(ask(&till, "k").await, got(201, "paid 1"));
    assert_eq!(shop.entries().await, 1);
    assert_eq!(
        shop.number("SELECT count(*) FROM {t} WHERE state = 3")
            .await,
        1
    );
}

#[tokio::test]
async fn what_a_handler_does_after_its_commit_changes_nothing() {
    type After = fn(Answer) -> Result<Answer, BoxError>;
    let after: [After; 4] = [
        |_| Ok(answer(StatusCode::INTERNAL_SERVER_ERROR, "sorry")),
        |_| Ok(answer(StatusCode::OK, "another")),
        |_| Err("broken".into()),
        |_| panic!("after the commit"),
    ];
    for after in after {
        let shop = Shop::open().await;
        let till = then(&shop, move |paid| async move { after(paid) });
        assert_eq!(ask(&till, "k").await, got(201, "paid 1"));
        assert_eq!(ask(&till, "k").await, got(201, "paid 1"));
        assert_eq!(shop.entries().await, 1);
    }
}

#[tokio::test]
async fn an_overtaken_owner_can_not_commit() {
    let shop = Shop::open().await;
    let layer = || shop.builder().build().unwrap();
    let (first, second) = (layer(), layer());
    let other = shop.till(&second);
    let late = {
        let (shop, other) = (Arc::clone(&shop), other.clone());
        till(&first, move |request| {
            let (shop, other) = (Arc::clone(&shop), other.clone());
            async move {
                let claim = claim(&request);
                shop.lapse().await;
                assert_eq!(ask(&other, "k").await, got(201, "paid 1"));
                let error = shop.pay(&claim).await.unwrap_err();
                assert_eq!(error.kind(), CommitErrorKind::Lost);
                let again = shop.pay(&claim).await.unwrap_err();
                assert_eq!(again.kind(), CommitErrorKind::Lost);
                Ok::<_, BoxError>(answer(StatusCode::OK, "whatever"))
            }
        })
    };
    let refused = ask(&late, "k").await;
    assert_refused(&refused, 409, "in-flight");
    assert_eq!(shop.entries().await, 1);
    assert_eq!(ask(&late, "k").await, got(201, "paid 1"));
}

/// A retry gets the response while the handler that committed the response still
/// runs.
#[tokio::test]
async fn a_handler_that_never_returns_after_its_commit_keeps_nobody_waiting() {
    let shop = Shop::open().await;
    let till = then(&shop, |_| std::future::pending());
    let first = till.clone();
    let hangs = tokio::spawn(async move { ask(&first, "k").await });
    until(async || shop.entries().await == 1).await;
    assert_eq!(ask(&till, "k").await, got(201, "paid 1"));
    hangs.abort();
    let _ = hangs.await;
    assert_eq!(ask(&till, "k").await, got(201, "paid 1"));
    assert_eq!(shop.entries().await, 1);
}

#[tokio::test]
async fn a_timeout_inside_the_layer_does_not_change_what_was_committed() {
    let shop = Shop::open().await;
    let layer = shop.builder().build().unwrap();
    let pays = {
        let shop = Arc::clone(&shop);
        service_fn(move |request: Asked| {
            let shop = Arc::clone(&shop);
            async move {
                shop.pay(&claim(&request)).await?;
                std::future::pending::<Result<Answer, BoxError>>().await
            }
        })
    };
    let inner = ServiceBuilder::new()
        .timeout(Duration::from_millis(500))
        .service(pays);
    let till = Till::new(layer.layer(inner).map_err(Into::into));
    assert_eq!(ask(&till, "k").await, got(201, "paid 1"));
    assert_eq!(ask(&till, "k").await, got(201, "paid 1"));
    assert_eq!(shop.entries().await, 1);
}

#[tokio::test]
async fn a_client_that_leaves_during_the_transaction_changes_nothing() {
    let shop = Shop::open().await;
    for (at, disconnect) in [OnDisconnect::Finish, OnDisconnect::Cancel]
        .into_iter()
        .enumerate()
    {
        let layer = shop
            .builder()
            .defaults(|options| options.on_disconnect(disconnect));
        let layer = layer.build().unwrap();
        let key = format!("k{at}");
        let (reached, goes_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let till = {
            let (shop, reached, goes_on) = (shop.clone(), reached.clone(), goes_on.clone());
            till(&layer, move |request| {
                let (shop, reached, goes_on) = (shop.clone(), reached.clone(), goes_on.clone());
                async move {
                    let mut transaction = shop.begin().await;
                    shop.write(&mut transaction).await.unwrap();
                    reached.notify_one();
                    goes_on.notified().await;
                    claim(&request).commit(transaction, shop.paid()).await
                }
            })
        };
        let leaves = tokio::spawn({
            let (till, key) = (till.clone(), key.clone());
            async move { ask(&till, &key).await }
        });
        reached.notified().await;
        leaves.abort();
        let _ = leaves.await;
        goes_on.notify_one();
        layer.drain(Duration::from_secs(20)).await;
        // Either the handler finished without its client, or its transaction was
        // rolled back with the client. Each way gives one entry.
        let again = ask(&till, &key);
        goes_on.notify_one();
        assert_eq!(again.await.0, 201, "{disconnect:?}");
        assert_eq!(
            shop.entries().await,
            i64::try_from(at).unwrap() + 1,
            "{disconnect:?}"
        );
    }
}

#[tokio::test]
async fn a_claim_that_is_not_committed_is_an_ordinary_request() {
    let shop = Shop::open().await;
    let layer = shop.builder().build().unwrap();
    let till = {
        let shop = Arc::clone(&shop);
        till(&layer, move |request| {
            let shop = Arc::clone(&shop);
            async move {
                drop(claim(&request));
                // A transaction that is not committed is rolled back.
                let mut transaction = shop.begin().await;
                shop.write(&mut transaction).await.unwrap();
                drop(transaction);
                Ok::<_, BoxError>(answer(StatusCode::OK, "no payment"))
            }
        })
    };
    assert_eq!(ask(&till, "k").await, got(200, "no payment"));
    assert_eq!(ask(&till, "k").await, got(200, "no payment"));
    assert_eq!(shop.entries().await, 0);
    assert_eq!(layer.counts().executed, 1);
    assert_eq!(layer.counts().recorded, 1);
}

#[tokio::test]
async fn commits_are_counted() {
    let shop = Shop::open().await;
    let layer = shop.builder().build().unwrap();
    let till = shop.till(&layer);
    ask(&till, "a").await;
    ask(&till, "a").await;
    ask(&till, "b").await;
    let counts = layer.counts();
    assert_eq!(
        (counts.executed, counts.recorded, counts.replayed),
        (2, 2, 1)
    );
    assert_eq!(
        (counts.released, counts.in_doubt, counts.overtaken),
        (0, 0, 0)
    );
}

/// The commit wakes the waiting requests, so they do not depend on their own
/// polling.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_for_the_outcome_gets_it() {
    let shop = Shop::open().await;
    let wait = OnInFlight::Wait(Duration::from_secs(30));
    let layer = shop
        .builder()
        .defaults(|options| options.on_in_flight(wait));
    let layer = layer.build().unwrap();
    let till = shop.till(&layer);
    let asking: Vec<_> = (0..6)
        .map(|_| {
            let till = till.clone();
            tokio::spawn(async move { ask(&till, "k").await })
        })
        .collect();
    for one in asking {
        assert_eq!(one.await.unwrap(), got(201, "paid 1"));
    }
    assert_eq!(shop.entries().await, 1);
}
