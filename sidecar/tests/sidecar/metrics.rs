//! What `/metrics` says.

use std::convert::Infallible;
use std::future::Future;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder};
use tower_idempotency::telemetry::{
    AGE_BUCKETS, LEASE_LAPSES, Metrics, REPLAY_AGE, REQUEST_BUCKETS, REQUEST_DURATION,
    STORE_BUCKETS, STORE_DURATION,
};
use tower_idempotency::{IdempotencyLayer, MemoryStore, scope};
use tower_layer::Layer;
use tower_service::Service;

use crate::exposition::Exposition;
use crate::support::{Client, File, Running, Step, Upstream, get, nobody, ok, post, until};

const BRIEF: Duration = Duration::from_millis(100);

const REQUESTS: &str = "idempotency_request_duration_seconds_count";
const OPERATIONS: &str = "idempotency_operations_total";
const CALLS: &str = "idempotency_store_operation_duration_seconds_count";

/// Returns what a sidecar says.
async fn scraped(sidecar: &Running) -> Exposition {
    let mut client = Client::connect(sidecar.metrics.unwrap()).await;
    client.send(&get("/metrics")).await;
    let answer = client.answer().await;
    let content_type = "text/plain; version=0.0.4; charset=utf-8";
    assert_eq!(answer.field("content-type"), Some(content_type));
    Exposition::of(answer.text())
}

#[tokio::test]
async fn it_tells_its_numbers() {
    let upstream = Upstream::start(|request| {
        if request.target() == "/broken" {
            vec![Step::Close]
        } else {
            ok("done")
        }
    })
    .await;
    let file = File::new(upstream.address).top("metrics = '127.0.0.1:0'");
    let sidecar = file.start().await;
    for (path, key) in [
        ("/a", "1"),
        ("/a", "1"),
        ("/b", "1"),
        ("/broken", "2"),
        ("//", "3"),
    ] {
        sidecar.exchange(&post(path, key, "{}")).await;
    }
    let mut waits = sidecar.client().await;
    waits
        .send("POST /c HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n")
        .await;
    until(async || {
        let found = scraped(&sidecar).await;
        let of = |name: &str| found.count(&format!("idempotency_sidecar_{name}"), &[]);
        of("requests_in_flight") == 1 && of("connections") == 1
    })
    .await;
    let found = scraped(&sidecar).await;
    let request = ("http_request_method", "POST");
    let failures = "idempotency_sidecar_upstream_failures_total";
    for (name, labels, expected) in [
        (REQUESTS, &[request, ("outcome", "executed")][..], 2),
        (REQUESTS, &[request, ("outcome", "replayed")], 1),
        (REQUESTS, &[("code", "key-reused")], 1),
        (REQUESTS, &[("code", "store-unavailable")], 0),
        (OPERATIONS, &[("end", "recorded"), ("attempt", "first")], 1),
        (OPERATIONS, &[("end", "in_doubt")], 1),
        (OPERATIONS, &[("attempt", "rerun")], 0),
        ("idempotency_replay_age_seconds_count", &[], 1),
        (CALLS, &[("operation", "claim"), ("result", "acquired")], 2),
        ("idempotency_store_records", &[], 2),
        ("idempotency_operations_in_flight", &[], 0),
        (
            "idempotency_limit",
            &[("limit", "max_waiting_requests")],
            1000,
        ),
        ("idempotency_sidecar_requests_total", &[], 6),
        (failures, &[("kind", "broken")], 1),
        (failures, &[("kind", "unreachable")], 0),
        ("idempotency_sidecar_ambiguous_paths_total", &[], 1),
    ] {
        assert_eq!(found.count(name, labels), expected, "{name} {labels:?}");
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let said = &found.samples("idempotency_sidecar_time_seconds")[0].value;
    let said: f64 = said.parse().unwrap();
    assert!((now.as_secs_f64() - said).abs() < 10.0, "{said}");
}

/// The increase of a series that begins with its first event would miss that event.
#[tokio::test]
async fn every_series_is_there_before_its_first_event() {
    let upstream = Upstream::start(|request| {
        if request.target().ends_with("broken") {
            vec![Step::Close]
        } else {
            ok("done")
        }
    })
    .await;
    let file = File::new(upstream.address)
        .top("metrics = '127.0.0.1:0'")
        .route("POST /orders/{id}", "require = 'required'")
        .route("PUT /tried/{id}", "mode = 'observe'");
    let sidecar = file.start().await;
    let series = async || {
        let Exposition(families) = scraped(&sidecar).await;
        let samples = families.into_values().flat_map(|family| family.samples);
        let series = samples.map(|own| format!("{} {:?}", own.name, own.labels));
        series.collect::<Vec<_>>()
    };
    let before = series().await;
    let keyless = post("/orders/1", "k", "{}").replace("Idempotency-Key", "X-Other");
    let tried = post("/tried/1", "k", "{}").replace("POST", "PUT");
    for request in [
        post("/orders/1", "k", "{}"),
        post("/orders/1", "k", "{}"),
        post("/orders/1", "k", "{ }"),
        post("/orders/broken", "b", "{}"),
        post("/elsewhere", "e", "{}"),
        tried.clone(),
        tried.clone(),
        tried.replace("{}", "[]"),
        keyless,
    ] {
        sidecar.exchange(&request).await;
    }
    until(async || {
        let found = scraped(&sidecar).await;
        let observed = [("outcome", "observed"), ("http_route", "/tried/{id}")];
        found.count(REQUESTS, &observed) == 3
    })
    .await;
    let found = scraped(&sidecar).await;
    for (would, code) in [("execute", ""), ("replay", ""), ("reject", "key-reused")] {
        let labels = [("outcome", "observed"), ("would", would), ("code", code)];
        assert_eq!(found.count(REQUESTS, &labels), 1, "{would}");
    }
    let mut after = series().await;
    assert!(before.iter().any(|own| own.contains("/orders/{id}")));
    after.retain(|own| !before.contains(own));
    assert_eq!(after, [""; 0]);
}

/// A service that never responds to `/hangs`.
#[derive(Clone)]
struct Pays;

impl Service<Request<Full<Bytes>>> for Pays {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Full<Bytes>>) -> Self::Future {
        Box::pin(async move {
            if request.uri().path() == "/hangs" {
                std::future::pending::<()>().await;
            }
            Ok(Response::new(Full::default()))
        })
    }
}

