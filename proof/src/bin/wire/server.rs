//! This module is the process that is measured: the application bare, behind a layer
//! that does nothing, and behind `IdempotencyLayer`, each on a port of its own.

use std::convert::Infallible;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Incoming};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tower::layer::layer_fn;
use tower::{Service, ServiceBuilder, service_fn};
use tower_idempotency::store::{
    Claim, Claimed, Completion, Fingerprint, Outcome, RecordId, ScopeDigest, Store,
};
use tower_idempotency::{IdempotencyLayer, MemoryStore, RequestBody, scope};

use crate::serving::{self, BODY_OUT, app, is_asked, listen, serve_axum};

/// Serves until standard input ends.
pub(crate) fn serve() {
    serving::serve_until_input_ends(async || {
        serve_axum("axum-bare", app()).await;
        serve_axum("axum-no-op", app().layer(layer_fn(|inner| inner))).await;
        serve_axum("axum-layered", app().layer(idempotency().await.for_axum())).await;
        serve_hyper("hyper-bare", service_fn(pay::<Incoming>)).await;
        // The layer needs bodies that can be made of bytes, so every service behind the
        // layer pays for this wrapper as well.
        let wrapped = || {
            let wrap = |request: Request<Incoming>| request.map(RequestBody::new);
            ServiceBuilder::new().map_request(wrap)
        };
        let payments = || service_fn(pay::<RequestBody<Incoming>>);
        serve_hyper("hyper-no-op", wrapped().service(payments())).await;
        let layered = wrapped().layer(idempotency().await).service(payments());
        serve_hyper("hyper-layered", layered).await;
    });
}

/// How many records a store holds before the first request: twenty in each of its parts, whose tables
/// then have room for those of a run. So what is counted is a request to a server that has run for a
/// while.
const HELD: u32 = 10_000;

/// The layer with every option at its default, and a store with room for all requests
/// of a run.
async fn idempotency() -> IdempotencyLayer {
    let store = MemoryStore::builder();
    // Under load a run has millions of requests, and fills the parts of its store before it counts.
    let is_under_load = std::env::var_os("WIRE_UNDER_LOAD").is_some();
    let store = if is_under_load {
        store.max_records(10_000_000).max_bytes(8 << 30)
    } else {
        store
    };
    let store = store.build().expect("a store");
    for number in 0..HELD {
        let mut id = [0; 32];
        id[..4].copy_from_slice(&number.to_be_bytes());
        let caller = ScopeDigest::from_bytes([id[3]; 32]);
        let asked = Fingerprint::from_bytes(id);
        let claim = Claim::new(RecordId::from_bytes(id), caller, asked);
        let Ok(Claimed::Acquired(lease)) = store.claim(&claim).await else {
            unreachable!("no record has this id");
        };
        let completion = Completion::new(StatusCode::OK, "", SystemTime::now());
        let outcome = Outcome::Completed(Arc::new(completion));
        store
            .complete(&lease, &outcome)
            .await
            .expect("there is room");
    }
    IdempotencyLayer::new(store, scope::header("x-api-key")).expect("a layer")
}

/// What the application of `serving.rs` does, without a framework.
async fn pay<B>(request: Request<B>) -> Result<Response<Full<Bytes>>, Infallible>
where
    B: Body<Error: Debug>,
{
    request.into_body().collect().await.expect("a whole body");
    Ok(Response::new(Full::new(Bytes::from(vec![b'y'; BODY_OUT]))))
}

/// Serves `service` over HTTP/1.1 as hyper does it, without a framework.
async fn serve_hyper<S, B>(name: &str, service: S)
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible>,
    S: Clone + Send + 'static,
    S::Future: Send,
    B: Body<Data: Send, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + 'static,
{
    if !is_asked(name) {
        return;
    }
    let listener = listen(name).await;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = TowerToHyperService::new(service.clone());
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .serve_connection(TokioIo::new(stream), service);
            tokio::spawn(connection);
        }
    });
}
