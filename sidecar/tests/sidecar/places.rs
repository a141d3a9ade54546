//! An upstream has no more requests than it may have, and nobody takes all of its places.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::support::{Client, File, Running, Step, Upstream, get, ok, post, until};

/// An upstream over HTTP/2 that takes a few streams on each connection. `/hangs` has no response.
struct FewStreams {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
    seen: Arc<AtomicUsize>,
}

impl FewStreams {
    async fn start(most: u32) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (connections, seen) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let upstream = Self {
            address,
            connections: Arc::clone(&connections),
            seen: Arc::clone(&seen),
        };
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                connections.fetch_add(1, Ordering::SeqCst);
                let seen = Arc::clone(&seen);
                let service = service_fn(move |request: Request<Incoming>| {
                    seen.fetch_add(1, Ordering::SeqCst);
                    async move {
                        if request.uri().path() == "/hangs" {
                            std::future::pending::<()>().await;
                        }
                        Ok::<_, Infallible>(Response::new("done".to_owned()))
                    }
                });
                let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                builder.max_concurrent_streams(most);
                tokio::spawn(builder.serve_connection(TokioIo::new(stream), service));
            }
        });
        upstream
    }
}

/// Begins operations whose clients leave, until `seen` says that no more of them arrive.
async fn left_alone(sidecar: &Running, number: usize, seen: impl Fn() -> usize) {
    let mut clients = Vec::new();
    for key in 0..number {
        let mut client = sidecar.client().await;
        client.send(&post("/hangs", &key.to_string(), "")).await;
        clients.push(client);
    }
    let mut before = usize::MAX;
    until(async || {
        let now = seen();
        let is_still = now > 0 && now == before;
        before = now;
        sleep(Duration::from_millis(100)).await;
        is_still
    })
    .await;
    for client in clients {
        client.reset();
    }
}

async fn is_answered_soon(sidecar: &Running, request: &str) {
    let answered = timeout(Duration::from_secs(2), sidecar.exchange(request)).await;
    let answered = answered.expect("it waits for the operations whose clients have left");
    assert_eq!((answered.status(), answered.text()), (200, "done"));
}

#[tokio::test]
async fn what_is_not_protected_waits_for_no_operation_whose_client_has_left() {
    let upstream = Upstream::start(|request| match request.target() {
        "/hangs" => vec![Step::Hang],
        _ => ok("done"),
    })
    .await;
    let file = File::new(upstream.address).top("limits.max_upstream_requests = 16");
    let sidecar = file.start().await;
    left_alone(&sidecar, 30, || upstream.seen().len()).await;
    assert!(upstream.seen().len() <= 14, "{}", upstream.seen().len());
    is_answered_soon(&sidecar, &get("/")).await;
}

#[tokio::test]
async fn over_http_2_a_full_connection_is_not_the_only_one() {
    let upstream = FewStreams::start(5).await;
    let file = File::new(upstream.address).top("upstream_http2 = true");
    let file = file.idempotency("scope = ['header:x-api-key', 'peer-ip']");
    let sidecar = file.start().await;
    left_alone(&sidecar, 12, || upstream.seen.load(Ordering::SeqCst)).await;
    assert_eq!(upstream.seen.load(Ordering::SeqCst), 12);
    assert_eq!(upstream.connections.load(Ordering::SeqCst), 3);
    for _ in 0..5 {
        is_answered_soon(&sidecar, &get("/")).await;
    }
    // Another caller's operation begins, too.
    let other = post("/a", "k", "").replace("Host:", "X-Api-Key: b\r\nHost:");
    is_answered_soon(&sidecar, &other).await;
    assert_eq!(upstream.connections.load(Ordering::SeqCst), 3);
}

