//! The metrics of a layer: their names and units, and observers that pass them on to a library.
//!
//! | metric | unit | labels |
//! | --- | --- | --- |
//! | `idempotency.request.duration` | s | `outcome` (`executed`, `replayed`, `rejected`, `unprotected`, `observed`), `would` ([`Would`](crate::observer::Would), of what was only observed), `code` of the rejection, also of one that would have been given, `http.request.method`, `http.route` |
//! | `idempotency.operations` | counted | `end` ([`OperationEnd`](crate::observer::OperationEnd), or `observed` of what was only observed), `attempt` (`first`, `rerun`) |
//! | `idempotency.lease.lapses` | counted | `cause` ([`LapseCause`](crate::observer::LapseCause)) |
//! | `idempotency.replay.age` | s | `http.route` |
//! | `idempotency.store.operation.duration` | s | `operation`, `result` ([`StoreCall`](crate::observer::StoreCall)) |
//! | `idempotency.limit.refusals` | counted | `limit`, `by` (`share`, `sum`) |
//! | `idempotency.operations.in_flight`, `idempotency.operations.background`, `idempotency.requests.waiting` | gauges | |
//! | `idempotency.request.buffered`, `idempotency.response.read_ahead`, `idempotency.response.unsent` | gauges, bytes | |
//! | `idempotency.store.records`, `idempotency.store.size` | gauges, the second in bytes | of the memory store |
//! | `idempotency.limit` | gauge | `limit` |
//!
//! In Prometheus dots become `_`, and the unit and `_total` are added:
//! `idempotency_request_duration_seconds`, `idempotency_operations_total`. A label that does not apply
//! is empty. No label holds a key, a caller or a path that a client chose: `http.route` is the path of
//! the route's pattern, and empty where the layer knows none, and a method that HTTP does not define is
//! `_OTHER`.
//!
//! Public items: `Instrument` and its constants, `gauges`, `Metrics` (feature `metrics`), `OpenTelemetry`
//! (feature `opentelemetry`). May use: `layer`, `observer`, `rejection`, `limits`, `record`.

mod instruments;
#[cfg(feature = "metrics")]
mod metrics;
#[cfg(feature = "opentelemetry")]
mod opentelemetry;
pub(crate) mod series;

pub use self::instruments::*;
#[cfg(feature = "metrics")]
pub use self::metrics::Metrics;
#[cfg(feature = "opentelemetry")]
pub use self::opentelemetry::OpenTelemetry;
