//! The facade `metrics`.

use ::metrics::{
    Label, Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram,
};

use super::instruments::{
    self as of, Instrument, LEASE_LAPSES, LIMIT, LIMIT_REFUSALS, OPERATIONS, REPLAY_AGE,
    REQUEST_DURATION, STORE_DURATION,
};
use crate::layer::IdempotencyLayer;
use crate::observer::{
    Decision, Ending, LeaseLapse, Observer, ReachedLimit, RequestOutcome, StoreCall,
};

/// An observer that writes the metrics of a layer to the crate `metrics`, and so to whichever exporter
/// the application has installed.
///
/// An exporter for Prometheus needs buckets for the histograms, of which this module has three lists.
/// `PrometheusBuilder::with_recommended_naming(true)` of `metrics-exporter-prometheus` gives the metrics
/// the names of [this table](crate::telemetry).
///
/// ```
/// use tower_idempotency::telemetry::Metrics;
/// use tower_idempotency::{IdempotencyLayer, MemoryStore, scope};
///
/// let layer = IdempotencyLayer::builder(MemoryStore::new(), scope::shared())
///     .observer(Metrics::new())
///     .build()?;
/// // Before each export, or every few seconds:
/// Metrics::record_gauges(&layer);
/// # Ok::<(), tower_idempotency::ConfigError>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Metrics(());

impl Metrics {
    /// Describes the metrics to the recorder that is installed, and makes the observer.
    #[must_use]
    pub fn new() -> Self {
        for instrument in of::INSTRUMENTS {
            let Instrument {
                name, description, ..
            } = *instrument;
            let unit = match instrument.unit {
                "s" => Unit::Seconds,
                "By" => Unit::Bytes,
                _ => Unit::Count,
            };
            match *instrument {
                REQUEST_DURATION | REPLAY_AGE | STORE_DURATION => {
                    describe_histogram!(name, unit, description);
                }
                OPERATIONS | LEASE_LAPSES | LIMIT_REFUSALS => {
                    describe_counter!(name, unit, description);
                }
                _ => describe_gauge!(name, unit, description),
            }
        }
        Self(())
    }

    /// Sets the gauges to what the layer holds now. The library has no task of its own that would do
    /// so: an application calls this before each export, or in a task of its own every few seconds.
    #[expect(clippy::cast_precision_loss, reason = "a gauge is a float")]
    pub fn record_gauges(layer: &IdempotencyLayer) {
        let usage = layer.usage();
        for (instrument, value) in of::gauges(&usage) {
            gauge!(instrument.name).set(value as f64);
        }
        for limit in &usage.limits {
            gauge!(LIMIT.name, "limit" => limit.option).set(limit.limit as f64);
        }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

/// `metrics` keeps labels, so those that an event borrows are copied.
fn labels<const N: usize>(labels: [(&'static str, &str); N]) -> Vec<Label> {
    let labels = labels.into_iter();
    labels
        .map(|(name, value)| Label::new(name, value.to_owned()))
        .collect()
}

fn fixed<const N: usize>(labels: [(&'static str, &'static str); N]) -> Vec<Label> {
    let labels = labels.into_iter();
    labels
        .map(|(name, value)| Label::from_static_parts(name, value))
        .collect()
}

impl Observer for Metrics {
    fn decided(&self, decision: &Decision<'_>) {
        let duration = histogram!(REQUEST_DURATION.name, labels(of::request_labels(decision)));
        duration.record(decision.duration.as_secs_f64());
        if let RequestOutcome::Replayed { age } = decision.outcome {
            let route = decision.route.unwrap_or_default();
            let ages = histogram!(REPLAY_AGE.name, labels([("http.route", route)]));
            ages.record(age.as_secs_f64());
        }
    }

    fn ended(&self, ending: &Ending<'_>) {
        counter!(OPERATIONS.name, fixed(of::operation_labels(ending))).increment(1);
    }

    fn called_store(&self, call: &StoreCall) {
        let duration = histogram!(STORE_DURATION.name, fixed(of::store_labels(call)));
        duration.record(call.duration.as_secs_f64());
    }

    fn lease_lapsed(&self, lapse: &LeaseLapse<'_>) {
        counter!(LEASE_LAPSES.name, fixed(of::lapse_labels(lapse))).increment(1);
    }

    fn reached_limit(&self, limit: &ReachedLimit) {
        counter!(LIMIT_REFUSALS.name, fixed(of::limit_labels(limit))).increment(1);
    }
}
