//! Counters and gauges, in the text format of Prometheus.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use tower_idempotency::Counts;
use tower_idempotency::rejection::RejectionCode;

#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self) {
        // Relaxed: each number counts for itself, and none of them decides anything.
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// A limit of the sidecar, by which it refuses what a client asks for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Limit {
    Connections,
    ConnectionsPerPeer,
    MetricsConnections,
    Head,
    Client,
    UnprotectedIdle,
    Resets,
    UpstreamRequests,
    UpstreamQueue,
}

impl Limit {
    /// Each limit, by the entry of the file that sets it.
    const ALL: [(Self, &'static str); 9] = [
        (Self::Connections, "max_connections"),
        (Self::ConnectionsPerPeer, "max_connections_per_peer"),
        (Self::MetricsConnections, "max_metrics_connections"),
        (Self::Head, "head_timeout"),
        (Self::Client, "client_timeout"),
        (Self::UnprotectedIdle, "unprotected_idle_timeout"),
        (Self::Resets, "max_resets_per_second"),
        (Self::UpstreamRequests, "max_upstream_requests"),
        (Self::UpstreamQueue, "max_upstream_queue"),
    ];
}

/// A number that rises and falls.
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

/// The numbers of the proxy. The layer counts operations itself.
#[derive(Debug, Default)]
pub(crate) struct Numbers {
    pub(crate) requests: Counter,
    pub(crate) unreached: Counter,
    pub(crate) broken: Counter,
    pub(crate) timed_out: Counter,
    pub(crate) denied: Counter,
    pub(crate) authorizer_failed: Counter,
    pub(crate) ambiguous: Counter,
    pub(crate) handshakes_failed: Counter,
    in_flight: Gauge,
    connections: Gauge,
    /// In the order of the limits.
    refused: [Counter; Limit::ALL.len()],
}

/// Raises a gauge, and lowers it again on drop.
#[derive(Debug)]
pub(crate) struct GaugeGuard(Arc<Numbers>, fn(&Numbers) -> &Gauge);

impl GaugeGuard {
    fn new(numbers: &Arc<Numbers>, gauge: fn(&Numbers) -> &Gauge) -> Self {
        gauge(numbers).up();
        Self(Arc::clone(numbers), gauge)
    }
}

impl Drop for GaugeGuard {
    fn drop(&mut self) {
        self.1(&self.0).down();
    }
}

impl Numbers {
    pub(crate) fn connection(self: &Arc<Self>) -> GaugeGuard {
        GaugeGuard::new(self, |numbers| &numbers.connections)
    }

    pub(crate) fn request(self: &Arc<Self>) -> GaugeGuard {
        self.requests.add();
        GaugeGuard::new(self, |numbers| &numbers.in_flight)
    }

    /// Something was refused by this limit.
    pub(crate) fn refused(&self, by: Limit) {
        self.refused[by as usize].add();
    }

    /// All numbers in the text format, version 0.0.4.
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
            "Requests whose response is not sent to its end yet.",
            &self.in_flight,
        );
        text.gauge(
            "idempotency_sidecar_connections",
            "Connections of clients.",
            &self.connections,
        );
        text.counter(
            "idempotency_sidecar_upstream_failures_total",
            "Requests without a response of the upstream.",
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
            "Requests for which the authorizer gave no usable response.",
            &[("", of(&self.authorizer_failed))],
        );
        text.counter(
            "idempotency_sidecar_ambiguous_paths_total",
            "Requests rejected because servers could read their path in different ways.",
            &[("", of(&self.ambiguous))],
        );
        text.counter(
            "idempotency_sidecar_tls_handshake_failures_total",
            "Connections of clients whose handshake of TLS has failed.",
            &[("", of(&self.handshakes_failed))],
        );
        let refused = Limit::ALL.map(|(limit, entry)| {
            let labels = format!(r#"{{limit="{entry}"}}"#);
            (labels, of(&self.refused[limit as usize]))
        });
        text.counter(
            "idempotency_sidecar_refusals_total",
            "What the limits of the sidecar have refused, closed or kept waiting.",
            &refused
                .each_ref()
                .map(|(labels, value)| (&**labels, *value)),
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
            ("replayed", "Responses replayed.", counts.replayed),
            ("recorded", "Responses recorded.", counts.recorded),
            (
                "sealed",
                "Operations done whose response was not kept.",
                counts.sealed,
            ),
            (
                "released",
                "Operations that a retry executes again.",
                counts.released,
            ),
            (
                "outcome_unknown",
                "Operations whose outcome is unknown.",
                counts.outcome_unknown,
            ),
            (
                "in_doubt",
                "Operations left in flight until their leases lapse.",
                counts.in_doubt,
            ),
            (
                "overtaken",
                "Operations whose response was discarded, since another owner had taken over.",
                counts.overtaken,
            ),
            (
                "unrecorded",
                "Responses sent without a record.",
                counts.unrecorded,
            ),
            (
                "unprotected",
                "Operations that ran unprotected while the store was down.",
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
            "Requests rejected, by code.",
            &rejected,
        );
        self.limit_refusals(counts);
    }

    fn limit_refusals(&mut self, counts: &Counts) {
        let refused: Vec<_> = counts
            .limits()
            .iter()
            .flat_map(|limit| {
                [("share", limit.by_share), ("service", limit.by_sum)].map(|(full, value)| {
                    let labels = format!(r#"{{limit="{}",full="{full}"}}"#, limit.option);
                    (labels, value)
                })
            })
            .collect();
        let refused: Vec<_> = refused
            .iter()
            .map(|(labels, value)| (labels.as_str(), *value))
            .collect();
        self.counter(
            "idempotency_limit_refusals_total",
            "What the limits of the layer have refused, by whether the share of a caller or the service was full.",
            &refused,
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
