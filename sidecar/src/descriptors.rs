//! How many files the process may open, compared with what its limits need.

use tower_idempotency::for_sidecar::Limits;
use tracing::warn;

/// What the program has open beside connections of clients and to the upstream: its listeners, the
/// connections of a store, the runtime's own.
const OTHERS: usize = 64;

/// Allows as many files as the system lets the process have, and warns if the limits can't be reached
/// all the same. The soft limit is often 1024 for the sake of programs that use `select`, and any
/// process may raise it up to the hard limit.
#[cfg(unix)]
pub(crate) fn allow(limits: &Limits, asks_authorizer: bool) {
    let allowed = match rlimit::increase_nofile_limit(u64::MAX) {
        Ok(allowed) => usize::try_from(allowed).unwrap_or(usize::MAX),
        Err(error) => {
            warn!(%error, "how many files the process may open is not known");
            return;
        }
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

/// Only Unix limits the files of a process.
#[cfg(not(unix))]
pub(crate) fn allow(_: &Limits, _: bool) {}
