//! The metrics, the spans and the links of a layer, as exporters get them.

#[path = "../../tests/support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex};

use http::{Method, Request};
use http_body_util::Full;
use metrics_util::debugging::{DebugValue, DebuggingRecorder, Snapshotter};
use opentelemetry::Context;
use opentelemetry::context::FutureExt;
use opentelemetry::metrics::MeterProvider;
use opentelemetry::trace::{TraceContextExt, Tracer, TracerProvider};
use opentelemetry_sdk::metrics::data::{ResourceMetrics, ScopeMetrics};
use opentelemetry_sdk::metrics::{InMemoryMetricExporter, PeriodicReader, SdkMeterProvider};
use opentelemetry_sdk::trace::{InMemorySpanExporter, SdkTracerProvider};
use tower::Layer;
use tower_idempotency::options::Require;
use tower_idempotency::telemetry::{INSTRUMENTS, Metrics, OpenTelemetry};
use tower_idempotency::{IdempotencyLayer, MemoryStore};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing_subscriber::layer::SubscriberExt;

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
            format!("idempotency.request.duration code= {request} outcome=executed would="),
            1.0,
        ),
        (
            format!("idempotency.request.duration code= {request} outcome=replayed would="),
            1.0,
        ),
        (
            format!(
                "idempotency.request.duration code=key-reused {request} outcome=rejected would="
            ),
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

fn block_on<F: Future>(future: F) -> F::Output {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.enable_time().build().unwrap().block_on(future)
}

const TRACEPARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

type Seen = BTreeMap<String, String>;

/// The fields of all spans, in the order in which the spans began.
#[derive(Clone, Default)]
struct Spans(Arc<Mutex<Vec<(u64, Seen)>>>);

struct Fields<'a>(&'a mut Seen);

impl Visit for Fields<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0.insert(
            field.name().to_owned(),
            format!("{value:?}").replace('"', ""),
        );
    }
}

impl<S: tracing::Subscriber> tracing_subscriber::Layer<S> for Spans {
    fn on_new_span(
        &self,
        fields: &Attributes<'_>,
        id: &Id,
        _: tracing_subscriber::layer::Context<'_, S>,
    ) {
        let mut seen = Seen::new();
        fields.record(&mut Fields(&mut seen));
        self.0.lock().unwrap().push((id.into_u64(), seen));
    }

    fn on_record(
        &self,
        id: &Id,
        fields: &Record<'_>,
        _: tracing_subscriber::layer::Context<'_, S>,
    ) {
        let mut spans = self.0.lock().unwrap();
        let span = spans
            .iter_mut()
            .rev()
            .find(|(own, _)| *own == id.into_u64());
        fields.record(&mut Fields(&mut span.unwrap().1));
    }
}

#[test]
fn a_protected_request_has_a_span_that_says_what_it_came_to() {
    let spans = Spans::default();
    let subscriber = tracing_subscriber::registry().with(spans.clone());
    // With a second dispatcher `tracing` asks each thread whether a span is wanted: see `support::log`.
    let _other = tracing::Dispatch::new(tracing_subscriber::registry());
    tracing::subscriber::with_default(subscriber, || {
        tracing::callsite::rebuild_interest_cache();
        let layer = layer();
        let app = layer.layer(counting(&Runs::default()));
        let first = || {
            with(
                to("/payments/4711", post("k", "{}")),
                "traceparent",
                TRACEPARENT,
            )
        };
        let retry = || to("/payments/4711", post("k", "{}"));
        let unknown = without(to("/payments/4711", post("k", "{}")), "x-api-key");
        let unprotected = without(retry(), "idempotency-key");
        for request in [first(), retry(), unknown, unprotected] {
            block_on(send(&app, request));
        }
    });
    let spans = spans.0.lock().unwrap();
    let of = |at: usize, name: &str| {
        let value = spans[at].1.get(name);
        value.map_or("-", String::as_str).to_owned()
    };
    assert_eq!(spans.len(), 3, "{spans:#?}");
    for at in 0..3 {
        assert_eq!(of(at, "http.route"), "/payments/{id}");
        assert_eq!(of(at, "http.request.method"), "POST");
    }
    let outcome = |at| {
        [
            "idempotency.outcome",
            "idempotency.end",
            "idempotency.code",
            "idempotency.attempt",
        ]
        .map(|name| of(at, name))
    };
    assert_eq!(outcome(0), ["executed", "recorded", "-", "1"]);
    assert_eq!(outcome(1), ["replayed", "-", "-", "1"]);
    assert_eq!(outcome(2), ["rejected", "-", "scope-missing", "-"]);
    // The span of the replay names the span that the execution ran in.
    assert_eq!(of(1, "idempotency.execution"), TRACEPARENT);
    assert_eq!(of(0, "idempotency.record"), of(1, "idempotency.record"));
}

#[test]
fn a_replay_is_linked_to_the_span_of_the_execution() {
    let spans = InMemorySpanExporter::default();
    let traces = SdkTracerProvider::builder()
        .with_simple_exporter(spans.clone())
        .build();
    let tracer = traces.tracer("test");
    let exporter = InMemoryMetricExporter::default();
    let meters = SdkMeterProvider::builder()
        .with_reader(PeriodicReader::builder(exporter.clone()).build())
        .build();
    let meter = meters.meter("test");
    let layer = builder(&MemoryStore::new())
        .observer(OpenTelemetry::new(&meter))
        .build()
        .unwrap();
    OpenTelemetry::observe_gauges(&meter, &layer);
    let app = layer.layer(counting(&Runs::default()));
    for name in ["first", "retry"] {
        let context = Context::new().with_span(tracer.start(name));
        // The context of the process comes before what a client says.
        let request = with(post("k", "{}"), "traceparent", TRACEPARENT);
        block_on(send(&app, request).with_context(context.clone()));
        context.span().end();
    }
    let spans = spans.get_finished_spans().unwrap();
    let [first, retry] = &*spans else {
        panic!("{spans:#?}");
    };
    assert!(first.links.is_empty());
    let links: Vec<_> = retry.links.iter().collect();
    assert_eq!(links.len(), 1, "{links:#?}");
    let linked = &links[0].span_context;
    assert_eq!(linked.trace_id(), first.span_context.trace_id());
    assert_eq!(linked.span_id(), first.span_context.span_id());
    meters.force_flush().unwrap();
    let found = exporter.get_finished_metrics().unwrap();
    let found: Vec<_> = found
        .iter()
        .flat_map(ResourceMetrics::scope_metrics)
        .flat_map(ScopeMetrics::metrics)
        .collect();
    let names: Vec<_> = found
        .iter()
        .map(|metric| (metric.name(), metric.unit()))
        .collect();
    // Nothing was refused, and no lease has lapsed.
    let silent = ["idempotency.limit.refusals", "idempotency.lease.lapses"];
    for instrument in INSTRUMENTS.iter().filter(|own| !silent.contains(&own.name)) {
        assert!(
            names.contains(&(instrument.name, instrument.unit)),
            "{instrument:?}: {names:?}"
        );
    }
}