/// Behind a proxy all requests have one peer. If they were one caller, each would wait for all.
#[tokio::test]
async fn the_clients_that_a_trusted_proxy_names_take_turns() {
    let upstream = Upstream::start(|request| match request.target() {
        "/hangs" => vec![Step::Hang],
        _ => ok("done"),
    })
    .await;
    let file = File::new(upstream.address)
        .top("trusted_proxies = ['127.0.0.0/8', '10.0.0.1']")
        .top("limits = { max_upstream_requests = 16, max_upstream_requests_per_caller = 1 }");
    let sidecar = file.start().await;
    let by = |path: &str, client: &str| {
        let named = format!("X-Forwarded-For: {client}, 10.0.0.1\r\nHost:");
        get(path).replace("Host:", &named)
    };
    let mut greedy = sidecar.client().await;
    greedy.send(&by("/hangs", "192.0.2.1")).await;
    until(async || upstream.seen().len() == 1).await;
    // What the client itself has named counts for nothing.
    let mut again = sidecar.client().await;
    again.send(&by("/", "192.0.2.9, 192.0.2.1")).await;
    is_answered_soon(&sidecar, &by("/", "192.0.2.2")).await;
    assert_eq!(upstream.seen().len(), 2, "the greedy one waits");
}

#[tokio::test]
async fn one_caller_leaves_places_to_the_next() {
    let upstream = Upstream::start(|request| match request.target() {
        "/hangs" => vec![Step::Hang],
        _ => ok("done"),
    })
    .await;
    let file = File::new(upstream.address).top("limits.max_upstream_requests = 32");
    let file = file
        .top("connect_timeout = '200ms'")
        .top("metrics = '127.0.0.1:0'");
    let file = file.idempotency("scope = ['header:x-api-key', 'peer-ip']");
    let sidecar = file.start().await;
    left_alone(&sidecar, 40, || upstream.seen().len()).await;
    let other = post("/a", "k", "").replace("Host:", "X-Api-Key: b\r\nHost:");
    is_answered_soon(&sidecar, &other).await;
    // The caller itself is told that it has its share, and when to come again.
    let refused = sidecar.exchange(&post("/a", "k", "")).await;
    assert_eq!((refused.status(), &*refused.code()), (503, "over-capacity"));
    assert_eq!(refused.field("retry-after"), Some("1"));
    assert!(refused.text().contains("Your share"), "{}", refused.text());
    assert!(sidecar.refusals("max_upstream_requests").await > 0);
}

#[tokio::test]
async fn what_finds_no_place_in_the_queue_is_refused_at_once_and_can_be_sent_again() {
    let upstream = Upstream::start(|request| match request.target() {
        "/slow" => [vec![Step::Wait(go_on())], ok("done")].concat(),
        _ => ok("done"),
    })
    .await;
    let limits = "limits = { max_upstream_requests = 2, max_upstream_queue = 1 }";
    let sidecar = File::new(upstream.address).top(limits).start().await;
    let mut first = sidecar.client().await;
    first.send(&post("/slow", "1", "")).await;
    until(async || upstream.seen().len() == 1).await;
    let mut second = sidecar.client().await;
    second.send(&post("/a", "2", "")).await;
    // The second one may not wait yet. A third one that waits in its place is as good.
    let begun = Instant::now();
    let request = post("/a", "3", "");
    until(async || {
        let third = sidecar.exchange(&request);
        let third = timeout(Duration::from_millis(50), third).await;
        third.is_ok_and(|third| third.code() == "over-capacity")
    })
    .await;
    assert!(begun.elapsed() < Duration::from_secs(4));
    go_on().notify_one();
    assert_eq!(first.answer().await.text(), "done");
    assert_eq!(second.answer().await.text(), "done");
    is_answered_soon(&sidecar, &request).await;
}

/// What the slow response of the test above waits for.
fn go_on() -> Arc<tokio::sync::Notify> {
    static GO_ON: std::sync::OnceLock<Arc<tokio::sync::Notify>> = std::sync::OnceLock::new();
    Arc::clone(GO_ON.get_or_init(Arc::default))
}

#[tokio::test]
async fn no_more_connections_to_the_upstream_are_open_than_requests_may_be() {
    let upstream = Upstream::start(|_| ok("done")).await;
    let file = File::new(upstream.address).top("limits.max_upstream_requests = 8");
    let sidecar = file.start().await;
    let mut all = JoinSet::new();
    for at in 0..100 {
        let address = sidecar.address;
        let request = if at % 2 == 0 {
            get("/")
        } else {
            post("/", &at.to_string(), "")
        };
        all.spawn(async move {
            let mut client = Client::connect(address).await;
            client.send(&request).await;
            client.answer().await.text().to_owned()
        });
    }
    while let Some(answered) = all.join_next().await {
        assert_eq!(answered.unwrap(), "done");
    }
    assert!(upstream.connections() <= 8, "{}", upstream.connections());
}
