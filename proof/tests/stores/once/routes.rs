//! These tests combine claims that handlers commit with the layer's options.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use tower::BoxError;
use tower_idempotency::exactly_once::SqlClaim;
use tower_idempotency::options::{
    EventStreams, ExactlyOnce, OnLapsedLease, OnStoreError, ReplayedMember,
};
use tower_idempotency::store::Encryption;
use tower_idempotency::{IdempotencyContext, IdempotencyLayer, IdempotencyLayerBuilder, scope};

use super::Db;
use super::shop::*;

/// Returns a handler that pays for every request, and commits this response.
fn paying(
    shop: &Arc<Shop>,
    layer: &IdempotencyLayer,
    paid: impl Fn() -> Answer + Clone + Send + Sync + 'static,
) -> Till {
    let shop = Arc::clone(shop);
    till(layer, move |request| {
        let (shop, paid) = (Arc::clone(&shop), paid());
        async move {
            let mut transaction = shop.begin().await;
            shop.write(&mut transaction).await.unwrap();
            claim(&request).commit(transaction, paid).await
        }
    })
}

#[tokio::test]
async fn an_answer_that_is_too_large_goes_to_the_first_client_and_its_record_is_sealed() {
    let shop = Shop::open().await;
    let layer = shop
        .builder()
        .defaults(|options| options.max_recorded_body(10));
    let layer = layer.build().unwrap();
    let till = paying(&shop, &layer, || answer(StatusCode::OK, "more than ten"));
    assert_eq!(ask(&till, "k").await, got(200, "more than ten"));
    assert_refused(&ask(&till, "k").await, 409, "response-unavailable");
    assert_eq!(shop.entries().await, 1);
    assert_eq!(layer.counts().sealed, 1);
}

#[tokio::test]
async fn a_streamed_answer_is_collected() {
    let shop = Shop::open().await;
    let layer = shop.builder().build().unwrap();
    let till = {
        let shop = Arc::clone(&shop);
        till(&layer, move |request| {
            let shop = Arc::clone(&shop);
            async move {
                let frames = ["in ", "two"].map(|data| {
                    Ok::<_, BoxError>(http_body::Frame::data(Bytes::from_static(data.as_bytes())))
                });
                let streamed = StreamBody::new(tokio_stream::iter(frames));
                claim(&request)
                    .commit(shop.begin().await, Response::new(streamed))
                    .await
            }
        })
    };
    assert_eq!(ask(&till, "k").await, got(200, "in two"));
    assert_eq!(ask(&till, "k").await, got(200, "in two"));
}

/// The first client gets the events once they are committed, all at once.
#[tokio::test]
async fn a_stream_of_events_is_committed_whole_where_such_streams_are_recorded() {
    const EVENTS: &str = "data: {\"paid\":1}\n\ndata: {\"paid\":2}\n\n";
    let shop = Shop::open().await;
    let layer = shop.builder().defaults(|options| {
        options
            .exactly_once(ExactlyOnce::Committed)
            .event_streams(EventStreams::Record)
            .replay_json("/replayed", ReplayedMember::constant(true))
    });
    let layer = layer.build().unwrap();
    let till = paying(&shop, &layer, || {
        let mut response = answer(StatusCode::OK, EVENTS);
        let kind = HeaderValue::from_static("text/event-stream");
        response.headers_mut().insert("content-type", kind);
        response
    });
    assert_eq!(ask(&till, "k").await, got(200, EVENTS));
    let marked = EVENTS.replace('}', ",\"replayed\":true}");
    assert_eq!(ask(&till, "k").await, got(200, &marked));
    assert_eq!(shop.entries().await, 1);
}

#[tokio::test]
async fn a_replay_has_the_headers_that_are_recorded_and_the_first_answer_all() {
    let shop = Shop::open().await;
    let layer = shop.builder().defaults(|options| {
        options
            .created_at_header("created-at")
            .expires_at_header("expires-at")
            .echo_key(true)
    });
    let till = paying(&shop, &layer.build().unwrap(), || {
        let mut response = answer(StatusCode::CREATED, "paid");
        let headers = response.headers_mut();
        headers.insert("set-cookie", HeaderValue::from_static("a=b"));
        headers.insert("location", HeaderValue::from_static("/payments/1"));
        response
    });
    let first = send(&till, "k").await;
    let again = send(&till, "k").await;
    assert_eq!(again.headers()["idempotency-replayed"], "true");
    assert_eq!(first.headers()["set-cookie"], "a=b");
    assert!(!again.headers().contains_key("set-cookie"));
    for own in ["location", "created-at", "expires-at", "idempotency-key"] {
        assert_eq!(first.headers()[own], again.headers()[own], "{own}");
    }
}

