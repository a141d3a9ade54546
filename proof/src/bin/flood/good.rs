//! The good caller sends requests at a steady rate, whether or not the ones before have
//! a response (an open loop), and notes what becomes of each.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::BoxError;
use crate::wire::{self, Response};

/// How many requests the good caller sends in a second.
pub(crate) const RATE: u32 = 100;
/// A response that takes longer does not count for the rate.
pub(crate) const IN_TIME: Duration = Duration::from_secs(1);
/// A response that takes longer is none.
const PATIENCE: Duration = Duration::from_secs(10);
/// How many of its latest operations the caller asks for again: fewer than an eighth of the
/// records that the store may keep, which is what one other caller leaves.
const KEPT: usize = 100;
/// How many requests go over one connection. New connections have to be accepted too.
const PER_CONNECTION: u32 = 20;
const CALLER: &str = "Bearer good";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    First,
    Replay,
    /// One of two requests with one key at almost the same time: the second waits for
    /// the outcome of the first.
    Pair,
    /// A request without a key, which the sidecar passes on unread (G8).
    Plain,
}

/// What became of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The response that the caller should get; for a replay the recorded one, byte by byte.
    Right,
    /// The response of another operation, or of a second execution.
    Wrong,
    Refused(u16),
    /// No whole response.
    Failed,
}

#[derive(Clone, Debug)]
pub(crate) struct Sample {
    pub(crate) at: Instant,
    pub(crate) kind: Kind,
    pub(crate) took: Duration,
    pub(crate) end: End,
}

/// The good caller while it sends.
#[derive(Debug)]
pub(crate) struct Good {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<Sample>>,
}

/// A recorded operation: its key and its body.
type Recorded = (String, Vec<u8>);

#[derive(Debug)]
struct Caller {
    sidecar: SocketAddr,
    idle: Mutex<Vec<Connection>>,
    recorded: Mutex<VecDeque<Recorded>>,
    samples: Mutex<Vec<Sample>>,
}

#[derive(Debug)]
struct Connection {
    stream: TcpStream,
    requests: u32,
}

impl Good {
    /// Starts a thread of its own, so that no attack takes its time.
    pub(crate) fn start(sidecar: SocketAddr) -> Result<Self, BoxError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || runtime.block_on(send(sidecar, &stopped)));
        Ok(Self { stop, thread })
    }

    /// Ends the caller, once each request has its end.
    pub(crate) fn stop(self) -> Result<Vec<Sample>, BoxError> {
        // Relaxed: the samples come with the end of the thread.
        self.stop.store(true, Ordering::Relaxed);
        self.thread
            .join()
            .map_err(|_| "the good caller has panicked".into())
    }
}

async fn send(sidecar: SocketAddr, stop: &AtomicBool) -> Vec<Sample> {
    let caller = Arc::new(Caller {
        sidecar,
        idle: Mutex::default(),
        recorded: Mutex::default(),
        samples: Mutex::default(),
    });
    let mut ticks = interval(Duration::from_secs(1) / RATE);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut requests = JoinSet::new();
    let mut number = 0;
    while !stop.load(Ordering::Relaxed) {
        ticks.tick().await;
        requests.spawn(Arc::clone(&caller).note(number));
        number += 1;
        while requests.try_join_next().is_some() {}
    }
    requests.join_all().await;
    std::mem::take(&mut *lock(&caller.samples))
}

impl Caller {
    /// Sends one request, and notes its end.
    async fn note(self: Arc<Self>, number: usize) {
        let (kind, asked) = self.choose(number);
        let at = Instant::now();
        let request = match (kind, &asked) {
            (Kind::Plain, _) => wire::request("GET /plain", CALLER, None, b""),
            (Kind::Pair, _) => post("/brief", &key(number / 2 * 2)),
            (_, Some((key, _))) => post("/orders", key),
            (_, None) => post("/orders", &key(number)),
        };
        let sent = timeout(PATIENCE, self.exchange(&request)).await;
        let took = at.elapsed();
        let end = match sent {
            Ok(Ok(response)) => self.judge(number, kind, asked, response),
            Ok(Err(_)) | Err(_) => End::Failed,
        };
        lock(&self.samples).push(Sample {
            at,
            kind,
            took,
            end,
        });
    }

    /// Of ten requests one has no key, two are a pair, and three are replays: of the
    /// operation that is returned.
    fn choose(&self, number: usize) -> (Kind, Option<Recorded>) {
        match number % 10 {
            0 => (Kind::Plain, None),
            4 | 5 => (Kind::Pair, None),
            2 | 6 | 8 => {
                let recorded = lock(&self.recorded);
                // The stride reaches old and new operations alike.
                let at = (number * 61) % recorded.len().max(1);
                match recorded.get(at) {
                    Some(recorded) => (Kind::Replay, Some(recorded.clone())),
                    None => (Kind::First, None),
                }
            }
            _ => (Kind::First, None),
        }
    }

    fn judge(&self, number: usize, kind: Kind, asked: Option<Recorded>, response: Response) -> End {
        match (kind, response.status, asked) {
            (Kind::Plain, 200, _) | (Kind::Pair, 201, _) => End::Right,
            (Kind::First, 201, _) if !response.is_replay => {
                let mut recorded = lock(&self.recorded);
                if recorded.len() == KEPT {
                    recorded.pop_front();
                }
                recorded.push_back((key(number), response.body));
                End::Right
            }
            (Kind::Replay, 201, Some((_, body))) if response.is_replay && body == response.body => {
                End::Right
            }
            (_, 200..300, _) => End::Wrong,
            (_, status, _) => End::Refused(status),
        }
    }

    async fn exchange(&self, request: &[u8]) -> io::Result<Response> {
        let idle = lock(&self.idle).pop();
        let mut connection = match idle {
            Some(connection) => connection,
            None => Connection {
                stream: TcpStream::connect(self.sidecar).await?,
                requests: 0,
            },
        };
        connection.stream.write_all(request).await?;
        let response = wire::response(&mut connection.stream).await?;
        connection.requests += 1;
        if connection.requests < PER_CONNECTION && !response.closes {
            lock(&self.idle).push(connection);
        }
        Ok(response)
    }
}

fn key(number: usize) -> String {
    format!("good-{number}")
}

fn post(path: &str, key: &str) -> Vec<u8> {
    let body = format!("{{\"item\":\"{key}\",\"note\":\"{}\"}}", "x".repeat(256));
    let target = format!("POST {path}");
    wire::request(&target, CALLER, Some(key), body.as_bytes())
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
