//! A planted mix of requests over a socket, of which the report finds exactly what was planted, and
//! what becomes of what was recorded.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::Response;
use http_body_util::{BodyExt, Full};
use tokio::time::sleep;
use tower::{Layer, ServiceExt};
use tower_idempotency::observer::{Decision, Observer, RequestOutcome, Would};
use tower_idempotency::options::{Mode, OnInFlight, OnLapsedLease};
use tower_idempotency::rejection::RejectionCode;
use tower_idempotency::store::StoreErrorKind;
use tower_idempotency::{IdempotencyLayer, MemoryStore, RequestBody};

use crate::served::{Client, Http, observing, serve, within};
use crate::support::log::Log;
use crate::support::store::{Fault, Op, Steered};
use crate::support::{Gate, Runs, builder, by, counting, held_back, post, without};

fn raw(path: &str, caller: &str, key: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "POST {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n{caller}{key}content-length: \
         {length}\r\n\r\n{body}"
    )
}

#[tokio::test]
async fn the_report_finds_exactly_what_was_planted() {
    const ALICE: &str = "x-api-key: alice\r\n";
    const BOB: &str = "x-api-key: bob\r\n";
    let layer = observing(|options| options);
    let (address, events) = serve(Some(layer.clone()), Http::One).await;
    let send = async |path: &str, caller: &str, key: &str, body: &str| {
        let mut client = Client::connect(address).await;
        client.write(raw(path, caller, key, body).as_bytes()).await;
        client.into_end().await
    };
    let key = |key: &str| format!("idempotency-key: {key}\r\n");
    for number in 0..5 {
        send("/echo", ALICE, &key(&format!("a{number}")), "one").await;
    }
    for number in [0, 0, 3] {
        send("/echo", ALICE, &key(&format!("a{number}")), "one").await;
    }
    send("/echo", ALICE, &key("a1"), "another body").await;
    send("/echo", BOB, &key("a1"), "one").await;
    send("/echo", ALICE, "idempotency-key: \r\n", "one").await;
    send("/echo", "", &key("a1"), "one").await;
    send("/echo", ALICE, "", "one").await;
    send("/required", ALICE, "", "one").await;
    // It fails, is sent again and fails again.
    send("/fails", ALICE, &key("f"), "one").await;
    send("/fails", ALICE, &key("f"), "one").await;
    // It runs while it is sent again.
    let mut runs = Client::connect(address).await;
    let before = events.all().len();
    runs.write(raw("/never", ALICE, &key("r"), "one").as_bytes())
        .await;
    events.reach(before + 2).await;
    let mut again = Client::connect(address).await;
    again
        .write(raw("/never", ALICE, &key("r"), "one").as_bytes())
        .await;
    events.reach(before + 4).await;
    // The client leaves, and sends it again: protected, the operation would have gone on.
    drop(runs);
    events.reach(before + 5).await;
    let mut again = Client::connect(address).await;
    again
        .write(raw("/never", ALICE, &key("r"), "one").as_bytes())
        .await;
    events.reach(before + 7).await;
    // A handler that does not read the body.
    send("/ignore", ALICE, &key("i"), "one").await;

    let counts = layer.counts();
    let observed = &counts.observed;
    assert_eq!(observed.execute, 5 + 1 + 2 + 1);
    assert_eq!(observed.replay, 3 + 1);
    assert_eq!(observed.pass, 1);
    assert_eq!(observed.not_observed, 1);
    let reject = |code: RejectionCode| (code, observed.reject(code));
    let rejected: Vec<_> = RejectionCode::ALL.iter().copied().map(reject).collect();
    let rejected: Vec<_> = rejected
        .into_iter()
        .filter(|(_, count)| *count > 0)
        .collect();
    let expected = [
        (RejectionCode::KeyRequired, 1),
        (RejectionCode::KeyInvalid, 1),
        (RejectionCode::ScopeMissing, 1),
        (RejectionCode::KeyReused, 1),
        (RejectionCode::InFlight, 1),
    ];
    assert_eq!(rejected.len(), expected.len(), "{rejected:?}");
    assert!(
        expected.iter().all(|own| rejected.contains(own)),
        "{rejected:?}"
    );
    assert_eq!(
        (counts.replayed, counts.rejected(RejectionCode::KeyReused)),
        (0, 0)
    );
}

