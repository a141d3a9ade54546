//! Tests of the layer under a scheduler that tries many orders of its steps: clients
//! that retry, wait and leave, leases that lapse, and a store that fails.
//!
//! `RUSTFLAGS="--cfg shuttle" cargo test --lib interleavings`
//!
//! Locks, atomics, tasks and timers come from `crate::runtime`, and the clock stands
//! still unless a scenario moves it. So no timer makes up for a wake-up that was lost:
//! no task can go on, and the scheduler reports a deadlock.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, Full};
use shuttle::future::{JoinHandle, block_on, spawn, yield_now};
use shuttle::rand::{Rng, thread_rng};
use shuttle::scheduler::{PctScheduler, RandomScheduler};
use shuttle::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use shuttle::{Config, Runner};
use tower::service_fn;
use tower_layer::Layer;
use tower_service::Service;

use crate::layer::IdempotencyLayer;
use crate::limits::Resource;
use crate::options::{OnInFlight, RouteOptions};
use crate::runtime;
use crate::store::Store;
use crate::store::memory::MemoryStore;
use crate::{IdempotencyContext, scope};

mod answers;
mod clients;
mod leases;
mod limits;

/// The number of schedules that each scenario is run under.
const RANDOM: usize = 1000;
const WITH_FEW_SWITCHES: usize = 500;

const LEASE: Duration = Duration::from_secs(30);
/// A time that is longer than any scenario.
const LONG: Duration = Duration::from_secs(1 << 20);

fn explore(scenario: fn()) {
    let mut config = Config::new();
    config.stack_size = 1 << 18;
    config.max_steps = shuttle::MaxSteps::FailAfter(50_000);
    let scenario = move || {
        runtime::begin();
        scenario();
    };
    Runner::new(RandomScheduler::new(RANDOM), config.clone()).run(scenario);
    Runner::new(PctScheduler::new(3, WITH_FEW_SWITCHES), config).run(scenario);
}

/// An application behind the layer, and what became of its operations.
struct Bench {
    layer: IdempotencyLayer,
    store: MemoryStore,
    /// How often the handler has begun.
    runs: AtomicUsize,
    /// What the handler does in each run; runs are counted from 0.
    handler: fn(usize) -> Script,
    /// Every response that a client has received in full.
    answers: std::sync::Mutex<Vec<Bytes>>,
}

/// One run of the handler.
#[derive(Clone)]
struct Script {
    /// How often the handler yields before it responds, and between its frames.
    pauses: usize,
    status: StatusCode,
    /// The frames of the response, after a first frame that names the run.
    frames: Vec<Bytes>,
    /// Whether the response announces its length.
    length: bool,
}

fn created(_: usize) -> Script {
    Script {
        pauses: 1,
        status: StatusCode::CREATED,
        frames: Vec::new(),
        length: true,
    }
}

impl Bench {
    fn new(handler: fn(usize) -> Script, change: fn(RouteOptions) -> RouteOptions) -> Arc<Self> {
        let store = MemoryStore::new();
        Self::on(store.clone(), store, handler, change)
    }

    /// A bench on a store of the scenario's own, which keeps its records in `records`.
    fn on(
        store: impl Store,
        records: MemoryStore,
        handler: fn(usize) -> Script,
        change: fn(RouteOptions) -> RouteOptions,
    ) -> Arc<Self> {
        let layer = IdempotencyLayer::builder(store, scope::shared())
            .defaults(|options| change(options.lease(LEASE)))
            .build()
            .unwrap();
        Arc::new(Self {
            layer,
            store: records,
            runs: AtomicUsize::new(0),
            handler,
            answers: std::sync::Mutex::default(),
        })
    }

    fn runs(&self) -> usize {
        self.runs.load(Ordering::SeqCst)
    }

    async fn handle(self: Arc<Self>, request: Request<Full<Bytes>>) -> Response<Frames> {
        let run = self.runs.fetch_add(1, Ordering::SeqCst);
        let context = request.extensions().get::<IdempotencyContext>().unwrap();
        let token = context.fencing_token().get();
        let script = (self.handler)(run);
        for _ in 0..script.pauses {
            yield_now().await;
        }
        let mut frames = VecDeque::from(script.frames);
        frames.push_front(Bytes::from(format!("run {run} under {token} ")));
        let mut response = Response::new(Frames {
            length: script.length.then(|| frames.iter().map(Bytes::len).sum()),
            frames,
            pauses: script.pauses,
            paused: false,
        });
        *response.status_mut() = script.status;
        response
    }

    /// The response to a request, whose body is yet to be read.
    fn send(
        self: &Arc<Self>,
        key: &'static str,
    ) -> impl Future<Output = Response<crate::ResponseBody<Frames>>> + Send + use<> {
        let bench = Arc::clone(self);
        let handler = service_fn(move |request| {
            let answer = Arc::clone(&bench).handle(request);
            async move { Ok::<_, Infallible>(answer.await) }
        });
        let request = Request::post("/payments")
            .header("idempotency-key", key)
            .body(Full::from("100"))
            .unwrap();
        let response = self.layer.layer(handler).call(request);
        async move { response.await.unwrap_or_else(|error| match error {}) }
    }

