//! Each client asks for its operation until the client has a recorded response, and
//! sometimes leaves early.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rand::RngExt;
use rand::rngs::StdRng;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::history::{Asked, Clock, Seen, Stage, What};
use super::plan::{Operation, draws};
use super::wire::{Connection, LeaveAt, Read};

/// At most this many operations run at once, each with up to three clients.
const AT_ONCE: usize = 256;
/// Every response takes less time than this.
const ENOUGH: Duration = Duration::from_secs(30);
const ATTEMPTS: usize = 9;

/// `Clients` holds what the clients of one round share.
#[derive(Debug)]
pub(crate) struct Clients {
    pub(crate) seed: u64,
    pub(crate) address: SocketAddr,
    pub(crate) clock: Clock,
    history: Mutex<Vec<Seen>>,
    idle: Mutex<Vec<Connection>>,
}

impl Clients {
    pub(crate) fn new(seed: u64, address: SocketAddr, clock: Clock) -> Self {
        Self {
            seed,
            address,
            clock,
            history: Mutex::default(),
            idle: Mutex::default(),
        }
    }

    /// Returns what the clients saw. The clients' connections are closed.
    pub(crate) fn into_history(self) -> Vec<Seen> {
        self.history
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs these operations, and calls `done` after each.
    pub(crate) async fn run(
        self: &Arc<Self>,
        operations: std::ops::Range<u32>,
        done: impl Fn() + Clone + Send + 'static,
    ) {
        let next = Arc::new(AtomicU32::new(operations.start));
        let mut lanes = JoinSet::new();
        // A short soak runs fewer operations at once, so that a slow build can
        // serve them.
        for _ in 0..(operations.len() / 10).clamp(64, AT_ONCE) {
            let (clients, next, done) = (Arc::clone(self), Arc::clone(&next), done.clone());
            let end = operations.end;
            lanes.spawn(async move {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= end {
                        return;
                    }
                    clients.operation(Operation(number)).await;
                    done();
                }
            });
        }
        join(lanes).await;
    }

    async fn operation(self: &Arc<Self>, operation: Operation) {
        let mut draws = draws(self.seed, b'o', operation.0.into(), 0);
        let clients = match draws.random_range(0..10) {
            0..6 => 1,
            6..9 => 2,
            _ => 3,
        };
        let mut all = JoinSet::new();
        for client in 0..clients {
            let own = Arc::clone(self);
            all.spawn(async move { own.client(operation, client).await });
        }
        join(all).await;
    }

    async fn client(&self, operation: Operation, client: usize) {
        let mut draws = draws(self.seed, b'c', operation.0.into(), client as u64);
        if client > 0 {
            pause(&mut draws, 25).await;
        }
        let mut confirms = draws.random_bool(0.35);
        for attempt in 0..ATTEMPTS {
            let other = draws.random_bool(0.01);
            let asked = if other { Asked::Other } else { Asked::Own };
            let sent = self.clock.now();
            let what = self.ask(operation, asked, &mut draws).await;
            let settled = match &what {
                What::Answer(answer) => answer.is_recorded(),
                What::Refused { code, .. } => {
                    !["in-flight", "store-unavailable"].contains(&code.as_str()) && !other
                }
                What::Hung => true,
                What::Cut(_) | What::Left(_) => false,
            };
            let waits = matches!(what, What::Refused { .. });
            self.history().push(Seen {
                operation: operation.0,
                client,
                asked,
                sent,
                ended: self.clock.now(),
                what,
            });
            if settled && !std::mem::take(&mut confirms) {
                return;
            }
            pause(&mut draws, if waits { 16 << attempt.min(5) } else { 12 }).await;
        }
    }

    /// Sends one request, and returns how the request ended.
    async fn ask(&self, operation: Operation, asked: Asked, draws: &mut StdRng) -> What {
        let body = operation.body(asked);
        let head = format!(
            "POST {} HTTP/1.1\r\nhost: soak\r\nx-api-key: {}\r\nidempotency-key: {}\r\n\
             te: trailers\r\ncontent-length: {}\r\n\r\n",
            operation.path(),
            operation.caller(),
            operation.key(),
            body.len(),
        );
        let idle = self.idle().pop();
        let mut connection = match idle {
            Some(connection) => connection,
            None => match Connection::open(self.address).await {
                Ok(connection) => connection,
                Err(_) => return What::Hung,
            },
        };
        let resets = draws.random_bool(0.75);
        let leaves = draws.random_range(0..100);
        let all = head + &body;
        if leaves < 4 {
            let before_its_end = all.len() - draws.random_range(1..=body.len());
            let _ = connection.send(&all.as_bytes()[..before_its_end]).await;
            pause(draws, 5).await;
            return leave(connection, resets, Stage::BeforeTheBody);
        }
        if connection.send(all.as_bytes()).await.is_err() {
            return What::Cut(None);
        }
        if leaves < 12 {
            let longest = if leaves == 4 { 900 } else { 50 };
            pause(draws, longest).await;
            return leave(connection, resets, Stage::WhileItRuns);
        }
        let (at, patience) = match leaves {
            12..18 => (LeaveAt::Somewhere, ENOUGH),
            18..23 => (LeaveAt::TheLastByte, ENOUGH),
            23..28 => (
                LeaveAt::Never,
                Duration::from_millis(draws.random_range(10..400)),
            ),
            _ => (LeaveAt::Never, ENOUGH),
        };
        match timeout(patience, connection.read(at)).await {
            Ok(Read::Whole(whole)) => {
                if whole.leaves_open() {
                    self.idle().push(connection);
                }
                whole.seen()
            }
            Ok(Read::Cut(head)) => What::Cut(head.and_then(|head| head.execution())),
            Ok(Read::Left) if at == LeaveAt::TheLastByte => {
                leave(connection, resets, Stage::BeforeTheLastByte)
            }
            Ok(Read::Left) => leave(connection, resets, Stage::InTheAnswer),
            Err(_) if patience < ENOUGH => leave(connection, resets, Stage::AfterATimeout),
            Err(_) => What::Hung,
        }
    }

    fn history(&self) -> std::sync::MutexGuard<'_, Vec<Seen>> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Connection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn leave(connection: Connection, resets: bool, stage: Stage) -> What {
    if resets {
        connection.reset();
    }
    What::Left(stage)
}

async fn pause(draws: &mut StdRng, longest: u64) {
    sleep(Duration::from_millis(draws.random_range(0..=longest))).await;
}

/// A client that panics is a bug of this program, so the panic continues here.
async fn join(mut tasks: JoinSet<()>) {
    while let Some(task) = tasks.join_next().await {
        task.expect("clients don't panic");
    }
}
