//! What an `Observer` is told: each decision, each end of an operation, each call of the store and
//! each limit that refuses.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use tokio::time::{sleep, timeout};
use tower::{Layer, ServiceExt, service_fn};
use tower_idempotency::observer::{
    Decision, Ending, Observer, OperationEnd, ReachedLimit, RequestOutcome, StoreCall,
};
use tower_idempotency::options::{OnDisconnect, OnInFlight, OnLapsedLease, OnStoreError, Require};
use tower_idempotency::recording::Recording;
use tower_idempotency::store::{RecordId, Store, StoreErrorKind};
use tower_idempotency::{IdempotencyLayerBuilder, MemoryStore};

use crate::support::body::{Script, Step};
use crate::support::log::Log;
use crate::support::store::{Fault, Op, Steered};
use crate::support::{
    Gate, Runs, answer, builder, by, by_operator, counting, created, handler, held_back, post,
    post_with, quiet, request, send, to, with, without,
};

/// Writes a line for each event.
#[derive(Clone, Default)]
struct Notes(Arc<Mutex<Vec<String>>>);

impl Notes {
    fn add(&self, line: String) {
        self.0.lock().unwrap().push(line);
    }

    /// The lines since the last call.
    fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }
}

impl Observer for Notes {
    fn decided(&self, decision: &Decision<'_>) {
        let outcome = match decision.outcome {
            RequestOutcome::Executed { end, .. } => {
                format!(
                    "executed, {}",
                    end.map_or("not ended", OperationEnd::as_str)
                )
            }
            RequestOutcome::Replayed { age, .. } => format!("replayed after {} s", age.as_secs()),
            outcome => outcome.as_str().to_owned(),
        };
        let code = decision.outcome.rejection();
        let code = code.map(|code| format!(" with {code}")).unwrap_or_default();
        let attempt = decision
            .attempt
            .map(|attempt| format!(", attempt {attempt}"));
        assert_eq!(attempt.is_some(), decision.record.is_some(), "{decision:?}");
        self.add(format!(
            "{} {}: {outcome}{code}{} in {} ms",
            decision.method,
            decision.route.unwrap_or("-"),
            attempt.unwrap_or_default(),
            decision.duration.as_millis(),
        ));
    }

    fn ended(&self, ending: &Ending<'_>) {
        let Ending { end, attempt, .. } = ending;
        self.add(format!("ended {} at attempt {attempt}", end.as_str()));
    }

    fn reached_limit(&self, limit: &ReachedLimit) {
        self.add(format!(
            "{} is full, by share: {}",
            limit.option, limit.by_share
        ));
    }
}

fn observed(store: &(impl Store + Clone)) -> (Notes, IdempotencyLayerBuilder) {
    let notes = Notes::default();
    let layer = builder(store).observer(notes.clone());
    (notes, layer)
}

