//! What operators do with records: they resolve or forget records whose outcome
//! is unknown, and an owner that comes back afterwards can't change them (G5).

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use tokio::time::{sleep, timeout};
use tower::{Layer, ServiceExt};
use tower_idempotency::options::{KeysPer, OnInFlight, OnLapsedLease, Require};
use tower_idempotency::store::{
    Claim, Claimed, Completion, Forgotten, Outcome, RecordId, RecordState, Release, Store,
    StoreErrorKind,
};
use tower_idempotency::{IdempotencyContext, IdempotencyLayer, Resolved, RouteOptions};

use crate::owners::{First, LEASE, Owners, SECOND, begin};
use crate::support::body::{Script, Step};
use crate::support::store::{Fault, Op, Steered};
use crate::support::{
    API_KEY, Runs, Seen, builder, by, by_operator, counting, created, handler, post, quiet,
    request, send, to, with, with_policy, without,
};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

fn refusing(store: &Steered) -> IdempotencyLayer {
    with_policy(store, |options| {
        options.on_lapsed_lease(OnLapsedLease::Refuse)
    })
}

/// The id of the record to which the request of these tests belongs.
pub(crate) fn id(layer: &IdempotencyLayer) -> RecordId {
    id_of(layer, post("k", "{}")).unwrap()
}

fn id_of<B>(layer: &IdempotencyLayer, request: Request<B>) -> Option<RecordId> {
    layer.records().id_of(&request.into_parts().0)
}

pub(crate) fn paid() -> Outcome {
    Outcome::Completed(Arc::new(paid_when(SystemTime::now())))
}

fn paid_when(when: SystemTime) -> Completion {
    let mut paid = Completion::new(StatusCode::CREATED, "paid, says the bank", when);
    paid.headers.insert("x-by", "hand".parse().unwrap());
    // The header must not get into replays, which have a length of their own.
    paid.headers
        .insert("content-length", "999".parse().unwrap());
    paid
}

/// The event that makes the outcome of an operation unknown.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Doubt {
    Error,
    Panic,
    Lapse,
}

/// An operation whose outcome is unknown, with its owner if the owner still
/// runs.
pub(crate) async fn in_doubt(
    store: &Steered,
    doubt: Doubt,
) -> (
    IdempotencyLayer,
    Owners,
    impl AsyncFn(&str) -> Seen,
    Option<tokio::task::JoinHandle<Seen>>,
) {
    let (layer, owners) = (refusing(store), Owners::new());
    let app = layer.layer(owners.service(match doubt {
        Doubt::Error => First::Fails,
        Doubt::Panic => First::Panics,
        Doubt::Lapse => First::Answers,
    }));
    if doubt == Doubt::Lapse {
        store.make(Op::Renew, Fault::Fails(StoreErrorKind::NotSent));
    } else {
        owners.gate.open();
    }
    let first = begin(&app);
    owners.gate.begun().await;
    let owner = if doubt == Doubt::Lapse {
        sleep(LEASE + SECOND).await;
        Some(tokio::spawn(async {
            Seen::whole(first.await.unwrap().unwrap()).await
        }))
    } else {
        assert!(!matches!(first.await, Ok(Ok(_))));
        None
    };
    store.heal(Op::Renew);
    let retry = async move |body: &str| send(&app, post("k", body.to_owned())).await;
    assert_eq!(retry("{}").await.refusal(), "409 outcome-unknown");
    (layer, owners, retry, owner)
}

