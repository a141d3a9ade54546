//! What orchestrators ask: whether the process lives, and whether it should get requests.

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Response, StatusCode};
use tokio::sync::Mutex;
use tokio::time::{Duration, Instant};
use tower_idempotency::IdempotencyLayer;
use tower_idempotency::for_sidecar::store_is_reached;

/// For how long an answer of the store counts, so that probes are no load on it.
const FRESH: Duration = Duration::from_secs(1);

/// What the store said last, and when.
#[derive(Debug, Default)]
pub(crate) struct Readiness(Mutex<Option<(Instant, bool)>>);

impl Readiness {
    /// Whether the store answers. It is asked for a record that nobody has, and nothing is written.
    pub(crate) async fn store_is_reached(&self, layer: &IdempotencyLayer) -> bool {
        // Held while the store is asked: probes that come meanwhile wait for the same answer.
        let mut last = self.0.lock().await;
        if let Some((when, reached)) = *last
            && when.elapsed() < FRESH
        {
            return reached;
        }
        let reached = store_is_reached(layer).await;
        *last = Some((Instant::now(), reached));
        reached
    }
}

/// The response to a probe.
pub(crate) fn answer(is_well: bool, text: &'static str) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from_static(text.as_bytes()));
    if !is_well {
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    }
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, plain);
    response
}
