//! This benchmark measures what the sidecar costs, next to two proxies in the same
//! process, over TCP on this machine:
//!
//! - `copier` is hyper's server and hyper-util's client. It forwards messages as they are, and does
//!   nothing that RFC 9110 asks of a proxy: headers of the connection pass, `Via` and `X-Forwarded-For`
//!   are not set, nothing has a time limit, and an upstream that fails is no response.
//! - `no layer` is the sidecar's program with `require = "ignored"`: it does all that, and its layer
//!   looks at no key.
//!
//! All proxies stand in front of the same upstream. Rounds alternate
//! between the proxies, with the same number of connections; each connection sends
//! a request and waits for the response, again and again. The ratio of the two rates
//! is taken within each pair of rounds, so that a slow moment of the machine slows
//! both rounds; the median of the ratios counts. `cpu us` is the CPU time of the whole
//! process for each request, which depends less on what else the machine does:
//!
//! - `GET`, `POST`: these requests have no key, so nothing is recorded.
//! - `first`, `replay`: these requests have a key that is new, or a key whose
//!   response is recorded. The copier gets them without a key.
//! - `observed`: as `first`, through a sidecar with `mode = "observe"`.
//!
//! Request bodies have 1 KiB (`GET` has none), response bodies 256 B.
//!
//! `cargo bench -p tower-idempotency-sidecar` runs the benchmark; the number of
//! pairs and the number of connections may follow after `--`.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response, Uri};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{TcpListener, TcpStream};
use tower_idempotency::config::Config;
use tower_idempotency_sidecar::Sidecar;

const ROUND: Duration = Duration::from_millis(400);
const BODY_IN: usize = 1024;
const BODY_OUT: usize = 256;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Get,
    Post,
    First,
    Replay,
    Observed,
}

/// This counter makes each key different.
static KEYS: AtomicU64 = AtomicU64::new(0);

fn main() {
    let mut numbers = std::env::args()
        .skip(1)
        .filter_map(|word| word.parse().ok());
    let pairs = numbers.next().unwrap_or(30);
    let connections = numbers.next().unwrap_or(16);
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .expect("a runtime")
        .block_on(compare(pairs, connections));
}

async fn compare(pairs: usize, connections: usize) {
    let upstream = upstream().await;
    let sidecar = async |option: &str| {
        let text = format!(
            "listen = '127.0.0.1:0'\nupstream = 'http://{upstream}'\nstore = 'memory:'\n\
             [idempotency]\nscope = ['header:x-api-key', 'peer-ip']\n{option}\n\
             [[route]]\nmatch = 'POST /orders'\n[[route]]\nmatch = 'POST /orders/{{id}}/capture'\n"
        );
        let config = Config::from_toml(&text).expect("a right file");
        serve(Sidecar::new(&config).await.expect("a sidecar"))
    };
    let copier = copier(upstream).await;
    let protecting = sidecar("").await;
    let observing = sidecar("mode = 'observe'").await;
    let ignoring = sidecar("require = 'ignored'").await;
    println!("{pairs} pairs of rounds, {connections} connections");
    println!(
        "{:>8}  {:>8}  {:>10}  {:>10}  {:>6}  {:>6}  {:>6}  {:>7}  {:>7}",
        "", "beside", "that/s", "sidecar/s", "25 %", "median", "75 %", "cpu us", "cpu us"
    );
    let rows = [
        (Kind::Get, "copier", Kind::Get),
        (Kind::Post, "copier", Kind::Post),
        (Kind::First, "copier", Kind::Post),
        (Kind::Replay, "copier", Kind::Post),
        (Kind::Get, "no layer", Kind::Get),
        (Kind::Post, "no layer", Kind::Post),
        (Kind::First, "no layer", Kind::First),
        (Kind::Observed, "no layer", Kind::First),
    ];
    for (kind, beside, compared) in rows {
        let plain = if beside == "copier" { copier } else { ignoring };
        let sidecar = match kind {
            Kind::Observed => observing,
            _ => protecting,
        };
        let mut ratios = Vec::new();
        let mut rates = [Vec::new(), Vec::new()];
        let mut times = [Vec::new(), Vec::new()];
        // The first pair warms both proxies up and is not counted.
        for pair in 0..=pairs {
            let (without, with) = if pair % 2 == 0 {
                let without = round(plain, compared, connections).await;
                (without, round(sidecar, kind, connections).await)
            } else {
                let with = round(sidecar, kind, connections).await;
                (round(plain, compared, connections).await, with)
            };
            if pair > 0 {
                ratios.push(with.0 / without.0);
                rates[0].push(without.0);
                rates[1].push(with.0);
                times[0].push(without.1);
                times[1].push(with.1);
            }
        }
        println!(
            "{:>8}  {beside:>8}  {:>10.0}  {:>10.0}  {:>6.3}  {:>6.3}  {:>6.3}  {:>7.1}  {:>7.1}",
            format!("{kind:?}"),
            at(&mut rates[0], 0.5),
            at(&mut rates[1], 0.5),
            at(&mut ratios, 0.25),
            at(&mut ratios, 0.5),
            at(&mut ratios, 0.75),
            at(&mut times[0], 0.5),
            at(&mut times[1], 0.5),
        );
    }
}

