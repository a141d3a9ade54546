//! The API of OpenTelemetry.

use std::sync::Arc;

use ::opentelemetry::metrics::{Counter, Histogram, Meter};
use ::opentelemetry::trace::{
    SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState,
};
use ::opentelemetry::{Context, KeyValue};

use super::instruments::{
    self as of, AGE_BUCKETS, INSTRUMENTS, Instrument, LEASE_LAPSES, LIMIT, LIMIT_REFUSALS,
    OPERATIONS, REPLAY_AGE, REQUEST_BUCKETS, REQUEST_DURATION, STORE_BUCKETS, STORE_DURATION,
};
use crate::layer::IdempotencyLayer;
use crate::layer::usage::Usage;
use crate::observer::{
    Decision, Ending, LeaseLapse, Observer, ReachedLimit, RequestOutcome, StoreCall,
};

/// An observer that writes the metrics of a layer to a meter of OpenTelemetry, and that links the span
/// of a replay to the span of the execution: the active span gets the link.
///
/// The layer keeps the active span of an execution beside its record. So the link leads to what really
/// ran, from whichever process and however much later.
///
/// ```
/// use tower_idempotency::telemetry::OpenTelemetry;
/// use tower_idempotency::{IdempotencyLayer, MemoryStore, scope};
///
/// let meter = opentelemetry::global::meter("payments");
/// let layer = IdempotencyLayer::builder(MemoryStore::new(), scope::shared())
///     .observer(OpenTelemetry::new(&meter))
///     .build()?;
/// OpenTelemetry::observe_gauges(&meter, &layer);
/// # Ok::<(), tower_idempotency::ConfigError>(())
/// ```
#[derive(Clone, Debug)]
pub struct OpenTelemetry {
    requests: Histogram<f64>,
    operations: Counter<u64>,
    ages: Histogram<f64>,
    calls: Histogram<f64>,
    lapses: Counter<u64>,
    refusals: Counter<u64>,
}

impl OpenTelemetry {
    /// An observer with instruments of this meter.
    #[must_use]
    pub fn new(meter: &Meter) -> Self {
        let histogram = |of: Instrument, buckets: &[f64]| {
            let histogram = meter.f64_histogram(of.name).with_unit(of.unit);
            let histogram = histogram.with_description(of.description);
            histogram.with_boundaries(buckets.to_vec()).build()
        };
        let counter = |of: Instrument| {
            let counter = meter.u64_counter(of.name).with_unit(of.unit);
            counter.with_description(of.description).build()
        };
        Self {
            requests: histogram(REQUEST_DURATION, &REQUEST_BUCKETS),
            operations: counter(OPERATIONS),
            ages: histogram(REPLAY_AGE, &AGE_BUCKETS),
            calls: histogram(STORE_DURATION, &STORE_BUCKETS),
            lapses: counter(LEASE_LAPSES),
            refusals: counter(LIMIT_REFUSALS),
        }
    }

    /// Makes the gauges, which the meter asks for at each of its exports. They say nothing any more
    /// once the layer is gone.
    pub fn observe_gauges(meter: &Meter, layer: &IdempotencyLayer) {
        let usage = {
            let core = Arc::downgrade(layer.core());
            move || core.upgrade().map(|core| Usage::of(&core))
        };
        for instrument in INSTRUMENTS {
            let name = instrument.name;
            let now = usage.clone();
            let is_held = of::gauges(&layer.usage())
                .iter()
                .any(|(own, _)| own == instrument);
            if !is_held && *instrument != LIMIT {
                continue;
            }
            let gauge = meter.u64_observable_gauge(name).with_unit(instrument.unit);
            let gauge = gauge.with_description(instrument.description);
            let gauge = gauge.with_callback(move |gauge| {
                let Some(usage) = now() else { return };
                for (own, held) in of::gauges(&usage) {
                    if own.name == name {
                        gauge.observe(held as u64, &[]);
                    }
                }
                if name == LIMIT.name {
                    for limit in &usage.limits {
                        gauge.observe(limit.limit as u64, &[KeyValue::new("limit", limit.option)]);
                    }
                }
            });
            gauge.build();
        }
    }
}

/// OpenTelemetry keeps labels, so those that an event borrows are copied.
fn labels<const N: usize>(labels: [(&'static str, &str); N]) -> [KeyValue; N] {
    labels.map(|(name, value)| KeyValue::new(name, value.to_owned()))
}

fn fixed<const N: usize>(labels: [(&'static str, &'static str); N]) -> [KeyValue; N] {
    labels.map(|(name, value)| KeyValue::new(name, value))
}

impl Observer for OpenTelemetry {
    fn decided(&self, decision: &Decision<'_>) {
        let duration = decision.duration.as_secs_f64();
        self.requests
            .record(duration, &labels(of::request_labels(decision)));
        let RequestOutcome::Replayed { age } = decision.outcome else {
            return;
        };
        let route = decision.route.unwrap_or_default();
        self.ages
            .record(age.as_secs_f64(), &labels([("http.route", route)]));
        if let Some(trace) = decision.trace {
            let ran = SpanContext::new(
                TraceId::from_bytes(trace.trace_id),
                SpanId::from_bytes(trace.span_id),
                TraceFlags::new(trace.flags),
                true,
                TraceState::NONE,
            );
            let kind = KeyValue::new("idempotency.link", "execution");
            Context::map_current(|context| context.span().add_link(ran, vec![kind]));
        }
    }

    fn ended(&self, ending: &Ending<'_>) {
        self.operations.add(1, &fixed(of::operation_labels(ending)));
    }

    fn called_store(&self, call: &StoreCall) {
        let duration = call.duration.as_secs_f64();
        self.calls.record(duration, &fixed(of::store_labels(call)));
    }

    fn lease_lapsed(&self, lapse: &LeaseLapse<'_>) {
        self.lapses.add(1, &fixed(of::lapse_labels(lapse)));
    }

    fn reached_limit(&self, limit: &ReachedLimit) {
        self.refusals.add(1, &fixed(of::limit_labels(limit)));
    }
}
