//! G11: whatever becomes of requests, what they held is there for others afterwards.

use std::time::Duration;

use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use tokio::task::yield_now;
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_idempotency::IdempotencyLayer;
use tower_idempotency::store::StoreErrorKind;

use crate::filled::{ALONE, BODY, Filled, Held, SUM};
use crate::support::body::{Script, Step};
use crate::support::store::{Fault, Op, Steered};
use crate::support::{by, poll_times, post_with, quiet};

/// How an execution of the storm ends.
#[derive(Clone, Copy, Debug)]
enum End {
    Whole,
    Streamed,
    Transient,
    Error,
    Panic,
    BodyBreaks,
    BodyPanics,
    BodyIsShort,
}

impl End {
    const ALL: [Self; 8] = [
        Self::Whole,
        Self::Streamed,
        Self::Transient,
        Self::Error,
        Self::Panic,
        Self::BodyBreaks,
        Self::BodyPanics,
        Self::BodyIsShort,
    ];

    fn body(self) -> Script {
        let begun = Script::new([Step::Yield, Step::Data("begun".into()), Step::Yield]);
        match self {
            Self::Streamed => Script::repeated(vec![b'x'; 40_000], 4),
            Self::BodyBreaks => begun.then(Step::Fail("as the test wants it")),
            Self::BodyPanics => begun.then(Step::Panic),
            Self::BodyIsShort => begun.announcing(100),
            _ => begun.and_trailer("is", "whole"),
        }
    }
}

/// How the body of a request of the storm arrives.
#[derive(Clone, Copy, Debug)]
enum Upload {
    Whole,
    Slow,
    Announced,
    Short,
    Broken,
    Unended,
}

impl Upload {
    const ALL: [Self; 6] = [
        Self::Whole,
        Self::Slow,
        Self::Announced,
        Self::Short,
        Self::Broken,
        Self::Unended,
    ];

    fn body(self) -> Script {
        let half = Script::new([Step::Yield, Step::Data("01234".into()), Step::Yield]);
        match self {
            Self::Whole => Script::frames([BODY]).announcing(10),
            Self::Slow => half.then(Step::Data("56789".into())),
            Self::Announced => half.then(Step::Data("56789".into())).announcing(10),
            Self::Short => half.announcing(10),
            Self::Broken => half.then(Step::Fail("as the test wants it")),
            Self::Unended => half.then(Step::Never),
        }
    }
}

/// A service whose executions all end so.
fn ends(
    end: End,
) -> impl Service<
    Request<Script>,
    Response = Response<Script>,
    Error = &'static str,
    Future: Send + 'static,
> + Clone
+ Send
+ 'static {
    service_fn(move |_: Request<Script>| async move {
        yield_now().await;
        let mut response = Response::new(end.body());
        *response.status_mut() = match end {
            End::Error => return Err("as the test wants it"),
            End::Panic => panic!("as the test wants it"),
            End::Transient => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::CREATED,
        };
        Ok(response)
    })
}

/// Two requests of one key, whose clients leave after so many polls. Returns whether both were
/// over by then.
async fn storm(
    layer: &IdempotencyLayer,
    key: &str,
    end: End,
    upload: Upload,
    polls: usize,
) -> bool {
    let app = layer.layer(ends(end));
    let clients = [(); 2].map(|()| {
        let call = app
            .clone()
            .oneshot(by("alice", post_with(key, upload.body())));
        let client = async move {
            if let Ok(response) = call.await {
                let _ = response.into_body().collect().await;
            }
        };
        tokio::spawn(poll_times(polls, client))
    });
    let mut over = true;
    for client in clients {
        // A panic is an end too.
        over &= !matches!(client.await, Ok(None));
    }
    over
}

/// Clients that leave after each number of polls, up to the end. Returns how many left earlier.
async fn storm_at_each_poll(
    layer: &IdempotencyLayer,
    name: &str,
    end: End,
    upload: Upload,
) -> usize {
    for polls in 0..100 {
        let key = format!("{name}-{end:?}-{upload:?}-{polls}");
        if storm(layer, &key, end, upload, polls).await {
            return polls;
        }
    }
    panic!("{end:?}, {upload:?}: there is no end");
}

/// All of the sum can be taken, and not more.
async fn assert_nothing_is_held(what: Held, layer: &IdempotencyLayer, store: &Steered) {
    assert_eq!(layer.drain(Duration::from_secs(600)).await, 0, "{what:?}");
    quiet().await;
    let mut filled = Filled::new(layer, store);
    filled.take(what, "alice", ALONE).await;
    let full = "Your share is full";
    filled.assert_full(what, "alice", full).await;
    filled.take(what, "bob", SUM - ALONE).await;
    let full = "The service is full";
    filled.assert_full(what, "carol", full).await;
    filled.finish().await;
}

#[tokio::test(start_paused = true)]
async fn after_clients_that_leave_and_handlers_that_fail_everything_can_be_taken_again() {
    for what in Held::ALL {
        let store = Steered::new();
        store.let_all(Fault::Yields);
        let layer = what.layer(&store);
        let mut left = 0;
        for end in End::ALL {
            for upload in Upload::ALL {
                left += storm_at_each_poll(&layer, "k", end, upload).await;
            }
        }
        assert!(left > 200, "{what:?}: only {left} clients left");
        assert_nothing_is_held(what, &layer, &store).await;
    }
}

#[tokio::test(start_paused = true)]
async fn after_a_store_that_fails_everything_can_be_taken_again() {
    for what in Held::ALL {
        let store = Steered::new();
        let layer = what.layer(&store);
        for op in [
            Op::Claim,
            Op::LookUp,
            Op::Complete,
            Op::Release,
            Op::Subscribe,
        ] {
            let faults = [
                Fault::Fails(StoreErrorKind::NotSent),
                Fault::AnswerLost(StoreErrorKind::Unknown),
                Fault::Stalls,
                Fault::PanicsOnce,
            ];
            for (place, fault) in faults.into_iter().enumerate() {
                for end in [End::Whole, End::Streamed, End::Error] {
                    store.make(op, fault);
                    let name = format!("{op:?}-{place}");
                    storm_at_each_poll(&layer, &name, end, Upload::Slow).await;
                    store.heal(op);
                    // What is tried again comes to its end.
                    assert_eq!(layer.drain(Duration::from_secs(600)).await, 0, "{name}");
                }
            }
        }
        assert_nothing_is_held(what, &layer, &store).await;
    }
}
