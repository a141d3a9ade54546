//! The names of the metrics, and how events become labels.

use http::Method;

use crate::layer::usage::Usage;
use crate::observer::{
    Decision, Ending, LeaseLapse, ReachedLimit, RequestOutcome, StoreCall, Would,
};

/// A metric: its name by the conventions of OpenTelemetry, its unit, and what it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Instrument {
    /// The name, such as `idempotency.request.duration`.
    pub name: &'static str,
    /// The unit: `s`, `By`, or what is counted, such as `{request}`.
    pub unit: &'static str,
    /// What the metric says.
    pub description: &'static str,
}

/// Declares the constants of the instruments, and lists them.
macro_rules! instruments {
    ($($(#[$doc:meta])* $constant:ident $name:literal $unit:literal $description:literal;)*) => {
        $(
            #[doc = $description]
            pub const $constant: Instrument = Instrument {
                name: $name,
                unit: $unit,
                description: $description,
            };
        )*

        /// Every instrument.
        pub const INSTRUMENTS: &[Instrument] = &[$($constant),*];
    };
}

instruments! {
    REQUEST_DURATION "idempotency.request.duration" "s"
        "The time from a protected request to the head of its response.";
    OPERATIONS "idempotency.operations" "{operation}"
        "Operations that have ended.";
    REPLAY_AGE "idempotency.replay.age" "s"
        "The age of the recorded responses that were given to retries.";
    LEASE_LAPSES "idempotency.lease.lapses" "{lease}"
        "Leases that have lapsed while their operations ran.";
    STORE_DURATION "idempotency.store.operation.duration" "s"
        "The time that calls of the store took.";
    LIMIT_REFUSALS "idempotency.limit.refusals" "{request}"
        "Requests that a limit of the layer has refused.";
    IN_FLIGHT "idempotency.operations.in_flight" "{operation}"
        "Protected requests that are being handled.";
    BACKGROUND "idempotency.operations.background" "{operation}"
        "Operations that go on without a client.";
    WAITING "idempotency.requests.waiting" "{request}"
        "Requests that wait for the outcome of another.";
    BUFFERED "idempotency.request.buffered" "By"
        "Bytes of request bodies that are held.";
    READ_AHEAD "idempotency.response.read_ahead" "By"
        "Bytes of responses that are read ahead of their clients.";
    UNSENT "idempotency.response.unsent" "By"
        "Bytes of whole responses that wait for their clients.";
    STORE_RECORDS "idempotency.store.records" "{record}"
        "Records of the memory store.";
    STORE_SIZE "idempotency.store.size" "By"
        "About the bytes that the records of the memory store take.";
    LIMIT "idempotency.limit" "1"
        "How much of each limit all callers together may hold.";
}

/// The bounds of buckets for durations of requests, in seconds: those of `http.server.request.duration`.
pub const REQUEST_BUCKETS: [f64; 14] = [
    0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
];

/// The bounds of buckets for durations of the store's calls, in seconds.
pub const STORE_BUCKETS: [f64; 12] = [
    0.0001, 0.000_25, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 1.0, 2.5,
];

/// The bounds of buckets for ages of replays, in seconds: from one second to a week.
pub const AGE_BUCKETS: [f64; 8] = [
    1.0, 10.0, 60.0, 600.0, 3600.0, 21_600.0, 86_400.0, 604_800.0,
];

/// The labels of [`REQUEST_DURATION`].
#[must_use]
pub fn request_labels<'a>(decision: &Decision<'a>) -> [(&'static str, &'a str); 5] {
    let (code, would) = match decision.outcome {
        RequestOutcome::Observed(would) => {
            let code = match would {
                Would::Reject(code) => Some(code),
                _ => None,
            };
            (code, would.as_str())
        }
        outcome => (outcome.rejection(), ""),
    };
    [
        ("outcome", decision.outcome.as_str()),
        ("would", would),
        ("code", code.map_or("", |code| code.as_str())),
        ("http.request.method", method(decision.method)),
        ("http.route", decision.route.unwrap_or_default()),
    ]
}

/// The labels of [`OPERATIONS`].
#[must_use]
pub fn operation_labels(ending: &Ending<'_>) -> [(&'static str, &'static str); 2] {
    let attempt = if ending.attempt > 1 { "rerun" } else { "first" };
    let end = if ending.is_observed {
        "observed"
    } else {
        ending.end.as_str()
    };
    [("end", end), ("attempt", attempt)]
}

/// The labels of [`LEASE_LAPSES`].
#[must_use]
pub fn lapse_labels(lapse: &LeaseLapse<'_>) -> [(&'static str, &'static str); 1] {
    [("cause", lapse.cause.as_str())]
}

/// The labels of [`STORE_DURATION`].
#[must_use]
pub fn store_labels(call: &StoreCall) -> [(&'static str, &'static str); 2] {
    let (operation, result) = (call.operation.as_str(), call.result.as_str());
    [("operation", operation), ("result", result)]
}

/// The labels of [`LIMIT_REFUSALS`].
#[must_use]
pub fn limit_labels(limit: &ReachedLimit) -> [(&'static str, &'static str); 2] {
    let by = if limit.by_share { "share" } else { "sum" };
    [("limit", limit.option), ("by", by)]
}

/// The values of the gauges without labels.
#[must_use]
pub fn gauges(usage: &Usage) -> Vec<(Instrument, usize)> {
    let held = |option| usage.limit(option).map_or(0, |limit| limit.held);
    let mut gauges = vec![
        (IN_FLIGHT, held("max_in_flight_operations")),
        (BACKGROUND, held("max_background_operations")),
        (WAITING, held("max_waiting_requests")),
        (BUFFERED, held("max_buffered_bytes")),
        (READ_AHEAD, held("max_read_ahead")),
        (UNSENT, held("max_unsent_bytes")),
    ];
    if let Some(store) = usage.store {
        gauges.push((STORE_RECORDS, store.records));
        gauges.push((STORE_SIZE, store.bytes));
    }
    gauges
}

/// The method as a label: an application can protect methods that HTTP does not define.
fn method(method: &Method) -> &'static str {
    match *method {
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        _ => "_OTHER",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_method_that_http_does_not_define_is_other() {
        for (own, label) in [
            ("POST", "POST"),
            ("DELETE", "DELETE"),
            ("PURCHASE", "_OTHER"),
        ] {
            assert_eq!(method(&Method::from_bytes(own.as_bytes()).unwrap()), label);
        }
    }

    /// A gauge names the option of its limit by text, which this test compares.
    #[cfg(feature = "memory")]
    #[test]
    fn each_limit_has_a_gauge_of_its_own() {
        let layer = crate::IdempotencyLayer::new(crate::MemoryStore::new(), crate::scope::shared());
        let mut usage = layer.unwrap().usage();
        for (at, limit) in usage.limits.iter_mut().enumerate() {
            limit.held = at + 1;
        }
        let mut held: Vec<_> = gauges(&usage).into_iter().map(|(_, held)| held).collect();
        held.truncate(crate::limits::Resource::ALL.len());
        held.sort_unstable();
        assert_eq!(held, [1, 2, 3, 4, 5, 6]);
    }
}
