//! `Records::id_of` for a request as its client sent it, compared with the
//! record that the handler and the store see.

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use axum::extract::{Extension, Request};
use axum::routing::post as on_post;
use http::StatusCode;
use tower_idempotency::options::{KeysPer, Require};
use tower_idempotency::store::RecordId;
use tower_idempotency::{IdempotencyContext, IdempotencyLayer, MemoryStore, scope};

use crate::common::{post, send};

fn layer(store: &MemoryStore, keys_per: KeysPer) -> IdempotencyLayer {
    IdempotencyLayer::builder(store.clone(), scope::shared())
        .defaults(|options| options.keys_per(keys_per))
        .route("/api/health", |options| options.require(Require::Ignored))
        .build()
        .unwrap()
}

/// Routes that store the id of the record under which they ran.
fn telling(ids: &Arc<Mutex<Vec<RecordId>>>) -> Router {
    let ids = Arc::clone(ids);
    let tell = async move |Extension(context): Extension<IdempotencyContext>| {
        ids.lock().unwrap().push(context.record_id());
        StatusCode::CREATED
    };
    Router::new().route("/orders/{id}/capture", on_post(tell))
}

async fn id_of_both(app: Router, layer: &IdempotencyLayer, ids: &Mutex<Vec<RecordId>>) {
    for target in ["/api/orders/5/capture", "/api/orders/6/capture?all=1"] {
        let key = target.len().to_string();
        let request = || -> Request { post(target, &key, "{}") };
        assert_eq!(send(&app, request()).await.status, 201);
        let (parts, _) = request().into_parts();
        let id = layer.records().id_of(&parts).unwrap();
        assert_eq!(*ids.lock().unwrap().last().unwrap(), id, "{target}");
        assert!(layer.records().look_up(&id).await.unwrap().is_some());
    }
}

#[tokio::test]
async fn outside_of_a_nest_a_record_id_is_that_of_the_handler() {
    for keys_per in [KeysPer::Scope, KeysPer::Route] {
        let (store, ids) = (MemoryStore::new(), Arc::default());
        let layer = layer(&store, keys_per);
        let app = Router::new()
            .nest("/api", telling(&ids))
            .layer(layer.clone());
        id_of_both(app, &layer, &ids).await;
        assert_eq!(store.len(), 2);
    }
}

/// The id is made of the path that the client sent, not of the part that the
/// nest leaves of it.
#[cfg(feature = "axum")]
#[tokio::test]
async fn inside_of_a_nest_a_record_id_is_that_of_the_path_that_was_sent() {
    for keys_per in [KeysPer::Scope, KeysPer::Route] {
        let (store, ids) = (MemoryStore::new(), Arc::default());
        let layer = layer(&store, keys_per);
        let nested = telling(&ids).layer(layer.clone());
        let app = Router::new()
            .nest("/v", nested.clone())
            .nest("/api", nested);
        id_of_both(app, &layer, &ids).await;
        let (parts, _) = post::<Body>("/v/orders/5/capture", "21", "").into_parts();
        let elsewhere = layer.records().id_of(&parts).unwrap();
        let first = ids.lock().unwrap()[0];
        assert_eq!(elsewhere == first, keys_per == KeysPer::Scope);
    }
}

#[test]
fn an_ignored_route_has_no_record_id() {
    let layer = layer(&MemoryStore::new(), KeysPer::Route);
    let (parts, _) = post::<Body>("/api/health", "k", "").into_parts();
    assert_eq!(layer.records().id_of(&parts), None);
}