#[tokio::test]
async fn an_encrypted_answer_is_committed_as_such() {
    let shop = Shop::open().await;
    let layer = shop.builder().secrets(["a secret of more than 16 bytes"]);
    let layer = layer.encryption(Encryption::xchacha20_poly1305());
    let till = shop.till(&layer.build().unwrap());
    assert_eq!(ask(&till, "k").await, got(201, "paid 1"));
    assert_eq!(ask(&till, "k").await, got(201, "paid 1"));
    let kept: Vec<u8> = sqlx::query_scalar(shop.sql("SELECT answer FROM {t}"))
        .fetch_one(&shop.pool)
        .await
        .unwrap();
    assert!(!kept.windows(4).any(|bytes| bytes == b"paid"));
    assert_eq!(shop.entries().await, 1);
}

#[tokio::test]
async fn under_refuse_a_commit_counts_and_what_was_not_committed_waits_to_be_resolved() {
    let shop = Shop::open().await;
    let layer = shop
        .builder()
        .defaults(|options| options.on_lapsed_lease(OnLapsedLease::Refuse));
    let layer = layer.build().unwrap();
    let till_of = shop.till(&layer);
    assert_eq!(ask(&till_of, "k").await, got(201, "paid 1"));
    assert_eq!(ask(&till_of, "k").await, got(201, "paid 1"));
    let breaks = till(&layer, |request| {
        drop(claim(&request));
        async { Err::<Answer, BoxError>("broken".into()) }
    });
    assert!(
        tower::ServiceExt::oneshot(breaks.clone(), post("b"))
            .await
            .is_err()
    );
    assert_refused(&ask(&breaks, "b").await, 409, "outcome-unknown");
}

fn exactly_once(shop: &Shop) -> IdempotencyLayerBuilder {
    let layer = shop
        .builder()
        .defaults(|options| options.exactly_once(true));
    layer.defaults(|options| options.on_lapsed_lease(OnLapsedLease::Refuse))
}

#[tokio::test]
async fn on_a_route_that_is_exactly_once_a_success_without_a_commit_is_an_error() {
    for status in [
        StatusCode::OK,
        StatusCode::NO_CONTENT,
        StatusCode::SEE_OTHER,
    ] {
        let shop = Shop::open().await;
        let layer = exactly_once(&shop).build().unwrap();
        let till = till(&layer, move |request| {
            drop(claim(&request));
            async move { Ok::<_, BoxError>(answer(status, "")) }
        });
        assert_refused(&ask(&till, "k").await, 500, "outcome-unknown");
        assert_refused(&ask(&till, "k").await, 409, "outcome-unknown");
        let counts = layer.counts();
        assert_eq!((counts.executed, counts.outcome_unknown), (1, 1));
        assert_eq!(counts.released, 0);
    }
}

/// Under `rerun` a retry executes, so the record waits for nobody.
#[tokio::test]
async fn without_a_commit_under_rerun_a_retry_executes_and_nobody_is_called() {
    let shop = Shop::open().await;
    let layer =
        exactly_once(&shop).defaults(|options| options.on_lapsed_lease(OnLapsedLease::Rerun));
    let layer = layer.build().unwrap();
    let till = till(&layer, move |request| {
        drop(claim(&request));
        async move { Ok::<_, BoxError>(answer(StatusCode::OK, "")) }
    });
    for executed in 1..=2 {
        assert_refused(&ask(&till, "k").await, 500, "outcome-unknown");
        let counts = layer.counts();
        assert_eq!((counts.executed, counts.released), (executed, executed));
        assert_eq!(counts.outcome_unknown, 0);
    }
}

#[tokio::test]
async fn on_a_route_that_is_exactly_once_failures_are_judged_as_ever() {
    let shop = Shop::open().await;
    let layer = exactly_once(&shop).build().unwrap();
    let of = |status| {
        till(&layer, move |_| async move {
            Ok::<_, BoxError>(answer(status, "no"))
        })
    };
    let (refuses, fails) = (of(StatusCode::NOT_FOUND), of(StatusCode::BAD_GATEWAY));
    assert_eq!(ask(&refuses, "a").await, got(404, "no"));
    assert_eq!(ask(&fails, "b").await, got(502, "no"));
    let moves = of(StatusCode::TEMPORARY_REDIRECT);
    assert_eq!(ask(&moves, "c").await, got(307, "no"));
    // The 404 was recorded, and the claims of the 502 and the 307 were released.
    let pays = shop.till(&layer);
    assert_eq!(ask(&pays, "a").await, got(404, "no"));
    assert_eq!(ask(&pays, "b").await, got(201, "paid 1"));
    assert_eq!(ask(&pays, "b").await, got(201, "paid 1"));
    assert_eq!(ask(&pays, "c").await, got(201, "paid 2"));
}

