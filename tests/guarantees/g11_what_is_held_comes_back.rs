//! G11: whatever becomes of requests, what they held is there for others afterwards.

use std::convert::Infallible;
use std::future::{Future, pending};
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Full};
use tokio::task::yield_now;
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_idempotency::options::OnLapsedLease;
use tower_idempotency::store::StoreErrorKind;
use tower_idempotency::{IdempotencyContext, IdempotencyLayer, MemoryStore};

use crate::filled::{ALONE, BODY, Filled, Held, SUM};
use crate::support::body::{Script, Step};
use crate::support::store::{Fault, Op, Steered};
use crate::support::{
    Runs, Seen, builder, by, counting, poll_times, post, post_with, quiet, with_policy,
};

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

/// A body whose drop panics, if a test wants it.
struct Fragile {
    data: Option<Bytes>,
    panics: bool,
}

impl From<Bytes> for Fragile {
    fn from(data: Bytes) -> Self {
        let data = Some(data);
        Self {
            data,
            panics: false,
        }
    }
}

impl Body for Fragile {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let data = self.data.take();
        Poll::Ready(data.map(|data| Ok(Frame::data(data))))
    }
}

impl Drop for Fragile {
    fn drop(&mut self) {
        assert!(!self.panics, "as the test wants it");
    }
}

/// No handler has begun, so the outcome is not unknown.
#[tokio::test(start_paused = true)]
async fn after_a_panic_between_claim_and_handler_the_claim_is_given_back() {
    let layer = with_policy(&MemoryStore::new(), |options| {
        options.on_lapsed_lease(OnLapsedLease::Refuse)
    });
    let runs = Runs::default();
    let app = layer.layer(counting(&runs));
    let ask = |panics| {
        let data = Some(Bytes::from("{}"));
        app.clone()
            .oneshot(post_with("k", Fragile { data, panics }))
    };
    assert!(tokio::spawn(ask(true)).await.unwrap_err().is_panic());
    assert_eq!(runs.count(), 0);
    assert_eq!(layer.drain(Duration::from_secs(60)).await, 0);
    let retry = Seen::whole(ask(false).await.unwrap()).await;
    retry.assert_fresh("run 1");
}

/// Without a runtime a request that is dropped can't go on. Its handler has given its context to
/// a thread.
#[test]
fn without_a_runtime_the_room_of_a_body_comes_back_with_its_request() {
    let layer = builder(&MemoryStore::new())
        .max_buffered_bytes(BODY.len())
        .max_buffered_bytes_per_caller(BODY.len())
        .defaults(|options| options.max_request_body(BODY.len()))
        .build()
        .unwrap();
    let kept = Arc::new(Mutex::new(Vec::new()));
    let app = layer.layer({
        let kept = Arc::clone(&kept);
        service_fn(move |request: Request<Full<Bytes>>| {
            let context = request.extensions().get::<IdempotencyContext>();
            kept.lock().unwrap().extend(context.cloned());
            pending::<Result<Response<Full<Bytes>>, Infallible>>()
        })
    });
    for key in ["a", "b"] {
        let asked = pin!(app.clone().oneshot(post(key, BODY)));
        let polled = asked.poll(&mut Context::from_waker(Waker::noop()));
        assert!(polled.is_pending(), "{key} was refused");
    }
    assert_eq!(kept.lock().unwrap().len(), 2);
}
