//! Names, units and labels of telemetry, as Prometheus spells them.

use std::fmt;
use std::hash::{Hash, Hasher};

use prometheus_client::encoding::{EncodeLabel as _, EncodeLabelSet, LabelSetEncoder};
use prometheus_client::registry::{Metric, Registry, Unit};
use tower_idempotency::telemetry::Instrument;

/// The labels of a series, by their names in telemetry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Labels<V, const N: usize>(pub(super) [(&'static str, V); N]);

impl<const N: usize> Labels<String, N> {
    /// Labels that are kept after their event.
    pub(super) fn owned(labels: [(&'static str, &str); N]) -> Self {
        Self(labels.map(|(name, value)| (name, value.to_owned())))
    }
}

impl<V: Hash, const N: usize> Hash for Labels<V, N> {
    /// All label sets of a family have the same names, so the values tell them apart.
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        for (_, value) in &self.0 {
            value.hash(hasher);
        }
    }
}

impl<V, const N: usize> EncodeLabelSet for Labels<V, N>
where
    V: AsRef<str>,
{
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> Result<(), fmt::Error> {
        for (name, value) in &self.0 {
            (spelled(name), value.as_ref()).encode(encoder.encode_label())?;
        }
        Ok(())
    }
}

/// Registers the metric of an instrument.
pub(super) fn register(registry: &mut Registry, of: Instrument, metric: impl Metric) {
    // The registry adds the full stop.
    let help = of.description.trim_end_matches('.');
    let name = spelled(of.name);
    match unit(of) {
        Some(unit) => registry.register_with_unit(name, help, unit, metric),
        None => registry.register(name, help, metric),
    }
}

/// A name without the dots, which Prometheus does not allow.
pub(super) fn spelled(name: &str) -> String {
    name.replace('.', "_")
}

/// The unit that a name ends with. What is counted is no unit.
pub(super) fn unit(of: Instrument) -> Option<Unit> {
    match of.unit {
        "s" => Some(Unit::Seconds),
        "By" => Some(Unit::Bytes),
        _ => None,
    }
}
