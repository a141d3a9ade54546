//! Digesting a large body takes long, and holds up no request of another caller.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use axum::Router;
use axum::http::StatusCode;
use axum::routing::post;
use tokio::net::TcpListener;
use tokio::runtime;
use tower_idempotency::options::{FingerprintBody, JsonFingerprint};

use tower_idempotency::{IdempotencyLayer, MemoryStore, scope};

/// One test at a time measures.
static MEASURING: Mutex<()> = Mutex::new(());

const LARGE: usize = 1 << 20;
const CONNECTIONS: usize = 8;
const WINDOW: Duration = Duration::from_millis(200);
const WINDOWS: usize = 3;

/// Objects whose names differ late and are not sorted.
fn slow_json() -> String {
    let members = (0_u32..).map(|number| {
        let name = number.wrapping_mul(0x9e37_79b1);
        format!("\"\\u0061aaaaaaaaa{name:x}\":1e9")
    });
    let mut body = String::from("{\"first\":0");
    for member in members {
        if body.len() + member.len() + 2 > LARGE {
            return body + "}";
        }
        body += ",";
        body += &member;
    }
    unreachable!("there is always another member")
}

/// One connection of a caller.
struct Connection {
    socket: TcpStream,
    caller: &'static str,
    sent: usize,
}

impl Connection {
    fn open(server: SocketAddr, caller: &'static str) -> Self {
        let socket = TcpStream::connect(server).unwrap();
        socket.set_nodelay(true).unwrap();
        Self {
            socket,
            caller,
            sent: 0,
        }
    }

    /// Sends a first request with this body, and waits for its response.
    fn send(&mut self, body: &[u8]) {
        self.sent += 1;
        let key = format!("{:?}-{}", thread::current().id(), self.sent);
        let (caller, length) = (self.caller, body.len());
        let head = format!(
            "POST / HTTP/1.1\r\nhost: x\r\nidempotency-key: {key}\r\nx-api-key: {caller}\r\n\
             content-type: application/json\r\ncontent-length: {length}\r\n\r\n"
        );
        self.socket.write_all(head.as_bytes()).unwrap();
        self.socket.write_all(body).unwrap();
        let mut response = Vec::new();
        while !response.ends_with(b"\r\n\r\n") {
            let mut some = [0; 1024];
            let read = self.socket.read(&mut some).unwrap();
            assert_ne!(read, 0, "the connection ended");
            response.extend_from_slice(&some[..read]);
        }
        assert!(response.starts_with(b"HTTP/1.1 204 "), "{response:?}");
    }
}

/// The requests that one caller gets answered alone, and beside eight connections of another
/// caller that send `body` again and again.
fn rates(server: SocketAddr, body: &[u8]) -> (usize, usize) {
    let (flooding, over) = (AtomicBool::new(false), AtomicBool::new(false));
    let busy = AtomicUsize::new(0);
    let flood = || {
        let mut connection = Connection::open(server, "bad");
        while !over.load(Ordering::SeqCst) {
            if flooding.load(Ordering::SeqCst) {
                busy.fetch_add(1, Ordering::SeqCst);
                connection.send(body);
                busy.fetch_sub(1, Ordering::SeqCst);
            } else {
                thread::sleep(Duration::from_millis(1));
            }
        }
    };
    thread::scope(|threads| {
        for _ in 0..CONNECTIONS {
            threads.spawn(flood);
        }
        let mut good = Connection::open(server, "good");
        let mut answered_within = |window| {
            let from = Instant::now();
            let mut answered = 0;
            while from.elapsed() < window {
                good.send(b"{\"amount\":1}");
                answered += 1;
            }
            answered
        };
        answered_within(Duration::from_millis(20));
        let (mut alone, mut beside) = (0, 0);
        // In turns, so that what else the machine does falls on both.
        for _ in 0..WINDOWS {
            while busy.load(Ordering::SeqCst) > 0 {
                thread::sleep(Duration::from_millis(1));
            }
            alone += answered_within(WINDOW);
            flooding.store(true, Ordering::SeqCst);
            while busy.load(Ordering::SeqCst) < CONNECTIONS {
                thread::sleep(Duration::from_millis(1));
            }
            beside += answered_within(WINDOW);
            flooding.store(false, Ordering::SeqCst);
        }
        over.store(true, Ordering::SeqCst);
        (alone, beside)
    })
}

fn half_of_the_rate_is_kept(fingerprint: FingerprintBody, body: &[u8]) {
    let _measuring = MEASURING.lock().unwrap_or_else(PoisonError::into_inner);
    let layer = IdempotencyLayer::builder(MemoryStore::new(), scope::header("x-api-key"))
        .defaults(|options| options.fingerprint_body(fingerprint));
    let app = Router::new()
        .route("/", post(|| async { StatusCode::NO_CONTENT }))
        .layer(layer.build().unwrap());
    let runtime = runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
    let server = listener.local_addr().unwrap();
    let serving = runtime.spawn(async { axum::serve(listener, app).await });
    // Other programs on the machine may get in the way.
    let kept = (0..3).any(|_| {
        let (alone, beside) = rates(server, body);
        println!("{alone} requests alone, {beside} beside large bodies");
        beside * 2 >= alone
    });
    assert!(kept, "more than half of the rate was lost");
    serving.abort();
    runtime.shutdown_background();
}

#[test]
fn large_json_of_one_caller_leaves_another_half_its_rate() {
    let json = FingerprintBody::Json(JsonFingerprint::new());
    half_of_the_rate_is_kept(json, slow_json().as_bytes());
}

#[test]
fn large_bodies_of_one_caller_leave_another_half_its_rate() {
    half_of_the_rate_is_kept(FingerprintBody::Bytes, &vec![b'x'; LARGE]);
}
