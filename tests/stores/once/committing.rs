//! What holds of every handler.

use std::sync::Arc;

use http::StatusCode;
use tower::BoxError;
use tower_idempotency::CommitErrorKind;

use super::shop::*;

/// Every request pays, and then does this.
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
    let other = {
        let shop = Arc::clone(&shop);
        till(&second, move |request| {
            let shop = Arc::clone(&shop);
            async move { shop.pay(&claim(&request)).await }
        })
    };
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
    assert_eq!((refused.0, &*code(&refused)), (409, "in-flight"));
    assert_eq!(shop.entries().await, 1);
    assert_eq!(ask(&late, "k").await, got(201, "paid 1"));
}
