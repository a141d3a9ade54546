//! In these tests a step writes to the database of the records, in the transaction that records it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use http::StatusCode;
use sqlx::Transaction;
use tower::BoxError;
use tower_idempotency::exactly_once::{CommitError, SqlClaim};
use tower_idempotency::steps::{StepError, StepFaultKind};
use tower_idempotency::store::Encryption;
use tower_idempotency::{IdempotencyLayer, IdempotencyLayerBuilder};

use super::Db;
use super::shop::*;

pub(super) type Reserved = Result<u32, StepError<CommitError>>;

/// Takes one article, once for an operation. The result is the number of this call of the closure.
pub(super) async fn reserve(shop: &Arc<Shop>, claim: &SqlClaim<Db>, runs: &AtomicU32) -> Reserved {
    let work = |mut transaction: Transaction<'static, Db>| {
        let run = runs.fetch_add(1, Ordering::SeqCst) + 1;
        let shop = Arc::clone(shop);
        async move {
            shop.write(&mut transaction).await?;
            Ok((transaction, run))
        }
    };
    claim.step_in(&shop.handlers, "reserve", work).await
}

pub(super) fn with_steps(shop: &Shop) -> IdempotencyLayerBuilder {
    shop.builder().defaults(|options| options.steps(true))
}

/// A handler that reserves, and responds with the result of that. The first response is not recorded.
fn reserving(shop: &Arc<Shop>, layer: &IdempotencyLayer, runs: &Arc<AtomicU32>) -> Till {
    let (shop, runs) = (Arc::clone(shop), Arc::clone(runs));
    till(layer, move |request| {
        let (shop, runs) = (Arc::clone(&shop), Arc::clone(&runs));
        async move {
            let claim = claim(&request);
            let reserved = reserve(&shop, &claim, &runs).await?;
            let status = match claim.context().attempt() {
                1 => StatusCode::SERVICE_UNAVAILABLE,
                _ => StatusCode::CREATED,
            };
            Ok::<_, BoxError>(answer(status, format!("reserved by {reserved}")))
        }
    })
}

#[tokio::test]
async fn a_step_is_not_run_again_by_a_retry_and_its_writes_are_there_once() {
    let secret = "32 random bytes from a safe place";
    for encrypted in [false, true] {
        let (shop, runs) = (Shop::open().await, Arc::default());
        let mut layer = with_steps(&shop);
        if encrypted {
            let encryption = Encryption::xchacha20_poly1305();
            layer = layer.secrets([secret]).encryption(encryption);
        }
        let till = reserving(&shop, &layer.build().unwrap(), &runs);
        assert_eq!(ask(&till, "k").await, got(503, "reserved by 1"));
        assert_eq!(shop.entries().await, 1);
        let kept = shop.number("SELECT count(*) FROM {t}_steps").await;
        assert_eq!(kept, 1, "encrypted: {encrypted}");
        assert_eq!(ask(&till, "k").await, got(201, "reserved by 1"));
        assert_eq!(shop.entries().await, 1);
        assert_eq!(runs.load(Ordering::SeqCst), 1);
        assert_eq!(shop.number("SELECT count(*) FROM {t}_steps").await, 0);
    }
}

/// The transaction of a step does not hold up another step, nor the commit of the claim after it.
#[tokio::test]
async fn a_commit_of_the_claim_follows_steps_of_either_kind() {
    let (shop, runs) = (Shop::open().await, Arc::<AtomicU32>::default());
    let layer = with_steps(&shop).build().unwrap();
    let till = {
        let (shop, runs) = (Arc::clone(&shop), Arc::clone(&runs));
        till(&layer, move |request| {
            let (shop, runs) = (Arc::clone(&shop), Arc::clone(&runs));
            async move {
                let claim = claim(&request);
                let context = claim.context();
                let charge =
                    context.step("charge", async |_| Ok::<_, CommitError>("ch_1".to_owned()));
                assert_eq!(charge.await?, "ch_1");
                reserve(&shop, &claim, &runs).await?;
                if claim.context().attempt() == 1 {
                    let sorry = answer(StatusCode::SERVICE_UNAVAILABLE, "sorry");
                    return Ok::<_, BoxError>(sorry);
                }
                Ok(shop.pay(&claim).await?)
            }
        })
    };
    assert_eq!(ask(&till, "k").await, got(503, "sorry"));
    assert_eq!(ask(&till, "k").await, got(201, "paid 1"));
    assert_eq!(ask(&till, "k").await, got(201, "paid 1"));
    assert_eq!((shop.entries().await, runs.load(Ordering::SeqCst)), (2, 1));
    assert_eq!(shop.number("SELECT count(*) FROM {t}_steps").await, 0);
}

