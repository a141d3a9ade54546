//! These tests check what cannot be committed, and what happens then.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode};
use http_body::{Body, Frame};
use http_body_util::Full;
use sqlx::Acquire;
use tower::BoxError;
use tower_idempotency::exactly_once::{CommitError, CommitErrorKind, SqlClaim};

use super::Db;
use super::shop::*;

/// Runs `attempt` in a handler, and checks that the attempt fails and that the
/// claim can still be committed afterwards.
async fn told<F>(attempt: impl Fn(Arc<Shop>, SqlClaim<Db>) -> F + Clone + Send + Sync + 'static)
where
    F: Future<Output = CommitError> + Send + 'static,
{
    let shop = Shop::open().await;
    let layer = shop.builder().build().unwrap();
    let till = {
        let shop = Arc::clone(&shop);
        till(&layer, move |request| {
            let (shop, attempt) = (Arc::clone(&shop), attempt.clone());
            async move {
                let claim = claim(&request);
                let error = attempt(shop.clone(), claim.clone()).await;
                assert_eq!(error.kind(), CommitErrorKind::Failed, "{error:?}");
                // The claim can still be committed.
                shop.pay(&claim).await
            }
        })
    };
    assert_eq!(ask(&till, "k").await.0, 201);
    // The failed transaction was rolled back.
    assert_eq!(shop.entries().await, 1);
}

fn why(error: &CommitError) -> String {
    std::error::Error::source(error).unwrap().to_string()
}

#[tokio::test]
async fn a_savepoint_is_refused_before_anything_is_done() {
    told(|shop, claim| async move {
        let mut outer = shop.begin().await;
        let mut inner = outer.begin().await.unwrap();
        shop.write(&mut inner).await.unwrap();
        let error = claim.commit(inner, shop.paid()).await.unwrap_err();
        assert!(why(&error).contains("savepoint"), "{error:?}");
        // The outer transaction is still open, and contains nothing of the inner
        // one.
        outer.commit().await.unwrap();
        error
    })
    .await;
}

#[tokio::test]
async fn a_claim_is_committed_once() {
    let shop = Shop::open().await;
    let layer = shop.builder().build().unwrap();
    let till = {
        let shop = Arc::clone(&shop);
        till(&layer, move |request| {
            let shop = Arc::clone(&shop);
            async move {
                let claim = claim(&request);
                shop.pay(&claim).await?;
                let error = shop.pay(&claim.clone()).await.unwrap_err();
                assert!(why(&error).contains("committed already"), "{error:?}");
                Err::<Answer, BoxError>(error.into())
            }
        })
    };
    assert_eq!(ask(&till, "k").await, got(201, "paid 1"));
    assert_eq!(ask(&till, "k").await, got(201, "paid 1"));
    assert_eq!(shop.entries().await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_clones_that_commit_at_once_one_does() {
    let shop = Shop::open().await;
    let layer = shop.builder().build().unwrap();
    let till = {
        let shop = Arc::clone(&shop);
        till(&layer, move |request| {
            let shop = Arc::clone(&shop);
            async move {
                let racing: Vec<_> = (0..4)
                    .map(|_| {
                        let (shop, claim) = (shop.clone(), claim(&request));
                        tokio::spawn(async move {
                            let kind = shop.pay(&claim).await.map_err(|error| error.kind());
                            // Only on SQLite can the clones' transactions block
                            // each other before their commit.
                            !matches!(kind, Err(CommitErrorKind::Failed | CommitErrorKind::Retry))
                        })
                    })
                    .collect();
                let mut committed = 0;
                for one in racing {
                    committed += u32::from(one.await.unwrap_or_default());
                }
                assert_eq!(committed, 1);
                Ok::<_, BoxError>(answer(StatusCode::OK, "another"))
            }
        })
    };
    assert_eq!(ask(&till, "k").await.0, 201);
    assert_eq!(shop.entries().await, 1);
}

/// Here a task that the handler started commits too late.
#[tokio::test]
async fn a_claim_that_outlives_its_request_can_not_be_committed() {
    let shop = Shop::open().await;
    let layer = shop.builder().build().unwrap();
    let kept = Arc::new(std::sync::Mutex::new(None));
    let till = {
        let kept = Arc::clone(&kept);
        till(&layer, move |request| {
            *kept.lock().unwrap() = Some(claim(&request));
            async { Ok::<_, BoxError>(answer(StatusCode::OK, "no payment")) }
        })
    };
    assert_eq!(ask(&till, "k").await, got(200, "no payment"));
    let claim = kept.lock().unwrap().take().unwrap();
    let error = shop.pay(&claim).await.unwrap_err();
    assert_eq!(error.kind(), CommitErrorKind::Failed);
    assert_eq!(shop.entries().await, 0);
    assert_eq!(ask(&till, "k").await, got(200, "no payment"));
}

/// The body has one frame, and then either an error or no end.
struct Breaks {
    first: bool,
}

impl Body for Breaks {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        Poll::Ready(Some(if std::mem::take(&mut self.first) {
            Ok(Frame::data(Bytes::from_static(b"pa")))
        } else {
            Err("broken".into())
        }))
    }
}

#[tokio::test]
async fn an_answer_whose_body_breaks_is_not_committed() {
    told(|shop, claim| async move {
        let mut transaction = shop.begin().await;
        shop.write(&mut transaction).await.unwrap();
        let broken = Response::new(Breaks { first: true });
        claim.commit(transaction, broken).await.unwrap_err()
    })
    .await;
}

#[tokio::test]
async fn an_answer_that_lies_about_its_length_or_has_no_end_is_not_committed() {
    for (name, value) in [
        ("content-length", "3"),
        ("content-type", "text/event-stream"),
    ] {
        told(move |shop, claim| async move {
            let mut transaction = shop.begin().await;
            shop.write(&mut transaction).await.unwrap();
            let mut response = Response::new(Full::new(Bytes::from_static(b"paid")));
            let value = HeaderValue::from_static(value);
            response.headers_mut().insert(name, value);
            claim.commit(transaction, response).await.unwrap_err()
        })
        .await;
    }
}
