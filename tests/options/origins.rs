//! Where an operation came from stands in its record, and observers are told: the route's pattern, and
//! the span that the client named.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use tower::Layer;
use tower_idempotency::observer::{Decision, Observer};
use tower_idempotency::options::{FingerprintBody, JsonFingerprint};
use tower_idempotency::store::{ListQuery, Origin, Store};
use tower_idempotency::{IdempotencyLayer, MemoryStore};

use crate::support::store::Steered;
use crate::support::{Gate, Runs, builder, counting, held_back, post, send, with};

const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
const ROUTE: &str = "POST /payments";

/// The spans of the operations that responses came from.
#[derive(Clone, Default)]
struct Traces(Arc<Mutex<Vec<Option<String>>>>);

impl Observer for Traces {
    fn decided(&self, decision: &Decision<'_>) {
        let trace = decision.trace.map(ToString::to_string);
        self.0.lock().unwrap().push(trace);
    }
}

fn pay(body: &Bytes) -> Request<Full<Bytes>> {
    let request = with(post("k", body.clone()), "traceparent", TRACE);
    with(request, "content-type", "application/json")
}

fn observed(store: &(impl Store + Clone)) -> (Traces, IdempotencyLayer) {
    let traces = Traces::default();
    let layer = builder(store)
        .observer(traces.clone())
        .route(ROUTE, |options| {
            options.fingerprint_body(FingerprintBody::Json(JsonFingerprint::new()))
        })
        .build()
        .unwrap();
    (traces, layer)
}

/// Observes over the memory store, which answers a claim at once, or over a store that does not.
fn observed_at_once(steered: &Steered, at_once: bool) -> (Traces, IdempotencyLayer) {
    if at_once {
        observed(&steered.memory)
    } else {
        observed(steered)
    }
}

async fn listed(store: &MemoryStore) -> Vec<Origin> {
    let (mut query, mut origins) = (ListQuery::new(), Vec::new());
    loop {
        let page = store.list(&query).await.unwrap();
        origins.extend(page.records.into_iter().map(|own| own.origin));
        // A page may be empty although another one follows.
        let Some(next) = page.next else {
            return origins;
        };
        query = query.cursor(next);
    }
}

/// A store that answers at once is asked another way than one that takes its time, and so is one for a
/// body that is digested on another thread.
#[tokio::test]
async fn every_way_to_a_claim_keeps_the_origin() {
    let short = Bytes::from_static(b"{}");
    let long = Bytes::from(format!("[\"{}\"]", "x".repeat(32 << 10)));
    let expected = Origin::none().route(ROUTE).trace(TRACE.parse().unwrap());
    for (body, at_once) in [
        (&short, true),
        (&long, true),
        (&short, false),
        (&long, false),
    ] {
        let steered = Steered::new();
        let store = &steered.memory;
        let (traces, layer) = observed_at_once(&steered, at_once);
        // The second request is sent without a span: its response comes from the first.
        let app = layer.layer(counting(&Runs::default()));
        send(&app, pay(body)).await;
        let mut again = pay(body);
        again.headers_mut().remove("traceparent");
        assert!(send(&app, again).await.is_replay());
        assert_eq!(listed(store).await, std::slice::from_ref(&expected));
        let own = Some(TRACE.to_owned());
        assert_eq!(*traces.0.lock().unwrap(), [own.clone(), own]);
    }
}

/// Also while the operation runs: an operator asks what is in flight.
#[tokio::test]
async fn the_record_of_an_operation_that_runs_has_its_origin() {
    let expected = Origin::none().route(ROUTE).trace(TRACE.parse().unwrap());
    for at_once in [true, false] {
        let steered = Steered::new();
        let store = &steered.memory;
        let (_, layer) = observed_at_once(&steered, at_once);
        let gate = Gate::closed();
        let app = layer.layer(held_back(&Runs::default(), &gate));
        let body = Bytes::from_static(b"{}");
        let runs = tokio::spawn(async move { send(&app, pay(&body)).await });
        gate.begun().await;
        assert_eq!(listed(store).await, std::slice::from_ref(&expected));
        gate.open();
        assert_eq!(runs.await.unwrap().status, 201);
    }
}
