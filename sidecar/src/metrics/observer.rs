//! What the layer does, as counters and histograms.

use std::sync::Arc;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use tower_idempotency::IdempotencyLayer;
use tower_idempotency::for_sidecar::{
    lapse_series, limit_series, operation_series, request_series, routes, store_series,
};
use tower_idempotency::observer::{
    Decision, Ending, LeaseLapse, Observer, ReachedLimit, RequestOutcome, StoreCall,
};
use tower_idempotency::telemetry::{
    AGE_BUCKETS, LEASE_LAPSES, LIMIT_REFUSALS, OPERATIONS, REPLAY_AGE, REQUEST_BUCKETS,
    REQUEST_DURATION, STORE_BUCKETS, STORE_DURATION, lapse_labels, limit_labels, operation_labels,
    request_labels, store_labels,
};

use super::labels::{Labels, register};

type Counters<const N: usize> = Family<Labels<&'static str, N>, Counter>;
type Histograms<V, const N: usize> = Family<Labels<V, N>, Histogram, fn() -> Histogram>;

/// Counts and measures what a layer does.
#[derive(Clone, Debug)]
pub(crate) struct LayerObserver(Arc<Families>);

#[derive(Debug)]
struct Families {
    requests: Histograms<String, 5>,
    operations: Counters<2>,
    lapses: Counters<1>,
    ages: Histograms<String, 1>,
    calls: Histograms<&'static str, 2>,
    refusals: Counters<2>,
}

impl LayerObserver {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Families {
            requests: Family::new_with_constructor(|| Histogram::new(REQUEST_BUCKETS)),
            operations: Family::default(),
            lapses: Family::default(),
            ages: Family::new_with_constructor(|| Histogram::new(AGE_BUCKETS)),
            calls: Family::new_with_constructor(|| Histogram::new(STORE_BUCKETS)),
            refusals: Family::default(),
        }))
    }

    /// Registers the metrics. Each series that this layer can have is there from now on: a rate would
    /// miss the first event of a series that begins with that event.
    pub(super) fn register(&self, layer: &IdempotencyLayer, registry: &mut Registry) {
        let own = &self.0;
        for route in routes(layer) {
            for method in route.methods {
                for labels in request_series(method, route.path, route.is_observed) {
                    drop(own.requests.get_or_create(&Labels::owned(labels)));
                }
            }
            if !route.is_observed {
                drop(own.ages.get_or_create(&age_labels(route.path)));
            }
        }
        operation_series().for_each(|labels| drop(own.operations.get_or_create(&Labels(labels))));
        lapse_series().for_each(|labels| drop(own.lapses.get_or_create(&Labels(labels))));
        store_series().for_each(|labels| drop(own.calls.get_or_create(&Labels(labels))));
        limit_series().for_each(|labels| drop(own.refusals.get_or_create(&Labels(labels))));
        register(registry, REQUEST_DURATION, own.requests.clone());
        register(registry, OPERATIONS, own.operations.clone());
        register(registry, LEASE_LAPSES, own.lapses.clone());
        register(registry, REPLAY_AGE, own.ages.clone());
        register(registry, STORE_DURATION, own.calls.clone());
        register(registry, LIMIT_REFUSALS, own.refusals.clone());
    }
}

fn age_labels(route: Option<&str>) -> Labels<String, 1> {
    Labels::owned([("http.route", route.unwrap_or_default())])
}

impl Observer for LayerObserver {
    fn decided(&self, decision: &Decision<'_>) {
        let labels = Labels::owned(request_labels(decision));
        let duration = self.0.requests.get_or_create(&labels);
        duration.observe(decision.duration.as_secs_f64());
        if let RequestOutcome::Replayed { age, .. } = decision.outcome {
            let ages = self.0.ages.get_or_create(&age_labels(decision.route));
            ages.observe(age.as_secs_f64());
        }
    }

    fn ended(&self, ending: &Ending<'_>) {
        let labels = Labels(operation_labels(ending));
        self.0.operations.get_or_create(&labels).inc();
    }

    fn lease_lapsed(&self, lapse: &LeaseLapse<'_>) {
        let labels = Labels(lapse_labels(lapse));
        self.0.lapses.get_or_create(&labels).inc();
    }

    fn called_store(&self, call: &StoreCall) {
        let duration = self.0.calls.get_or_create(&Labels(store_labels(call)));
        duration.observe(call.duration.as_secs_f64());
    }

    fn reached_limit(&self, limit: &ReachedLimit) {
        let labels = Labels(limit_labels(limit));
        self.0.refusals.get_or_create(&labels).inc();
    }
}
