//! What becomes of records that a claim in the handler's transaction meets.

use std::sync::Arc;

use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Request, StatusCode};
use http_body_util::Full;
use tower::{BoxError, ServiceExt};
use tower_idempotency::RouteOptions;
use tower_idempotency::exactly_once::{CommitErrorKind, SqlClaim};
use tower_idempotency::options::{FingerprintBody, JsonFingerprint, ReplayedMember};

use super::Db;
use super::inside::{inside, layer_with};
use super::shop::*;

/// While secrets are rotated an earlier attempt may have left a tombstone under another id.
#[tokio::test]
async fn a_tombstone_under_an_old_secret_is_given_back_and_counts_on() {
    let shop = Shop::open().await;
    let (old, new) = ("an old secret of 16 bytes", "a new secret of 16 bytes");
    let layer = |secrets: &[&str]| {
        let secrets = secrets.iter().map(|secret| secret.as_bytes());
        shop.builder().secrets(secrets)
    };
    let fails = till(&layer(&[old]).build().unwrap(), |_| async {
        Ok::<_, BoxError>(answer(StatusCode::SERVICE_UNAVAILABLE, "later"))
    });
    assert_eq!(ask(&fails, "k").await, got(503, "later"));
    let rotating = layer(&[new, old]).defaults(inside).build().unwrap();
    let rotating = shop.till_inside(&rotating);
    assert_eq!(ask(&rotating, "k").await, got(201, "paid 1"));
    let tombstones = "SELECT count(*) FROM {t} WHERE state = 5 AND attempt = 2";
    assert_eq!(shop.number(tombstones).await, 1);
    assert_eq!(shop.number("SELECT count(*) FROM {t}").await, 2);
    assert_eq!(ask(&rotating, "k").await, got(201, "paid 1"));
    // A program that knows the old secret alone claims the tombstone, as any other.
    assert_eq!(ask(&fails, "k").await, got(503, "later"));
    let counted = "SELECT count(*) FROM {t} WHERE state = 5 AND attempt = 3";
    assert_eq!(shop.number(counted).await, 1);
}

fn rpc(options: RouteOptions) -> RouteOptions {
    options
        .fingerprint_body(FingerprintBody::Json(JsonFingerprint::new().exclude("/id")))
        .replay_json("/id", ReplayedMember::of_request("/id"))
}

fn call(id: u32) -> Asked {
    let mut request: Request<Full<_>> = post("k");
    *request.body_mut() = format!(r#"{{"id":{id},"method":"pay"}}"#).into();
    let json = HeaderValue::from_static("application/json");
    request.headers_mut().insert(CONTENT_TYPE, json);
    request
}

async fn pay(shop: Arc<Shop>, claim: SqlClaim<Db>) -> Result<Answer, BoxError> {
    let mut transaction = claim.begin(&shop.handlers).await?;
    shop.write(&mut transaction).await?;
    let mut paid = answer(StatusCode::CREATED, r#"{"id":1,"paid":42}"#);
    let json = HeaderValue::from_static("application/json");
    paid.headers_mut().insert(CONTENT_TYPE, json);
    Ok(claim.commit(transaction, paid).await?)
}

/// Another request has committed after the layer looked and before the handler began.
#[tokio::test]
async fn a_handler_that_finds_the_operation_done_is_replayed_with_the_members_of_its_own_request() {
    let shop = Shop::open().await;
    let other = {
        let shop = Arc::clone(&shop);
        till(&layer_with(&shop.clone(), rpc), move |request| {
            pay(Arc::clone(&shop), claim(&request))
        })
    };
    let layer = layer_with(&shop, rpc);
    let till = {
        let shop = Arc::clone(&shop);
        till(&layer, move |request| {
            let (shop, other) = (Arc::clone(&shop), other.clone());
            async move {
                let first = whole(other.oneshot(call(1)).await?).await;
                assert_eq!(first, got(201, r#"{"id":1,"paid":42}"#));
                let error = claim(&request).begin(&shop.handlers).await.unwrap_err();
                assert_eq!(error.kind(), CommitErrorKind::Found, "{error:?}");
                Err::<Answer, BoxError>(error.into())
            }
        })
    };
    let replayed = till.oneshot(call(2)).await.unwrap();
    assert_eq!(replayed.headers()["idempotency-replayed"], "true");
    assert_eq!(whole(replayed).await, got(201, r#"{"id":2,"paid":42}"#));
    assert_eq!(shop.entries().await, 1);
    assert_eq!((layer.counts().executed, layer.counts().replayed), (0, 1));
}