#[tokio::test(start_paused = true)]
async fn an_observer_is_told_of_every_outcome_and_end() {
    let store = Steered::new();
    let (notes, layer) = observed(&store);
    let layer = layer
        .route("POST /payments", |options| {
            options.max_recorded_body(8).max_request_body(100)
        })
        .route("/orders/{id}", |options| {
            options.methods([Method::PUT]).require(Require::Required)
        })
        .defaults(|options| options.on_store_error(OnStoreError::RunUnprotected))
        .build()
        .unwrap();
    let app = layer.layer(handler(&Runs::default(), |_, request: Request<Bytes>| {
        let key = request.headers().get("idempotency-key");
        let key = key.map_or("", |key| key.to_str().unwrap());
        let mut response = match key {
            "large" => created("too large to be kept"),
            "later" => answer(StatusCode::SERVICE_UNAVAILABLE, "later"),
            _ => created("kept"),
        };
        if key == "doubt" {
            response.extensions_mut().insert(Recording::InDoubt);
        }
        response
    }));
    let expect = |expected: &[&str]| assert_eq!(notes.take(), expected);
    send(&app, post("k", "{}")).await;
    expect(&[
        "ended recorded at attempt 1",
        "POST /payments: executed, recorded, attempt 1 in 0 ms",
    ]);
    send(&app, post("k", "{}")).await;
    expect(&["POST /payments: replayed after 0 s, attempt 1 in 0 ms"]);
    send(&app, post("k", "{ }")).await;
    expect(&["POST /payments: rejected with key-reused in 0 ms"]);
    send(&app, post("large", "{}")).await;
    expect(&[
        "POST /payments: executed, not ended, attempt 1 in 0 ms",
        "ended sealed at attempt 1",
    ]);
    send(&app, post("large", "{}")).await;
    expect(&["POST /payments: rejected with response-unavailable in 0 ms"]);
    for attempt in 1..=2 {
        send(&app, post("later", "{}")).await;
        expect(&[
            &format!("ended released at attempt {attempt}"),
            &format!("POST /payments: executed, released, attempt {attempt} in 0 ms"),
        ]);
    }
    send(&app, post("doubt", "{}")).await;
    expect(&[
        "ended in_doubt at attempt 1",
        "POST /payments: executed, in_doubt, attempt 1 in 0 ms",
    ]);
    send(&app, post("doubt", "{}")).await;
    expect(&["POST /payments: rejected with in-flight in 0 ms"]);
    // Requests that are rejected before there is a caller, or a claim.
    let order = || request(Method::PUT, "/orders/4711", Full::new(Bytes::new()));
    send(&app, order()).await;
    expect(&["PUT /orders/{id}: rejected with key-required in 0 ms"]);
    send(&app, with(order(), "idempotency-key", "\"open")).await;
    expect(&["PUT /orders/{id}: rejected with key-invalid in 0 ms"]);
    send(&app, without(post("k", "{}"), "x-api-key")).await;
    expect(&["POST /payments: rejected with scope-missing in 0 ms"]);
    send(&app, post("k", vec![b'x'; 101])).await;
    expect(&["POST /payments: rejected with body-too-large in 0 ms"]);
    let broken = Script::frames(["half"]).then(Step::Fail("as the test wants it"));
    send(
        &layer.layer(counting(&Runs::default())),
        post_with("k", broken),
    )
    .await;
    expect(&["POST /payments: rejected with body-unreadable in 0 ms"]);
    // A path that no pattern matches.
    send(&app, to("/elsewhere", post("e", "{}"))).await;
    expect(&[
        "ended recorded at attempt 1",
        "POST -: executed, recorded, attempt 1 in 0 ms",
    ]);
    // The store is down.
    store.make(Op::Claim, Fault::Fails(StoreErrorKind::Unknown));
    send(&app, to("/elsewhere", post("u", "{}"))).await;
    expect(&["POST -: rejected with store-unavailable in 0 ms"]);
    store.make(Op::Claim, Fault::FailsLate(Duration::from_millis(7)));
    send(&app, to("/elsewhere", post("u", "{}"))).await;
    expect(&["POST -: unprotected in 7 ms"]);
    // What is not protected has no event.
    send(&app, without(post("u", "{}"), "idempotency-key")).await;
    expect(&[]);
}

#[tokio::test(start_paused = true)]
async fn an_observer_is_told_of_operations_that_leave_by_another_door() {
    let gate = Gate::closed();
    let store = Steered::new();
    let (notes, layer) = observed(&store);
    let layer = layer
        .defaults(|options| options.on_lapsed_lease(OnLapsedLease::Refuse))
        .route("/cancelled", |options| {
            options.on_disconnect(OnDisconnect::Cancel)
        })
        .build()
        .unwrap();
    let expect = |expected: &[&str]| assert_eq!(notes.take(), expected);
    // The client leaves while the handler runs, and there is no response that could be decided on.
    let app = layer.layer(held_back(&Runs::default(), &gate));
    let cancelled = app.clone().oneshot(to("/cancelled", post("c", "{}")));
    assert!(timeout(Duration::from_millis(1), cancelled).await.is_err());
    expect(&["ended outcome_unknown at attempt 1"]);
    // The client leaves, and the operation goes on.
    let left = app.clone().oneshot(post("left", "{}"));
    assert!(timeout(Duration::from_millis(1), left).await.is_err());
    gate.open();
    quiet().await;
    expect(&[
        "ended recorded at attempt 1",
        "POST -: executed, recorded, attempt 1 in 1 ms",
    ]);
    // The service fails, or panics.
    let failing = layer.layer(service_fn(|request: Request<Full<Bytes>>| async move {
        assert!(request.uri().path() != "/panics", "as the test wants it");
        Err::<Response<Full<Bytes>>, _>("as the test wants it")
    }));
    failing
        .clone()
        .oneshot(post("fails", "{}"))
        .await
        .unwrap_err();
    let panics = tokio::spawn(failing.oneshot(to("/panics", post("panics", "{}"))));
    assert!(panics.await.unwrap_err().is_panic());
    let unknown = [
        "ended outcome_unknown at attempt 1",
        "POST -: executed, outcome_unknown, attempt 1 in 0 ms",
    ];
    expect(&[unknown, unknown].concat());
    // A response that is sent while it is read ends after its head.
    let streaming = layer.layer(handler(&Runs::default(), |_, _: Request<Bytes>| {
        Response::new(Script::new([
            Step::Data("half".into()),
            Step::Yield,
            Step::Data("s".into()),
        ]))
    }));
    send(&streaming, post("streams", "{}")).await;
    expect(&[
        "POST -: executed, not ended, attempt 1 in 0 ms",
        "ended recorded at attempt 1",
    ]);
    // The store can't be reached when the response is ready.
    store.make(Op::Complete, Fault::Stalls);
    let app = layer.layer(counting(&Runs::default()));
    send(&app, post("unrecorded", "{}")).await;
    expect(&[
        "ended unrecorded at attempt 1",
        "POST -: executed, unrecorded, attempt 1 in 2000 ms",
    ]);
}

