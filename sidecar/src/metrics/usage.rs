//! What is true at the moment of a scrape.

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;
use tower_idempotency::IdempotencyLayer;
use tower_idempotency::telemetry::{LIMIT, gauges};

use super::labels::{Labels, spelled, unit};

/// What requests hold of a layer, and the time.
pub(super) struct Now(IdempotencyLayer);

impl Now {
    pub(super) fn of(layer: &IdempotencyLayer) -> Self {
        Self(layer.clone())
    }
}

impl fmt::Debug for Now {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Now").finish_non_exhaustive()
    }
}

impl Collector for Now {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let usage = self.0.usage();
        for (of, value) in gauges(&usage) {
            let (name, unit) = (spelled(of.name), unit(of));
            let gauge = encoder.encode_descriptor(
                &name,
                of.description,
                unit.as_ref(),
                MetricType::Gauge,
            )?;
            ConstGauge::new(value).encode(gauge)?;
        }
        let name = spelled(LIMIT.name);
        let mut family =
            encoder.encode_descriptor(&name, LIMIT.description, None, MetricType::Gauge)?;
        for limit in &usage.limits {
            let labels = Labels([("limit", limit.option)]);
            ConstGauge::new(limit.limit).encode(family.encode_family(&labels)?)?;
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let gauge = encoder.encode_descriptor(
            "idempotency_sidecar_time",
            "The clock of the machine, in seconds since 1970.",
            Some(&Unit::Seconds),
            MetricType::Gauge,
        )?;
        ConstGauge::new(now.unwrap_or_default().as_secs_f64()).encode(gauge)
    }
}