#[tokio::test(start_paused = true)]
async fn what_was_resolved_with_an_answer_is_replayed_to_the_retries_of_its_request() {
    for doubt in [Doubt::Error, Doubt::Panic, Doubt::Lapse] {
        let store = Steered::unguarded();
        let (layer, owners, retry, _owner) = in_doubt(&store, doubt).await;
        let id = id(&layer);
        assert_eq!(id, owners.context(1).record_id());
        let record = layer.records().look_up(&id).await.unwrap().unwrap();
        assert!(matches!(record.state, RecordState::Lapsed { .. }));

        let resolved = layer
            .records()
            .resolve(&id, &paid(), &by_operator())
            .await
            .unwrap();
        assert_eq!(resolved, Resolved::Recorded, "{doubt:?}");
        let seen = retry("{}").await;
        assert!(seen.is_replay());
        assert_eq!((seen.status, seen.text()), (201, "paid, says the bank"));
        assert_eq!(seen.header("x-by"), Some("hand"));
        assert_eq!(seen.header("content-length"), Some("19"));
        assert_eq!(retry("{ }").await.refusal(), "422 key-reused");
        assert_eq!(owners.count(), 1, "nothing was executed");
        let after = layer.records().look_up(&id).await.unwrap().unwrap();
        assert!(after.token > record.token);

        // A second resolution changes nothing.
        let other = Outcome::Sealed { retention: DAY };
        assert_eq!(
            layer
                .records()
                .resolve(&id, &other, &by_operator())
                .await
                .unwrap(),
            Resolved::Done
        );
        assert!(retry("{}").await.is_replay());
        // The completion is kept as long as it says, and no longer.
        sleep(DAY - SECOND).await;
        assert!(retry("{}").await.is_replay());
        sleep(SECOND).await;
        assert!(layer.records().look_up(&id).await.unwrap().is_none());
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_resolved_without_an_answer_is_done() {
    let store = Steered::new();
    let (layer, owners, retry, _) = in_doubt(&store, Doubt::Error).await;
    let sealed = Outcome::Sealed { retention: DAY };
    let resolved = layer
        .records()
        .resolve(&id(&layer), &sealed, &by_operator())
        .await
        .unwrap();
    assert_eq!(resolved, Resolved::Recorded);
    assert_eq!(retry("{}").await.refusal(), "409 response-unavailable");
    assert_eq!(retry("{ }").await.refusal(), "422 key-reused");
    assert_eq!(owners.count(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_was_forgotten_executes_again_whatever_it_is_asked() {
    for (doubt, body) in [
        (Doubt::Error, "{}"),
        (Doubt::Panic, "{ }"),
        (Doubt::Lapse, "{}"),
    ] {
        let store = Steered::unguarded();
        let (layer, owners, retry, _owner) = in_doubt(&store, doubt).await;
        let forgotten = layer
            .records()
            .forget(&id(&layer), &by_operator())
            .await
            .unwrap();
        assert_eq!(forgotten, Forgotten::Gone);
        assert_eq!(store.stats().records, 0);
        let again = layer
            .records()
            .forget(&id(&layer), &by_operator())
            .await
            .unwrap();
        assert_eq!(again, Forgotten::Absent);
        owners.gate.open();
        owners.gate.open();
        let seen = retry(body).await;
        if doubt == Doubt::Lapse {
            // The owner may have recorded its response before the retry
            // arrived.
            assert_eq!(seen.status, 201);
        } else {
            seen.assert_fresh("run 2");
            let context = owners.context(2);
            assert_eq!(context.attempt(), 1, "nothing is known of the first");
            assert!(context.fencing_token() > owners.context(1).fencing_token());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_owner_that_comes_back_after_its_operation_was_resolved_is_fenced_off() {
    let store = Steered::unguarded();
    let (layer, owners, retry, owner) = in_doubt(&store, Doubt::Lapse).await;
    let resolved = layer
        .records()
        .resolve(&id(&layer), &paid(), &by_operator())
        .await
        .unwrap();
    assert_eq!(resolved, Resolved::Recorded);
    assert!(!owners.context(1).is_lost());
    // The owner could learn of the resolution by a renewal. Here it learns of
    // it when it records its completion.
    owners.gate.open();
    let seen = owner.unwrap().await.unwrap();
    assert_eq!(seen.refusal(), "409 in-flight");
    assert!(owners.context(1).is_lost());
    let seen = retry("{}").await;
    assert_eq!(
        (seen.is_replay(), seen.text()),
        (true, "paid, says the bank")
    );
}

#[tokio::test(start_paused = true)]
async fn an_owner_learns_by_its_renewal_that_its_operation_was_resolved() {
    let store = Steered::unguarded();
    let (layer, owners, _, _owner) = in_doubt(&store, Doubt::Lapse).await;
    layer
        .records()
        .resolve(&id(&layer), &paid(), &by_operator())
        .await
        .unwrap();
    sleep(LEASE).await;
    assert!(owners.context(1).is_lost());
}

#[tokio::test(start_paused = true)]
async fn the_end_of_an_answer_that_was_resolved_meanwhile_is_not_sent() {
    let store = Steered::unguarded();
    let layer = refusing(&store);
    let app = layer.layer(handler(&Runs::default(), |_, _| {
        let body = Script::frames(["begun"]);
        Response::new(
            body.then(Step::Wait(LEASE * 3))
                .then(Step::Data("ended".into())),
        )
    }));
    store.make(Op::Renew, Fault::Fails(StoreErrorKind::NotSent));
    let first = app.clone().oneshot(post("k", "{}")).await.unwrap();
    assert_eq!(first.status(), 200);
    sleep(LEASE + SECOND).await;
    let id = id_of(&layer, post("k", "{}")).unwrap();
    assert_eq!(
        layer
            .records()
            .resolve(&id, &paid(), &by_operator())
            .await
            .unwrap(),
        Resolved::Recorded
    );
    assert!(first.into_body().collect().await.is_err(), "cut");
    let retry = send(&app, post("k", "{}")).await;
    assert_eq!(retry.text(), "paid, says the bank");
}

#[tokio::test(start_paused = true)]
async fn a_live_operation_is_forgotten_only_by_force_and_never_resolved() {
    for store in [Steered::new(), Steered::unguarded()] {
        let (layer, owners) = (refusing(&store), Owners::new());
        let app = layer.layer(owners.service(First::Answers));
        let first = begin(&app);
        owners.gate.begun().await;
        sleep(LEASE * 2).await;
        let id = id(&layer);
        assert_eq!(
            layer.records().forget(&id, &by_operator()).await.unwrap(),
            Forgotten::InFlight
        );
        let resolved = layer
            .records()
            .resolve(&id, &paid(), &by_operator())
            .await
            .unwrap();
        assert_eq!(resolved, Resolved::InFlight);
        assert_eq!(store.calls(Op::Complete), 0);
        assert_eq!(send(&app, post("k", "{}")).await.refusal(), "409 in-flight");
        assert_eq!(
            layer
                .records()
                .forget_forced(&id, &by_operator())
                .await
                .unwrap(),
            Forgotten::Gone
        );

        // The owner's response is recorded if the handler ends before a retry
        // begins.
        owners.gate.open();
        let first = Seen::whole(first.await.unwrap().unwrap()).await;
        first.assert_fresh("run 1");
        send(&app, post("k", "{}")).await.assert_replays(&first);
    }
}

#[tokio::test(start_paused = true)]
async fn an_operation_forgotten_by_force_is_overtaken_by_its_retry() {
    for store in [Steered::new(), Steered::unguarded()] {
        let (layer, owners) = (refusing(&store), Owners::new());
        let app = layer.layer(owners.service(First::Answers));
        let first = begin(&app);
        owners.gate.begun().await;
        layer
            .records()
            .forget_forced(&id(&layer), &by_operator())
            .await
            .unwrap();
        let second = begin(&app);
        owners.gate.begun().await;
        owners.gate.open();
        let first = Seen::whole(first.await.unwrap().unwrap()).await;
        assert_eq!(first.refusal(), "409 in-flight");
        owners.gate.open();
        let second = Seen::whole(second.await.unwrap().unwrap()).await;
        second.assert_fresh("run 2");
        send(&app, post("k", "{}")).await.assert_replays(&second);
    }
}

/// The waiters are woken when the record is forgotten. One of them executes,
/// and all get its response.
#[tokio::test(start_paused = true)]
async fn one_that_waits_executes_when_what_it_waits_for_is_forgotten() {
    let store = Steered::new();
    let layer = with_policy(&store, |options| {
        options.on_in_flight(OnInFlight::Wait(LEASE * 100))
    });
    let owners = Owners::new();
    let app = layer.layer(owners.service(First::Answers));
    let _first = begin(&app);
    owners.gate.begun().await;
    let waiters = [begin(&app), begin(&app)];
    quiet().await;
    layer
        .records()
        .forget_forced(&id(&layer), &by_operator())
        .await
        .unwrap();
    owners.gate.begun().await;
    quiet().await;
    assert_eq!(owners.count(), 2, "one of those that wait");
    owners.gate.open();
    owners.gate.open();
    for waiter in waiters {
        let seen = Seen::whole(waiter.await.unwrap().unwrap()).await;
        assert_eq!(seen.text(), "run 2");
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_done_released_or_absent_is_not_resolved() {
    let store = Steered::new();
    let layer = refusing(&store);
    let app = layer.layer(handler(&Runs::default(), |run, request| {
        let mut response = created(format!("run {run}"));
        if request.uri().path() == "/transient" && run == 2 {
            *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        }
        response
    }));
    let id = id(&layer);
    assert_eq!(
        layer
            .records()
            .resolve(&id, &paid(), &by_operator())
            .await
            .unwrap(),
        Resolved::Absent
    );
    assert!(layer.records().look_up(&id).await.unwrap().is_none());
    assert!(store.memory.is_empty() && store.calls(Op::Claim) == 0);

    let first = send(&app, post("k", "{}")).await;
    assert_eq!(
        layer
            .records()
            .resolve(&id, &paid(), &by_operator())
            .await
            .unwrap(),
        Resolved::Done
    );
    send(&app, post("k", "{}")).await.assert_replays(&first);

    let released = || to("/transient", post("other", "{}"));
    assert_eq!(send(&app, released()).await.status, 503);
    let id = id_of(&layer, released()).unwrap();
    assert_eq!(
        layer
            .records()
            .resolve(&id, &paid(), &by_operator())
            .await
            .unwrap(),
        Resolved::Absent
    );
    let record = layer.records().look_up(&id).await.unwrap().unwrap();
    assert!(matches!(record.state, RecordState::Released));
    send(&app, released()).await.assert_fresh("run 3");
    assert_eq!(store.calls(Op::Complete), 2, "by handlers");
}

#[tokio::test(start_paused = true)]
async fn of_two_that_resolve_at_once_one_does() {
    let store = Steered::unguarded();
    let (layer, _, retry, _) = in_doubt(&store, Doubt::Error).await;
    store.let_all(Fault::Yields);
    let (id, outcome) = (id(&layer), paid());
    let sealed = Outcome::Sealed { retention: DAY };
    let audit = by_operator();
    let (one, two) = tokio::join!(
        layer.records().resolve(&id, &outcome, &audit),
        layer.records().resolve(&id, &sealed, &audit)
    );
    let (one, two) = (one.unwrap(), two.unwrap());
    let retry = retry("{}").await;
    if one == Resolved::Recorded {
        assert_eq!(two, Resolved::InFlight);
        assert!(retry.is_replay());
    } else {
        assert_eq!((one, two), (Resolved::InFlight, Resolved::Recorded));
        assert_eq!(retry.refusal(), "409 response-unavailable");
    }
}

/// With `rerun` too, a person may resolve a lapsed operation until a retry
/// takes over.
#[tokio::test(start_paused = true)]
async fn a_lapsed_operation_that_would_rerun_can_be_resolved() {
    let store = Steered::unguarded();
    let (layer, owners) = (with_policy(&store, |options| options), Owners::new());
    let app = layer.layer(owners.service(First::Answers));
    store.make(Op::Renew, Fault::Stalls);
    let _first = begin(&app);
    owners.gate.begun().await;
    sleep(LEASE).await;
    let resolved = layer
        .records()
        .resolve(&id(&layer), &paid(), &by_operator())
        .await
        .unwrap();
    assert_eq!(resolved, Resolved::Recorded);
    let seen = send(&app, post("k", "{}")).await;
    assert_eq!(seen.text(), "paid, says the bank");
    assert_eq!(owners.count(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_fails_midway_is_an_error_and_the_outcome_stays_unknown() {
    for op in [Op::LookUp, Op::Claim, Op::Complete] {
        for fault in [
            Fault::Fails(StoreErrorKind::Unknown),
            Fault::Fails(StoreErrorKind::NotSent),
            Fault::Stalls,
        ] {
            let store = Steered::unguarded();
            let (layer, owners, retry, _) = in_doubt(&store, Doubt::Error).await;
            store.make(op, fault);
            let failed = timeout(
                SECOND * 10,
                layer
                    .records()
                    .resolve(&id(&layer), &paid(), &by_operator()),
            )
            .await;
            assert!(failed.unwrap().is_err(), "{op:?} {fault:?}");
            store.heal(op);
            let seen = retry("{}").await;
            assert_eq!(seen.refusal(), "409 outcome-unknown", "{op:?} {fault:?}");
            let resolved = layer
                .records()
                .resolve(&id(&layer), &paid(), &by_operator())
                .await
                .unwrap();
            assert_eq!(resolved, Resolved::Recorded);
            assert!(retry("{}").await.is_replay());
            assert_eq!(owners.count(), 1);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_outcome_whose_acknowledgement_was_lost_is_recorded() {
    let store = Steered::unguarded();
    let (layer, _, retry, _) = in_doubt(&store, Doubt::Error).await;
    store.make(Op::Complete, Fault::AnswerLost(StoreErrorKind::Unknown));
    assert!(
        layer
            .records()
            .resolve(&id(&layer), &paid(), &by_operator())
            .await
            .is_err()
    );
    assert!(retry("{}").await.is_replay());
    let again = layer
        .records()
        .resolve(&id(&layer), &paid(), &by_operator())
        .await
        .unwrap();
    assert_eq!(again, Resolved::Done);
}

/// The resolution failed after it had claimed the record. The handler did not run
/// because of that claim, so the outcome of the operation is still unknown.
#[tokio::test(start_paused = true)]
async fn under_refuse_a_resolution_that_failed_is_no_reason_to_run_it_days_later() {
    let mut runs = Vec::new();
    for (op, fault) in [
        (Op::Claim, Fault::AnswerLost(StoreErrorKind::Unknown)),
        (Op::Complete, Fault::Fails(StoreErrorKind::NotSent)),
    ] {
        let store = Steered::unguarded();
        let (layer, owners, retry, _) = in_doubt(&store, Doubt::Error).await;
        store.make(op, fault);
        assert!(
            layer
                .records()
                .resolve(&id(&layer), &paid(), &by_operator())
                .await
                .is_err()
        );
        store.heal(op);
        sleep(DAY * 3).await;
        owners.gate.open();
        retry("{}").await;
        runs.push(owners.count());
    }
    assert_eq!(runs, [1, 1]);
}

/// An operator's tool may be stopped at any time.
#[tokio::test(start_paused = true)]
async fn a_resolution_that_is_dropped_leaves_the_record_to_be_resolved() {
    for polls in 1.. {
        let store = Steered::unguarded();
        let (layer, owners, retry, _) = in_doubt(&store, Doubt::Error).await;
        store.let_all(Fault::Yields);
        let (id, outcome) = (id(&layer), paid());
        let dropped = crate::support::poll_times(
            polls,
            layer.records().resolve(&id, &outcome, &by_operator()),
        )
        .await;
        sleep(LEASE + SECOND).await;
        let seen = retry("{}").await;
        if !seen.is_replay() {
            assert_eq!(seen.refusal(), "409 outcome-unknown", "after {polls} polls");
            let resolved = layer
                .records()
                .resolve(&id, &outcome, &by_operator())
                .await
                .unwrap();
            assert_eq!(resolved, Resolved::Recorded, "after {polls} polls");
        }
        assert_eq!(owners.count(), 1);
        if dropped.is_some() {
            assert!(polls >= 4);
            break;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_does_not_answer_is_waited_for_no_longer_than_its_timeout() {
    let store = Steered::new();
    let layer = builder(&store).store_timeout(SECOND).build().unwrap();
    store.let_all(Fault::Stalls);
    let id = id(&layer);
    for failed in [
        timeout(SECOND * 2, async {
            layer.records().look_up(&id).await.is_err()
        })
        .await,
        timeout(SECOND * 2, async {
            layer
                .records()
                .forget_forced(&id, &by_operator())
                .await
                .is_err()
        })
        .await,
        timeout(SECOND * 2, async {
            layer
                .records()
                .resolve(&id, &paid(), &by_operator())
                .await
                .is_err()
        })
        .await,
    ] {
        assert!(failed.unwrap());
    }
}

fn seen_ids(
    options: impl FnOnce(RouteOptions) -> RouteOptions,
) -> (IdempotencyLayer, Steered, Ids) {
    let store = Steered::new();
    (with_policy(&store, options), store, Ids::default())
}

type Ids = Arc<std::sync::Mutex<Vec<RecordId>>>;

#[tokio::test]
async fn a_record_has_one_id_to_its_request_its_handler_and_its_store() {
    for keys_per in [KeysPer::Scope, KeysPer::Route] {
        let (layer, store, ids) = seen_ids(|options| {
            options
                .keys_per(keys_per)
                .methods([Method::POST, Method::PUT])
        });
        let app = layer.layer(handler(&Runs::default(), {
            let ids = Arc::clone(&ids);
            move |_, request: Request<Bytes>| {
                let context = request.extensions().get::<IdempotencyContext>();
                ids.lock().unwrap().push(context.unwrap().record_id());
                created("done")
            }
        }));
        let put = || {
            let mut request = to("/refunds", post("b", "{}"));
            *request.method_mut() = Method::PUT;
            request
        };
        let requests: [fn() -> Request<Full<Bytes>>; 4] = [
            || post("a", "{}"),
            || post("\"c\"", "other"),
            || to("/refunds?a=b", post("d", "{}")),
            || by("bob", post("a", "{}")),
        ];
        for request in requests
            .into_iter()
            .map(|make| (make(), make()))
            .chain([(put(), put())])
        {
            send(&app, request.0).await.assert_fresh("done");
            let id = id_of(&layer, request.1).unwrap();
            assert_eq!(*ids.lock().unwrap().last().unwrap(), id);
            assert_eq!(store.claims().last().unwrap().id, id);
            assert!(layer.records().look_up(&id).await.unwrap().is_some());
        }
        // The body, the query and the form of the key do not change the id.
        let id = id_of(&layer, post("c", "")).unwrap();
        assert_eq!(id, ids.lock().unwrap()[1]);
        let elsewhere = id_of(&layer, to("/refunds", post("a", ""))).unwrap();
        let same = elsewhere == ids.lock().unwrap()[0];
        assert_eq!(same, keys_per == KeysPer::Scope);
    }
}

#[tokio::test]
async fn a_record_id_is_of_the_first_header_that_is_present() {
    let (layer, store, _) =
        seen_ids(|options| options.headers(["idempotency-key", "x-request-token"]));
    let app = layer.layer(counting(&Runs::default()));
    let both = || with(post("a", "{}"), "x-request-token", "b");
    let second = || without(both(), "idempotency-key");
    send(&app, both()).await.assert_fresh("run 1");
    assert_eq!(store.claims()[0].id, id_of(&layer, both()).unwrap());
    assert_eq!(store.claims()[0].id, id_of(&layer, post("a", "")).unwrap());
    send(&app, second()).await.assert_fresh("run 2");
    assert_eq!(store.claims()[1].id, id_of(&layer, second()).unwrap());
    assert_eq!(store.claims()[1].id, id_of(&layer, post("b", "")).unwrap());
}

#[test]
fn what_is_not_protected_has_no_record_id() {
    let store = Steered::new();
    let layer = builder(&store)
        .route("/health", |options| options.require(Require::Ignored))
        .build()
        .unwrap();
    let of = |request: Request<Full<Bytes>>| id_of(&layer, request);
    assert!(of(post("a", "")).is_some());
    assert!(of(without(post("a", ""), "idempotency-key")).is_none());
    assert!(of(without(post("a", ""), API_KEY)).is_none());
    assert!(of(post("\"malformed", "")).is_none());
    assert!(of(post("", "")).is_none());
    assert!(of(to("/health", post("a", ""))).is_none());
    let get = request(Method::GET, "/payments", Full::default());
    assert!(of(with(get, "idempotency-key", "a")).is_none());
}

#[test]
fn a_record_id_depends_on_namespace_and_secret() {
    let store = Steered::new();
    let ids = [
        id(&builder(&store).build().unwrap()),
        id(&builder(&store).namespace("billing").build().unwrap()),
        id(&builder(&store)
            .secrets(["sixteen bytes at least"])
            .build()
            .unwrap()),
    ];
    assert!(ids[0] != ids[1] && ids[1] != ids[2] && ids[0] != ids[2]);
}

/// A person's decision is about one attempt. Here a retry takes over and ends
/// while the record is being resolved, and the decision does not overwrite the
/// retry's result.
#[tokio::test(start_paused = true)]
async fn a_resolution_does_not_overwrite_a_newer_attempt_than_the_one_it_is_about() {
    let store = Steered::unguarded();
    let (layer, _owners, retry, _owner) = in_doubt(&store, Doubt::Lapse).await;
    let (id, asked) = (id(&layer), store.claims().last().unwrap().clone());
    store.make(Op::Claim, Fault::ArrivesLate(SECOND));
    let resolving = tokio::spawn({
        let layer = layer.clone();
        async move { layer.records().resolve(&id, &paid(), &by_operator()).await }
    });
    quiet().await;
    // Another process, whose route says `rerun`, takes over, and nobody knows how
    // that ended either.
    let claim = Claim::new(id, asked.scope, asked.fingerprint);
    let claimed = store.memory.claim(&claim).await.unwrap();
    assert!(matches!(claimed, Claimed::Acquired(_)), "{claimed:?}");
    let how = Release::OutcomeUnknown;
    store.memory.release(&id, &claim.nonce, how).await.unwrap();
    assert_eq!(resolving.await.unwrap().unwrap(), Resolved::InFlight);
    store.heal(Op::Claim);
    assert_eq!(retry("{}").await.refusal(), "409 outcome-unknown");
    // When the person has seen the newer attempt and resolves the record again,
    // that succeeds.
    let resolved = layer
        .records()
        .resolve(&id, &paid(), &by_operator())
        .await
        .unwrap();
    assert_eq!(resolved, Resolved::Recorded);
    assert_eq!(retry("{}").await.text(), "paid, says the bank");
}

/// The retry that took over has said that the operation may run again.
#[tokio::test(start_paused = true)]
async fn a_resolution_leaves_a_key_free_that_was_freed_meanwhile() {
    for how in [Some(Release::MayRunAgain), None] {
        let store = Steered::unguarded();
        let (layer, owners, retry, _) = in_doubt(&store, Doubt::Error).await;
        let (id, asked) = (id(&layer), store.claims().last().unwrap().clone());
        store.make(Op::Claim, Fault::ArrivesLate(SECOND));
        let resolving = tokio::spawn({
            let layer = layer.clone();
            async move { layer.records().resolve(&id, &paid(), &by_operator()).await }
        });
        quiet().await;
        if let Some(how) = how {
            let claim = Claim::new(id, asked.scope, asked.fingerprint);
            store.memory.claim(&claim).await.unwrap();
            store.memory.release(&id, &claim.nonce, how).await.unwrap();
        } else {
            let freed = layer.records().free(&id, &by_operator()).await.unwrap();
            assert_eq!(freed, Resolved::Freed);
        }
        assert_eq!(resolving.await.unwrap().unwrap(), Resolved::Absent);
        store.heal(Op::Claim);
        owners.gate.open();
        retry("{}").await.assert_fresh("run 2");
    }
}