    /// The status of a response, and its body unless the body is cut off.
    fn ask(
        self: &Arc<Self>,
        key: &'static str,
    ) -> impl Future<Output = (StatusCode, Option<Bytes>)> + Send + use<> {
        let bench = Arc::clone(self);
        let response = self.send(key);
        async move {
            let (head, body) = response.await.into_parts();
            let body = body.collect().await.ok().map(|body| body.to_bytes());
            let recorded = !head.headers.contains_key("idempotency-status");
            if head.status == StatusCode::CREATED && recorded {
                bench.answers.lock().unwrap().extend(body.clone());
            }
            (head.status, body)
        }
    }

    /// Sends the request again until the operation's response is there.
    fn insist(self: &Arc<Self>, key: &'static str) -> JoinHandle<Bytes> {
        let bench = Arc::clone(self);
        spawn(async move {
            loop {
                if let (StatusCode::CREATED, Some(body)) = bench.ask(key).await {
                    return body;
                }
                yield_now().await;
            }
        })
    }

    /// Sends a request whose client leaves at some point.
    fn ask_and_leave(self: &Arc<Self>, key: &'static str) -> JoinHandle<()> {
        let asking = self.ask(key);
        spawn(async move {
            let polls = thread_rng().gen_range(0..8);
            leave_after(polls, asking).await;
        })
    }

    /// Checks what must be true after every schedule: one more request is answered, so
    /// no key is stuck; its response is the one that all clients got; and the layer
    /// comes to rest. Returns that response.
    fn settled(self: &Arc<Self>, key: &'static str) -> Bytes {
        self.come_to_rest();
        assert_eq!(self.store.stats().in_flight, 0);
        let (status, answer) = block_on(self.ask(key));
        assert_eq!(status, StatusCode::CREATED, "the key is stuck: {answer:?}");
        for other in &*self.answers.lock().unwrap() {
            assert_eq!(Some(other), answer.as_ref(), "two answers of one key");
        }
        self.come_to_rest();
        answer.unwrap()
    }

    /// Waits until no operation goes on without its client, no request waits, and no
    /// lease is renewed. Only timers are moved for that.
    fn come_to_rest(&self) {
        let core = self.layer.core();
        block_on(async {
            for _ in 0..1000 {
                if self.is_at_rest() {
                    return;
                }
                pass_a_timer();
                yield_now().await;
            }
            panic!(
                "no rest: {:?} {:?}",
                Resource::ALL.map(|of| core.accounts.limits().total(of)),
                core.leases.watched()
            );
        });
    }

    /// Moves the clock from timer to timer while `done` is awaited, with so many `leaps`
    /// at random moments. A leap stands for a pause of the process, or of the network,
    /// that is as long as a lease.
    fn as_time_passes<T>(self: &Arc<Self>, leaps: usize, done: impl Future<Output = T>) -> T {
        let over = Arc::new(AtomicBool::new(false));
        let (bench, stop) = (Arc::clone(self), Arc::clone(&over));
        let clock = spawn(async move {
            let mut leaps = leaps;
            while !stop.load(Ordering::SeqCst) {
                let in_flight = bench.store.stats().in_flight > 0;
                if leaps > 0 && in_flight && thread_rng().gen_bool(0.1) {
                    leaps -= 1;
                    runtime::advance(LEASE);
                } else {
                    pass_a_timer();
                }
                let (watched, task) = bench.layer.core().leases.watched();
                assert!(watched == 0 || task, "nobody renews {watched} leases");
                yield_now().await;
            }
        });
        let output = block_on(done);
        over.store(true, Ordering::SeqCst);
        block_on(clock).unwrap();
        output
    }

    fn is_at_rest(&self) -> bool {
        let core = self.layer.core();
        Resource::ALL
            .iter()
            .all(|of| core.accounts.limits().total(*of) == 0)
            && core.leases.watched() == (0, false)
    }
}

/// A client that leaves after so many polls: before the first, or before it has seen
/// why it was woken.
async fn leave_after<F: Future>(mut polls: usize, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    poll_fn(|cx| {
        if polls == 0 {
            return Poll::Ready(None);
        }
        polls -= 1;
        cx.waker().wake_by_ref();
        future.as_mut().poll(cx).map(Some)
    })
    .await
}

fn pass_a_timer() {
    if let Some(time) = runtime::next_timer() {
        runtime::advance(time);
    }
}

/// A response body with pauses between its frames.
struct Frames {
    frames: VecDeque<Bytes>,
    length: Option<usize>,
    pauses: usize,
    paused: bool,
}

impl Body for Frames {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.paused = !self.paused && self.pauses > 0;
        if self.paused {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(self.frames.pop_front().map(|data| Ok(Frame::data(data))))
    }

    fn size_hint(&self) -> SizeHint {
        self.length
            .map(|length| SizeHint::with_exact(length as u64))
            .unwrap_or_default()
    }
}