/// Returns what an application has to export that gives the metrics of its layer to the facade.
async fn exported() -> Exposition {
    let mut builder = PrometheusBuilder::new().with_recommended_naming(true);
    for (of, buckets) in [
        (REQUEST_DURATION, &REQUEST_BUCKETS[..]),
        (REPLAY_AGE, &AGE_BUCKETS),
        (STORE_DURATION, &STORE_BUCKETS),
    ] {
        let name = Matcher::Full(of.name.replace('.', "_"));
        builder = builder.set_buckets_for_metric(name, buckets).unwrap();
    }
    let recorder = builder.build_recorder();
    let _installed = metrics::set_default_local_recorder(&recorder);
    let layer = IdempotencyLayer::builder(MemoryStore::new(), scope::shared())
        .observer(Metrics::new())
        .max_in_flight_operations(1)
        .defaults(|options| options.lease(BRIEF).max_operation(BRIEF))
        .build()
        .unwrap();
    let app = layer.layer(Pays);
    let request = |path: &str, key: &str| {
        let request = Request::post(path).header("idempotency-key", key);
        app.clone().call(request.body(Full::default()).unwrap())
    };
    for _ in 0..2 {
        request("/pays", "1").await.unwrap();
    }
    let mut hangs = pin!(request("/hangs", "2"));
    let polled = hangs.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    assert!(polled.is_pending());
    request("/pays", "3").await.unwrap();
    // What hangs loses its lease.
    let lapses = LEASE_LAPSES.name.replace('.', "_");
    until(async || recorder.handle().render().contains(&lapses)).await;
    Metrics::record_gauges(&layer);
    Exposition::of(&recorder.handle().render())
}

