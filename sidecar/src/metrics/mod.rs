//! `/metrics`, for Prometheus: the metrics of the layer, by the names, units and labels of
//! [`tower_idempotency::telemetry`], and the numbers of the proxy itself.

mod labels;
mod numbers;
mod observer;
mod usage;

use prometheus_client::encoding::prometheus_text;
use prometheus_client::registry::Registry;
use tower_idempotency::IdempotencyLayer;

pub(crate) use numbers::{GaugeGuard, Limit, Numbers};
pub(crate) use observer::LayerObserver;
use usage::Now;

/// The type of the text.
pub(crate) const CONTENT_TYPE: &str = prometheus_text::CONTENT_TYPE;

/// All metrics of a sidecar.
#[derive(Debug)]
pub(crate) struct Metrics(Registry);

impl Metrics {
    /// The metrics of this layer, which `observer` was added to. Every series begins at zero here.
    pub(crate) fn new(
        layer: &IdempotencyLayer,
        observer: &LayerObserver,
        numbers: &Numbers,
    ) -> Self {
        let mut registry = Registry::default();
        numbers.register(&mut registry);
        observer.register(layer, &mut registry);
        registry.register_collector(Box::new(Now::of(layer)));
        Self(registry)
    }

    /// The metrics in the text format, version 0.0.4.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        prometheus_text::encode(&mut text, &self.0).expect("a string takes what is written to it");
        text
    }
}
