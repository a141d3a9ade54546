//! The other modules describe these layers.

use std::time::Duration;

use http::{Method, StatusCode};
use tower_idempotency::options::{
    FingerprintBody, JsonFingerprint, KeyFormat, KeySyntax, KeysPer, OnDisconnect, OnInFlight,
    OnMismatch, OnOversize, OnStoreError, Require,
};
use tower_idempotency::recording::{RecordHeaders, Statuses};
use tower_idempotency::rejection::RejectionCode;
use tower_idempotency::scope::{self, Scope};
use tower_idempotency::store::OnLapsedLease;
use tower_idempotency::{IdempotencyLayer, IdempotencyLayerBuilder, MemoryStore};

pub(crate) fn api_key() -> IdempotencyLayerBuilder {
    let scope = scope::header("x-api-key");
    IdempotencyLayer::builder(MemoryStore::new(), scope)
}

/// Returns a layer that uses every option that clients can notice, on one route or
/// another.
pub(crate) fn full() -> IdempotencyLayer {
    let scope = scope::header("x-api-key").or(scope::peer_ip());
    IdempotencyLayer::builder(MemoryStore::new(), scope)
        .namespace("a-namespace")
        .secrets(["a secret of the service"])
        .docs_url("https://developer.example.com/idempotency")
        .rejection_status(RejectionCode::KeyReused, StatusCode::CONFLICT)
        .rejection_body(
            RejectionCode::KeyRequired,
            "application/json",
            r#"{"error":{"code":"KEY_REQUIRED","message":"{detail}","requestId":"{request_id}"}}"#,
        )
        .defaults(|options| {
            options
                .created_at_header("Idempotency-Created-At")
                .expires_at_header("Idempotency-Expires-At")
                .echo_key(true)
                .skip_types(["application/pdf", "image/*"])
                .skip_headers(["Transient-Error: true", "X-No-Store"])
                .skip_json(["/result/isError: true", "/errors"])
                .retention(Duration::from_secs(7 * 24 * 3600))
        })
        .route("POST /orders", |options| {
            options
                .require(Require::Required)
                .key_length(8..=64)
                .on_in_flight(OnInFlight::Wait(Duration::from_secs(10)))
                .record(Statuses::none().with(200..300).with([404, 409]))
                .replay_status(StatusCode::CREATED, StatusCode::OK)
        })
        .route("/orders/{id}/lines/{*rest}", |options| {
            options
                .methods([Method::PUT, Method::DELETE])
                .headers(["Idempotency-Key", "X-Request-Key"])
                .key_syntax(KeySyntax::Strict)
                .key_format(KeyFormat::uuid())
                .keys_per(KeysPer::Route)
                .on_lapsed_lease(OnLapsedLease::Refuse)
                .on_disconnect(OnDisconnect::Cancel)
                .retry_after(Duration::from_millis(2500))
        })
        .route("POST /notes", |options| {
            options
                .scope(scope::shared())
                .fingerprint_body(FingerprintBody::Json(
                    JsonFingerprint::new().exclude("/sent_at"),
                ))
                .fingerprint_headers(["content-type", "x-tenant"])
                .fingerprint_query(false)
                .on_mismatch(OnMismatch::Replay)
                .oversize(OnOversize::Rerun)
                .max_recorded_body(64 << 10)
                .on_store_error(OnStoreError::RunUnprotected)
                .record_headers(RecordHeaders::allow(["content-type", "location"]))
                .replayed_header(None)
        })
        .route("/webhooks/{name}", |options| {
            options.require(Require::Ignored)
        })
        .build()
        .unwrap()
}