fn at(values: &mut [f64], part: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_precision_loss,
        clippy::cast_sign_loss,
        reason = "a few rounds"
    )]
    let place = ((values.len() - 1) as f64 * part).round() as usize;
    values[place]
}

fn serve(sidecar: Sidecar) -> SocketAddr {
    let address = sidecar.local_addr().expect("an address");
    tokio::spawn(sidecar.serve(std::future::pending()));
    address
}

/// Starts a proxy that changes nothing but the address of a request.
async fn copier(upstream: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let client = Client::builder(TokioExecutor::new()).build_http::<Incoming>();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            stream.set_nodelay(true).expect("a socket");
            let client = client.clone();
            let service = service_fn(move |mut request: Request<Incoming>| {
                let target = request.uri().path_and_query().cloned();
                *request.uri_mut() = Uri::builder()
                    .scheme("http")
                    .authority(upstream.to_string())
                    .path_and_query(target.expect("a path"))
                    .build()
                    .expect("an address and a path");
                client.request(request)
            });
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    });
    address
}

async fn upstream() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let body = Bytes::from(vec![b'x'; BODY_OUT]);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            stream.set_nodelay(true).expect("a socket");
            let body = body.clone();
            let service = service_fn(move |request: Request<Incoming>| {
                let body = body.clone();
                async move {
                    let _ = request.into_body().collect().await;
                    Ok::<_, Infallible>(Response::new(Full::new(body)))
                }
            });
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    });
    address
}

/// Runs one round, and returns the requests per second and the CPU time of each in microseconds.
async fn round(address: SocketAddr, kind: Kind, connections: usize) -> (f64, f64) {
    let mut clients = Vec::new();
    for at in 0..connections {
        clients.push((client(address).await, format!("replayed-{at}")));
    }
    let (begun, used) = (Instant::now(), cpu_time());
    let asking = clients.into_iter().map(|(mut client, key)| {
        tokio::spawn(async move {
            let mut asked = 0_u32;
            while begun.elapsed() < ROUND {
                ask(&mut client, kind, &key).await;
                asked += 1;
            }
            asked
        })
    });
    let mut asked = 0;
    for client in asking.collect::<Vec<_>>() {
        asked += client.await.expect("a client");
    }
    let rate = f64::from(asked) / begun.elapsed().as_secs_f64();
    (rate, (cpu_time() - used) / f64::from(asked))
}

/// The microseconds that this process has used, in ticks of ten milliseconds. Zero where there is no
/// `/proc`.
fn cpu_time() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The name of the program, in parentheses, may have spaces.
    let fields = stat.rsplit(") ").next().unwrap_or_default();
    let ticks = |at| fields.split(' ').nth(at)?.parse::<f64>().ok();
    let used = ticks(11).zip(ticks(12));
    used.map_or(0.0, |(user, system)| (user + system) * 10_000.0)
}

async fn client(address: SocketAddr) -> SendRequest<Full<Bytes>> {
    let stream = TcpStream::connect(address).await.expect("a sidecar");
    stream.set_nodelay(true).expect("a socket");
    let (client, connection) = handshake(TokioIo::new(stream)).await.expect("a connection");
    tokio::spawn(connection);
    client
}

async fn ask(client: &mut SendRequest<Full<Bytes>>, kind: Kind, key: &str) {
    static BODY: [u8; BODY_IN] = [b'y'; BODY_IN];
    let request = Request::builder()
        .uri("/orders/7/capture")
        .header("host", "shop.example")
        .header("x-api-key", "alice")
        .header("content-type", "application/json");
    let body = Full::new(Bytes::from_static(&BODY));
    let request = match kind {
        Kind::Get => request.body(Full::default()),
        Kind::Post => request.method("POST").body(body),
        Kind::First | Kind::Observed => {
            let key = KEYS.fetch_add(1, Ordering::Relaxed).to_string();
            request
                .method("POST")
                .header("idempotency-key", key)
                .body(body)
        }
        Kind::Replay => request
            .method("POST")
            .header("idempotency-key", key)
            .body(body),
    };
    client.ready().await.expect("an open connection");
    let answer = client.send_request(request.expect("a request"));
    let answer = answer.await.expect("an answer");
    assert_eq!(answer.status(), 200);
    let body = answer.into_body().collect().await.expect("a whole answer");
    assert_eq!(body.to_bytes().len(), BODY_OUT);
}