#[tokio::test(start_paused = true)]
async fn an_observer_is_told_that_another_owner_has_taken_over() {
    let gate = Gate::closed();
    let store = Steered::unguarded();
    let (notes, layer) = observed(&store);
    let layer = layer.build().unwrap();
    store.make(Op::Renew, Fault::Stalls);
    let app = layer.layer(held_back(&Runs::default(), &gate));
    let first = tokio::spawn(app.clone().oneshot(post("k", "{}")));
    gate.begun().await;
    sleep(Duration::from_secs(31)).await;
    let second = tokio::spawn(app.clone().oneshot(post("k", "{}")));
    gate.begun().await;
    gate.open();
    gate.open();
    assert_eq!(first.await.unwrap().unwrap().status(), StatusCode::CONFLICT);
    assert_eq!(second.await.unwrap().unwrap().status(), StatusCode::CREATED);
    let notes = notes.take();
    assert!(
        notes.contains(&"ended overtaken at attempt 1".to_owned()),
        "{notes:?}"
    );
    let lost = "POST -: executed, overtaken with in-flight, attempt 1 in 31000 ms".to_owned();
    assert!(notes.contains(&lost), "{notes:?}");
}

#[tokio::test(start_paused = true)]
async fn an_observer_is_told_of_each_limit_that_refuses_a_request() {
    let gate = Gate::closed();
    let (notes, layer) = observed(&MemoryStore::new());
    let layer = layer
        .max_in_flight_operations(3)
        .max_in_flight_per_caller(2)
        .max_waiting_requests(0)
        .defaults(|options| options.on_in_flight(OnInFlight::Wait(Duration::from_secs(1))))
        .build()
        .unwrap();
    let app = layer.layer(held_back(&Runs::default(), &gate));
    for (caller, key) in [("alice", "a"), ("alice", "b")] {
        tokio::spawn(app.clone().oneshot(by(caller, post(key, "{}"))));
        gate.begun().await;
    }
    send(&app, post("c", "{}")).await;
    send(&app, post("a", "{}")).await;
    tokio::spawn(app.clone().oneshot(by("bob", post("a", "{}"))));
    gate.begun().await;
    send(&app, by("carol", post("a", "{}"))).await;
    assert_eq!(
        notes.take(),
        [
            "max_in_flight_operations is full, by share: true",
            "POST -: rejected with over-capacity in 0 ms",
            "max_waiting_requests is full, by share: false",
            "POST -: rejected with in-flight in 0 ms",
            "max_in_flight_operations is full, by share: false",
            "POST -: rejected with over-capacity in 0 ms",
        ]
    );
    let usage = layer.usage();
    let in_flight = usage.limit("max_in_flight_operations").unwrap();
    assert_eq!(
        (in_flight.held, in_flight.limit, in_flight.per_caller),
        (3, 3, Some(2))
    );
    assert_eq!(usage.store.unwrap().records, 3);
    for _ in 0..3 {
        gate.open();
    }
    quiet().await;
    assert_eq!(
        layer
            .usage()
            .limit("max_in_flight_operations")
            .unwrap()
            .held,
        0
    );
}

/// Panics at every event.
struct Panics;

impl Observer for Panics {
    fn decided(&self, _: &Decision<'_>) {
        panic!("as the test wants it");
    }

    fn ended(&self, _: &Ending<'_>) {
        panic!("as the test wants it");
    }

    fn called_store(&self, _: &StoreCall) {
        panic!("as the test wants it");
    }

    fn reached_limit(&self, _: &ReachedLimit) {
        panic!("as the test wants it");
    }
}

