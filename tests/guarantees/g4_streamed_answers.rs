//! G4 if the head has already left: the layer reads the rest of a response
//! without its client, up to a limit, and a server waits for that at shutdown.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use tokio::time::{Instant, sleep};
use tower::{Layer, ServiceExt, service_fn};
use tower_idempotency::options::{OnDisconnect, OnOversize};

use crate::support::body::{Script, Step};
use crate::support::store::{Fault, Op, Steered};
use crate::support::{
    Runs, answer, builder, counting, handler, post, protected, quiet, send, with_policy,
};
use crate::written::{Announced, End, Part, Written, tasks};

const SECOND: Duration = Duration::from_secs(1);
const MAX_OPERATION: Duration = Duration::from_secs(600);
/// A response of this length is more than the layer collects before the head
/// leaves.
const LARGE: usize = 100_000;
const GIBIBYTE: usize = 1 << 30;
const FRAME: usize = 32 << 10;

/// A handler's response with this body. The handler must not run a second time.
fn once(body: Script) -> impl Fn() -> Response<Script> + Clone + Send + 'static {
    let body = std::sync::Arc::new(std::sync::Mutex::new(Some(body)));
    move || {
        let body = body.lock().unwrap().take();
        Response::new(body.expect("it runs once"))
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_is_recorded_whole_without_its_client() {
    for announced in [
        Announced::Nothing,
        Announced::ByHint(0),
        Announced::ByHeader(0),
    ] {
        let (store, runs) = (Steered::new(), Runs::default());
        let slow = [Part::Data(LARGE), Part::Wait(5000), Part::Data(LARGE)];
        let written = Written {
            trailers: true,
            ..Written::new(announced, slow)
        };
        let whole = written.data();
        let app = protected(&store).layer(handler(&runs, move |_, _| written.response()));
        let first = app.clone().oneshot(post("k", "{}")).await.unwrap();
        drop(first);
        let retry = send(&app, post("k", "{}")).await;
        assert_eq!(retry.refusal(), "409 in-flight");
        sleep(SECOND * 6).await;
        let retry = send(&app, post("k", "{}")).await;
        assert!(retry.is_replay() && retry.body == whole);
        assert_eq!(retry.trailers.unwrap()["sum"], "42");
        assert_eq!(runs.count(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_breaks_off_without_its_client_is_not_run_again() {
    for (end, status, expected) in [
        (End::Broken, StatusCode::CREATED, "response-unavailable"),
        (End::Panicked, StatusCode::CREATED, "response-unavailable"),
        (End::Broken, StatusCode::BAD_GATEWAY, "fresh"),
    ] {
        let (store, runs) = (Steered::new(), Runs::default());
        let slow = [Part::Data(LARGE), Part::Wait(5000), Part::Data(1)];
        let written = Written {
            status,
            ..Written::new(Announced::Nothing, slow).ending(end)
        };
        let app = protected(&store).layer(handler(&runs, move |_, _| written.response()));
        drop(app.clone().oneshot(post("k", "{}")).await.unwrap());
        sleep(SECOND * 6).await;
        if expected == "fresh" {
            assert_eq!(store.stats().released, 1);
        } else {
            assert_eq!(store.stats().sealed, 1);
            let retry = send(&app, post("k", "{}")).await;
            assert_eq!(retry.refusal(), "409 response-unavailable");
        }
        assert_eq!(runs.count(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn the_rest_of_a_large_answer_is_read_to_its_end_without_its_client() {
    for oversize in [OnOversize::Seal, OnOversize::Rerun] {
        for frames_read in [0, 1, 100] {
            let (store, runs) = (Steered::new(), Runs::default());
            let body = Script::repeated(vec![b'x'; FRAME], GIBIBYTE / FRAME);
            let (given, is_gone) = (body.given(), body.is_gone());
            let answer = once(body.then(Step::Wait(SECOND)));
            let layer = with_policy(&store, |options| options.oversize(oversize));
            let app = layer.layer(handler(&runs, move |_, _| answer()));
            let first = app.clone().oneshot(post("k", "{}")).await.unwrap();
            let mut first = first.into_body();
            for _ in 0..frames_read {
                first.frame().await.unwrap().unwrap();
            }
            assert!(given() < GIBIBYTE / 100);
            drop(first);
            sleep(SECOND * 2).await;
            assert_eq!(given(), GIBIBYTE);
            assert!(is_gone());
            let stats = store.stats();
            let sealed = usize::from(oversize == OnOversize::Seal);
            assert_eq!((stats.sealed, stats.released), (sealed, 1 - sealed));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_without_end_is_given_up_max_operation_after_its_client_left() {
    let bodies: [fn() -> Script; 3] = [
        || Script::new((0..5000).flat_map(|_| [Step::Data("x".into()), Step::Wait(SECOND)])),
        || Script::frames(["x"]).then(Step::Never),
        || Script::frames([vec![b'x'; 2 << 20]]).then(Step::Never),
    ];
    for body in bodies {
        let (store, runs) = (Steered::unguarded(), Runs::default());
        let body = body();
        let is_gone = body.is_gone();
        let answer = once(body);
        let layer = protected(&store);
        let app = layer.layer(handler(&runs, move |_, _| answer()));
        drop(app.clone().oneshot(post("k", "{}")).await.unwrap());
        sleep(MAX_OPERATION - SECOND).await;
        assert!(!is_gone());
        assert_eq!(layer.drain(Duration::ZERO).await, 1);
        let retry = send(&app, post("k", "{}")).await;
        assert_eq!(retry.refusal(), "409 in-flight");
        sleep(SECOND * 2).await;
        assert!(is_gone());
        assert_eq!(layer.drain(Duration::ZERO).await, 0);
        let retry = send(&app, post("k", "{}")).await;
        assert_eq!(retry.refusal(), "409 response-unavailable");
        assert_eq!(runs.count(), 1);
        sleep(SECOND * 60).await;
        assert_eq!(tasks(), 0);
    }
}

/// In an earlier version the handler's time counted against the limit for
/// reading the body. No time was left after the handler, and the record was
/// sealed.
#[tokio::test(start_paused = true)]
async fn a_short_answer_that_came_after_max_operation_is_recorded_though_its_client_left() {
    let (store, runs) = (Steered::new(), Runs::default());
    let layer = with_policy(&store, |options| {
        options.lease(SECOND).max_operation(SECOND * 10)
    });
    let app = layer.layer(service_fn({
        let runs = runs.clone();
        move |_: Request<Full<Bytes>>| {
            runs.begin();
            async {
                sleep(SECOND * 11).await;
                let steps = [Step::Data("x".into()), Step::Yield, Step::Data("y".into())];
                Ok::<_, Infallible>(Response::new(Script::new(steps)))
            }
        }
    }));
    let leaves = tokio::spawn(app.clone().oneshot(post("k", "{}")));
    sleep(SECOND).await;
    leaves.abort();
    sleep(SECOND * 12).await;
    let retry = send(&app, post("k", "{}")).await;
    assert_eq!((retry.is_replay(), retry.text()), (true, "xy"));
    assert_eq!(runs.count(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_answer_on_its_way_is_waited_for_at_shutdown_once_its_client_has_left() {
    let (store, runs) = (Steered::new(), Runs::default());
    let layer = protected(&store);
    let app = layer.layer(handler(&runs, |_, _| {
        Written::new(Announced::Nothing, [Part::Data(1), Part::Wait(5000)]).response()
    }));
    let first = app.clone().oneshot(post("k", "{}")).await.unwrap();
    assert_eq!(
        layer.drain(Duration::ZERO).await,
        0,
        "the server waits for it"
    );
    drop(first);
    assert_eq!(layer.drain(SECOND).await, 1);
    let asked = Instant::now();
    assert_eq!(layer.drain(SECOND * 60).await, 0);
    assert_eq!(asked.elapsed(), SECOND * 4);
    assert_eq!(store.stats().completed, 1);
}

/// The body has ended, but its record is still being stored.
#[tokio::test(start_paused = true)]
async fn an_answer_whose_record_is_being_stored_is_waited_for_at_shutdown() {
    let (store, runs) = (Steered::new(), Runs::default());
    store.make(Op::Complete, Fault::Late(SECOND));
    let layer = protected(&store);
    let app = layer.layer(handler(&runs, |_, _| {
        Written::new(Announced::Nothing, [Part::Data(1), Part::Yield]).response()
    }));
    let first = app.clone().oneshot(post("k", "{}")).await.unwrap();
    quiet().await;
    assert_eq!(store.calls(Op::Complete), 1);
    drop(first);
    assert_eq!(layer.drain(Duration::ZERO).await, 1);
    assert_eq!(layer.drain(SECOND * 2).await, 0);
    assert!(send(&app, post("k", "{}")).await.is_replay());
}

#[tokio::test(start_paused = true)]
async fn answers_on_their_way_without_a_client_are_capped() {
    let (store, runs) = (Steered::new(), Runs::default());
    let layer = builder(&store)
        .max_background_operations(2)
        .build()
        .unwrap();
    let app = layer.layer(handler(&runs, |_, _| {
        Written::new(Announced::Nothing, [Part::Data(1), Part::Wait(5000)]).response()
    }));
    let mut staying = Vec::new();
    for key in ["a", "b", "c"] {
        staying.push(app.clone().oneshot(post(key, "{}")).await.unwrap());
    }
    for (left, expected) in [(0, None), (1, None), (2, Some("503 over-capacity"))] {
        let key = format!("after {left}");
        let next = app.clone().oneshot(post(&key, "{}")).await.unwrap();
        assert_eq!(next.status() == 503, expected.is_some(), "after {left}");
        if expected.is_none() {
            staying.push(next);
            drop(staying.remove(0));
        }
    }
    assert_eq!(runs.count(), 5);
    sleep(SECOND * 6).await;
    assert_eq!(send(&app, post("later", "{}")).await.status, 201);
}

#[tokio::test(start_paused = true)]
async fn where_a_route_cancels_an_answer_ends_with_its_client_and_is_not_run_again() {
    for (status, cap, released) in [
        (StatusCode::CREATED, 1 << 20, 0),
        (StatusCode::CREATED, 1, 0),
        (StatusCode::BAD_GATEWAY, 1 << 20, 1),
    ] {
        let (store, runs) = (Steered::new(), Runs::default());
        let body = Script::frames(["half"]).then(Step::Wait(SECOND * 60));
        let is_gone = body.is_gone();
        let answer = once(body);
        let layer = with_policy(&store, |options| {
            let options = options.on_disconnect(OnDisconnect::Cancel);
            options.max_recorded_body(cap)
        });
        let app = layer.layer(handler(&runs, move |_, _| {
            let mut response = answer();
            *response.status_mut() = status;
            response
        }));
        let mut first = app.clone().oneshot(post("k", "{}")).await.unwrap();
        let half = first.body_mut().frame().await.unwrap().unwrap();
        assert_eq!(half.into_data().unwrap(), "half");
        quiet().await;
        assert!(!is_gone());
        drop(first);
        quiet().await;
        assert!(is_gone(), "nobody writes on");
        let stats = store.stats();
        assert_eq!((stats.sealed, stats.released), (1 - released, released));
        if released == 0 {
            let retry = send(&app, post("k", "{}")).await;
            assert_eq!(retry.refusal(), "409 response-unavailable");
        }
        assert_eq!(runs.count(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_small_answer_at_hand_costs_no_task_and_a_large_one_or_one_on_its_way_one_until_its_end()
{
    let store = Steered::new();
    let app = protected(&store).layer(counting(&Runs::default()));
    send(&app, post("small", "{}")).await.assert_fresh("run 1");
    // If this request had spawned a task, the task would still be alive, because it has not
    // had its turn.
    assert_eq!(tasks(), 0);

    // A server that does not poll a large body may have a client that reads nothing.
    for asked in [1, 2] {
        let app = protected(&store).layer(handler(&Runs::default(), |_, _| {
            answer(StatusCode::OK, vec![b'x'; 1 << 20])
        }));
        let response = app.oneshot(post("large", "{}")).await.unwrap();
        assert_eq!((tasks(), asked), (1, asked));
        response.into_body().collect().await.unwrap();
        quiet().await;
        assert_eq!(tasks(), 0);
    }

    for staying in [true, false] {
        let app = protected(&store).layer(handler(&Runs::default(), |_, _| {
            let parts = [Part::Data(1), Part::Wait(1000), Part::Data(1)];
            Written::new(Announced::Nothing, parts).response()
        }));
        let key = format!("slow {staying}");
        let response = app.clone().oneshot(post(&key, "{}")).await.unwrap();
        // One task reads the response, the other one renews all leases.
        assert_eq!(tasks(), 2);
        if staying {
            response.into_body().collect().await.unwrap();
        } else {
            drop(response);
            sleep(SECOND * 2).await;
        }
        quiet().await;
        assert_eq!(tasks(), 1);
        sleep(SECOND * 60).await;
        assert_eq!(tasks(), 0);
    }
}