/// The library's own adapter and the sidecar must not drift apart: who moves from one to the other
/// keeps dashboards and alarms.
#[tokio::test]
async fn its_names_are_those_of_an_application_that_exports_the_metrics_of_the_library() {
    let sidecar = File::new(nobody()).top("metrics = '127.0.0.1:0'");
    let Exposition(mut own) = scraped(&sidecar.start().await).await;
    own.retain(|name, _| !name.starts_with("idempotency_sidecar_"));
    let Exposition(exported) = exported().await;
    let names = |of: &std::collections::BTreeMap<String, _>| of.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&own), names(&exported));
    for (name, family) in &own {
        let exported = &exported[name];
        assert_eq!(family.kind, exported.kind, "{name}");
        assert_eq!(family.help, exported.help, "{name}");
        assert_eq!(family.labels(), exported.labels(), "{name}");
    }
}

/// A caller is refused beyond its share, and the next caller where the sum is full.
#[tokio::test]
async fn it_tells_what_the_limits_of_the_layer_refuse() {
    let upstream = Upstream::start(|_| vec![Step::Hang]).await;
    let file = File::new(upstream.address)
        .top("metrics = '127.0.0.1:0'")
        .idempotency("scope = ['header:x-api-key']")
        .idempotency("max_in_flight_operations = 2")
        .idempotency("max_in_flight_per_caller = 1");
    let sidecar = file.start().await;
    let request = |caller: &str, key: &str| {
        let caller = format!("\r\nX-Api-Key: {caller}\r\nContent-Length");
        post("/a", key, "{}").replace("\r\nContent-Length", &caller)
    };
    let numbers = async || {
        let found = scraped(&sidecar).await;
        let name = "idempotency_limit_refusals_total";
        let of = |limit, by| found.count(name, &[("limit", limit), ("by", by)]);
        let all = ["share", "sum"].map(|by| of("max_in_flight_operations", by));
        for limit in [
            "max_buffered_bytes",
            "max_read_ahead",
            "max_unsent_bytes",
            "max_waiting_requests",
            "max_background_operations",
        ] {
            assert_eq!([of(limit, "share"), of(limit, "sum")], [0, 0], "{limit}");
        }
        all
    };
    let mut first = sidecar.client().await;
    first.send(&request("a", "1")).await;
    until(async || upstream.seen().len() == 1).await;
    assert_eq!(numbers().await, [0, 0]);
    let refused = sidecar.exchange(&request("a", "2")).await;
    assert_eq!(refused.code(), "over-capacity");
    assert_eq!(numbers().await, [1, 0]);
    let mut second = sidecar.client().await;
    second.send(&request("b", "1")).await;
    until(async || upstream.seen().len() == 2).await;
    for key in ["1", "2"] {
        let refused = sidecar.exchange(&request("c", key)).await;
        assert_eq!(refused.code(), "over-capacity");
    }
    assert_eq!(numbers().await, [1, 2]);
}

/// What a client chooses is in no label, however many keys, callers and paths it makes up.
#[tokio::test]
async fn no_label_holds_what_a_client_chose() {
    let upstream = Upstream::start(|_| ok("done")).await;
    let file = File::new(upstream.address)
        .top("metrics = '127.0.0.1:0'")
        .idempotency("scope = ['header:x-api-key']")
        .route("POST /orders/{id}", "require = 'required'");
    let sidecar = file.start().await;
    for number in 0..20 {
        let caller = format!("\r\nX-Api-Key: s3cret-{number}\r\nContent-Length");
        for path in ["orders", "elsewhere"] {
            let (path, key) = (format!("/{path}/s3cret-{number}"), format!("s3cret-{path}"));
            let request = post(&path, &key, "{}");
            let request = request.replace("\r\nContent-Length", &caller);
            assert_eq!(sidecar.exchange(&request).await.status(), 200);
        }
    }
    let Exposition(families) = scraped(&sidecar).await;
    let samples = families.values().flat_map(|family| &family.samples);
    let values = samples.flat_map(|own| own.labels.values());
    assert_eq!(values.filter(|own| own.contains("s3cret")).count(), 0);
}

#[tokio::test]
async fn its_numbers_are_not_for_clients() {
    let sidecar = File::new(nobody()).start().await;
    assert_eq!(sidecar.exchange(&get("/metrics")).await.status(), 502);
    assert!(sidecar.metrics.is_none());
}
