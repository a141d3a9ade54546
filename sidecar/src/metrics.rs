//! Numbers, as Prometheus reads them.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use tower_idempotency::Counts;
use tower_idempotency::rejection::RejectionCode;

#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// What rises and falls.
#[derive(Debug, Default)]
pub(crate) struct Gauge(AtomicI64);

impl Gauge {
    fn up(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn down(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What the layer does not count, since it does not know of it.
#[derive(Debug, Default)]
pub(crate) struct Numbers {
    pub(crate) requests: Counter,
    pub(crate) unreached: Counter,
    pub(crate) broken: Counter,
    pub(crate) timed_out: Counter,
    pub(crate) denied: Counter,
    pub(crate) authorizer_failed: Counter,
    pub(crate) ambiguous: Counter,
    in_flight: Gauge,
    connections: Gauge,
}

/// Counted while it lives.
#[derive(Debug)]
pub(crate) struct Counted(Arc<Numbers>, fn(&Numbers) -> &Gauge);

impl Counted {
    fn new(numbers: &Arc<Numbers>, gauge: fn(&Numbers) -> &Gauge) -> Self {
        gauge(numbers).up();
        Self(Arc::clone(numbers), gauge)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.1(&self.0).down();
    }
}

impl Numbers {
    pub(crate) fn connection(self: &Arc<Self>) -> Counted {
        Counted::new(self, |numbers| &numbers.connections)
    }

    pub(crate) fn request(self: &Arc<Self>) -> Counted {
        self.requests.add();
        Counted::new(self, |numbers| &numbers.in_flight)
    }

    /// The text format, version 0.0.4.
    pub(crate) fn text(&self, layer: &Counts) -> String {
        let mut text = Text::default();
        let of = |counter: &Counter| counter.0.load(Ordering::Relaxed);
        text.counter(
            "idempotency_sidecar_requests_total",
            "Requests received.",
            &[("", of(&self.requests))],
        );
        text.gauge(
            "idempotency_sidecar_requests_in_flight",
            "Requests whose answer has not left yet.",
            &self.in_flight,
        );
        text.gauge(
            "idempotency_sidecar_connections",
            "Connections of clients.",
            &self.connections,
        );
        text.counter(
            "idempotency_sidecar_upstream_failures_total",
            "Requests that the upstream did not answer.",
            &[
                (r#"{kind="unreachable"}"#, of(&self.unreached)),
                (r#"{kind="broken"}"#, of(&self.broken)),
                (r#"{kind="timeout"}"#, of(&self.timed_out)),
            ],
        );
        text.counter(
            "idempotency_sidecar_authorizer_denials_total",
            "Requests that the authorizer denied.",
            &[("", of(&self.denied))],
        );
        text.counter(
            "idempotency_sidecar_authorizer_failures_total",
            "Requests that the authorizer gave no word on.",
            &[("", of(&self.authorizer_failed))],
        );
        text.counter(
            "idempotency_sidecar_ambiguous_paths_total",
            "Requests refused since their path could mean several things.",
            &[("", of(&self.ambiguous))],
        );
        text.layer_counts(layer);
        text.0
    }
}

#[derive(Default)]
struct Text(String);

impl Text {
    fn layer_counts(&mut self, counts: &Counts) {
        for (name, help, value) in [
            ("executed", "Operations that began.", counts.executed),
            ("rerun", "Operations that began again.", counts.rerun),
            ("replayed", "Answers given again.", counts.replayed),
            ("recorded", "Answers recorded.", counts.recorded),
            (
                "sealed",
                "Operations done whose answer was not kept.",
                counts.sealed,
            ),
            (
                "released",
                "Operations whose key was given back.",
                counts.released,
            ),
            (
                "outcome_unknown",
                "Operations of which nobody knows how they ended.",
                counts.outcome_unknown,
            ),
            (
                "in_doubt",
                "Operations left in flight until their leases lapse.",
                counts.in_doubt,
            ),
            (
                "overtaken",
                "Operations whose answer was discarded for another owner's.",
                counts.overtaken,
            ),
            (
                "unrecorded",
                "Answers sent before they were recorded.",
                counts.unrecorded,
            ),
            (
                "unprotected",
                "Operations that ran unprotected, the store being down.",
                counts.unprotected,
            ),
        ] {
            self.counter(&format!("idempotency_{name}_total"), help, &[("", value)]);
        }
        let rejected: Vec<_> = RejectionCode::ALL
            .iter()
            .map(|code| (format!(r#"{{code="{code}"}}"#), counts.rejected(*code)))
            .collect();
        let rejected: Vec<_> = rejected
            .iter()
            .map(|(labels, value)| (labels.as_str(), *value))
            .collect();
        self.counter(
            "idempotency_rejected_total",
            "Requests refused, by reason.",
            &rejected,
        );
    }

    fn counter(&mut self, name: &str, help: &str, samples: &[(&str, u64)]) {
        self.head(name, help, "counter");
        for (labels, value) in samples {
            let _ = writeln!(self.0, "{name}{labels} {value}");
        }
    }

    fn gauge(&mut self, name: &str, help: &str, gauge: &Gauge) {
        self.head(name, help, "gauge");
        let _ = writeln!(self.0, "{name} {}", gauge.0.load(Ordering::Relaxed));
    }

    fn head(&mut self, name: &str, help: &str, kind: &str) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }
}