/// Nothing that was recorded while the layer only observed is given to a client, or refuses one.
#[tokio::test]
async fn protection_finds_nothing_of_what_was_observed() {
    let store = MemoryStore::new();
    let layer = |mode| {
        let builder = builder(&store).defaults(move |options| options.mode(mode));
        builder
            .observed_body(RequestBody::<Full<Bytes>>::observed)
            .build()
            .unwrap()
    };
    let runs = Runs::default();
    let send = async |layer: &IdempotencyLayer, body: &'static str| {
        let service = layer.layer(counting(&runs));
        let response = service
            .oneshot(post("k", body).map(RequestBody::new))
            .await
            .unwrap();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        String::from_utf8(body.to_vec()).unwrap()
    };
    let (observe, protect) = (layer(Mode::Observe), layer(Mode::Protect));
    assert_eq!(send(&observe, "paid").await, "run 1");
    assert_eq!(send(&protect, "paid").await, "run 2");
    assert_eq!(send(&protect, "paid").await, "run 2");
    assert_eq!(send(&observe, "paid").await, "run 3");
    let counts = observe.counts().observed;
    assert_eq!((counts.execute, counts.replay), (1, 1));
    // Of a response that was only observed, no byte is kept.
    assert_eq!(store.stats().records, 2);
}

/// Where duplicates wait, the one that would have waited is a replay. In observe mode it passes.
#[tokio::test]
async fn a_duplicate_that_would_wait_passes_at_once() {
    let wait = Duration::from_secs(60);
    let layer = observing(|options| options.on_in_flight(OnInFlight::Wait(wait)));
    let (address, events) = serve(Some(layer.clone()), Http::One).await;
    let request = raw(
        "/never",
        "x-api-key: alice\r\n",
        "idempotency-key: k\r\n",
        "a",
    );
    let mut clients = Vec::new();
    for begun in [2, 4] {
        let mut client = Client::connect(address).await;
        client.write(request.as_bytes()).await;
        clients.push(client);
        within(events.reach(begun)).await;
    }
    assert_eq!(layer.counts().observed.replay, 1);
}

/// An observation that finds no room is given up, and its request passes.
#[tokio::test]
async fn what_is_full_refuses_no_request() {
    let layer = builder(&MemoryStore::new())
        .defaults(|options| options.mode(Mode::Observe))
        .observed_body(RequestBody::<Full<Bytes>>::observed)
        .max_in_flight_operations(1)
        .max_in_flight_per_caller(1)
        .build()
        .unwrap();
    let runs = Runs::default();
    let service = || layer.layer(counting(&runs));
    let held = service()
        .oneshot(post("a", "a").map(RequestBody::new))
        .await
        .unwrap();
    let held_too = service()
        .oneshot(post("b", "b").map(RequestBody::new))
        .await
        .unwrap();
    assert_eq!(
        (held.status(), held_too.status()),
        (201.try_into().unwrap(), 201.try_into().unwrap())
    );
    let counts = layer.counts();
    assert_eq!(
        (counts.observed.execute, counts.observed.not_observed),
        (1, 1)
    );
}

