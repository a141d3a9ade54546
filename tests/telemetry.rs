//! The metrics of a layer, as an exporter gets them.

#[path = "support/mod.rs"]
mod support;

use std::collections::BTreeMap;

use http::{Method, Request};
use http_body_util::Full;
use metrics_util::debugging::{DebugValue, DebuggingRecorder, Snapshotter};
use tower::Layer;
use tower_idempotency::options::Require;
use tower_idempotency::telemetry::{INSTRUMENTS, Metrics};
use tower_idempotency::{IdempotencyLayer, MemoryStore};

use crate::support::{Runs, builder, by, counting, post, send, to, with, without};

fn layer() -> IdempotencyLayer {
    builder(&MemoryStore::new())
        .observer(Metrics::new())
        .max_waiting_requests(7)
        .route("POST /payments/{id}", |options| options)
        .route("/purchases", |options| {
            let purchase = Method::from_bytes(b"PURCHASE").unwrap();
            options.methods([purchase]).require(Require::Required)
        })
        .build()
        .unwrap()
}

/// Runs requests with a recorder of their own, and returns what it has recorded: each series with its
/// value, or with the number of the values of a histogram.
fn recorded(
    requests: impl IntoIterator<Item = Request<Full<bytes::Bytes>>>,
) -> BTreeMap<String, f64> {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    metrics::with_local_recorder(&recorder, || {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_time().build().unwrap();
        let layer = layer();
        let app = layer.layer(counting(&Runs::default()));
        for request in requests {
            runtime.block_on(send(&app, request));
        }
        Metrics::record_gauges(&layer);
    });
    series(&snapshotter)
}

#[expect(clippy::cast_precision_loss, reason = "the numbers are small")]
fn series(snapshotter: &Snapshotter) -> BTreeMap<String, f64> {
    let all = snapshotter.snapshot().into_vec().into_iter();
    all.map(|(key, _, description, value)| {
        assert!(description.is_some(), "{key:?}");
        let key = key.key();
        let mut labels: Vec<_> = key
            .labels()
            .map(|label| format!("{}={}", label.key(), label.value()))
            .collect();
        labels.sort();
        let value = match value {
            DebugValue::Counter(value) => value as f64,
            DebugValue::Gauge(value) => value.into_inner(),
            DebugValue::Histogram(values) => values.len() as f64,
        };
        (format!("{} {}", key.name(), labels.join(" ")), value)
    })
    .collect()
}

#[test]
fn every_event_is_a_metric_with_the_labels_of_the_table() {
    let to_payment = |key| to("/payments/4711", post(key, "{}"));
    let found = recorded([
        to_payment("k"),
        to_payment("k"),
        to("/payments/4711", post("k", "{ }")),
    ]);
    let request = "http.request.method=POST http.route=/payments/{id}";
    for (series, value) in [
        (
            format!("idempotency.request.duration code= {request} outcome=executed"),
            1.0,
        ),
        (
            format!("idempotency.request.duration code= {request} outcome=replayed"),
            1.0,
        ),
        (
            format!("idempotency.request.duration code=key-reused {request} outcome=rejected"),
            1.0,
        ),
        (
            "idempotency.operations attempt=first end=recorded".to_owned(),
            1.0,
        ),
        (
            "idempotency.replay.age http.route=/payments/{id}".to_owned(),
            1.0,
        ),
        (
            "idempotency.store.operation.duration operation=claim result=acquired".to_owned(),
            1.0,
        ),
        (
            "idempotency.store.operation.duration operation=claim result=found".to_owned(),
            2.0,
        ),
        (
            "idempotency.store.operation.duration operation=complete result=held".to_owned(),
            1.0,
        ),
        ("idempotency.operations.in_flight ".to_owned(), 0.0),
        ("idempotency.store.records ".to_owned(), 1.0),
        (
            "idempotency.limit limit=max_waiting_requests".to_owned(),
            7.0,
        ),
    ] {
        assert_eq!(found.get(&series), Some(&value), "{series}: {found:#?}");
    }
    let names = found.keys().map(|series| series.split(' ').next().unwrap());
    for name in names {
        assert!(
            INSTRUMENTS.iter().any(|instrument| instrument.name == name),
            "{name}"
        );
    }
}

/// What a client chooses is in no label: neither its key nor its name nor its path, however many it
/// makes up.
#[test]
fn no_label_holds_what_a_client_chose() {
    let hostile = (0..50).flat_map(|number| {
        let secret = format!("s3cret-{number}");
        let path = |path: &str| format!("{path}/{secret}?{secret}");
        let plain = || by(&secret, post(&secret, "{}"));
        let mut purchase = to("/purchases", plain());
        *purchase.method_mut() = Method::from_bytes(b"PURCHASE").unwrap();
        let mut unknown = to("/purchases", plain());
        *unknown.method_mut() = Method::from_bytes(secret.as_bytes()).unwrap();
        [
            to(&path("/payments"), plain()),
            to(&path("/s3cret"), plain()),
            to(
                &path("/payments"),
                with(plain(), "idempotency-key", format!("\"{secret}")),
            ),
            without(to(&path("/payments"), plain()), "x-api-key"),
            with(plain(), "traceparent", &secret),
            purchase,
            unknown,
        ]
    });
    let found = recorded(hostile);
    assert!(
        found.keys().all(|series| !series.contains("s3cret")),
        "{found:#?}"
    );
    let requests = found
        .keys()
        .filter(|series| series.starts_with("idempotency.request.duration"));
    let requests: Vec<_> = requests.collect();
    assert!(
        requests
            .iter()
            .any(|series| series.contains("method=_OTHER")),
        "{requests:#?}"
    );
    assert!(requests.len() <= 8, "{requests:#?}");
}
