//! What requests that wait cost, as the process of a server shows it: no more than
//! `max_buffered_bytes` and a fifth, and a little for each request, beyond what the same requests
//! cost without keys. The server has a process of its own.

#![cfg(all(feature = "memory", target_os = "linux"))]

use std::fs;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::serve::ListenerExt;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::task::JoinSet;
use tower_idempotency::options::OnInFlight;
use tower_idempotency::{IdempotencyLayer, MemoryStore, scope};

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

/// Tells the server's process its `max_buffered_bytes`.
const SERVE: &str = "HELD_BODIES_SERVE";

/// A body for which the read buffer of a connection grows.
const LARGE: usize = 600 * KIB;

/// How much of a connection's buffers is known to have grown.
const LEAST_GROWN: usize = 200 * KIB;

/// How many connections have the requests over HTTP/2, and what comes between their bodies.
const HTTP2_CONNECTIONS: usize = 4;
const BETWEEN: usize = 24 * KIB;

/// What a request that waits costs beside its body: its head, its future in a build
/// without optimization, its timer, and where its execution would come from.
const EACH: usize = 5 * KIB + KIB / 4;

/// Requests, each on a connection of its own, that all wait.
struct Load {
    name: &'static str,
    requests: usize,
    /// How much each of them announces, and how much of it is not sent.
    body: usize,
    missing: usize,
    /// They all have the same key, and the first one runs.
    one_key: bool,
    http2: bool,
}

const WAITERS: Load = Load {
    name: "requests_that_wait_for_another_cost_no_more_memory_than_max_buffered_bytes",
    requests: 512,
    body: 2 * KIB,
    missing: 0,
    one_key: true,
    http2: false,
};

const HTTP2_WAITERS: Load = Load {
    name: "requests_that_wait_cost_no_more_than_their_bodies_over_http2",
    http2: true,
    ..WAITERS
};

const ONE_BYTE_SHORT: Load = Load {
    name: "bodies_that_lack_a_byte_cost_no_more_memory_than_max_buffered_bytes",
    requests: 32,
    body: MIB,
    missing: 1,
    one_key: false,
    http2: false,
};

/// A handler reads its body and drops it. With `x-hold` it never responds; `/read` tells how many
/// bytes all handlers have read.
fn serve(max_buffered_bytes: usize) {
    let layer = IdempotencyLayer::builder(MemoryStore::new(), scope::shared())
        .max_buffered_bytes(max_buffered_bytes)
        .defaults(|options| options.on_in_flight(OnInFlight::Wait(Duration::from_secs(60))))
        .build()
        .unwrap();
    let read = Arc::new(AtomicUsize::new(0));
    let handler = async move |request: Request| {
        if request.uri().path() == "/read" {
            return read.load(Ordering::SeqCst).to_string();
        }
        let holds = request.headers().contains_key("x-hold");
        let mut body: Body = request.into_body();
        while let Some(Ok(frame)) = body.frame().await {
            read.fetch_add(frame.data_ref().map_or(0, Bytes::len), Ordering::SeqCst);
        }
        drop(body);
        if holds {
            std::future::pending::<()>().await;
        }
        String::new()
    };
    let app = Router::new().fallback(handler).layer(layer);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.unwrap().block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        println!("\naddress {}", listener.local_addr().unwrap());
        let listener = listener.tap_io(|stream| stream.set_nodelay(true).unwrap());
        axum::serve(listener, app).await.unwrap();
    });
}

/// A server in a process of its own.
struct Server {
    process: Child,
    address: SocketAddr,
    _said: BufReader<ChildStdout>,
}

impl Server {
    fn start(load: &Load) -> Self {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", load.name, "--nocapture"])
            .env(SERVE, (load.requests * load.body).to_string())
            // A large buffer that is freed leaves the process at once, so that what the process
            // has is what is held.
            .env("MALLOC_MMAP_THRESHOLD_", "65536")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = BufReader::new(process.stdout.take().unwrap());
        let mut line = String::new();
        while !line.starts_with("address ") {
            line.clear();
            assert!(said.read_line(&mut line).unwrap() > 0, "the server ended");
        }
        let address = line["address ".len()..].trim().parse().unwrap();
        Self {
            process,
            address,
            _said: said,
        }
    }

