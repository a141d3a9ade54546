//! A layer with small limits, whose callers take all that they may.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use tokio::task::{AbortHandle, JoinSet};
use tower::util::BoxCloneSyncService;
use tower::{Layer, service_fn};
use tower_idempotency::options::OnInFlight;
use tower_idempotency::{IdempotencyLayer, IdempotencyLayerBuilder, ResponseBody};

use crate::support::store::{Op, Steered};
use crate::support::{Gate, Runs, Seen, builder, by, created, post, quiet, send, to};

/// Each limit of a layer in these tests, in what its requests count as.
pub(crate) const SUM: usize = 16;
/// What a caller that is alone may hold of the sum.
pub(crate) const ALONE: usize = 14;
/// The largest body that the layers in these tests allow.
pub(crate) const BODY: &str = "0123456789";

/// Longer than the tests take.
const WAIT: Duration = Duration::from_secs(20 * 60);

/// What the callers of a layer take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Held {
    Operations,
    Bytes,
    Waiters,
    Background,
}

impl Held {
    pub(crate) const ALL: [Self; 4] = [
        Self::Operations,
        Self::Bytes,
        Self::Waiters,
        Self::Background,
    ];

    /// The option that limits the sum.
    pub(crate) fn option(self) -> &'static str {
        match self {
            Self::Operations => "max_in_flight_operations",
            Self::Bytes => "max_buffered_bytes",
            Self::Waiters => "max_waiting_requests",
            Self::Background => "max_background_operations",
        }
    }

    fn limit(self, builder: IdempotencyLayerBuilder) -> IdempotencyLayerBuilder {
        let builder = builder.defaults(|options| options.max_request_body(BODY.len()));
        match self {
            Self::Operations => builder.max_in_flight_operations(SUM),
            Self::Bytes => builder.max_buffered_bytes(SUM * BODY.len()),
            Self::Waiters => builder
                .max_waiting_requests(SUM)
                .defaults(|options| options.on_in_flight(OnInFlight::Wait(WAIT))),
            Self::Background => builder.max_background_operations(SUM),
        }
    }

    /// A layer that limits this resource alone.
    pub(crate) fn layer(self, store: &Steered) -> IdempotencyLayer {
        self.limit(builder(store)).build().unwrap()
    }

    /// A layer that limits each resource: with room for the bodies of waiters too, and half as
    /// many places without a client as there are places.
    pub(crate) fn all_at_once(store: &Steered) -> IdempotencyLayer {
        let mut builder = builder(store);
        for what in Self::ALL {
            builder = what.limit(builder);
        }
        builder
            .max_buffered_bytes(2 * SUM * BODY.len())
            .max_background_operations(SUM / 2)
            .build()
            .unwrap()
    }
}

type App =
    BoxCloneSyncService<Request<Full<Bytes>>, Response<ResponseBody<Full<Bytes>>>, Infallible>;

/// A layer, its handler, and the clients that wait for responses.
pub(crate) struct Filled {
    pub(crate) layer: IdempotencyLayer,
    pub(crate) store: Steered,
    pub(crate) runs: Runs,
    gate: Gate,
    app: App,
    clients: JoinSet<Seen>,
    /// The operations that wait at the gate: their callers and keys.
    pub(crate) begun: Vec<(&'static str, String)>,
}

impl Filled {
    /// Requests to `/slow` wait at the gate.
    pub(crate) fn new(layer: &IdempotencyLayer, store: &Steered) -> Self {
        let (runs, gate) = (Runs::default(), Gate::closed());
        let handler = {
            let (runs, gate) = (runs.clone(), gate.clone());
            service_fn(move |request: Request<Full<Bytes>>| {
                let (runs, gate) = (runs.clone(), gate.clone());
                async move {
                    let run = runs.begin();
                    if request.uri().path() == "/slow" {
                        gate.pass().await;
                    }
                    let mut response = created(format!("run {run}"));
                    let value = run.to_string().parse().unwrap();
                    response.headers_mut().insert("x-run", value);
                    Ok(response)
                }
            })
        };
        Self {
            layer: layer.clone(),
            store: store.clone(),
            runs,
            gate,
            app: App::new(layer.layer(handler)),
            clients: JoinSet::new(),
            begun: Vec::new(),
        }
    }

    pub(crate) async fn send(&self, request: Request<Full<Bytes>>) -> Seen {
        send(&self.app, request).await
    }

    /// Sends a request whose handler responds at once.
    pub(crate) async fn fast(&self, caller: &str, key: &str, body: &'static str) -> Seen {
        self.send(by(caller, post(key, body))).await
    }

