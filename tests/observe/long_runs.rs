//! An observed operation that outlives `max_operation`.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full};
use tokio::time::sleep;
use tower::{BoxError, Layer, ServiceExt, service_fn};
use tower_idempotency::options::Mode;
use tower_idempotency::rejection::RejectionCode;
use tower_idempotency::store::Store;
use tower_idempotency::{MemoryStore, RequestBody};

use crate::support::store::Steered;
use crate::support::{answer, builder, post};

const LIMIT: Duration = Duration::from_secs(600);

#[tokio::test(start_paused = true)]
async fn an_operation_lapses_at_max_operation_also_if_its_request_is_not_polled() {
    lapses(&MemoryStore::new()).await;
}

/// It hands on the guard of the memory store, but answers no claim at once.
#[tokio::test(start_paused = true)]
async fn so_does_one_whose_guarded_store_answers_later() {
    lapses(&Steered::new()).await;
}

/// Another task reads the body, as that of a proxy's connection does, and nothing wakes the request
/// from then on.
async fn lapses(store: &(impl Store + Clone)) {
    let layer = builder(store)
        .defaults(|options| options.mode(Mode::Observe).max_operation(LIMIT))
        .observed_body(RequestBody::<Full<Bytes>>::observed)
        .build()
        .unwrap();
    let handler = service_fn(|request: Request<RequestBody<Full<Bytes>>>| async move {
        tokio::spawn(request.into_body().collect());
        sleep(10 * LIMIT).await;
        Ok::<_, BoxError>(answer(StatusCode::OK, "done"))
    });
    let mut requests = Vec::new();
    for (wait, executed, in_flight) in [(LIMIT / 2, 1, 0), (LIMIT, 1, 1), (LIMIT, 2, 1)] {
        let request = post("k", "paid").map(RequestBody::new);
        requests.push(tokio::spawn(layer.layer(handler).oneshot(request)));
        sleep(wait).await;
        let observed = layer.counts().observed;
        let rejected = observed.reject(RejectionCode::InFlight);
        assert_eq!((observed.execute, rejected), (executed, in_flight));
    }
}