    /// The resident memory of the server's process, once it has not changed for a while.
    fn resident(&self) -> usize {
        let now = || {
            let status = fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap();
            let line = status.lines().find(|line| line.starts_with("VmRSS:"));
            let kib = line.unwrap().split_whitespace().nth(1).unwrap();
            kib.parse::<usize>().unwrap() * KIB
        };
        let (mut last, mut steady) = (now(), 0);
        while steady < 6 {
            sleep(Duration::from_millis(50));
            let next = now();
            steady = if next.abs_diff(last) < 64 * KIB {
                steady + 1
            } else {
                0
            };
            last = next;
        }
        last
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        stream
    }

    fn read(&self) -> usize {
        let answer = exchange(
            &mut self.connect(),
            "GET /read HTTP/1.1\r\nhost: a\r\n",
            0,
            0,
        );
        answer.rsplit('\n').next().unwrap().parse().unwrap()
    }
}

impl Server {
    /// Waits until all requests wait: there is no room for another body, or handlers have read all
    /// bytes that were sent.
    fn wait_for(&self, with_keys: bool, sent: usize) {
        if !with_keys {
            return until(|| self.read() == sent);
        }
        let mut probe = 0;
        until(|| {
            probe += 1;
            let head = format!("POST /a HTTP/1.1\r\nhost: a\r\nidempotency-key: probe-{probe}\r\n");
            exchange(&mut self.connect(), &head, 1, 0).contains("over-capacity")
        });
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

fn send(stream: &mut TcpStream, head: &str, length: usize, missing: usize) {
    let head = format!("{head}content-length: {length}\r\n\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(&vec![b'x'; length - missing]).unwrap();
}

/// The response to a request, whose head and body come in one piece.
fn exchange(stream: &mut TcpStream, head: &str, length: usize, missing: usize) -> String {
    send(stream, head, length, missing);
    let mut answer = [0; 4 * KIB];
    let read = stream.read(&mut answer).unwrap();
    String::from_utf8(answer[..read].to_vec()).unwrap()
}

fn until(mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !is_so() {
        assert!(Instant::now() < end, "it takes too long");
        sleep(Duration::from_millis(10));
    }
}

/// How the memory of a server grows that has read a large body on each connection: by a request on
/// each that waits.
fn growth(load: &Load, with_keys: bool) -> usize {
    let server = Server::start(load);
    let fresh = server.resident();
    let mut streams: Vec<_> = (0..load.requests).map(|_| server.connect()).collect();
    let mut sent = 0;
    for stream in &mut streams {
        let answer = exchange(stream, "POST /a HTTP/1.1\r\nhost: a\r\n", LARGE, 0);
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        sent += LARGE;
    }
    let idle = server.resident();
    assert!(
        idle - fresh > load.requests * LEAST_GROWN,
        "read buffers have not grown"
    );
    let note = "n".repeat(200);
    for (at, stream) in streams.iter_mut().enumerate() {
        let key = match (with_keys, load.one_key) {
            (false, _) => String::new(),
            (true, true) => "idempotency-key: one\r\n".to_owned(),
            (true, false) => format!("idempotency-key: {at}\r\n"),
        };
        let head = format!("POST /a HTTP/1.1\r\nhost: a\r\nx-hold: 1\r\nx-note: {note}\r\n{key}");
        send(stream, &head, load.body, load.missing);
        sent += load.body - load.missing;
    }
    server.wait_for(with_keys, sent);
    let waiting = server.resident().saturating_sub(idle);
    for stream in &mut streams {
        stream.set_nonblocking(true).unwrap();
        let answered = stream.read(&mut [0; 100]).map_err(|error| error.kind());
        assert_eq!(answered, Err(ErrorKind::WouldBlock), "they all wait");
    }
    println!("{} KiB, and {} KiB more", idle / KIB, waiting / KIB);
    waiting
}

/// The same over HTTP/2, where a few connections have all the requests, and the data of other
/// requests come between theirs.
async fn growth_by_http2(load: &Load, with_keys: bool) -> usize {
    let server = Server::start(load);
    let mut connections = Vec::new();
    for _ in 0..HTTP2_CONNECTIONS {
        let stream = tokio::net::TcpStream::connect(server.address).await;
        let stream = stream.unwrap();
        stream.set_nodelay(true).unwrap();
        let stream = TokioIo::new(stream);
        let (sender, connection) = http2::handshake(TokioExecutor::new(), stream)
            .await
            .unwrap();
        tokio::spawn(connection);
        connections.push(sender);
    }
    let request = |length: usize| {
        let body = Full::new(Bytes::from(vec![b'x'; length]));
        hyper::Request::post("http://a/a").body(body).unwrap()
    };
    for sender in &mut connections {
        let response = sender.send_request(request(LARGE)).await.unwrap();
        assert_eq!(response.status(), 200);
    }
    let idle = server.resident();
    let mut sent = HTTP2_CONNECTIONS * LARGE;
    let mut waiting = JoinSet::new();
    for at in 0..load.requests {
        let sender = &mut connections[at % HTTP2_CONNECTIONS];
        let before = sender.send_request(request(BETWEEN));
        let mut waits = request(load.body);
        waits.headers_mut().insert("x-hold", "1".parse().unwrap());
        if with_keys {
            let key = "one".parse().unwrap();
            waits.headers_mut().insert("idempotency-key", key);
        }
        waiting.spawn(sender.send_request(waits));
        let after = sender.send_request(request(BETWEEN));
        assert_eq!(before.await.unwrap().status(), 200);
        assert_eq!(after.await.unwrap().status(), 200);
        sent += load.body + 2 * BETWEEN;
    }
    server.wait_for(with_keys, sent);
    let grown = server.resident().saturating_sub(idle);
    assert!(waiting.try_join_next().is_none(), "they all wait");
    println!("{} KiB, and {} KiB more", idle / KIB, grown / KIB);
    grown
}

fn costs_what_its_bodies_count(load: &Load) {
    if let Ok(max_buffered_bytes) = std::env::var(SERVE) {
        return serve(max_buffered_bytes.parse().unwrap());
    }
    let run = |with_keys| {
        if !load.http2 {
            return growth(load, with_keys);
        }
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build();
        runtime.unwrap().block_on(growth_by_http2(load, with_keys))
    };
    let bodies = load.requests * load.body;
    let limit = bodies * 6 / 5 + load.requests * EACH;
    // How far the server's own buffers grow differs from run to run where the machine is busy. What
    // the layer holds does not.
    let mut cost = usize::MAX;
    for _ in 0..3 {
        let [without, with] = std::thread::scope(|threads| {
            let runs = [false, true].map(|with_keys| threads.spawn(move || run(with_keys)));
            runs.map(|run| run.join().unwrap())
        });
        cost = with.saturating_sub(without);
        println!("{}: {} KiB of {} KiB", load.name, cost / KIB, limit / KIB);
        if cost <= limit {
            break;
        }
    }
    assert!(cost <= limit, "{cost} bytes, not {limit}");
    assert!(cost > bodies * 4 / 5, "{cost} bytes: nothing is held");
}

#[test]
fn requests_that_wait_cost_no_more_than_their_bodies_over_http2() {
    costs_what_its_bodies_count(&HTTP2_WAITERS);
}

#[test]
fn requests_that_wait_for_another_cost_no_more_memory_than_max_buffered_bytes() {
    costs_what_its_bodies_count(&WAITERS);
}

#[test]
fn bodies_that_lack_a_byte_cost_no_more_memory_than_max_buffered_bytes() {
    costs_what_its_bodies_count(&ONE_BYTE_SHORT);
}