#[tokio::test(start_paused = true)]
async fn an_observer_that_panics_costs_no_request_its_lease_and_no_other_observer_an_event() {
    let log = Log::default();
    let _listening = log.listen();
    let (gate, notes) = (Gate::closed(), Notes::default());
    let layer = builder(&Steered::new())
        .observer(Panics)
        .observer(notes.clone())
        .max_in_flight_operations(1)
        .max_in_flight_per_caller(1)
        .defaults(|options| options.on_disconnect(OnDisconnect::Cancel))
        .build()
        .unwrap();
    let app = layer.layer(counting(&Runs::default()));
    let first = send(&app, post("k", "{}")).await;
    first.assert_fresh("run 1");
    send(&app, post("k", "{}")).await.assert_replays(&first);
    // The client leaves, and the event comes from a destructor.
    let held = layer.layer(held_back(&Runs::default(), &gate));
    let mut left = Box::pin(held.oneshot(post("left", "{}")));
    assert!(timeout(Duration::from_millis(1), &mut left).await.is_err());
    send(&app, post("full", "{}")).await;
    drop(left);
    quiet().await;
    send(&app, post("left", "{}")).await;
    assert_eq!(
        notes.take(),
        [
            "ended recorded at attempt 1",
            "POST -: executed, recorded, attempt 1 in 0 ms",
            "POST -: replayed after 0 s, attempt 1 in 0 ms",
            "max_in_flight_operations is full, by share: false",
            "POST -: rejected with over-capacity in 0 ms",
            "ended released at attempt 1",
            "ended recorded at attempt 2",
            "POST -: executed, recorded, attempt 2 in 0 ms",
        ]
    );
    let log = log.text();
    assert!(
        log.contains("ERROR") && log.contains("an observer has panicked"),
        "{log}"
    );
}

/// An operation of the store, its result, and the milliseconds that it took.
type Call = (&'static str, &'static str, u128);

/// Keeps the calls of the store.
#[derive(Clone, Default)]
struct Calls(Arc<Mutex<Vec<Call>>>);

impl Observer for Calls {
    fn called_store(&self, call: &StoreCall) {
        let (operation, result) = (call.operation.as_str(), call.result.as_str());
        let call = (operation, result, call.duration.as_millis());
        self.0.lock().unwrap().push(call);
    }
}

#[tokio::test(start_paused = true)]
async fn an_observer_is_told_of_each_call_of_the_store_and_how_long_it_took() {
    let calls = Calls::default();
    let store = Steered::unguarded();
    let layer = builder(&store).observer(calls.clone()).build().unwrap();
    let app = layer.layer(handler(
        &Runs::default(),
        |run, _: Request<Bytes>| match run {
            1 => created("kept"),
            _ => answer(StatusCode::SERVICE_UNAVAILABLE, "later"),
        },
    ));
    let expect = |expected: &[(&str, &str, u128)]| {
        assert_eq!(std::mem::take(&mut *calls.0.lock().unwrap()), expected);
    };
    store.make(Op::Claim, Fault::Late(Duration::from_millis(3)));
    store.make(Op::Complete, Fault::Late(Duration::from_millis(5)));
    send(&app, post("k", "{}")).await;
    expect(&[("claim", "acquired", 3), ("complete", "held", 5)]);
    send(&app, post("k", "{}")).await;
    expect(&[("claim", "found", 3)]);
    store.heal(Op::Claim);
    send(&app, post("later", "{}")).await;
    expect(&[("claim", "acquired", 0), ("release", "held", 0)]);
    store.make(Op::Claim, Fault::Fails(StoreErrorKind::NotSent));
    send(&app, post("down", "{}")).await;
    expect(&[("claim", "not_sent", 0)]);
    store.make(Op::LookUp, Fault::Stalls);
    let id = RecordId::from_bytes([7; 32]);
    layer.records().look_up(&id).await.unwrap_err();
    store.heal(Op::LookUp);
    assert!(layer.records().look_up(&id).await.unwrap().is_none());
    layer.records().forget(&id, &by_operator()).await.unwrap();
    expect(&[
        ("look_up", "timed_out", 2000),
        ("look_up", "absent", 0),
        ("forget", "absent", 0),
    ]);
    // The memory store answers a claim at once.
    let calls = Calls::default();
    let layer = builder(&MemoryStore::new())
        .observer(calls.clone())
        .build()
        .unwrap();
    send(&layer.layer(counting(&Runs::default())), post("k", "{}")).await;
    let calls = calls.0.lock().unwrap();
    assert_eq!(*calls, [("claim", "acquired", 0), ("complete", "held", 0)]);
}