#[tokio::test]
async fn exactly_once_needs_a_store_in_a_database_and_stays_closed() {
    let shop = Shop::open().await;
    let open = exactly_once(&shop)
        .defaults(|options| options.on_store_error(OnStoreError::RunUnprotected));
    assert_eq!(open.build().unwrap_err().option(), "exactly_once");

    let memory = tower_idempotency::MemoryStore::new();
    let route = IdempotencyLayer::builder(memory, scope::shared())
        .route("/payments", |options| options.exactly_once(true));
    let error = route.build().unwrap_err();
    assert_eq!(
        (error.option(), error.route()),
        ("exactly_once", Some("/payments"))
    );
}

#[tokio::test]
async fn a_shared_store_is_a_store() {
    let shop = Shop::open().await;
    let store = Arc::new(shop.store.clone());
    let layer = IdempotencyLayer::builder(store, scope::shared());
    let layer = layer.defaults(|options| options.exactly_once(true)).build();
    assert_eq!(ask(&shop.till(&layer.unwrap()), "k").await.0, 201);
}

#[tokio::test]
async fn who_has_no_claim_is_told_why() {
    let unprotected = SqlClaim::<Db>::of(post("k").extensions()).unwrap_err();
    assert!(
        unprotected.to_string().contains("not protected"),
        "{unprotected}"
    );

    let layer =
        IdempotencyLayer::new(tower_idempotency::MemoryStore::new(), scope::shared()).unwrap();
    let till = till(&layer, |request| async move {
        let elsewhere = SqlClaim::<Db>::of(request.extensions()).unwrap_err();
        Ok::<_, BoxError>(answer(StatusCode::OK, elsewhere.to_string()))
    });
    let (_, why) = ask(&till, "k").await;
    let database = <Db as sqlx::Database>::NAME;
    assert_eq!(
        why,
        format!("the records of idempotency keys are not in {database}")
    );
}

#[tokio::test]
async fn axum_extracts_claims() {
    use axum::extract::State;
    use axum::response::IntoResponse;
    use axum::routing::post as route;
    use tower::ServiceExt;

    async fn pay(State(shop): State<Arc<Shop>>, claim: SqlClaim<Db>) -> impl IntoResponse {
        shop.pay(&claim).await
    }
    async fn may_pay(
        State(shop): State<Arc<Shop>>,
        claim: Option<SqlClaim<Db>>,
    ) -> Result<axum::response::Response, tower_idempotency::exactly_once::CommitError> {
        Ok(match claim {
            Some(claim) => shop.pay(&claim).await?.into_response(),
            None => "without a key".into_response(),
        })
    }
    let shop = Shop::open().await;
    let app = axum::Router::new()
        .route("/payments", route(pay))
        .route("/perhaps", route(may_pay))
        .layer(shop.builder().build().unwrap())
        .with_state(Arc::clone(&shop));
    let ask = async |key: Option<&str>, target: &'static str| {
        let mut request = post(key.unwrap_or("none")).map(axum::body::Body::new);
        if key.is_none() {
            request.headers_mut().remove("idempotency-key");
        }
        *request.uri_mut() = target.parse().unwrap();
        let response = app.clone().oneshot(request).await.unwrap();
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    };
    assert_eq!(ask(Some("a"), "/payments").await, got(201, "paid 1"));
    assert_eq!(ask(Some("a"), "/payments").await, got(201, "paid 1"));
    assert_eq!(ask(None, "/payments").await.0, 500);
    assert_eq!(ask(Some("b"), "/perhaps").await, got(201, "paid 2"));
    assert_eq!(ask(None, "/perhaps").await, got(200, "without a key"));
    assert_eq!(shop.entries().await, 2);
}

/// All attempts of an operation derive the same key for a call to another service,
/// even if the first attempt was under an old secret.
#[tokio::test]
async fn a_derived_key_is_the_same_on_every_attempt_over_a_change_of_secrets() {
    let shop = Shop::open().await;
    let (old, new) = ("an old secret of 16 bytes", "a new secret of 16 bytes");
    let asked = async |secrets: &[&str]| {
        let layer = shop
            .builder()
            .secrets(secrets.iter().map(|secret| secret.as_bytes()));
        let till = till(&layer.build().unwrap(), |request: Asked| async move {
            let context = request.extensions().get::<IdempotencyContext>().unwrap();
            let key = context.derive_key("charge-card");
            assert_ne!(key, context.derive_key("send-mail"));
            Ok::<_, BoxError>(answer(StatusCode::SERVICE_UNAVAILABLE, key))
        });
        let first = ask(&till, "k").await.1;
        assert_eq!(ask(&till, "k").await.1, first);
        assert_ne!(ask(&till, "other").await.1, first);
        first
    };
    let first = asked(&[old]).await;
    assert_eq!(asked(&[old, new]).await, first);
    assert_eq!(asked(&[new, old]).await, first);
    assert_eq!(asked(&[new, old]).await, first);
    assert_ne!(asked(&[new]).await, first);
}