    fn spawn(&mut self, caller: &'static str, key: &str) -> AbortHandle {
        let app = self.app.clone();
        let request = slow(caller, key);
        self.clients.spawn(async move { send(&app, request).await })
    }

    /// Begins an operation that waits at the gate.
    pub(crate) async fn begin(&mut self, caller: &'static str, key: &str) -> AbortHandle {
        let client = self.spawn(caller, key);
        self.gate.begun().await;
        self.begun.push((caller, key.to_owned()));
        client
    }

    /// The caller takes so many of what the layer limits.
    pub(crate) async fn take(&mut self, what: Held, caller: &'static str, times: usize) {
        if what == Held::Waiters {
            self.begin_for_waiters(caller).await;
        }
        for _ in 0..times {
            let key = format!("{what:?}-{}", self.begun.len());
            match what {
                Held::Operations | Held::Bytes => drop(self.begin(caller, &key).await),
                Held::Waiters => drop(self.spawn(caller, "waited-for")),
                Held::Background => self.begin(caller, &key).await.abort(),
            }
            quiet().await;
        }
        self.assert_all_wait();
    }

    /// Begins the operation of this caller that its waiters wait for.
    async fn begin_for_waiters(&mut self, caller: &'static str) {
        let mut begun = self.begun.iter();
        if !begun.any(|(whose, key)| *whose == caller && key == "waited-for") {
            self.begin(caller, "waited-for").await;
        }
    }

    /// No client that still waits was refused.
    #[track_caller]
    fn assert_all_wait(&mut self) {
        while let Some(ended) = self.clients.try_join_next() {
            assert!(ended.unwrap_err().is_cancelled(), "a client has its answer");
        }
    }

    /// One more of what the layer limits is refused, and its caller is told whose limit it is.
    pub(crate) async fn assert_full(&mut self, what: Held, caller: &'static str, whose: &str) {
        let runs = self.runs.count();
        if what == Held::Waiters {
            self.begin_for_waiters(caller).await;
            let refused = self.send(slow(caller, "waited-for")).await;
            assert_eq!(refused.refusal(), "409 in-flight", "{what:?}");
            assert!(refused.header("retry-after").is_some());
            let detail = detail(&refused);
            let said = format!("still being executed. {whose}");
            assert!(detail.contains(&said), "{what:?}: {detail}");
            return;
        }
        let refused = self.send(slow(caller, "one-more")).await;
        assert_eq!(refused.refusal(), "503 over-capacity", "{what:?}");
        assert_eq!(refused.header("retry-after"), Some("1"), "{what:?}");
        let detail = detail(&refused);
        assert!(detail.starts_with(whose), "{what:?}: {detail}");
        assert_eq!(self.runs.count(), runs, "{what:?}: nothing was executed");
    }

    /// Alice takes her share, and bob the rest.
    pub(crate) async fn fill(&mut self, what: Held) {
        self.take(what, "alice", ALONE).await;
        self.take(what, "bob", SUM - ALONE).await;
    }

    /// How many refusals by share and by sum the layer has counted for this option.
    pub(crate) fn refusals(&self, what: Held) -> (u64, u64) {
        let counts = self.layer.counts();
        let mut limits = counts.limits().iter();
        let limit = limits.find(|limit| limit.option == what.option()).unwrap();
        (limit.by_share, limit.by_sum)
    }

    /// How many calls the store has received.
    pub(crate) fn store_calls(&self) -> usize {
        Op::ALL.into_iter().map(|op| self.store.calls(op)).sum()
    }

    /// Every operation that has begun ends, and is recorded: its client has the response, and its
    /// retry a replay.
    pub(crate) async fn finish(mut self) {
        let runs = self.runs.count();
        for _ in &self.begun {
            self.gate.open();
        }
        while let Some(ended) = self.clients.join_next().await {
            match ended {
                Ok(seen) => assert_eq!(seen.status, 201, "{seen:?}"),
                Err(error) => assert!(error.is_cancelled()),
            }
        }
        assert_eq!(self.layer.drain(Duration::from_secs(60)).await, 0);
        for (caller, key) in &self.begun {
            let retry = self.send(slow(caller, key)).await;
            assert!(retry.is_replay(), "{caller} {key}: {retry:?}");
        }
        assert_eq!(self.runs.count(), runs);
    }
}

fn detail(refused: &Seen) -> String {
    let problem: serde_json::Value = serde_json::from_slice(&refused.body).unwrap();
    problem["detail"].as_str().unwrap().to_owned()
}

/// A request whose handler waits at the gate.
pub(crate) fn slow(caller: &str, key: &str) -> Request<Full<Bytes>> {
    by(caller, to("/slow", post(key, BODY)))
}
