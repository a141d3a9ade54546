//! The numbers of the proxy itself.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::labels::Labels;

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

/// Counters with one label.
type Counters = Family<Labels<&'static str, 1>, Counter>;

/// The numbers of the proxy. [`LayerObserver`](super::LayerObserver) has those of operations.
#[derive(Debug)]
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
    failures: Counters,
    refusals: Counters,
}

impl Default for Numbers {
    fn default() -> Self {
        let (failures, refusals) = (Counters::default(), Counters::default());
        let of =
            |family: &Counters, label, value| family.get_or_create_owned(&Labels([(label, value)]));
        Self {
            requests: Counter::default(),
            unreached: of(&failures, "kind", "unreachable"),
            broken: of(&failures, "kind", "broken"),
            timed_out: of(&failures, "kind", "timeout"),
            denied: Counter::default(),
            authorizer_failed: Counter::default(),
            ambiguous: Counter::default(),
            handshakes_failed: Counter::default(),
            in_flight: Gauge::default(),
            connections: Gauge::default(),
            refused: Limit::ALL.map(|(_, entry)| of(&refusals, "limit", entry)),
            failures,
            refusals,
        }
    }
}

impl Numbers {
    pub(crate) fn connection(&self) -> GaugeGuard {
        GaugeGuard::new(&self.connections)
    }

    pub(crate) fn request(&self) -> GaugeGuard {
        self.requests.inc();
        GaugeGuard::new(&self.in_flight)
    }

    /// Something was refused by this limit.
    pub(crate) fn refused(&self, by: Limit) {
        self.refused[by as usize].inc();
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        let own = registry.sub_registry_with_prefix("idempotency_sidecar");
        let help = "Requests received";
        own.register("requests", help, self.requests.clone());
        let help = "Requests whose response is not sent to its end yet";
        own.register("requests_in_flight", help, self.in_flight.clone());
        let help = "Connections of clients";
        own.register("connections", help, self.connections.clone());
        let help = "Requests without a response of the upstream";
        own.register("upstream_failures", help, self.failures.clone());
        let help = "Requests that the authorizer denied";
        own.register("authorizer_denials", help, self.denied.clone());
        let help = "Requests for which the authorizer gave no usable response";
        own.register("authorizer_failures", help, self.authorizer_failed.clone());
        let help = "Requests rejected because servers could read their path in different ways";
        own.register("ambiguous_paths", help, self.ambiguous.clone());
        let help = "Connections of clients whose handshake of TLS has failed";
        own.register(
            "tls_handshake_failures",
            help,
            self.handshakes_failed.clone(),
        );
        let help = "What the limits of the sidecar have refused, closed or kept waiting";
        own.register("refusals", help, self.refusals.clone());
    }
}

/// Raises a gauge, and lowers it again on drop.
#[derive(Debug)]
pub(crate) struct GaugeGuard(Gauge);

impl GaugeGuard {
    fn new(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for GaugeGuard {
    fn drop(&mut self) {
        self.0.dec();
    }
}