/// Another owner has taken the operation over, and the one of before does not know.
#[tokio::test]
async fn the_step_of_an_overtaken_owner_commits_nothing() {
    let shop = Shop::open().await;
    let layer = || with_steps(&shop).build().unwrap();
    let (first, second) = (layer(), layer());
    let other = {
        let shop = Arc::clone(&shop);
        till(&second, move |request| {
            let shop = Arc::clone(&shop);
            async move {
                let reserved = reserve(&shop, &claim(&request), &AtomicU32::new(1)).await?;
                Ok::<_, BoxError>(answer(StatusCode::CREATED, format!("by {reserved}")))
            }
        })
    };
    let late = {
        let (shop, other) = (Arc::clone(&shop), other.clone());
        till(&first, move |request| {
            let (shop, other) = (Arc::clone(&shop), other.clone());
            async move {
                let claim = claim(&request);
                shop.lapse().await;
                assert_eq!(ask(&other, "k").await, got(201, "by 2"));
                let reserved = reserve(&shop, &claim, &AtomicU32::new(7)).await;
                let error = reserved.unwrap_err();
                let fault = error.fault().expect("a fault");
                assert_eq!(fault.kind(), StepFaultKind::Lost, "{error:?}");
                assert!(!fault.has_run() && claim.context().is_lost());
                Ok::<_, BoxError>(answer(StatusCode::OK, "whatever"))
            }
        })
    };
    assert_refused(&ask(&late, "k").await, 409, "in-flight");
    assert_eq!(shop.entries().await, 1);
    assert_eq!(ask(&late, "k").await, got(201, "by 2"));
}

#[tokio::test]
async fn a_step_that_fails_writes_nothing_and_can_be_asked_for_again() {
    let shop = Shop::open().await;
    let layer = with_steps(&shop).build().unwrap();
    let till = {
        let shop = Arc::clone(&shop);
        till(&layer, move |request| {
            let shop = Arc::clone(&shop);
            async move {
                let claim = claim(&request);
                let work = |mut transaction: Transaction<'static, Db>| {
                    let shop = Arc::clone(&shop);
                    async move {
                        shop.write(&mut transaction).await.unwrap();
                        Err::<(Transaction<'static, Db>, u32), _>(std::io::Error::other("sold out"))
                    }
                };
                let failed = claim.step_in(&shop.handlers, "reserve", work).await;
                let error = failed.unwrap_err();
                assert!(matches!(error, StepError::Failed(_)), "{error:?}");
                assert_eq!(shop.entries().await, 0);
                let reserved = reserve(&shop, &claim, &AtomicU32::new(1)).await?;
                let twice = reserve(&shop, &claim, &AtomicU32::new(2)).await;
                let error = twice.unwrap_err();
                let kind = error.fault().map(tower_idempotency::steps::StepFault::kind);
                assert_eq!(kind, Some(StepFaultKind::NameInUse));
                Ok::<_, BoxError>(answer(StatusCode::CREATED, format!("by {reserved}")))
            }
        })
    };
    assert_eq!(ask(&till, "k").await, got(201, "by 2"));
    assert_eq!(shop.entries().await, 1);
}

/// A step inside the closure would be recorded although the closure's transaction is rolled back.
#[tokio::test]
async fn a_step_inside_the_closure_is_an_error_with_a_name() {
    let shop = Shop::open().await;
    let layer = with_steps(&shop).build().unwrap();
    let till = {
        let shop = Arc::clone(&shop);
        till(&layer, move |request| {
            let shop = Arc::clone(&shop);
            async move {
                let claim = claim(&request);
                let context = claim.context();
                let work = |transaction: Transaction<'static, Db>| {
                    let context = context.clone();
                    async move {
                        let inner = context.step("inner", async |_| Ok::<_, CommitError>(1));
                        let error = inner.await.unwrap_err();
                        let kind = error.fault().map(tower_idempotency::steps::StepFault::kind);
                        assert_eq!(kind, Some(StepFaultKind::Nested));
                        Ok::<_, CommitError>((transaction, 1))
                    }
                };
                let step: Reserved = claim.step_in(&shop.handlers, "outer", work).await;
                Ok::<_, BoxError>(answer(StatusCode::CREATED, step?.to_string()))
            }
        })
    };
    assert_eq!(ask(&till, "k").await, got(201, "1"));
}
