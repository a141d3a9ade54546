//! How many files the process may open, compared with what its limits need.

use tower_idempotency::for_sidecar::Limits;
use tracing::warn;

/// What the program has open beside connections of clients and to the upstream: its listeners, the
/// connections of a store, the runtime's own.
const OTHERS: usize = 64;

/// Warns if the limits can't be reached. Only Linux tells how many files a process may open.
pub(crate) fn compare(limits: &Limits, asks_authorizer: bool) {
    let status = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let Some(allowed) = allowed(&status) else {
        return;
    };
    let upstream = limits.max_upstream_requests;
    let authorizer = if asks_authorizer { upstream } else { 0 };
    let needed = [
        limits.max_connections,
        limits.max_metrics_connections,
        upstream,
        authorizer,
        OTHERS,
    ];
    let needed = needed.into_iter().fold(0, usize::saturating_add);
    if needed > allowed {
        warn!(
            max_connections = limits.max_connections,
            max_metrics_connections = limits.max_metrics_connections,
            max_upstream_requests = upstream,
            "the limits can't be reached: together they need {needed} file descriptors, and the process \
             may have {allowed}: raise `LimitNOFILE` of its unit (`ulimit -n`), or lower the limits"
        );
    }
}

/// The soft limit of open files in `/proc/self/limits`.
fn allowed(status: &str) -> Option<usize> {
    let mut lines = status.lines();
    let line = lines.find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}