/// The record of an operation whose process died waits for nobody.
#[tokio::test(start_paused = true)]
async fn what_has_died_is_forgotten_when_its_lease_lapses() {
    let store = Steered::unguarded();
    store.make(Op::Renew, Fault::Fails(StoreErrorKind::NotSent));
    let gate = Gate::closed();
    let layer = builder(&store)
        .defaults(|options| {
            let observed = options.mode(Mode::Observe);
            observed.on_lapsed_lease(OnLapsedLease::Refuse)
        })
        .build()
        .unwrap();
    let app = layer.layer(held_back(&Runs::default(), &gate));
    for expected in [1, 2] {
        tokio::spawn(app.clone().oneshot(post("k", "")));
        gate.begun().await;
        sleep(Duration::from_secs(120)).await;
        assert_eq!(layer.counts().observed.execute, expected);
    }
}

/// What an observer was told.
#[derive(Clone, Default)]
struct Told(Arc<Mutex<Vec<Would>>>);

impl Observer for Told {
    fn decided(&self, decision: &Decision<'_>) {
        if let RequestOutcome::Observed(would) = decision.outcome {
            self.0.lock().unwrap().push(would);
        }
    }
}

#[tokio::test]
async fn an_observer_is_told_what_would_have_happened() {
    let told = Told::default();
    let layer = builder(&MemoryStore::new())
        .defaults(|options| options.mode(Mode::Observe))
        .observer(told.clone())
        .observed_body(RequestBody::<Full<Bytes>>::observed)
        .build()
        .unwrap();
    let runs = Runs::default();
    let keyless = without(post("k", "a"), "idempotency-key");
    for request in [post("k", "a"), post("k", "a"), post("k", "b"), keyless] {
        let app = layer.layer(counting(&runs));
        let response = app.oneshot(request.map(RequestBody::new)).await.unwrap();
        response.into_body().collect().await.unwrap();
    }
    let reused = Would::Reject(RejectionCode::KeyReused);
    let expected = [Would::Execute, Would::Replay, reused, Would::Pass];
    assert_eq!(*told.0.lock().unwrap(), expected);
}

/// The same layer twice around a handler is one.
#[tokio::test]
async fn a_layer_inside_itself_observes_once() {
    let layer = builder(&MemoryStore::new())
        .defaults(|options| options.mode(Mode::Observe))
        .observed_body(RequestBody::<Full<Bytes>>::observed)
        .build()
        .unwrap();
    let runs = Runs::default();
    let inner = layer.layer(counting(&runs));
    let inner = ServiceExt::<http::Request<RequestBody<Full<Bytes>>>>::map_response(
        inner,
        |response: Response<_>| response,
    );
    let service = layer.layer(inner);
    let response = service
        .oneshot(post("k", "a").map(RequestBody::new))
        .await
        .unwrap();
    response.into_body().collect().await.unwrap();
    let counts = layer.counts().observed;
    assert_eq!((counts.execute, counts.not_observed), (1, 0));
    assert_eq!(counts.reject(RejectionCode::InFlight), 0);
}

#[tokio::test]
async fn the_log_says_what_would_have_happened_and_whose_it_was_to_nobody() {
    let log = Log::default();
    let listening = log.listen();
    let layer = builder(&MemoryStore::new())
        .defaults(|options| options.mode(Mode::Observe))
        .route("POST /payments", |options| options)
        .observed_body(RequestBody::<Full<Bytes>>::observed)
        .build()
        .unwrap();
    let runs = Runs::default();
    for (caller, body) in [("alice", "secret"), ("alice", "secret"), ("alice", "other")] {
        let request = by(caller, post("the-key", body)).map(RequestBody::new);
        let response = layer.layer(counting(&runs)).oneshot(request).await.unwrap();
        response.into_body().collect().await.unwrap();
    }
    drop(listening);
    let text = log.text();
    assert!(
        text.contains("observed would=\"replay\" method=\"POST\" route=\"POST /payments\""),
        "{text}"
    );
    assert!(
        text.contains("would=\"reject\" code=\"key-reused\""),
        "{text}"
    );
    for secret in ["the-key", "alice", "secret", "other"] {
        assert!(!text.contains(secret), "{secret}: {text}");
    }
}
